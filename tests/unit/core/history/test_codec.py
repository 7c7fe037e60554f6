"""Events to rows and back: every type, every field, and rows written by hand."""

import typing
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.core.history import flags
from durable.core.history.codec import decode_rows, encode_attributes, encode_event
from durable.core.history.commands import Command
from durable.core.history.events import (
    EVENT_OF,
    EVENT_TYPES,
    RESERVED_EVENT_TYPES,
    Attributes,
    HistoryEvent,
    event_of,
)
from durable.core.history.payload import Failure, Payload
from durable.errors import CorruptHistoryError
from tests.sizes import examples

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | text,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)
    ),
    max_leaves=5,
)
payloads = st.one_of(
    json_values.map(
        lambda value: Payload(json=msgspec.Raw(msgspec.json.encode(value)))
    ),
    st.builds(
        Payload,
        encoding=st.just("binary/plain"),
        data=st.binary(max_size=20),
        metadata=st.dictionaries(text, text, max_size=2),
    ),
)


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field, by its annotation."""
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: text,
        int: st.integers(-(2**63), 2**63 - 1),
        bool: st.booleans(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        Payload: payloads,
        type(None): st.none(),
        msgspec.UnsetType: st.just(msgspec.UNSET),
    }
    if hint in simple:
        return simple[hint]
    if hint is Failure:
        return failures
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return st.lists(values_of(args[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(text, values_of(args[1]), max_size=2)
    if args:
        return st.one_of(*map(values_of, args))
    return structs(hint)


def structs(cls: type[Any], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    fields = {
        name: given[name] if name in given else values_of(hints[name])
        for name in cls.__struct_fields__
    }
    return st.builds(cls, **fields)


leaf_failures = structs(Failure, cause=st.none(), added=st.none(), group=st.just(()))
failures: st.SearchStrategy[Failure] = st.recursive(
    leaf_failures,
    lambda inner: structs(
        Failure,
        cause=st.none() | inner,
        added=st.none() | inner,
        group=st.lists(inner, max_size=2).map(tuple),
    ),
    max_leaves=3,
)


@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=lambda kind: kind.__name__)
def test_every_event_comes_back_equal(kind: type[Any]) -> None:
    @settings(max_examples=examples(100))
    @given(
        structs(kind), st.integers(1, 2**53), st.integers(0, 9), st.integers(0, 2**53)
    )
    def check(attributes: Any, event_id: int, number: int, time: int) -> None:
        event = HistoryEvent(event_id, number, time, attributes, flags.CURRENT)
        row = encode_event("run", event)
        assert row[:5] == ("run", event_id, number, kind.__name__, time)
        assert row[6] == flags.CURRENT
        assert row[5] == encode_attributes(attributes)
        (decoded,) = decode_rows([row])
        assert encode_event("run", decoded) == row
        assert type(decoded.attributes) is kind
        assert decoded == event

    check()


def test_every_command_becomes_an_event_with_its_fields() -> None:
    assert set(EVENT_OF) == set(typing.get_args(Command))
    for command, event in EVENT_OF.items():
        assert command.__struct_fields__ == event.__struct_fields__
        assert typing.get_type_hints(command) == typing.get_type_hints(event)
        assert event.is_input is False


@pytest.mark.parametrize("command", EVENT_OF, ids=lambda command: command.__name__)
def test_event_of_a_command_holds_what_the_command_says(command: type[Any]) -> None:
    @settings(max_examples=examples(100))
    @given(structs(command))
    def check(item: Any) -> None:
        event = event_of(item)
        for field in command.__struct_fields__:
            assert getattr(event, field) == getattr(item, field)

    check()


def test_every_event_has_a_name_of_its_own_and_says_if_it_is_an_input() -> None:
    assert set(EVENT_TYPES.values()) == set(typing.get_args(Attributes))
    assert not RESERVED_EVENT_TYPES & set(EVENT_TYPES)
    commands = {event for event in EVENT_TYPES.values() if not event.is_input}
    assert commands == set(EVENT_OF.values())


ROW = ("run", 1, 1, "TimerFired", 5, '{"timer_id":"1","started_event_id":2}', 1)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (3, "SomethingElse", "has the type 'SomethingElse'"),
        (3, "WorkflowTaskCompleted", "does not know"),
        (5, "", "cannot be read"),
        (5, "not json", "cannot be read"),
        (5, "[]", "cannot be read"),
        (5, "{}", "cannot be read"),
        (5, '{"timer_id":1,"started_event_id":2}', "cannot be read"),
        (5, '{"timer_id":"1","started_event_id":"2"}', "cannot be read"),
        (5, b"\xff", "cannot be read"),
        (5, '{"timer_id":"\ud800","started_event_id":2}', "cannot be read"),
        (5, None, "cannot be read"),
        (6, 1 << 40, "library behaviour"),
    ],
)
def test_row_that_does_not_fit_is_refused_with_its_place(
    column: int, value: Any, message: str
) -> None:
    row: Any = list(ROW)
    row[column] = value
    with pytest.raises(CorruptHistoryError, match=message) as caught:
        decode_rows([row])
    assert "1" in str(caught.value)
    assert "run" in str(caught.value)


def test_fields_of_a_later_release_are_no_harm() -> None:
    row = (*ROW[:5], '{"timer_id":"1","started_event_id":2,"later":[1]}', 1)
    (event,) = decode_rows([row])
    assert event == decode_rows([ROW])[0]
