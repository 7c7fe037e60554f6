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

from typing import Any, ClassVar, Final, TypeAlias

import msgspec

from durable.core.commands import (
    ActivitySettings,
    CancelTimer,
    CancelWorkflowExecution,
    Command,
    CompleteWorkflowExecution,
    FailWorkflowExecution,
    RecordMarker,
    RequestCancelActivityTask,
    ScheduleActivityTask,
    StartTimer,
)
from durable.core.payload import Failure, Payload, Payloads


class WorkflowExecutionStarted(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The first event of every run."""

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
    root_workflow_id: str | None = None
    root_run_id: str | None = None
    version: str | None = None
    identity: str = ""
    attempt: int = 1
    headers: dict[str, str] = {}
    memo: dict[str, Payload] = {}


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
)

EVENT_TYPES: Final[dict[str, type[Attributes]]] = {
    event.__name__: event
    for event in (
        WorkflowExecutionStarted,
        WorkflowExecutionCompleted,
        WorkflowExecutionFailed,
        WorkflowExecutionCanceled,
        WorkflowExecutionTimedOut,
        WorkflowExecutionTerminated,
        WorkflowExecutionCancelRequested,
        WorkflowTaskStarted,
        ActivityTaskScheduled,
        ActivityTaskCompleted,
        ActivityTaskFailed,
        ActivityTaskTimedOut,
        ActivityTaskCancelRequested,
        ActivityTaskCanceled,
        TimerStarted,
        TimerFired,
        TimerCanceled,
        MarkerRecorded,
    )
}

RESERVED_EVENT_TYPES: Final = frozenset(
    {
        "WorkflowTaskScheduled",
        "WorkflowTaskCompleted",
        "WorkflowTaskTimedOut",
        "WorkflowTaskFailed",
    }
)
"""Temporal's names for what a row's task number says here; never written."""

TERMINAL_EVENTS: Final = (
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionCanceled,
    WorkflowExecutionTimedOut,
    WorkflowExecutionTerminated,
)

ACTIVITY_OUTCOMES: Final = (
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskTimedOut,
    ActivityTaskCanceled,
)


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
    CompleteWorkflowExecution: WorkflowExecutionCompleted,
    FailWorkflowExecution: WorkflowExecutionFailed,
    CancelWorkflowExecution: WorkflowExecutionCanceled,
}
"""Which event each command becomes."""


def event_of(command: Command) -> Attributes:
    """Turn a command into the event that records it: they have the same fields."""
    event: Attributes = EVENT_OF[type(command)](*msgspec.structs.astuple(command))
    return event
