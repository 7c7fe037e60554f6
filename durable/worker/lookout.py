"""Finds work: due runs, runs that nobody owns, mail, and workers that are dead.

All of it is reading the store and telling the worker which runs to go on with. Work is
looked for when something was committed elsewhere, when the next instant is due, and
once per half a lease in any case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from durable import limits
from durable.api.registry import Registry
from durable.errors import LeaseLostError
from durable.runs.inputs import Harmed
from durable.store.queries import (
    FindClosedRuns,
    FindDueRuns,
    FindDueVersions,
    FindMailedRuns,
    FindNextWakeUp,
    FindStuckRuns,
    FindStuckVersions,
    ListWorkers,
    NextRunTurnAt,
    Query,
)
from durable.store.records import (
    NEVER,
    ClaimRuns,
    ReapWorkers,
    ReleaseRuns,
    WorkerRecord,
)
from durable.store.store import Store
from durable.worker.process import host_identity, is_dead
from durable.worker.runner import Runner

_log: Final = logging.getLogger("durable.worker")
# Due runs that are being committed are looked at again after this long.
_BUSY_MICROSECONDS: Final = 20_000
# Runs are taken for so long in advance: the others' turn comes if this worker is slow.
_AHEAD_SECONDS: Final = 0.05
_FIRST_CLAIM: Final = 16
_GROWTH: Final = 4
# So many times as long as looking took it rests, if there is more to look for.
_PAUSE_OF_SEEKING: Final = 2
# The loop's clock and the store's may drift apart over a long wait.
_SLEEP_SECONDS_MAX: Final = 60.0


class Lookout:
    """Looks for the work of one worker.

    Args:
        runner: goes on with what is found.
        lease_lost: told that a worker's lease is gone.
        look_for_tasks: others have committed something: there may be activities for
            anyone to take, or to stop.
        read_defaults: others may have changed those of the namespace.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        runner: Runner,
        lease_lost: Callable[[str], None],
        look_for_tasks: Callable[[], None],
        read_defaults: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._registry = registry
        self._runner = runner
        self._lease_lost = lease_lost
        self._look_for_tasks = look_for_tasks
        self._read_defaults = read_defaults
        self._is_open = True
        self._is_seeking = False
        self._seek_again = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: int | None = None
        self._patrol: asyncio.TimerHandle | None = None
        self._is_waiting_for_loader = False
        runner.loader.when_idle = self._loaded
        self._claim_size = _FIRST_CLAIM
        self._claimed = 0
        self._claimed_at = 0.0
        self._parked_here: set[str] = set()
        self._stuck_after = ""
        self._compatible: set[tuple[str, str]] = set()

    async def start(self) -> None:
        """Take over what dead workers left, take what nobody owns, watch the time."""
        try:
            await self.take_over()
        except LeaseLostError as error:
            # The process was paused as it began: it joins again, and takes over then.
            self._lease_lost(error.worker_id)
        self._schedule_patrol()

    def stop(self) -> None:
        """Look for nothing more."""
        self._is_open = False
        for timer in (self._timer, self._patrol):
            if timer is not None:
                timer.cancel()

    async def take_over(self) -> None:
        """Reap dead workers, try what is stuck once more, go on with what is due."""
        await self._reap()
        await self._find_versions()
        await self._find_stuck_versions()
        await self._try_stuck()
        self.wake_by(self._store.now())
        self._look_for_tasks()

    # --- what others have committed ---------------------------------------------------

    def changed(self) -> None:
        """Another process has committed something."""
        if self._is_open:
            if self._is_seeking:
                self._seek_again = True
            else:
                self._is_seeking = True
                self._runner.spawn(self._seek())

    async def _seek(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._is_open:
                self._seek_again = False
                self._look_for_tasks()
                began = loop.time()
                await self._find_versions()
                await self._read_defaults()
                closed, mailed, next_at = await asyncio.gather(
                    self._store.read(FindClosedRuns(self._runner.working_runs())),
                    self._store.read(FindMailedRuns(limits.LOAD_RUNS_MAX)),
                    self._next_at(),
                )
                for run_id in closed:
                    self._runner.run_closed(run_id)
                for run_id in mailed:
                    self._runner.mail(run_id)
                self._arm(next_at)
                if not self._seek_again:
                    return
                # Many others may commit all the time.
                await asyncio.sleep((loop.time() - began) * _PAUSE_OF_SEEKING)
        finally:
            self._is_seeking = False

    async def _next_at(self) -> int | None:
        """When there may be something to claim, or to go on with."""
        types, versions = self._types(), self._versions()
        next_at = await self._store.read(FindNextWakeUp(types, versions))
        if self._runner.terms.limits_runs:
            now = self._store.now()
            turn_at = await self._store.read(NextRunTurnAt(types, now, versions))
            instants = [at for at in (next_at, turn_at) if at is not None]
            return min(instants, default=None)
        return next_at

    def _types(self) -> tuple[str, ...]:
        return tuple(self._registry.workflows)

    def _versions(self) -> tuple[tuple[str, str], ...]:
        """Which versions of those this worker's code goes on with."""
        return (*self._registry.exact_versions(), *self._compatible)

    async def _find_versions(self) -> None:
        """See which versions there are that its code calls compatible.

        Those that fall due until it looks again, too.
        """
        until = self._store.now() + limits.LEASE_SECONDS * 1_000_000
        if self._runner.terms.limits_runs:
            until = NEVER  # those that wait for their turn
        await self._add_compatible(FindDueVersions(self._types(), round(until)))

    async def _find_stuck_versions(self) -> None:
        """The same for runs that are set aside: its code may be what they wait for."""
        await self._add_compatible(FindStuckVersions(self._types()))

    async def _add_compatible(self, query: Query[list[tuple[str, str]]]) -> None:
        registry = self._registry
        if registry.has_ranges:
            found = await self._store.read(query)
            exact = registry.exact_versions()
            self._compatible.update(
                (kind, version)
                for kind, version in found
                if (kind, version) not in exact
                and registry.find_workflow(kind, version) is not None
            )

    async def _claim(
        self, limit: int, stuck_after: str | None = None
    ) -> dict[str, int]:
        """Take a bounded number of runs, and go on with them."""
        types = self._types()
        if not types or not self._is_open:
            return {}
        claim = ClaimRuns(
            workflow_types=types,
            limit=limit,
            stuck_after=stuck_after,
            versions=self._versions(),
            in_turn=self._runner.terms.limits_runs and stuck_after is None,
        )
        claimed: dict[str, int] = await self._store.perform(claim)
        if self._is_open:
            self._runner.claimed(claimed)
        elif claimed:  # it was on its way when the drain began
            await self._store.perform(ReleaseRuns(run_ids=tuple(claimed)))
        return claimed

    async def _try_stuck(self) -> None:
        """Try every run once that is set aside: this worker may have right code."""
        after = ""
        while True:
            claimed = await self._claim(limits.CLAIM_RUNS_MAX, stuck_after=after)
            if len(claimed) < limits.CLAIM_RUNS_MAX:
                return
            after = max(claimed)

    def parked(self, run_id: str) -> None:
        """This worker has set the run aside: its code is not what the run needs."""
        self._parked_here.add(run_id)

    async def _try_parked(self) -> None:
        """Try every run once that another worker has set aside.

        It may have other code than this one: both are there while a release goes out.
        """
        await self._find_stuck_versions()
        runner, types, most = self._runner, self._types(), limits.LOAD_RUNS_MAX
        while self._is_open and len(self._parked_here) < limits.PARKED_RUNS_KEPT:
            query = FindStuckRuns(types, self._stuck_after, most, self._versions())
            found = await self._store.read(query)
            self._stuck_after = found[-1] if len(found) == most else ""
            untried = [run_id for run_id in found if run_id not in self._parked_here]
            for run_id in untried:
                if run_id in runner.runs:  # as it was before
                    runner.feed(runner.runs[run_id], Harmed())
            runner.wake(run_id for run_id in untried if run_id not in runner.runs)
            if not (untried and self._stuck_after):
                return

    async def _reap(self) -> None:
        """Take the runs of workers that are dead, by lease or by process id."""
        host = host_identity()
        workers = await self._store.read(ListWorkers())
        dead = tuple(
            worker.worker_id
            for worker in workers
            if worker.worker_id != self._runner.terms.worker_id
            and (
                (worker.host == host and is_dead(worker.pid, worker.process_started_at))
                # A lease that cannot be read would never end. Whoever may hold it
                # joins again.
                or (worker.damage is not None and not worker.lease_expires_at)
            )
        )
        reaped = await self._store.perform(ReapWorkers(presumed_dead=dead))
        if reaped:
            _log.info("Took over from dead workers: %s", ", ".join(reaped))
        self._look_for_others([w for w in workers if w.worker_id not in reaped])

    def _look_for_others(self, workers: list[WorkerRecord]) -> None:
        """See whether other workers serve the queue of this one."""
        terms = self._runner.terms
        places = {w.worker_id: (w.namespace, w.task_queue) for w in workers}
        own = places.pop(terms.worker_id, None)
        has_others = own in places.values()
        if has_others and not terms.has_others:
            terms.has_others = True
            self._runner.pool.offer_waiting()
        terms.has_others = has_others

    def _schedule_patrol(self) -> None:
        """Look for dead workers, parked and unowned runs once per half a lease."""
        self._patrol = asyncio.get_running_loop().call_later(
            limits.LEASE_SECONDS / 2, self._start_patrol
        )

    def _start_patrol(self) -> None:
        self._runner.spawn(self._do_patrol())
        self._schedule_patrol()

    async def _do_patrol(self) -> None:
        await self._reap()
        await self._try_parked()
        self.changed()

    # --- due runs ---------------------------------------------------------------------

    def wake_by(self, instant: int) -> None:
        """Look for due runs no later than this."""
        if not self._is_open:
            return
        if self._timer is not None:
            if self._timer_at is not None and self._timer_at <= instant:
                return
            self._timer.cancel()
        self._timer_at = instant
        delay = max(0, instant - self._store.now()) / 1_000_000
        self._timer = asyncio.get_running_loop().call_later(
            min(delay, _SLEEP_SECONDS_MAX), self._wake_due
        )

    def _wake_due(self) -> None:
        self._timer = self._timer_at = None
        self._runner.spawn(self._find_due())

    async def _find_due(self) -> None:
        now, runner = self._store.now(), self._runner
        own, next_at = await asyncio.gather(
            self._store.read(FindDueRuns(now, limits.LOAD_RUNS_MAX)),
            self._next_at(),
        )
        runner.wake([run_id for run_id in own if not runner.is_busy(run_id)])
        if next_at is None or next_at > now:
            self._arm(next_at)
            return
        may_be_more = not runner.loader.is_busy and await self._claim_some()
        if runner.loader.is_busy:
            self._is_waiting_for_loader = True
        else:
            # Their commits move them on; look again soon for what came due meanwhile.
            self.wake_by(now if may_be_more else now + _BUSY_MICROSECONDS)

    def _loaded(self) -> None:
        """Whatever was taken has begun: take more."""
        if self._is_waiting_for_loader:
            self._is_waiting_for_loader = False
            self.wake_by(self._store.now())

    async def _claim_some(self) -> bool:
        """Take as many runs as are soon begun; whether there may be more."""
        idle_since = self._runner.loader.idle_since
        if self._claimed and idle_since > self._claimed_at:
            seconds = (idle_since - self._claimed_at) / self._claimed
            self._claim_size = min(
                max(1, int(_AHEAD_SECONDS / seconds)), self._claim_size * _GROWTH
            )
        size = min(self._claim_size, limits.CLAIM_RUNS_MAX)
        self._claimed_at = asyncio.get_running_loop().time()
        self._claimed = len(await self._claim(size))
        return self._claimed == size

    def _arm(self, next_at: int | None) -> None:
        if next_at is not None:
            self.wake_by(next_at)
