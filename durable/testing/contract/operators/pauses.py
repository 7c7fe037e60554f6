"""What the store's contract says of runs that are paused."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from durable.core.history.payload import paused_by
from durable.search.conditions import Condition
from durable.search.run_fields import Run
from durable.store.queries import FindNextWakeUp, FindStuckRuns, SearchRuns
from durable.store.records import NEVER, ParkRun
from durable.testing.contract.rows import (
    CLAIM,
    NAMESPACE,
    make_message,
    make_owned,
)

if TYPE_CHECKING:
    from durable.testing.contract.rows import Opened

PAUSED = msgspec.json.encode(paused_by("50% off")).decode()
STUCK = msgspec.json.encode({"message": "paused", "kind": "application"}).decode()


class PauseContract:
    """Runs that are set aside until somebody resumes them."""

    async def test_paused_run_is_nobodys_and_never_due(self, store: Opened) -> None:
        await store.perform(make_owned("r"))

        await store.perform(ParkRun(run_id="r", stuck=PAUSED, wake_at=NEVER))

        record = (await store.load("r")).record
        assert (record.owner, record.stuck, record.wake_at) == (None, PAUSED, NEVER)
        assert await store.perform(CLAIM) == {}
        tried = msgspec.structs.replace(CLAIM, stuck_after="")
        assert await store.perform(tried) == {}
        assert await store.read(FindStuckRuns(("order",), "", 10)) == []
        assert await store.read(FindNextWakeUp(("order",))) is None

    @pytest.mark.parametrize("kind", ["signal", "update", "cancel", "child", "pause"])
    async def test_message_waits_and_wakes_no_paused_run(
        self, store: Opened, kind: str
    ) -> None:
        await store.perform(make_owned("r"))
        await store.perform(ParkRun(run_id="r", stuck=PAUSED, wake_at=NEVER))

        await store.perform(make_message("r", "m", kind=kind))

        assert await store.perform(CLAIM) == {}
        assert await store.waiting("r") == ["m"]
        assert (await store.load("r")).record.stuck == PAUSED

    async def test_message_to_resume_it_wakes_a_paused_run(self, store: Opened) -> None:
        await store.perform(make_owned("r"))
        await store.perform(ParkRun(run_id="r", stuck=PAUSED, wake_at=NEVER))
        await store.perform(make_message("r", "m", kind="signal"))

        await store.perform(make_message("r", "go", kind="resume"))

        assert list(await store.perform(CLAIM)) == ["r"]
        assert (await store.load("r")).record.stuck is None
        assert await store.waiting("r") == ["m", "go"]

    async def test_run_that_was_resumed_before_it_was_set_aside_is_due(
        self, store: Opened
    ) -> None:
        await store.together(make_owned("r"), make_message("r", "go", kind="resume"))

        await store.perform(ParkRun(run_id="r", stuck=PAUSED, wake_at=NEVER))

        assert list(await store.perform(CLAIM)) == ["r"]

    async def test_paused_and_stuck_runs_are_found_apart(self, store: Opened) -> None:
        await store.together(make_owned("a"), make_owned("b"), make_owned("c"))
        await store.perform(ParkRun(run_id="a", stuck=PAUSED, wake_at=NEVER))
        await store.perform(ParkRun(run_id="b", stuck=STUCK))

        async def find(where: Condition) -> list[str]:
            found = await store.read(SearchRuns(NAMESPACE, where))
            return sorted(record.run_id for record in found)

        assert await find(Run.paused == True) == ["a"]  # noqa: E712 - a condition
        assert await find(Run.stuck == True) == ["b"]  # noqa: E712 - a condition
        assert await find(Run.paused == False) == ["b", "c"]  # noqa: E712 - as above
        assert await find(Run.stuck == False) == ["a", "c"]  # noqa: E712 - as above
