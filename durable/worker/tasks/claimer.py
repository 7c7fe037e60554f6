"""Takes activities from queues, as many as this worker has room for.

It looks when something was committed elsewhere, when the next one is due, when a place
has become free though more wait, soon after a look that has failed, and once per half a
lease in any case. What it may have taken without hearing so it looks for first: nobody
else takes that as long as this worker lives.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Mapping
from typing import Final

from durable import limits
from durable.api.registry import Registry
from durable.errors import CommitUnknownError, LeaseLostError, StoreError
from durable.store.activity_tasks import (
    ActivityTaskRecord,
    ClaimActivityTasks,
    TakeExpiredTasks,
)
from durable.store.queries import NextActivityTaskAt
from durable.store.store import Store
from durable.worker.runner import Runner
from durable.worker.tasks.executor import TaskExecutor

# Workers that wait for the same instant do not all ask at it.
_JITTER_SECONDS: Final = 0.02
# A rate is kept up only by who comes in time.
_PACE_JITTER_SECONDS: Final = 0.002
_SLEEP_SECONDS_MAX: Final = 60.0
# A look that has failed is repeated after this long.
_AGAIN_MICROSECONDS: Final = 1_000_000
# That others have configured a queue may go unheard so long, until there is news.
_HEED_SECONDS: Final = limits.LEASE_SECONDS / 4
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
        self._heeded_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0
        self._is_looking = self._look_again = self._has_news = False
        self._jitter = random.Random()  # noqa: S311 - it spreads, and hides nothing
        self._is_short = False
        """There is no room for some types."""
        self._is_in_doubt = False
        """The answer to what has taken some was lost."""
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
                if self._is_in_doubt:
                    await self._executor.find_taken()
                    self._is_in_doubt = False
                if self._has_news:
                    self._has_news = False
                    await self._executor.find_cancelled()
                    loop_time = asyncio.get_running_loop().time()
                    if loop_time >= self._heeded_at + _HEED_SECONDS:
                        await self._heed_queues()
                if not await self._take() and not self._look_again:
                    return
        except LeaseLostError as error:
            self._lease_lost(error.worker_id)
        except StoreError as error:
            self._is_in_doubt |= isinstance(error, CommitUnknownError)
            self._arm(self._store.now() + _AGAIN_MICROSECONDS, _JITTER_SECONDS)
            raise
        finally:
            self._is_looking = False

    async def _heed_queues(self) -> None:
        self._heeded_at = asyncio.get_running_loop().time()
        await self._executor.heed_queues()

    async def _take(self) -> bool:
        """Take what is due; whether there may be more that there is room for."""
        runner, read = self._runner, self._store.read
        runner.pool.when_free = None
        wanted = self._wanted()
        configured, asked_at = runner.terms.configured, self._store.now()
        expires_at, *instants = await asyncio.gather(
            read(NextActivityTaskAt(())),
            *(
                read(NextActivityTaskAt((one,), asked_at))
                if one[0] in configured
                else read(NextActivityTaskAt((one,)))
                for one in wanted
            ),
        )
        now = self._store.now()
        if expires_at is not None and expires_at <= now:
            taken = TakeExpiredTasks(limit=limits.CLAIM_TASKS_MAX)
            await self._executor.judge(await self._store.perform(taken))
            return True
        due = [
            one
            for one, at in zip(wanted, instants, strict=True)
            if at is not None and at <= now
        ]
        has_more = False
        for queue, _ in due:
            # What others had taken of a configured queue, they tell when they end it.
            has_more |= bool(await self._claim(queue)) or queue not in configured
        if has_more:
            return True  # the next look finds out what is left
        found = [at for at in (expires_at, *instants) if at is not None and at > now]
        jitter = _PACE_JITTER_SECONDS if configured else _JITTER_SECONDS
        self._arm(min(found, default=None), jitter)
        return False

    async def _claim(self, queue: str) -> int:
        """Take from a queue as much as there is room for now; say how many."""
        types, room = self._types_and_room()
        limit = min(room, self._queues[queue] - self._executor.count(queue))
        if types == () or limit <= 0:
            return 0
        terms = self._runner.terms
        claim = ClaimActivityTasks(queues=((queue, types),), limit=limit)
        claimed: tuple[ActivityTaskRecord, ...] = await self._store.perform(claim)
        if terms is self._runner.terms:  # else by a worker that is none any more
            self._executor.begin(claimed, terms)
        if not claimed and queue not in terms.configured:
            await self._heed_queues()
        return len(claimed)

    def _wanted(self) -> list[_Queue]:
        """Queues, and their types, that there is room for."""
        types, room = self._types_and_room()
        count = self._executor.count
        wanted: list[_Queue] = [
            (queue, types)
            for queue, slots in self._queues.items()
            if room > 0 and types != () and count(queue) < slots
        ]
        if self._is_short or len(wanted) < len(self._queues):
            self._runner.pool.when_free = self.look  # more may be due then
        # What several queues share goes to another one first each time.
        self._jitter.shuffle(wanted)
        return wanted

    def _types_and_room(self) -> tuple[tuple[str, ...] | None, int]:
        """The types that there is room for, None for any; and for how many of them."""
        free = self._runner.pool.room().free
        lanes = {lane for lane, left in free.items() if left > 0}
        activities = self._registry.activities.values()
        found = [one for one in activities if one.lane in lanes]
        self._is_short = len(found) < len(activities)
        used = {one.lane for one in found} | {"loop"}
        room = min(limits.CLAIM_TASKS_MAX, *(free[lane] for lane in used))
        if not self._is_short and any(one.runs_as.dynamic for one in found):
            return None, room
        return tuple(sorted(one.name for one in found)), room

    def _arm(self, next_at: int | None, jitter: float) -> None:
        """Look again at that instant, a little later than others perhaps."""
        if next_at is None or not self.is_open:
            return
        if self._timer is not None:
            if self._timer_at <= next_at:
                return
            self._timer.cancel()
        self._timer_at = next_at
        delay = max(0, next_at - self._store.now()) / 1_000_000
        delay += self._jitter.uniform(0, jitter) if delay else 0
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(delay, _SLEEP_SECONDS_MAX), self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.look()
