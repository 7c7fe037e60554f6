"""Messages, children and chains of runs as the timeline tells of them."""

from pathlib import Path

import msgspec
import pytest

from durable.cli.timeline import COLORED, describe_events, render_run, render_timeline
from durable.core.history.events import (
    EVENT_TYPES,
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
    RequestCancelExternalWorkflowExecutionFailed,
    RequestCancelExternalWorkflowExecutionInitiated,
    SignalExternalWorkflowExecutionFailed,
    SignalExternalWorkflowExecutionInitiated,
    StartChildWorkflowExecutionFailed,
    StartChildWorkflowExecutionInitiated,
    StateTransitioned,
    UnreadSignal,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.history.payload import Failure, Payload
from durable.store.records import MessageRecord, RunRecord, RunStatus
from durable.telling.events import tell
from durable.telling.pieces import Piece
from tests.unit.core.history.event_samples import (
    CHILD_SETTINGS,
    ONE_OF_EACH,
    change,
    dead_letter,
)

GOLDEN = Path(__file__).parent / "golden"
MS = 1_000
SECOND = 1_000_000
T0 = 1_795_291_200 * SECOND  # 2026-11-21 20:00:00 UTC
NO = Failure(message="no \x1b[2J", type="ValueError")
VALUE = Payload(msgspec.Raw(b'"s3cret"'))
HOSTILE = "ship\x1b[2J"

STARTED = WorkflowExecutionStarted(
    workflow_type="place_order",
    input=(),
    task_queue="default",
    workflow_id="order-42",
    run_id="run-1",
    first_run_id="run-0",
    request_id="run-1",
)
RECORD = RunRecord(
    namespace="default",
    workflow_id="order-42",
    run_id="run-1",
    workflow_type="place_order",
    task_queue="default",
    status=RunStatus.RUNNING,
    started_at=T0,
    first_run_id="run-0",
    request_id="run-1",
    owner="w1",
    continued_from_run_id="run-0",
    parent_workflow_id="shop\x1b[2J",
    parent_run_id="run-8",
)


def child(workflow_id: str = "ship-1") -> StartChildWorkflowExecutionInitiated:
    return StartChildWorkflowExecutionInitiated(
        workflow_id=workflow_id,
        workflow_type=HOSTILE,
        input=(VALUE,),
        settings=CHILD_SETTINGS,
        headers={},
        summary="by air",
        source="/app/shop/orders.py:40",
    )


def signal(name: str = "approved") -> WorkflowExecutionSignaled:
    return WorkflowExecutionSignaled(name, (VALUE,), identity="me")


def accepted(update_id: str) -> WorkflowExecutionUpdateAccepted:
    return WorkflowExecutionUpdateAccepted(update_id, "add", (VALUE,), identity="me")


def sent_signal() -> SignalExternalWorkflowExecutionInitiated:
    return SignalExternalWorkflowExecutionInitiated(
        "order-2", None, "go", (VALUE,), {}, source="/app/shop/orders.py:41"
    )


def sent_cancel() -> RequestCancelExternalWorkflowExecutionInitiated:
    return RequestCancelExternalWorkflowExecutionInitiated(
        "order-2", "run-5", "too\nlate"
    )


def history(*placed: tuple[int, Attributes]) -> list[HistoryEvent]:
    """Place events by their milliseconds after the start."""
    return [
        HistoryEvent(number, number, T0 + milliseconds * MS, attributes)
        for number, (milliseconds, attributes) in enumerate(placed, start=1)
    ]


def told(*placed: tuple[int, Attributes]) -> list[tuple[str, str]]:
    lines = describe_events(history((0, STARTED), *placed), [])
    return [(line["text"], line["details"]) for line in lines[1:]]


# --- events in words ------------------------------------------------------------------


def test_signals_are_told_with_their_numbers() -> None:
    assert told((1, signal()), (2, signal("stop\n"))) == [
        ("signal approved arrived", "number 1, 1 argument, 8 bytes, by me"),
        (r"signal stop\n arrived", "number 2, 1 argument, 8 bytes, by me"),
    ]


def test_signal_that_could_not_be_read_is_marked_where_it_came_and_where_it_ended() -> (
    None
):
    events = history(
        (0, STARTED), (1, signal()), (2, signal()), (3, dead_letter(2, "approved"))
    )

    first, second, letter = list(tell(events, []))[1:]

    assert first.text == "signal approved arrived"
    assert second.text == "signal approved arrived, could not be read"
    assert letter.text == "dead letter: signal approved could not be read"
    assert letter.details == "number 2, application: no"
    assert Piece("dead letter", "bad") in letter.line
    assert "\x1b[31mdead letter" in render_timeline(events, [], style=COLORED)[3]


def test_updates_are_told_with_their_ids_and_outcomes() -> None:
    assert told(
        (1, accepted("u1")),
        (2, accepted("u2")),
        (4, WorkflowExecutionUpdateCompleted("u1", result=VALUE)),
        (5, WorkflowExecutionUpdateCompleted("u2", failure=NO)),
        (6, WorkflowExecutionUpdateCompleted("u3", result=VALUE)),
    ) == [
        ("update add accepted", "id u1, 1 argument, 8 bytes, by me"),
        ("update add accepted", "id u2, 1 argument, 8 bytes, by me"),
        ("update add completed", "id u1, took 3 ms, 8 bytes"),
        (r"update add failed: ValueError: no \x1b[2J", "id u2, took 3 ms"),
        ("update ? completed", "id u3, took 0 us, 8 bytes"),
    ]


def test_children_are_told_from_the_asking_to_the_end() -> None:
    about = ("ship-1", "run-2", HOSTILE)
    name = r"child ship\x1b[2J"

    lines = told(
        (1, child()),
        (2, ChildWorkflowExecutionStarted(2, *about)),
        (3, ChildWorkflowExecutionFailed(2, *about, NO)),
        (4, ChildWorkflowExecutionCanceled(2, *about)),
        (5, ChildWorkflowExecutionTimedOut(2, *about, "execution")),
        (6, ChildWorkflowExecutionTerminated(2, *about, "enough")),
        (7, StartChildWorkflowExecutionFailed(2, "ship-1", HOSTILE, "taken")),
        (8, ChildWorkflowExecutionCanceled(99, *about)),
    )

    assert lines == [
        (
            f"{name} asked for",
            "'by air', id ship-1, 1 argument, 8 bytes, at shop/orders.py:40",
        ),
        (f"{name} started", "id ship-1, run run-2"),
        (rf"{name} failed: ValueError: no \x1b[2J", "id ship-1, took 2 ms"),
        (f"{name} cancelled", "id ship-1, took 3 ms"),
        (
            f"{name} timed out",
            "id ship-1, took 4 ms, its execution_timeout passed",
        ),
        (f"{name} terminated: enough", "id ship-1, took 5 ms"),
        (f"{name} could not start: taken", "id ship-1, took 6 ms"),
        ("? cancelled", "id ship-1"),
    ]


def test_messages_to_other_runs_are_told_with_what_became_of_them() -> None:
    assert told(
        (1, sent_signal()),
        (2, ExternalWorkflowExecutionSignaled(2, "order-2", "run-5")),
        (3, SignalExternalWorkflowExecutionFailed(2, "order-2", "closed", "It ended.")),
        (4, sent_cancel()),
        (5, ExternalWorkflowExecutionCancelRequested(5, "order-2", "run-5")),
        (6, RequestCancelExternalWorkflowExecutionFailed(5, "order-2", "closed")),
    ) == [
        ("signal go sent to order-2", "1 argument, 8 bytes, at shop/orders.py:41"),
        ("signal go reached order-2", "run run-5"),
        ("signal go did not reach order-2: It ended.", ""),
        (r"cancel request sent to order-2: too\nlate", "run run-5"),
        ("cancel request reached order-2", "run run-5"),
        ("cancel request did not reach order-2: closed", ""),
    ]


def test_states_checkpoints_and_the_next_run_are_told() -> None:
    checkpoint = CheckpointRecorded(
        input=(VALUE,),
        started_at=T0,
        counts={},
        unread=(UnreadSignal(3, "approved", (VALUE,)),),
    )

    assert told(
        (1, StateTransitioned(None, VALUE)),
        (2, checkpoint),
        (3, going_on("place_order")),
        (4, going_on("other")),
    ) == [
        ("state published", "8 bytes"),
        ("checkpoint: the code began anew", "1 argument, 8 bytes, 1 unread signal"),
        ("continued as new", "run run-2, 1 argument, 8 bytes"),
        ("continued as new", "run run-2, of other, 1 argument, 8 bytes"),
    ]


def going_on(workflow_type: str) -> WorkflowExecutionContinuedAsNew:
    return WorkflowExecutionContinuedAsNew(
        new_run_id="run-2",
        workflow_type=workflow_type,
        input=(VALUE,),
        task_queue="default",
        run_timeout=None,
        memo={},
        headers={},
    )


@pytest.mark.parametrize("event", ONE_OF_EACH, ids=lambda event: type(event).__name__)
def test_every_type_of_event_is_told_in_words(event: Attributes) -> None:
    line = describe_events(history((0, event)), [])[0]

    assert type(event).__name__ not in line["text"]
    assert type(event).__name__ in EVENT_TYPES


def test_values_of_messages_are_shown_on_request_only() -> None:
    about = ("ship-1", "run-2", "ship")
    checkpoint = CheckpointRecorded(
        input=(VALUE,),
        started_at=T0,
        counts={},
        unread=(UnreadSignal(3, "approved", (VALUE,)),),
        state=VALUE,
    )
    placed: list[tuple[Attributes, int]] = [
        (signal(), 1),
        (accepted("u1"), 1),
        (WorkflowExecutionUpdateCompleted("u1", result=VALUE), 1),
        (StateTransitioned(VALUE, VALUE), 1),
        (child(), 1),
        (ChildWorkflowExecutionCompleted(2, *about, VALUE), 1),
        (sent_signal(), 1),
        (checkpoint, 2),
        (going_on("place_order"), 1),
    ]

    for event, count in placed:
        events = history((0, STARTED), (1, event))
        assert "s3cret" not in "".join(render_timeline(events, []))
        shown = "".join(render_timeline(events, [], payloads=True))
        assert shown.count("s3cret") == count, type(event).__name__


# --- the whole run --------------------------------------------------------------------


def waiting(sequence: int, kind: str, data: str) -> MessageRecord:
    return MessageRecord(
        run_id="run-1",
        kind=kind,
        request_id=f"r{sequence}",
        data=data,
        created_at=T0 + 3 * SECOND,
        sequence=sequence,
    )


MESSAGES = [
    waiting(1, "signal", '{"signal_name": "stop\\u001b", "input": []}'),
    waiting(2, "update", '{"update_id": "u9", "update_name": "add", "input": []}'),
    waiting(3, "query", '{"name": "count", "input": []}'),
    waiting(
        4,
        "child",
        '{"type": "ChildWorkflowExecutionTerminated", "event": {"initiated_event_id":'
        ' 5, "workflow_id": "ship-1", "run_id": "run-2", "workflow_type": "ship"}}',
    ),
    waiting(5, "signal", "{}"),
    waiting(6, "carrier_pigeon", "{}"),
]


def test_open_run_says_whom_it_waits_for_and_what_it_could_not_read() -> None:
    events = history(
        (0, STARTED),
        (10, signal()),
        (10, signal("stop")),
        (20, dead_letter(2, "stop")),
        (30, child()),
        (40, ChildWorkflowExecutionStarted(5, "ship-1", "run-2", HOSTILE)),
        (50, child("ship-2")),
        (60, sent_signal()),
        (
            70,
            change_target(sent_cancel(), "ship-1"),
        ),
        (80, accepted("u1")),
        (90, StateTransitioned(None, VALUE)),
    )

    lines = render_run(RECORD, events, [], MESSAGES, now=T0 + 5 * SECOND)

    assert lines == (GOLDEN / "messages.txt").read_text().splitlines()
    shown = render_run(RECORD, events, [], now=T0 + 5 * SECOND, payloads=True)
    assert '  state      "s3cret"' in shown


def change_target(
    sent: RequestCancelExternalWorkflowExecutionInitiated, workflow_id: str
) -> RequestCancelExternalWorkflowExecutionInitiated:
    return msgspec.structs.replace(
        sent, workflow_id=workflow_id, child_workflow_only=True
    )


def test_run_that_continued_as_new_names_the_next() -> None:
    events = history(
        (0, STARTED),
        (
            10,
            CheckpointRecorded(input=(), started_at=T0, counts={}),
        ),
        (20, going_on("place_order")),
    )
    record = msgspec.structs.replace(
        RECORD,
        status=RunStatus.CONTINUED_AS_NEW,
        closed_at=T0 + 20 * MS,
        owner=None,
        continued_from_run_id=None,
        parent_run_id=None,
    )

    lines = render_run(record, events, [], now=T0 + 5 * SECOND)

    assert lines[0] == "order-42  place_order  continued as new after 20 ms"
    assert "  goes on  as run run-2" in lines
    assert "  history  3 events in 3 tasks, the newest checkpoint is event 2" in lines


def test_long_lists_of_names_and_letters_are_cut() -> None:
    names = [f"s{number}" for number in range(1, 31)]
    letters = [dead_letter(number, f"s{number}") for number in range(1, 31)]
    events = history(
        (0, STARTED),
        *((1, signal(name)) for name in names),
        *((2, letter) for letter in letters),
    )

    lines = render_run(RECORD, events, [], now=T0)

    signals = next(line for line in lines if line.startswith("  signals"))
    assert signals.endswith("1 s7, 1 s8, and 22 other names")
    title = lines.index("dead letters: 30 signals that the code could not read")
    assert lines[title + 1].startswith("  signal s11  number 11, ")
    assert len(lines) == title + 21


def test_unseen_events_are_marked_so() -> None:
    events = history((0, STARTED), (1, signal()))
    events[1] = change(events[1], task_number=0)

    assert describe_events(events, [])[1]["details"].endswith(
        "not seen by the code yet"
    )
