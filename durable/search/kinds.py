"""The kinds of attributes, and their values as they are kept, compared and indexed.

A kept value is a text or a number of 64 bits, so that every database compares it alike.
"""

from __future__ import annotations

import enum
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypeAlias, cast

import msgspec

from durable import limits
from durable.clock import from_datetime, to_datetime
from durable.core.history.payload import Payload
from durable.errors import InvalidOptionError

Kept: TypeAlias = str | int
"""A value as it is compared: a text, or a number that stands for it."""


class AttributeKind(enum.StrEnum):
    """What the values of an attribute are; Temporal's names."""

    KEYWORD = "Keyword"
    """A text, found as a whole or by its beginning."""
    TEXT = "Text"
    """A text, found by its words."""
    INT = "Int"
    FLOAT = "Double"
    BOOL = "Bool"
    DATETIME = "Datetime"
    KEYWORD_LIST = "KeywordList"
    """Texts; a run is found by each of them."""


MANY_VALUED: Final = frozenset({AttributeKind.TEXT, AttributeKind.KEYWORD_LIST})
KEPT_AS_TEXT: Final = MANY_VALUED | {AttributeKind.KEYWORD}
_INT_MAX: Final = 2**63 - 1
_WORD: Final = re.compile(r"\w+")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def check_name(name: object) -> str:
    """Return the name of an attribute.

    Raises:
        InvalidOptionError: it is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidOptionError(
            f"The attribute is called {name!r}: give a name of 1 to 64 ASCII letters,"
            " digits and underscores that does not begin with a digit."
        )
    return name


# --- values as they are kept ----------------------------------------------------------


def _wrong(name: str, value: object, expected: str) -> InvalidOptionError:
    return InvalidOptionError(f"{name} is {value!r}: give {expected}.")


def keep_keyword(value: object, name: str) -> str:
    """Check a text that is found as a whole."""
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    if len(value) > limits.KEYWORD_CHARS_MAX:
        raise InvalidOptionError(
            f"{name} has {len(value):,} characters, at most"
            f" {limits.KEYWORD_CHARS_MAX} can be searched for.",
            hint="Make it an Attribute(..., text=True), which is found by its words.",
        )
    return _plain(value, name)


def _plain(value: str, name: str) -> str:
    if "\0" in value or (not value.isascii() and re.search("[\ud800-\udfff]", value)):
        raise _wrong(name, value, "a text without NUL and lone surrogates")
    return value


def words_of(value: object, name: str) -> tuple[str, ...]:
    """Return the words of a text, each once, as they are searched for."""
    if not isinstance(value, str):
        raise _wrong(name, value, "a text")
    if len(value) > limits.TEXT_CHARS_MAX:
        raise _wrong(name, value[:40], f"at most {limits.TEXT_CHARS_MAX:,} characters")
    found = _WORD.findall(_plain(value, name).casefold())
    return tuple(dict.fromkeys(w[: limits.KEYWORD_CHARS_MAX] for w in found))


def keep_int(value: object, name: str) -> int:
    """Check a whole number."""
    if type(value) is not int or not -_INT_MAX - 1 <= value <= _INT_MAX:
        raise _wrong(name, value, "a whole number of at most 64 bits")
    return value


def keep_float(value: object, name: str) -> int:
    """Turn a number into one of 64 bits that sorts alike."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, value, "a number")
    try:
        number = float(value) + 0.0  # there is one zero
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _wrong(name, value, "a finite number")
    bits: int = struct.unpack("<q", struct.pack("<d", number))[0]
    return bits if bits >= 0 else bits ^ _INT_MAX


def keep_bool(value: object, name: str) -> int:
    """Check True or False."""
    if not isinstance(value, bool):
        raise _wrong(name, value, "True or False")
    return int(value)


def keep_datetime(value: object, name: str) -> int:
    """Turn an instant into microseconds since 1970."""
    if isinstance(value, str):  # in the text of a query
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise _wrong(
                name, value, "an instant such as '2026-01-31T12:00:00Z'"
            ) from None
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise _wrong(name, value, "a datetime with a time zone")
    return from_datetime(value)


_KEEP: Final[dict[AttributeKind, Callable[[object, str], Kept]]] = {
    AttributeKind.KEYWORD: keep_keyword,
    AttributeKind.KEYWORD_LIST: keep_keyword,
    AttributeKind.INT: keep_int,
    AttributeKind.FLOAT: keep_float,
    AttributeKind.BOOL: keep_bool,
    AttributeKind.DATETIME: keep_datetime,
}


def keep_one(kind: AttributeKind, value: object, name: str) -> Kept:
    """Return one value that an attribute is compared with; not of a text.

    Raises:
        InvalidOptionError: it is no such value.
    """
    return _KEEP[kind](value, name)


def keep(kind: AttributeKind, value: object, name: str) -> tuple[Kept, ...]:
    """Return all that a run is found by for the value of an attribute.

    Raises:
        InvalidOptionError: the attribute has no such value.
    """
    if kind is AttributeKind.TEXT:
        return words_of(value, name)
    if kind is not AttributeKind.KEYWORD_LIST:
        return (keep_one(kind, value, name),)
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise _wrong(name, value, "a list of texts")
    listed = cast("Iterable[object]", value)
    items = [keep_keyword(item, name) for item in listed]
    if len(items) > limits.KEYWORD_LIST_MAX:
        raise _wrong(name, len(items), f"at most {limits.KEYWORD_LIST_MAX} texts")
    return tuple(dict.fromkeys(items))


def give_back(kind: AttributeKind, kept: Kept) -> Any:
    """Return the value that was kept so."""
    if isinstance(kept, str):
        return kept
    if kind is AttributeKind.BOOL:
        return bool(kept)
    if kind is AttributeKind.DATETIME:
        return to_datetime(kept)
    if kind is AttributeKind.FLOAT:
        bits = kept if kept >= 0 else kept ^ _INT_MAX
        return struct.unpack("<d", struct.pack("<q", bits))[0]
    return kept


# --- values as history has them -------------------------------------------------------

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_payloads: Final = msgspec.json.Decoder(dict[str, Payload]).decode


def to_payload(kind: AttributeKind, value: object, name: str) -> Payload:
    """Turn a value into data that says its kind, as Temporal does.

    Raises:
        InvalidOptionError: the attribute has no such value.
    """
    keep(kind, value, name)
    if kind is AttributeKind.DATETIME:
        value = to_datetime(keep_datetime(value, name))
    elif kind is AttributeKind.FLOAT:
        value = float(cast("float", value)) + 0.0
    return Payload(json=msgspec.Raw(_encode(value)), metadata={"type": kind.value})


def kind_of(payload: Payload) -> AttributeKind:
    """Return which kind the value of an attribute is of."""
    return AttributeKind(payload.metadata.get("type", "Keyword"))


def from_payload(payload: Payload) -> Any:
    """Return the value that `to_payload` made data of."""
    value = _decode(payload.json)
    is_instant = kind_of(payload) is AttributeKind.DATETIME
    return datetime.fromisoformat(value) if is_instant else value


def pack(values: Mapping[str, Payload]) -> str | None:
    """Return values as the row of a run keeps them."""
    return _encode(values).decode() if values else None


def unpack(text: str | None) -> dict[str, Payload]:
    """Return the values that the row of a run keeps."""
    return {} if text is None else _payloads(text)


def kinds_in(text: str) -> dict[str, str]:
    """Return the kind of each attribute that the row of a run keeps."""
    return {name: kind_of(value).value for name, value in unpack(text).items()}


def kept_in(text: str | None) -> dict[str, tuple[Kept, ...]]:
    """Return what a run is found by, by attribute."""
    return {
        name: keep(kind_of(value), from_payload(value), name)
        for name, value in unpack(text).items()
    }
