"""Events to row fields and back: the event's type name and its data as JSON text.

Readable JSON, so that a history can be looked at with SELECT. A row that does not fit
is reported with its run and position; nothing in it chooses what is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from durable.core.history import flags
from durable.core.history.events import (
    EVENT_TYPES,
    Attributes,
    HistoryEvent,
    WorkflowExecutionStarted,
)
from durable.errors import CorruptHistoryError

Row = tuple[str, int, int, str, int, str, int]
"""run id, event id, task number, type, time, data, flags."""

UNREADABLE: Final = (msgspec.MsgspecError, ValueError, TypeError, RecursionError)
"""What decoding raises for text that this library did not write."""
INSTANT_MAX: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999, and more than any other number of a row."""

_encoder: Final = msgspec.json.Encoder()
_decode: Final[dict[str, Callable[[str], Attributes]]] = {
    name: msgspec.json.Decoder(event).decode for name, event in EVENT_TYPES.items()
}
_UNKNOWN: Final = ~flags.KNOWN


def encode_event(run_id: str, event: HistoryEvent) -> Row:
    """Turn an event into a row."""
    return encode_events(run_id, (event,))[0]


def encode_events(run_id: str, events: Iterable[HistoryEvent]) -> list[Row]:
    """Turn events into rows."""
    rows: list[Row] = []
    encode = _encoder.encode
    for event in events:
        what = event.attributes
        row = (
            run_id,
            event.event_id,
            event.task_number,
            type(what).__name__,
            event.time,
            encode(what).decode(),
            event.flags,
        )
        rows.append(row)
    return rows


def encode_attributes(attributes: Attributes) -> str:
    """Turn an event's attributes into JSON text."""
    return _encoder.encode(attributes).decode()


def decode_rows(rows: Iterable[Row]) -> list[HistoryEvent]:
    """Turn rows into events.

    Raises:
        CorruptHistoryError: a row's type or data is not one that this release knows, or
            its numbers are none.
    """
    rows = [*rows]
    try:
        events = [
            HistoryEvent(event_id, task_number, time, _decode[kind](data), bits)
            for _, event_id, task_number, kind, time, data, bits in rows
            # One look at all numbers of the row: texts raise, and no sum of bits of
            # numbers that are in order is negative or much larger than they are.
            if not (event_id | task_number | time | bits) >> 58 and not bits & _UNKNOWN
        ]
    except (KeyError, *UNREADABLE):
        events = []
    if len(events) < len(rows):
        for row in rows:
            _refuse_unreadable(row)
    return events


def at_version(history: list[HistoryEvent], version: str | None) -> list[HistoryEvent]:
    """A history as code of the version reads it that its run was moved to."""
    first = history[0].attributes if history else None
    if isinstance(first, WorkflowExecutionStarted) and first.version != version:
        moved = msgspec.structs.replace(first, version=version)
        history[0] = msgspec.structs.replace(history[0], attributes=moved)
    return history


def _refuse_unreadable(row: Row) -> None:
    """Say what is wrong with a row, if it is this one."""
    run_id, event_id, task_number, kind, time, data, bits = row
    try:
        if (event_id | task_number | time | bits) >> 58:
            raise ValueError("a number of its row is out of range")
        _decode[kind](data)
    except KeyError:
        raise CorruptHistoryError(
            f"Event {event_id} of run {run_id} has the type {kind!r}, which this"
            " release does not know.",
            hint="It was written by a newer release, or by hand.",
        ) from None
    except UNREADABLE as error:
        raise CorruptHistoryError(
            f"Event {event_id} of run {run_id}, {kind}, cannot be read: {error}."
        ) from None
    if bits & _UNKNOWN:
        raise CorruptHistoryError(
            f"Event {event_id} of run {run_id} was written under library behaviour"
            f" {bits:#x}, which this release does not know.",
            hint="Use the release that wrote it, or a newer one.",
        )
