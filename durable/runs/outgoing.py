"""What a committed turn asks of other runs, as operations that share its commit.

Messages travel in the transaction of the turn that sent them, so there is nothing to
lose between the two. A closing turn takes along how its run ended, for its parent, the
next run of its chain, and the children that are to outlive it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from durable.core.history.codec import encode_attributes
from durable.core.history.events import (
    ActivityTaskScheduled,
    Attributes,
    ChildWorkflowExecutionCanceled,
    ChildWorkflowExecutionCompleted,
    ChildWorkflowExecutionFailed,
    ChildWorkflowExecutionStarted,
    ChildWorkflowExecutionTimedOut,
    ExternalWorkflowExecutionCancelRequested,
    ExternalWorkflowExecutionSignaled,
    HistoryEvent,
    MarkerRecorded,
    RequestCancelExternalWorkflowExecutionFailed,
    RequestCancelExternalWorkflowExecutionInitiated,
    SignalExternalWorkflowExecutionFailed,
    SignalExternalWorkflowExecutionInitiated,
    StartChildWorkflowExecutionFailed,
    StartChildWorkflowExecutionInitiated,
    StateTransitioned,
    UpsertWorkflowSearchAttributes,
    WorkflowExecutionCanceled,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionFailed,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
    WorkflowPropertiesModified,
    next_run_id,
)
from durable.core.history.payload import Failure, changed_headers
from durable.core.messages import encode_message
from durable.core.replay.next_tries import following_run_id, next_delay
from durable.core.workflow_task import WorkflowTaskCompletion
from durable.errors import DurableError
from durable.options import IdReusePolicy
from durable.runs.live_run import LiveRun
from durable.search.kinds import pack
from durable.search.run_fields import with_patches
from durable.store.beginnings import record_of, unowned, with_defaults
from durable.store.records import (
    MessageKind,
    Properties,
    PutMessage,
    RunRecord,
    RunStatus,
    StartRun,
)

DELIVERIES: Final = (
    SignalExternalWorkflowExecutionInitiated,
    RequestCancelExternalWorkflowExecutionInitiated,
)
"""The events that send something to another run."""


STATUS_OF: Final[dict[type[Attributes], RunStatus]] = {
    WorkflowExecutionCompleted: RunStatus.COMPLETED,
    WorkflowExecutionFailed: RunStatus.FAILED,
    WorkflowExecutionCanceled: RunStatus.CANCELLED,
    WorkflowExecutionTimedOut: RunStatus.TIMED_OUT,
    WorkflowExecutionContinuedAsNew: RunStatus.CONTINUED_AS_NEW,
    WorkflowExecutionTerminated: RunStatus.TERMINATED,
}

_attributes: Final = operator.attrgetter("attributes")
_STARTS: Final = frozenset(
    {
        StartChildWorkflowExecutionInitiated,
        WorkflowExecutionContinuedAsNew,
        WorkflowExecutionFailed,
        WorkflowExecutionTimedOut,
    }
)
_DESCRIBING: Final = frozenset(
    {MarkerRecorded, UpsertWorkflowSearchAttributes, WorkflowPropertiesModified}
)
_SAYING: Final = frozenset({StateTransitioned, *DELIVERIES, *_DESCRIBING, *_STARTS})
_WORK: Final = frozenset(
    {*DELIVERIES, ActivityTaskScheduled, StartChildWorkflowExecutionInitiated}
)


def kinds_of(events: Iterable[HistoryEvent]) -> set[type[Attributes]]:
    """The kinds of a turn's events; without a step of Python for each."""
    return {*map(type, map(_attributes, events))}


def has_work(kinds: set[type[Attributes]]) -> bool:
    """Whether events of these kinds ask for what their owner must see to at once."""
    return not kinds.isdisjoint(_WORK)


class Said(msgspec.Struct, frozen=True):
    """What a turn writes beside events, as `CommitTask` takes it."""

    state: str | None = None
    properties: Properties | None = None
    messages: tuple[PutMessage, ...] = ()
    starts: tuple[StartRun, ...] = ()


_NOTHING: Final = Said()


def said_by(
    run: LiveRun, completion: WorkflowTaskCompletion, kinds: set[type[Attributes]]
) -> Said:
    """What a turn with these kinds of events says to others, and of its run."""
    if kinds.isdisjoint(_SAYING) and run.started.parent_run_id is None:
        return _NOTHING
    events = completion.events
    return Said(
        _published_state(events) if StateTransitioned in kinds else None,
        _properties_of(run, kinds),
        _messages_of(run, completion, kinds),
        _starts_of(run, events, kinds) if completion.is_closed else (),
    )


def _properties_of(run: LiveRun, kinds: set[type[Attributes]]) -> Properties | None:
    """What the run says of itself, if a turn with these kinds of events changed it."""
    if kinds.isdisjoint(_DESCRIBING):
        return None
    attributes, memo = run.replayer.described()
    # One that was taken away is not one that never was.
    return Properties(
        namespace=run.started.namespace,
        attributes=pack(with_patches(attributes, run.replayer.patches())),
        memo=pack(memo) or "{}",
    )


def _published_state(events: Iterable[HistoryEvent]) -> str | None:
    """What a turn published last, as the run's row keeps it."""
    found = None
    for event in events:
        if type(event.attributes) is StateTransitioned:
            found = event.attributes.current
    return None if found is None else msgspec.json.encode(found).decode()


# --- messages -------------------------------------------------------------------------


def _messages_of(
    run: LiveRun, completion: WorkflowTaskCompletion, kinds: set[type[Attributes]]
) -> tuple[PutMessage, ...]:
    """What a turn with these kinds of events sends to other runs."""
    messages: list[PutMessage] = []
    if not kinds.isdisjoint(DELIVERIES) and completion.failure is None:
        messages += [delivery(run, e) for e in deliveries_of(completion.events)]
    if completion.is_closed:
        news = news_for_parent(run, completion.events[-1].attributes)
        if news is not None:
            messages.append(news)
    return tuple(messages)


def deliveries_of(events: Iterable[HistoryEvent]) -> list[HistoryEvent]:
    """The events that send something to another run."""
    return [event for event in events if type(event.attributes) in DELIVERIES]


def delivery(run: LiveRun, event: HistoryEvent) -> PutMessage:
    """The message of such an event. Its request id makes a repetition harmless."""
    started = run.started
    request_id = f"{run.run_id}/{event.event_id}"
    identity = f"workflow {started.workflow_id}"
    what: Any = event.attributes
    if isinstance(what, SignalExternalWorkflowExecutionInitiated):
        kind = MessageKind.SIGNAL
        body: Attributes = WorkflowExecutionSignaled(
            signal_name=what.signal_name,
            input=what.input,
            request_id=request_id,
            identity=identity,
            headers=what.headers,
        )
    else:
        kind = MessageKind.CANCEL
        body = WorkflowExecutionCancelRequested(
            reason=what.reason, request_id=request_id, identity=identity
        )
    return PutMessage(
        namespace=started.namespace,
        workflow_id=what.workflow_id,
        run_id=what.run_id,
        kind=kind.value,
        request_id=request_id,
        data=encode_attributes(body),
    )


def delivered(event: HistoryEvent, outcome: str | DurableError) -> Attributes:
    """The answer to a delivery, as the sender's history keeps it."""
    what: Any = event.attributes
    is_signal = isinstance(what, SignalExternalWorkflowExecutionInitiated)
    if isinstance(outcome, str):
        reached: Any = (
            ExternalWorkflowExecutionSignaled
            if is_signal
            else ExternalWorkflowExecutionCancelRequested
        )
        answer: Attributes = reached(event.event_id, what.workflow_id, outcome)
        return answer
    missed: Any = (
        SignalExternalWorkflowExecutionFailed
        if is_signal
        else RequestCancelExternalWorkflowExecutionFailed
    )
    answer = missed(event.event_id, what.workflow_id, outcome.code, outcome.message)
    return answer


def outcome_for_parent(run: LiveRun, terminal: Attributes) -> Attributes | None:
    """How a child ended, for its parent's history; None if its chain goes on."""
    if next_run_id(terminal) is not None:
        return None
    started = run.started
    about = (
        started.parent_initiated_event_id,
        run.workflow_id,
        run.run_id,
        run.workflow_type,
    )
    event: Any = None
    if isinstance(terminal, WorkflowExecutionCompleted):
        event = ChildWorkflowExecutionCompleted(*about, terminal.result)  # type: ignore[arg-type]  # set with the parent
    elif isinstance(terminal, WorkflowExecutionFailed):
        event = ChildWorkflowExecutionFailed(*about, terminal.failure)  # type: ignore[arg-type]  # set with the parent
    elif isinstance(terminal, WorkflowExecutionCanceled):
        event = ChildWorkflowExecutionCanceled(*about, terminal.failure)  # type: ignore[arg-type]  # set with the parent
    elif isinstance(terminal, WorkflowExecutionTimedOut):
        event = ChildWorkflowExecutionTimedOut(*about, terminal.timeout_type)  # type: ignore[arg-type]  # set with the parent
    answer: Attributes | None = event
    return answer


def news_for_parent(run: LiveRun, terminal: Attributes) -> PutMessage | None:
    """The message that tells a run's parent how it ended."""
    started = run.started
    if started.parent_run_id is None or started.parent_workflow_id is None:
        return None
    event = outcome_for_parent(run, terminal)
    if event is None:
        return None
    return PutMessage(
        namespace=started.namespace,
        workflow_id=started.parent_workflow_id,
        run_id=started.parent_run_id,
        kind=MessageKind.CHILD.value,
        request_id=child_request_id(started.first_run_id),
        data=encode_message(event),
    )


def child_request_id(first_run_id: str) -> str:
    """The request id of the message about how a child ended."""
    return f"child:{first_run_id}"


# --- starts ---------------------------------------------------------------------------


def child_start(
    run: LiveRun, event: HistoryEvent, run_id: str, now: int
) -> tuple[WorkflowExecutionStarted, RunRecord]:
    """The first event and the row of a child."""
    parent = run.started
    what = event.attributes
    assert isinstance(what, StartChildWorkflowExecutionInitiated)  # noqa: S101 - by the caller
    settings = what.settings
    child = run.replayer.pending_child(event.event_id)
    headers = (child and child.headers) or run.task_headers
    root = parent.root_run_id or parent.run_id
    started = WorkflowExecutionStarted(
        workflow_type=what.workflow_type,
        input=what.input,
        task_queue=settings.task_queue,
        workflow_id=what.workflow_id,
        run_id=run_id,
        first_run_id=run_id,
        # The same child however often it is asked for.
        request_id=f"{run.run_id}/{event.event_id}",
        namespace=parent.namespace,
        execution_timeout=settings.execution_timeout,
        run_timeout=settings.run_timeout,
        parent_workflow_id=parent.workflow_id,
        parent_run_id=run.run_id,
        parent_initiated_event_id=event.event_id,
        root_workflow_id=parent.root_workflow_id or parent.workflow_id,
        root_run_id=root,
        version=settings.version,
        identity=f"workflow {parent.workflow_id}",
        headers=changed_headers({**parent.headers, **headers}, what.headers),
        memo=settings.memo,
        retry_policy=settings.retry_policy,
        last_result=settings.last_result,
        last_failure=settings.last_failure,
        attributes=settings.attributes,
    )
    started = with_defaults(started, run.terms.defaults())
    return started, record_of(started, now, settings.parent_close_policy)


def child_begun(event: HistoryEvent, outcome: str | DurableError) -> Attributes:
    """Whether a child was started, as its parent's history keeps it."""
    what: Any = event.attributes
    if isinstance(outcome, str):
        return ChildWorkflowExecutionStarted(
            event.event_id, what.workflow_id, outcome, what.workflow_type
        )
    return StartChildWorkflowExecutionFailed(
        event.event_id,
        what.workflow_id,
        what.workflow_type,
        outcome.code,
        outcome.message,
    )


def unowned_start(
    started: WorkflowExecutionStarted, record: RunRecord, policy: IdReusePolicy
) -> StartRun:
    """Create a run for whichever worker takes it."""
    return unowned(StartRun(record=record, rows=[], reuse_policy=policy), [started])


def _starts_of(
    run: LiveRun, events: Sequence[HistoryEvent], kinds: set[type[Attributes]]
) -> tuple[StartRun, ...]:
    """What the turn with these kinds of events, which ends a run, starts."""
    if kinds.isdisjoint(_STARTS):
        return ()
    closing = events[-1]
    starts = _surviving_children(run, events, closing.time)
    going = closing.attributes
    if isinstance(going, WorkflowExecutionContinuedAsNew):
        # Later than this run in any case, so that it is the newest of its id.
        now = max(closing.time, run.started_at + 1)
        start = successor(run, going, now)
        version = start.record.version
        if run.terms.can_run(going.task_queue, going.workflow_type, version):
            record = msgspec.structs.replace(start.record, owner=run.terms.worker_id)
            start = msgspec.structs.replace(start, record=record)
        starts.append(start)
    elif next_run_id(going) is not None:
        starts.append(_next_try(run, going, max(closing.time, run.started_at + 1)))
    return tuple(starts)


def timed_out(run: LiveRun, timeout_type: str, now: int) -> WorkflowExecutionTimedOut:
    """The end of a run whose time is up; it names the next if there is another try."""
    started = run.started
    delay = None
    if timeout_type == "run":
        delay = next_delay(started, None, started_at=run.started_at, now=now)
    if delay is None:
        return WorkflowExecutionTimedOut(timeout_type)
    return WorkflowExecutionTimedOut(timeout_type, following_run_id(run.run_id, now))


def _next_try(run: LiveRun, closing: Any, now: int) -> StartRun:
    """The start of the next run of a chain whose newest has failed."""
    old = run.started
    failure: Failure | None = getattr(closing, "failure", None)
    delay = next_delay(old, failure, started_at=run.started_at, now=now) or 0
    begun = msgspec.structs.replace(
        old,
        attempt=old.attempt + 1,
        start_delay=delay or msgspec.UNSET,
        last_failure=failure
        or Failure(
            message=f"It passed its {closing.timeout_type}_timeout.",
            kind="timeout",
            type="WorkflowTimedOutError",
            timeout_type=closing.timeout_type,
        ),
    )
    start = _following(run, begun, closing.new_run_id, now, delay)
    record = msgspec.structs.replace(start.record, wake_at=now + delay)
    return msgspec.structs.replace(start, record=record)


def _surviving_children(
    run: LiveRun, events: Sequence[HistoryEvent], now: int
) -> list[StartRun]:
    """The starts of children that a run asks for in the turn that ends it.

    Only those that are to outlive it: all others would end before their first line.
    """
    starts: list[StartRun] = []
    for event in events:
        what = event.attributes
        if (
            isinstance(what, StartChildWorkflowExecutionInitiated)
            and what.settings.parent_close_policy == "abandon"
        ):
            started, record = child_start(run, event, run.terms.new_run_id(), now)
            policy = IdReusePolicy(what.settings.id_reuse_policy)
            starts.append(unowned_start(started, record, policy))
    return starts


def successor(
    run: LiveRun, closing: WorkflowExecutionContinuedAsNew, now: int
) -> StartRun:
    """The start of the next run of a chain, with the signals that nobody received."""
    started = msgspec.structs.replace(
        run.started,
        workflow_type=closing.workflow_type,
        # Of another workflow, whichever version is there takes the run.
        version=closing.version
        or (
            run.started.version
            if closing.workflow_type == run.started.workflow_type
            else None
        ),
        input=closing.input,
        task_queue=closing.task_queue,
        run_timeout=closing.run_timeout,
        headers=closing.headers,
        memo=closing.memo,
        attributes=closing.attributes,
        attempt=1,
        start_delay=msgspec.UNSET,
    )
    return _following(run, started, closing.new_run_id, now, 0)


def _following(
    run: LiveRun, started: WorkflowExecutionStarted, run_id: str, now: int, delay: int
) -> StartRun:
    """The start of a run of this chain that begins so, after this one."""
    old = run.started
    left = None
    if old.execution_timeout is not None:
        passed = now + delay - old.begins_at(run.started_at)
        left = max(1, old.execution_timeout - passed)
    started = msgspec.structs.replace(
        started,
        run_id=run_id,
        request_id=run_id,
        execution_timeout=left,
        continued_from_run_id=run.run_id,
        known_request_ids=run.replayer.request_ids() or msgspec.UNSET,
    )
    carried = [
        WorkflowExecutionSignaled(
            signal_name=signal.signal_name,
            input=signal.input,
            request_id=f"{run.run_id}/unread/{signal.number}",
            headers=signal.headers or {},
        )
        for signal in run.replayer.unread_signals()
    ]
    record = record_of(started, now, run.parent_close_policy)
    return unowned(StartRun(record=record, rows=[]), [started, *carried])
