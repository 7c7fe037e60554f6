"""One struct per history event: what has happened to a run, as plain data.

Names and meanings are Temporal's; instants and durations are microseconds. Events that
answer a command are `caused by` it: replay expects the code to issue that command
again. All others are inputs: replay hands them to the code again.

Temporal's workflow-task events have no rows here. Each row carries the number of its
workflow task instead, and an export computes them. The exception is
`WorkflowTaskStarted`, for a task whose inputs were recorded before it: those carry the
task number `UNPROCESSED`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeAlias, get_args

import msgspec

from durable.core.commands import (
    ActivitySettings,
    CancelTimer,
    CancelWorkflowExecution,
    ChildSettings,
    Command,
    CompleteWorkflowExecution,
    CompleteWorkflowExecutionUpdate,
    ContinueAsNewWorkflowExecution,
    FailWorkflowExecution,
    RecordMarker,
    RequestCancelActivityTask,
    RequestCancelExternalWorkflowExecution,
    ScheduleActivityTask,
    SetState,
    SignalExternalWorkflowExecution,
    StartChildWorkflowExecution,
    StartTimer,
)
from durable.core.payload import Failure, Payload, Payloads


class WorkflowExecutionStarted(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The first event of every run.

    `known_request_ids` are of the newest messages that the run before in its chain has
    had: the same again is known.
    """

    is_input: ClassVar[bool] = True
    workflow_type: str
    input: Payloads
    task_queue: str
    workflow_id: str
    run_id: str
    first_run_id: str
    request_id: str
    namespace: str = "default"
    execution_timeout: int | None = None
    run_timeout: int | None = None
    continued_from_run_id: str | None = None
    parent_workflow_id: str | None = None
    parent_run_id: str | None = None
    parent_initiated_event_id: int | None = None
    root_workflow_id: str | None = None
    root_run_id: str | None = None
    version: str | None = None
    identity: str = ""
    attempt: int = 1
    headers: dict[str, str] = {}
    memo: dict[str, Payload] = {}
    known_request_ids: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class WorkflowExecutionCompleted(msgspec.Struct, frozen=True, gc=False):
    """The run ended with a result."""

    is_input: ClassVar[bool] = False
    result: Payload


class WorkflowExecutionFailed(msgspec.Struct, frozen=True, gc=False):
    """The run ended with a failure."""

    is_input: ClassVar[bool] = False
    failure: Failure


class WorkflowExecutionCanceled(msgspec.Struct, frozen=True, gc=False):
    """The run ended as cancelled."""

    is_input: ClassVar[bool] = False
    failure: Failure | None = None


class WorkflowExecutionTimedOut(msgspec.Struct, frozen=True, gc=False):
    """The run passed its run or execution timeout; no code ran."""

    is_input: ClassVar[bool] = True
    timeout_type: str


class WorkflowExecutionTerminated(msgspec.Struct, frozen=True, gc=False):
    """The run was closed from outside; no code ran."""

    is_input: ClassVar[bool] = True
    reason: str
    identity: str = ""


class WorkflowExecutionCancelRequested(msgspec.Struct, frozen=True, gc=False):
    """Somebody asked the run to stop."""

    is_input: ClassVar[bool] = True
    reason: str
    request_id: str = ""
    identity: str = ""


class WorkflowTaskStarted(msgspec.Struct, frozen=True, gc=False):
    """A workflow task began with inputs that were recorded before it.

    Written only then: usually a task's inputs carry its number and time themselves.
    """

    is_input: ClassVar[bool] = True


class ActivityTaskScheduled(msgspec.Struct, frozen=True, gc=False):
    """An activity was asked for. Its first local attempt is recorded by this."""

    is_input: ClassVar[bool] = False
    activity_id: str
    activity_type: str
    input: Payloads
    settings: ActivitySettings
    headers: dict[str, str]
    summary: str | None = None
    source: str = ""


class ActivityTaskCompleted(msgspec.Struct, frozen=True, gc=False):
    """An activity returned. Earlier attempts are rows of the attempts table."""

    is_input: ClassVar[bool] = True
    scheduled_event_id: int
    result: Payload
    attempt: int
    started_at: int
    identity: str = ""
    last_failure: Failure | None = None


class ActivityTaskFailed(msgspec.Struct, frozen=True, gc=False):
    """An activity raised, and there is no further attempt."""

    is_input: ClassVar[bool] = True
    scheduled_event_id: int
    failure: Failure
    attempt: int
    started_at: int
    retry_state: str
    identity: str = ""


class ActivityTaskTimedOut(msgspec.Struct, frozen=True, gc=False):
    """An activity passed a timeout, and there is no further attempt."""

    is_input: ClassVar[bool] = True
    scheduled_event_id: int
    failure: Failure
    attempt: int
    started_at: int
    retry_state: str
    identity: str = ""


class ActivityTaskCancelRequested(msgspec.Struct, frozen=True, gc=False):
    """The workflow asked a running activity to stop."""

    is_input: ClassVar[bool] = False
    activity_id: str
    scheduled_event_id: int
    source: str = ""


class ActivityTaskCanceled(msgspec.Struct, frozen=True, gc=False):
    """An activity stopped because it was asked to."""

    is_input: ClassVar[bool] = True
    scheduled_event_id: int
    attempt: int
    started_at: int
    failure: Failure | None = None
    identity: str = ""


class TimerStarted(msgspec.Struct, frozen=True, gc=False):
    """A timer was set; it is due at the event's time plus the timeout."""

    is_input: ClassVar[bool] = False
    timer_id: str
    start_to_fire_timeout: int
    summary: str | None = None
    source: str = ""


class TimerFired(msgspec.Struct, frozen=True, gc=False):
    """A timer came due."""

    is_input: ClassVar[bool] = True
    timer_id: str
    started_event_id: int


class TimerCanceled(msgspec.Struct, frozen=True, gc=False):
    """A timer was dropped before it fired."""

    is_input: ClassVar[bool] = False
    timer_id: str
    started_event_id: int
    source: str = ""


class MarkerRecorded(msgspec.Struct, frozen=True, gc=False):
    """A fact of the library itself."""

    is_input: ClassVar[bool] = False
    marker_name: str
    details: dict[str, Payload]
    source: str = ""


class WorkflowExecutionSignaled(msgspec.Struct, frozen=True, gc=False):
    """Somebody sent the run a signal."""

    is_input: ClassVar[bool] = True
    signal_name: str
    input: Payloads
    request_id: str = ""
    identity: str = ""
    headers: dict[str, str] = {}


class WorkflowExecutionUpdateAccepted(msgspec.Struct, frozen=True, gc=False):
    """An update passed its validator; its handler runs, or has run."""

    is_input: ClassVar[bool] = True
    update_id: str
    update_name: str
    input: Payloads
    identity: str = ""
    headers: dict[str, str] = {}


class WorkflowExecutionUpdateCompleted(msgspec.Struct, frozen=True, gc=False):
    """The handler of an update returned or raised."""

    is_input: ClassVar[bool] = False
    update_id: str
    result: Payload | None = None
    failure: Failure | None = None


class StateTransitioned(msgspec.Struct, frozen=True, gc=False):
    """The run published what it shows of itself."""

    is_input: ClassVar[bool] = False
    previous: Payload | None
    current: Payload


class StartChildWorkflowExecutionInitiated(msgspec.Struct, frozen=True, gc=False):
    """A child workflow was asked for."""

    is_input: ClassVar[bool] = False
    workflow_id: str
    workflow_type: str
    input: Payloads
    settings: ChildSettings
    headers: dict[str, str]
    summary: str | None = None
    source: str = ""


class ChildWorkflowExecutionStarted(msgspec.Struct, frozen=True, gc=False):
    """The child exists."""

    is_input: ClassVar[bool] = True
    initiated_event_id: int
    workflow_id: str
    run_id: str
    workflow_type: str


class StartChildWorkflowExecutionFailed(msgspec.Struct, frozen=True, gc=False):
    """The child could not be started; `cause` says why."""

    is_input: ClassVar[bool] = True
    initiated_event_id: int
    workflow_id: str
    workflow_type: str
    cause: str
    message: str = ""


class ChildWorkflowExecutionCompleted(msgspec.Struct, frozen=True, gc=False):
    """The child ended with a result."""

    is_input: ClassVar[bool] = True
    initiated_event_id: int
    workflow_id: str
    run_id: str
    workflow_type: str
    result: Payload


class ChildWorkflowExecutionFailed(msgspec.Struct, frozen=True, gc=False):
    """The child ended with a failure."""

    is_input: ClassVar[bool] = True
    initiated_event_id: int
    workflow_id: str
    run_id: str
    workflow_type: str
    failure: Failure


class ChildWorkflowExecutionCanceled(msgspec.Struct, frozen=True, gc=False):
    """The child ended as cancelled."""

    is_input: ClassVar[bool] = True
    initiated_event_id: int
    workflow_id: str
    run_id: str
    workflow_type: str
    failure: Failure | None = None


class ChildWorkflowExecutionTimedOut(msgspec.Struct, frozen=True, gc=False):
    """The child passed its run or execution timeout."""

    is_input: ClassVar[bool] = True
    initiated_event_id: int
    workflow_id: str
    run_id: str
    workflow_type: str
    timeout_type: str = "run"


class ChildWorkflowExecutionTerminated(msgspec.Struct, frozen=True, gc=False):
    """The child was closed from outside."""

    is_input: ClassVar[bool] = True
    initiated_event_id: int
    workflow_id: str
    run_id: str
    workflow_type: str
    reason: str = ""


class SignalExternalWorkflowExecutionInitiated(msgspec.Struct, frozen=True, gc=False):
    """A signal to another run is on its way."""

    is_input: ClassVar[bool] = False
    workflow_id: str
    run_id: str | None
    signal_name: str
    input: Payloads
    headers: dict[str, str]
    child_workflow_only: bool = False
    source: str = ""


class ExternalWorkflowExecutionSignaled(msgspec.Struct, frozen=True, gc=False):
    """The other run has the signal, durably."""

    is_input: ClassVar[bool] = True
    initiated_event_id: int
    workflow_id: str
    run_id: str


class SignalExternalWorkflowExecutionFailed(msgspec.Struct, frozen=True, gc=False):
    """The other run cannot take the signal; `cause` is an error's code."""

    is_input: ClassVar[bool] = True
    initiated_event_id: int
    workflow_id: str
    cause: str
    message: str = ""


class RequestCancelExternalWorkflowExecutionInitiated(
    msgspec.Struct, frozen=True, gc=False
):
    """A request to stop is on its way to another run."""

    is_input: ClassVar[bool] = False
    workflow_id: str
    run_id: str | None
    reason: str
    child_workflow_only: bool = False
    source: str = ""


class ExternalWorkflowExecutionCancelRequested(msgspec.Struct, frozen=True, gc=False):
    """The other run has the request to stop, durably."""

    is_input: ClassVar[bool] = True
    initiated_event_id: int
    workflow_id: str
    run_id: str


class RequestCancelExternalWorkflowExecutionFailed(
    msgspec.Struct, frozen=True, gc=False
):
    """The other run cannot be asked to stop; `cause` is an error's code."""

    is_input: ClassVar[bool] = True
    initiated_event_id: int
    workflow_id: str
    cause: str
    message: str = ""


class UnreadSignal(msgspec.Struct, frozen=True, gc=False):
    """A signal that the code had not received yet, by its number in the run."""

    number: int
    signal_name: str
    input: Payloads


class CheckpointRecorded(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The code begins anew with `input`, as if it had just been called with that.

    Replay begins at the newest of these. What else the run must know is carried here:
    how many operations of each kind it has had, unread signals, whether it was asked to
    stop, the request ids it saw last, and what it has published.
    """

    is_input: ClassVar[bool] = True
    input: Payloads
    started_at: int
    counts: dict[str, int]
    unread: tuple[UnreadSignal, ...] = ()
    cancellation_reason: str | None = None
    request_ids: tuple[str, ...] = ()
    state: Payload | None = None


class WorkflowExecutionContinuedAsNew(msgspec.Struct, frozen=True, gc=False):
    """The run ended; its chain goes on as `new_run_id`."""

    is_input: ClassVar[bool] = False
    new_run_id: str
    workflow_type: str
    input: Payloads
    task_queue: str
    run_timeout: int | None
    memo: dict[str, Payload]
    headers: dict[str, str]


Attributes: TypeAlias = (
    WorkflowExecutionStarted
    | WorkflowExecutionCompleted
    | WorkflowExecutionFailed
    | WorkflowExecutionCanceled
    | WorkflowExecutionTimedOut
    | WorkflowExecutionTerminated
    | WorkflowExecutionCancelRequested
    | WorkflowTaskStarted
    | ActivityTaskScheduled
    | ActivityTaskCompleted
    | ActivityTaskFailed
    | ActivityTaskTimedOut
    | ActivityTaskCancelRequested
    | ActivityTaskCanceled
    | TimerStarted
    | TimerFired
    | TimerCanceled
    | MarkerRecorded
    | WorkflowExecutionSignaled
    | WorkflowExecutionUpdateAccepted
    | WorkflowExecutionUpdateCompleted
    | StateTransitioned
    | StartChildWorkflowExecutionInitiated
    | ChildWorkflowExecutionStarted
    | StartChildWorkflowExecutionFailed
    | ChildWorkflowExecutionCompleted
    | ChildWorkflowExecutionFailed
    | ChildWorkflowExecutionCanceled
    | ChildWorkflowExecutionTimedOut
    | ChildWorkflowExecutionTerminated
    | SignalExternalWorkflowExecutionInitiated
    | ExternalWorkflowExecutionSignaled
    | SignalExternalWorkflowExecutionFailed
    | RequestCancelExternalWorkflowExecutionInitiated
    | ExternalWorkflowExecutionCancelRequested
    | RequestCancelExternalWorkflowExecutionFailed
    | CheckpointRecorded
    | WorkflowExecutionContinuedAsNew
)

EVENT_TYPES: Final[dict[str, type[Attributes]]] = {
    event.__name__: event for event in get_args(Attributes)
}

RESERVED_EVENT_TYPES: Final = frozenset(
    f"WorkflowTask{state}" for state in ("Scheduled", "Completed", "TimedOut", "Failed")
)
"""Temporal's names for what a row's task number says here; never written."""

TERMINAL_EVENTS: Final = (
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionCanceled,
    WorkflowExecutionTimedOut,
    WorkflowExecutionTerminated,
    WorkflowExecutionContinuedAsNew,
)

ACTIVITY_OUTCOMES: Final = (
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskTimedOut,
    ActivityTaskCanceled,
)

CHILD_OUTCOMES: Final = (
    ChildWorkflowExecutionCompleted,
    ChildWorkflowExecutionFailed,
    ChildWorkflowExecutionCanceled,
    ChildWorkflowExecutionTimedOut,
    ChildWorkflowExecutionTerminated,
    StartChildWorkflowExecutionFailed,
)

DELIVERY_OUTCOMES: Final = (
    ExternalWorkflowExecutionSignaled,
    SignalExternalWorkflowExecutionFailed,
    ExternalWorkflowExecutionCancelRequested,
    RequestCancelExternalWorkflowExecutionFailed,
)
"""How a signal or a request to stop reached another run, or why it did not."""


UNPROCESSED: Final = 0
"""The task number of an input that was recorded before any task took it."""


class HistoryEvent(msgspec.Struct, frozen=True, gc=False):
    """One event in its place.

    Attributes:
        event_id: its position in the run, from 1 without gaps.
        task_number: the workflow task that it belongs to, from 1; `UNPROCESSED` for an
            input that the next task takes.
        time: that task's time: what workflow code sees as now.
        attributes: what happened.
        flags: the library behaviour that the task ran under.
    """

    event_id: int
    task_number: int
    time: int
    attributes: Attributes
    flags: int = 0


EVENT_OF: Final[dict[type[Any], type[Any]]] = {
    ScheduleActivityTask: ActivityTaskScheduled,
    RequestCancelActivityTask: ActivityTaskCancelRequested,
    StartTimer: TimerStarted,
    CancelTimer: TimerCanceled,
    RecordMarker: MarkerRecorded,
    StartChildWorkflowExecution: StartChildWorkflowExecutionInitiated,
    SignalExternalWorkflowExecution: SignalExternalWorkflowExecutionInitiated,
    RequestCancelExternalWorkflowExecution: (
        RequestCancelExternalWorkflowExecutionInitiated
    ),
    CompleteWorkflowExecutionUpdate: WorkflowExecutionUpdateCompleted,
    SetState: StateTransitioned,
    ContinueAsNewWorkflowExecution: WorkflowExecutionContinuedAsNew,
    CompleteWorkflowExecution: WorkflowExecutionCompleted,
    FailWorkflowExecution: WorkflowExecutionFailed,
    CancelWorkflowExecution: WorkflowExecutionCanceled,
}
"""Which event each command becomes."""


def event_of(command: Command) -> Attributes:
    """Turn a command into the event that records it: they have the same fields."""
    event: Attributes = EVENT_OF[type(command)](*msgspec.structs.astuple(command))
    return event
