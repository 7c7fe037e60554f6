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
import random
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from durable.api.registry import Registry
from durable.core.events import (
    ActivityTaskScheduled,
    Attributes,
    HistoryEvent,
    WorkflowExecutionStarted,
)
from durable.core.ids import RunIds
from durable.core.payload import Failure
from durable.core.replayer import Replayer
from durable.core.workflow_task import TaskInput, UpdateRequest
from durable.errors import DurableError, EngineClosedError, StoreError
from durable.observer import Observer, WorkerObserver, WorkerState
from durable.store.records import (
    Committed,
    LoadedRun,
    MessageRecord,
    ReleaseRuns,
    Started,
    StartRun,
    WorkerRecord,
)
from durable.store.store import Store
from durable.worker import log_lines, observing
from durable.worker.activity_code import EngineParts
from durable.worker.activity_tasks import ActivityTasks
from durable.worker.guards import install_guards
from durable.worker.inputs import key_of
from durable.worker.live_run import Attempt, LiveRun, new_run
from durable.worker.loading import Loader
from durable.worker.lookout import Lookout
from durable.worker.mailroom import Mailroom, UpdateNews
from durable.worker.outgoing import child_request_id, outcome_for_parent
from durable.worker.process import host_identity, process_start
from durable.worker.redelivery import Redelivery
from durable.worker.rejoining import Rejoining
from durable.worker.restoring import restore_activities
from durable.worker.starting import Starts
from durable.worker.watchdog import Watchdog
from durable.worker.worker_options import WorkerOptions
from durable.worker.workflow_tasks import STATUS_OF, WorkflowTasks

_log: Final = logging.getLogger("durable.worker")
_DRAIN_ROUNDS_MAX: Final = 20
T = TypeVar("T")


class Worker:
    """One worker of one store.

    Args:
        on_closed: called with a run id once its terminal event is committed, and with
            that event if this worker has it.
        on_stuck: called with a run id and why once it is parked.
        on_update: called with a run id, an update id and what became of that.
        parts: what the engine hands to its activities.
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
        on_update: Callable[[str, str, UpdateNews], None],
        parts: EngineParts,
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
        self._on_update = on_update
        self._parts = parts
        self._runs: dict[str, LiveRun] = {}
        self._idle: collections.OrderedDict[str, LiveRun] = collections.OrderedDict()
        self._loader = Loader(store, self, max_tries=options.max_tries)
        self._background: set[asyncio.Task[None]] = set()
        self._watchdog: Watchdog | None = None
        self._is_open = False
        self._rejoining = Rejoining(self)
        self._hits = self._misses = 0
        self._lookout = Lookout(store, registry, self)
        self._mailroom = Mailroom(store, self)
        self._redelivery = Redelivery(store, self)
        self._run_ids = RunIds()
        self._entropy = random.Random(secrets.randbits(256))  # noqa: S311 - ids must differ, not be secret
        self.worker_id = ""
        self._tasks: WorkflowTasks
        self._starts: Starts
        self._activities: ActivityTasks

    # --- start and stop ---------------------------------------------------------------

    async def start(self) -> None:
        """Take a lease, take over what dead workers left, go on with it."""
        install_guards(self._registry)
        loop = asyncio.get_running_loop()
        if self._options.blocked_seconds is not None:
            self._watchdog = Watchdog(loop, self._options.blocked_seconds)
        await self.join()
        self._is_open = True
        await self._lookout.start()

    async def join(self) -> None:
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
            on_unhandled=log_lines.log_unhandled,
            mailroom=self._mailroom,
        )
        self._starts = Starts(
            self._store, self, self._tasks, max_tries=self._options.max_tries
        )
        self._activities = ActivityTasks(
            self._store,
            self._registry,
            self,
            worker_id=self.worker_id,
            concurrency=self._options.concurrency,
            threads=self._options.threads,
            observer=self._watch,
            parts=self._parts,
            park=self._tasks.park,
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
            partial(self.lease_lost, self.worker_id),
        )

    async def stop(self) -> None:
        """Drain: begin nothing, wait for what runs, keep its results, give runs up."""
        was_open = self._is_open
        try:
            if was_open:
                self._tasks.is_draining = True
                await self._activities.drain(self._options.grace_seconds)
                await self._finish_commits()
        finally:  # Cancelled, it waits for nothing more.
            self.abandon()
            self._lookout.stop()
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)
            try:
                if was_open:
                    await self._store.release_worker()
            except StoreError as error:
                _log.error("The lease could not be given up (%s).", error)
            finally:
                observing.worker_stopped(self._watch)
                for run in list(self._runs.values()):
                    self.drop(run)

    def abandon(self) -> None:
        """Stop what does not end with the event loop."""
        self._is_open = False
        if self._watchdog is not None:
            self._watchdog.stop()

    def running_activities(self) -> list[str]:
        """The attempts that run, as the log names them; any thread may ask."""
        return self._activities.running() if self.worker_id else []

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
            len(self._runs), self._hits, self._misses, len(self._loader.loading)
        )

    def knows(self, workflow_type: str) -> bool:
        """Whether this worker can drive runs of that type."""
        return workflow_type in self._registry.workflows

    # --- starting runs ----------------------------------------------------------------

    def start_run(
        self,
        started: WorkflowExecutionStarted,
        request: StartRun,
        inputs: tuple[TaskInput, ...] = (),
    ) -> asyncio.Future[Started]:
        """Drive the first turn and commit it together with the run's creation.

        `inputs` are what the first turn sees beside the start.

        Raises:
            WorkflowAlreadyStartedError: the policies forbid the start.
            EngineClosedError: the worker is draining.
        """
        if not self._is_open or self._tasks.is_draining:
            raise EngineClosedError("The engine is closing and starts no more runs.")
        return self._starts.start(started, request, inputs)

    def can_run(self, task_queue: str, workflow_type: str) -> bool:
        """Whether this worker would take such a run itself."""
        return (
            self._is_open
            and not self._tasks.is_draining
            and task_queue == self._task_queue
            and self.knows(workflow_type)
        )

    def new_run_id(self) -> str:
        """An id for a run that is about to be started."""
        return self._run_ids.make(self._store.now(), self._entropy.getrandbits(74))

    def new_run(
        self,
        started: WorkflowExecutionStarted,
        started_at: int,
        parent_close_policy: str | None = None,
    ) -> LiveRun:
        """A live run that begins with this event."""
        replayer = self._tasks.new_replayer()
        return new_run(started, replayer, started_at, parent_close_policy)

    @property
    def is_open(self) -> bool:
        """Whether the worker still works."""
        return self._is_open

    def find(self, run_id: str) -> LiveRun | None:
        """The run, if it is in memory."""
        return self._runs.get(run_id)

    def enter(self, run: LiveRun) -> None:
        """Keep a run in memory."""
        self._runs[run.run_id] = run

    # --- other runs -------------------------------------------------------------------

    def start_child(self, run: LiveRun, event: HistoryEvent) -> None:
        """A recorded child may be started."""
        self._starts.start_child(run, event)

    def spread(self, committed: Committed, told: str | None = None) -> None:
        """A commit did something to other runs; `told` hears of it without its mail."""
        for run_id in committed.ended:
            self.closed_elsewhere(run_id)
        for receiver in (
            *committed.deliveries,
            *committed.cancelled,
            *committed.notified,
        ):
            if isinstance(receiver, str) and receiver != told:
                self.mail(receiver)
        begun = [s.run_id for s in committed.started if isinstance(s, Started)]
        if begun:
            self.wake(begun)
            self.look_around()

    def look_around(self) -> None:
        """There may be runs that nobody owns."""
        if self._is_open and not self._tasks.is_draining:
            self._lookout.changed()

    def find_parent(self, run: LiveRun) -> LiveRun | None:
        """The run's parent, if it is live here and waits for it."""
        started = run.started
        if started.parent_run_id is None:
            return None
        parent = self._find_live(started.parent_run_id)
        number = started.parent_initiated_event_id or 0
        if parent is None or parent.replayer.pending_child(number) is None:
            return None
        return parent

    def _tell_parent(self, run: LiveRun, terminal: Attributes) -> None:
        """Let a parent in this process see at once how its child ended."""
        parent = self.find_parent(run)
        event = None if parent is None else outcome_for_parent(run, terminal)
        if parent is None or event is None or key_of(event) in parent.mailed:
            return  # nobody waits for it, or has read it by mail already
        parent.inputs.append(event)
        parent.consumed_requests.append(child_request_id(run.started.first_run_id))
        self.advance(parent)

    # --- messages ---------------------------------------------------------------------

    def _find_live(self, run_id: str) -> LiveRun | None:
        """The run, if it is in memory and takes messages."""
        run = self._runs.get(run_id)
        if run is None or run.is_closed or run.is_dropped or self._tasks.is_draining:
            return None
        return run

    def deliver(
        self, run_id: str, event: Attributes, *, may_repeat: bool
    ) -> asyncio.Future[bool] | None:
        """Give a live run a signal or a request to stop; None if it is not live.

        The answer is True once that is durable, and False if the store must be asked.
        """
        run = self._find_live(run_id)
        if run is None:
            return None
        return self._mailroom.deliver(run, event, may_repeat=may_repeat)

    def request_update(self, run_id: str, update: UpdateRequest) -> bool:
        """Give a live run an update; False if it is not live, or has forgotten it."""
        run = self._find_live(run_id)
        if run is None or self._mailroom.has_forgotten(run, update.update_id):
            return False
        self._mailroom.request_update(run, update)
        return True

    def is_live(self, run_id: str) -> bool:
        """Whether the run is in memory here."""
        return self._find_live(run_id) is not None

    def take_mail(self, run_id: str, messages: Sequence[MessageRecord]) -> None:
        """Hand a live run what was just read from its inbox."""
        run = self._find_live(run_id)
        if run is not None and messages:
            self._mailroom.take(run, messages)
            self.advance(run)

    def ask(
        self, run_id: str, ask: Callable[[Replayer], T]
    ) -> asyncio.Future[tuple[T] | None] | None:
        """Look at a live run between turns; None if it is not live."""
        run = self._find_live(run_id)
        return None if run is None else self._mailroom.ask(run, ask)

    def tell_update(self, run_id: str, update_id: str, news: UpdateNews) -> None:
        """Something became of an update."""
        self._on_update(run_id, update_id, news)

    # --- loading runs -----------------------------------------------------------------

    def wake(self, run_ids: Iterable[str]) -> None:
        """Go on with these runs of ours: drive the live ones, load the others."""
        to_load: list[str] = []
        for run_id in run_ids:
            run = self._runs.get(run_id)
            if run is None:
                to_load.append(run_id)
            else:
                self._hits += 1
                self._go_on(run)
        self._misses += self._loader.load(to_load, self._tasks)

    def mail(self, run_id: str) -> None:
        """A message for this run was committed."""
        run = self._runs.get(run_id)
        if run is not None:
            self._mailroom.collect(run)
        elif run_id in self._loader.loading:
            self._loader.mailed(run_id)
        else:
            self.wake((run_id,))

    def _go_on(self, run: LiveRun) -> None:
        self._activities.begin_due(run, self._store.now())
        self.advance(run)

    def take_up(self, run: LiveRun, loaded: LoadedRun) -> None:
        """Go on with a run that was just caught up: mail, activities, other runs."""
        self._mailroom.drop_recorded(run)
        self._mailroom.take(run, loaded.messages)
        run.is_committing = True  # no turn before all is found that is under way
        restore_activities(run, loaded.attempts, self._activities, self._store.now())
        self._starts.restore(run)
        self._redelivery.restore(run)
        run.is_committing = False
        self._go_on(run)
        self._tasks.correct_row(run)
        self.settle(run)

    def reload(self, run: LiveRun) -> None:
        """Read the run's history again; keep its inputs and attempts."""
        self._idle.pop(run.run_id, None)
        self._loader.reload(run, self._tasks)

    # --- what the parts call ----------------------------------------------------------

    def advance(self, run: LiveRun) -> None:
        """The run has something new to see."""
        if run.resolutions:
            self._activities.held.resolve(run)
        self._tasks.advance(run)
        if run.questions and not run.is_committing:
            self._mailroom.answer_questions(run)
        self.settle(run)

    def start_activity(self, run: LiveRun, event: HistoryEvent) -> None:
        """A recorded activity may begin."""
        scheduled = event.attributes
        assert isinstance(scheduled, ActivityTaskScheduled)  # noqa: S101 - by the caller
        headers = run.task_headers
        attempt = Attempt(run, event.event_id, scheduled, event.time, headers)
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
        self.drop(run)
        self._tell_parent(run, event.attributes)
        self._on_closed(run.run_id, event.attributes)

    def run_stuck(self, run: LiveRun, failure: Failure) -> None:
        """The run is parked, durably."""
        self.drop(run)
        self._lookout.was_stuck(run.run_id)
        self._on_stuck(run.run_id, failure)

    def closed_elsewhere(self, run_id: str) -> None:
        """The run was closed by a write that is not this worker's."""
        run = self._runs.get(run_id)
        if run is not None:
            run.is_closed = True
            self.drop(run)
        self._on_closed(run_id, None)

    def drop(self, run: LiveRun) -> None:
        """Take a run out of memory; whoever waits for it must ask the store."""
        run.is_dropped = True
        self._mailroom.give_back(run)
        if self._runs.get(run.run_id) is run:
            del self._runs[run.run_id]
        self._idle.pop(run.run_id, None)
        self._activities.forget(run)
        run.replayer.tear_down()

    def settle(self, run: LiveRun) -> None:
        """Keep an idle run live for a while; let the longest idle ones go."""
        if run.is_dropped:
            return
        if run.is_holding:
            self._activities.held.park_if_held(run)
        if not run.is_idle:
            self._idle.pop(run.run_id, None)
            return
        self._idle[run.run_id] = run
        self._idle.move_to_end(run.run_id)
        while len(self._idle) > self._options.cached_runs:
            _, oldest = self._idle.popitem(last=False)
            if oldest.is_idle:
                self.drop(oldest)

    def give_up(self, run: LiveRun) -> None:
        """Leave a run of an unknown type to a worker that knows it."""
        _log.warning(
            "Run %r is of workflow %r, which this worker does not know (run id %s); it"
            " waits for a worker that does.",
            run.workflow_id,
            run.workflow_type,
            run.run_id,
            extra=log_lines.extra_of(run),
        )
        self.release(run)

    def release(self, run: LiveRun) -> None:
        """Leave a run to whichever worker takes it."""
        self.drop(run)
        self._store.submit(ReleaseRuns(run_ids=(run.run_id,)), _ignore)

    # --- the lease --------------------------------------------------------------------

    def lease_lost(self, worker_id: str) -> None:
        """The lease of that worker, which may be an earlier one, is gone."""
        self._rejoining.lease_lost(worker_id)

    def forget_all(self) -> None:
        """Take every run out of memory, and every read that is under way."""
        self._loader.forget_all()
        for run in list(self._runs.values()):
            self.drop(run)

    async def leave(self) -> None:
        """Give up whatever lease the store still holds."""
        await self._store.release_worker()

    async def take_over(self) -> None:
        """Claim runs without an owner."""
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
        return run_id in self._loader.loading or (run is not None and run.is_committing)

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
