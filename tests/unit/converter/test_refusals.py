"""What is said of a value that is refused: types and places, and never the value."""

import dataclasses
import decimal
import traceback
import types
import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.converter import json
from durable.converter.failures import failure_of
from durable.core.history.payload import Payload
from durable.errors import PayloadError, UndecodableError
from tests.unit.converter.test_json import (
    Colour,
    Point,
    Settings,
    Text,
    keys,
    scalars,
)


class Cat(msgspec.Struct, tag="cat"):
    name: str


class Dog(msgspec.Struct, tag="dog"):
    name: str


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    x: int


class Telling(msgspec.Struct):
    """Its own code says what it refuses."""

    name: Any

    def __post_init__(self) -> None:
        raise ValueError(f"{self.name!r} is no name")


@dataclasses.dataclass
class TellingClass:
    name: Any

    def __post_init__(self) -> None:
        raise KeyError(f"{self.name!r} is no name")


SECRET = "SENTINEL-4711"
ALL_HINTS: list[Any] = [
    *scalars,
    *(types.GenericAlias(list, hint) for hint in scalars),
    *(types.GenericAlias(dict, (hint, hint)) for hint in keys),
    typing.Literal["a", "b"],
    typing.Literal[1],
    Cat | Dog,
    Closed,
    Telling,
    TellingClass,
    Settings,
    frozenset[Colour],
    tuple[int, str],
    typing.Annotated[str, msgspec.Meta(max_length=2)],
    typing.Annotated[str, msgspec.Meta(pattern="^a")],
    typing.Annotated[int, msgspec.Meta(ge=9_999)],
    Any,
]
hidden = st.recursive(
    st.sampled_from(
        [SECRET, f"'{SECRET}'", f"x - at `$.{SECRET}", f"`{SECRET}`, got `"]
    )
    | st.just(None)
    | st.just(1),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from([SECRET, "name", "type", "x", "more", "start"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=4,
)


@settings(max_examples=300)
@given(hidden, st.sampled_from(ALL_HINTS))
def test_no_value_of_any_type_is_in_a_message(value: Any, hint: Any) -> None:
    payload = Payload(json=msgspec.Raw(msgspec.json.encode(value)))
    for attempt in (
        lambda: json.decode(payload, hint, "it"),
        lambda: json.encode(value, hint, "it"),
    ):
        try:
            attempt()
        except (UndecodableError, PayloadError) as error:
            told = "".join(traceback.format_exception(error)) + repr(error)
            assert SECRET not in told
            failure = failure_of(error)
            assert SECRET not in msgspec.json.encode(failure).decode()
    assert SECRET not in repr(payload)


odd_values: list[tuple[Any, Any]] = [
    ({"key": (SECRET,)}, Any),
    (Text(SECRET), str),
    ({SECRET: object()}, Any),
    ([Text(SECRET)], list[str]),
    (Cat(SECRET), Dog),
    (decimal.Decimal("NaN4711"), decimal.Decimal),
]


@pytest.mark.parametrize(("value", "hint"), odd_values, ids=range(len(odd_values)))
def test_secret_values_are_in_no_message(value: Any, hint: Any) -> None:
    with pytest.raises(PayloadError) as caught:
        json.encode(value, hint, "it")
    told = "".join(traceback.format_exception(caught.value))
    assert "4711" not in told.replace("SECRET", "")


def test_refusal_says_what_was_expected_and_where() -> None:
    def refusal(text: str, hint: Any) -> str:
        with pytest.raises(UndecodableError) as caught:
            json.decode(Payload(json=msgspec.Raw(text.encode())), hint, "it")
        return caught.value.message.removeprefix("It was recorded, but")

    def fits_not(place: str, hint: str, why: str) -> str:
        return f"{place} does not fit {hint} now: {why}."

    wrong = "Expected `int`, got `str`"
    assert refusal('{"x":"a"}', Point) == fits_not(" at x", "Point", wrong)
    missing = "Object missing required field `x`"
    assert refusal("{}", Point) == fits_not("", "Point", missing)
    assert refusal('["a"]', list[int]) == fits_not(" at [0]", "list[int]", wrong)
    assert " at [a key] does not fit" in refusal('{"a":1}', dict[int, int])
    assert refusal('"blue"', Colour).endswith(" now: Invalid enum value.")
    assert refusal('{"type":"cow"}', Cat | Dog).startswith(" at type does not fit")
    assert refusal("[1", list[int]).endswith(" now: Input data was truncated.")
    malformed = "JSON is malformed: trailing characters (byte 3)"
    assert refusal("1 2", int) == fits_not("", "int", malformed)
    short = typing.Annotated[str, msgspec.Meta(max_length=2)]
    assert refusal('"abc"', short).endswith(" now: Expected `str` of length <= 2.")


def test_secret_keys_are_in_no_message() -> None:
    secret = "SENTINEL-4711"
    with pytest.raises(PayloadError) as caught:
        json.encode({secret: {1: 2}}, dict[str, Any], "it")
    assert secret not in str(caught.value)
