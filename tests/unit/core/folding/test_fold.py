"""The state of a run, folded from its events alone."""

import msgspec
import pytest

from durable.core.folding.fold import STATUS_OF, fold
from durable.core.folding.run_state import PendingActivity, PendingTimer
from durable.core.history.events import (
    TERMINAL_EVENTS,
    ActivityTaskCanceled,
    ActivityTaskCancelRequested,
    ActivityTaskFailed,
    ActivityTaskTimedOut,
    Attributes,
    HistoryEvent,
    MarkerRecorded,
    TimerCanceled,
    WorkflowExecutionCanceled,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
    WorkflowTaskStarted,
)
from durable.core.history.payload import NULL, Payload
from durable.store.records import RunStatus
from tests.unit.core.history.event_samples import (
    FAILURE,
    SECOND,
    STARTED,
    T0,
    change,
    completed,
    continued,
    fired,
    history,
    scheduled,
    timer,
)

# --- what is said of a sound history --------------------------------------------------


def test_new_run_is_running_with_nothing_pending() -> None:
    state = fold(history(STARTED))

    assert (state.status, state.is_closed) == ("running", False)
    assert state.started == STARTED
    assert (state.started_at, state.closed_at, state.deadline_at) == (T0, None, None)
    assert (state.pending_activities, state.pending_timers) == ((), ())
    assert (state.event_count, state.task_count, state.unprocessed) == (1, 1, 0)
    assert state.next_due_at() is None
    assert state.violations == ()


def test_activity_is_pending_until_its_outcome() -> None:
    events = history(STARTED, scheduled(), completed(2))

    assert fold(events[:2]).pending_activities == (
        PendingActivity(
            scheduled_event_id=2,
            activity_id="1",
            activity_type="charge",
            scheduled_at=T0 + SECOND,
        ),
    )
    assert fold(events).pending_activities == ()


OUTCOMES = [
    completed(2),
    ActivityTaskFailed(2, FAILURE, 1, T0, "non_retryable_failure"),
    ActivityTaskTimedOut(2, FAILURE, 1, T0, "timeout"),
    ActivityTaskCanceled(2, 1, T0),
]


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda event: type(event).__name__)
def test_every_kind_of_outcome_closes_an_activity(outcome: Attributes) -> None:
    state = fold(history(STARTED, scheduled(), outcome))

    assert state.pending_activities == ()
    assert state.violations == ()


def test_activity_asked_to_stop_stays_pending_and_says_so() -> None:
    request = ActivityTaskCancelRequested(activity_id="1", scheduled_event_id=2)

    state = fold(history(STARTED, scheduled(), request))

    (activity,) = state.pending_activities
    assert activity.is_cancel_requested
    assert state.violations == ()


def test_timer_is_pending_until_it_fires_or_is_dropped() -> None:
    events = history(STARTED, timer(1))

    state = fold(events)

    assert state.pending_timers == (
        PendingTimer(started_event_id=2, timer_id="1", due_at=T0 + 2 * SECOND),
    )
    assert state.next_due_at() == T0 + 2 * SECOND
    for end in (fired(), TimerCanceled(timer_id="1", started_event_id=2)):
        closed = fold(history(STARTED, timer(1), end))
        assert (closed.pending_timers, closed.violations) == ((), ())


def test_deadline_is_the_shorter_timeout_and_counts_as_due() -> None:
    started = msgspec.structs.replace(
        STARTED, run_timeout=9 * SECOND, execution_timeout=7 * SECOND
    )

    state = fold(history(started, timer(60)))

    assert state.deadline_at == state.next_due_at() == T0 + 7 * SECOND


ENDINGS = [
    (WorkflowExecutionCompleted(result=Payload(msgspec.Raw(b"3"))), "completed"),
    (WorkflowExecutionFailed(failure=FAILURE), "failed"),
    (WorkflowExecutionTimedOut(timeout_type="run"), "timed_out"),
    (WorkflowExecutionTerminated(reason="why"), "terminated"),
    (continued(), "continued_as_new"),
]


@pytest.mark.parametrize(
    ("ending", "status"), ENDINGS, ids=lambda value: str(value)[:30]
)
def test_terminal_event_sets_the_status(ending: Attributes, status: str) -> None:
    state = fold(history(STARTED, timer(60), ending))

    assert (state.status, state.closed_at) == (status, T0 + 2 * SECOND)
    assert state.next_due_at() is None
    assert state.violations == ()


def test_result_and_failure_are_those_of_the_terminal_event() -> None:
    result = Payload(msgspec.Raw(b"3"))

    assert fold(history(STARTED, WorkflowExecutionCompleted(result))).result == result
    failed = fold(history(STARTED, WorkflowExecutionFailed(FAILURE)))
    assert (failed.result, failed.failure) == (None, FAILURE)


def test_cancelled_run_that_was_asked_to_stop_is_sound() -> None:
    request = WorkflowExecutionCancelRequested(reason="why", request_id="r1")

    state = fold(history(STARTED, request, WorkflowExecutionCanceled()))

    assert (state.status, state.cancel_requested_at) == ("cancelled", T0 + SECOND)
    assert state.violations == ()


def test_inputs_that_no_task_has_taken_are_counted_until_one_takes_them() -> None:
    first = change(history(STARTED)[0], task_number=0)
    taken = HistoryEvent(2, 1, T0, WorkflowTaskStarted())

    assert fold([first]).unprocessed == 1
    assert fold([first]).task_count == 0
    assert fold([first, taken]).unprocessed == 0
    assert fold([first, taken]).violations == ()


def test_events_are_counted_by_type() -> None:
    marker = MarkerRecorded(marker_name="core_patch", details={})

    state = fold(history(STARTED, scheduled("1"), scheduled("2"), marker))

    assert state.counts == {
        "WorkflowExecutionStarted": 1,
        "ActivityTaskScheduled": 2,
        "MarkerRecorded": 1,
    }
    assert state.last_event is not None
    assert state.last_event.attributes == marker


# --- what is said of a broken one -----------------------------------------------------

FIRST, SECOND_EVENT, THIRD = history(STARTED, timer(5), scheduled())

FAULTS: list[tuple[str, str, list[HistoryEvent]]] = [
    ("empty", "V1", []),
    ("gap", "V1", [FIRST, change(SECOND_EVENT, event_id=3)]),
    ("repeat", "V1", [FIRST, change(SECOND_EVENT, event_id=1)]),
    ("does not begin at 1", "V1", [change(FIRST, event_id=2)]),
    ("task number falls", "V1", [change(FIRST, task_number=4), SECOND_EVENT]),
    ("first is another", "V2", [change(SECOND_EVENT, event_id=1)]),
    ("started twice", "V2", history(STARTED, STARTED)),
    (
        "ended twice",
        "V2",
        history(
            STARTED, WorkflowExecutionCompleted(NULL), WorkflowExecutionCompleted(NULL)
        ),
    ),
    (
        "goes on after the end",
        "V2",
        history(STARTED, WorkflowExecutionCompleted(NULL), timer(), timer(5, "2")),
    ),
    ("goes on after it continued", "V2", history(STARTED, continued(), timer())),
    ("outcome twice", "V4", history(STARTED, scheduled(), completed(2), completed(2))),
    ("outcome of nothing", "V4", history(STARTED, completed(2))),
    ("outcome before its schedule", "V4", history(STARTED, completed(3), scheduled())),
    ("outcome of a timer", "V4", history(STARTED, timer(), completed(2))),
    ("activity id open twice", "V4", history(STARTED, scheduled(), scheduled())),
    (
        "stop of a closed activity",
        "V4",
        history(
            STARTED, scheduled(), completed(2), ActivityTaskCancelRequested("1", 2)
        ),
    ),
    ("fired twice", "V4", history(STARTED, timer(1), fired(), fired())),
    (
        "fired and dropped",
        "V4",
        history(STARTED, timer(1), fired(), TimerCanceled("1", 2)),
    ),
    ("fired of nothing", "V4", history(STARTED, fired(7))),
    ("timer id open twice", "V4", history(STARTED, timer(), timer())),
    ("fired under another id", "V4", history(STARTED, timer(1), fired(2, "9"))),
    ("time falls", "V7", [FIRST, change(SECOND_EVENT, time=T0 - 1)]),
    ("fires early", "V7", history(STARTED, timer(5), fired())),
    ("cancelled unasked", "V9", history(STARTED, WorkflowExecutionCanceled())),
    (
        "request recorded twice",
        "V9",
        history(
            STARTED,
            WorkflowExecutionCancelRequested(reason="", request_id="r1"),
            WorkflowExecutionCancelRequested(reason="", request_id="r1"),
        ),
    ),
]


@pytest.mark.parametrize(
    ("rule", "events"),
    [(rule, events) for _, rule, events in FAULTS],
    ids=[name for name, _, _ in FAULTS],
)
def test_breach_is_named_once(rule: str, events: list[HistoryEvent]) -> None:
    (violation,) = fold(events).violations

    assert violation.rule == rule
    assert violation.message


def test_timer_that_fires_on_time_is_no_breach() -> None:
    on_time = change(history(STARTED, timer(1), fired())[2], time=T0 + 2 * SECOND)

    assert fold([*history(STARTED, timer(1)), on_time]).violations == ()


def test_ids_may_be_used_again_once_what_they_named_is_closed() -> None:
    again = history(STARTED, scheduled(), completed(2), scheduled(), completed(4))
    dropped = TimerCanceled("1", 2)

    assert fold(again).violations == ()
    assert fold(history(STARTED, timer(), dropped, timer())).violations == ()


def test_requests_without_an_id_are_told_apart_by_nothing() -> None:
    request = WorkflowExecutionCancelRequested(reason="")

    assert fold(history(STARTED, request, request)).violations == ()


# --- the tables agree with those of other layers --------------------------------------


def test_every_terminal_event_has_the_status_of_a_run() -> None:
    statuses = {status.value for status in RunStatus}

    assert set(STATUS_OF) == set(TERMINAL_EVENTS)
    assert set(STATUS_OF.values()) == statuses - {"running"}
