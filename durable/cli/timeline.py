"""A run as lines of text: what happened, when, and what it waits for.

Pure functions of what was read: no terminal, no clock, no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from durable.client.descriptions.description import paused_note, status_word
from durable.core.folding.fold import fold
from durable.core.folding.run_state import RunState
from durable.core.history.events import HistoryEvent
from durable.core.history.payload import JSON_PLAIN, Failure, innermost
from durable.core.machines.fact import DeadLetter
from durable.store.records import (
    STUCK,
    AttemptRecord,
    MessageRecord,
    RunRecord,
    RunStatus,
)
from durable.telling.escaping import escape, escape_lines
from durable.telling.events import Moment, tell
from durable.telling.pending import tell_pending
from durable.telling.pieces import (
    Line,
    Piece,
    Role,
    bytes_of,
    decode_failure,
    failure_text,
    find_datetime,
    instant,
    offset,
    span,
    value_of,
)


@dataclass(frozen=True)
class Style:
    """How roles look: the parameters of an SGR escape sequence for each."""

    codes: Mapping[Role, str] = field(default_factory=dict[Role, str])

    def paint(self, piece: Piece) -> str:
        """Dress a piece of text, and make it harmless to a terminal."""
        code, text = self.codes.get(piece.role), escape(piece.text)
        return text if code is None else f"\x1b[{code}m{text}\x1b[0m"


PLAIN: Final = Style()
COLORED: Final = Style(
    {"strong": "1", "dim": "2", "good": "32", "bad": "31", "warn": "33"}
)

STATUS_ROLES: Final[dict[str, Role]] = {
    "running": "warn",
    "stuck": "bad",
    "paused": "warn",
    "waiting": "warn",
    "completed": "good",
    "failed": "bad",
    "cancelled": "bad",
    "terminated": "bad",
    "timed_out": "bad",
    "continued_as_new": "good",
}

_CAUSES_MAX: Final = 5
_MEMBERS_MAX: Final = 5
_SIGNAL_NAMES_MAX: Final = 8
_DEAD_LETTERS_MAX: Final = 20
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
    return [paint(line, width, style) for line in lines]


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
    turn: str | None = None,
    lost: Mapping[int, str] | None = None,
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
        turn: why it waits for its turn, if it does.
        lost: why nothing of some activities runs; see `find_lost`.
    """
    state = fold(events)
    told = _timeline(events, attempts, payloads=payloads)
    if last is not None and len(told) > last:
        left_out = len(told) - last
        told = [[Piece(f"        ({left_out} lines above)", "dim")], *told[left_out:]]
    lines = [*header(record, state, now, payloads=payloads), [], *told]
    if record.status is RunStatus.RUNNING:
        pending = list(tell_pending(record, state, attempts, messages, now, lost))
        if pending:
            lines += [[], [Piece("pending now", "strong")], *_table(pending)]
    if state.dead_letters:
        lines += [[], *_dead_letters(state.dead_letters)]
    stuck = None if record.stuck is None else decode_failure(record.stuck)
    note = paused_note(record)
    if turn is not None:
        lines += [[], [Piece("waits for its turn", "warn"), Piece(escape(f" {turn}"))]]
    if note is not None:
        title = "paused: nothing begins until it is resumed, and nothing is lost"
        lines += [[], [Piece(title, "warn")], [Piece(escape(f"  {note}"))]]
    elif stuck is not None:
        title = "stuck: parked until its code is mended; nothing is lost"
        lines += [[], [Piece(title, "bad")], *_failure_lines(stuck)]
    elif state.failure is not None:
        lines += [[], [Piece("failure", "bad")], *_failure_lines(state.failure)]
    return [paint(line, width, style) for line in lines]


def describe_events(
    events: Sequence[HistoryEvent],
    attempts: Sequence[AttemptRecord],
    *,
    payloads: bool = False,
) -> list[dict[str, Any]]:
    """The timeline as data: event id (None for an attempt), instant, offset, text."""
    start = events[0].time if events else 0
    return [
        describe(moment, start, payloads=payloads) for moment in tell(events, attempts)
    ]


def describe(moment: Moment, start: int, *, payloads: bool) -> dict[str, Any]:
    """One line of the timeline of a run that began at `start`, as data."""
    return {
        "event_id": moment.event_id,
        "at": find_datetime(moment.time),
        "offset": (moment.time - start) / 1_000_000,
        "text": moment.text,
        "details": moment.details,
        **({"values": _values(moment)} if payloads else {}),
    }


def _values(moment: Moment) -> dict[str, Any]:
    return {
        name: payload.json if payload.encoding == JSON_PLAIN else value_of(payload)
        for name, payload in moment.values
    }


def paint(line: Line, width: int | None, style: Style) -> str:
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
    events: Sequence[HistoryEvent], attempts: Sequence[AttemptRecord], *, payloads: bool
) -> list[Line]:
    if not events:
        return [[Piece("  nothing is recorded yet", "dim")]]
    start = events[0].time
    moments = list(tell(events, attempts))
    columns = Columns(start)
    columns.fit(moments)
    return [line for one in moments for line in columns.lines(one, payloads=payloads)]


class Columns:
    """Lays out the lines of the timeline of a run that began at `start`."""

    def __init__(self, start: int) -> None:
        self._start = start
        self._number_width = 3
        self._time_width = self._text_width = 0

    def fit(self, moments: Sequence[Moment]) -> None:
        """Make the columns wide enough for these, too."""
        for moment in moments:
            number, time = len(self._number(moment)), len(self._time(moment))
            self._number_width = max(self._number_width, number)
            self._time_width = max(self._time_width, time)
            text = min(len(moment.text), _TEXT_WIDTH)
            self._text_width = max(self._text_width, text)

    def lines(self, moment: Moment, *, payloads: bool) -> Iterator[Line]:
        """The line of a moment, and those of its values."""
        number = self._number(moment).rjust(self._number_width)
        time = self._time(moment).rjust(self._time_width)
        place = Piece(f"{number}  {time}  ", "dim")
        line = [place, *moment.line]
        if moment.details:
            gap = " " * max(self._text_width - len(moment.text), 0)
            line.append(Piece(f"{gap}  {moment.details}", "dim"))
        yield line
        indent = " " * (len(place.text) + 2)
        for name, payload in moment.values if payloads else ():
            yield [Piece(f"{indent}{name} = ", "dim"), Piece(value_of(payload))]

    def _number(self, moment: Moment) -> str:
        return "" if moment.event_id is None else str(moment.event_id)

    def _time(self, moment: Moment) -> str:
        return offset(moment.time - self._start)


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
        yield from _member_lines(shown)
        shown = shown.cause


def _member_lines(failure: Failure) -> Iterator[Line]:
    """What is in an exception group, each with its traceback and causes."""
    for member in failure.group[:_MEMBERS_MAX]:
        first, *rest = _failure_lines(innermost(member))
        yield [Piece("  in it"), *first]
        yield from ([Piece("    "), *line] for line in rest)
    if len(failure.group) > _MEMBERS_MAX:
        yield [Piece(f"    and {len(failure.group) - _MEMBERS_MAX:,} more", "dim")]


# --- the head -------------------------------------------------------------------------


def header(
    record: RunRecord, state: RunState, now: int, *, payloads: bool
) -> list[Line]:
    """What a run is."""
    status = status_word(record)
    title: Line = [
        Piece(escape(record.workflow_id), "strong"),
        Piece(f"  {escape(record.workflow_type)}  "),
        Piece(status.replace("_", " "), STATUS_ROLES.get(status, "plain")),
    ]
    if record.closed_at is not None:
        title.append(Piece(f" after {span(record.closed_at - record.started_at)}"))
    else:
        title.append(Piece(f" for {span(max(0, now - record.started_at))}"))
    facts = [*_facts(record, now), *_folded_facts(state, payloads=payloads)]
    rows = [(Piece(name, "dim"), [Piece(escape(value))]) for name, value in facts]
    return [title, *_table(rows)]


def _facts(record: RunRecord, now: int) -> Iterator[tuple[str, str]]:
    """What the run's row says of it."""
    yield "run id", record.run_id
    if record.continued_from_run_id is not None:
        yield "continues", f"run {record.continued_from_run_id}"
    if record.parent_run_id is not None:
        yield "parent", f"{record.parent_workflow_id} (run {record.parent_run_id})"
    yield "started", instant(record.started_at)
    if record.closed_at is not None:
        yield "closed", instant(record.closed_at)
    yield "queue", record.task_queue
    if record.version is not None:
        yield "version", record.version
    if record.status is RunStatus.RUNNING:
        is_due = record.wake_at is not None and record.wake_at <= now
        is_wanted = is_due or status_word(record) == STUCK
        which = "it" if record.version is None else f"version {record.version}"
        none = (
            f"none; it waits for one that knows {which}"
            if is_wanted
            else "none, at rest"
        )
        yield "worker", record.owner or none


def _folded_facts(state: RunState, *, payloads: bool) -> Iterator[tuple[str, str]]:
    """What the run's history says of it."""
    if state.continued_as_run_id is not None:
        yield "goes on", f"as run {state.continued_as_run_id}"
    if state.published is not None:
        shown = state.published
        yield "state", value_of(shown) if payloads else bytes_of(shown.size)
    if state.signals:
        yield "signals", _signals(state.signals)
    events = "1 event" if state.event_count == 1 else f"{state.event_count:,} events"
    tasks = "1 workflow task" if state.task_count == 1 else f"{state.task_count} tasks"
    told = f"{events} in {tasks}"
    if state.checkpoint_event_id is not None:
        told += f", the newest checkpoint is event {state.checkpoint_event_id:,}"
    yield "history", told


def _signals(counts: Mapping[str, int]) -> str:
    shown = [f"{count} {name}" for name, count in counts.items()]
    left = len(shown) - _SIGNAL_NAMES_MAX
    more = [f"and {left} other names"] if left > 0 else []
    return ", ".join([*shown[:_SIGNAL_NAMES_MAX], *more])


# --- what nobody could read -----------------------------------------------------------


def _dead_letters(letters: Sequence[DeadLetter]) -> list[Line]:
    count = "1 signal" if len(letters) == 1 else f"{len(letters)} signals"
    title = f"dead letters: {count} that the code could not read"
    rows: list[tuple[Piece, Line]] = [
        (
            Piece(f"signal {escape(letter.signal_name)}", "strong"),
            [Piece(f"number {letter.number}, {failure_text(letter.error)}")],
        )
        for letter in letters[-_DEAD_LETTERS_MAX:]
    ]
    return [[Piece(title, "bad")], *_table(rows)]
