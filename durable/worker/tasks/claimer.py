"""Takes activities from queues, as many as this worker has room for.

It looks when something was committed elsewhere, when the next one is due, when a place
has become free though more wait, and once per half a lease in any case.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Final

from durable import limits
from durable.api.registry import Registry
from durable.errors import LeaseLostError
from durable.store.activity_tasks import (
    ActivityTaskRecord,
    ClaimActivityTasks,
    TakeExpiredTasks,
)
from durable.store.queries import NextActivityTaskAt
from durable.store.store import Store
from durable.worker.activities.activity_pool import PoolRoom
from durable.worker.runner import Runner
from durable.worker.tasks.executor import TaskExecutor

# Workers that wait for the same instant do not all ask at it.
_JITTER_SECONDS: Final = 0.02
_SLEEP_SECONDS_MAX: Final = 60.0
_Queue = tuple[str, tuple[str, ...] | None]


class TaskClaimer:
    """Looks for the activities of one worker.

    Args:
        queues: how many activities of each queue it runs at once.
        lease_lost: told that the worker's lease is gone.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        runner: Runner,
        executor: TaskExecutor,
        queues: Mapping[str, int],
        lease_lost: Callable[[str], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._runner = runner
        self._executor = executor
        self._queues = dict(queues)
        self._lease_lost = lease_lost
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        self._is_looking = self._look_again = self._has_news = False
        self._jitter = random.Random()  # noqa: S311 - it spreads, and hides nothing
        self.is_open = False

    def stop(self) -> None:
        """Take nothing more."""
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def changed(self) -> None:
        """Others have committed something: perhaps that what runs here is to stop."""
        self._has_news = True
        self.look()

    def look(self) -> None:
        """There may be something to take."""
        if not self.is_open:
            return
        if self._is_looking:
            self._look_again = True
        else:
            self._is_looking = True
            self._runner.spawn(self._do_look())

    async def _do_look(self) -> None:
        try:
            while self.is_open and self._runner.has_lease:
                self._look_again = False
                if self._has_news:
                    self._has_news = False
                    await self._executor.find_cancelled()
                if not await self._take() and not self._look_again:
                    return
        except LeaseLostError as error:
            self._lease_lost(error.worker_id)
        finally:
            self._is_looking = False

    async def _take(self) -> bool:
        """Take what is due; whether there may be more that there is room for."""
        pool = self._runner.pool
        pool.when_free = None
        room = pool.room()
        wanted = self._wanted(room)
        if len(wanted) < len(self._queues) or 0 in room.free.values():
            pool.when_free = self.look  # something else may be due then
        queues = tuple((queue, types) for queue, types, _ in wanted)
        next_at, expires_at = await asyncio.gather(
            self._store.read(NextActivityTaskAt(queues)),
            self._store.read(NextActivityTaskAt(())),
        )
        now = self._store.now()
        if expires_at is not None and expires_at <= now:
            taken = TakeExpiredTasks(limit=limits.CLAIM_TASKS_MAX)
            await self._executor.judge(await self._store.perform(taken))
        elif next_at is None or next_at > now:
            self._arm(next_at)
            return False
        terms = self._runner.terms
        claims = [
            ClaimActivityTasks(queues=((queue, types),), limit=limit)
            for queue, types, limit in wanted
        ]
        claimed = await asyncio.gather(*map(self._store.perform, claims))
        if terms is not self._runner.terms:
            return False  # it was claimed by a worker that is none any more
        for found in claimed:
            records: tuple[ActivityTaskRecord, ...] = found
            self._executor.begin(records, terms)
        return True  # the next look finds out what is left

    def _wanted(self, room: PoolRoom) -> list[tuple[str, tuple[str, ...] | None, int]]:
        """Queues, the types that there is room for, and how much."""
        lanes = {lane for lane, free in room.free.items() if free > 0}
        if not lanes:
            return []
        activities = self._registry.activities.values()
        is_any = any(one.runs_as.dynamic for one in activities) and len(lanes) == len(
            room.free
        )
        names = tuple(sorted(one.name for one in activities if one.lane in lanes))
        types = None if is_any else names
        if types == ():
            return []
        used = {one.lane for one in activities if one.lane in lanes} | {"loop"}
        most = min(limits.CLAIM_TASKS_MAX, *(room.free[lane] for lane in used))
        wanted: list[tuple[str, tuple[str, ...] | None, int]] = []
        # What several queues share goes to another one first each time.
        queues = list(self._queues.items())
        self._jitter.shuffle(queues)
        for queue, slots in queues:
            limit = min(most, slots - self._executor.count(queue))
            if limit > 0:
                wanted.append((queue, types, limit))
                most -= limit
            if most <= 0:
                break
        return wanted

    def _arm(self, next_at: int | None) -> None:
        """Look again at that instant, a little later than others perhaps."""
        if next_at is None or not self.is_open:
            return
        if self._timer is not None:
            if self._timer_at <= next_at:
                return
            self._timer.cancel()
        self._timer_at = next_at
        delay = max(0, next_at - self._store.now()) / 1_000_000
        delay += self._jitter.uniform(0, _JITTER_SECONDS) if delay else 0
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(delay, _SLEEP_SECONDS_MAX), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.look()
