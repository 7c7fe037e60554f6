"""How a worker does, for probes: what it has, and whether its database answers."""

from __future__ import annotations

import asyncio
from typing import Final, Literal

import msgspec

from durable.errors import DurableError
from durable.store.queries import ListWorkers
from durable.store.store import Store

_ANSWER_SECONDS_MAX: Final = 2.0


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker does right now.

    Attributes:
        status: `draining` once it takes nothing more.
        live_runs: runs in memory.
        running_activities: activities that run.
        capacity: activities that may run at once.
        lease_seconds_left: how long its lease runs if it is not renewed; 0 if it is
            lost.
        is_database_reachable: whether the database has answered just now.
    """

    worker_id: str
    task_queue: str
    status: Literal["running", "draining"]
    live_runs: int
    running_activities: int
    capacity: int
    lease_seconds_left: float
    is_database_reachable: bool

    @property
    def has_lease(self) -> bool:
        """Whether its lease is renewed, as far as it knows."""
        return self.lease_seconds_left > 0

    @property
    def is_ready(self) -> bool:
        """Whether it takes work."""
        return (
            self.status == "running" and self.has_lease and self.is_database_reachable
        )


class Reachability:
    """Asks a database whether it answers: once for all who want to know meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._asking: asyncio.Task[bool] | None = None

    async def ask(self) -> bool:
        """Whether the database answers a small question soon."""
        asking = self._asking
        if asking is None or asking.done():
            asking = asyncio.get_running_loop().create_task(self._ask())
            self._asking = asking
        # It goes on after that: the next who asks may wait for the same answer.
        await asyncio.wait([asking], timeout=_ANSWER_SECONDS_MAX)
        return asking.done() and not asking.cancelled() and asking.result()

    async def _ask(self) -> bool:
        try:
            await self._store.read(ListWorkers())
        except DurableError:
            return False
        return True

    def stop(self) -> None:
        """Wait for no answer any more."""
        if self._asking is not None:
            self._asking.cancel()
