"""Arguments and attributes of exceptions as data, exactly, or not at all.

An exception has no annotations to read its values by. Plain data stands for itself;
other exact values carry a tag, `{"$": "tuple", "v": [...]}`. The tags are a fixed list:
reading makes values of those types, members of enums that the program knows, and other
failures, and nothing else.
"""

# Exceptions hold values of any type, so their parts have no static type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import base64
import math
import pathlib
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from durable.converter.exception_classes import CLASSES, home_of
from durable.core.history.payload import JSON_PLAIN, Failure, Payload

JSON_TAGGED: Final = "json/tagged"
_TAG: Final = "$"
_DEPTH_MAX: Final = 20
_VALUES_MAX: Final = 10_000
_INT_BITS: Final = 63


class UnkeptError(Exception):
    """A value has no exact form as data; the text names its type, never the value."""


def write(
    value: Any, most: int, write_error: Callable[[BaseException], Failure]
) -> Payload:
    """Turn a value into a payload of at most so many bytes.

    Args:
        value: any value.
        most: the bytes that there is room for.
        write_error: how an exception among the values is recorded.

    Raises:
        UnkeptError: it cannot be kept as it is.
    """
    writer = _Writer(most, write_error)
    data = writer.write(value, 0)
    raw = msgspec.json.encode(data)
    if len(raw) > most:
        raise UnkeptError(f"{_name(value)} of {len(raw):,} bytes")
    return Payload(
        msgspec.Raw(raw), encoding=JSON_TAGGED if writer.has_tags else JSON_PLAIN
    )


def read(payload: Payload, read_error: Callable[[Failure], BaseException]) -> Any:
    """Turn what `write` made, or plain JSON, into the value again.

    Raises whatever a row that this library did not write may provoke.
    """
    data = msgspec.json.decode(payload.json)
    return _read(data, read_error) if payload.encoding == JSON_TAGGED else data


def read_attributes(
    payload: Payload, read_error: Callable[[Failure], BaseException]
) -> tuple[dict[str, Any], list[str]]:
    """The attributes that `write` made data of, and the names that cannot be read.

    Raises whatever a row that this library did not write may provoke.
    """
    data: dict[str, Any] = msgspec.json.decode(payload.json, type=dict[str, Any])
    if payload.encoding != JSON_TAGGED:
        return data, []
    values: dict[str, Any] = {}
    lost: list[str] = []
    for name, item in data.items():
        try:
            values[name] = _read(item, read_error)
        except Exception:  # noqa: BLE001 - an enum that has changed, or no own row
            lost.append(name)
    return values, lost


class _Writer:
    def __init__(
        self, most: int, write_error: Callable[[BaseException], Failure]
    ) -> None:
        self._most = most
        self._write_error = write_error
        self._count = 0
        self.has_tags = False

    def write(self, value: Any, depth: int) -> Any:
        """The value as plain data. Exact types only: no code of the value is run."""
        kind: Any = type(value)
        self._count += 1
        if depth > _DEPTH_MAX or self._count > _VALUES_MAX:
            raise UnkeptError("data that is too deep or too much")
        if value is None or kind is bool:
            return value
        if kind is int:
            if value.bit_length() <= _INT_BITS:
                return value
            self._check(value.bit_length() // 4, value)
            return self._tag("int", hex(value))
        if kind is float:
            return value if math.isfinite(value) else self._tag("float", repr(value))
        if kind is str:
            return self._text(value)
        if kind is list:
            return [self.write(item, depth + 1) for item in value]
        if kind is dict:
            return self._dict(value, depth)
        if kind in (tuple, set, frozenset):
            items = [self.write(item, depth + 1) for item in value]
            return self._tag(kind.__name__, items)
        if isinstance(value, Enum):
            return self._enum(value)
        if isinstance(value, BaseException):
            failure = self._write_error(value)
            return self._tag("error", msgspec.json.decode(msgspec.json.encode(failure)))
        return self._scalar(value, kind)

    def _scalar(self, value: Any, kind: Any) -> Any:
        if kind is bytes:
            self._check(len(value), value)
            return self._tag("bytes", base64.b64encode(value).decode())
        if kind is complex:
            return self._tag("complex", [repr(value.real), repr(value.imag)])
        if kind is timedelta:
            parts = [value.days, value.seconds, value.microseconds]
            return self._tag("timedelta", parts)
        if kind in (datetime, time):
            return self._moment(value, kind)
        if kind in (Decimal, UUID, pathlib.PurePosixPath, pathlib.PureWindowsPath):
            return self._tag(kind.__name__, self._text(str(value)))
        if kind is date:
            return self._tag("date", value.isoformat())
        if kind is type(pathlib.Path()):
            return self._tag("Path", self._text(str(value)))
        raise UnkeptError(_name(value))

    def _tag(self, tag: str, data: Any) -> dict[str, Any]:
        self.has_tags = True
        return {_TAG: tag, "v": data}

    def _check(self, size: int, value: Any) -> None:
        if size > self._most:
            raise UnkeptError(f"{_name(value)} of {size:,} bytes")

    def _text(self, value: str) -> Any:
        self._check(len(value), value)
        try:
            value.encode()
        except UnicodeEncodeError:  # as in the names of files
            raw = value.encode("utf-8", "surrogatepass")
            return self._tag("text", base64.b64encode(raw).decode())
        return value

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        pairs = [
            [self.write(key, depth + 1), self.write(item, depth + 1)]
            for key, item in value.items()
        ]
        if _TAG not in value and all(type(key) is str for key, _ in pairs):
            return dict(pairs)
        return self._tag("dict", pairs)

    def _moment(self, value: Any, kind: Any) -> Any:
        zone = value.tzinfo
        key = zone.key if type(zone) is ZoneInfo else None
        if zone is not None and not key and type(zone).__module__ != "datetime":
            raise UnkeptError(f"{kind.__name__} in a {_name(zone)} zone")
        text = (value.replace(tzinfo=None) if key else value).isoformat()
        return self._tag(kind.__name__, [text, value.fold, key])

    def _enum(self, value: Enum) -> Any:
        kind = type(value)
        if value.name not in kind.__members__:  # flags that are combined
            raise UnkeptError(_name(value))
        return self._tag("enum", [home_of(kind), kind.__qualname__, value.name])


def _name(value: object) -> str:
    return str(type(value).__name__)[:100]


def _read(data: Any, read_error: Callable[[Failure], BaseException]) -> Any:
    if isinstance(data, list):
        return [_read(item, read_error) for item in data]
    if not isinstance(data, dict):
        return data
    fields: dict[str, Any] = data
    tag, inner = fields.get(_TAG), fields.get("v")
    if tag is None:
        return {key: _read(item, read_error) for key, item in fields.items()}
    if tag == "error":
        text = msgspec.json.encode(inner)
        return read_error(msgspec.json.decode(text, type=Failure))
    if tag == "enum":
        return _read_enum(inner)
    return _READERS[tag](_read(inner, read_error))


def _read_enum(parts: Any) -> Enum:
    home, name, member = parts
    found = CLASSES.reach(home, name)
    if found is None or not issubclass(found, Enum):
        raise LookupError(f"no enum {home}.{name} is known here")
    return found[member]


def _read_moment(kind: Any) -> Callable[[Any], Any]:
    def read_moment(parts: Any) -> Any:
        text, fold, zone = parts
        moment = kind.fromisoformat(text).replace(fold=fold)
        return moment if zone is None else moment.replace(tzinfo=ZoneInfo(zone))

    return read_moment


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "int": lambda data: int(data, 16),
    "float": float,
    "complex": lambda data: complex(float(data[0]), float(data[1])),
    "text": lambda data: base64.b64decode(data).decode("utf-8", "surrogatepass"),
    "bytes": base64.b64decode,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "timedelta": lambda data: timedelta(*data),
    "datetime": _read_moment(datetime),
    "time": _read_moment(time),
    "date": date.fromisoformat,
    "Decimal": Decimal,
    "UUID": UUID,
    "Path": pathlib.Path,
    "PurePosixPath": pathlib.PurePosixPath,
    "PureWindowsPath": pathlib.PureWindowsPath,
}
