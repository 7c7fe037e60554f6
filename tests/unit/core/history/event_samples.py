"""Events and histories made by hand, each event in a task and a second of its own."""

from typing import Any

import msgspec

from durable.core.history.commands import ONE_ATTEMPT, ActivitySettings, ChildSettings
from durable.core.history.events import (
    ActivityTaskCanceled,
    ActivityTaskCancelRequested,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskScheduled,
    ActivityTaskTimedOut,
    Attributes,
    CheckpointRecorded,
    ChildWorkflowExecutionCanceled,
    ChildWorkflowExecutionCompleted,
    ChildWorkflowExecutionFailed,
    ChildWorkflowExecutionStarted,
    ChildWorkflowExecutionTerminated,
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
    TimerCanceled,
    TimerFired,
    TimerStarted,
    UnreadSignal,
    UpsertWorkflowSearchAttributes,
    WorkflowExecutionCanceled,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionFailed,
    WorkflowExecutionPaused,
    WorkflowExecutionReset,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
    WorkflowExecutionUnpaused,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
    WorkflowPropertiesModified,
    WorkflowTaskStarted,
)
from durable.core.history.payload import NULL, Failure, Payload

SECOND = 1_000_000
T0 = 1_700_000_000 * SECOND
FAILURE = Failure(message="no", type="ValueError")

STARTED = WorkflowExecutionStarted(
    workflow_type="place_order",
    input=(),
    task_queue="default",
    workflow_id="order-42",
    run_id="run-1",
    first_run_id="run-1",
    request_id="run-1",
)
SETTINGS = ActivitySettings(
    task_queue="default",
    start_to_close_timeout=None,
    schedule_to_close_timeout=None,
    schedule_to_start_timeout=None,
    heartbeat_timeout=None,
    retry_policy=ONE_ATTEMPT,
    cancellation_type="try_cancel",
    at_most_once=False,
)
CHILD_SETTINGS = ChildSettings(
    task_queue="default",
    run_timeout=None,
    execution_timeout=None,
    parent_close_policy="terminate",
    cancellation_type="wait_cancellation_completed",
    id_reuse_policy="allow_duplicate",
    version=None,
    memo={},
    inherit_parent_timeout=True,
    propagate_failures=True,
)


def scheduled(activity_id: str = "1") -> ActivityTaskScheduled:
    return ActivityTaskScheduled(
        activity_id=activity_id,
        activity_type="charge",
        input=(),
        settings=SETTINGS,
        headers={},
    )


def completed(scheduled_event_id: int) -> ActivityTaskCompleted:
    return ActivityTaskCompleted(
        scheduled_event_id=scheduled_event_id, result=NULL, attempt=1, started_at=T0
    )


def timer(seconds: int = 5, timer_id: str = "1") -> TimerStarted:
    return TimerStarted(timer_id=timer_id, start_to_fire_timeout=seconds * SECOND)


def fired(started_event_id: int = 2, timer_id: str = "1") -> TimerFired:
    return TimerFired(timer_id=timer_id, started_event_id=started_event_id)


def child(workflow_id: str = "ship-1") -> StartChildWorkflowExecutionInitiated:
    return StartChildWorkflowExecutionInitiated(
        workflow_id=workflow_id,
        workflow_type="ship",
        input=(),
        settings=CHILD_SETTINGS,
        headers={},
    )


def child_started(
    initiated_event_id: int = 2, workflow_id: str = "ship-1"
) -> ChildWorkflowExecutionStarted:
    return ChildWorkflowExecutionStarted(
        initiated_event_id, workflow_id, "run-2", "ship"
    )


def child_completed(
    initiated_event_id: int = 2, workflow_id: str = "ship-1"
) -> ChildWorkflowExecutionCompleted:
    return ChildWorkflowExecutionCompleted(
        initiated_event_id, workflow_id, "run-2", "ship", NULL
    )


def sent_signal() -> SignalExternalWorkflowExecutionInitiated:
    return SignalExternalWorkflowExecutionInitiated(
        workflow_id="other", run_id=None, signal_name="go", input=(), headers={}
    )


def sent_cancel(
    workflow_id: str = "other",
) -> RequestCancelExternalWorkflowExecutionInitiated:
    return RequestCancelExternalWorkflowExecutionInitiated(
        workflow_id=workflow_id, run_id=None, reason=""
    )


def signal(name: str = "go", request_id: str = "") -> WorkflowExecutionSignaled:
    return WorkflowExecutionSignaled(signal_name=name, input=(), request_id=request_id)


def accepted(update_id: str = "u1") -> WorkflowExecutionUpdateAccepted:
    return WorkflowExecutionUpdateAccepted(
        update_id=update_id, update_name="add", input=()
    )


def answered(update_id: str = "u1") -> WorkflowExecutionUpdateCompleted:
    return WorkflowExecutionUpdateCompleted(update_id=update_id, result=NULL)


def dead_letter(number: int = 1, name: str = "go") -> MarkerRecorded:
    letter = {"number": number, "signal_name": name, "error": {"message": "no"}}
    return MarkerRecorded(
        marker_name="dead_letter",
        details={"letter": Payload(msgspec.Raw(msgspec.json.encode(letter)))},
    )


def checkpoint(
    *unread: UnreadSignal, cancellation_reason: str | None = None, **counts: int
) -> CheckpointRecorded:
    return CheckpointRecorded(
        input=(),
        started_at=T0,
        counts=counts,
        unread=unread,
        cancellation_reason=cancellation_reason,
    )


def continued(new_run_id: str = "run-9") -> WorkflowExecutionContinuedAsNew:
    return WorkflowExecutionContinuedAsNew(
        new_run_id=new_run_id,
        workflow_type="place_order",
        input=(),
        task_queue="default",
        run_timeout=None,
        memo={},
        headers={},
    )


def history(*attributes: Attributes) -> list[HistoryEvent]:
    """Give each event the next position, task and second."""
    return [
        HistoryEvent(index + 1, index + 1, T0 + index * SECOND, event)
        for index, event in enumerate(attributes)
    ]


def change(event: HistoryEvent, **fields: Any) -> HistoryEvent:
    return msgspec.structs.replace(event, **fields)


# --- one of each type -----------------------------------------------------------------

CHILD_ENDS: list[Attributes] = [
    child_completed(),
    ChildWorkflowExecutionFailed(2, "ship-1", "run-2", "ship", FAILURE),
    ChildWorkflowExecutionCanceled(2, "ship-1", "run-2", "ship"),
    ChildWorkflowExecutionTimedOut(2, "ship-1", "run-2", "ship"),
    ChildWorkflowExecutionTerminated(2, "ship-1", "run-2", "ship"),
    StartChildWorkflowExecutionFailed(2, "ship-1", "ship", "workflow_already_started"),
]
DELIVERY_ENDS: list[tuple[Attributes, Attributes]] = [
    (sent_signal(), ExternalWorkflowExecutionSignaled(2, "other", "run-3")),
    (sent_signal(), SignalExternalWorkflowExecutionFailed(2, "other", "x")),
    (sent_cancel(), ExternalWorkflowExecutionCancelRequested(2, "other", "run-3")),
    (sent_cancel(), RequestCancelExternalWorkflowExecutionFailed(2, "other", "x")),
]
ONE_OF_EACH: list[Attributes] = [
    STARTED,
    *CHILD_ENDS,
    *(end for _, end in DELIVERY_ENDS),
    child(),
    child_started(),
    sent_signal(),
    sent_cancel(),
    scheduled(),
    completed(2),
    ActivityTaskFailed(2, FAILURE, 1, T0, "timeout"),
    ActivityTaskTimedOut(2, FAILURE, 1, T0, "timeout"),
    ActivityTaskCancelRequested("1", 2),
    ActivityTaskCanceled(2, 1, T0),
    timer(),
    fired(),
    TimerCanceled("1", 2),
    dead_letter(),
    signal(),
    accepted(),
    answered(),
    StateTransitioned(None, NULL),
    UpsertWorkflowSearchAttributes({"customer": NULL}),
    WorkflowPropertiesModified({"note": NULL}),
    checkpoint(),
    WorkflowTaskStarted(),
    WorkflowExecutionCancelRequested(reason=""),
    WorkflowExecutionReset(run_id="run-2", base_run_id="run-1", reset_at=T0),
    WorkflowExecutionPaused("later", "pause-1"),
    WorkflowExecutionUnpaused(request_id="resume-1"),
    WorkflowExecutionCompleted(NULL),
    WorkflowExecutionFailed(FAILURE),
    WorkflowExecutionCanceled(),
    WorkflowExecutionTimedOut("run"),
    WorkflowExecutionTerminated(""),
    continued(),
]
