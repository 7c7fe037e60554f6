"""Conditions on runs as a small tree, which each store carries out its own way.

A run that has no value of a field meets no comparison with it. `~` is the opposite of
its condition in any case, so `~(customer == "ann")` holds for runs without a customer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Generic, NoReturn, TypeAlias, TypeVar, get_origin

import msgspec

from durable import limits
from durable.errors import AttributeTypeError, InvalidOptionError
from durable.search.kinds import (
    KEPT_AS_TEXT,
    MANY_VALUED,
    AttributeKind,
    Kept,
    check_name,
    keep_one,
    words_of,
)

T = TypeVar("T")


class Condition(msgspec.Struct, frozen=True):
    """What runs are to be: made by comparing attributes, joined by `&`, `|` and `~`."""

    def __and__(self, other: Condition) -> Condition:
        return All((self, _condition(other)))

    def __or__(self, other: Condition) -> Condition:
        return OneOf((self, _condition(other)))

    def __invert__(self) -> Condition:
        return Not(self)

    def __bool__(self) -> NoReturn:
        """Refuse `and`, `or`, `not` and chains such as `1 < a < 3`.

        Raises:
            InvalidOptionError: always.
        """
        raise InvalidOptionError(
            "A condition on runs was asked whether it is true.",
            hint="Join conditions by `&`, `|` and `~`, each in parentheses, and write"
            " between(low, high) for a range.",
        )


class Compare(Condition, frozen=True):
    """A value of the field is `=`, `<`, `<=`, `>` or `>=` another.

    `kind`, here and below, is the attribute's; every run has what has none.
    """

    field: str
    is_system: bool
    how: str
    value: Kept
    kind: str = ""


class Among(Condition, frozen=True):
    """A value of the field is one of these."""

    field: str
    is_system: bool
    values: tuple[Kept, ...]
    kind: str = ""


class StartsWith(Condition, frozen=True):
    """A value of the field begins with a text."""

    field: str
    is_system: bool
    prefix: str
    kind: str = ""


class IsNull(Condition, frozen=True):
    """The field has no value."""

    field: str
    is_system: bool
    kind: str = ""


class All(Condition, frozen=True):
    """All of these hold."""

    parts: tuple[Condition, ...]


class OneOf(Condition, frozen=True):
    """At least one of these holds."""

    parts: tuple[Condition, ...]


class Not(Condition, frozen=True):
    """This does not hold."""

    part: Condition


Leaf: TypeAlias = Compare | Among | StartsWith | IsNull


def _condition(value: object) -> Condition:
    if not isinstance(value, Condition):
        raise InvalidOptionError(
            f"{value!r} is no condition on runs.",
            hint="Put each comparison in parentheses: (a == 1) & (b == 2).",
        )
    return value


# --- fields ---------------------------------------------------------------------------


class Field:
    """What a condition speaks of: an attribute, or something every run has.

    Comparing it gives a `Condition`.
    """

    is_system = False
    orders: frozenset[str] = frozenset({"<", "<=", ">", ">="})

    def __init__(self, name: str, kind: AttributeKind) -> None:
        self.name = name
        self.kind = kind
        if kind in MANY_VALUED or kind is AttributeKind.BOOL:
            self.orders = frozenset()

    __hash__ = object.__hash__

    @property
    def _place(self) -> tuple[str, bool]:
        return self.name, self.is_system

    @property
    def _kind(self) -> str:
        return "" if self.is_system else self.kind.value

    def keep(self, value: object) -> Kept:
        """Return what values are compared with.

        Raises:
            InvalidOptionError: it is no value of the field.
        """
        return keep_one(self.kind, value, self.name)

    def compare(self, how: str, value: object) -> Condition:
        """Compare by `=`, `!=`, `<`, `<=`, `>` or `>=`.

        Raises:
            InvalidOptionError: the field has no such value, or no order.
        """
        if how == "!=":
            return Not(self.compare("=", value))
        if how != "=" and how not in self.orders:
            raise InvalidOptionError(
                f"{self.name} has no order: compare it by == and !=, not by {how}."
            )
        if self.kind is AttributeKind.TEXT:
            words = words_of(value, self.name)
            if not words:
                raise InvalidOptionError(f"{self.name} is compared with no word.")
            return _all(Compare(*self._place, how, w, self._kind) for w in words)
        return Compare(*self._place, how, self.keep(value), self._kind)

    def __eq__(self, value: object) -> Condition:  # type: ignore[override]  # a condition, as queries have it
        return self.compare("=", value)

    def __ne__(self, value: object) -> Condition:  # type: ignore[override]  # likewise
        return self.compare("!=", value)

    def __lt__(self, value: Any) -> Condition:
        return self.compare("<", value)

    def __le__(self, value: Any) -> Condition:
        return self.compare("<=", value)

    def __gt__(self, value: Any) -> Condition:
        return self.compare(">", value)

    def __ge__(self, value: Any) -> Condition:
        return self.compare(">=", value)

    def in_(self, values: Iterable[Any]) -> Condition:
        """Hold where the value is one of these."""
        found = list(values)
        if isinstance(values, str) or len(found) > limits.QUERY_VALUES_MAX:
            raise InvalidOptionError(
                f"{self.name} is compared with {len(found):,} values: give a list of at"
                f" most {limits.QUERY_VALUES_MAX}."
            )
        if self.kind is AttributeKind.TEXT:
            return OneOf(tuple(self.compare("=", value) for value in found))
        kept = dict.fromkeys(self.keep(value) for value in found)
        return Among(*self._place, tuple(kept), self._kind)

    def between(self, low: Any, high: Any) -> Condition:
        """Hold where the value is neither below `low` nor above `high`."""
        return All((self.compare(">=", low), self.compare("<=", high)))

    def starts_with(self, prefix: str) -> Condition:
        """Hold where the value begins with a text; of a text, one of its words."""
        if self.kind not in KEPT_AS_TEXT:
            raise InvalidOptionError(f"{self.name} is no text, and begins with none.")
        kept = keep_one(AttributeKind.KEYWORD, prefix, self.name)
        if self.kind is AttributeKind.TEXT:
            kept = str(kept).casefold()
        return StartsWith(*self._place, str(kept), self._kind)

    def is_null(self) -> Condition:
        """Hold where there is no value, or one without any text or word."""
        return IsNull(*self._place, self._kind)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.name!r}>"


def _all(parts: Iterable[Condition]) -> Condition:
    found = tuple(parts)
    return found[0] if len(found) == 1 else All(found)


class Attribute(Field, Generic[T]):
    """A typed value that runs are found by.

        customer = Attribute("customer", str)
        await engine.start(order(), attributes={customer: "ann"})
        runs = await engine.list(where=customer == "ann")

    Args:
        name: 1 to 64 ASCII letters, digits and underscores. A name has one type in a
            namespace, for ever; who uses it with another is refused.
        type: `str`, `int`, `float`, `bool`, `datetime`, or `list[str]`, of which a run
            is found by each text.
        text: of `str`, that runs are found by the words of it.

    Raises:
        InvalidOptionError: the name or the type is none of these.
    """

    def __init__(self, name: str, type: type[T], *, text: bool = False) -> None:
        """See the class."""
        kind = _KINDS.get(type) if isinstance(type, Hashable) else None
        if get_origin(type) is list and type == list[str]:
            kind = AttributeKind.KEYWORD_LIST
        if text:
            kind = AttributeKind.TEXT if type is str else None
        if kind is None:
            raise InvalidOptionError(
                f"The attribute {name!r} is of {type!r}: give str, int, float, bool,"
                " datetime or list[str]; text=True is for str."
            )
        super().__init__(check_name(name), kind)

    __hash__ = object.__hash__


_KINDS: Final[dict[Any, AttributeKind]] = {
    str: AttributeKind.KEYWORD,
    int: AttributeKind.INT,
    float: AttributeKind.FLOAT,
    bool: AttributeKind.BOOL,
    datetime: AttributeKind.DATETIME,
}


# --- what holds -----------------------------------------------------------------------

_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def matches(
    condition: Condition, read: Callable[[str, bool], tuple[Kept, ...]]
) -> bool:
    """Tell whether a condition holds.

    Args:
        condition: what is to hold.
        read: gives the values of a field, by its name and whether every run has it.
    """
    match condition:
        case All(parts):
            return all(matches(part, read) for part in parts)
        case OneOf(parts):
            return any(matches(part, read) for part in parts)
        case Not(part):
            return not matches(part, read)
        case Compare(name, is_system, how, value):
            holds = _COMPARE[how]
            return any(holds(found, value) for found in read(name, is_system))
        case Among(name, is_system, values):
            return any(found in values for found in read(name, is_system))
        case StartsWith(name, is_system, prefix):
            return any(str(v).startswith(prefix) for v in read(name, is_system))
        case IsNull(name, is_system):
            return not read(name, is_system)
        case _:
            raise InvalidOptionError(f"{condition!r} is no condition.")


def leaves(condition: Condition) -> Iterator[Leaf]:
    """Yield the comparisons of a condition."""
    match condition:
        case All(parts) | OneOf(parts):
            for part in parts:
                yield from leaves(part)
        case Not(part):
            yield from leaves(part)
        case Compare() | Among() | StartsWith() | IsNull():
            yield condition
        case _:
            raise InvalidOptionError(f"{condition!r} is no condition.")


def check_condition(condition: object) -> Condition:
    """Return a condition that is not too large.

    Raises:
        InvalidOptionError: it is, or it is none.
    """
    found = _condition(condition)
    try:
        count = sum(1 for _ in leaves(found))
    except RecursionError:
        count = limits.QUERY_CONDITIONS_MAX + 1
    if count > limits.QUERY_CONDITIONS_MAX:
        raise InvalidOptionError(
            f"The condition has more than {limits.QUERY_CONDITIONS_MAX} comparisons.",
            hint="Write in_([...]) for many values of one field.",
        )
    return found


def check_kinds(condition: Condition, kinds: Mapping[str, str]) -> None:
    """Return if a condition takes attributes for what they are.

    Raises:
        AttributeTypeError: it does not.
    """
    for leaf in leaves(condition):
        known = kinds.get(leaf.field, leaf.kind)
        if not leaf.is_system and leaf.kind != known:
            raise AttributeTypeError(
                f"The attribute {leaf.field!r} is a {leaf.kind} here, and a {known} of"
                " the namespace's runs."
            )


def joined(condition: Condition | None) -> list[Condition]:
    """Return what must hold, all of it."""
    if condition is None:
        return []
    if isinstance(condition, All):
        return [one for part in condition.parts for one in joined(part)]
    return [condition]
