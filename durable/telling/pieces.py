"""Words of one kind: spans, instants, sizes, values, failures, as text to print.

All text from the database is escaped here. Instants come in microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from durable.clock import to_datetime
from durable.core.history.codec import UNREADABLE
from durable.core.history.payload import (
    JSON_PLAIN,
    Failure,
    Payload,
    Payloads,
    innermost,
    summary_of,
)
from durable.telling.escaping import escape, escape_json

Role: TypeAlias = Literal["plain", "strong", "dim", "good", "bad", "warn"]
"""What a piece of text is for; a style says how that looks."""


class Piece(NamedTuple):
    """Some text of one role."""

    text: str
    role: Role = "plain"


Line: TypeAlias = list[Piece]
Told: TypeAlias = tuple[Line, list[str], list[tuple[str, Payload]]]
"""What happened, more about it, and its values by name."""

_MESSAGE_MAX: Final = 200
_LIBRARY: Final = "/durable/core/"


# --- spans and instants ---------------------------------------------------------------


def span(microseconds: int) -> str:
    """A span of time, as exact as anybody wants to know."""
    if microseconds < 1_000:
        return f"{microseconds} us"
    if microseconds < 1_000_000:
        return f"{microseconds / 1_000:.3g} ms"
    seconds = microseconds / 1_000_000
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for size, name, below, below_name in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {name}" + (f" {rest} {below_name}" if rest else "")
    return f"{whole} s"


def find_datetime(microseconds: int) -> datetime | None:
    """An instant as a datetime; None if a row holds what no calendar does."""
    try:
        return to_datetime(microseconds)
    except OverflowError:
        return None


def instant(microseconds: int) -> str:
    """An instant, to the millisecond."""
    moment = find_datetime(microseconds)
    if moment is None:
        return f"{microseconds} us after 1970"
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return f"{text}.{moment.microsecond // 1_000:03d} UTC"


def offset(microseconds: int) -> str:
    """How long after the start of its run something was."""
    sign = "-" if microseconds < 0 else "+"
    milliseconds = abs(microseconds) // 1_000
    seconds, milliseconds = divmod(milliseconds, 1_000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{sign}{days}d{hours:02d}h{minutes:02d}m"
    if hours:
        return f"{sign}{hours}h{minutes:02d}m{seconds:02d}s"
    if minutes:
        return f"{sign}{minutes}m{seconds:02d}.{milliseconds // 100}s"
    return f"{sign}{seconds}.{milliseconds:03d}s"


# --- values and failures --------------------------------------------------------------


def size_of(payloads: Sequence[Payload]) -> str:
    """How many arguments, and how many bytes."""
    count = "1 argument" if len(payloads) == 1 else f"{len(payloads)} arguments"
    if not payloads:
        return "no arguments"
    return f"{count}, {bytes_of(sum(payload.size for payload in payloads))}"


def bytes_of(size: int) -> str:
    return "1 byte" if size == 1 else f"{size:,} bytes"


def value_of(payload: Payload) -> str:
    """A recorded value, if it can be read without the user's code."""
    if payload.encoding == JSON_PLAIN:
        return escape_json(bytes(payload.json).decode("utf-8", "backslashreplace"))
    return f"<{bytes_of(payload.size)}, {escape(payload.encoding)}>"


def decode_failure(text: str) -> Failure:
    """Read a failure from a row; whatever stands there, say something."""
    try:
        return msgspec.json.decode(text, type=Failure)
    except UNREADABLE:
        return Failure(message="what is recorded cannot be read", type="?")


def failure_text(failure: Failure) -> str:
    """A failure on one line: what raised, not what wrapped it."""
    text = summary_of(failure).partition("\n")[0]
    more = _MESSAGE_MAX + len(f"{innermost(failure).type}: ")
    return escape(text[:more] + "..." if len(text) > more else text)


# --- details --------------------------------------------------------------------------


def reason_of(reason: str) -> Line:
    return [Piece(f": {escape(reason)}")] if reason else []


def source_of(source: str) -> list[str]:
    # A line of this library, as for a coroutine that `gather` began, helps nobody.
    if not source or _LIBRARY in source:
        return []
    # The last two parts of the path name the file well enough.
    return ["at " + "/".join(source.split("/")[-2:])]


def joined(details: Iterable[str]) -> str:
    return ", ".join(escape(detail) for detail in details)


def arguments_of(input: Payloads) -> list[tuple[str, Payload]]:
    return [(f"argument {index}", value) for index, value in enumerate(input, start=1)]
