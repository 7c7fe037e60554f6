"""The log on stderr: one line an entry, whatever the entries hold.

Ids and messages of failures come from elsewhere; a line break or an escape sequence in
one must not pass for an entry of its own.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from durable.telemetry.json_logs import JsonFormatter, instant, traceback_of
from durable.telling.escaping import escape, escape_lines

_INDENT: Final = "    "


class TextFormatter(logging.Formatter):
    """`time level logger: message`, and a traceback indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write an entry."""
        line = escape(
            f"{instant(record)} {record.levelname.lower()} {record.name}:"
            f" {record.getMessage()}"
        )
        trace = traceback_of(self, record)
        if not trace:
            return line
        return "\n".join([line, *(_INDENT + below for below in escape_lines(trace))])


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
