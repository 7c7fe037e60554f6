"""A part of the fold: what came to a run from outside, and what it showed of itself.

Signals, updates and requests to stop, each of them once; dead letters; published
state; and what of all that a checkpoint carries on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from durable.core.folding.operations import Taker
from durable.core.folding.run_state import PendingUpdate, Violations
from durable.core.history.codec import UNREADABLE
from durable.core.history.events import (
    Attributes,
    CheckpointRecorded,
    HistoryEvent,
    MarkerRecorded,
    StateTransitioned,
    UnreadSignal,
    UpsertWorkflowSearchAttributes,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionSignaled,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
    WorkflowPropertiesModified,
)
from durable.core.history.payload import Payload
from durable.core.machines.fact import DEAD_LETTER_MARKER, DeadLetter, find_dead_letter


class Messages:
    """The messages of a run, while it is being folded."""

    def __init__(self, violations: Violations) -> None:
        self._blame = violations.blame
        # A signal's number is its place in this, from 1.
        self._signal_names: list[str] = []
        self._request_ids: set[str] = set()
        self._completed_updates: set[str] = set()
        self._dead: set[int] = set()
        self.signals: Counter[str] = Counter()
        self.dead_letters: list[DeadLetter] = []
        self.updates: dict[str, PendingUpdate] = {}
        self.cancel_requested_at: int | None = None
        self.published: Payload | None = None

    def takers(self) -> dict[type[Any], Taker]:
        """What takes which event."""
        return {
            WorkflowExecutionSignaled: self._signal,
            WorkflowExecutionCancelRequested: self._request_cancel,
            WorkflowExecutionUpdateAccepted: self._accept,
            WorkflowExecutionUpdateCompleted: self._complete,
            MarkerRecorded: self._mark,
            StateTransitioned: self._publish,
            UpsertWorkflowSearchAttributes: self._pass,
            WorkflowPropertiesModified: self._pass,
        }

    def open(self) -> Iterator[str]:
        """Name everything that is open."""
        for update in self.updates.values():
            yield f"update {update.update_id!r}"

    @property
    def signal_count(self) -> int:
        """How many signals the run has had."""
        return len(self._signal_names)

    # --- signals and requests ---------------------------------------------------------

    def _note_request(self, event: HistoryEvent, request_id: str, what: str) -> None:
        if request_id and request_id in self._request_ids:
            self._blame("V9", event, f"records the {what} {request_id!r} a second time")
        self._request_ids.add(request_id)

    def _signal(self, event: HistoryEvent, signal: WorkflowExecutionSignaled) -> None:
        self._note_request(event, signal.request_id, "signal request")
        self._signal_names.append(signal.signal_name)
        self.signals[signal.signal_name] += 1

    def _request_cancel(
        self, event: HistoryEvent, request: WorkflowExecutionCancelRequested
    ) -> None:
        self._note_request(event, request.request_id, "cancel request")
        if self.cancel_requested_at is None:
            self.cancel_requested_at = event.time

    # --- dead letters -----------------------------------------------------------------

    def _mark(self, event: HistoryEvent, marker: MarkerRecorded) -> None:
        if marker.marker_name != DEAD_LETTER_MARKER:
            return
        try:
            letter = find_dead_letter(marker)
        except (KeyError, *UNREADABLE):
            letter = None  # written by hand
        problem = None
        if letter is None:
            problem = "marks a dead letter, but not which"
        elif not self._has_come(letter.number, letter.signal_name):
            problem = (
                f"sets signal {letter.number}, {letter.signal_name!r}, aside, which"
                " never came"
            )
        elif letter.number in self._dead:
            problem = f"sets signal {letter.number} aside a second time"
        else:
            self._dead.add(letter.number)
            self.dead_letters.append(letter)
        if problem is not None:
            self._blame("V9", event, problem)

    def _has_come(self, number: int, name: str) -> bool:
        return (
            0 < number <= len(self._signal_names)
            and self._signal_names[number - 1] == name
        )

    # --- updates ----------------------------------------------------------------------

    def _accept(
        self, event: HistoryEvent, update: WorkflowExecutionUpdateAccepted
    ) -> None:
        update_id = update.update_id
        if update_id in self.updates or update_id in self._completed_updates:
            self._blame("V9", event, f"accepts the update {update_id!r} a second time")
        self._completed_updates.discard(update_id)
        self.updates[update_id] = PendingUpdate(
            accepted_event_id=event.event_id,
            update_id=update_id,
            update_name=update.update_name,
            accepted_at=event.time,
        )

    def _complete(
        self, event: HistoryEvent, answer: WorkflowExecutionUpdateCompleted
    ) -> None:
        update_id = answer.update_id
        if self.updates.pop(update_id, None) is None:
            is_closed = update_id in self._completed_updates
            why = "has its outcome already" if is_closed else "was not accepted"
            self._blame("V4", event, f"answers the update {update_id!r}, which {why}")
        self._completed_updates.add(update_id)

    # --- what the run shows, and carries on -------------------------------------------

    def _publish(self, event: HistoryEvent, change: StateTransitioned) -> None:
        self.published = change.current

    def _pass(self, event: HistoryEvent, change: Attributes) -> None:
        """What the run is found by says nothing of what it waits for."""

    def give_up(self) -> None:
        """Forget what is open: the code that begins anew knows nothing of it."""
        self.updates.clear()

    def problems_of(self, checkpoint: CheckpointRecorded) -> Iterator[str]:
        """Say what a checkpoint does not carry on as it was."""
        count = checkpoint.counts.get("signals", 0)
        if count != self.signal_count:
            yield f"counts {count} signals where {self.signal_count} have come"
        before = 0
        for signal in checkpoint.unread:
            if not self._may_be_unread(signal, before):
                yield (
                    f"carries on signal {signal.number}, {signal.signal_name!r}, which"
                    " cannot be unread"
                )
            before = max(before, signal.number)
        if (checkpoint.cancellation_reason is None) != (
            self.cancel_requested_at is None
        ):
            yield "does not carry on whether the run was asked to stop"
        if (checkpoint.state is None) != (self.published is None):
            yield "does not carry on what the run has published"

    def _may_be_unread(self, signal: UnreadSignal, before: int) -> bool:
        return (
            signal.number > before
            and signal.number not in self._dead
            and self._has_come(signal.number, signal.signal_name)
        )
