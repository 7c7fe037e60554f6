"""One struct per history event: what has happened to a run, as plain data.

Names and meanings are Temporal's; instants and durations are microseconds. Events that
record a command are derived from it and have its fields: replay expects the code to
issue that command again. All others are inputs: replay hands them to the code again.

Temporal's workflow-task events have no rows here. Each row carries the number of its
workflow task instead, and an export computes them. The exception is
`WorkflowTaskStarted`, for a task whose inputs were recorded before it: those carry the
task number `UNPROCESSED`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeAlias, get_args

import msgspec

from durable.core.history.commands import (
    CancelTimer,
    CancelWorkflowExecution,
    Command,
    CompleteWorkflowExecution,
    CompleteWorkflowExecutionUpdate,
    ContinueAsNewWorkflowExecution,
    FailWorkflowExecution,
    ModifyWorkflowProperties,
    RecordMarker,
    RequestCancelActivityTask,
    RequestCancelExternalWorkflowExecution,
    RetrySettings,
    ScheduleActivityTask,
    SetState,
    SignalExternalWorkflowExecution,
    StartChildWorkflowExecution,
    StartTimer,
)
from durable.core.history.commands import (
    UpsertWorkflowSearchAttributes as UpsertSearchAttributes,
)
from durable.core.history.payload import Failure, Payload, Payloads


class _Input(msgspec.Struct, frozen=True, gc=False):
    is_input: ClassVar[bool] = True


class _ActivityFailure(_Input, frozen=True):
    scheduled_event_id: int
    failure: Failure
    attempt: int
    started_at: int
    retry_state: str
    identity: str = ""


class _OfChild(_Input, frozen=True):
    initiated_event_id: int
    workflow_id: str
    run_id: str
    workflow_type: str


class _Reached(_Input, frozen=True):
    initiated_event_id: int
    workflow_id: str
    run_id: str


class _NotReached(_Input, frozen=True):
    initiated_event_id: int
    workflow_id: str
    cause: str
    message: str = ""


class WorkflowExecutionStarted(_Input, frozen=True, kw_only=True):
    """The first event of every run.

    `known_request_ids` are of the newest messages that the run before in its chain has
    had: the same again is known. `original_run_id` is that under which a run that was
    reset has lived through what was copied: its code sees that id until then.
    """

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
    attributes: dict[str, Payload] = {}
    known_request_ids: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    start_delay: int | msgspec.UnsetType = msgspec.UNSET
    retry_policy: RetrySettings | msgspec.UnsetType = msgspec.UNSET
    last_result: Payload | msgspec.UnsetType = msgspec.UNSET
    last_failure: Failure | msgspec.UnsetType = msgspec.UNSET
    original_run_id: str | msgspec.UnsetType = msgspec.UNSET
    priority: int | msgspec.UnsetType = msgspec.UNSET
    fairness_key: str | msgspec.UnsetType = msgspec.UNSET
    fairness_weight: int | msgspec.UnsetType = msgspec.UNSET

    def begins_at(self, started_at: int) -> int:
        """When its first task is due, and its timeouts begin."""
        return started_at + (self.start_delay or 0)


class WorkflowExecutionCompleted(CompleteWorkflowExecution, frozen=True):
    """The run ended with a result."""


class WorkflowExecutionFailed(FailWorkflowExecution, frozen=True):
    """The run ended with a failure."""


class WorkflowExecutionCanceled(CancelWorkflowExecution, frozen=True):
    """The run ended as cancelled."""


class WorkflowExecutionTimedOut(_Input, frozen=True):
    """The run passed its run or execution timeout; no code ran."""

    timeout_type: str
    new_run_id: str | msgspec.UnsetType = msgspec.UNSET


class WorkflowExecutionTerminated(_Input, frozen=True):
    """The run was closed from outside; no code ran. A reset goes on as `new_run_id`."""

    reason: str
    identity: str = ""
    new_run_id: str | msgspec.UnsetType = msgspec.UNSET


class WorkflowExecutionReset(_Input, frozen=True, kw_only=True):
    """The run goes on from what it has of another, as `run_id`, from `reset_at` on.

    Its timeouts count from then, its randomness is new, and what is under way begins
    anew. Temporal records a failed workflow task with the cause of a reset.
    """

    run_id: str
    base_run_id: str
    reset_at: int
    reason: str = ""
    identity: str = ""


class WorkflowExecutionPaused(_Input, frozen=True):
    """No workflow task and no activity begins any more; what comes in is kept."""

    note: str = ""
    request_id: str = ""
    identity: str = ""


class WorkflowExecutionUnpaused(_Input, frozen=True):
    """The run goes on."""

    note: str = ""
    request_id: str = ""
    identity: str = ""


class WorkflowExecutionCancelRequested(_Input, frozen=True):
    """Somebody asked the run to stop."""

    reason: str
    request_id: str = ""
    identity: str = ""


class WorkflowTaskStarted(_Input, frozen=True):
    """A workflow task began with inputs that were recorded before it.

    Written only then: usually a task's inputs carry its number and time themselves.
    """


class ActivityTaskScheduled(ScheduleActivityTask, frozen=True):
    """An activity was asked for. Its first local attempt is recorded by this."""


class ActivityTaskCompleted(_Input, frozen=True):
    """An activity returned. Earlier attempts are rows of the attempts table."""

    scheduled_event_id: int
    result: Payload
    attempt: int
    started_at: int
    identity: str = ""
    last_failure: Failure | None = None


class ActivityTaskFailed(_ActivityFailure, frozen=True):
    """An activity raised, and there is no further attempt."""


class ActivityTaskTimedOut(_ActivityFailure, frozen=True):
    """An activity passed a timeout, and there is no further attempt."""


class ActivityTaskCancelRequested(RequestCancelActivityTask, frozen=True):
    """The workflow asked a running activity to stop."""


class ActivityTaskCanceled(_Input, frozen=True):
    """An activity stopped because it was asked to."""

    scheduled_event_id: int
    attempt: int
    started_at: int
    failure: Failure | None = None
    identity: str = ""


class TimerStarted(StartTimer, frozen=True):
    """A timer was set; it is due at the event's time plus the timeout."""


class TimerFired(_Input, frozen=True):
    """A timer came due."""

    timer_id: str
    started_event_id: int


class TimerCanceled(CancelTimer, frozen=True):
    """A timer was dropped before it fired."""


class MarkerRecorded(RecordMarker, frozen=True):
    """A fact of the library itself."""


class WorkflowExecutionSignaled(_Input, frozen=True):
    """Somebody sent the run a signal."""

    signal_name: str
    input: Payloads
    request_id: str = ""
    identity: str = ""
    headers: dict[str, str] = {}


class WorkflowExecutionUpdateAccepted(_Input, frozen=True):
    """An update passed its validator; its handler runs, or has run."""

    update_id: str
    update_name: str
    input: Payloads
    identity: str = ""
    headers: dict[str, str] = {}


class WorkflowExecutionUpdateCompleted(CompleteWorkflowExecutionUpdate, frozen=True):
    """The handler of an update returned or raised."""


class StateTransitioned(SetState, frozen=True):
    """The run published what it shows of itself."""


class UpsertWorkflowSearchAttributes(UpsertSearchAttributes, frozen=True):
    """The run changed what it is found by. Temporal calls the command alike."""


class WorkflowPropertiesModified(ModifyWorkflowProperties, frozen=True):
    """The run changed its memo."""


class StartChildWorkflowExecutionInitiated(StartChildWorkflowExecution, frozen=True):
    """A child workflow was asked for."""


class ChildWorkflowExecutionStarted(_OfChild, frozen=True):
    """The child exists."""


class StartChildWorkflowExecutionFailed(_Input, frozen=True):
    """The child could not be started; `cause` says why."""

    initiated_event_id: int
    workflow_id: str
    workflow_type: str
    cause: str
    message: str = ""


class ChildWorkflowExecutionCompleted(_OfChild, frozen=True):
    """The child ended with a result."""

    result: Payload


class ChildWorkflowExecutionFailed(_OfChild, frozen=True):
    """The child ended with a failure."""

    failure: Failure


class ChildWorkflowExecutionCanceled(_OfChild, frozen=True):
    """The child ended as cancelled."""

    failure: Failure | None = None


class ChildWorkflowExecutionTimedOut(_OfChild, frozen=True):
    """The child passed its run or execution timeout."""

    timeout_type: str = "run"


class ChildWorkflowExecutionTerminated(_OfChild, frozen=True):
    """The child was closed from outside."""

    reason: str = ""


class SignalExternalWorkflowExecutionInitiated(
    SignalExternalWorkflowExecution, frozen=True
):
    """A signal to another run is on its way."""


class ExternalWorkflowExecutionSignaled(_Reached, frozen=True):
    """The other run has the signal, durably."""


class SignalExternalWorkflowExecutionFailed(_NotReached, frozen=True):
    """The other run cannot take the signal; `cause` is an error's code."""


class RequestCancelExternalWorkflowExecutionInitiated(
    RequestCancelExternalWorkflowExecution, frozen=True
):
    """A request to stop is on its way to another run."""


class ExternalWorkflowExecutionCancelRequested(_Reached, frozen=True):
    """The other run has the request to stop, durably."""


class RequestCancelExternalWorkflowExecutionFailed(_NotReached, frozen=True):
    """The other run cannot be asked to stop; `cause` is an error's code."""


class UnreadSignal(msgspec.Struct, frozen=True, gc=False):
    """A signal that the code had not received yet, by its number in the run."""

    number: int
    signal_name: str
    input: Payloads
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class CheckpointRecorded(_Input, frozen=True, kw_only=True):
    """The code begins anew with `input`, as if it had just been called with that.

    Replay begins at the newest of these. What else the run must know is carried here:
    how many operations of each kind it has had, unread signals, whether it was asked to
    stop, the request ids it saw last, what it has published, its attributes and memo
    if it has changed them, and its newest reset.
    """

    input: Payloads
    started_at: int
    counts: dict[str, int]
    unread: tuple[UnreadSignal, ...] = ()
    cancellation_reason: str | None = None
    request_ids: tuple[str, ...] = ()
    state: Payload | None = None
    attributes: dict[str, Payload] | None = None
    memo: dict[str, Payload] | None = None
    reset: WorkflowExecutionReset | msgspec.UnsetType = msgspec.UNSET


class WorkflowExecutionContinuedAsNew(ContinueAsNewWorkflowExecution, frozen=True):
    """The run ended; its chain goes on as `new_run_id`."""


Attributes: TypeAlias = (
    WorkflowExecutionStarted
    | WorkflowExecutionCompleted
    | WorkflowExecutionFailed
    | WorkflowExecutionCanceled
    | WorkflowExecutionTimedOut
    | WorkflowExecutionTerminated
    | WorkflowExecutionCancelRequested
    | WorkflowExecutionReset
    | WorkflowExecutionPaused
    | WorkflowExecutionUnpaused
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
    | UpsertWorkflowSearchAttributes
    | WorkflowPropertiesModified
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

CLOSING: Final[frozenset[type[Attributes]]] = frozenset(TERMINAL_EVENTS)
"""The same as a set, for every turn: `isinstance` asks the abstract base of structs."""

ActivityOutcome: TypeAlias = (
    ActivityTaskCompleted
    | ActivityTaskFailed
    | ActivityTaskTimedOut
    | ActivityTaskCanceled
)
ACTIVITY_OUTCOMES: Final[tuple[type[ActivityOutcome], ...]] = get_args(ActivityOutcome)

ChildOutcome: TypeAlias = (
    ChildWorkflowExecutionCompleted
    | ChildWorkflowExecutionFailed
    | ChildWorkflowExecutionCanceled
    | ChildWorkflowExecutionTimedOut
    | ChildWorkflowExecutionTerminated
    | StartChildWorkflowExecutionFailed
)
CHILD_OUTCOMES: Final[tuple[type[ChildOutcome], ...]] = get_args(ChildOutcome)

DeliveryOutcome: TypeAlias = (
    ExternalWorkflowExecutionSignaled
    | SignalExternalWorkflowExecutionFailed
    | ExternalWorkflowExecutionCancelRequested
    | RequestCancelExternalWorkflowExecutionFailed
)
"""How a signal or a request to stop reached another run, or why it did not."""
DELIVERY_OUTCOMES: Final[tuple[type[DeliveryOutcome], ...]] = get_args(DeliveryOutcome)


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
    event.__bases__[0]: event for event in EVENT_TYPES.values() if not event.is_input
}
"""Which event each command becomes."""


def next_run_id(terminal: Attributes | None) -> str | None:
    """The run that a chain goes on as after this event, if it does."""
    return getattr(terminal, "new_run_id", None) or None


def event_of(command: Command) -> Attributes:
    """Turn a command into the event that records it: they have the same fields."""
    event: Attributes = EVENT_OF[type(command)](*msgspec.structs.astuple(command))
    return event
