"""The timeline, to the letter."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from durable.cli.timeline import (
    COLORED,
    PLAIN,
    STATUS_ROLES,
    describe_events,
    render_run,
    render_timeline,
)
from durable.core.history.commands import ONE_ATTEMPT, ActivitySettings
from durable.core.history.events import (
    EVENT_TYPES,
    ActivityTaskCanceled,
    ActivityTaskCancelRequested,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskScheduled,
    ActivityTaskTimedOut,
    Attributes,
    HistoryEvent,
    MarkerRecorded,
    TimerCanceled,
    TimerFired,
    TimerStarted,
    WorkflowExecutionCanceled,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
    WorkflowTaskStarted,
)
from durable.core.history.payload import BINARY_PLAIN, NULL, Failure, Payload
from durable.store.records import (
    AttemptRecord,
    AttemptState,
    MessageRecord,
    RunRecord,
    RunStatus,
)
from durable.telling.events import _WORDS
from durable.telling.pieces import failure_text, instant, offset, span

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> list[str]:
    return (GOLDEN / name).read_text().splitlines()


MS = 1_000
SECOND = 1_000_000
T0 = 1_795_291_200 * SECOND  # 2026-11-21 20:00:00 UTC
WORKER = "4711-5f1ad2a9115c"

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
STARTED = WorkflowExecutionStarted(
    workflow_type="place_order",
    input=(Payload(msgspec.Raw(b'{"id":42}')),),
    task_queue="default",
    workflow_id="order-42",
    run_id="run-1",
    first_run_id="run-1",
    request_id="run-1",
    identity="99@shop",
)
RECORD = RunRecord(
    namespace="default",
    workflow_id="order-42",
    run_id="run-1",
    workflow_type="place_order",
    task_queue="default",
    status=RunStatus.RUNNING,
    started_at=T0,
    first_run_id="run-1",
    request_id="run-1",
    owner=WORKER,
    version="1.0.0",
)
AWAY = Failure(
    message="bank is away",
    type="ConnectionError",
    stack_trace='  File "b.py", line 3\n',
)


def scheduled(
    name: str, number: int, *arguments: bytes, source: str = "", summary: str = ""
) -> ActivityTaskScheduled:
    return ActivityTaskScheduled(
        activity_id=str(number),
        activity_type=name,
        input=tuple(Payload(msgspec.Raw(argument)) for argument in arguments),
        settings=SETTINGS,
        headers={},
        summary=summary or None,
        source=source,
    )


def attempt(
    event_id: int,
    number: int,
    state: AttemptState,
    *,
    began: int | None,
    ended: int | None = None,
    failure: Failure | None = None,
    due: int = 0,
) -> AttemptRecord:
    return AttemptRecord(
        run_id="run-1",
        scheduled_event_id=event_id,
        attempt=number,
        activity_type="charge",
        state=state,
        due_at=T0 + due,
        started_at=None if began is None else T0 + began,
        closed_at=None if ended is None else T0 + ended,
        failure=None if failure is None else msgspec.json.encode(failure).decode(),
        worker_id=WORKER,
    )


def history(*placed: tuple[int, Attributes]) -> list[HistoryEvent]:
    """Place events by their milliseconds after the start."""
    return [
        HistoryEvent(number, number, T0 + milliseconds * MS, attributes)
        for number, (milliseconds, attributes) in enumerate(placed, start=1)
    ]


ORDER = history(
    (0, STARTED),
    (
        0,
        scheduled("charge", 1, b'{"id":42}', b'"now"', source="/app/shop/orders.py:36"),
    ),
    (
        161,
        ActivityTaskCompleted(
            scheduled_event_id=2,
            result=Payload(msgspec.Raw(b'"r-42"')),
            attempt=3,
            started_at=T0 + 159 * MS,
            identity=WORKER,
        ),
    ),
    (161, TimerStarted(timer_id="1", start_to_fire_timeout=172_800 * SECOND)),
    (161, scheduled("mail", 2, source="/lib/durable/core/loop.py:9", summary="thanks")),
    (
        900,
        ActivityTaskFailed(
            scheduled_event_id=5,
            failure=Failure(
                kind="activity",
                message="wrapped",
                cause=Failure(message="550 \x1b[31mno such box", type="SMTPError"),
            ),
            attempt=1,
            started_at=T0 + 880 * MS,
            retry_state="maximum_attempts_reached",
            identity=WORKER,
        ),
    ),
)
ATTEMPTS = [
    attempt(2, 1, AttemptState.FAILED, began=1 * MS, ended=4 * MS, failure=AWAY),
    attempt(2, 2, AttemptState.LOST, began=54 * MS, ended=100 * MS, failure=AWAY),
    attempt(2, 3, AttemptState.COMPLETED, began=159 * MS, ended=161 * MS),
]

ORDER_LINES = golden("order.txt")


# --- the timeline ---------------------------------------------------------------------


def test_timeline_tells_events_and_attempts_in_order_of_time() -> None:
    assert render_timeline(ORDER, ATTEMPTS, width=None, style=PLAIN) == ORDER_LINES


def test_values_are_shown_on_request_only() -> None:
    shown = render_timeline(ORDER[:3], ATTEMPTS, payloads=True)

    assert "bank" not in "".join(render_timeline(ORDER[:3], []))
    assert shown[:5] == [
        "  1  +0.000s  place_order started                   1 argument, 9 bytes,"
        " by 99@shop",
        '                argument 1 = {"id":42}',
        "  2  +0.000s  charge scheduled                      id 1, 2 arguments,"
        " 14 bytes, at shop/orders.py:36",
        '                argument 1 = {"id":42}',
        '                argument 2 = "now"',
    ]
    assert shown[-1] == '                result = "r-42"'


def test_bytes_and_control_characters_in_values_are_not_printed() -> None:
    hostile = Payload(msgspec.Raw('"\u202e\x9b2J"'.encode()))
    data = Payload(encoding=BINARY_PLAIN, data=b"\x1b[2J")
    events = history(
        (0, msgspec.structs.replace(STARTED, input=(hostile, data), identity=""))
    )

    shown = render_timeline(events, [], payloads=True)

    assert shown[1:] == [
        r'                argument 1 = "\u202e\u009b2J"',
        "                argument 2 = <4 bytes, binary/plain>",
    ]


@pytest.mark.parametrize("width", [40, 60, 79])
def test_lines_are_cut_to_the_width(width: int) -> None:
    lines = render_timeline(ORDER, ATTEMPTS, width=width)

    assert all(len(line) <= width for line in lines)
    assert lines[1].endswith("...")
    assert lines[1][: width - 3] == ORDER_LINES[1][: width - 3]


def test_colors_dress_the_same_text() -> None:
    colored = render_timeline(ORDER, ATTEMPTS, style=COLORED)

    assert "\x1b[32m completed\x1b[0m" in colored[4]
    assert "\x1b[31m failed\x1b[0m" in colored[-1]
    bare = [re.sub(r"\x1b\[\d*m", "", line).rstrip() for line in colored]
    assert bare == ORDER_LINES


def test_events_of_a_run_and_of_its_activities_are_told_in_words() -> None:
    outcome: dict[str, Any] = {"scheduled_event_id": 2, "attempt": 1, "started_at": T0}
    events = history(
        (0, STARTED),
        (0, scheduled("charge", 1)),
        (1, ActivityTaskCancelRequested(activity_id="1", scheduled_event_id=2)),
        (2, ActivityTaskCompleted(result=NULL, **outcome)),
        (3, ActivityTaskFailed(failure=AWAY, retry_state="x_y", **outcome)),
        (4, ActivityTaskTimedOut(failure=AWAY, retry_state="timeout", **outcome)),
        (5, ActivityTaskCanceled(**outcome)),
        (6, TimerStarted(timer_id="1", start_to_fire_timeout=90 * SECOND, summary="s")),
        (7, TimerFired(timer_id="1", started_event_id=8)),
        (8, TimerCanceled(timer_id="1", started_event_id=8)),
        (9, patch(deprecated=False)),
        (10, patch(deprecated=True)),
        (11, MarkerRecorded(marker_name="side_effect", details={})),
        (12, MarkerRecorded(marker_name="core_patch", details={})),
        (13, WorkflowTaskStarted()),
        (14, WorkflowExecutionCancelRequested(reason="too\nlate", identity="me")),
        (15, WorkflowExecutionCompleted(result=NULL)),
        (16, WorkflowExecutionFailed(failure=AWAY)),
        (17, WorkflowExecutionCanceled()),
        (18, WorkflowExecutionTimedOut(timeout_type="run")),
        (19, WorkflowExecutionTerminated(reason="", identity="me")),
    )
    told = [(line["text"], line["details"]) for line in describe_events(events, [])]

    assert told[2:] == [
        ("charge asked to stop", ""),
        ("charge completed", "took 2 ms, 4 bytes"),
        ("charge failed: ConnectionError: bank is away", "took 3 ms, x y"),
        ("charge timed out: ConnectionError: bank is away", "took 4 ms, timeout"),
        ("charge cancelled", "took 5 ms"),
        ("timer 1 set for 1 min 30 s", "'s'"),
        ("timer 1 fired", ""),
        ("timer 1 dropped", ""),
        ("patch 'fees' taken", "at a/b.py:3"),
        ("patch 'fees' deprecated", "at a/b.py:3"),
        ("marker side_effect", ""),
        ("marker core_patch", ""),
        ("workflow task 15 began", ""),
        (r"cancel requested: too\nlate", "by me"),
        ("completed", "4 bytes"),
        ("failed: ConnectionError: bank is away", ""),
        ("cancelled", ""),
        ("timed out", "its run_timeout passed"),
        ("terminated", "by me"),
    ]


def patch(*, deprecated: bool) -> MarkerRecorded:
    data = msgspec.json.encode({"id": "fees", "deprecated": deprecated})
    return MarkerRecorded(
        marker_name="core_patch",
        details={"patch": Payload(msgspec.Raw(data))},
        source="/x/a/b.py:3",
    )


def test_timeline_as_data_names_instants_and_offsets() -> None:
    first, _, third, *_ = describe_events(ORDER, ATTEMPTS)

    assert (first["event_id"], first["offset"]) == (1, 0.0)
    assert first["at"].isoformat() == "2026-11-21T20:00:00+00:00"
    assert (third["event_id"], third["offset"]) == (None, 0.004)
    assert "values" not in first


def test_nothing_recorded_is_said_so() -> None:
    assert render_timeline([], []) == ["  nothing is recorded yet"]


# --- the whole run --------------------------------------------------------------------

RUNNING = golden("running.txt")


def test_running_run_says_what_is_pending_and_when_it_is_due() -> None:
    events = history(
        (0, STARTED),
        (0, scheduled("charge", 1)),
        (1, scheduled("ship", 2)),
        (
            2,
            TimerStarted(
                timer_id="1", start_to_fire_timeout=7_200 * SECOND, summary="remind"
            ),
        ),
    )
    attempts = [
        ATTEMPTS[0],
        attempt(2, 2, AttemptState.BACKOFF, began=None, due=7_200 * SECOND),
    ]
    message = MessageRecord(
        run_id="run-1",
        kind="cancel",
        request_id="r1",
        data='{"reason": ""}',
        created_at=T0 + 3_000 * SECOND,
    )

    lines = render_run(RECORD, events, attempts, [message], now=T0 + 3_600 * SECOND)

    assert lines == RUNNING


STUCK = golden("stuck.txt")


def test_stuck_run_shows_why_with_its_traceback() -> None:
    events = history(
        (0, STARTED),
        (0, scheduled("charge", 1)),
        (
            1,
            ActivityTaskCompleted(
                scheduled_event_id=2, result=NULL, attempt=1, started_at=T0
            ),
        ),
    )
    events[2] = msgspec.structs.replace(events[2], task_number=0)
    why = Failure(
        message="list index\nout of\x1b[2J range",
        type="IndexError",
        stack_trace='  File "orders.py", line 40, in place_order\n    return x[3]\n',
        cause=AWAY,
    )
    record = msgspec.structs.replace(
        RECORD, owner=None, stuck=msgspec.json.encode(why).decode()
    )

    assert render_run(record, events, [], now=T0 + 5 * SECOND) == STUCK


def test_closed_run_says_how_long_it_took_and_what_it_failed_of() -> None:
    events = history((0, STARTED), (250, WorkflowExecutionFailed(failure=AWAY)))
    record = msgspec.structs.replace(
        RECORD, status=RunStatus.FAILED, closed_at=T0 + 250 * MS, owner=None
    )

    lines = render_run(record, events, [], now=T0 + 9 * SECOND)

    assert lines[0] == "order-42  place_order  failed after 250 ms"
    assert "  closed   2026-11-21 20:00:00.250 UTC" in lines
    assert not any("pending" in line or "worker " in line for line in lines)
    assert lines[-3:] == [
        "failure",
        "  ConnectionError: bank is away",
        '      File "b.py", line 3',
    ]


def test_last_lines_say_how_many_are_left_out() -> None:
    lines = render_run(RECORD, ORDER, ATTEMPTS, now=T0 + SECOND, last=2)

    assert "        (6 lines above)" in lines
    assert ORDER_LINES[-2] in lines
    assert ORDER_LINES[-3] not in lines


def test_ids_and_names_from_the_database_are_escaped() -> None:
    record = msgspec.structs.replace(
        RECORD, workflow_id="a\x1b]0;x\x07", owner="w\n1", workflow_type="t\r"
    )

    lines = render_run(record, [], [], now=T0)

    assert lines[0].startswith(r"a\x1b]0;x\x07  t\r  running")
    assert r"  worker   w\n1" in lines
    assert all(line.isprintable() for line in lines)


def test_rows_written_by_hand_are_shown_all_the_same() -> None:
    record = msgspec.structs.replace(RECORD, started_at=2**62, stuck="not JSON")
    events = [HistoryEvent(1, 1, 2**62, STARTED)]

    lines = render_run(record, events, [], now=T0)

    assert f"  started  {2**62} us after 1970" in lines
    assert lines[-1] == "  ?: what is recorded cannot be read"


def test_every_status_of_a_run_has_a_look() -> None:
    assert set(STATUS_ROLES) == {status.value for status in RunStatus} | {
        "stuck",
        "paused",
        "waiting",
    }


# --- small words ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "0 us"),
        (999, "999 us"),
        (1_500, "1.5 ms"),
        (2_350_000, "2.35 s"),
        (60 * SECOND, "1 min"),
        (3_599 * SECOND + 900_000, "1 h"),
        (3_661 * SECOND, "1 h 1 min"),
        (90_000 * SECOND, "1 d 1 h"),
        (86_400 * 365 * SECOND, "365 d"),
    ],
)
def test_spans_are_as_exact_as_anybody_wants_to_know(
    microseconds: int, text: str
) -> None:
    assert span(microseconds) == text


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "+0.000s"),
        (59_999_999, "+59.999s"),
        (-1_500_000, "-1.500s"),
        (61_250_000, "+1m01.2s"),
        (3_661 * SECOND, "+1h01m01s"),
        (90_061 * SECOND, "+1d01h01m"),
    ],
)
def test_offsets_count_from_the_start(microseconds: int, text: str) -> None:
    assert offset(microseconds) == text


def test_instants_beyond_the_calendar_are_numbers() -> None:
    assert instant(T0) == "2026-11-21 20:00:00.000 UTC"
    assert instant(-(2**62)) == f"{-(2**62)} us after 1970"


def test_failure_on_one_line_is_bounded_and_names_what_raised() -> None:
    assert failure_text(Failure(kind="timeout")) == "timeout"
    long = failure_text(Failure(type="ValueError", message="x" * 500 + "\nsecond"))
    assert long == f"ValueError: {'x' * 200}..."


def test_group_shows_what_is_in_it() -> None:
    frame = '  File "b.py", line 3, in pay\n'
    members = (
        Failure(message="left", type="ValueError", stack_trace=frame),
        Failure(kind="activity", cause=Failure(message="right", type="KeyError")),
    )
    why = Failure(message="both (2 sub-exceptions)", type="ExceptionGroup")
    why = msgspec.structs.replace(why, group=members)
    assert failure_text(why) == (
        "ExceptionGroup: both (2 sub-exceptions): ValueError: left; KeyError: right"
    )
    events = history((0, STARTED), (250, WorkflowExecutionFailed(failure=why)))
    record = msgspec.structs.replace(
        RECORD, status=RunStatus.FAILED, closed_at=T0 + 250 * MS, owner=None
    )

    lines = render_run(record, events, [], now=T0 + 9 * SECOND)

    assert lines[-5:] == [
        "failure",
        "  ExceptionGroup: both (2 sub-exceptions)",
        "  in it  ValueError: left",
        '          File "b.py", line 3, in pay',
        "  in it  KeyError: right",
    ]


def test_every_event_has_words() -> None:
    assert set(_WORDS) == set(EVENT_TYPES.values())
