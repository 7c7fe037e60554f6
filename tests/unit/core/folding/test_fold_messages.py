"""Messages, children, checkpoints and chains of runs, folded from events alone."""

import msgspec
import pytest

from durable.core.folding.fold import fold
from durable.core.folding.run_state import PendingChild, PendingDelivery, PendingUpdate
from durable.core.history.events import (
    EVENT_TYPES,
    Attributes,
    ExternalWorkflowExecutionSignaled,
    HistoryEvent,
    MarkerRecorded,
    StateTransitioned,
    UnreadSignal,
    WorkflowExecutionCancelRequested,
)
from durable.core.history.payload import NULL, Payload
from tests.unit.core.history.event_samples import (
    CHILD_ENDS,
    DELIVERY_ENDS,
    ONE_OF_EACH,
    SECOND,
    STARTED,
    T0,
    accepted,
    answered,
    change,
    checkpoint,
    child,
    child_completed,
    child_started,
    completed,
    continued,
    dead_letter,
    fired,
    history,
    scheduled,
    sent_cancel,
    sent_signal,
    signal,
    timer,
)

# --- children -------------------------------------------------------------------------


def test_child_is_pending_until_its_outcome_and_knows_its_run_once_started() -> None:
    events = history(STARTED, child(), child_started(), child_completed())
    asked = PendingChild(
        initiated_event_id=2,
        workflow_id="ship-1",
        workflow_type="ship",
        initiated_at=T0 + SECOND,
        parent_close_policy="terminate",
    )

    assert fold(events[:2]).pending_children == (asked,)
    assert fold(events[:3]).pending_children == (
        msgspec.structs.replace(asked, run_id="run-2"),
    )
    state = fold(events)
    assert (state.pending_children, state.violations) == ((), ())


@pytest.mark.parametrize("end", CHILD_ENDS, ids=lambda event: type(event).__name__)
def test_every_outcome_closes_a_child_that_was_never_said_to_have_started(
    end: Attributes,
) -> None:
    state = fold(history(STARTED, child(), end))

    assert (state.pending_children, state.violations) == ((), ())


def test_child_that_is_asked_to_stop_stays_pending_and_says_so() -> None:
    events = history(STARTED, child(), child("b"), sent_cancel("b"))

    first, second = fold(events).pending_children

    assert (first.is_cancel_requested, second.is_cancel_requested) == (False, True)


# --- messages to other runs -----------------------------------------------------------


def test_messages_to_other_runs_are_pending_until_they_are_answered() -> None:
    state = fold(history(STARTED, sent_signal(), sent_cancel()))

    assert state.pending_deliveries == (
        PendingDelivery(
            initiated_event_id=2,
            workflow_id="other",
            sent_at=T0 + SECOND,
            signal_name="go",
        ),
        PendingDelivery(
            initiated_event_id=3, workflow_id="other", sent_at=T0 + 2 * SECOND
        ),
    )


@pytest.mark.parametrize(
    ("sent", "end"), DELIVERY_ENDS, ids=lambda event: type(event).__name__
)
def test_every_answer_closes_a_message_to_another_run(
    sent: Attributes, end: Attributes
) -> None:
    state = fold(history(STARTED, sent, end))

    assert (state.pending_deliveries, state.violations) == ((), ())


# --- signals, updates, state ----------------------------------------------------------


def test_signals_are_counted_by_name() -> None:
    state = fold(history(STARTED, signal("a"), signal("b"), signal("a")))

    assert state.signals == {"a": 2, "b": 1}
    assert state.violations == ()


def test_signals_that_could_not_be_read_are_named() -> None:
    state = fold(history(STARTED, signal("a"), signal("b"), dead_letter(2, "b")))

    (letter,) = state.dead_letters
    assert (letter.number, letter.signal_name, letter.error.message) == (2, "b", "no")
    assert state.violations == ()


def test_update_is_pending_until_it_is_answered() -> None:
    events = history(STARTED, accepted(), accepted("u2"), answered())

    state = fold(events)

    assert state.pending_updates == (
        PendingUpdate(
            accepted_event_id=3,
            update_id="u2",
            update_name="add",
            accepted_at=T0 + 2 * SECOND,
        ),
    )
    assert state.violations == ()


def test_published_state_is_the_latest() -> None:
    one, two = Payload(msgspec.Raw(b"1")), Payload(msgspec.Raw(b"2"))
    changes = [StateTransitioned(None, one), StateTransitioned(one, two)]

    assert fold(history(STARTED)).published is None
    assert fold(history(STARTED, *changes)).published == two


# --- bounded histories ----------------------------------------------------------------


def test_run_that_continued_as_new_names_its_successor() -> None:
    state = fold(history(STARTED, timer(60), continued("run-9")))

    assert (state.status, state.continued_as_run_id) == ("continued_as_new", "run-9")
    assert state.next_due_at() is None
    assert state.violations == ()


def test_checkpoint_that_carries_everything_on_is_sound() -> None:
    events = history(
        STARTED,
        scheduled(),
        completed(2),
        signal("a"),
        signal("b"),
        dead_letter(1, "a"),
        WorkflowExecutionCancelRequested(reason="why"),
        StateTransitioned(None, NULL),
        msgspec.structs.replace(
            checkpoint(
                UnreadSignal(2, "b", ()),
                cancellation_reason="why",
                activities=3,
                signals=2,
            ),
            state=NULL,
        ),
        scheduled("4"),
        completed(10),
        signal("a"),
        msgspec.structs.replace(
            checkpoint(cancellation_reason="why", activities=4, signals=3), state=NULL
        ),
    )

    state = fold(events)

    assert state.violations == ()
    assert state.checkpoint_event_id == 13


def test_what_a_checkpoint_leaves_behind_is_pending_no_more() -> None:
    events = history(STARTED, scheduled(), accepted(), checkpoint(activities=1))

    state = fold(events)

    (violation,) = state.violations
    assert "leaves activity '1', update 'u1' open" in violation.message
    assert (state.pending_activities, state.pending_updates) == ((), ())


# --- what is said of a broken history -------------------------------------------------

SAME_TASK = history(STARTED, timer(1), fired(), checkpoint(timers=1))
SAME_TASK[2] = change(SAME_TASK[2], time=T0 + 2 * SECOND)
UNTAKEN = history(STARTED, signal(), checkpoint(signals=1))

FAULTS: list[tuple[str, str, list[HistoryEvent]]] = [
    (
        "child ends twice",
        "V4",
        history(STARTED, child(), child_completed(), child_completed()),
    ),
    ("child of nothing ends", "V4", history(STARTED, child_completed())),
    ("activity ends as a child", "V4", history(STARTED, scheduled(), child_started())),
    (
        "child starts after its end",
        "V4",
        history(STARTED, child(), child_completed(), child_started()),
    ),
    (
        "child starts twice",
        "V4",
        history(STARTED, child(), child_started(), child_started()),
    ),
    (
        "child starts under another id",
        "V4",
        history(STARTED, child(), child_started(2, "x")),
    ),
    (
        "child ends under another id",
        "V4",
        history(STARTED, child(), child_completed(2, "x")),
    ),
    (
        "started child could not start",
        "V4",
        history(STARTED, child(), child_started(), CHILD_ENDS[-1]),
    ),
    (
        "message answered twice",
        "V4",
        history(STARTED, *DELIVERY_ENDS[0], DELIVERY_ENDS[0][1]),
    ),
    (
        "signal answered as a request",
        "V4",
        history(STARTED, sent_signal(), DELIVERY_ENDS[2][1]),
    ),
    (
        "request answered as a signal",
        "V4",
        history(STARTED, sent_cancel(), DELIVERY_ENDS[1][1]),
    ),
    (
        "another run answers",
        "V4",
        history(
            STARTED, sent_signal(), ExternalWorkflowExecutionSignaled(2, "x", "run-3")
        ),
    ),
    (
        "update answered twice",
        "V4",
        history(STARTED, accepted(), answered(), answered()),
    ),
    ("update answered unasked", "V4", history(STARTED, answered())),
    ("update answered first", "V4", history(STARTED, answered("u2"), accepted("u1"))),
    ("update accepted twice", "V9", history(STARTED, accepted(), accepted())),
    (
        "answered update accepted again",
        "V9",
        history(STARTED, accepted(), answered(), accepted()),
    ),
    (
        "signal recorded twice",
        "V9",
        history(STARTED, signal("a", "r1"), signal("a", "r1")),
    ),
    (
        "request id of a signal used by a cancel",
        "V9",
        history(
            STARTED,
            signal("a", "r1"),
            WorkflowExecutionCancelRequested(reason="", request_id="r1"),
        ),
    ),
    ("dead letter that never came", "V9", history(STARTED, dead_letter())),
    ("dead letter zero", "V9", history(STARTED, signal(), dead_letter(0))),
    (
        "dead letter of another name",
        "V9",
        history(STARTED, signal("a"), dead_letter(1, "b")),
    ),
    (
        "dead letter twice",
        "V9",
        history(STARTED, signal(), dead_letter(), dead_letter()),
    ),
    (
        "dead letter by hand",
        "V9",
        history(STARTED, signal(), MarkerRecorded("dead_letter", {})),
    ),
    (
        "dead letter of nonsense",
        "V9",
        history(STARTED, signal(), MarkerRecorded("dead_letter", {"letter": NULL})),
    ),
    (
        "checkpoint over an open activity",
        "V19",
        history(STARTED, scheduled(), checkpoint(activities=1)),
    ),
    (
        "checkpoint over an open timer",
        "V19",
        history(STARTED, timer(), checkpoint(timers=1)),
    ),
    (
        "checkpoint over an open child",
        "V19",
        history(STARTED, child(), checkpoint(children=1)),
    ),
    (
        "checkpoint over a message on its way",
        "V19",
        history(STARTED, sent_cancel(), checkpoint()),
    ),
    (
        "checkpoint over an open update",
        "V19",
        history(STARTED, accepted(), checkpoint()),
    ),
    (
        "checkpoint that forgets an activity",
        "V19",
        history(STARTED, scheduled(), completed(2), checkpoint()),
    ),
    (
        "count that falls",
        "V19",
        history(STARTED, checkpoint(timers=5), checkpoint(timers=4)),
    ),
    (
        "checkpoint that forgets a signal",
        "V19",
        history(STARTED, signal(), checkpoint()),
    ),
    (
        "checkpoint that counts a signal too many",
        "V19",
        history(STARTED, signal(), checkpoint(signals=2)),
    ),
    (
        "unread signal that never came",
        "V19",
        history(STARTED, checkpoint(UnreadSignal(1, "go", ()))),
    ),
    (
        "unread signal of another name",
        "V19",
        history(STARTED, signal("a"), checkpoint(UnreadSignal(1, "b", ()), signals=1)),
    ),
    (
        "unread signal twice",
        "V19",
        history(
            STARTED,
            signal(),
            checkpoint(UnreadSignal(1, "go", ()), UnreadSignal(1, "go", ()), signals=1),
        ),
    ),
    (
        "unread signal that is dead",
        "V19",
        history(
            STARTED,
            signal(),
            dead_letter(),
            checkpoint(UnreadSignal(1, "go", ()), signals=1),
        ),
    ),
    (
        "checkpoint that forgets a request to stop",
        "V19",
        history(STARTED, WorkflowExecutionCancelRequested(reason=""), checkpoint()),
    ),
    (
        "checkpoint that makes a request up",
        "V19",
        history(STARTED, checkpoint(cancellation_reason="")),
    ),
    (
        "checkpoint that forgets the state",
        "V19",
        history(STARTED, StateTransitioned(None, NULL), checkpoint()),
    ),
    (
        "checkpoint within a task",
        "V19",
        [*SAME_TASK[:3], change(SAME_TASK[3], task_number=3)],
    ),
    (
        "checkpoint that no task has taken",
        "V19",
        [*SAME_TASK[:3], change(SAME_TASK[3], task_number=0)],
    ),
    (
        "checkpoint in the task of another input",
        "V19",
        [UNTAKEN[0], change(UNTAKEN[1], task_number=0), UNTAKEN[2]],
    ),
    (
        "outcome from before a checkpoint",
        "V4",
        history(
            STARTED,
            scheduled(),
            completed(2),
            checkpoint(activities=1),
            completed(2),
        ),
    ),
]


@pytest.mark.parametrize(
    ("rule", "events"),
    [(rule, events) for _, rule, events in FAULTS],
    ids=[name for name, _, _ in FAULTS],
)
def test_breach_of_a_message_or_checkpoint_is_named_once(
    rule: str, events: list[HistoryEvent]
) -> None:
    (violation,) = fold(events).violations

    assert violation.rule == rule
    assert violation.event_id in {event.event_id for event in events}
    assert violation.message


def test_outcome_of_what_a_checkpoint_left_behind_says_so() -> None:
    events = history(STARTED, scheduled(), checkpoint(activities=1), completed(2))

    _, violation = fold(events).violations

    assert violation.message.endswith(
        "names event 2, which was given up by the checkpoint 3"
    )


# --- no type of event is left out -----------------------------------------------------


def test_every_type_of_event_can_be_folded() -> None:
    state = fold(history(*ONE_OF_EACH))

    assert set(state.counts) == set(EVENT_TYPES)
