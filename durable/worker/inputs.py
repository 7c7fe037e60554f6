"""What tells the inputs of a run apart, and which of them its history holds already."""

from __future__ import annotations

from durable.core.events import (
    ACTIVITY_OUTCOMES,
    CHILD_OUTCOMES,
    DELIVERY_OUTCOMES,
    ChildWorkflowExecutionStarted,
)
from durable.core.run_view import RunView
from durable.core.workflow_task import TaskInput, UpdateRequest, update_request_id


def key_of(event: TaskInput) -> str:
    """What tells an input from all others of its run; empty if nothing does."""
    if isinstance(event, CHILD_OUTCOMES):
        return f"child {event.initiated_event_id}"
    if isinstance(event, ChildWorkflowExecutionStarted):
        return f"start of child {event.initiated_event_id}"
    if isinstance(event, ACTIVITY_OUTCOMES):
        return f"activity {event.scheduled_event_id}"
    if isinstance(event, DELIVERY_OUTCOMES):
        return f"delivery {event.initiated_event_id}"
    if isinstance(event, UpdateRequest):
        return update_request_id(event.update_id)
    request_id: str = getattr(event, "request_id", "")
    return request_id


def is_recorded(run: RunView, event: TaskInput) -> bool:
    """Whether the history of a run that was caught up holds an input already."""
    key = key_of(event)
    if key and any(key_of(recorded) == key for recorded in run.unprocessed):
        return True
    if isinstance(event, CHILD_OUTCOMES):
        return run.pending_child(event.initiated_event_id) is None
    if isinstance(event, ChildWorkflowExecutionStarted):
        child = run.pending_child(event.initiated_event_id)
        return child is None or child.run_id is not None
    if isinstance(event, ACTIVITY_OUTCOMES):
        return run.find_activity(event.scheduled_event_id) is None
    if isinstance(event, DELIVERY_OUTCOMES):
        return all(
            sent.initiated_event_id != event.initiated_event_id
            for sent in run.pending_deliveries()
        )
    return run.knows_request(key)
