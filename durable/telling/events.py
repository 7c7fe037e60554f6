"""Events and attempts in words: pieces of one line each, not yet coloured or cut."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from durable.core.history import events as of
from durable.core.history.codec import UNREADABLE
from durable.core.history.events import UNPROCESSED, HistoryEvent
from durable.core.history.payload import Payload
from durable.core.machines.fact import DeadLetter, find_dead_letter
from durable.core.machines.marker import find_patch
from durable.store.records import AttemptRecord, AttemptState
from durable.telling.escaping import escape
from durable.telling.pieces import (
    Line,
    Piece,
    Role,
    Told,
    arguments_of,
    bytes_of,
    decode_failure,
    failure_text,
    joined,
    reason_of,
    size_of,
    source_of,
    span,
)

# --- the table ------------------------------------------------------------------------


_FIELD: Final = re.compile(r"\{(\w+)\}")


class _Words(NamedTuple):
    """How one kind of event is told.

    Attributes:
        subject: what it is about; `{begun}` is the subject of what it belongs to.
        verb: what happened to that.
        role: what the verb is for.
        fields: what more it says, in order. `took` is the time since it began, `number`
            that of a signal, `worker` the identity of who ran an activity.
    """

    subject: str
    verb: str
    role: Role = "plain"
    fields: str = ""


_WORDS: Final[dict[type[Any], _Words]] = {
    of.WorkflowExecutionStarted: _Words(
        "{workflow_type}",
        " started",
        fields="input identity priority fairness_key fairness_weight",
    ),
    of.WorkflowExecutionCompleted: _Words("", "completed", "good", "result"),
    of.WorkflowExecutionFailed: _Words("", "failed", "bad", "failure"),
    of.WorkflowExecutionCanceled: _Words("", "cancelled", "bad"),
    of.WorkflowExecutionTimedOut: _Words("", "timed out", "bad", "timeout_type"),
    of.WorkflowExecutionTerminated: _Words(
        "", "terminated", "bad", "reason identity new_run_id"
    ),
    of.WorkflowExecutionCancelRequested: _Words(
        "", "cancel requested", "warn", "reason identity"
    ),
    of.WorkflowExecutionContinuedAsNew: _Words(
        "", "continued as new", "good", "new_run_id workflow_type version input"
    ),
    of.WorkflowExecutionReset: _Words(
        "", "reset from run {base_run_id}", "warn", "reason identity"
    ),
    of.WorkflowExecutionPaused: _Words("", "paused", "warn", "note identity"),
    of.WorkflowExecutionUnpaused: _Words("", "resumed", "good", "note identity"),
    of.WorkflowTaskStarted: _Words("", "workflow task {task_number} began", "dim"),
    of.ActivityTaskScheduled: _Words(
        "{activity_type}", " scheduled", fields="summary activity_id input source"
    ),
    of.ActivityTaskCompleted: _Words(
        "{begun}", " completed", "good", "attempt took result worker"
    ),
    of.ActivityTaskFailed: _Words(
        "{begun}", " failed", "bad", "failure attempt took retry_state worker"
    ),
    of.ActivityTaskTimedOut: _Words(
        "{begun}", " timed out", "bad", "failure attempt took retry_state worker"
    ),
    of.ActivityTaskCanceled: _Words(
        "{begun}", " cancelled", "bad", "attempt took worker"
    ),
    of.ActivityTaskCancelRequested: _Words(
        "{begun}", " asked to stop", "warn", "source"
    ),
    of.TimerStarted: _Words(
        "timer {timer_id}", " set for {span}", fields="summary source"
    ),
    of.TimerFired: _Words("timer {timer_id}", " fired", "good"),
    of.TimerCanceled: _Words("timer {timer_id}", " dropped"),
    of.MarkerRecorded: _Words("marker {marker_name}", "", fields="source details"),
    of.WorkflowExecutionSignaled: _Words(
        "signal {signal_name}", " arrived", fields="number input identity"
    ),
    of.WorkflowExecutionUpdateAccepted: _Words(
        "update {update_name}", " accepted", fields="update_id input identity"
    ),
    of.WorkflowExecutionUpdateCompleted: _Words(
        "{begun}", " completed", "good", "update_id took result"
    ),
    of.StateTransitioned: _Words("state", " published", fields="current"),
    of.UpsertWorkflowSearchAttributes: _Words(
        "attributes", " changed", fields="attributes source"
    ),
    of.WorkflowPropertiesModified: _Words("memo", " changed", fields="memo source"),
    of.StartChildWorkflowExecutionInitiated: _Words(
        "child {workflow_type}", " asked for", fields="summary workflow_id input source"
    ),
    of.ChildWorkflowExecutionStarted: _Words(
        "{begun}", " started", fields="workflow_id run_id"
    ),
    of.ChildWorkflowExecutionCompleted: _Words(
        "{begun}", " completed", "good", "workflow_id took result"
    ),
    of.ChildWorkflowExecutionFailed: _Words(
        "{begun}", " failed", "bad", "failure workflow_id took"
    ),
    of.ChildWorkflowExecutionCanceled: _Words(
        "{begun}", " cancelled", "bad", "workflow_id took"
    ),
    of.ChildWorkflowExecutionTimedOut: _Words(
        "{begun}", " timed out", "bad", "workflow_id took timeout_type"
    ),
    of.ChildWorkflowExecutionTerminated: _Words(
        "{begun}", " terminated", "bad", "reason workflow_id took"
    ),
    of.StartChildWorkflowExecutionFailed: _Words(
        "{begun}", " could not start", "bad", "cause workflow_id took"
    ),
    of.SignalExternalWorkflowExecutionInitiated: _Words(
        "signal {signal_name}", " sent to {workflow_id}", fields="run_id input source"
    ),
    of.ExternalWorkflowExecutionSignaled: _Words(
        "{begun}", " reached {workflow_id}", "good", "run_id"
    ),
    of.SignalExternalWorkflowExecutionFailed: _Words(
        "{begun}", " did not reach {workflow_id}", "bad", "cause"
    ),
    of.RequestCancelExternalWorkflowExecutionInitiated: _Words(
        "cancel request", " sent to {workflow_id}", fields="reason run_id source"
    ),
    of.ExternalWorkflowExecutionCancelRequested: _Words(
        "{begun}", " reached {workflow_id}", "good", "run_id"
    ),
    of.RequestCancelExternalWorkflowExecutionFailed: _Words(
        "{begun}", " did not reach {workflow_id}", "bad", "cause"
    ),
    of.CheckpointRecorded: _Words(
        "checkpoint", ": the code began anew", fields="input unread"
    ),
}
_UPDATE_FAILED: Final = _Words("{begun}", " failed", "bad", "failure update_id took")
_DETAILS: Final = {
    "activity_id": "id {}",
    "attempt": "attempt {}",
    "fairness_key": "key {}",
    "fairness_weight": "weight {}",
    "identity": "by {}",
    "new_run_id": "run {}",
    "note": "{!r}",
    "priority": "priority {}",
    "run_id": "run {}",
    "summary": "{!r}",
    "timeout_type": "its {}_timeout passed",
    "update_id": "id {}",
    "version": "version {}",
    "workflow_id": "id {}",
    "workflow_type": "of {}",
}
_BEGINS: Final = (
    of.ActivityTaskScheduled,
    of.WorkflowExecutionUpdateAccepted,
    of.StartChildWorkflowExecutionInitiated,
    of.SignalExternalWorkflowExecutionInitiated,
    of.RequestCancelExternalWorkflowExecutionInitiated,
)
"""What later events belong to."""
_ATTEMPTS: Final[dict[AttemptState, tuple[str, Role]]] = {
    AttemptState.STARTED: ("began", "plain"),
    AttemptState.RETURNED: ("returned, not recorded", "bad"),
    AttemptState.COMPLETED: ("completed", "good"),
    AttemptState.FAILED: ("failed", "bad"),
    AttemptState.TIMED_OUT: ("timed out", "bad"),
    AttemptState.CANCELLED: ("cancelled", "bad"),
    AttemptState.LOST: ("lost with its worker", "bad"),
}


class _Begun(NamedTuple):
    """What an event began: its name in words, and when that was."""

    name: str
    time: int


# --- what is told ---------------------------------------------------------------------


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
        self._begun: dict[int | str, _Begun] = {}
        self._outcomes: dict[int, int] = {}
        self._signal_numbers: dict[int, int] = {}
        self._dead: set[int] = set()
        self._workflow_type = ""
        self._unseen_from: int | None = None

    def tell(
        self, events: Sequence[HistoryEvent], attempts: Sequence[AttemptRecord]
    ) -> Iterator[Moment]:
        """As the function `tell`, of the events that follow those told of before."""
        for event in events:
            self._note(event)
        # Inputs at the end that no task has taken: the code has not seen them.
        unseen = len(events)
        while unseen and events[unseen - 1].task_number == UNPROCESSED:
            unseen -= 1
        self._unseen_from = events[unseen].event_id if unseen < len(events) else None
        waiting = self._attempts(attempts)
        for event in events:
            while waiting and waiting[0].time < event.time:
                yield waiting.pop(0)
            yield self._event(event)
        yield from waiting

    def _note(self, event: HistoryEvent) -> None:
        attributes = event.attributes
        if isinstance(attributes, of.WorkflowExecutionStarted):
            self._workflow_type = attributes.workflow_type
        elif isinstance(attributes, of.WorkflowExecutionSignaled):
            self._signal_numbers[event.event_id] = len(self._signal_numbers) + 1
        elif isinstance(attributes, of.ACTIVITY_OUTCOMES):
            self._outcomes[attributes.scheduled_event_id] = attributes.attempt
        elif isinstance(attributes, of.MarkerRecorded):
            letter = _dead_letter_of(attributes)
            if letter is not None:
                self._dead.add(letter.number)
        elif isinstance(attributes, _BEGINS):
            name = _fill(_WORDS[type(attributes)].subject, event)
            self._begun[_key_of(event)] = _Begun(name, event.time)

    def _attempts(self, attempts: Sequence[AttemptRecord]) -> list[Moment]:
        """The attempts that their activity did not close with, in order of time.

        Those that have not begun are told of where it is said what is pending.
        """
        moments = [
            _tell_attempt(row)
            for row in attempts
            if row.state is not AttemptState.BACKOFF
            and self._outcomes.get(row.scheduled_event_id) != row.attempt
        ]
        return sorted(moments, key=lambda moment: moment.time)

    def _event(self, event: HistoryEvent) -> Moment:
        line, details, values = self._tell(event)
        if self._unseen_from is not None and event.event_id >= self._unseen_from:
            details.append("not seen by the code yet")
        return Moment(event.time, event.event_id, line, joined(details), values)

    def _tell(self, event: HistoryEvent) -> Told:
        attributes = event.attributes
        words = _WORDS[type(attributes)]
        if isinstance(attributes, of.MarkerRecorded):
            told = _tell_own_marker(attributes)
            if told is not None:
                return told
        unknown = _Begun("?", 0)
        if isinstance(attributes, of.WorkflowExecutionUpdateCompleted):
            unknown = _Begun("update ?", event.time)
            if attributes.failure is not None:
                words = _UPDATE_FAILED
        begun = self._begun.get(_key_of(event), unknown)
        line: Line = []
        if words.subject:
            subject = begun.name
            if words.subject != "{begun}":
                subject = _fill(words.subject, event)
            line.append(Piece(subject, "strong"))
        if words.verb:
            line.append(Piece(_fill(words.verb, event), words.role))
        told = line, list[str](), list[tuple[str, Payload]]()
        for field in words.fields.split():
            self._tell_field(field, event, begun, told)
        return told

    def _tell_field(
        self, field: str, event: HistoryEvent, begun: _Begun, told: Told
    ) -> None:
        line, details, values = told
        said: Any = event.attributes
        value: Any = getattr(said, field, None)
        match field:
            case "failure":
                line.append(Piece(f": {failure_text(value)}"))
            case "reason":
                line += reason_of(value)
            case "cause":
                line += reason_of(said.message or value)
            case "number":
                number = self._signal_numbers[event.event_id]
                if number in self._dead:
                    line.append(Piece(", could not be read", "bad"))
                details.append(f"number {number}")
            case "input":
                settings = _settings_of(said)
                if settings is not None and settings.is_local is True:
                    details.append("local")
                if settings is not None and settings.is_step is True:
                    keys = [bytes(key.json).decode().strip('"') for key in value]
                    details += ["step", *(f"key {key[:15]}" for key in keys)]
                else:
                    details.append(size_of(value))
                    values += arguments_of(value)
            case "result" | "current":
                if value is not None:
                    details.append(bytes_of(value.size))
                    values.append(("state" if field == "current" else field, value))
            case "details":
                values += value.items()
            case "attributes" | "memo":
                details.append(", ".join(map(escape, value)))
                values += value.items()
            case "unread":
                _tell_unread(value, details, values)
            case "took":
                since = getattr(said, "started_at", begun.time)
                if 0 < since <= event.time:
                    details.append(f"took {span(event.time - since)}")
            case "source":
                details += source_of(value)
            case "retry_state":
                details.append(value.replace("_", " "))
            case "attempt" if value <= 1:
                pass
            case "workflow_type" if value == self._workflow_type:
                pass
            case "attributes" | "memo":
                details.append(", ".join(value))
            case "worker":
                if said.identity:
                    details.append(f"worker {said.identity}")
            case _:
                if value:
                    details.append(_DETAILS[field].format(value))


def _key_of(event: HistoryEvent) -> int | str:
    """What an event belongs to; itself, if it begins something."""
    said: Any = event.attributes
    for field in ("scheduled_event_id", "initiated_event_id", "update_id"):
        if hasattr(said, field):
            key: int | str = getattr(said, field)
            return key
    return event.event_id


def _fill(text: str, event: HistoryEvent) -> str:
    """Put fields of an event into a text, all but who began it."""
    said: Any = event.attributes

    def word(found: re.Match[str]) -> str:
        if found[1] == "task_number":
            return str(event.task_number)
        if found[1] == "span":
            return span(said.start_to_fire_timeout)
        return escape(getattr(said, found[1]))

    return _FIELD.sub(word, text)


def _settings_of(said: Any) -> Any:
    return said.settings if type(said) is of.ActivityTaskScheduled else None


def _tell_unread(
    unread: Sequence[of.UnreadSignal],
    details: list[str],
    values: list[tuple[str, Payload]],
) -> None:
    if unread:
        count = len(unread)
        details.append("1 unread signal" if count == 1 else f"{count} unread signals")
    for signal in unread:
        values += [
            (f"signal {signal.number}, {name}", value)
            for name, value in arguments_of(signal.input)
        ]


def _tell_own_marker(marker: of.MarkerRecorded) -> Told | None:
    """Tell of a dead letter or a patch; None for markers that were made by hand."""
    letter = _dead_letter_of(marker)
    if letter is not None:
        line = [Piece("dead letter", "bad")]
        line.append(Piece(f": signal {escape(letter.signal_name)} could not be read"))
        return line, [f"number {letter.number}", failure_text(letter.error)], []
    try:
        patch = find_patch(marker)
    except (KeyError, *UNREADABLE):
        return None
    if patch is None:
        return None
    line = [Piece(f"patch {escape(repr(patch[0]))}", "strong")]
    line.append(Piece(" deprecated" if patch[1] else " taken"))
    return line, source_of(marker.source), []


def _dead_letter_of(marker: of.MarkerRecorded) -> DeadLetter | None:
    """What a dead letter's marker says; None for others, and for those made by hand."""
    try:
        return find_dead_letter(marker)
    except (KeyError, *UNREADABLE):
        return None


def _tell_attempt(row: AttemptRecord) -> Moment:
    word, role = _ATTEMPTS[row.state]
    line = [Piece(f"{escape(row.activity_type)} attempt {row.attempt} ")]
    line.append(Piece(word, role))
    if row.failure is not None and row.state is not AttemptState.LOST:
        line.append(Piece(f": {failure_text(decode_failure(row.failure))}"))
    details: list[str] = []
    if row.closed_at is not None and row.started_at is not None:
        details.append(f"after {span(row.closed_at - row.started_at)}")
    if row.worker_id is not None:
        details.append(f"worker {row.worker_id}")
    time = row.closed_at or row.started_at or row.due_at
    return Moment(time, None, line, joined(details))
