"""Reads histories that `durable history ID --json --payloads` wrote."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Final

import click
import msgspec

from durable.clock import from_datetime
from durable.core.history.codec import decode_rows
from durable.core.history.payload import JSON_PLAIN
from durable.doctor.run_checks import payloads_of
from durable.errors import CorruptHistoryError
from durable.store.records import HistoryRow


class _RecordedEvent(msgspec.Struct, frozen=True):
    """One line of `durable history --json --payloads`."""

    event_id: int
    task_number: int
    type: str
    time: datetime
    data: msgspec.Raw
    flags: int = 0


_one: Final = msgspec.json.Decoder(_RecordedEvent)
_many: Final = msgspec.json.Decoder(list[_RecordedEvent])


def read_file(path: str) -> list[HistoryRow]:
    """Read a history from JSON Lines, or from one JSON array.

    Raises:
        click.UsageError: it is neither, or its values were left out.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
        is_array = text.lstrip().startswith("[")
        recorded = _many.decode(text) if is_array else _one.decode_lines(text)
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path!r} cannot be read: {error}.") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise click.UsageError(
            f"{path!r} is not what 'durable history --json --payloads' writes: {error}."
        ) from None
    rows: list[HistoryRow] = [
        (
            path,
            event.event_id,
            event.task_number,
            event.type,
            from_datetime(event.time),
            bytes(event.data).decode(),
            event.flags,
        )
        for event in recorded
    ]
    if _is_without_values(rows):
        raise click.UsageError(
            f"{path!r} lacks the recorded values; write it with --payloads."
        )
    return rows


def _is_without_values(rows: list[HistoryRow]) -> bool:
    try:
        events = decode_rows(rows)
    except CorruptHistoryError:
        return False  # reported in its place
    return any(
        payload.encoding == JSON_PLAIN and not bytes(payload.json)
        for event in events
        for payload in payloads_of(event.attributes)
    )
