"""Histories as JSON text: readable, comparable, kept for ever.

One object per event, as the database holds it: id, task number, type, time, flags and
data. Written by `dump_history`, read back by `load_history`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

import msgspec

from durable.core.history.codec import decode_rows, encode_event
from durable.core.history.events import HistoryEvent
from durable.errors import CorruptHistoryError


class _Line(msgspec.Struct):
    event_id: int
    task_number: int
    type: str
    time: int
    flags: int
    data: msgspec.Raw


_decoder: Final = msgspec.json.Decoder(list[_Line])


def dump_history(events: Iterable[HistoryEvent]) -> str:
    """Turn a history into JSON text, one event per line."""
    lines: list[str] = []
    for event in events:
        _, event_id, task_number, kind, time, data, flags = encode_event("", event)
        line = _Line(
            event_id, task_number, kind, time, flags, msgspec.Raw(data.encode())
        )
        lines.append(msgspec.json.encode(line).decode())
    return "[\n" + ",\n".join(lines) + "\n]\n"


def load_history(text: str | bytes) -> list[HistoryEvent]:
    """Read a history that `dump_history` wrote.

    Raises:
        CorruptHistoryError: it is no history that this release can read.
    """
    try:
        lines = _decoder.decode(text)
    except (msgspec.MsgspecError, ValueError) as error:
        raise CorruptHistoryError(f"This is no recorded history: {error}.") from None
    return decode_rows(
        (
            "of this file",
            line.event_id,
            line.task_number,
            line.type,
            line.time,
            bytes(line.data).decode(),
            line.flags,
        )
        for line in lines
    )


# What a history keeps for people and no replay may depend on.
_UNCOMPARED: Final = frozenset({"source", "stack_trace", "identity"})
# How much of an exception a failure keeps beside its type and text: it has grown.
_EXTENT: Final = frozenset({"classes", "arguments", "state", "left_out", "added"})
_FAILURES: Final = frozenset({"failure", "last_failure"})


def comparable(events: Sequence[HistoryEvent]) -> list[bytes]:
    """Encode events so that equal bytes mean equal commands.

    Source lines, tracebacks and worker names are left out: they say where the code
    stood, not what it did. So are headers, which interceptors may change.
    """
    return [
        msgspec.json.encode(
            (
                event.event_id,
                event.task_number,
                event.time,
                type(event.attributes).__name__,
                _without_places(_fields(event)),
            )
        )
        for event in events
    ]


def _fields(event: HistoryEvent) -> dict[str, Any]:
    fields: dict[str, Any]
    fields = msgspec.json.decode(msgspec.json.encode(event.attributes))
    fields.pop("headers", None)  # of the event; an argument may have some, too
    return fields


def _without_places(value: Any, without: frozenset[str] = _UNCOMPARED) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {
            key: _without_places(
                item, without | _EXTENT if key in _FAILURES else without
            )
            for key, item in fields.items()
            if key not in without
        }
    if isinstance(value, list):
        items: list[Any] = [*value]
        return [_without_places(item, without) for item in items]
    return value
