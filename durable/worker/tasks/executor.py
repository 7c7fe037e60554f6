"""Runs the activities that a worker has claimed, in the pool that runs all others.

What becomes of one is decided in `durable.runs.activity_tasks`; here its end is written
and its function is begun and stopped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from durable import limits
from durable.core.history.payload import Failure
from durable.errors import (
    ActivityNotFoundError,
    AttemptOverError,
    CorruptHistoryError,
    DurableError,
    LeaseLostError,
)
from durable.observer import WorkerObserver
from durable.runs import inputs
from durable.runs.activity_tasks import holding, outside
from durable.runs.activity_tasks.endings import request_id_of
from durable.runs.activity_tasks.holding import HeldTask, TaskEffects
from durable.runs.activity_tasks.judging import judge
from durable.runs.activity_tasks.pausing import PAUSED, goes_on, pause_task
from durable.runs.live_run import Attempt, LiveRun, Terms
from durable.store.activity_tasks import (
    ActivityTaskRecord,
    CancelArrived,
    SettleActivityTask,
    TaskKey,
    TaskState,
)
from durable.store.queries import (
    FindActivityTask,
    FindCancelledTasks,
    FindRun,
    ListActivityTasks,
    ReadQueues,
    TaskFilter,
)
from durable.store.store import Store
from durable.worker import log_lines
from durable.worker.activities import observing
from durable.worker.activities.activity_pool import ActivityPool
from durable.worker.runner import Runner

_log: Final = logging.getLogger("durable.worker")
# An end that the database could not take is written again after this long.
_AGAIN_SECONDS: Final = 1.0


class TaskExecutor:
    """The activities that one worker has claimed.

    Args:
        runner: has the runs that are in memory here, and may wait for what ends.
        wake_by: looks for due runs no later than an instant.
        lease_lost: told that the worker's lease is gone.
        settled: called when one has left memory, and its queue has a free place.

    Attributes:
        held: those, by run and event.
    """

    def __init__(
        self,
        store: Store,
        runner: Runner,
        namespace: str,
        *,
        wake_by: Callable[[int], None],
        observer: Callable[[], WorkerObserver | None],
        lease_lost: Callable[[str], None],
        settled: Callable[[], None],
    ) -> None:
        self._store = store
        self._runner = runner
        self._namespace = namespace
        self._wake_by = wake_by
        self._observer = observer
        self._lease_lost = lease_lost
        self._settled = settled
        self.held: dict[TaskKey, HeldTask] = {}

    def feed(self, run: LiveRun, given: inputs.AnyInput) -> None:
        """Tell whoever has an attempt what became of it: its run, or what is held."""
        if type(run) is LiveRun:
            self._runner.feed(run, given)
        else:
            held: Any = run  # a `HeldTask` in its place
            now = self._store.now()
            if type(given) is inputs.AttemptExternal and held.attempt.is_over:
                _tell(given.token, is_done=False)
            self._carry_out(held, holding.handle(held, given, now))

    def _carry_out(self, held: HeldTask, effects: TaskEffects) -> None:
        if effects.settle is not None:
            self._submit(held, effects.settle)
        if effects.refused is not None:
            _tell(effects.refused, is_done=False)
        if effects.beat is not None:
            self._store.submit(effects.beat, partial(self._beaten, held))
        end = effects.end
        if end is not None:
            if end.failure is not None and end.decision is not None:
                log_lines.log_failed_attempt(end.attempt, end.failure, end.decision)
            observer = self._observer()
            if observer is not None:
                observing.attempt_closed(observer, end, self._store.now())
        if effects.let_go:
            self._pool.let_go(held.attempt)
        elif effects.stop:
            is_closed = held.attempt.is_over and held.cancel is not None
            self._pool.stop(held.attempt, is_closed=is_closed)

    @property
    def _pool(self) -> ActivityPool:
        return self._runner.pool

    # --- beginning --------------------------------------------------------------------

    def begin(self, records: Iterable[ActivityTaskRecord], terms: Terms) -> None:
        """Run what was claimed in terms of that worker."""
        now = self._store.now()
        for record in records:
            try:
                held = holding.hold(record, terms)
            except CorruptHistoryError as error:
                # It stays claimed as long as this worker lives: no one can run it.
                _log.error("%s It is not run.", error)
                continue
            self.held[record.key] = held
            if terms.is_draining:  # the claim was on its way when the drain began
                self.feed(held.attempt.run, inputs.AttemptLeft(held.attempt))
            elif held.data.is_run_paused:
                self._runner.spawn(self._begin_if_resumed(held))
            else:
                self._pool.begin(held.attempt, now)

    async def _begin_if_resumed(self, held: HeldTask) -> None:
        started = held.started
        run = await self._store.read(
            FindRun(started.namespace, started.workflow_id, started.run_id)
        )
        now = self._store.now()
        if not goes_on(run):
            self._carry_out(held, holding.stays_paused(held, now))
        elif self.held.get(held.record.key) is held and not held.attempt.is_over:
            holding.not_paused(held)
            self._pool.begin(held.attempt, now)

    async def pause_tasks(self, run_id: str) -> None:
        """Keep what others may take of a run that is paused from beginning."""
        namespace, after = self._namespace, None
        while True:
            where = TaskFilter(run_id=run_id, after=after, limit=limits.LIST_PAGE_MAX)
            found = await self._store.read(ListActivityTasks(namespace, where))
            for record in found:
                operation = pause_task(record, self._store.now())
                if operation is not None:
                    await self._store.perform(operation)
            if len(found) < limits.LIST_PAGE_MAX:
                return
            after = found[-1].key

    async def find_taken(self) -> None:
        """Run, and judge, what this worker has taken though it did not hear so."""
        terms, after = self._runner.terms, None
        while terms is self._runner.terms:
            before = {*self.held}  # what ends meanwhile may be read as it was
            where = TaskFilter(after=after, limit=limits.LIST_PAGE_MAX)
            found = await self._store.read(ListActivityTasks(self._namespace, where))
            taken = [
                one
                for one in found
                if one.state is TaskState.CLAIMED and one.worker_id == terms.worker_id
            ]
            known = before | {*self.held}
            self.begin((one for one in taken if one.key not in known), terms)
            await self.judge(one for one in found if one.judge_id == terms.worker_id)
            if len(found) < limits.LIST_PAGE_MAX:
                return
            after = found[-1].key

    async def heed_queues(self) -> None:
        """See which queues are configured: what they give out has rows."""
        found = await self._store.read(ReadQueues(self._namespace))
        terms, names = self._runner.terms, frozenset(queue.name for queue in found)
        is_more, terms.configured = bool(names - terms.configured), names
        if is_more:
            self._pool.offer_waiting()

    def count(self, task_queue: str) -> int:
        """How many of a queue are held."""
        held = self.held.values()
        return sum(one.record.task_queue == task_queue for one in held)

    # --- ends -------------------------------------------------------------------------

    def _submit(self, held: HeldTask, operation: SettleActivityTask) -> None:
        self._store.submit(operation, partial(self._written, held, operation))

    def _written(
        self,
        held: HeldTask,
        operation: SettleActivityTask,
        result: Any,
        error: BaseException | None,
    ) -> None:
        record = held.record
        if self.held.get(record.key) is not held:
            _tell(held.waiting, is_done=False)
            return  # it was forgotten meanwhile
        if isinstance(error, LeaseLostError):
            self._lease_lost(error.worker_id)
            return
        if error is not None and not isinstance(error, AttemptOverError):
            if not log_lines.is_told(error):
                _log.error(
                    "How activity %r of run %r ended is not recorded yet: %s",
                    record.activity_type,
                    held.workflow_id,
                    error,
                )
            loop = asyncio.get_running_loop()
            loop.call_later(_AGAIN_SECONDS, self._submit, held, operation)
            return
        if isinstance(result, CancelArrived):
            following = holding.settled(held, result, self._store.now())
            if following is not None:
                if following.next is None:
                    _tell(held.waiting, is_done=False)
                self._submit(held, following)
                return
        del self.held[record.key]
        _tell(held.waiting, is_done=error is None)
        if error is None and operation.message is not None:
            self._told(record.run_id)
        self._settled()

    def _beaten(
        self, held: HeldTask, reason: str | None, error: BaseException | None
    ) -> None:
        if isinstance(error, LeaseLostError):
            self._lease_lost(error.worker_id)
        elif isinstance(error, AttemptOverError) and not held.attempt.is_over:
            # Somebody outside has ended it, or its run was repaired.
            self.held.pop(held.record.key, None)
            self._carry_out(held, holding.forget(held))
        elif error is None and reason is not None:
            self._carry_out(held, holding.stop(held, reason))

    def _told(self, run_id: str) -> None:
        """A run has a message: it is in memory here, or whoever is due takes it."""
        if run_id in self._runner.runs:
            self._runner.mail(run_id)
        else:
            self._wake_by(self._store.now())

    def fail_outside(self, attempt: Attempt, failure: Failure) -> None:
        """The function of an attempt has raised that somebody outside was to complete.

        So nobody may have its token: it has failed, unless it was completed already.
        """
        self._runner.spawn(self._fail_outside(attempt, failure))

    async def _fail_outside(self, attempt: Attempt, failure: Failure) -> None:
        run_id, number = attempt.run.run_id, attempt.scheduled_event_id
        record = await self._store.read(FindActivityTask(run_id, number))
        if record is None or record.attempt != attempt.attempt:
            return
        operation = outside.fail(
            record,
            failure,
            attempt=record.attempt,
            request_id=request_id_of(record),
            identity=self._runner.terms.worker_id,
            now=self._store.now(),
        )
        try:
            await self._store.perform(operation)
        except (AttemptOverError, ActivityNotFoundError):
            return
        if operation.message is not None:
            self._told(run_id)
        self._settled()

    # --- cancels ----------------------------------------------------------------------

    async def find_cancelled(self) -> None:
        """Ask what is to stop of what is held."""
        if not self.held:
            return
        before = [*self.held.values()]
        found = await self._store.read(FindCancelledTasks())
        reasons = {(*one[:2], one.attempt): one.reason for one in found}
        for held in before:
            reason = reasons.get((*held.record.key, held.record.attempt))
            if reason is not None:
                self._carry_out(held, holding.stop(held, reason))
            elif held.cancel == PAUSED and not held.attempt.is_over:
                holding.not_paused(held)

    def forget_all(self) -> None:
        """Leave everything to others: the lease is gone."""
        held, self.held = self.held, {}
        for one in held.values():
            self._carry_out(one, holding.forget(one))

    # --- judging ----------------------------------------------------------------------

    async def judge(self, records: Iterable[ActivityTaskRecord]) -> None:
        """Say what becomes of what has expired, or was lost."""
        await asyncio.gather(*map(self._judge, records))

    async def _judge(self, record: ActivityTaskRecord) -> None:
        worker_id = self._runner.terms.worker_id
        while worker_id == self._runner.terms.worker_id and self._runner.has_lease:
            try:
                operation = judge(record, self._store.now())
                await self._store.perform(operation)
            except AttemptOverError:
                return
            except LeaseLostError as error:
                self._lease_lost(error.worker_id)
                return
            except CorruptHistoryError as error:
                _log.error("%s Nobody can say what becomes of it.", error)
                return
            except DurableError as error:
                # Nobody else judges it while this worker has its lease.
                if not log_lines.is_told(error):
                    _log.error("An activity that has expired is not ended: %s", error)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                if operation.message is not None:
                    self._told(record.run_id)
                return


def _tell(token: asyncio.Future[bool] | None, *, is_done: bool) -> None:
    if token is not None and not token.done():
        token.set_result(is_done)
