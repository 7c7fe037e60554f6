"""Unions of any types: tagged where JSON cannot tell the members apart, only there."""

import dataclasses
import enum
import ipaddress
import operator
import pathlib
import sys
import types
import zoneinfo
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import reduce
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    TypeVar,
    cast,
)
from uuid import UUID

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypedDict

from durable.converter import json
from durable.core.history.payload import Payload
from durable.errors import DefinitionError, PayloadError, UndecodableError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Paid:
    receipt: str


@dataclasses.dataclass(frozen=True, slots=True)
class Declined:
    receipt: str = ""


@attrs.frozen
class Held:
    _until: date
    tags: tuple[str, ...] = ()


class Refunded(msgspec.Struct, frozen=True, rename="camel", tag="refund"):
    paid_back: Decimal
    more: list["Paid | Declined"] = []


class Place(NamedTuple):
    x: int
    where: "Paid | Declined | None" = None


class Address(TypedDict):
    street: str
    rest: "NotRequired[Paid | Declined]"


class Size(TypedDict, total=False):
    width: int


@dataclasses.dataclass(frozen=True)
class Box(Generic[T]):
    held: T
    also: "Paid | Declined | T | None" = None


@dataclasses.dataclass
class Node:
    value: "int | Paid | Declined"
    inner: "list[Node]" = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Link:
    value: Paid | Declined
    next: "Link | None" = None


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Odd(enum.Enum):
    PAIR = (1, 2)
    TEXT = "text"


class Mode(enum.Flag):
    A = 1
    B = 2


MOMENT = datetime(2026, 10, 25, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"))
OFFSET = MOMENT.replace(tzinfo=timezone(timedelta(hours=2)))
ID = UUID(int=7)


def written(value: Any, hint: Any) -> Any:
    """What is recorded; it comes back the same, and is written so again."""
    payload, copy = json.encode_with_copy(value, hint, "argument 'order' of 'charge'")
    again = json.decode(payload, hint, "it")
    assert (repr(copy), repr(again)) == (repr(value), repr(value))
    assert json.same_payloads(
        (payload,), (json.encode_again(value, hint, "it"),), (hint,), "it"
    )
    return msgspec.json.decode(payload.json)


def tagged(tag: str, value: Any) -> Any:
    return {"$type": tag, "$value": value}


PAID = {"receipt": "r"}
WRITTEN: list[tuple[Any, Any, Any]] = [
    (Paid("r"), Paid | Declined, tagged("Paid", PAID)),
    (Declined("r"), Paid | Declined | None, tagged("Declined", PAID)),
    (None, Paid | Declined | None, None),
    (5, Paid | Declined | int | str, 5),
    ("5", Paid | Declined | int | str, "5"),
    (Paid("r"), Paid | None | int, PAID),  # JSON tells it apart: no tag
    (Paid("r"), Paid | Address, tagged("Paid", PAID)),
    ({"street": "s"}, Paid | Address, tagged("Address", {"street": "s"})),
    ({"width": 1}, Address | Size, tagged("Size", {"width": 1})),
    ("2026-01-01", str | date, tagged("str", "2026-01-01")),
    (date(2026, 1, 1), str | date, tagged("date", "2026-01-01")),
    (
        MOMENT,
        str | datetime | UUID,
        tagged("datetime", "2026-10-25T02:30:00+02:00[Europe/Berlin]"),
    ),
    (ID, str | datetime | UUID | Decimal, tagged("UUID", str(ID))),
    (Decimal("1.10"), str | UUID | Decimal, tagged("Decimal", "1.10")),
    (b"a", str | bytes, tagged("bytes", "YQ==")),
    ([Paid("r")], list[Paid] | list[Declined], tagged("list[Paid]", [PAID])),
    ([Declined("r")], list[Paid] | list[Declined], tagged("list[Declined]", [PAID])),
    ([Declined("r")], list[Paid | Declined], [tagged("Declined", PAID)]),
    ({1}, set[int] | list[int], tagged("set[int]", [1])),
    ((1, 2), list[int] | tuple[int, ...], tagged("tuple[int, ...]", [1, 2])),
    (Colour.RED, Colour | str, tagged("Colour", "red")),
    ("red", Colour | str, tagged("str", "red")),
    (Level.LOW, Level | int, tagged("Level", 1)),
    (True, int | bool | Paid | Declined, True),
    (1.5, int | float | Paid | Declined, 1.5),
    (1, int | float | Paid | Declined, 1),
    (Mode.A | Mode.B, Mode | int, tagged("Mode", 3)),
    (Odd.PAIR, Odd, "PAIR"),
    (Odd.PAIR, Odd | str, tagged("Odd", "PAIR")),
    (
        pathlib.PurePosixPath("a"),
        pathlib.PurePosixPath | str,
        tagged("PurePosixPath", "a"),
    ),
    (
        ipaddress.ip_address("::1"),
        ipaddress.IPv4Address | ipaddress.IPv6Address,
        tagged("IPv6Address", "::1"),
    ),
    (
        Held(date(2026, 1, 1)),
        Held | Paid,
        tagged("Held", {"_until": "2026-01-01", "tags": []}),
    ),
    (
        Refunded(Decimal(1), [Declined("r")]),
        Refunded | Paid,
        tagged(
            "Refunded",
            {"type": "refund", "paidBack": "1", "more": [tagged("Declined", PAID)]},
        ),
    ),
    (Place(1, Paid("r")), Place, [1, tagged("Paid", PAID)]),
    (
        {"street": "s", "rest": Paid("r")},
        Address,
        {"street": "s", "rest": tagged("Paid", PAID)},
    ),
    (Box(1), Box[int], {"held": 1, "also": None}),
    (Box("s", Paid("r")), Box[str], {"held": "s", "also": tagged("Paid", PAID)}),
    (Box(1), Box[str] | Box[int], tagged("Box[int]", {"held": 1, "also": None})),
    (
        Node(1, [Node(Paid("r"))]),
        Node,
        {"value": 1, "inner": [{"value": tagged("Paid", PAID), "inner": []}]},
    ),
    (
        Link(Paid("r"), Link(Declined("r"))),
        Link,
        {
            "value": tagged("Paid", PAID),
            "next": {"value": tagged("Declined", PAID), "next": None},
        },
    ),
    (
        Link(Paid("r"), Link(Paid("r"))),
        Link | None,
        {
            "value": tagged("Paid", PAID),
            "next": {"value": tagged("Paid", PAID), "next": None},
        },
    ),
    ({"a": Paid("r")}, dict[str, Paid | Declined], {"a": tagged("Paid", PAID)}),
    ({1: "x", "1": "y"}, dict[int | str, str], [[1, "x"], ["1", "y"]]),
    ({"a": "x"}, dict[int | str, str], {"a": "x"}),
    ({(1, 2): "x"}, dict[tuple[int, int], str], [[[1, 2], "x"]]),
    ({Paid("r"): 1}, dict[Paid | Declined, int], [[tagged("Paid", PAID), 1]]),
    ({ID: 1}, dict[UUID | str, int], [[tagged("UUID", str(ID)), 1]]),
    ({MOMENT: 1}, dict[datetime, int], {"2026-10-25T02:30:00+02:00[Europe/Berlin]": 1}),
    ("a", Literal["a", "b"] | Paid | Declined, "a"),
    ("c", Literal["a"] | str, "c"),  # noqa: PYI051 - people write it
    ("c", Literal["a"] | str | UUID, tagged("str", "c")),  # noqa: PYI051 - likewise
    (None, "Paid | Declined | None", None),
]


@pytest.mark.parametrize(
    ("value", "hint", "expected"), WRITTEN, ids=range(len(WRITTEN))
)
def test_tag_is_written_where_json_cannot_tell_and_only_there(
    value: Any, hint: Any, expected: Any
) -> None:
    hint = Paid | Declined | None if isinstance(hint, str) else hint
    assert written(value, hint) == expected


def test_alias_by_type_is_its_meaning() -> None:
    aliases = __import__("typing_extensions")
    outcome = aliases.TypeAliasType("outcome", "Paid | Declined")
    del outcome
    outcome = aliases.TypeAliasType("outcome", Paid | Declined)
    assert written([Paid("r")], types.GenericAlias(list, outcome)) == [
        tagged("Paid", PAID)
    ]


def test_order_of_the_members_makes_no_difference_to_what_is_recorded() -> None:
    for value in (Paid("r"), Declined("r")):
        payload = json.encode(value, Paid | Declined, "it")
        assert json.decode(payload, Declined | Paid, "it") == value
        assert json.decode(payload, Held | Declined | None | Paid, "it") == value


# --- what was recorded before ---------------------------------------------------------


def recorded(text: str) -> Payload:
    return Payload(json=msgspec.Raw(text.encode()))


BEFORE: list[tuple[str, Any, Any]] = [
    ('{"receipt":"r"}', Paid | Held, Paid("r")),
    ('{"receipt":"r"}', Paid | Size | None, Paid("r")),
    ('{"receipt":"r"}', Refunded | Declined, Declined("r")),
    ("{}", Paid | Declined, Declined()),
    ('{"street":"s"}', Paid | Address, {"street": "s"}),
    ('{"street":"s"}', Declined | Address, {"street": "s"}),  # the one that is whole
    ("[]", list[int] | list[str], []),
    ('"today"', date | str, "today"),
    ("[1]", list[int] | list[str], [1]),
    ('{"a":1}', dict[UUID | str, int], {"a": 1}),
    ('"2026-10-25T02:30:00+02:00"', datetime, OFFSET),
    ('{"2026-10-25T02:30:00+02:00":1}', dict[datetime, int], {OFFSET: 1}),
]


@pytest.mark.parametrize(("text", "hint", "value"), BEFORE, ids=range(len(BEFORE)))
def test_value_recorded_without_a_tag_still_decodes(
    text: str, hint: Any, value: Any
) -> None:
    found = json.decode(recorded(text), hint, "it")
    assert (found, type(found)) == (value, type(value))


AMBIGUOUS: list[tuple[str, Any]] = [
    ('{"receipt":"r"}', Paid | Declined),
    ('"2026-01-01"', str | date),
    ("[1]", set[int] | list[int]),
]


@pytest.mark.parametrize(("text", "hint"), AMBIGUOUS)
def test_value_without_a_tag_that_may_be_two_things_is_refused(
    text: str, hint: Any
) -> None:
    # Python takes `A | B` and `B | A` for equal: their order can decide nothing.
    with pytest.raises(UndecodableError, match="without saying which") as caught:
        json.decode(recorded(text), hint, "it")
    assert "Keep the annotation" in str(caught.value)


def test_member_that_is_gone_is_named_and_no_value_is() -> None:
    with pytest.raises(UndecodableError, match="recorded as Paid, which is none") as no:
        json.decode(recorded('{"$type":"Paid","$value":{}}'), Held | Declined, "it")
    assert "Keep a class of that name" in str(no.value)
    with pytest.raises(UndecodableError, match="something else") as odd:
        json.decode(recorded('{"$type":"<4711>","$value":{}}'), Held | Declined, "it")
    assert "4711" not in str(odd.value)


def make_class(module: str) -> Any:
    made: Any = dataclasses.make_dataclass("Paid", [("receipt", str)])
    made.__module__ = module
    return made


def test_classes_of_one_name_are_told_apart_by_their_modules() -> None:
    left, right = make_class("left"), make_class("right")
    hint: Any = left | right
    payload = json.encode(right("r"), hint, "it")
    assert b'"right:Paid"' in bytes(payload.json)
    assert type(json.decode(payload, hint, "it")) is right
    # A name that was enough alone still is, for the class that it was.
    alone = json.encode(right("r"), right | int | Declined, "it")
    assert b'"Paid"' in bytes(alone.json)
    assert type(json.decode(alone, right | Declined | None, "it")) is right


# --- what cannot be told apart --------------------------------------------------------


def test_members_that_nothing_tells_apart_are_refused_by_their_annotation() -> None:
    left, right = make_class("same"), make_class("same")
    with pytest.raises(DefinitionError, match="both called same:Paid") as caught:
        json.check_annotation(left | right)
    assert "another name" in str(caught.value)
    user, order = NewType("user", str), NewType("order", str)
    with pytest.raises(DefinitionError, match="user and order, members of one union"):
        json.check_annotation(types.GenericAlias(list, user | order))
    json.check_annotation(user | str | None)
    assert written("u", user | Paid | Declined) == "u"


def test_constraints_of_a_union_are_those_of_its_members() -> None:
    @dataclasses.dataclass
    class Named:
        name: Annotated[str | bytes, msgspec.Meta(min_length=2)]

    assert written(Named("ab"), Named) == {"name": tagged("str", "ab")}
    with pytest.raises(PayloadError, match=r"at order\.name does not fit"):
        json.encode(Named("a"), Named, "argument 'order' of 'charge'")


# --- places ---------------------------------------------------------------------------


@dataclasses.dataclass
class Item:
    price: Any
    pay: Paid | Declined | None = None


@dataclasses.dataclass
class Order:
    items: list[Item]
    zone: datetime | Paid | Declined | None = None


def order_with(**fields: Any) -> Order:
    return Order([Item(1), Item(2), dataclasses.replace(Item(3), **fields)])


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"price": float("nan")},
        "items[2].price would change from nan to None",
        "where there is no number",
    ),
    ({"price": (1, 2)}, "items[2].price would change from a tuple to a list", "exact"),
    (
        {"price": [{4711}]},
        "items[2].price[0] would change from a set to a list",
        "exact",
    ),
    (
        {"price": sys.stdout.write},
        "items[2].price cannot be recorded: a builtin",
        "Pass a name",
    ),
    (
        {"price": [print]},
        "items[2].price[0] cannot be recorded: a builtin",
        "Pass a name",
    ),
    ({"pay": "4711"}, "items[2].pay does not fit its annotation: a str is none of", ""),
    ({"pay": Paid(4711)}, "items[2].pay.receipt does not fit", "exact type"),  # type: ignore[arg-type]  # wrong on purpose
]


@pytest.mark.parametrize(("fields", "told", "advice"), REFUSED, ids=range(len(REFUSED)))
def test_refusal_names_the_path_what_it_is_and_what_to_do(
    fields: dict[str, Any], told: str, advice: str
) -> None:
    with pytest.raises(PayloadError) as caught:
        json.encode(order_with(**fields), Order, "argument 'order' of 'charge'")
    assert f"Argument 'order' of 'charge' at order.{told}" in str(caught.value)
    assert advice in str(caught.value)
    assert "4711" not in str(caught.value)


def test_path_is_named_on_decode_too() -> None:
    text = '{"items":[{"price":1,"pay":{"$type":"Paid","$value":{"receipt":4711}}}]}'
    with pytest.raises(UndecodableError) as caught:
        json.decode(recorded(text), Order, "argument 'order' of 'charge'")
    assert str(caught.value).startswith(
        "Argument 'order' of 'charge' was recorded, but at order.items[0].pay.receipt"
        " does not fit Order now: Expected `str`, got `int`."
    )


# --- any union of any types -----------------------------------------------------------

moments = st.datetimes(
    timezones=st.sampled_from(
        [None, UTC, zoneinfo.ZoneInfo("Europe/Berlin"), zoneinfo.ZoneInfo("Asia/Tokyo")]
    )
)
texts = st.text(max_size=4)
paid = st.builds(Paid, texts) | st.builds(Declined, texts)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    str: texts | st.dates().map(str) | st.uuids().map(str),
    int: st.integers(-(2**60), 2**60),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bool: st.booleans(),
    type(None): st.none(),
    bytes: st.binary(max_size=4),
    datetime: moments,
    date: st.dates(),
    time: st.times(),
    timedelta: st.timedeltas(),
    Decimal: st.decimals(allow_nan=False, allow_infinity=False),
    UUID: st.uuids(),
    Colour: st.sampled_from(Colour),
    Level: st.sampled_from(Level),
    Odd: st.sampled_from(Odd),
    Mode: st.sampled_from([Mode.A, Mode.B, Mode.A | Mode.B]),
    Paid: st.builds(Paid, texts),
    Declined: st.builds(Declined, texts),
    Held: st.builds(Held, st.dates(), st.lists(texts, max_size=2).map(tuple)),
    Refunded: st.builds(Refunded, st.just(Decimal(1)), st.lists(paid, max_size=2)),
    Place: st.builds(Place, st.integers(0, 9), st.none() | paid),
    Address: st.fixed_dictionaries({"street": texts}, optional={"rest": paid}),
    Size: st.fixed_dictionaries({}, optional={"width": st.integers(0, 9)}),
    complex: st.complex_numbers(allow_nan=False, allow_infinity=False),
    pathlib.PurePosixPath: texts.map(pathlib.PurePosixPath),
    ipaddress.IPv4Address: st.ip_addresses(v=4),
    (Literal["a", 1] | None): st.sampled_from(["a", 1, None]),
}
HASHABLE = [hint for hint in VALUES if hint not in (Refunded, Address, Size)]
CONTAINERS: list[Callable[[Any], Any]] = [
    lambda inner: types.GenericAlias(list, inner),
    lambda inner: types.GenericAlias(tuple, (inner, ...)),
    lambda inner: types.GenericAlias(tuple, (inner, int)),
    lambda inner: types.GenericAlias(dict, (str, inner)),
]


@st.composite
def unions(draw: st.DrawFn, depth: int = 0) -> tuple[Any, Any]:
    """A union of random types, at any depth, and a value of one of its members."""
    cases = [draw(members(depth)) for _ in range(draw(st.integers(1, 4)))]
    hint = reduce(operator.or_, [hint for hint, _ in cases])
    return hint, draw(st.sampled_from([value for _, value in cases]))


@st.composite
def members(draw: st.DrawFn, depth: int) -> tuple[Any, Any]:
    kind = draw(st.integers(0, 9)) if depth < 3 else 0
    if kind < 5:
        hint = draw(st.sampled_from(list(VALUES)))
        return hint, draw(VALUES[hint])
    if kind == 5:
        hint = draw(st.sampled_from(HASHABLE))
        return types.GenericAlias(frozenset, hint), frozenset([draw(VALUES[hint])])
    if kind == 6:
        hint, (inner, value) = draw(st.sampled_from(HASHABLE)), draw(unions(depth + 1))
        return types.GenericAlias(dict, (hint, inner)), {draw(VALUES[hint]): value}
    inner, value = draw(unions(depth + 1))
    if kind == 7:
        return cast("Any", Box)[inner], Box(value, draw(st.none() | paid))
    index = draw(st.integers(0, 3))
    held: list[Any] = [[value], (value,), (value, 1), {"key": value}]
    return CONTAINERS[index](inner), held[index]


def is_same(left: Any, right: Any) -> bool:
    """Equal, and of one type, all the way down; written apart from the library."""
    if type(left) is not type(right):
        return False
    if isinstance(left, datetime):
        return (left, repr(left)) == (right, repr(right))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, dict):
        return is_same(list(left), list(right)) and is_same(
            list(left.values()), list(right.values())
        )
    if isinstance(left, frozenset):
        return is_same(sorted(left, key=repr), sorted(right, key=repr))
    if dataclasses.is_dataclass(left) or hasattr(left, "__struct_fields__"):
        names = getattr(left, "__slots__", None) or vars(left)
        return all(is_same(getattr(left, n), getattr(right, n)) for n in names)
    return bool(left == right)


@given(unions())
def test_value_of_any_union_comes_back_the_same_or_is_refused(
    case: tuple[Any, Any],
) -> None:
    hint, value = case
    try:
        payload, copy = json.encode_with_copy(value, hint, "it")
    except PayloadError:
        return
    if not (type(value) is int and type(copy) is float):
        assert is_same(value, copy)
    again = json.decode(payload, hint, "it")
    assert is_same(copy, again)
    assert json.same_payloads(
        (payload,), (json.encode_again(value, hint, "it"),), (hint,), "it"
    )


# --- aliases --------------------------------------------------------------------------

ALIASES = """
type Json = dict[str, Json] | list[Json] | str | int | None
type Tree = Paid | Declined | list[Tree]
type Outcome[T] = Paid | Declined | T
"""


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement came with 3.12")
def test_aliases_may_hold_themselves_and_take_parameters() -> None:
    names: dict[str, Any] = {"Paid": Paid, "Declined": Declined, "__name__": __name__}
    exec(ALIASES, names)  # noqa: S102 - 3.11 would not read it
    held: Any = {"a": [1, None, "x", {"b": []}]}
    assert written(held, names["Json"]) == held
    json.check_annotation(types.GenericAlias(list, names["Json"]))
    assert written([Paid("r"), [Declined("r")]], names["Tree"]) == [
        tagged("Paid", PAID),
        [tagged("Declined", PAID)],
    ]
    assert written([1, Paid("r")], types.GenericAlias(list, names["Outcome"][int])) == [
        1,
        tagged("Paid", PAID),
    ]
