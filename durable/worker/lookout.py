"""Finds work: due runs, runs that nobody owns, mail, and workers that are dead.

All of it is reading the store and telling the worker which runs to go on with. Work is
looked for when something was committed elsewhere, when the next instant is due, and
once per half a lease in any case.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from durable import limits
from durable.api.registry import Registry
from durable.errors import LeaseLostError
from durable.store.queries import (
    CountUnowned,
    FindDueRuns,
    FindLostRuns,
    FindMailedRuns,
    FindNextWakeUp,
    ListWorkers,
)
from durable.store.records import Claimed, ClaimRuns, ReapWorkers
from durable.store.store import Store
from durable.worker.process import host_identity, is_dead
from durable.worker.runner import Runner

_log: Final = logging.getLogger("durable.worker")
_STUCK_RETRY_MICROSECONDS: Final = 5_000_000
# Due runs that are being committed are looked at again after this long.
_BUSY_MICROSECONDS: Final = 20_000
# The loop's clock and the store's may drift apart over a long wait.
_SLEEP_SECONDS_MAX: Final = 60.0


class Lookout:
    """Looks for the work of one worker.

    Args:
        runner: goes on with what is found.
        lease_lost: told that a worker's lease is gone.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        runner: Runner,
        lease_lost: Callable[[str], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._runner = runner
        self._lease_lost = lease_lost
        self._is_open = True
        self._is_seeking = False
        self._seek_again = False
        self._stuck_at: dict[str, int] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: int | None = None
        self._patrol: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Take over what dead workers left, take what nobody owns, watch the time."""
        try:
            await self.take_over()
        except LeaseLostError as error:
            # The process was paused as it began: it joins again, and takes over then.
            self._lease_lost(error.worker_id)
        await self._arm()
        self._schedule_patrol()

    def stop(self) -> None:
        """Look for nothing more."""
        self._is_open = False
        for timer in (self._timer, self._patrol):
            if timer is not None:
                timer.cancel()

    async def take_over(self) -> None:
        """Reap dead workers and claim runs without an owner."""
        await self._reap()
        await self._claim()

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
        try:
            read = self._store.read
            while True:
                self._seek_again = False
                types = tuple(self._registry.workflows)
                if types and await read(CountUnowned(types)) > 0:
                    await self._claim()
                for run_id in await read(FindLostRuns(self._runner.working_runs())):
                    self._runner.run_lost(run_id)
                for run_id in await read(FindMailedRuns(limits.LOAD_RUNS_MAX)):
                    if not self._was_stuck_just_now(run_id):
                        self._runner.mail(run_id)
                if not self._seek_again:
                    return
        finally:
            self._is_seeking = False

    def was_stuck(self, run_id: str) -> None:
        """A run has just been parked."""
        self._stuck_at[run_id] = self._store.now()

    def _was_stuck_just_now(self, run_id: str) -> bool:
        """Whether a stuck run was tried a moment ago; mail must not make it spin."""
        stuck_at = self._stuck_at.pop(run_id, None)
        if stuck_at is None:
            return False
        if self._store.now() - stuck_at >= _STUCK_RETRY_MICROSECONDS:
            return False
        self._stuck_at[run_id] = stuck_at
        return True

    async def _claim(self) -> None:
        while True:
            types = tuple(self._registry.workflows)
            if not types:
                return
            claimed: Claimed = await self._store.perform(
                ClaimRuns(workflow_types=types, limit=limits.LOAD_RUNS_MAX)
            )
            self._runner.wake(claimed.ready)
            if claimed.count < limits.LOAD_RUNS_MAX:
                break
        self.wake_by(self._store.now())

    async def _reap(self) -> None:
        """Take the runs of workers that are dead, by lease or by process id."""
        host = host_identity()
        dead = tuple(
            worker.worker_id
            for worker in await self._store.read(ListWorkers())
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

    def _schedule_patrol(self) -> None:
        """Look for dead workers and unowned runs once per half a lease."""
        self._patrol = asyncio.get_running_loop().call_later(
            limits.LEASE_SECONDS / 2, self._start_patrol
        )

    def _start_patrol(self) -> None:
        self._runner.spawn(self._do_patrol())
        self._schedule_patrol()

    async def _do_patrol(self) -> None:
        await self._reap()
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
        now = self._store.now()
        due = await self._store.read(FindDueRuns(now, limits.LOAD_RUNS_MAX))
        fresh = [run_id for run_id in due if not self._runner.is_busy(run_id)]
        self._runner.wake(fresh)
        if fresh and len(due) == limits.LOAD_RUNS_MAX:
            self.wake_by(now)
        elif due:
            # Their commits move them on; look again soon for what came due meanwhile.
            self.wake_by(now + _BUSY_MICROSECONDS)
        else:
            await self._arm()

    async def _arm(self) -> None:
        wake_at = await self._store.read(FindNextWakeUp())
        if wake_at is not None:
            self.wake_by(wake_at)
