"""What must hold of one run's history by itself, whatever its program is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from tests.chaos.database import Row

TERMINAL: Final = {
    "WorkflowExecutionCompleted": "completed",
    "WorkflowExecutionFailed": "failed",
    "WorkflowExecutionCanceled": "cancelled",
    "WorkflowExecutionTimedOut": "timed_out",
    "WorkflowExecutionTerminated": "terminated",
    "WorkflowExecutionContinuedAsNew": "continued_as_new",
}
_ACTIVITY_ENDS: Final = {
    f"ActivityTask{end}" for end in ("Completed", "Failed", "TimedOut", "Canceled")
}
_CHILD_ENDS: Final = {
    "StartChildWorkflowExecutionFailed",
    *(
        f"ChildWorkflowExecution{end}"
        for end in ("Completed", "Failed", "Canceled", "TimedOut", "Terminated")
    ),
}
_OPENED_BY: Final = {
    **{end: ("ActivityTaskScheduled", "scheduled_event_id") for end in _ACTIVITY_ENDS},
    **{
        end: ("StartChildWorkflowExecutionInitiated", "initiated_event_id")
        for end in _CHILD_ENDS
    },
    "TimerFired": ("TimerStarted", "started_event_id"),
    "TimerCanceled": ("TimerStarted", "started_event_id"),
}


def value_in(payload: Any) -> Any:
    """The value of a payload as it is recorded."""
    return payload.get("json")


def faults_of(run: Row, events: list[Row]) -> Iterator[str]:
    """Say what is wrong with the history of a run."""
    numbers = [event["event_id"] for event in events]
    if numbers != [*range(1, len(events) + 1)]:
        yield f"its events are numbered {numbers}"
    kinds = [event["type"] for event in events]
    starts = [n for n, kind in enumerate(kinds) if kind == "WorkflowExecutionStarted"]
    if starts != [0]:
        yield f"its starts are at {starts}"
    ends = [n for n, kind in enumerate(kinds) if kind in TERMINAL]
    if run["open_key"] is None and (
        ends != [len(events) - 1] or TERMINAL[kinds[-1]] != run["status"]
    ):
        yield f"it is {run['status']}, and its history ends with {kinds[-2:]}"
    if run["open_key"] is not None and ends:
        yield f"it is open, and its history ends with {kinds[-2:]}"
    yield from _faults_of_pairs(events)


def _faults_of_pairs(events: list[Row]) -> Iterator[str]:
    """Whatever ends has begun, and ends once, and no timer is early."""
    by_number = {event["event_id"]: event for event in events}
    ended: Counter[int] = Counter()
    time = 0
    for event in events:
        if event["time"] < time:
            yield f"event {event['event_id']} is older than the one before"
        time = event["time"]
        if event["type"] not in _OPENED_BY:
            continue
        kind, name = _OPENED_BY[event["type"]]
        number = event["data"][name]
        opened = by_number.get(number)
        if opened is None or opened["type"] != kind or number > event["event_id"]:
            yield f"event {event['event_id']} ends {number}, which is no {kind}"
            continue
        ended[number] += 1
        if ended[number] > 1:
            yield f"event {number}, {kind}, ends twice"
        if event["type"] == "TimerFired":
            due = opened["time"] + opened["data"]["start_to_fire_timeout"]
            if event["time"] < due:
                yield f"timer {number} fired {due - event['time']} us early"


def outcomes_of_activities(events: list[Row]) -> Iterator[tuple[str, Row]]:
    """The id of each activity that has an outcome, with its type, attempt and value."""
    by_number = {event["event_id"]: event for event in events}
    for event in events:
        if event["type"] in _ACTIVITY_ENDS:
            data = event["data"]
            scheduled = by_number.get(data["scheduled_event_id"])
            if scheduled is None or "activity_id" not in scheduled["data"]:
                continue  # told of as a fault of the history
            value = value_in(data["result"]) if "result" in data else None
            yield (
                scheduled["data"]["activity_id"],
                {"type": event["type"], "attempt": data["attempt"], "value": value},
            )
