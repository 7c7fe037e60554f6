"""Reading what is recorded: limits, broken rows, annotations; comparing on replay."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from durable import limits
from durable.converter import json
from durable.core.history.payload import BINARY_PLAIN, NULL, Payload
from durable.errors import (
    DefinitionError,
    PayloadTooLargeError,
    UndecodableError,
)
from tests.unit.converter.test_json import Dividing, Point

# --- sizes ----------------------------------------------------------------------------


def test_value_over_the_limit_is_refused_with_its_size() -> None:
    limit = limits.PAYLOAD_BYTES_MAX
    json.encode("x" * (limit - 2), str, "it")
    with pytest.raises(PayloadTooLargeError, match=f"{limit + 1:,} bytes"):
        json.encode("x" * (limit - 1), str, "it")
    json.encode(b"x" * limit, bytes, "it")
    with pytest.raises(PayloadTooLargeError):
        json.encode(b"x" * (limit + 1), bytes, "it")


# --- reading --------------------------------------------------------------------------


def test_encoding_that_is_not_allowed_is_refused_whatever_the_row_says() -> None:
    pickled = Payload(encoding="binary/pickle", data=b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UndecodableError, match="'binary/pickle'"):
        json.decode(pickled, Any, "it")
    with pytest.raises(UndecodableError, match="binary/plain"):
        json.decode(Payload(encoding=BINARY_PLAIN, data=b"x"), str, "it")


@pytest.mark.parametrize("data", [b"", b"{", b'"x"', b"[1", b"\xff", b"1 2"])
def test_broken_row_is_a_typed_error(data: bytes) -> None:
    with pytest.raises(UndecodableError, match="it"):
        json.decode(Payload(json=msgspec.Raw(data)), int, "it")


def test_field_with_a_default_may_be_added_and_unknown_ones_are_ignored() -> None:
    payload = Payload(json=msgspec.Raw(b'{"x":1,"gone":true}'))
    assert json.decode(payload, Point, "it") == Point(1, 0.0)
    with pytest.raises(UndecodableError, match="does not fit Point now"):
        json.decode(NULL, Point, "it")


def test_whatever_a_value_provokes_it_is_undecodable() -> None:
    # Signals come from anywhere, and a park for each bad one would be a weapon.
    deep = Payload(json=msgspec.Raw(b"[" * 100_000 + b"]" * 100_000))
    with pytest.raises(UndecodableError, match="RecursionError"):
        json.decode(deep, Any, "it")
    with pytest.raises(UndecodableError, match="ZeroDivisionError"):
        json.decode(Payload(json=msgspec.Raw(b'{"x":0}')), Dividing, "it")
    payload = Payload(json=msgspec.Raw(b'{"x":4}'))
    assert json.decode(payload, Dividing, "it").x == 25


def test_names_in_payloads_are_never_resolved() -> None:
    payload = Payload(json=msgspec.Raw(b'{"__class__":"os.system","x":1}'))
    assert json.decode(payload, Point, "it") == Point(1)
    value = json.decode(payload, Any, "it")
    assert type(value) is dict


def test_annotation_of_what_is_no_data_is_a_definition_error() -> None:
    with pytest.raises(DefinitionError, match=r"Lock, a member of .* no data"):
        json.encode(Point(1), Point | asyncio.Lock, "it")


def test_unhashable_annotation_works() -> None:
    hint = dict[str, list[int]]
    assert json.decode(json.encode({"a": [1]}, hint, "it"), hint, "it") == {"a": [1]}


def test_mapping_annotation_is_read_as_a_dict() -> None:
    payload = json.encode({"a": 1}, Mapping[str, int], "it")
    assert json.decode(payload, Mapping[str, int], "it") == {"a": 1}


# --- comparing on replay --------------------------------------------------------------


def test_same_payloads_decides_by_value() -> None:
    def raw(text: str) -> tuple[Payload, ...]:
        return (Payload(json=msgspec.Raw(text.encode())),)

    same = json.same_payloads
    assert same(raw("[1,2]"), raw("[1,2]"), (list[int],), "it")
    assert same(raw("[1,2]"), raw("[2,1]"), (set[int],), "it")
    assert not same(raw("[1,2]"), raw("[2,1]"), (list[int],), "it")
    assert same(raw('{"x":1}'), raw('{"x":1,"y":0.0}'), (Point,), "it")
    assert not same(raw('{"x":1}'), raw('{"x":1,"y":0.5}'), (Point,), "it")
    assert not same(raw("1"), (), (int,), "it")
    assert not same(raw("1"), raw('"x"'), (int,), "it")
    assert not same(raw("1"), raw("true"), (), "it")
