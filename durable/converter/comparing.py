"""Whether two values are the same, all the way down, and where they first differ."""

# Values of any type pass through here, so their parts have no static type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

_ATOMS: Final = frozenset(
    {int, str, bool, float, bytes, type(None), UUID, date, timedelta}
)
_FIELDS: Final = (
    "__struct_fields__",
    "__dataclass_fields__",
    "__attrs_attrs__",
    "__pydantic_fields__",
)
_NO_TWIN: Final = object()
# Up to here each int is a float too, and its sums are the same.
_EXACT: Final = 2**53


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, and of the same types all the way down.

    `==` alone does not see that an enum member became its text, or that a zone became
    an offset. The one change that is allowed: an int where the annotation says float,
    if it is so small that floats count as ints do.
    """
    kind: Any = type(left)
    if kind is not type(right):
        return (
            kind is int
            and type(right) is float
            and left == right
            and abs(left) <= _EXACT
        )
    if kind in _ATOMS:
        return bool(left == right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return len(left) == len(right) and _same_items(left, right)
    if isinstance(left, set | frozenset):
        return len(left) == len(right) and _same_keys(left, right)
    if isinstance(left, datetime | time):
        return (
            left == right
            and left.fold == right.fold
            and bool(_zone(left) == _zone(right))
            and left.utcoffset() == right.utcoffset()
        )
    fields = fields_of(left)
    if fields is not None and not all(
        same(getattr(left, name, None), getattr(right, name, None)) for name in fields
    ):
        return False
    if fields is not None and not hasattr(kind, "__pydantic_fields__"):
        return True  # a model of pydantic may hold more than its fields
    try:
        return bool(left == right)
    except Exception:  # noqa: BLE001 - a value's own __eq__ may raise anything
        return False


def _zone(moment: datetime | time) -> Any:
    """A zone with rules of its own is its name, any other zone is what kind it is."""
    zone = moment.tzinfo
    if type(zone) is ZoneInfo:
        return zone.key
    kind = type(zone)
    return timezone if kind.__module__.startswith("pydantic") else kind


def _same_items(left: dict[Any, Any], right: dict[Any, Any]) -> bool:
    """Compare two dicts; keys are compared by type too, order does not matter."""
    return _same_keys(left, right) and all(
        same(value, right[key]) for key, value in left.items()
    )


def _same_keys(left: Iterable[Any], right: Iterable[Any]) -> bool:
    """Whether keys, or members of sets, are the same, and not merely equal."""
    twins = {key: key for key in right}
    for key in left:
        twin = twins.get(key, _NO_TWIN)
        if type(key) is not type(twin):
            return False
        if type(key) not in _ATOMS and not same(key, twin):
            return False
    return True


def fields_of(value: Any) -> tuple[str, ...] | None:
    kind: Any = type(value)
    for attribute in _FIELDS:
        fields = getattr(kind, attribute, None)
        if fields is not None:
            return tuple(getattr(field, "name", field) for field in fields)
    return None


def difference(left: Any, right: Any, place: str) -> tuple[str, Any, Any]:
    """Find the first place where two values differ; give what is there on both sides.

    Keys are counted, not spelt: they are values too.
    """
    if type(left) is not type(right):
        return place, left, right
    if isinstance(left, set | frozenset | dict):
        twins = {key: key for key in right}
        for number, key in enumerate(left, start=1):
            twin = twins.get(key, key)
            if type(key) is not type(twin) or not same(key, twin):
                what = "[a key]" if isinstance(left, dict) else "[a member]"
                return difference(key, twin, f"{place}{what}")
            if isinstance(left, dict) and key in right:
                a, b = left[key], right[key]
                if not same(a, b):
                    return difference(a, b, f"{place}[key {number}]")
        return place, left, right
    if isinstance(left, list | tuple) and len(left) != len(right):
        return place, left, right
    for (where, a), (_, b) in zip(parts_of(left), parts_of(right), strict=False):
        if not same(a, b):
            return difference(a, b, place + where)
    return place, left, right


def describe(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, datetime | time) and value.tzinfo is not None:
        return f"a {type(value).__name__} in a {type(value.tzinfo).__name__} zone"
    if type(value) is dict:
        kinds = sorted({type(key).__qualname__ for key in value})
        return f"a dict with {' and '.join(kinds) or 'no'} keys"
    if value is None:
        return "None"
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace(
        "builtins.", ""
    )


def kinds(value: Any) -> str:
    """The types of a value, all the way down."""
    kind: Any = type(value)
    parts: list[str] = []
    if isinstance(value, list | tuple):
        parts = [kinds(item) for item in value]
    elif isinstance(value, set | frozenset):
        parts = sorted(kinds(item) for item in value)
    elif isinstance(value, dict):
        parts = [f"{kinds(key)}:{kinds(item)}" for key, item in value.items()]
    elif isinstance(value, datetime | time):
        parts = [type(value.tzinfo).__qualname__]
    else:
        names = fields_of(value) or ()
        parts = [f"{name}={kinds(getattr(value, name, None))}" for name in names]
    return f"{kind.__module__}.{kind.__qualname__}({','.join(parts)})"


def parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, each with its place; keys are counted, as values are."""
    names = getattr(value, "_fields", None) or fields_of(value)
    if isinstance(value, dict):
        for number, (key, part) in enumerate(value.items(), start=1):
            yield f"[key {number}]", part
            if type(key) is not str:
                yield f"[key {number}]", key
    elif names is not None:
        for name in names:
            yield f".{name}", getattr(value, name, None)
    elif isinstance(value, list | tuple | set | frozenset):
        for index, part in enumerate(value):
            yield f"[{index}]", part


def find_part(
    value: Any, is_odd: Callable[[Any], bool], place: str = ""
) -> tuple[str, Any] | None:
    """The first innermost part that is odd, and its place."""
    for where, part in parts_of(value):
        found = find_part(part, is_odd, place + where)
        if found is not None:
            return found
    return (place, value) if is_odd(value) else None


def is_not_finite(value: Any) -> bool:
    """Whether it is NaN or infinite; msgspec writes null for these."""
    return isinstance(value, float) and not math.isfinite(value)
