"""Events and attempts in words: pieces of one line each, not yet coloured or cut.

All text from the database is escaped here. Instants come in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from durable.cli.output import escape, escape_json
from durable.clock import to_datetime
from durable.core.events import (
    UNPROCESSED,
    ActivityTaskCanceled,
    ActivityTaskCancelRequested,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskScheduled,
    ActivityTaskTimedOut,
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
from durable.core.machines.marker import find_patch
from durable.core.payload import JSON_PLAIN, Failure, Payload
from durable.store.records import AttemptRecord, AttemptState

Role: TypeAlias = Literal["plain", "strong", "dim", "good", "bad", "warn"]
"""What a piece of text is for; a style says how that looks."""


class Piece(NamedTuple):
    """Some text of one role."""

    text: str
    role: Role = "plain"


Line: TypeAlias = list[Piece]


_MESSAGE_MAX: Final = 200
_LIBRARY: Final = "/durable/core/"
_Told: TypeAlias = tuple[Line, list[str], list[tuple[str, Payload]]]


# --- spans and instants ---------------------------------------------------------------


def span(microseconds: int) -> str:
    """A span of time, as exact as anybody wants to know."""
    if microseconds < 1_000:
        return f"{microseconds} us"
    if microseconds < 1_000_000:
        return f"{microseconds / 1_000:.3g} ms"
    seconds = microseconds / 1_000_000
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for size, name, below, below_name in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {name}" + (f" {rest} {below_name}" if rest else "")
    return f"{whole} s"


def find_datetime(microseconds: int) -> datetime | None:
    """An instant as a datetime; None if a row holds what no calendar does."""
    try:
        return to_datetime(microseconds)
    except OverflowError:
        return None


def instant(microseconds: int) -> str:
    """An instant, to the millisecond."""
    moment = find_datetime(microseconds)
    if moment is None:
        return f"{microseconds} us after 1970"
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{moment.microsecond // 1_000:03d} UTC"


def offset(microseconds: int) -> str:
    """How long after the start of its run something was."""
    sign = "-" if microseconds < 0 else "+"
    milliseconds = abs(microseconds) // 1_000
    seconds, milliseconds = divmod(milliseconds, 1_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{sign}{days}d{hours:02d}h{minutes:02d}m"
    if hours:
        return f"{sign}{hours}h{minutes:02d}m{seconds:02d}s"
    if minutes:
        return f"{sign}{minutes}m{seconds:02d}.{milliseconds // 100}s"
    return f"{sign}{seconds}.{milliseconds:03d}s"


# --- values and failures --------------------------------------------------------------


def size_of(payloads: Sequence[Payload]) -> str:
    """How many arguments, and how many bytes."""
    count = "1 argument" if len(payloads) == 1 else f"{len(payloads)} arguments"
    if not payloads:
        return "no arguments"
    return f"{count}, {_bytes(sum(payload.size for payload in payloads))}"


def _bytes(size: int) -> str:
    return "1 byte" if size == 1 else f"{size:,} bytes"


def value_of(payload: Payload) -> str:
    """A recorded value, if it can be read without the user's code."""
    if payload.encoding == JSON_PLAIN:
        return escape_json(bytes(payload.json).decode("utf-8", "backslashreplace"))
    return f"<{_bytes(payload.size)}, {escape(payload.encoding)}>"


def decode_failure(text: str) -> Failure:
    """Read a failure from a row; whatever stands there, say something."""
    try:
        return msgspec.json.decode(text, type=Failure)
    except (msgspec.MsgspecError, ValueError):
        return Failure(message="what is recorded cannot be read", type="?")


def failure_text(failure: Failure) -> str:
    """A failure on one line: what raised, not what wrapped it."""
    while failure.kind in ("activity", "child_workflow") and failure.cause is not None:
        failure = failure.cause
    message = failure.message.partition("\n")[0]
    if len(message) > _MESSAGE_MAX:
        message = message[:_MESSAGE_MAX] + "..."
    name = failure.type or failure.kind
    return escape(f"{name}: {message}" if message else name)


# --- events and attempts ------------------------------------------------------------


class Moment(NamedTuple):
    """One line of the timeline: what happened, more about it, its values."""

    time: int
    event_id: int | None
    line: Line
    details: str
    values: Sequence[tuple[str, Payload]] = ()

    @property
    def text(self) -> str:
        """What happened, as plain text."""
        return "".join(piece.text for piece in self.line)


def tell(
    events: Sequence[HistoryEvent], attempts: Sequence[AttemptRecord]
) -> Iterator[Moment]:
    """Events in order, and between them the attempts, when they ended or began."""
    telling = _Telling(events)
    waiting = telling.attempts(attempts)
    for event in events:
        while waiting and waiting[0].time < event.time:
            yield waiting.pop(0)
        yield telling.event(event)
    yield from waiting


class _Telling:
    """Puts events and attempts into words; knows which event began what."""

    def __init__(self, events: Sequence[HistoryEvent]) -> None:
        self._scheduled: dict[int, ActivityTaskScheduled] = {}
        self._outcomes: dict[int, int] = {}
        for event in events:
            attributes = event.attributes
            if isinstance(attributes, ActivityTaskScheduled):
                self._scheduled[event.event_id] = attributes
            elif isinstance(
                attributes,
                ActivityTaskCompleted
                | ActivityTaskFailed
                | ActivityTaskTimedOut
                | ActivityTaskCanceled,
            ):
                self._outcomes[attributes.scheduled_event_id] = attributes.attempt
        # Inputs at the end that no task has taken: the code has not seen them.
        self._unseen = len(events)
        while self._unseen and events[self._unseen - 1].task_number == UNPROCESSED:
            self._unseen -= 1
        self._unseen_from = (
            events[self._unseen].event_id if self._unseen < len(events) else None
        )

    # --- attempts ---------------------------------------------------------------------

    def attempts(self, attempts: Sequence[AttemptRecord]) -> list[Moment]:
        """The attempts that their activity did not close with, in order of time.

        Those that have not begun are told of where it is said what is pending.
        """
        moments = [
            self._attempt(row)
            for row in attempts
            if row.state is not AttemptState.BACKOFF
            and self._outcomes.get(row.scheduled_event_id) != row.attempt
        ]
        return sorted(moments, key=lambda moment: moment.time)

    def _attempt(self, row: AttemptRecord) -> Moment:
        time = row.closed_at or row.started_at or row.due_at
        words: dict[AttemptState, tuple[str, Role]] = {
            AttemptState.STARTED: ("began", "plain"),
            AttemptState.COMPLETED: ("completed", "good"),
            AttemptState.FAILED: ("failed", "bad"),
            AttemptState.TIMED_OUT: ("timed out", "bad"),
            AttemptState.CANCELLED: ("cancelled", "bad"),
            AttemptState.LOST: ("lost with its worker", "bad"),
        }
        word, role = words[row.state]
        line: Line = [
            Piece(f"{escape(row.activity_type)} attempt {row.attempt} "),
            Piece(word, role),
        ]
        if row.failure is not None and row.state is not AttemptState.LOST:
            line.append(Piece(f": {failure_text(decode_failure(row.failure))}"))
        details: list[str] = []
        if row.closed_at is not None and row.started_at is not None:
            details.append(f"after {span(row.closed_at - row.started_at)}")
        if row.worker_id is not None:
            details.append(f"worker {row.worker_id}")
        return Moment(time, None, line, _joined(details))

    # --- events -----------------------------------------------------------------------

    def event(self, event: HistoryEvent) -> Moment:
        line, details, values = self._tell(event)
        if self._unseen_from is not None and event.event_id >= self._unseen_from:
            details = [*details, "not seen by the code yet"]
        return Moment(event.time, event.event_id, line, _joined(details), values)

    def _tell(self, event: HistoryEvent) -> _Told:
        attributes = event.attributes
        match attributes:
            case ActivityTaskScheduled():
                return self._tell_scheduled(attributes)
            case ActivityTaskCompleted():
                line = [self._activity(attributes.scheduled_event_id)]
                line.append(Piece(" completed", "good"))
                size = _bytes(attributes.result.size)
                details = self._outcome(event, attributes, size)
                return line, details, [("result", attributes.result)]
            case ActivityTaskFailed() | ActivityTaskTimedOut():
                is_late = isinstance(attributes, ActivityTaskTimedOut)
                line = [self._activity(attributes.scheduled_event_id)]
                line.append(Piece(" timed out" if is_late else " failed", "bad"))
                line.append(Piece(f": {failure_text(attributes.failure)}"))
                why = attributes.retry_state.replace("_", " ")
                return line, self._outcome(event, attributes, why), []
            case ActivityTaskCanceled():
                line = [self._activity(attributes.scheduled_event_id)]
                line.append(Piece(" cancelled", "bad"))
                return line, self._outcome(event, attributes), []
            case ActivityTaskCancelRequested():
                line = [self._activity(attributes.scheduled_event_id)]
                line.append(Piece(" asked to stop", "warn"))
                return line, _source(attributes.source), []
            case TimerStarted():
                line = [Piece(f"timer {escape(attributes.timer_id)}", "strong")]
                line.append(Piece(f" set for {span(attributes.start_to_fire_timeout)}"))
                return line, _labels(attributes.summary, attributes.source), []
            case TimerFired() | TimerCanceled():
                is_fired = isinstance(attributes, TimerFired)
                line = [Piece(f"timer {escape(attributes.timer_id)}", "strong")]
                line.append(Piece(" fired", "good") if is_fired else Piece(" dropped"))
                return line, [], []
            case _:
                return _tell_of_run(event)

    def _tell_scheduled(self, scheduled: ActivityTaskScheduled) -> _Told:
        line: Line = [Piece(escape(scheduled.activity_type), "strong")]
        line.append(Piece(" scheduled"))
        details = _labels(scheduled.summary, "")
        details += [f"id {scheduled.activity_id}", size_of(scheduled.input)]
        details += _source(scheduled.source)
        values = [
            (f"argument {index}", payload)
            for index, payload in enumerate(scheduled.input, start=1)
        ]
        return line, details, values

    def _activity(self, scheduled_event_id: int) -> Piece:
        scheduled = self._scheduled.get(scheduled_event_id)
        name = "?" if scheduled is None else scheduled.activity_type
        return Piece(escape(name), "strong")

    def _outcome(
        self,
        event: HistoryEvent,
        outcome: ActivityTaskCompleted
        | ActivityTaskFailed
        | ActivityTaskTimedOut
        | ActivityTaskCanceled,
        more: str = "",
    ) -> list[str]:
        details: list[str] = []
        if outcome.attempt > 1:
            details.append(f"attempt {outcome.attempt}")
        if 0 < outcome.started_at <= event.time:
            details.append(f"took {span(event.time - outcome.started_at)}")
        if more:
            details.append(more)
        if outcome.identity:
            details.append(f"worker {outcome.identity}")
        return details


def _tell_of_run(
    event: HistoryEvent,
) -> _Told:
    attributes = event.attributes
    match attributes:
        case WorkflowExecutionStarted():
            line: Line = [Piece(escape(attributes.workflow_type), "strong")]
            line.append(Piece(" started"))
            details = [size_of(attributes.input)]
            if attributes.identity:
                details.append(f"by {attributes.identity}")
            values = [
                (f"argument {index}", payload)
                for index, payload in enumerate(attributes.input, start=1)
            ]
            return line, details, values
        case WorkflowExecutionCompleted():
            line = [Piece("completed", "good")]
            values = [("result", attributes.result)]
            return line, [_bytes(attributes.result.size)], values
        case WorkflowExecutionFailed():
            text = failure_text(attributes.failure)
            return [Piece("failed", "bad"), Piece(f": {text}")], [], []
        case WorkflowExecutionCanceled():
            return [Piece("cancelled", "bad")], [], []
        case WorkflowExecutionTimedOut():
            what = f"its {escape(attributes.timeout_type)}_timeout passed"
            return [Piece("timed out", "bad")], [what], []
        case WorkflowExecutionTerminated():
            line = [Piece("terminated", "bad"), *_reason(attributes.reason)]
            return line, _by(attributes.identity), []
        case WorkflowExecutionCancelRequested():
            line = [Piece("cancel requested", "warn"), *_reason(attributes.reason)]
            return line, _by(attributes.identity), []
        case WorkflowTaskStarted():
            return [Piece(f"workflow task {event.task_number} began", "dim")], [], []
        case MarkerRecorded():
            return _tell_marker(attributes)
        case _:
            return [Piece(type(attributes).__name__)], [], []


def _tell_marker(
    marker: MarkerRecorded,
) -> _Told:
    values = list(marker.details.items())
    try:
        patch = find_patch(marker)
    except (KeyError, TypeError, msgspec.MsgspecError):
        patch = None  # written by hand
    if patch is None:
        line: Line = [Piece(f"marker {escape(marker.marker_name)}", "strong")]
        return line, _source(marker.source), values
    patch_id, is_deprecated = patch
    line = [Piece(f"patch {escape(repr(patch_id))}", "strong")]
    line.append(Piece(" deprecated" if is_deprecated else " taken"))
    return line, _source(marker.source), []


def _reason(reason: str) -> Line:
    return [Piece(f": {escape(reason)}")] if reason else []


def _by(identity: str) -> list[str]:
    return [f"by {identity}"] if identity else []


def _source(source: str) -> list[str]:
    # A line of this library, as for a coroutine that `gather` began, helps nobody.
    if not source or _LIBRARY in source:
        return []
    # The last two parts of the path name the file well enough.
    return ["at " + "/".join(source.split("/")[-2:])]


def _labels(summary: str | None, source: str) -> list[str]:
    return ([repr(summary)] if summary else []) + _source(source)


def _joined(details: Iterable[str]) -> str:
    return ", ".join(escape(detail) for detail in details)
