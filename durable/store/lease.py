"""How a process enters and leaves as a worker: operations that only a store submits.

They travel through the same queue as everything else, so that they take effect in
order with the fenced operations around them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from durable import limits
from durable.store.records import WorkerRecord

LEASE_MICROSECONDS: Final = round(limits.LEASE_SECONDS * 1_000_000)
# Three chances before the lease ends.
RENEWAL_SECONDS: Final = limits.LEASE_SECONDS / 3
# After a renewal that the database could not take just now.
RETRY_SECONDS: Final = 0.25


class RegisterWorker(msgspec.Struct, frozen=True):
    """Enter the worker and give it a lease. Result: its `WorkerRecord`."""

    worker: WorkerRecord
    lost: Callable[[], None]


class DrainWorker(msgspec.Struct, frozen=True):
    """Say in the worker's row that it drains; fenced. Result: None.

    Raises (as outcome):
        LeaseLostError: this worker's lease is gone, or it never had one.
    """


class ReleaseWorker(msgspec.Struct, frozen=True):
    """Remove the worker; leave its runs at rest, its tasks lost. Result: None."""
