"""A run as lines of text: what happened, when, and what it waits for.

Pure functions of what was read: no terminal, no clock, no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from durable.cli.output import escape, escape_lines
from durable.cli.wording import (
    Line,
    Moment,
    Piece,
    Role,
    decode_failure,
    failure_text,
    find_datetime,
    instant,
    offset,
    span,
    tell,
    value_of,
)
from durable.core.events import HistoryEvent
from durable.core.fold import PendingActivity, RunState, fold
from durable.core.payload import JSON_PLAIN, Failure
from durable.store.records import (
    AttemptRecord,
    AttemptState,
    MessageRecord,
    RunRecord,
    RunStatus,
)


@dataclass(frozen=True)
class Style:
    """How roles look: the parameters of an SGR escape sequence for each."""

    codes: Mapping[Role, str] = field(default_factory=dict[Role, str])

    def paint(self, piece: Piece) -> str:
        """Dress a piece of text."""
        code = self.codes.get(piece.role)
        return piece.text if code is None else f"\x1b[{code}m{piece.text}\x1b[0m"


PLAIN: Final = Style()
COLORED: Final = Style(
    {"strong": "1", "dim": "2", "good": "32", "bad": "31", "warn": "33"}
)

STATUS_ROLES: Final[dict[str, Role]] = {
    "running": "warn",
    "stuck": "bad",
    "completed": "good",
    "failed": "bad",
    "cancelled": "bad",
    "terminated": "bad",
    "timed_out": "bad",
}

_CAUSES_MAX: Final = 5
# What happened, before more about it; longer texts push that to the right.
_TEXT_WIDTH: Final = 36


# --- the two renderings ---------------------------------------------------------------


def render_timeline(
    events: Sequence[HistoryEvent],
    attempts: Sequence[AttemptRecord],
    *,
    width: int | None = None,
    style: Style = PLAIN,
    payloads: bool = False,
) -> list[str]:
    """Tell what happened, a line an event, in order of time.

    Attempts of activities stand among the events, but for the one that an activity
    closed with, which its outcome tells of.

    Args:
        events: the run's history.
        attempts: its attempts.
        width: how many characters a line may have; None for any number.
        style: how it is coloured.
        payloads: whether recorded values are shown, and not only their sizes.
    """
    lines = _timeline(events, attempts, payloads=payloads)
    return [_paint(line, width, style) for line in lines]


def render_run(
    record: RunRecord,
    events: Sequence[HistoryEvent],
    attempts: Sequence[AttemptRecord],
    messages: Sequence[MessageRecord] = (),
    *,
    now: int,
    last: int | None = None,
    width: int | None = None,
    style: Style = PLAIN,
    payloads: bool = False,
) -> list[str]:
    """Tell all about a run: what it is, what happened, what it waits for, and why.

    Args:
        record: the run's row.
        events: its history.
        attempts: its attempts.
        messages: what waits in its inbox.
        now: the time, for what is due.
        last: how many lines of the timeline to show; all by default.
        width: how many characters a line may have; None for any number.
        style: how it is coloured.
        payloads: whether recorded values are shown, and not only their sizes.
    """
    state = fold(events)
    told = _timeline(events, attempts, payloads=payloads)
    if last is not None and len(told) > last:
        left_out = len(told) - last
        told = [[Piece(f"        ({left_out} lines above)", "dim")], *told[left_out:]]
    lines = [*_header(record, state, now), [], *told]
    if record.status is RunStatus.RUNNING:
        pending = list(_pending(record, state, attempts, messages, now))
        if pending:
            lines += [[], [Piece("pending now", "strong")], *_table(pending)]
    stuck = None if record.stuck is None else decode_failure(record.stuck)
    if stuck is not None:
        title = "stuck: parked until its code is mended; nothing is lost"
        lines += [[], [Piece(title, "bad")], *_failure_lines(stuck)]
    elif state.failure is not None:
        lines += [[], [Piece("failure", "bad")], *_failure_lines(state.failure)]
    return [_paint(line, width, style) for line in lines]


def describe_events(
    events: Sequence[HistoryEvent],
    attempts: Sequence[AttemptRecord],
    *,
    payloads: bool = False,
) -> list[dict[str, Any]]:
    """The timeline as data: event id (None for an attempt), instant, offset, text."""
    start = events[0].time if events else 0
    return [
        {
            "event_id": moment.event_id,
            "at": find_datetime(moment.time),
            "offset": (moment.time - start) / 1_000_000,
            "text": moment.text,
            "details": moment.details,
            **({"values": _values(moment)} if payloads else {}),
        }
        for moment in tell(events, attempts)
    ]


def _values(moment: Moment) -> dict[str, Any]:
    return {
        name: payload.json if payload.encoding == JSON_PLAIN else value_of(payload)
        for name, payload in moment.values
    }


def _paint(line: Line, width: int | None, style: Style) -> str:
    """Colour a line, after cutting it to the width."""
    if width is not None and sum(len(piece.text) for piece in line) > width:
        left = max(width - 3, 0)
        cut: Line = []
        for piece in line:
            cut.append(Piece(piece.text[:left], piece.role))
            left -= len(cut[-1].text)
        line = [*cut, Piece("...", "dim")]
    return "".join(style.paint(piece) for piece in line if piece.text).rstrip()


def _table(rows: Iterable[tuple[Piece, Line]]) -> list[Line]:
    """Indent rows, the second parts one below the other."""
    rows = list(rows)
    width = max(len(first.text) for first, _ in rows)
    return [
        [Piece("  "), first, Piece(" " * (width - len(first.text) + 2)), *rest]
        for first, rest in rows
    ]


def _timeline(
    events: Sequence[HistoryEvent],
    attempts: Sequence[AttemptRecord],
    *,
    payloads: bool,
) -> list[Line]:
    if not events:
        return [[Piece("  nothing is recorded yet", "dim")]]
    start = events[0].time
    moments = list(tell(events, attempts))
    times = [offset(moment.time - start) for moment in moments]
    number_width = max(len(str(events[-1].event_id)), 3)
    time_width = max(len(time) for time in times)
    text_width = min(max(len(moment.text) for moment in moments), _TEXT_WIDTH)
    lines: list[Line] = []
    for moment, time in zip(moments, times, strict=True):
        number = "" if moment.event_id is None else str(moment.event_id)
        place = Piece(f"{number:>{number_width}}  {time:>{time_width}}  ", "dim")
        lines.append([place, *moment.line])
        if moment.details:
            gap = " " * max(text_width - len(moment.text), 0)
            lines[-1].append(Piece(f"{gap}  {moment.details}", "dim"))
        if payloads:
            indent = " " * (len(place.text) + 2)
            lines += [
                [Piece(f"{indent}{name} = ", "dim"), Piece(value_of(payload))]
                for name, payload in moment.values
            ]
    return lines


def _failure_lines(failure: Failure) -> Iterator[Line]:
    """A failure with its traceback and causes."""
    shown: Failure | None = failure
    for depth in range(_CAUSES_MAX):
        if shown is None:
            return
        label = "  " if depth == 0 else "  caused by "
        name = shown.type or shown.kind
        first, *rest = escape_lines(f"{name}: {shown.message}")
        yield [Piece(label), Piece(first, "strong")]
        for line in rest:
            yield [Piece(f"    {line}")]
        for line in escape_lines(shown.stack_trace.rstrip("\n")):
            if line:
                yield [Piece(f"    {line}", "dim")]
        shown = shown.cause


# --- the head -------------------------------------------------------------------------


def _header(record: RunRecord, state: RunState, now: int) -> list[Line]:
    status = record.status.value if record.stuck is None else "stuck"
    title: Line = [
        Piece(escape(record.workflow_id), "strong"),
        Piece(f"  {escape(record.workflow_type)}  "),
        Piece(status.replace("_", " "), STATUS_ROLES.get(status, "plain")),
    ]
    if record.closed_at is not None:
        title.append(Piece(f" after {span(record.closed_at - record.started_at)}"))
    else:
        title.append(Piece(f" for {span(max(0, now - record.started_at))}"))
    facts: list[tuple[str, str]] = [
        ("run id", record.run_id),
        ("started", instant(record.started_at)),
    ]
    if record.closed_at is not None:
        facts.append(("closed", instant(record.closed_at)))
    facts.append(("queue", record.task_queue))
    if record.version is not None:
        facts.append(("version", record.version))
    if record.status is RunStatus.RUNNING:
        facts.append(("worker", record.owner or "none; it waits for one that knows it"))
    tasks = "1 workflow task" if state.task_count == 1 else f"{state.task_count} tasks"
    facts.append(("history", f"{state.event_count:,} events in {tasks}"))
    rows = [(Piece(name, "dim"), [Piece(escape(value))]) for name, value in facts]
    return [title, *_table(rows)]


# --- what it waits for ----------------------------------------------------------------


def _until(due_at: int, now: int) -> str:
    if due_at <= now:
        return f"due for {span(now - due_at)} ({instant(due_at)})"
    return f"due in {span(due_at - now)} ({instant(due_at)})"


def _pending(
    record: RunRecord,
    state: RunState,
    attempts: Sequence[AttemptRecord],
    messages: Sequence[MessageRecord],
    now: int,
) -> Iterator[tuple[Piece, Line]]:
    latest = {row.scheduled_event_id: row for row in attempts}
    failed = {
        row.scheduled_event_id: row for row in attempts if row.failure is not None
    }
    for activity in state.pending_activities:
        name = Piece(escape(activity.activity_type), "strong")
        row = latest.get(activity.scheduled_event_id)
        line = _pending_activity(activity, row, now)
        problem = failed.get(activity.scheduled_event_id)
        if problem is not None and problem.failure is not None:
            text = failure_text(decode_failure(problem.failure))
            line.append(Piece(f", after {text}", "bad"))
        yield name, line
    for timer in state.pending_timers:
        label = "" if timer.summary is None else f" {escape(repr(timer.summary))}"
        due = Piece(_until(timer.due_at, now) + label)
        yield Piece(f"timer {escape(timer.timer_id)}", "strong"), [due]
    if state.deadline_at is not None:
        yield Piece("run timeout", "strong"), [Piece(_until(state.deadline_at, now))]
    for message in messages:
        waiting = span(max(0, now - message.created_at))
        yield (
            Piece(f"{escape(message.kind)} request", "warn"),
            [Piece(f"not seen by the code yet, for {waiting}")],
        )
    if state.unprocessed and record.stuck is None:
        count = state.unprocessed
        inputs = "1 event" if count == 1 else f"{count} events"
        yield (
            Piece("workflow task", "warn"),
            [Piece(f"{inputs} to be seen by the code")],
        )


def _pending_activity(
    activity: PendingActivity, row: AttemptRecord | None, now: int
) -> Line:
    number = 1 if row is None else row.attempt
    if row is not None and row.state is AttemptState.BACKOFF:
        text = f"attempt {number} {_until(row.due_at, now)}"
    else:
        began = activity.scheduled_at
        if row is not None and row.started_at is not None:
            began = row.started_at
        text = f"attempt {number} under way for {span(max(0, now - began))}"
    text = f"activity {escape(activity.activity_id)}, {text}"
    if activity.is_cancel_requested:
        text += ", asked to stop"
    return [Piece(text)]
