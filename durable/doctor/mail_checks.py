"""What must be true of a run's inbox: each message is in it, or in the history.

A sender who is not sure may send again under the same request id. Such a message lies
in the inbox for a moment although the history holds the first; it is younger than what
is recorded there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from durable.core.folding.run_state import RunState
from durable.core.history.codec import UNREADABLE
from durable.core.history.events import (
    CHILD_OUTCOMES,
    HistoryEvent,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionSignaled,
    WorkflowExecutionUpdateAccepted,
)
from durable.core.messages import decode_message
from durable.core.workflow_task import UpdateRequest, update_request_id
from durable.doctor.findings import Check
from durable.store.records import LoadedRun, MessageKind, MessageRecord, RunStatus

Breach: TypeAlias = tuple[Check, str]


def read_message(message: MessageRecord) -> Any:
    """Read what a message says; None if it cannot be read."""
    try:
        return decode_message(message.kind, message.data)
    except (KeyError, *UNREADABLE):
        return None


def tells_of_child(message: MessageRecord, initiated_event_id: int) -> bool:
    """Whether a message says how that child ended."""
    body = read_message(message)
    return (
        isinstance(body, CHILD_OUTCOMES)
        and body.initiated_event_id == initiated_event_id
    )


def asks_to_stop(messages: Sequence[MessageRecord]) -> bool:
    """Whether one of these messages asks its run to stop."""
    return any(message.kind == MessageKind.CANCEL.value for message in messages)


def check_messages(
    loaded: LoadedRun, events: Sequence[HistoryEvent], state: RunState
) -> Iterator[Breach]:
    """V9, V10 and V11: a message can be read, is new to its run, and that is open."""
    if not loaded.messages:
        return
    recorded = _recorded_at(events)
    waiting = {child.initiated_event_id for child in state.pending_children}
    for message in loaded.messages:
        name = f"message {message.sequence}"
        body = read_message(message)
        if body is None:
            yield Check.PAYLOADS, f"{name} of the kind {message.kind!r} cannot be read"
        elif message.created_at <= recorded.get(_request_id(message, body), -1) or (
            isinstance(body, CHILD_OUTCOMES) and body.initiated_event_id not in waiting
        ):
            yield (
                Check.MESSAGES,
                f"{name} waits in the inbox, and is in the history already",
            )
        elif loaded.record.status is not RunStatus.RUNNING:
            yield Check.ROWS, f"{name} waits for a run that has closed"


def _request_id(message: MessageRecord, body: Any) -> str:
    if isinstance(body, UpdateRequest):
        return update_request_id(body.update_id)
    return message.request_id


def _recorded_at(events: Sequence[HistoryEvent]) -> dict[str, int]:
    """When each request that the history knows was recorded."""
    found: dict[str, int] = {}
    for event in events:
        match event.attributes:
            case (
                WorkflowExecutionSignaled(request_id=request_id)
                | WorkflowExecutionCancelRequested(request_id=request_id)
            ):
                found[request_id] = event.time
            case WorkflowExecutionUpdateAccepted(update_id=update_id):
                found[update_request_id(update_id)] = event.time
            case _:
                pass
    return found
