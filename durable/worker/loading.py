"""Brings runs into memory: reads them, replays them, takes up what was under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from typing import Any, Final, Protocol

from durable import limits
from durable.core.codec import decode_rows
from durable.core.events import WorkflowExecutionStarted
from durable.core.payload import Failure
from durable.core.workflow_task import TaskFailureKind, WorkflowTask
from durable.errors import (
    CorruptHistoryError,
    DatabaseUnavailableError,
    StoreError,
)
from durable.store.queries import LoadRuns
from durable.store.records import LoadedRun, RunRecord, RunStatus
from durable.store.store import Store
from durable.worker.live_run import LiveRun
from durable.worker.restoring import event_of_message, first_event
from durable.worker.workflow_tasks import WorkflowTasks

_log: Final = logging.getLogger("durable.worker")
_RETRY_SECONDS: Final = 1.0
_RETRY_SECONDS_MAX: Final = 60.0


class Host(Protocol):
    """What loading runs asks of the worker around it."""

    worker_id: str

    @property
    def is_open(self) -> bool:
        """Whether the worker still works."""
        ...

    def find(self, run_id: str) -> LiveRun | None:
        """The run, if it is in memory."""
        ...

    def enter(self, run: LiveRun) -> None:
        """Keep a run in memory."""
        ...

    def new_run(
        self,
        started: WorkflowExecutionStarted,
        started_at: int,
        parent_close_policy: str | None = None,
    ) -> LiveRun:
        """A live run that begins with this event."""
        ...

    def take_up(self, run: LiveRun, loaded: LoadedRun) -> None:
        """Go on with a run that was just caught up."""
        ...

    def mail(self, run_id: str) -> None:
        """A message for this run was committed."""
        ...

    def knows(self, workflow_type: str) -> bool:
        """Whether the worker can drive runs of that type."""
        ...

    def give_up(self, run: LiveRun) -> None:
        """Leave a run of an unknown type to a worker that knows it."""
        ...

    def closed_elsewhere(self, run_id: str) -> None:
        """The run was closed by a write that is not this worker's."""
        ...

    def drop(self, run: LiveRun) -> None:
        """Take the run out of memory."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a step in the background; its errors are logged."""
        ...


class Loader:
    """Loads the runs of one worker."""

    def __init__(self, store: Store, host: Host, *, max_tries: int) -> None:
        self._store = store
        self._host = host
        self._max_tries = max_tries
        self.loading: set[str] = set()
        # Mail that came while its run was being read, perhaps too late for that read.
        self._mailed: set[str] = set()

    def load(self, run_ids: Iterable[str], tasks: WorkflowTasks) -> int:
        """Begin to load those that are not being loaded; return how many they are."""
        ids = [run_id for run_id in run_ids if run_id not in self.loading]
        self.loading.update(ids)
        for start in range(0, len(ids), limits.LOAD_RUNS_MAX):
            part = ids[start : start + limits.LOAD_RUNS_MAX]
            self._host.spawn(self._load(part, tasks))
        return len(ids)

    def forget_all(self) -> None:
        """Let what is being read go by: it was asked for under a lease that is gone."""
        self.loading = set()
        self._mailed = set()

    def mailed(self, run_id: str) -> None:
        """Mail came for a run that is being loaded."""
        self._mailed.add(run_id)

    async def _load(self, run_ids: list[str], tasks: WorkflowTasks) -> None:
        loading, worker_id = self.loading, self._host.worker_id
        try:
            loaded = await self._read(run_ids)
        finally:
            loading.difference_update(run_ids)
        if loading is not self.loading:
            return  # whoever has the runs now reads them anew
        mailed = self._mailed.intersection(run_ids)
        self._mailed -= mailed
        for index, one in enumerate(loaded):
            if self._host.worker_id != worker_id:
                return
            if self._host.is_open and self._host.find(one.record.run_id) is None:
                self._enter(one, tasks)
            if index % 16 == 15:
                await asyncio.sleep(0)  # other work goes on between replays
        for run_id in mailed:
            if self._host.find(run_id) is not None:
                self._host.mail(run_id)

    async def _read(self, run_ids: list[str]) -> list[LoadedRun]:
        """Read runs; nobody else would, so try until the database answers.

        What no database would ever answer concerns one of them: it gets its reason.
        """
        delay = _RETRY_SECONDS
        while True:
            try:
                return await self._store.read(LoadRuns(run_ids))
            except StoreError as error:
                if not isinstance(error, DatabaseUnavailableError):
                    return await self._read_apart(run_ids, error)
                _log.error(
                    "%d runs could not be read (%s); trying again in %g s.",
                    len(run_ids),
                    error,
                    delay,
                )
                await asyncio.sleep(delay)
                delay = min(2 * delay, _RETRY_SECONDS_MAX)

    async def _read_apart(
        self, run_ids: list[str], error: StoreError
    ) -> list[LoadedRun]:
        if len(run_ids) == 1:
            return [_unreadable(run_ids[0], self._host.worker_id, error)]
        return [one for run_id in run_ids for one in await self._read([run_id])]

    def _enter(self, loaded: LoadedRun, tasks: WorkflowTasks) -> None:
        host, record = self._host, loaded.record
        if record.status is not RunStatus.RUNNING or record.owner != host.worker_id:
            return
        run = host.new_run(_not_read_yet(record), record.started_at)
        host.enter(run)
        if host.knows(record.workflow_type) or record.damage is not None:
            self._catch_up(run, loaded, tasks)
        else:
            host.give_up(run)

    def _catch_up(self, run: LiveRun, loaded: LoadedRun, tasks: WorkflowTasks) -> None:
        """Replay what the store holds, restore what was under way, go on."""
        record = loaded.record
        run.is_active, run.wake_at = record.is_active, record.wake_at
        run.is_parked = record.stuck is not None
        try:
            if record.damage is not None:
                raise CorruptHistoryError(record.damage)
            _check_checkpoint(loaded)
            history = decode_rows(loaded.rows)
            started = first_event(history, run)
            for message in loaded.messages:
                event_of_message(message)
        except CorruptHistoryError as error:
            failure = Failure(message=str(error), type=type(error).__name__)
            tasks.park(run, failure)
            return
        policy = record.parent_close_policy
        fresh = self._host.new_run(started, history[0].time, policy)
        run.started, run.parent_close_policy = started, policy
        run.replayer, run.headers = fresh.replayer, fresh.headers
        run.task_headers = fresh.headers
        run.deadline_at, run.deadline_type = fresh.deadline_at, fresh.deadline_type
        run.started_at = fresh.started_at
        completion = tasks.process(
            run, WorkflowTask(self._store.now(), (), history, is_replay_only=True)
        )
        if completion.failure is None:
            self._host.take_up(run, loaded)
            return
        problem = completion.failure
        hopeless = problem.kind is TaskFailureKind.NONDETERMINISM
        run.failed_tries += 1
        if hopeless and run.replayer.fails_on(problem.error):
            tasks.fail_run(run, loaded.messages, history, problem.failure)
        elif hopeless or run.failed_tries >= self._max_tries:
            tasks.park(run, completion.failure.failure)
        else:
            self.reload(run, tasks)

    def reload(self, run: LiveRun, tasks: WorkflowTasks) -> None:
        """Read the run's history again; keep its inputs and attempts."""
        if run.is_committing:
            run.wants_reload = True
            return
        if run.is_dropped or run.is_closed:
            return
        run.wants_reload = False
        run.is_committing = True  # nothing else may drive it meanwhile
        self._host.spawn(self._reload(run, tasks))

    async def _reload(self, run: LiveRun, tasks: WorkflowTasks) -> None:
        if run.refusals > 1:  # as long as writes fail, so will the next
            await asyncio.sleep(_RETRY_SECONDS)
        loaded = await self._read([run.run_id])
        run.is_committing = False
        run.replayer.tear_down()
        if run.is_dropped or not self._host.is_open:
            return
        if not loaded or loaded[0].record.status is not RunStatus.RUNNING:
            self._host.closed_elsewhere(run.run_id)
        elif loaded[0].record.owner != self._host.worker_id:
            self._host.drop(run)
        else:
            self._catch_up(run, loaded[0], tasks)


def _check_checkpoint(loaded: LoadedRun) -> None:
    """Without the row at which its replay begins, a run would begin all over again.

    Raises:
        CorruptHistoryError: there is no such row.
    """
    record, rows = loaded.record, loaded.rows
    if record.checkpoint_event_id > 1 and (
        len(rows) < 2 or rows[1][1] != record.checkpoint_event_id
    ):
        raise CorruptHistoryError(
            f"The row of run {record.run_id!r} names event"
            f" {record.checkpoint_event_id} as its newest checkpoint, and its history"
            " holds no such event."
        )


def _unreadable(run_id: str, owner: str, error: StoreError) -> LoadedRun:
    """Stands for an own run of which nothing can be read."""
    record = RunRecord(
        namespace="",
        workflow_id=run_id,
        run_id=run_id,
        workflow_type="",
        task_queue="",
        status=RunStatus.RUNNING,
        started_at=0,
        first_run_id=run_id,
        request_id=run_id,
        owner=owner,
        damage=error.message,
    )
    return LoadedRun(record=record, rows=[], messages=[], attempts=[])


def _not_read_yet(record: RunRecord) -> WorkflowExecutionStarted:
    """Stands for a run's first event until its history was read."""
    return WorkflowExecutionStarted(
        workflow_type=record.workflow_type,
        input=(),
        task_queue=record.task_queue,
        workflow_id=record.workflow_id,
        run_id=record.run_id,
        first_run_id=record.first_run_id,
        request_id=record.request_id,
    )
