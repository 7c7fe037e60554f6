"""How a worker does, for probes: what it has, and whether its database answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from durable import limits
from durable.errors import DurableError
from durable.observer import QueueState
from durable.store.queries import ListWorkers, QueueBacklog, ReadBacklog
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
        processes: processes for activities that there are; they begin when they are
            needed.
        lost_processes: how many of them have died, and were not ended by the worker.
        activity_queues: task queues that it serves for activities alone, and how many
            of each run at once.
    """

    worker_id: str
    task_queue: str
    status: Literal["running", "draining"]
    live_runs: int
    running_activities: int
    capacity: int
    lease_seconds_left: float
    is_database_reachable: bool
    processes: int = 0
    lost_processes: int = 0
    activity_queues: Mapping[str, int] = {}

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


class Backlog:
    """Looks what waits in the database, again and again, for who observes a worker.

    However many ask, it is read once in a while. What is old is told no more: while the
    database does not answer, nobody knows.
    """

    def __init__(self, store: Store, namespace: str, task_queue: str) -> None:
        self._store = store
        self._namespace = namespace
        self._task_queue = task_queue
        self._found: tuple[QueueState, ...] = ()
        self._read_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[None] | None = None

    def queues(self) -> tuple[QueueState, ...]:
        """What was found just now; any thread may ask."""
        age = time.monotonic() - self._read_at
        return self._found if age <= limits.BACKLOG_SECONDS_MAX else ()

    def start(self) -> None:
        """Look now, and every now and then."""
        loop = asyncio.get_running_loop()
        if self._look is None or self._look.done():  # else the database is slow
            self._look = loop.create_task(self._find())
        self._timer = loop.call_later(limits.BACKLOG_SECONDS, self.start)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._look is not None:
            self._look.cancel()

    async def _find(self) -> None:
        now = self._store.now()
        try:
            found = await self._store.read(ReadBacklog(self._namespace, now))
        except DurableError:  # whoever works will meet it, and say
            return
        if all(one.task_queue != self._task_queue for one in found):
            # Of the worker's own it is told that nothing waits.
            found = [*found, QueueBacklog(self._task_queue, 0, None, 0)]
        self._found = tuple(
            QueueState(
                self._namespace,
                one.task_queue,
                one.runs,
                0 if one.oldest_at is None else max(0, now - one.oldest_at),
                one.stuck,
            )
            for one in found
        )
        self._read_at = time.monotonic()


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
