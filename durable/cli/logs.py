"""The log on stderr: one line an entry, whatever the entries hold.

Ids and messages of failures come from elsewhere; a line break or an escape sequence in
one must not pass for an entry of its own.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from durable.cli.output import to_json
from durable.telling.escaping import escape, escape_lines

_INDENT: Final = "    "
# What the library's own lines and `durable.logger` say of the run.
_ABOUT: Final = (
    "workflow_id run_id workflow_type update_id update_name activity_type activity_id"
    " attempt"
)


class TextFormatter(logging.Formatter):
    """`time level logger: message`, and a traceback indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write an entry."""
        line = escape(
            f"{_instant(record)} {record.levelname.lower()} {record.name}:"
            f" {record.getMessage()}"
        )
        trace = _trace(self, record)
        if not trace:
            return line
        return "\n".join([line, *(_INDENT + below for below in escape_lines(trace))])


class JsonFormatter(logging.Formatter):
    """One JSON object an entry."""

    def format(self, record: logging.LogRecord) -> str:
        """Write an entry."""
        entry = {
            "time": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in _ABOUT.split():
            if hasattr(record, name):
                entry[name] = str(getattr(record, name))
        trace = _trace(self, record)
        if trace:
            entry["traceback"] = trace
        return to_json(entry)


def _instant(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return formatter.formatException(record.exc_info)


@contextmanager
def logging_to_stderr(level: str, form: str) -> Generator[None]:
    """Send the program's log to stderr for a while."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
