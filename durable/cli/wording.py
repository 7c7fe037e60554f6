"""Events and attempts in words: pieces of one line each, not yet coloured or cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from durable.cli.message_wording import Correspondence
from durable.cli.output import escape
from durable.cli.pieces import (
    Line,
    Piece,
    Role,
    Told,
    arguments_of,
    bytes_of,
    decode_failure,
    failure_text,
    joined,
    labels_of,
    reason_of,
    sender_of,
    size_of,
    source_of,
    span,
)
from durable.core.codec import UNREADABLE
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
from durable.core.payload import Payload
from durable.store.records import AttemptRecord, AttemptState

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
    return Telling().tell(events, attempts)


class Telling:
    """Puts events and attempts into words; knows which event began what."""

    def __init__(self) -> None:
        self._scheduled: dict[int, ActivityTaskScheduled] = {}
        self._outcomes: dict[int, int] = {}
        self._correspondence = Correspondence()
        self._unseen_from: int | None = None

    def tell(
        self, events: Sequence[HistoryEvent], attempts: Sequence[AttemptRecord]
    ) -> Iterator[Moment]:
        """As the function `tell`, of the events that follow those told of before."""
        self._note(events)
        waiting = self._attempts(attempts)
        for event in events:
            while waiting and waiting[0].time < event.time:
                yield waiting.pop(0)
            yield self._event(event)
        yield from waiting

    def _note(self, events: Sequence[HistoryEvent]) -> None:
        for event in events:
            self._correspondence.note(event)
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
        unseen = len(events)
        while unseen and events[unseen - 1].task_number == UNPROCESSED:
            unseen -= 1
        self._unseen_from = events[unseen].event_id if unseen < len(events) else None

    # --- attempts ---------------------------------------------------------------------

    def _attempts(self, attempts: Sequence[AttemptRecord]) -> list[Moment]:
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
            AttemptState.RETURNED: ("returned, not recorded", "bad"),
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
        return Moment(time, None, line, joined(details))

    # --- events -----------------------------------------------------------------------

    def _event(self, event: HistoryEvent) -> Moment:
        line, details, values = self._tell(event)
        if self._unseen_from is not None and event.event_id >= self._unseen_from:
            details = [*details, "not seen by the code yet"]
        return Moment(event.time, event.event_id, line, joined(details), values)

    def _tell(self, event: HistoryEvent) -> Told:
        attributes = event.attributes
        match attributes:
            case ActivityTaskScheduled():
                return self._tell_scheduled(attributes)
            case ActivityTaskCompleted():
                line = [self._activity(attributes.scheduled_event_id)]
                line.append(Piece(" completed", "good"))
                size = bytes_of(attributes.result.size)
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
                return line, source_of(attributes.source), []
            case TimerStarted():
                line = [Piece(f"timer {escape(attributes.timer_id)}", "strong")]
                line.append(Piece(f" set for {span(attributes.start_to_fire_timeout)}"))
                return line, labels_of(attributes.summary, attributes.source), []
            case TimerFired() | TimerCanceled():
                is_fired = isinstance(attributes, TimerFired)
                line = [Piece(f"timer {escape(attributes.timer_id)}", "strong")]
                line.append(Piece(" fired", "good") if is_fired else Piece(" dropped"))
                return line, [], []
            case _:
                told = self._correspondence.tell(event)
                return _tell_of_run(event) if told is None else told

    def _tell_scheduled(self, scheduled: ActivityTaskScheduled) -> Told:
        line: Line = [Piece(escape(scheduled.activity_type), "strong")]
        line.append(Piece(" scheduled"))
        details = labels_of(scheduled.summary, "")
        details += [f"id {scheduled.activity_id}", size_of(scheduled.input)]
        details += source_of(scheduled.source)
        return line, details, arguments_of(scheduled.input)

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
) -> Told:
    attributes = event.attributes
    match attributes:
        case WorkflowExecutionStarted():
            line: Line = [Piece(escape(attributes.workflow_type), "strong")]
            line.append(Piece(" started"))
            details = [size_of(attributes.input)]
            if attributes.identity:
                details.append(f"by {attributes.identity}")
            return line, details, arguments_of(attributes.input)
        case WorkflowExecutionCompleted():
            line = [Piece("completed", "good")]
            size = bytes_of(attributes.result.size)
            return line, [size], [("result", attributes.result)]
        case WorkflowExecutionFailed():
            text = failure_text(attributes.failure)
            return [Piece("failed", "bad"), Piece(f": {text}")], [], []
        case WorkflowExecutionCanceled():
            return [Piece("cancelled", "bad")], [], []
        case WorkflowExecutionTimedOut():
            what = f"its {escape(attributes.timeout_type)}_timeout passed"
            return [Piece("timed out", "bad")], [what], []
        case WorkflowExecutionTerminated():
            line = [Piece("terminated", "bad"), *reason_of(attributes.reason)]
            return line, sender_of(attributes.identity), []
        case WorkflowExecutionCancelRequested():
            line = [Piece("cancel requested", "warn"), *reason_of(attributes.reason)]
            return line, sender_of(attributes.identity), []
        case WorkflowTaskStarted():
            return [Piece(f"workflow task {event.task_number} began", "dim")], [], []
        case MarkerRecorded():
            return _tell_marker(attributes)
        case _:
            return [Piece(type(attributes).__name__)], [], []


def _tell_marker(
    marker: MarkerRecorded,
) -> Told:
    values = list(marker.details.items())
    try:
        patch = find_patch(marker)
    except (KeyError, *UNREADABLE):
        patch = None  # written by hand
    if patch is None:
        line: Line = [Piece(f"marker {escape(marker.marker_name)}", "strong")]
        return line, source_of(marker.source), values
    patch_id, is_deprecated = patch
    line = [Piece(f"patch {escape(repr(patch_id))}", "strong")]
    line.append(Piece(" deprecated" if is_deprecated else " taken"))
    return line, source_of(marker.source), []
