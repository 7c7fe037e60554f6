"""The worker: owns runs, keeps some of them live, loads those that have work.

It enters the store, builds the parts that carry its id, and drains them at its end. A
run that only waits is a row in the store and nothing here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import filterfalse
from typing import Final, TypeVar

import msgspec

from durable.api.definitions import is_own
from durable.api.registry import Registry
from durable.core.history.events import Attributes, WorkflowExecutionStarted
from durable.core.history.ids import RunIds
from durable.core.history.payload import PAUSED, Failure
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import TaskInput, UpdateRequest
from durable.errors import CorruptHistoryError, EngineClosedError, StoreError
from durable.observer import Observer, WorkerObserver, WorkerState
from durable.runs.effects import UpdateNews
from durable.runs.inputs import Asked, MailFound, Told
from durable.runs.live_run import Terms
from durable.runs.states import AT_REST
from durable.store.beginnings import Defaults
from durable.store.queries import ReadQueues, RunNews
from durable.store.records import (
    OF_RUNS,
    Committed,
    MessageRecord,
    ReleaseRuns,
    Started,
    StartRun,
    WorkerRecord,
    WorkerReport,
)
from durable.store.store import Store
from durable.worker import log_lines
from durable.worker.activities import observing
from durable.worker.activities.activity_code import EngineParts
from durable.worker.activities.activity_pool import ActivityPool
from durable.worker.guards.guards import install_guards
from durable.worker.guards.watchdog import Watchdog
from durable.worker.health import Backlog, Reachability, WorkerHealth
from durable.worker.lookout import Lookout
from durable.worker.process import host_identity, process_start
from durable.worker.questions import Question
from durable.worker.rejoining import Rejoining
from durable.worker.runner import Outside, Runner, log_refusal
from durable.worker.tasks.claimer import TaskClaimer
from durable.worker.tasks.executor import TaskExecutor
from durable.worker.turns import Turns
from durable.worker.worker_options import WorkerOptions

_log: Final = logging.getLogger("durable.worker")
_DRAIN_ROUNDS_MAX: Final = 20
LAST_WORD_SECONDS: Final = 1.0
"""How long a database that does not answer is waited for when the grace is over."""
T = TypeVar("T")


class Worker:
    """One worker of one store.

    Args:
        on_closed: called with a run id once its terminal event is committed, and with
            that event if this worker has it.
        on_stuck: called with a run id and why once it is parked.
        on_update: called with a run id, an update id and what became of that.
        defaults: what goes for children that say nothing else.
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
        defaults: Defaults,
        parts: EngineParts,
    ) -> None:
        self._store = store
        self._defaults = defaults
        self._defaults_fault = ""
        self._on_stuck = on_stuck
        self._on_closed = on_closed
        self._registry = registry
        self._namespace = namespace
        self._task_queue = task_queue
        self._options = options
        self._observer = observer
        self._watch: WorkerObserver | None = None
        self._parts = parts
        self._watchdog: Watchdog | None = None
        outside = Outside(
            closed=self._closed,
            stuck=self._stuck,
            update=on_update,
            wake_by=self._wake_by,
            look_around=self.changed,
            lease_lost=self.lease_lost,
        )
        self._runner = Runner(
            store,
            registry,
            outside,
            observer=observer,
            task_queue=task_queue,
            cached_runs=options.cached_runs,
        )
        self._executor = self._make_executor()
        self._claimer = TaskClaimer(
            store,
            registry,
            self._runner,
            self._executor,
            self._places(),
            self.lease_lost,
        )
        self._lookout = Lookout(
            store,
            registry,
            self._runner,
            self.lease_lost,
            self._claimer.changed,
            self._read_defaults,
        )
        self._rejoining = Rejoining(
            store, self._runner, self.join, self._lookout.take_over
        )
        self._reachability = Reachability(store)
        self._backlog = Backlog(store, namespace, task_queue)
        self.retention_lag: Callable[[], int] = lambda: 0
        """What is told of the deletion of closed runs, by whoever sees to that."""
        self._run_ids = RunIds()
        self._entropy = random.Random(secrets.randbits(256))  # noqa: S311 - ids must differ, not be secret

    def _make_executor(self) -> TaskExecutor:
        return TaskExecutor(
            self._store,
            self._runner,
            self._namespace,
            wake_by=self._wake_by,
            observer=lambda: self._watch,
            lease_lost=self.lease_lost,
            settled=lambda: self._claimer.look(),
        )

    @property
    def worker_id(self) -> str:
        """The id under which it is in the store; empty before that."""
        terms = getattr(self._runner, "terms", None)
        return "" if terms is None else terms.worker_id

    # --- start and stop ---------------------------------------------------------------

    async def start(self) -> None:
        """Take a lease, take over what dead workers left, go on with it."""
        install_guards(self._registry)
        loop = asyncio.get_running_loop()
        if self._options.blocked_seconds is not None:
            self._watchdog = Watchdog(loop, self._options.blocked_seconds)
        await self.join()
        self._runner.is_open = self._claimer.is_open = True
        await self._lookout.start()
        if self._watch is not None:
            self._backlog.start()

    async def join(self) -> None:
        """Enter the store as a new worker, with parts that carry its id."""
        worker_id = f"{os.getpid()}-{secrets.token_hex(6)}"
        observing.worker_stopped(self._watch)
        if self._observer is not None:
            self._watch = self._observer.worker_started(
                worker_id=worker_id, task_queue=self._task_queue, state=self._state
            )
        options, runner = self._options, self._runner
        pool = ActivityPool(
            self._store,
            self._registry,
            self._executor.feed,
            concurrency=options.concurrency,
            threads=options.threads,
            processes=options.processes,
            observer=self._watch,
            parts=self._parts,
        )
        pool.fail_outside = self._executor.fail_outside
        queues = await self._store.read(ReadQueues(self._namespace))
        await self._read_defaults()
        terms = Terms(
            worker_id=worker_id,
            max_tries=options.max_tries,
            can_run=self.can_run,
            knows_activity=pool.knows,
            room=pool.room,
            new_run_id=self._new_run_id,
            new_replayer=partial(
                Replayer,
                self._registry.code_of,
                on_unhandled=log_lines.log_unhandled,
                make_headers=None if self._watch is None else self._watch.span_headers,
            ),
            is_observed=self._watch is not None,
            configured=frozenset(queue.name for queue in queues),
            runs_limited_as=self._task_queue + OF_RUNS,
            defaults=lambda: self._defaults.known,
        )
        turns = Turns(self._store, self._watchdog, self._watch)
        runner.join(terms, turns, pool)
        await self._store.register_worker(
            WorkerRecord(
                worker_id=worker_id,
                namespace=self._namespace,
                host=host_identity(),
                pid=os.getpid(),
                process_started_at=process_start(os.getpid()),
                task_queue=self._task_queue,
                started_at=self._store.now(),
                places=self._report(),
            ),
            partial(self.lease_lost, worker_id),
            self._report,
        )

    async def _read_defaults(self) -> None:
        """Know what goes for children. A row that is broken keeps no run waiting."""
        fault = ""
        try:
            await self._defaults.read()
        except CorruptHistoryError as error:
            fault = error.message
            if fault != self._defaults_fault:
                _log.warning("Children begin without defaults by now. %s", error)
        self._defaults_fault = fault

    def _report(self) -> str:
        """What its row tells of it, written when the lease is; any thread may ask."""
        known = self._registry
        running, slots = self._runner.pool.occupancy
        report = WorkerReport(
            queues=self._places(),
            workflows=sorted(filterfalse(is_own, [*known.workflows])),
            activities=sorted(filterfalse(is_own, [*known.activities])),
            runs=len(self._runner.runs),
            runs_max=self._options.cached_runs,
            running=running,
            running_max=slots,
        )
        return msgspec.json.encode(report).decode()

    def _places(self) -> dict[str, int]:
        """The queues that it serves for activities, and how many of each at once."""
        options = self._options
        return {self._task_queue: options.concurrency, **options.activity_queues}

    async def stop(self) -> None:
        """Drain: begin nothing, wait for what runs, keep its results, give runs up.

        A database that does not answer is waited for until the grace is over, not
        longer: others take over when the lease ends.
        """
        runner = self._runner
        was_open = runner.is_open
        grace = self._options.grace_seconds
        ends_at = asyncio.get_running_loop().time() + grace
        try:
            if was_open:
                with contextlib.suppress(StoreError):
                    self._begin_draining()
                await runner.pool.drain(grace)
                was_open = await self._is_done_by(ends_at, self._finish_commits())
        finally:  # Cancelled, it waits for nothing more.
            self.abandon()
            self._lookout.stop()
            self._reachability.stop()
            await runner.background.end()
            try:
                if was_open:
                    await self._is_done_by(ends_at, self._store.release_worker())
            except StoreError as error:
                _log.error("The lease could not be given up (%s).", error)
            finally:
                observing.worker_stopped(self._watch)
                runner.forget_all()
                self._executor.forget_all()

    async def _is_done_by(self, ends_at: float, work: Awaitable[None]) -> bool:
        """Wait for the database a last time; False if it does not answer by then."""
        soonest = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(max(soonest, ends_at) + LAST_WORD_SECONDS):
                await work
        except TimeoutError:
            _log.error(
                "The database has not answered while the worker closed: what it has"
                " not recorded is left to others, who take over when its lease ends."
            )
            return False
        return True

    def _begin_draining(self) -> None:
        """Take nothing more, and leave to others at once what nothing runs of here."""
        runner = self._runner
        runner.terms.is_draining = True
        self._lookout.stop()
        self._claimer.stop()
        if self.running_activities():
            runner.spawn(self._store.drain_worker())
        unread = tuple(runner.loader.loading)
        runner.loader.forget_all()
        for run in list(runner.runs.values()):
            runner.settle(run)
        if unread:
            self._store.submit(ReleaseRuns(run_ids=unread), log_refusal)

    def abandon(self) -> None:
        """Stop what does not end with the event loop."""
        self._runner.is_open = False
        self._claimer.stop()
        if self.worker_id:
            self._runner.pool.abandon()
        self._backlog.stop()
        if self._watchdog is not None:
            self._watchdog.stop()

    async def health(self) -> WorkerHealth:
        """How it does now; it asks the database whether that answers."""
        is_reachable = await self._reachability.ask()
        state = self._state()
        processes, lost_processes = self._runner.pool.processes
        return WorkerHealth(
            worker_id=self.worker_id,
            task_queue=self._task_queue,
            status="draining" if self._runner.terms.is_draining else "running",
            live_runs=state.cached_runs,
            running_activities=state.slots_used,
            capacity=state.slots,
            lease_seconds_left=self._store.lease_seconds(),
            is_database_reachable=is_reachable,
            processes=processes,
            lost_processes=lost_processes,
            activity_queues=self._options.activity_queues,
        )

    def is_busy(self) -> bool:
        """Whether it has anything to do now."""
        runs = self._runner.runs.values()
        return self._state().slots_used > 0 or any(r.state is not AT_REST for r in runs)

    def running_activities(self) -> list[str]:
        """The attempts that run, as the log names them; any thread may ask."""
        return self._runner.pool.running() if self.worker_id else []

    async def _finish_commits(self) -> None:
        """Wait for what is being committed, and for what follows from it."""
        for _ in range(_DRAIN_ROUNDS_MAX):
            # Outcomes come in the order of submission, so this one comes last.
            with contextlib.suppress(StoreError):
                await self._store.perform(ReleaseRuns(run_ids=()))
            if all(run.state is AT_REST for run in self._runner.runs.values()):
                return

    def _state(self) -> WorkerState:
        runner = self._runner
        state = runner.pool.state(
            len(runner.runs), runner.hits, runner.misses, len(runner.loader.loading)
        )
        return msgspec.structs.replace(
            state, queues=self._backlog.queues(), retention_lag=self.retention_lag()
        )

    # --- starting runs ----------------------------------------------------------------

    @property
    def _takes_work(self) -> bool:
        return self._runner.is_open and not self._runner.terms.is_draining

    def knows(self, workflow_type: str, version: str | None) -> bool:
        """Whether this worker can drive runs of that type and version."""
        return self._registry.find_workflow(workflow_type, version) is not None

    def can_run(self, task_queue: str, workflow_type: str, version: str | None) -> bool:
        """Whether this worker would take such a run itself."""
        return (
            self._takes_work
            and task_queue == self._task_queue
            and self.knows(workflow_type, version)
        )

    @property
    def limits_runs(self) -> bool:
        """Whether runs of its queue wait for their turn."""
        return self._runner.terms.limits_runs

    def see_turns(self) -> None:
        """A run may have its turn now, if any waits for one."""
        if self._takes_work and self._runner.terms.limits_runs:
            self._lookout.wake_by(self._store.now())

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
        if not self._takes_work:
            raise EngineClosedError("The engine is closing and starts no more runs.")
        done: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self._runner.create(started, request, inputs, done)
        return done

    def _new_run_id(self) -> str:
        return self._run_ids.make(self._store.now(), self._entropy.getrandbits(74))

    # --- what clients have for its runs -----------------------------------------------

    def is_live(self, run_id: str) -> bool:
        """Whether the run is in memory here."""
        return self._runner.find_live(run_id) is not None

    def deliver(
        self, run_id: str, event: Attributes, *, may_repeat: bool
    ) -> asyncio.Future[bool] | None:
        """Give a live run a signal or a request to stop; None if it is not live.

        The answer is True once that is durable, and False if the store must be asked.
        """
        run = self._runner.find_live(run_id)
        if run is None:
            return None
        durable: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._runner.feed(run, Told(event, durable, may_repeat))
        return durable

    def request_update(self, run_id: str, update: UpdateRequest) -> bool:
        """Give a live run an update; False if it is not live, or has forgotten it."""
        run = self._runner.find_live(run_id)
        if run is None or run.has_forgotten(update.update_id):
            return False
        self._runner.feed(run, Told(update))
        return True

    def take_found(
        self, run_id: str, messages: Sequence[MessageRecord], news: Sequence[RunNews]
    ) -> None:
        """Hand a live run what was just read of its inbox, and of itself after that."""
        run = self._runner.find_live(run_id)
        if run is not None and news:
            found = MailFound([*messages], news[0].last_event_id)
            self._runner.feed(run, found)

    def ask(
        self, run_id: str, ask: Callable[[Replayer], T]
    ) -> asyncio.Future[tuple[T] | None] | None:
        """Look at a live run between turns; None if it is not live.

        The answer is None if it leaves memory before that.
        """
        run = self._runner.find_live(run_id)
        if run is None:
            return None
        answer: asyncio.Future[tuple[T] | None]
        answer = asyncio.get_running_loop().create_future()
        self._runner.feed(run, Asked(Question(ask, answer)))
        return answer

    def mail(self, run_id: str) -> None:
        """A message for this run was committed."""
        self._runner.mail(run_id)

    def wake(self, run_ids: Iterable[str]) -> None:
        """Go on with these runs of ours: drive the live ones, load the others."""
        self._runner.wake(run_ids)

    def closed_elsewhere(self, run_id: str) -> None:
        """The run was closed by a write that is not this worker's."""
        self._runner.closed_elsewhere(run_id)

    def spread(self, committed: Committed) -> None:
        """A commit did something to other runs."""
        self._runner.spread(committed)

    def changed(self) -> None:
        """Another process has committed something; there may be runs nobody owns."""
        if self._takes_work:
            self._lookout.changed()

    async def heed_queues(self) -> None:
        """Somebody here has configured a queue."""
        if self._takes_work:
            await self._executor.heed_queues()
            self._claimer.look()
            self._lookout.changed()

    # --- what runs have for it --------------------------------------------------------

    def _wake_by(self, instant: int) -> None:
        self._lookout.wake_by(instant)

    def _closed(self, run_id: str, attributes: Attributes | None) -> None:
        self.see_turns()
        self._on_closed(run_id, attributes)

    def _stuck(self, run_id: str, why: Failure) -> None:
        self._lookout.parked(run_id)
        if why.kind == PAUSED:
            self._runner.spawn(self._executor.pause_tasks(run_id))
        self._on_stuck(run_id, why)

    def lease_lost(self, worker_id: str) -> None:
        """The lease of that worker, which may be an earlier one, is gone."""
        if worker_id == self.worker_id:
            self._executor.forget_all()
        self._rejoining.lease_lost(worker_id)
