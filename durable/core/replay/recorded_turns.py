"""A recorded history, workflow task by workflow task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

from durable.core.history.events import UNPROCESSED, Attributes, HistoryEvent
from durable.errors import CorruptHistoryError

RecordedTurn: TypeAlias = tuple[
    HistoryEvent | None, list[Attributes], list[HistoryEvent], HistoryEvent | None
]
"""What one task recorded: its first event (None of inputs that no task has taken), its
inputs, its commands; and the event that follows."""


class RecordedTurns:
    """The turns of a history, with a look at the next one.

    Attributes:
        current: the turn that was taken last.
        ahead: the one that comes next; None at the end.

    Args:
        history: recorded events, in order.
        event_id: the position before the first of them.

    Raises:
        CorruptHistoryError: they do not follow each other.
    """

    __slots__ = ("_turns", "ahead", "current")

    def __init__(self, history: Sequence[HistoryEvent], event_id: int) -> None:
        # All at once, before any code runs: it must not see this error.
        for expected, event in enumerate(history, event_id + 1):
            if event.event_id != expected:
                raise CorruptHistoryError(
                    f"Event {event.event_id} stands where event {expected} must be."
                )
        self._turns = _part(history)
        self.current: RecordedTurn = (None, [], [], None)
        self.ahead = next(self._turns, None)

    def take(self) -> RecordedTurn | None:
        """Go on to the next turn; None at the end."""
        taken = self.ahead
        if taken is not None:
            self.current = taken
            self.ahead = next(self._turns, None)
        return taken


def _part(history: Sequence[HistoryEvent]) -> Iterator[RecordedTurn]:
    number, begun = UNPROCESSED, None
    inputs: list[Attributes] = []
    recorded: list[HistoryEvent] = []
    for event in history:
        if event.task_number != number:
            if begun is not None:
                yield begun, inputs, recorded, event
                inputs, recorded = [], []
            number = event.task_number
            begun = None if number == UNPROCESSED else event
        attributes = event.attributes
        if attributes.is_input:
            inputs.append(attributes)
        else:
            recorded.append(event)
    if history:
        yield begun, inputs, recorded, None
