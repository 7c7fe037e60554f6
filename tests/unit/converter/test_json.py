"""Nothing changes silently: a value comes back equal and of its type, or is refused."""

# ruff: noqa: DTZ001, DTZ901 - naive datetimes are among what users pass

import collections
import contextlib
import dataclasses
import decimal
import enum
import fractions
import functools
import math
import operator
import pathlib
import types
import uuid
import zoneinfo
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from durable.converter import json
from durable.core.history.payload import Payload
from durable.errors import (
    DefinitionError,
    PayloadError,
)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0


@dataclasses.dataclass
class Point3(Point):
    z: int = 0


@dataclasses.dataclass
class Dividing:
    x: int

    def __post_init__(self) -> None:
        self.x = 100 // self.x


@dataclasses.dataclass(eq=False)
class Plain:
    items: list[Any]


class Struct(msgspec.Struct):
    name: str
    more: dict[str, int] = {}


class Pair(NamedTuple):
    left: int
    right: str


@dataclasses.dataclass(frozen=True)
class Slot:
    start: datetime
    length: float = 1.0


class Settings(TypedDict):
    on: bool


class Text(str):
    __slots__ = ()


class Number(int):
    pass


def field_names(value: Any) -> list[str]:
    names = getattr(value, "__struct_fields__", None)
    return list(names or (field.name for field in dataclasses.fields(value)))


def is_same(left: Any, right: Any) -> bool:
    """Equal, and of the same types all the way down; written apart from the library."""
    if type(left) is not type(right):
        return False
    if dataclasses.is_dataclass(left) or isinstance(left, msgspec.Struct):
        return all(
            is_same(getattr(left, name), getattr(right, name))
            for name in field_names(left)
        )
    if isinstance(left, dict):
        return list(left) == list(right) and all(
            is_same(a, b) and is_same(left[a], right[b])
            for a, b in zip(left, right, strict=True)
        )
    if isinstance(left, set | frozenset):
        twins = {item: item for item in right}
        return len(left) == len(right) and all(
            item in twins and is_same(item, twins[item]) for item in left
        )
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, float):
        return repr(left) == repr(right)
    if isinstance(left, datetime):
        later = timedelta(days=180) if left.year < 9999 else timedelta(0)
        return all(
            (left + step, (left + step).utcoffset())
            == (right + step, (right + step).utcoffset())
            for step in (timedelta(0), later)
        )
    return bool(left == right)


def check(value: Any, hint: Any) -> None:
    """A value comes back the same, both times, or is refused."""
    try:
        payload, copy = json.encode_with_copy(value, hint, "it")
    except PayloadError:
        return
    assert is_same(copy, value), (value, copy)
    assert is_same(json.decode(payload, hint, "it"), value)
    assert json.encode(value, hint, "it") == payload
    assert json.encode_again(value, hint, "it") == payload


# --- any value under any annotation ---------------------------------------------------

text = st.text(max_size=8)
zones = st.sampled_from(
    [
        None,
        UTC,
        timezone(timedelta(hours=5, minutes=30)),
        zoneinfo.ZoneInfo("Europe/Berlin"),
        zoneinfo.ZoneInfo("UTC"),
    ]
)
scalars: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-(2**70), 2**70) | st.integers(0, 300).map(lambda n: 1 << n),
    float: st.floats(),
    bool: st.booleans(),
    str: text,
    type(None): st.none(),
    bytes: st.binary(max_size=8),
    datetime: st.datetimes(timezones=zones),
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(),
    decimal.Decimal: st.decimals(),
    uuid.UUID: st.uuids(),
    Colour: st.sampled_from(Colour),
    Level: st.sampled_from(Level),
    Word: st.sampled_from(Word),
    Point: st.builds(Point, st.integers(), st.floats()),
    Struct: st.builds(Struct, text, st.dictionaries(text, st.integers(), max_size=2)),
    Pair: st.builds(Pair, st.integers(), text),
    Slot: st.builds(Slot, st.datetimes(timezones=zones), st.floats()),
    complex: st.complex_numbers(),
    pathlib.PurePosixPath: text.map(pathlib.PurePosixPath),
}
keys = [int, str, uuid.UUID, date, Colour, datetime, Level, Slot]

# Of unions JSON can tell apart one text, one number without and one with a fraction.
texts = [str, bytes, datetime, date, time, timedelta, decimal.Decimal, uuid.UUID]
texts += [Colour, Word]
look_alikes = st.one_of(
    st.dates().map(str),
    st.datetimes(timezones=zones).map(datetime.isoformat),
    st.uuids().map(str),
    st.decimals().map(str),
    st.sampled_from([math.nan, math.inf, -0.0, 0.0, 1.0, 1e22, 1e300, 5e-324]),
    st.integers(2**53 - 2, 2**53 + 2),
    st.integers(0, 300).map(lambda n: 1 << n),
    st.sampled_from(["YWI=", "PT1S", "red", "yes", "null", "1", 1, 0, True, False]),
)


@st.composite
def unions(draw: st.DrawFn) -> tuple[Any, Any]:
    """A union, and a value of a member, of something alike, or of anything else."""
    chosen = [
        draw(st.sampled_from(kinds))
        for kinds in (texts, [int, Level], [float], [bool], [type(None)])
        if draw(st.booleans())
    ]
    value = draw(st.one_of(*(scalars[kind] for kind in chosen), look_alikes, anything))
    hint: Any = functools.reduce(operator.or_, draw(st.permutations(chosen or [str])))
    return hint, value


@st.composite
def typed(draw: st.DrawFn, depth: int = 0) -> tuple[Any, Any]:
    """An annotation, and a value that fits it, at least for a type checker."""
    kind = draw(st.integers(0, 6 if depth < 2 else 0))
    if kind < 2:
        hint = draw(st.sampled_from(list(scalars)))
        return hint, draw(scalars[hint])
    inner: Any
    key: Any
    inner, one = draw(typed(depth + 1))
    values = [one] if draw(st.booleans()) else []
    if kind == 2:
        return types.GenericAlias(list, inner), values
    if kind == 3:
        return types.GenericAlias(tuple, (inner, ...)), tuple(values)
    if kind == 4:
        key = draw(st.sampled_from(keys))
        hint = types.GenericAlias(dict, (key, inner))
        return hint, {draw(scalars[key]): one for one in values}
    if kind == 5:
        return inner | None if inner is not type(None) else inner, one
    try:
        return types.GenericAlias(frozenset, inner), frozenset(values)
    except TypeError:
        return types.GenericAlias(list, inner), values


@given(typed())
def test_typed_value_comes_back_the_same_or_is_refused(case: tuple[Any, Any]) -> None:
    hint, value = case
    # An annotation that nothing can be decoded by is said at the call.
    with contextlib.suppress(DefinitionError):
        check(value, hint)


@given(unions(), st.sampled_from([None, list, dict]))
def test_value_under_a_union_comes_back_the_same_or_is_refused(
    case: tuple[Any, Any], container: Any
) -> None:
    hint, value = case
    if type(value) is int and abs(value) <= 2**53 and not isinstance(1, hint):
        return  # to every type checker it is a float, and it counts as one
    if container is not None:
        arguments = (hint,) if container is list else (str, hint)
        hint = types.GenericAlias(container, arguments)
        value = [value] if container is list else {"key": value}
    with contextlib.suppress(DefinitionError):
        check(value, hint)


anything = st.recursive(
    st.one_of(*scalars.values()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(text | st.integers() | st.booleans(), inner, max_size=3)
        | st.frozensets(text | st.integers(), max_size=3)
    ),
    max_leaves=6,
)


@given(anything)
def test_value_without_annotation_is_plain_data_or_refused(value: Any) -> None:
    check(value, Any)


@given(anything, st.sampled_from([*scalars, list[int], dict[str, Any], list[Any]]))
def test_value_of_another_type_than_annotated_is_never_changed(
    value: Any, hint: Any
) -> None:
    if hint is float and type(value) is int and abs(value) <= 2**53:
        return  # an int is a float to every type checker: it comes back as one
    if _holds_disguised(value) and hint in (list[int], dict[str, Any], list[Any]):
        return  # see test_subclass_within_a_container
    check(value, hint)


def _holds_disguised(value: Any) -> bool:
    if isinstance(value, Level | Word | Pair):
        return True
    if isinstance(value, dict):
        return any(map(_holds_disguised, [*value, *value.values()]))
    if isinstance(value, list | tuple):
        return any(map(_holds_disguised, value))
    return False


# --- the list of traps ----------------------------------------------------------------

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
KEPT: list[tuple[Any, Any]] = [
    ("", str),
    (0, int),
    (False, bool),
    ([], list[int]),
    ({}, dict[str, int]),
    (None, type(None)),
    (None, int | None),
    (None, Any),
    ("", Any),
    (0, Any),
    (False, Any),
    ([], Any),
    ({}, Any),
    (-0.0, float),
    (0.1 + 0.2, float),
    (-0.0, float | int),
    (1.0, float | int),
    (1 << 70, int | float),
    (1 << 70, int | str | None),
    (1, decimal.Decimal | int),
    (decimal.Decimal(1), decimal.Decimal | int),
    (5e-324, float),
    (2**64, int),
    (-(10**30), int),
    (b"", bytes),
    (b"\x00\xff", bytes),
    (b"\x00", Any),
    ((1, "a"), tuple[int, str]),
    ((), tuple[int, ...]),
    ({1: "a"}, dict[int, str]),
    ({1, 2}, set[int]),
    (frozenset({"a"}), frozenset[str]),
    (decimal.Decimal("1.10"), decimal.Decimal),
    (datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), datetime),
    (datetime(2026, 1, 2, 3, 4, 5, 1), datetime),
    (datetime(1, 1, 1), datetime),
    (datetime.max, datetime),
    (timedelta(microseconds=1), timedelta),
    (Colour.RED, Colour),
    (Level.LOW, Level),
    (Word.YES, Word),
    (Point(1, 2.5), Point),
    (Point3(1, 2.5, 3), Point3),
    (Plain([1, [2]]), Plain),
    (Struct("a", {"b": 1}), Struct),
    (Pair(1, "a"), Pair),
    ({"on": True}, Settings),
    (pathlib.PurePosixPath("/a/b"), pathlib.PurePosixPath),
    (1 + 2j, complex),
    ("\x00", str),
    ("🙂", str),
    ({"a": {"b": [1, None, "x", True, 1.5]}}, Any),
]
REFUSED: list[tuple[Any, Any, str]] = [
    (math.nan, float, "is nan"),
    (math.inf, float, "is inf"),
    ([1.0, math.nan], list[float], r"\[1\]"),
    (math.nan, Any, "nan"),
    ((1, 2), Any, "a tuple"),
    ({1: 2}, Any, "a key of type int"),
    ({"a": {True: 1}}, Any, "bool"),
    ({1, 2}, Any, "a set"),
    (decimal.Decimal(1), Any, "a Decimal"),
    (datetime(2026, 1, 1), Any, "a datetime"),
    (Colour.RED, Any, "a Colour"),
    (Level.LOW, Any, "a Level"),
    (Word.YES, Any, "a Word"),
    (Point(1), Any, "a Point"),
    (Pair(1, "a"), Any, "a Pair"),
    ([1, [(2,)]], Any, r"at order\[1\]\[0\] is a tuple; .* come back as a list"),
    ("\ud800", str, "lone surrogate"),
    ("\ud800", Any, "lone surrogate"),
    ({"\udfff": 1}, dict[str, int], "lone surrogate"),
    ([Text("a")], list[str], "Text"),
    ([Number(1)], list[int], "Number"),
    (Point3(1, 2, 3), Point, "Point3"),
    (Text("a"), str, "Text"),
    (Number(1), int, "Number"),
    (True, int, "int"),
    (1, bool, "bool"),
    (1, str, "str"),
    ("1", int, "int"),
    (None, int, "int"),
    ([1], tuple[int, ...], "a list to a tuple"),
    ((1,), list[int], "a tuple to a list"),
    (object(), Any, "object"),
    (object(), object, "object"),
    (print, Any, "builtin_function"),
    (fractions.Fraction(1, 2), Any, "Fraction"),
    (range(3), list[int], "range"),
    (Settings, Any, "TypedDict"),
    (collections.OrderedDict(a=1), dict[str, int], "dict"),
    (collections.Counter("ab"), Any, "Counter"),
    (bytearray(b"x"), bytes, "bytearray"),
    (frozenset({1}), set[int], "frozenset"),
    (1 << 70, float, "from a int to a float"),
    (1 << 70, float | str, "from a int to a float"),
    (-(1 << 70), float | None, "from a int to a float"),
    ({"a": 1 << 70}, dict[str, float], r"at order\[key 1\] would change from a int"),
    ([2**53 + 2], list[float], r"at order\[0\] would change from a int"),
    (Point(1, 1 << 60), Point, r"at order\.y would change from a int"),
    (math.nan, float | str, "is nan"),
    (math.inf, float | None, "would change from inf"),
    (True, int | str, "got `bool`"),
]


@pytest.mark.parametrize(("value", "hint"), KEPT, ids=range(len(KEPT)))
def test_trap_that_is_kept(value: Any, hint: Any) -> None:
    payload, copy = json.encode_with_copy(value, hint, "it")
    assert is_same(copy, value)
    assert is_same(json.decode(payload, hint, "it"), value)
    assert json.encode_again(value, hint, "it") == payload


@pytest.mark.parametrize(("value", "hint", "message"), REFUSED, ids=range(len(REFUSED)))
def test_trap_that_is_refused_without_showing_it(
    value: Any, hint: Any, message: str
) -> None:
    with pytest.raises(PayloadError, match=message) as caught:
        json.encode(value, hint, "argument 'order' of 'charge'")
    assert str(caught.value).startswith("Argument 'order' of 'charge'")


def test_value_of_a_class_that_was_defined_again_is_refused_with_the_reason() -> None:
    """So it is in a notebook whose cell ran twice, and after a reload."""

    def define() -> Any:
        @dataclasses.dataclass
        class Order:
            cents: int

        return Order

    before, now = define(), define()
    with pytest.raises(PayloadError, match="its class was defined again since"):
        json.encode(before(1), now, "argument 'order' of 'charge'")


@pytest.mark.parametrize("value", [0, 3, -7, 2**53, -(2**53)])
@pytest.mark.parametrize("hint", [float, float | None, float | str])
def test_int_that_counts_as_a_float_does_is_one_where_one_is_annotated(
    value: int, hint: Any
) -> None:
    copy = json.encode_with_copy(value, hint, "it")[1]
    assert is_same(copy, float(value))
    assert copy == value


def test_deep_nesting_is_refused_or_kept() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(PayloadError, match="nesting"):
        json.encode(value, list[Any], "it")


@pytest.mark.parametrize("depth", [100, 240, 320, 400, 470, 480, 485, 490, 900, 2_000])
@pytest.mark.parametrize("hint", [Any, list[Any]])
def test_nesting_of_any_depth_is_refused_by_its_type_or_kept(
    depth: int, hint: Any
) -> None:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    try:
        payload = json.encode(value, hint, "it")
    except PayloadError as error:
        assert "nested too deep" in str(error)  # noqa: PT017 - either is right
        return
    other = Payload(json=msgspec.Raw(bytes(payload.json).replace(b"[]", b"[1]")))
    assert not json.same_payloads((payload,), (other,), (hint,), "it")


def test_cycle_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(PayloadError):
        json.encode(value, Any, "it")


def test_fields_decide_whatever_a_class_makes_of_equality() -> None:
    @dataclasses.dataclass
    class Touchy:
        x: int

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("do not compare me")

        __hash__ = None  # type: ignore[assignment]  # as every class with an __eq__

    assert json.encode_with_copy(Touchy(1), Touchy, "it")[1].x == 1


# --- zones ----------------------------------------------------------------------------

MOMENT = datetime(2026, 7, 1, 12, tzinfo=BERLIN)
ZONED: list[tuple[Any, Any]] = [
    ({MOMENT}, set[datetime]),
    (frozenset({MOMENT}), frozenset[datetime]),
    ({MOMENT: 1}, dict[datetime, int]),
    ({Slot(MOMENT)}, set[Slot]),
    ({(1, MOMENT)}, set[tuple[int, datetime]]),
    ([{"a": {MOMENT}}], list[dict[str, set[datetime]]]),
    ({Slot(datetime(2026, 7, 1, tzinfo=UTC), Level.LOW)}, set[Slot]),
]


@pytest.mark.parametrize(("value", "hint"), ZONED, ids=range(len(ZONED)))
def test_zone_in_a_set_or_key_is_kept_or_refused_as_elsewhere(
    value: Any, hint: Any
) -> None:
    check(value, hint)


def test_offsets_in_sets_keys_and_models_are_kept() -> None:
    moment = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    for value, hint in (
        ({moment}, set[datetime]),
        ({moment: 1}, dict[datetime, int]),
        ({Slot(moment)}, set[Slot]),
    ):
        assert json.encode_with_copy(value, hint, "it")[1] == value


# --- what a subclass hides ------------------------------------------------------------

DISGUISED: list[tuple[Any, Any]] = [
    ([Word.YES], list[str]),
    ([Level.LOW], list[int]),
    ([Word.YES], list[Any]),
    ({"a": Word.YES}, dict[str, str]),
    ({Word.YES: 1}, dict[str, int]),
    ([Pair(1, "a")], list[tuple[int, str]]),
    ([frozenset({1})], list[set[int]]),
    ([collections.OrderedDict(a=1)], list[dict[str, int]]),
    (Point(Level.LOW), Point),
    (Struct(Word.YES), Struct),
]


@pytest.mark.parametrize(("value", "hint"), DISGUISED, ids=range(len(DISGUISED)))
def test_subclass_within_a_container(value: Any, hint: Any) -> None:
    """Equal to what comes back, but of another type: `==` alone does not see it."""
    check(value, hint)


def test_fold_of_a_datetime_is_kept_or_refused() -> None:
    value = datetime(2026, 10, 25, 2, 30, fold=1)
    try:
        _, copy = json.encode_with_copy(value, datetime, "it")
    except PayloadError:
        return
    assert copy.fold == 1


def test_zone_of_a_datetime_is_kept_or_refused() -> None:
    value = datetime(2026, 7, 1, 12, tzinfo=BERLIN)
    try:
        _, copy = json.encode_with_copy(value, datetime, "it")
    except PayloadError:
        return
    assert copy + timedelta(days=180) == value + timedelta(days=180)
