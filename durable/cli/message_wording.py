"""What runs say to each other and hear from outside, in words.

Signals, updates, children, messages to other runs; and what bounds a history.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

from durable.cli.output import escape
from durable.cli.pieces import (
    Line,
    Piece,
    Told,
    arguments_of,
    bytes_of,
    failure_text,
    labels_of,
    reason_of,
    sender_of,
    size_of,
    source_of,
    span,
)
from durable.core.codec import UNREADABLE
from durable.core.events import (
    CHILD_OUTCOMES,
    DELIVERY_OUTCOMES,
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
    MarkerRecorded,
    RequestCancelExternalWorkflowExecutionFailed,
    RequestCancelExternalWorkflowExecutionInitiated,
    SignalExternalWorkflowExecutionFailed,
    SignalExternalWorkflowExecutionInitiated,
    StartChildWorkflowExecutionFailed,
    StartChildWorkflowExecutionInitiated,
    StateTransitioned,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.machines.fact import DeadLetter, find_dead_letter

_ChildOutcome: TypeAlias = (
    ChildWorkflowExecutionCompleted
    | ChildWorkflowExecutionFailed
    | ChildWorkflowExecutionCanceled
    | ChildWorkflowExecutionTimedOut
    | ChildWorkflowExecutionTerminated
    | StartChildWorkflowExecutionFailed
)
_DeliveryOutcome: TypeAlias = (
    ExternalWorkflowExecutionSignaled
    | SignalExternalWorkflowExecutionFailed
    | ExternalWorkflowExecutionCancelRequested
    | RequestCancelExternalWorkflowExecutionFailed
)
_REACHED: Final = (
    ExternalWorkflowExecutionSignaled,
    ExternalWorkflowExecutionCancelRequested,
)


class _Begun(NamedTuple):
    """What an event began: its name in words, and when that was."""

    name: str
    time: int


_UNKNOWN: Final = _Begun("?", 0)


class Correspondence:
    """Puts the messages of one history into words; knows which event answers which."""

    def __init__(self) -> None:
        self._begun: dict[int, _Begun] = {}
        self._updates: dict[str, _Begun] = {}
        self._signal_numbers: dict[int, int] = {}
        self._dead: set[int] = set()
        self._workflow_type = ""

    def note(self, event: HistoryEvent) -> None:
        """Take an event into account, before it or a later one is told of."""
        match event.attributes:
            case WorkflowExecutionStarted(workflow_type=workflow_type):
                self._workflow_type = workflow_type
            case WorkflowExecutionSignaled():
                self._signal_numbers[event.event_id] = len(self._signal_numbers) + 1
            case WorkflowExecutionUpdateAccepted() as update:
                name = f"update {escape(update.update_name)}"
                self._updates[update.update_id] = _Begun(name, event.time)
            case StartChildWorkflowExecutionInitiated() as child:
                name = f"child {escape(child.workflow_type)}"
                self._begun[event.event_id] = _Begun(name, event.time)
            case SignalExternalWorkflowExecutionInitiated() as sent:
                name = f"signal {escape(sent.signal_name)}"
                self._begun[event.event_id] = _Begun(name, event.time)
            case RequestCancelExternalWorkflowExecutionInitiated():
                self._begun[event.event_id] = _Begun("cancel request", event.time)
            case MarkerRecorded() as marker:
                letter = dead_letter_of(marker)
                if letter is not None:
                    self._dead.add(letter.number)
            case _:
                pass

    def tell(self, event: HistoryEvent) -> Told | None:
        """Tell of an event; None if it is none of these."""
        attributes = event.attributes
        if isinstance(attributes, CHILD_OUTCOMES):
            return self._tell_child_outcome(event, attributes)
        if isinstance(attributes, DELIVERY_OUTCOMES):
            return self._tell_delivered(attributes)
        match attributes:
            case WorkflowExecutionSignaled():
                return self._tell_signal(event, attributes)
            case WorkflowExecutionUpdateAccepted():
                return self._tell_accepted(attributes)
            case WorkflowExecutionUpdateCompleted():
                return self._tell_answer(event, attributes)
            case StateTransitioned(current=state):
                line: Line = [Piece("state", "strong"), Piece(" published")]
                return line, [bytes_of(state.size)], [("state", state)]
            case StartChildWorkflowExecutionInitiated():
                return self._tell_child(event, attributes)
            case ChildWorkflowExecutionStarted():
                line = [self._name_of(attributes.initiated_event_id)]
                line.append(Piece(" started"))
                ids = [f"id {attributes.workflow_id}", f"run {attributes.run_id}"]
                return line, ids, []
            case SignalExternalWorkflowExecutionInitiated():
                return self._tell_sent_signal(event, attributes)
            case RequestCancelExternalWorkflowExecutionInitiated():
                return self._tell_sent_cancel(event, attributes)
            case CheckpointRecorded():
                return _tell_checkpoint(attributes)
            case WorkflowExecutionContinuedAsNew():
                return self._tell_continued(attributes)
            case MarkerRecorded():
                return _tell_dead_letter(attributes)
            case _:
                return None

    def _name_of(self, event_id: int) -> Piece:
        return Piece(self._begun.get(event_id, _UNKNOWN).name, "strong")

    # --- signals and updates ----------------------------------------------------------

    def _tell_signal(
        self, event: HistoryEvent, signal: WorkflowExecutionSignaled
    ) -> Told:
        number = self._signal_numbers[event.event_id]
        line: Line = [Piece(f"signal {escape(signal.signal_name)}", "strong")]
        line.append(Piece(" arrived"))
        if number in self._dead:
            line.append(Piece(", could not be read", "bad"))
        details = [f"number {number}", size_of(signal.input)]
        return line, details + sender_of(signal.identity), arguments_of(signal.input)

    def _tell_accepted(self, update: WorkflowExecutionUpdateAccepted) -> Told:
        line: Line = [Piece(f"update {escape(update.update_name)}", "strong")]
        line.append(Piece(" accepted"))
        details = [f"id {update.update_id}", size_of(update.input)]
        return line, details + sender_of(update.identity), arguments_of(update.input)

    def _tell_answer(
        self, event: HistoryEvent, answer: WorkflowExecutionUpdateCompleted
    ) -> Told:
        update = self._updates.get(answer.update_id, _Begun("update ?", event.time))
        line: Line = [Piece(update.name, "strong")]
        details = [f"id {answer.update_id}", f"took {span(event.time - update.time)}"]
        values: list[Any] = []
        if answer.failure is not None:
            line += [
                Piece(" failed", "bad"),
                Piece(f": {failure_text(answer.failure)}"),
            ]
        else:
            line.append(Piece(" completed", "good"))
        if answer.result is not None:
            details.append(bytes_of(answer.result.size))
            values.append(("result", answer.result))
        return line, details, values

    # --- children ---------------------------------------------------------------------

    def _tell_child(
        self, event: HistoryEvent, child: StartChildWorkflowExecutionInitiated
    ) -> Told:
        line = [self._name_of(event.event_id), Piece(" asked for")]
        details = labels_of(child.summary, "")
        details += [f"id {child.workflow_id}", size_of(child.input)]
        details += source_of(child.source)
        return line, details, arguments_of(child.input)

    def _tell_child_outcome(self, event: HistoryEvent, outcome: _ChildOutcome) -> Told:
        begun = self._begun.get(outcome.initiated_event_id, _UNKNOWN)
        line: Line = [Piece(begun.name, "strong")]
        details = [f"id {outcome.workflow_id}"]
        if 0 < begun.time <= event.time:
            details.append(f"took {span(event.time - begun.time)}")
        match outcome:
            case ChildWorkflowExecutionCompleted(result=result):
                line.append(Piece(" completed", "good"))
                details.append(bytes_of(result.size))
                return line, details, [("result", result)]
            case ChildWorkflowExecutionFailed(failure=failure):
                line.append(Piece(" failed", "bad"))
                line.append(Piece(f": {failure_text(failure)}"))
            case ChildWorkflowExecutionCanceled():
                line.append(Piece(" cancelled", "bad"))
            case ChildWorkflowExecutionTimedOut(timeout_type=timeout_type):
                line.append(Piece(" timed out", "bad"))
                details.append(f"its {timeout_type}_timeout passed")
            case ChildWorkflowExecutionTerminated(reason=reason):
                line += [Piece(" terminated", "bad"), *reason_of(reason)]
            case StartChildWorkflowExecutionFailed(cause=cause, message=message):
                line.append(Piece(" could not start", "bad"))
                line += reason_of(message or cause)
        return line, details, []

    # --- messages to other runs -------------------------------------------------------

    def _tell_sent_signal(
        self, event: HistoryEvent, sent: SignalExternalWorkflowExecutionInitiated
    ) -> Told:
        line = [self._name_of(event.event_id)]
        line.append(Piece(f" sent to {escape(sent.workflow_id)}"))
        details = [f"run {sent.run_id}"] if sent.run_id else []
        details += [size_of(sent.input), *source_of(sent.source)]
        return line, details, arguments_of(sent.input)

    def _tell_sent_cancel(
        self, event: HistoryEvent, sent: RequestCancelExternalWorkflowExecutionInitiated
    ) -> Told:
        line = [self._name_of(event.event_id)]
        line.append(Piece(f" sent to {escape(sent.workflow_id)}"))
        line += reason_of(sent.reason)
        details = [f"run {sent.run_id}"] if sent.run_id else []
        return line, details + source_of(sent.source), []

    def _tell_delivered(self, outcome: _DeliveryOutcome) -> Told:
        line = [self._name_of(outcome.initiated_event_id)]
        target = escape(outcome.workflow_id)
        if isinstance(outcome, _REACHED):
            line.append(Piece(f" reached {target}", "good"))
            return line, [f"run {outcome.run_id}"], []
        line.append(Piece(f" did not reach {target}", "bad"))
        line += reason_of(outcome.message or outcome.cause)
        return line, [], []

    # --- bounded histories ------------------------------------------------------------

    def _tell_continued(self, going: WorkflowExecutionContinuedAsNew) -> Told:
        line: Line = [Piece("continued as new", "good")]
        details = [f"run {going.new_run_id}"]
        if going.workflow_type != self._workflow_type:
            details.append(f"of {going.workflow_type}")
        details.append(size_of(going.input))
        return line, details, arguments_of(going.input)


def _tell_checkpoint(checkpoint: CheckpointRecorded) -> Told:
    line: Line = [Piece("checkpoint", "strong"), Piece(": the code began anew")]
    details = [size_of(checkpoint.input)]
    if checkpoint.unread:
        count = len(checkpoint.unread)
        details.append("1 unread signal" if count == 1 else f"{count} unread signals")
    values = arguments_of(checkpoint.input)
    for signal in checkpoint.unread:
        values += [
            (f"signal {signal.number}, {name}", value)
            for name, value in arguments_of(signal.input)
        ]
    return line, details, values


# --- dead letters ---------------------------------------------------------------------


def dead_letter_of(marker: MarkerRecorded) -> DeadLetter | None:
    """What a dead letter's marker says; None for others, and for those made by hand."""
    try:
        return find_dead_letter(marker)
    except (KeyError, *UNREADABLE):
        return None


def _tell_dead_letter(marker: MarkerRecorded) -> Told | None:
    letter = dead_letter_of(marker)
    if letter is None:
        return None
    line: Line = [Piece("dead letter", "bad")]
    line.append(Piece(f": signal {escape(letter.signal_name)} could not be read"))
    return line, [f"number {letter.number}", failure_text(letter.error)], []
