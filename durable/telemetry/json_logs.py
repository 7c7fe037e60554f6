"""Log records as JSON: one object a line, with the ids that the record carries."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from durable.telling.escaping import escape_json

_STANDARD: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "asctime", "message", "taskName"}
)


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object on one line.

    `time`, `level`, `logger` and `message` come first; then whatever the record's
    `extra` holds: the ids of the run, of its update or activity, the trace, and what
    the caller has given; then the `traceback`. Empty texts are left out.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write an entry."""
        entry: dict[str, Any] = {
            "time": instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            is_empty = value is None or (isinstance(value, str) and not value)
            if name not in _STANDARD and name not in entry and not is_empty:
                entry[name] = value
        traceback = traceback_of(self, record)
        if traceback:
            entry["traceback"] = traceback
        try:
            data = msgspec.json.encode(entry, enc_hook=str)
        except Exception:  # noqa: BLE001 - a value's own code; the line must be written
            data = msgspec.json.encode({name: repr(entry[name]) for name in entry})
        return escape_json(data.decode())


def instant(record: logging.LogRecord) -> str:
    """When a record was made, in UTC."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def traceback_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    """The traceback of a record, or nothing."""
    if not record.exc_info or record.exc_info[0] is None:
        return record.exc_text or ""  # written where it was raised: in a process, say
    return formatter.formatException(record.exc_info)
