"""How a mismatch names commands and events: kind, ids, names and sizes, no values."""

import msgspec
import pytest

from durable.core.history.commands import (
    Command,
    CompleteWorkflowExecutionUpdate,
    ContinueAsNewWorkflowExecution,
    RecordMarker,
    RequestCancelExternalWorkflowExecution,
    SetState,
    SignalExternalWorkflowExecution,
    StartChildWorkflowExecution,
)
from durable.core.history.events import (
    EVENT_OF,
    Attributes,
    CheckpointRecorded,
    event_of,
)
from durable.core.history.payload import Failure, Payload
from durable.core.machines.fact import DeadLetter, DeadLetterEntry
from durable.core.machines.marker import PatchEntry
from durable.core.replay.matcher import describe
from tests.unit.core.history.event_samples import CHILD_SETTINGS

SECRET = (Payload(msgspec.Raw(b'"sentinel"')),)
COMMANDS: list[tuple[Command, str]] = [
    (
        StartChildWorkflowExecution(
            "ship-1", "ship", SECRET, CHILD_SETTINGS, {}, source="/a/b.py:7"
        ),
        "('ship', id 'ship-1', 1 argument, 10 bytes) at /a/b.py:7",
    ),
    (
        SignalExternalWorkflowExecution("order-2", None, "approved", SECRET * 2, {}),
        "('approved' to 'order-2', 2 arguments, 20 bytes)",
    ),
    (
        RequestCancelExternalWorkflowExecution(
            "order-2", None, "sentinel", source="/a/b.py:8"
        ),
        "(to 'order-2') at /a/b.py:8",
    ),
    (CompleteWorkflowExecutionUpdate("u1", SECRET[0]), "(id 'u1')"),
    (SetState(None, SECRET[0]), ""),
    (
        ContinueAsNewWorkflowExecution(
            "run-2", "place_order", SECRET, "default", None, {}, {}
        ),
        "('place_order', 1 argument, 10 bytes)",
    ),
    (
        DeadLetterEntry(
            DeadLetter(3, "approved", Failure(message="sentinel"))
        ).command(),
        "(dead letter: signal 3, 'approved')",
    ),
    (PatchEntry("fees", deprecated=False, source="").command(), "('fees')"),
    (RecordMarker("side_effect", {"value": SECRET[0]}), "('side_effect')"),
]


@pytest.mark.parametrize(
    ("command", "words"), COMMANDS, ids=[words or "state" for _, words in COMMANDS]
)
def test_command_and_its_event_are_named_alike_without_values(
    command: Command, words: str
) -> None:
    event: Attributes = event_of(command)

    assert describe(command) == f"{type(command).__name__}{words}"
    assert describe(event) == f"{EVENT_OF[type(command)].__name__}{words}"
    assert "sentinel" not in describe(command) + describe(event)


def test_events_that_nothing_else_tells_apart_are_named_by_their_kind() -> None:
    event = CheckpointRecorded(input=SECRET, started_at=0, counts={})

    assert describe(event) == "CheckpointRecorded"
