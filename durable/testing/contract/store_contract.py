"""StoreContract: what every store must do, as tests to inherit.

A store's test class derives from `StoreContract` and implements `make_store`. The
tests are coroutines: run them with pytest-asyncio in auto mode.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pytest

from durable.testing.contract.activities.claims import TaskClaimContract
from durable.testing.contract.activities.closings import TaskClosingContract
from durable.testing.contract.activities.endings import TaskEndingContract
from durable.testing.contract.activities.queues import QueueContract
from durable.testing.contract.activities.run_turns import RunTurnContract
from durable.testing.contract.commits import CommitContract
from durable.testing.contract.families import FamilyContract
from durable.testing.contract.keeping.deletions import DeletionContract
from durable.testing.contract.keeping.imports import ImportContract
from durable.testing.contract.leases import ClaimContract, LeaseContract
from durable.testing.contract.lifecycle import LifecycleContract
from durable.testing.contract.mail.deliveries import DeliveryContract
from durable.testing.contract.mail.messages import MessageContract
from durable.testing.contract.mail.outbox import OutboxContract
from durable.testing.contract.operators.pauses import PauseContract
from durable.testing.contract.operators.resets import ResetContract
from durable.testing.contract.publishing import PublishingContract
from durable.testing.contract.reads import ReadContract
from durable.testing.contract.rows import Harness, Opened
from durable.testing.contract.searching import SearchContract
from durable.testing.contract.starts import StartContract
from durable.testing.contract.versions import VersionContract

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from durable.clock import Clock
    from durable.store.store import Store


class StoreContract(
    LifecycleContract,
    StartContract,
    VersionContract,
    CommitContract,
    MessageContract,
    DeliveryContract,
    FamilyContract,
    ResetContract,
    PauseContract,
    PublishingContract,
    OutboxContract,
    LeaseContract,
    ClaimContract,
    ReadContract,
    SearchContract,
    DeletionContract,
    ImportContract,
    TaskClaimContract,
    TaskEndingContract,
    TaskClosingContract,
    QueueContract,
    RunTurnContract,
    ABC,
):
    """The contract of `durable.store.store.Store`, sentence by sentence.

    Attributes:
        shares_database: whether two stores of one test can work on one database. If
            not, the tests that need two stores are skipped.
    """

    @abstractmethod
    def make_store(self, clock: Clock, tmp_path: Path) -> Store:
        """Return a store that is not opened yet.

        All stores of one test, which is all that have the same `tmp_path`, must share
        one database.
        """

    @pytest.fixture
    async def harness(self, tmp_path: Path) -> AsyncIterator[Harness]:
        """Open and close the stores of one test."""
        harness = Harness(
            lambda clock: self.make_store(clock, tmp_path),
            shares_database=self.shares_database,
        )
        yield harness
        await harness.close()

    @pytest.fixture
    async def store(self, harness: Harness) -> Opened:
        """Open a store with a worker `w`."""
        return await harness.open("w")
