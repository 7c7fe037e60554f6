"""What a run records and awaits nothing for: its end, answers, states, markers.

Markers are facts of the library itself: which patches a run goes by, dead letters.
"""

from __future__ import annotations

from typing import Final

import msgspec

from durable.core.history.commands import Command, RecordMarker
from durable.core.history.events import EVENT_OF, Attributes
from durable.core.history.payload import Failure, Payload
from durable.core.machines.machine import Entry

DEAD_LETTER_MARKER: Final = "dead_letter"


class FactEntry(Entry):
    """The entry of a command that has no outcome.

    Args:
        command: the command.
        identity: the field that must agree on replay, if any; values may change.
        label: how a difference calls it; the field by default.
    """

    __slots__ = ("_command", "_identity", "_label", "event_type", "is_withdrawn")

    def __init__(
        self, command: Command, identity: str | None = None, label: str | None = None
    ) -> None:
        self.is_withdrawn = False
        self._command = command
        self._identity = identity
        self._label = label
        self.event_type = EVENT_OF[type(command)]

    def command(self) -> Command:
        """The command as data."""
        return self._command

    def differs(self, event: Attributes) -> str | None:
        """Compare what the fact is about."""
        name = self._identity
        if name is None or getattr(event, name) == getattr(self._command, name):
            return None
        return self._label or f"the {name.replace('_', ' ')}"


class DeadLetter(msgspec.Struct, frozen=True):
    """A signal that the code cannot take: its number in the run, name, and why."""

    number: int
    signal_name: str
    error: Failure


class DeadLetterEntry(FactEntry):
    """The entry of a dead letter's marker."""

    __slots__ = ("_letter",)

    def __init__(self, letter: DeadLetter) -> None:
        data = Payload(json=msgspec.Raw(msgspec.json.encode(letter)))
        super().__init__(RecordMarker(DEAD_LETTER_MARKER, {"letter": data}))
        self._letter = letter

    def differs(self, event: Attributes) -> str | None:
        """Compare which signal it is; the reason may read otherwise."""
        found = find_dead_letter(event)
        same = found is not None and found.number == self._letter.number
        return None if same else "the signal"


_decoder: Final = msgspec.json.Decoder(DeadLetter)


def find_dead_letter(event: Attributes | RecordMarker) -> DeadLetter | None:
    """What a dead letter's marker says; None for every other event."""
    if not isinstance(event, RecordMarker):
        return None
    if event.marker_name != DEAD_LETTER_MARKER:
        return None
    return _decoder.decode(event.details["letter"].json)
