"""Drives live runs: turn, commit, effects, next turn.

A run has at most one commit on its way. What arrives meanwhile waits in `run.inputs`
and goes into the next turn together. Nothing that a turn decided is visible before its
commit has succeeded; if it fails, the replayer has lived through what never happened
and is torn down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from durable.api.registry import Registry
from durable.core import turn
from durable.core.codec import encode_event
from durable.core.events import (
    ActivityTaskCancelRequested,
    ActivityTaskScheduled,
    Attributes,
    HistoryEvent,
    StartChildWorkflowExecutionInitiated,
    StateTransitioned,
    WorkflowExecutionCanceled,
    WorkflowExecutionCompleted,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionFailed,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from durable.core.payload import Failure
from durable.core.replayer import Replayer
from durable.core.workflow_task import (
    TaskFailureKind,
    TaskInput,
    UpdateRequest,
    WorkflowTask,
    WorkflowTaskCompletion,
    WorkflowTaskFailure,
)
from durable.errors import (
    CommitUnknownError,
    HistoryTakenError,
    LeaseLostError,
    StoreError,
    WorkflowBlockedError,
)
from durable.observer import WorkerObserver
from durable.store.records import (
    CommitTask,
    Committed,
    MailArrived,
    MessageRecord,
    ParkRun,
    PutMessage,
    RunStatus,
)
from durable.store.store import Store
from durable.worker import observing
from durable.worker.live_run import LiveRun
from durable.worker.log_lines import (
    ENDS_BADLY,
    extra_of,
    log_failed_run,
    log_parked,
    name_of,
)
from durable.worker.mailroom import Mailroom, is_message
from durable.worker.outgoing import (
    DELIVERIES,
    delivered,
    deliveries_of,
    delivery,
    has_work,
    news_for_parent,
    published_state,
    starts_of,
)
from durable.worker.watchdog import Watchdog
from durable.worker.workflow_task_host import Host

_log: Final = logging.getLogger("durable.worker")

STATUS_OF: Final[dict[type[Attributes], RunStatus]] = {
    WorkflowExecutionCompleted: RunStatus.COMPLETED,
    WorkflowExecutionFailed: RunStatus.FAILED,
    WorkflowExecutionCanceled: RunStatus.CANCELLED,
    WorkflowExecutionTimedOut: RunStatus.TIMED_OUT,
    WorkflowExecutionContinuedAsNew: RunStatus.CONTINUED_AS_NEW,
    WorkflowExecutionTerminated: RunStatus.TERMINATED,
}


class WorkflowTasks:
    """Drives the live runs of one worker."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        host: Host,
        *,
        watchdog: Watchdog | None,
        observer: WorkerObserver | None,
        max_tries: int,
        on_unhandled: Callable[[dict[str, Any]], None],
        mailroom: Mailroom,
    ) -> None:
        self._store = store
        self._mailroom = mailroom
        self._registry = registry
        self._host = host
        self._watchdog = watchdog
        self._observer = observer
        self._max_tries = max_tries
        self._on_unhandled = on_unhandled
        self.is_draining = False

    def new_replayer(self) -> Replayer:
        """A replayer that finds its workflow in this worker's registry."""
        return Replayer(self._registry.code_of, on_unhandled=self._on_unhandled)

    # --- one turn ---------------------------------------------------------------------

    def process(self, run: LiveRun, task: WorkflowTask) -> WorkflowTaskCompletion:
        """Drive one turn under the watchdog's eyes and the observer's."""
        observer = self._observer
        if observer is None:
            return self._process_watched(run, task)
        if task.is_replay_only:
            before = self._store.now()
            completion = self._process_watched(run, task)
            observer.replayed(
                workflow_type=run.workflow_type,
                events=len(task.history),
                duration=self._store.now() - before,
            )
            return completion
        with observer.running_workflow_task(
            workflow_type=run.workflow_type,
            workflow_id=run.workflow_id,
            run_id=run.run_id,
            task_number=run.replayer.task_count + 1,
            attempt=run.failed_tries + 1,
            waited=observing.waited(run, task),
            headers=run.headers,
        ) as headers:
            completion = self._process_watched(run, task)
            failure = completion.failure
            if failure is not None:
                observer.workflow_task_failed(error_type=failure.failure.type)
        run.task_headers = headers
        return completion

    def _process_watched(
        self, run: LiveRun, task: WorkflowTask
    ) -> WorkflowTaskCompletion:
        watchdog = self._watchdog
        if watchdog is None:
            return run.replayer.process(task)
        completion = None
        outer = turn.outside()
        watchdog.enter(run)
        try:
            completion = run.replayer.process(task)
        except WorkflowBlockedError:
            pass  # it hit the end of the turn
        finally:
            try:
                interrupted = watchdog.leave()
            except WorkflowBlockedError:  # it hit this call; there is but one
                watchdog.leave()
                interrupted = True
        if completion is not None and not interrupted:
            return completion
        # Wherever the interruption hit, and whatever the code made of it: the turn is
        # void.
        turn.restore(outer)
        failure = None if completion is None else completion.failure
        is_other = failure is not None and failure.kind is not TaskFailureKind.BLOCKED
        if completion is not None and is_other:
            return completion
        error = watchdog.error(
            run.workflow_id, None if failure is None else failure.error
        )
        return run.replayer.failed(task, TaskFailureKind.BLOCKED, error)

    def advance(self, run: LiveRun) -> None:
        """Drive the next turn if there is anything to see and no commit under way."""
        if run.is_committing or run.is_closed or run.is_dropped:
            if self._observer is not None and not run.ready_at:
                run.ready_at = self._store.now()
            return
        if run.wants_reload:
            self._host.reload(run)
            return
        if run.held and not run.is_reading:
            self._mailroom.hand_in_held(run)
            if run.is_committing:
                return
        if self.is_draining:
            self._keep_inputs(run)
            return
        replayer = run.replayer
        has_input = run.inputs or replayer.unprocessed
        now = 0
        if has_input or run.deadline_at is not None or replayer.has_timers:
            now = self._store.now()
        if run.deadline_at is not None and now >= run.deadline_at:
            run.inputs.append(WorkflowExecutionTimedOut(run.deadline_type))
        elif not (has_input or replayer.has_due_timer(now)):
            if run.attempt_records:
                self._keep_inputs(run)
            elif run.consumed or run.consumed_requests:
                self._empty_inbox(run)
            return
        inputs = tuple(run.inputs)
        run.inputs = []
        run.committing_acks += run.acks
        run.acks = []
        self.commit(run, self.process(run, WorkflowTask(now, inputs)), inputs)

    def commit(
        self,
        run: LiveRun,
        completion: WorkflowTaskCompletion,
        inputs: tuple[TaskInput, ...],
    ) -> None:
        """Submit what a turn decided; its effects follow the commit."""
        events = completion.events
        if completion.failure is not None:
            # Updates are no events: they wait for the next try.
            updates = [i for i in inputs if isinstance(i, UpdateRequest)]
            run.inputs = [*updates, *run.inputs]
            if not events:
                self._after_failed_turn(run, completion.failure)
                return
        settled, replies = self._mailroom.settled_updates(run, completion)
        if not (events or run.consumed or run.consumed_requests or settled):
            self._mailroom.tell(run, completion)  # all was refused, nothing is kept
            return
        run_id = run.run_id
        closes = completion.is_closed
        kinds = {type(event.attributes) for event in events}
        # Inputs that a failed turn leaves unseen must not wait for a restart.
        begins_work = has_work(kinds) or completion.failure is not None
        is_active, wake_at = (
            (False, None) if closes else run.wanted_row(begins_work=begins_work)
        )
        update = (
            closes
            or run.is_parked
            or is_active != run.is_active
            or wake_at != run.wake_at
        )
        operation = CommitTask(
            run_id=run_id,
            rows=[encode_event(run_id, event) for event in events],
            status=STATUS_OF[type(events[-1].attributes)] if closes else None,
            closed_at=events[-1].time if closes else None,
            update_run=update,
            is_active=is_active,
            wake_at=wake_at,
            attempts=run.attempt_records,
            consumed=run.consumed + settled,
            consumed_requests=tuple(run.consumed_requests),
            replies=replies,
            state=published_state(events) if StateTransitioned in kinds else None,
            checkpoint_event_id=completion.checkpoint_event_id,
            messages=self.messages(run, completion, kinds),
            starts=starts_of(run, events, self._host) if closes else (),
            has_children=closes and run.replayer.has_had_children,
            sees_all_mail=self._mailroom.passed_by_inbox(run, inputs),
        )
        run.is_active, run.wake_at, run.is_parked = is_active, wake_at, False
        run.attempt_records, run.consumed, run.consumed_requests = (), (), []
        run.is_committing = True
        self._store.submit(
            operation, partial(self._committed, run, completion, operation, inputs)
        )

    def messages(
        self,
        run: LiveRun,
        completion: WorkflowTaskCompletion,
        kinds: set[type[Attributes]],
    ) -> tuple[PutMessage, ...]:
        """What a turn with these kinds of events sends to other runs."""
        messages: list[PutMessage] = []
        if not kinds.isdisjoint(DELIVERIES) and completion.failure is None:
            messages += [delivery(run, e) for e in deliveries_of(completion.events)]
        if completion.is_closed and run.started.parent_run_id is not None:
            news = news_for_parent(run, completion.events[-1].attributes)
            if news is not None:
                messages.append(news)
        return tuple(messages)

    def correct_row(self, run: LiveRun) -> None:
        """Make the run's row say what it waits for, and that it is not stuck."""
        if run.is_committing or run.is_closed or run.is_dropped:
            return
        is_active, wake_at = run.wanted_row()
        if (is_active, wake_at) == (run.is_active, run.wake_at) and not run.is_parked:
            return
        run.is_active, run.wake_at, run.is_parked = is_active, wake_at, False
        operation = CommitTask(
            run_id=run.run_id,
            rows=[],
            update_run=True,
            is_active=is_active,
            wake_at=wake_at,
        )
        run.is_committing = True
        self._store.submit(operation, partial(self._kept, run, operation, ()))
        if wake_at is not None:
            self._host.wake_by(wake_at)

    def _keep_inputs(self, run: LiveRun) -> None:
        """Record inputs without driving the code: for a worker that is draining."""
        inputs = self._mailroom.take_to_keep(run)
        if not (inputs or run.attempt_records or run.consumed):
            return
        events = run.replayer.unprocessed_events(self._store.now(), inputs)
        operation = CommitTask(
            run_id=run.run_id,
            rows=[encode_event(run.run_id, event) for event in events],
            update_run=True,
            is_active=True,
            wake_at=run.wake_at,
            attempts=run.attempt_records,
            consumed=run.consumed,
            consumed_requests=tuple(run.consumed_requests),
        )
        run.attempt_records, run.consumed, run.consumed_requests = (), (), []
        run.is_committing = True
        self._store.submit(operation, partial(self._kept, run, operation, inputs))

    def _empty_inbox(self, run: LiveRun) -> None:
        """Delete messages that the run has had already, or they would wait for ever."""
        operation = CommitTask(
            run_id=run.run_id,
            rows=[],
            consumed=run.consumed,
            consumed_requests=tuple(run.consumed_requests),
        )
        run.consumed, run.consumed_requests = (), []
        run.is_committing = True
        self._store.submit(operation, partial(self._kept, run, operation, ()))

    def _kept(
        self,
        run: LiveRun,
        operation: CommitTask,
        inputs: tuple[TaskInput, ...],
        _: Any,
        error: BaseException | None,
    ) -> None:
        run.is_committing = False
        if error is not None:
            self._take_back(run, inputs, operation)
            self._commit_failed(run, error)
            return
        run.commit_count += 1
        self._mailroom.acknowledge(run)
        self._mailroom.answer_questions(run)
        self.advance(run)
        self._host.settle(run)

    # --- after the commit -------------------------------------------------------------

    def _committed(
        self,
        run: LiveRun,
        completion: WorkflowTaskCompletion,
        operation: CommitTask,
        inputs: tuple[TaskInput, ...],
        result: Any,
        error: BaseException | None,
    ) -> None:
        run.is_committing = False
        if run.is_dropped:
            self.give_back(run, inputs)
            return
        if error is not None:
            self._take_back(run, inputs, operation)
            self._commit_failed(run, error)
        elif isinstance(result, MailArrived):
            # The code must see the messages before it may end: live through it again.
            self._take_back(run, inputs, operation)
            self._host.reload(run)
        elif completion.failure is not None:
            run.commit_count += 1
            self._mailroom.acknowledge(run)
            self._after_failed_turn(run, completion.failure)
        else:
            run.commit_count += 1
            self._mailroom.tell(run, completion)
            if isinstance(result, Committed):
                self._host.spread(result, self._parent_told(run, completion))
                self._take_answers(run, completion, result)
            self.apply_effects(run, completion)

    def give_back(self, run: LiveRun, inputs: Iterable[TaskInput]) -> None:
        """Whoever waits for inputs of a run that has left memory must ask the store."""
        self._mailroom.give_back_updates(run, inputs)

    def after_start(
        self,
        run: LiveRun,
        completion: WorkflowTaskCompletion,
        committed: Committed | None,
    ) -> None:
        """Go on with a run whose first turn is committed."""
        self._mailroom.tell(run, completion)
        if committed is not None:
            self._host.spread(committed, self._parent_told(run, completion))
            self._take_answers(run, completion, committed)
        self.apply_effects(run, completion)

    def _parent_told(
        self, run: LiveRun, completion: WorkflowTaskCompletion
    ) -> str | None:
        """The parent that hears at once how a run ended; its mail can wait."""
        parent = self._host.find_parent(run) if completion.is_closed else None
        return None if parent is None else parent.run_id

    def _take_answers(
        self, run: LiveRun, completion: WorkflowTaskCompletion, committed: Committed
    ) -> None:
        """What became of the messages that a turn sent is an input of the next."""
        if not completion.is_closed:
            sent = deliveries_of(completion.events)
            run.inputs += [
                delivered(event, outcome)
                for event, outcome in zip(sent, committed.deliveries, strict=True)
            ]

    def apply_effects(self, run: LiveRun, completion: WorkflowTaskCompletion) -> None:
        """Let the world see a committed turn, then drive the next if there is cause."""
        host = self._host
        run.failed_tries = run.refusals = 0
        if completion.is_closed:
            # Whatever the last turn asked for or called off ends with the run.
            run.is_closed = True
            if type(completion.events[-1].attributes) in ENDS_BADLY:
                log_failed_run(run, completion.events[-1].attributes)
            host.run_closed(run, completion.events[-1])
            return
        # What one of them leads to at once is for the next turn, which must find, and
        # record as under way, what all of them begin.
        run.is_committing = True
        for event in completion.events:
            attributes = event.attributes
            kind = type(attributes)
            if kind is ActivityTaskScheduled:
                host.start_activity(run, event)
            elif kind is ActivityTaskCancelRequested:
                host.cancel_activity(run, attributes.scheduled_event_id)  # type: ignore[union-attr]  # by its kind
            elif kind is StartChildWorkflowExecutionInitiated:
                host.start_child(run, event)
        run.is_committing = False
        if run.wake_at is not None:
            host.wake_by(run.wake_at)
        if run.questions:
            self._mailroom.answer_questions(run)
        self.advance(run)
        host.settle(run)

    def _take_back(
        self, run: LiveRun, inputs: Sequence[TaskInput], operation: CommitTask
    ) -> None:
        """Put what was not committed back to where it waits."""
        # Whether its time is up is looked at again.
        kept_inputs = [i for i in inputs if type(i) is not WorkflowExecutionTimedOut]
        run.inputs = [*kept_inputs, *run.inputs]
        run.acks = run.committing_acks + run.acks
        run.committing_acks = []
        run.attempt_records = operation.attempts + run.attempt_records
        updates = run.update_mail.values()
        kept = tuple(number for number in operation.consumed if number not in updates)
        run.consumed = kept + run.consumed
        run.consumed_requests[:0] = operation.consumed_requests

    def _commit_failed(self, run: LiveRun, error: BaseException) -> None:
        if isinstance(error, LeaseLostError):
            # Whatever lease that was: it has lived through what never happened.
            self._host.drop(run)
            self._host.lease_lost(error.worker_id)
        elif isinstance(error, StoreError):
            run.refusals += 1
            if not isinstance(error, HistoryTakenError):
                _log.error(
                    "A workflow task of run %s was not committed (%s); it will be"
                    " driven again from its history.",
                    name_of(run),
                    error,
                    extra=extra_of(run),
                )
            if isinstance(error, CommitUnknownError):
                # If it took place, it did something to other runs perhaps.
                self._host.wake_by(self._store.now())
                self._host.look_around()
            self._host.reload(run)
        else:
            self._host.drop(run)
            raise error

    # --- failed turns -----------------------------------------------------------------

    def _after_failed_turn(self, run: LiveRun, failure: WorkflowTaskFailure) -> None:
        run.failed_tries += 1
        hopeless = failure.kind is TaskFailureKind.NONDETERMINISM
        if run.failed_tries < self._max_tries and not hopeless:
            self._host.reload(run)
            return
        self.park(run, failure.failure)

    def fail_run(
        self,
        run: LiveRun,
        messages: Sequence[MessageRecord],
        history: Sequence[HistoryEvent],
        failure: Failure,
    ) -> None:
        """Fail a run whose code says that this does; its mail becomes part of it."""
        self._mailroom.take(run, messages)
        mail = tuple(i for i in self._mailroom.take_to_keep(run) if is_message(i))
        completion = run.replayer.fail_run(self._store.now(), mail, history, failure)
        self.commit(run, completion, mail)

    def park(self, run: LiveRun, failure: Failure) -> None:
        """Set the run aside with its reason; nobody loses anything."""
        log_parked(run, failure)
        stuck = msgspec.json.encode(failure).decode()
        run.is_committing = True
        self._store.submit(
            ParkRun(run_id=run.run_id, stuck=stuck),
            partial(self._parked, run, failure),
        )

    def _parked(
        self, run: LiveRun, failure: Failure, _: Any, error: BaseException | None
    ) -> None:
        run.is_committing = False
        if isinstance(error, LeaseLostError):
            self._host.drop(run)
            self._host.lease_lost(error.worker_id)
            return
        if error is not None:
            _log.error(
                "Run %s could not be parked: %s",
                name_of(run),
                error,
                extra=extra_of(run),
            )
        self._host.run_stuck(run, failure)
