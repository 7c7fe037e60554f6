"""The worker: owns runs, keeps some of them live, loads those that have work.

It builds the parts (workflow tasks, activity tasks, watchdog), starts and drains them,
and answers their calls. A run that only waits is a row in the store and nothing here.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import msgspec

from durable import limits
from durable.api.registry import Registry
from durable.core.codec import decode_rows, encode_event
from durable.core.events import (
    ActivityTaskScheduled,
    Attributes,
    HistoryEvent,
    WorkflowExecutionStarted,
)
from durable.core.payload import Failure
from durable.core.workflow_task import (
    TaskFailureKind,
    WorkflowTask,
    WorkflowTaskFailure,
)
from durable.errors import (
    CorruptHistoryError,
    DurableError,
    EngineClosedError,
    StoreError,
)
from durable.observer import Observer, WorkerObserver, WorkerState
from durable.options import IdConflictPolicy, IdReusePolicy
from durable.store.records import (
    LoadedRun,
    ReleaseRuns,
    RunRecord,
    RunStatus,
    Started,
    StartRun,
    WorkerRecord,
)
from durable.store.store import Store
from durable.worker import observing
from durable.worker.activity_tasks import ActivityTasks
from durable.worker.guards import install_guards
from durable.worker.live_run import Attempt, LiveRun
from durable.worker.lookout import Lookout
from durable.worker.process import host_identity, process_start
from durable.worker.restoring import (
    event_of_message,
    first_event,
    restore_activities,
)
from durable.worker.watchdog import Watchdog
from durable.worker.worker_options import WorkerOptions
from durable.worker.workflow_tasks import STATUS_OF, WorkflowTasks

_log: Final = logging.getLogger("durable.worker")
_DRAIN_ROUNDS_MAX: Final = 20


class Worker:
    """One worker of one store.

    Args:
        on_closed: called with a run id once its terminal event is committed, and with
            that event if this worker has it.
        on_stuck: called with a run id and why once it is parked.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        *,
        namespace: str,
        task_queue: str,
        options: WorkerOptions,
        observer: Observer | None,
        on_closed: Callable[[str, Attributes | None], None],
        on_stuck: Callable[[str, Failure], None],
    ) -> None:
        self._store = store
        self._registry = registry
        self._namespace = namespace
        self._task_queue = task_queue
        self._options = options
        self._observer = observer
        self._watch: WorkerObserver | None = None
        self._on_closed = on_closed
        self._on_stuck = on_stuck
        self._runs: dict[str, LiveRun] = {}
        self._idle: collections.OrderedDict[str, LiveRun] = collections.OrderedDict()
        self._loading: set[str] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._watchdog: Watchdog | None = None
        self._is_open = False
        self._is_rejoining = False
        self._hits = self._misses = 0
        self._lookout = Lookout(store, registry, self)
        self.worker_id = ""
        self._tasks: WorkflowTasks
        self._activities: ActivityTasks

    # --- start and stop ---------------------------------------------------------------

    async def start(self) -> None:
        """Take a lease, take over what dead workers left, go on with it."""
        install_guards()
        loop = asyncio.get_running_loop()
        if self._options.blocked_seconds is not None:
            self._watchdog = Watchdog(loop, self._options.blocked_seconds)
        await self._join()
        self._is_open = True
        await self._lookout.start()

    async def _join(self) -> None:
        """Enter the store as a new worker, with parts that carry its id."""
        self.worker_id = f"{os.getpid()}-{secrets.token_hex(6)}"
        observing.worker_stopped(self._watch)
        if self._observer is not None:
            self._watch = self._observer.worker_started(
                worker_id=self.worker_id, task_queue=self._task_queue, state=self._state
            )
        self._tasks = WorkflowTasks(
            self._store,
            self._registry,
            self,
            watchdog=self._watchdog,
            observer=self._watch,
            max_tries=self._options.max_tries,
            on_unhandled=_log_unhandled,
        )
        self._activities = ActivityTasks(
            self._store,
            self._registry,
            self,
            worker_id=self.worker_id,
            concurrency=self._options.concurrency,
            threads=self._options.threads,
            observer=self._watch,
        )
        await self._store.register_worker(
            WorkerRecord(
                worker_id=self.worker_id,
                namespace=self._namespace,
                host=host_identity(),
                pid=os.getpid(),
                process_started_at=process_start(os.getpid()),
                task_queue=self._task_queue,
                started_at=self._store.now(),
            ),
            self.lease_lost,
        )

    async def stop(self) -> None:
        """Drain: begin nothing, wait for what runs, keep its results, give runs up."""
        if not self._is_open:
            observing.worker_stopped(self._watch)
            return
        self._tasks.is_draining = True
        await self._activities.drain(self._options.grace_seconds)
        await self._finish_commits()
        self._is_open = False
        self._lookout.stop()
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._watchdog is not None:
            self._watchdog.stop()
        try:
            await self._store.release_worker()
        except StoreError as error:
            _log.error("The lease could not be given up (%s); it will run out.", error)
        observing.worker_stopped(self._watch)
        for run in list(self._runs.values()):
            self.drop(run)

    async def _finish_commits(self) -> None:
        """Wait for what is being committed, and for what follows from it."""
        for _ in range(_DRAIN_ROUNDS_MAX):
            # Outcomes come in the order of submission, so this one comes last.
            with contextlib.suppress(StoreError):
                await self._store.perform(ReleaseRuns(run_ids=()))
            if not any(run.is_committing for run in self._runs.values()):
                return

    def _state(self) -> WorkerState:
        return self._activities.state(
            len(self._runs), self._hits, self._misses, len(self._loading)
        )

    def knows(self, workflow_type: str) -> bool:
        """Whether this worker can drive runs of that type."""
        return workflow_type in self._registry.workflows

    # --- starting runs ----------------------------------------------------------------

    async def start_run(
        self,
        started: WorkflowExecutionStarted,
        record: RunRecord,
        *,
        reuse_policy: IdReusePolicy,
        conflict_policy: IdConflictPolicy,
        terminated_data: str,
    ) -> Started:
        """Drive the first turn and commit it together with the run's creation.

        Raises:
            WorkflowAlreadyStartedError: the policies forbid the start.
            EngineClosedError: the worker is draining.
        """
        if not self._is_open or self._tasks.is_draining:
            raise EngineClosedError("The engine is closing and starts no more runs.")
        run = self._new_run(started, record.started_at)
        completion = self._tasks.process(
            run, WorkflowTask(record.started_at, (started,))
        )
        events = completion.events
        starts = any(
            [type(event.attributes) is ActivityTaskScheduled for event in events]
        )
        run.is_active = (
            starts or completion.failure is not None
        ) and not completion.is_closed
        run.wake_at = None if completion.is_closed else run.next_due_at()
        status, closed_at = RunStatus.RUNNING, None
        if completion.is_closed:
            status = STATUS_OF[type(events[-1].attributes)]
            closed_at = events[-1].time
        operation = StartRun(
            record=msgspec.structs.replace(
                record,
                owner=None if completion.is_closed else self.worker_id,
                is_active=run.is_active,
                wake_at=run.wake_at,
                status=status,
                closed_at=closed_at,
            ),
            rows=[encode_event(run.run_id, event) for event in events],
            reuse_policy=reuse_policy,
            conflict_policy=conflict_policy,
            terminated_data=terminated_data,
        )
        run.is_committing = True
        done: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self._store.submit(operation, partial(self._run_started, run, completion, done))
        return await done

    def _run_started(
        self,
        run: LiveRun,
        completion: Any,
        done: asyncio.Future[Started],
        result: Started | None,
        error: BaseException | None,
    ) -> None:
        run.is_committing = False
        if error is not None or result is None or not result.created:
            self._forget(run)
            if error is not None and not done.done():
                done.set_exception(error)
        else:
            if result.terminated_run_id is not None:
                self.closed_elsewhere(result.terminated_run_id)
            self._runs[run.run_id] = run
            if completion.failure is not None:
                self._after_failed_start(run, completion.failure)
            else:
                self._tasks.apply_effects(run, completion)
        if error is None and result is not None and not done.done():
            done.set_result(result)

    def _after_failed_start(self, run: LiveRun, failure: WorkflowTaskFailure) -> None:
        run.failed_tries = 1
        if self._options.max_tries <= 1:
            self._tasks.park(run, failure.failure)
        else:
            self.reload(run)

    def _new_run(self, started: WorkflowExecutionStarted, started_at: int) -> LiveRun:
        run = LiveRun(
            started.run_id,
            started.workflow_id,
            started.workflow_type,
            self._tasks.new_replayer(),
        )
        run.started_at = started_at
        run.headers = run.task_headers = started.headers
        for kind, limit in (
            ("execution", started.execution_timeout),
            ("run", started.run_timeout),
        ):
            if limit is not None and (
                run.deadline_at is None or started_at + limit < run.deadline_at
            ):
                run.deadline_at, run.deadline_type = started_at + limit, kind
        return run

    # --- loading runs -----------------------------------------------------------------

    def wake(self, run_ids: Iterable[str]) -> None:
        """Go on with these runs of ours: drive the live ones, load the others."""
        to_load: list[str] = []
        for run_id in run_ids:
            run = self._runs.get(run_id)
            if run is None:
                if run_id not in self._loading:
                    to_load.append(run_id)
            else:
                self._hits += 1
                self._go_on(run)
        for start in range(0, len(to_load), limits.LOAD_RUNS_MAX):
            self.spawn(self._load(to_load[start : start + limits.LOAD_RUNS_MAX]))

    def mail(self, run_id: str) -> None:
        """A message for this run was committed."""
        run = self._runs.get(run_id)
        if run is not None:
            run.has_mail = True
            self.reload(run)
        else:
            self.wake((run_id,))

    def _go_on(self, run: LiveRun) -> None:
        self._activities.begin_due(run, self._store.now())
        self.advance(run)

    async def _load(self, run_ids: list[str]) -> None:
        self._loading.update(run_ids)
        self._misses += len(run_ids)
        try:
            loaded = await self._store.load_runs(run_ids)
        finally:
            self._loading.difference_update(run_ids)
        for index, one in enumerate(loaded):
            if self._is_open and one.record.run_id not in self._runs:
                self._enter(one)
            if index % 16 == 15:
                await asyncio.sleep(0)  # other work goes on between replays

    def _enter(self, loaded: LoadedRun) -> None:
        record = loaded.record
        if record.status is not RunStatus.RUNNING or record.owner != self.worker_id:
            return
        run = LiveRun(
            record.run_id,
            record.workflow_id,
            record.workflow_type,
            self._tasks.new_replayer(),
        )
        self._runs[run.run_id] = run
        if not self.knows(record.workflow_type):
            self._give_up(run)
            return
        self._catch_up(run, loaded)

    def _catch_up(self, run: LiveRun, loaded: LoadedRun) -> None:
        """Replay what the store holds, restore what was under way, go on."""
        record = loaded.record
        run.is_active, run.wake_at = record.is_active, record.wake_at
        run.is_parked, run.has_mail = record.stuck is not None, False
        try:
            history = decode_rows(loaded.rows)
            started = first_event(history, run)
            messages = [event_of_message(message) for message in loaded.messages]
        except CorruptHistoryError as error:
            self._tasks.park(run, _failure(error))
            return
        fresh = self._new_run(started, history[0].time)
        run.replayer, run.headers = fresh.replayer, fresh.headers
        run.task_headers = fresh.headers
        run.deadline_at, run.deadline_type = fresh.deadline_at, fresh.deadline_type
        run.started_at = fresh.started_at
        completion = self._tasks.process(
            run, WorkflowTask(self._store.now(), (), history, is_replay_only=True)
        )
        if completion.failure is not None:
            hopeless = completion.failure.kind is TaskFailureKind.NONDETERMINISM
            run.failed_tries += 1
            if hopeless or run.failed_tries >= self._options.max_tries:
                self._tasks.park(run, completion.failure.failure)
            else:
                self.reload(run)
            return
        for message, event in zip(loaded.messages, messages, strict=True):
            if message.sequence not in run.consumed:
                run.inputs.append(event)
                run.consumed += (message.sequence,)
        restore_activities(run, loaded.attempts, self._activities, self._store.now())
        self._go_on(run)
        self._tasks.correct_row(run)
        self.settle(run)

    def reload(self, run: LiveRun) -> None:
        """Read the run's history again; keep its inputs and attempts."""
        if run.is_committing or run.is_dropped or run.is_closed:
            return
        run.is_committing = True  # nothing else may drive it meanwhile
        self._idle.pop(run.run_id, None)
        self.spawn(self._reload(run))

    async def _reload(self, run: LiveRun) -> None:
        loaded = await self._store.load_runs([run.run_id])
        run.is_committing = False
        run.replayer.tear_down()
        if run.is_dropped or not self._is_open:
            return
        if not loaded or loaded[0].record.status is not RunStatus.RUNNING:
            self.closed_elsewhere(run.run_id)
        elif loaded[0].record.owner != self.worker_id:
            self.drop(run)
        else:
            self._catch_up(run, loaded[0])

    # --- activities that were under way -----------------------------------------------

    # --- what the parts call ----------------------------------------------------------

    def advance(self, run: LiveRun) -> None:
        """The run has something new to see."""
        self._tasks.advance(run)
        self.settle(run)

    def start_activity(self, run: LiveRun, event: HistoryEvent) -> None:
        """A recorded activity may begin."""
        scheduled = event.attributes
        assert isinstance(scheduled, ActivityTaskScheduled)  # noqa: S101 - by the caller
        attempt = Attempt(run, event.event_id, scheduled, event.time)
        run.attempts[event.event_id] = attempt
        self._activities.begin(attempt)

    def cancel_activity(self, run: LiveRun, scheduled_event_id: int) -> None:
        """A recorded activity was asked to stop."""
        self._activities.cancel(run, scheduled_event_id)

    def run_closed(self, run: LiveRun, event: HistoryEvent) -> None:
        """The run's terminal event is committed."""
        if self._observer is not None:
            status = STATUS_OF[type(event.attributes)]
            observing.run_closed(self._observer, run, event, status, self._task_queue)
        self._forget(run)
        self._on_closed(run.run_id, event.attributes)

    def run_stuck(self, run: LiveRun, failure: Failure) -> None:
        """The run is parked, durably."""
        self._forget(run)
        self._lookout.was_stuck(run.run_id)
        self._on_stuck(run.run_id, failure)

    def closed_elsewhere(self, run_id: str) -> None:
        """The run was closed by a write that is not this worker's."""
        run = self._runs.get(run_id)
        if run is not None:
            run.is_closed = True
            self._forget(run)
        self._on_closed(run_id, None)

    def drop(self, run: LiveRun) -> None:
        """Take the run out of memory."""
        self._forget(run)

    def _forget(self, run: LiveRun) -> None:
        run.is_dropped = True
        if self._runs.get(run.run_id) is run:
            del self._runs[run.run_id]
        self._idle.pop(run.run_id, None)
        self._activities.forget(run)
        run.replayer.tear_down()

    def settle(self, run: LiveRun) -> None:
        """Keep an idle run live for a while; let the longest idle ones go."""
        if run.is_dropped:
            return
        if not run.is_idle:
            self._idle.pop(run.run_id, None)
            return
        self._idle[run.run_id] = run
        self._idle.move_to_end(run.run_id)
        while len(self._idle) > self._options.cached_runs:
            _, oldest = self._idle.popitem(last=False)
            if oldest.is_idle:
                self._forget(oldest)

    def _give_up(self, run: LiveRun) -> None:
        """Leave a run of an unknown type to a worker that knows it."""
        _log.warning(
            "Run %r is of workflow %r, which this worker does not know; it waits for a"
            " worker that does.",
            run.workflow_id,
            run.workflow_type,
        )
        self.drop(run)
        self._store.submit(ReleaseRuns(run_ids=(run.run_id,)), _ignore)

    # --- the lease --------------------------------------------------------------------

    def lease_lost(self) -> None:
        """Another worker has taken over: forget everything, join again as a new one."""
        if not self._is_open or self._is_rejoining:
            return
        self._is_rejoining = True
        _log.error(
            "Worker %s has lost its lease: it did not renew for %.0f s, and another"
            " worker took over its runs. What it still tried to write was refused.",
            self.worker_id,
            limits.LEASE_SECONDS,
        )
        for run in list(self._runs.values()):
            self.drop(run)
        self.spawn(self._rejoin())

    async def _rejoin(self) -> None:
        try:
            await self._join()
        finally:
            self._is_rejoining = False
        await self._lookout.take_over()

    # --- finding work -----------------------------------------------------------------

    def wake_by(self, instant: int) -> None:
        """Look for due runs no later than this."""
        self._lookout.wake_by(instant)

    def changed(self) -> None:
        """Another process has committed something."""
        if self._is_open and not self._tasks.is_draining:
            self._lookout.changed()

    def working_runs(self) -> list[str]:
        """The live runs that have activities under way."""
        return [
            run.run_id
            for run in self._runs.values()
            if run.attempts and not run.is_committing
        ]

    def run_lost(self, run_id: str) -> None:
        """Another process has closed or taken this run."""
        run = self._runs.get(run_id)
        if run is not None and not run.is_committing:
            self.closed_elsewhere(run_id)

    def is_busy(self, run_id: str) -> bool:
        """Whether the run is being loaded or committed."""
        run = self._runs.get(run_id)
        return run_id in self._loading or (run is not None and run.is_committing)

    def spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(
            self._guarded(work)
        )
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        # A step that is cancelled before it begins would warn that nobody awaited it.
        task.add_done_callback(lambda _: work.close())

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except DurableError as error:
            if self._is_open:
                _log.error("A background step of the worker failed: %s", error)
                self.wake_by(self._store.now() + 1_000_000)


def _ignore(_: Any, error: BaseException | None) -> None:
    if error is not None:
        _log.error("A background write was refused: %s", error)


def _failure(error: DurableError) -> Failure:
    return Failure(message=str(error), type=type(error).__name__)


def _log_unhandled(context: dict[str, Any]) -> None:
    error = context.get("exception")
    _log.warning(
        "In a workflow: %s%s",
        context.get("message", "something was not handled"),
        "" if error is None else f" ({type(error).__name__}: {error})",
    )
