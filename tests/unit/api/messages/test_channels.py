"""`Signal`: a typed channel, checked where it is called and where it is received."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from durable import Engine, Signal, run, workflow
from durable.api.definitions import WORKFLOWS
from durable.api.messages.messages import (
    QueryCall,
    SignalCall,
    UpdateCall,
    query_call,
    signal_call,
    update_call,
)
from durable.converter import json
from durable.core.history.payload import NULL
from durable.errors import (
    DefinitionError,
    InvalidCallError,
    InvalidIdError,
    NotInWorkflowError,
    PayloadError,
    UndecodableError,
)
from tests.unit.api.one_run import OneRun


@dataclasses.dataclass
class Item:
    name: str
    count: int = 1


@dataclasses.dataclass
class Other:
    name: str


approved = Signal("approved", bool)
items = Signal("items", Item)
numbers = Signal("numbers", list[int])
either: Signal[int | str | None] = Signal("either", int | str | None)
stop = Signal("stop", None)
CHANNELS: dict[str, Signal[Any]] = {"items": items, "either": either, "stop": stop}


@workflow(name="channels.first")
async def first_of(kind: str) -> list[Any]:
    return [await CHANNELS[kind].receive()]


@workflow(name="channels.three")
async def three() -> list[bool]:
    found: list[bool] = []
    async for value in approved:
        found.append(value)
        if len(found) == 3:
            break
    return found


# --- calls ----------------------------------------------------------------------------


def test_call_is_a_value_that_holds_the_encoded_argument() -> None:
    call = items(Item("apple", 2))
    assert isinstance(call, SignalCall)
    assert call.name == "items"
    assert [bytes(p.json) for p in call.input] == [b'{"name":"apple","count":2}']
    assert call == items(Item("apple", 2))
    assert call != items(Item("pear", 2))
    assert "apple" not in repr(call)


@pytest.mark.parametrize(
    ("channel", "wrong"),
    [
        (approved, "yes"),
        (approved, 1),
        (items, {"name": "apple"}),
        (numbers, [1, "two"]),
        (numbers, (1, 2)),
        (either, 1.5),
        (stop, 1),
        (Signal("any", Any), (1, 2)),
    ],
)
def test_value_that_does_not_fit_the_type_is_refused_at_the_call(
    channel: Signal[Any], wrong: Any
) -> None:
    with pytest.raises(PayloadError, match=f"value of signal '{channel.name}'"):
        channel(wrong)


@pytest.mark.parametrize("values", [(), (True, False)])
def test_channel_takes_exactly_one_value(values: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidCallError, match=f"{len(values)} values"):
        approved(*values)


def test_channel_without_a_type_is_called_without_a_value() -> None:
    assert stop() == stop(None) == SignalCall("stop", (NULL,))


@pytest.mark.parametrize("name", ["", " x", "a\nb", "x" * 256, 5])
def test_channel_with_a_bad_name_is_refused(name: Any) -> None:
    with pytest.raises(DefinitionError, match="name of a signal"):
        Signal(name, bool)


def test_type_given_as_text_is_refused() -> None:
    with pytest.raises(DefinitionError, match="the text 'Item'"):
        Signal("items", "Item")


def test_type_that_cannot_be_decoded_is_refused_at_the_call() -> None:
    with pytest.raises(DefinitionError, match="is no data"):
        Signal("odd", Item | asyncio.Lock)(Item("apple"))


locked = Signal("locked", Item | asyncio.Lock)


async def waits_for_locked() -> None:
    async def wait() -> None:
        await locked.receive()

    await wait()


class WaitsForLocked:
    @run
    async def go(self) -> None:
        async for _ in locked:
            return


@pytest.mark.parametrize("origin", [waits_for_locked, WaitsForLocked])
async def test_channel_that_code_names_is_checked_when_an_engine_opens(
    origin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "channels.locked"
    monkeypatch.setitem(WORKFLOWS, name, None)  # taken away again afterwards
    del WORKFLOWS[name]
    workflow(name=name)(origin)
    with pytest.raises(DefinitionError, match="value of signal 'locked'") as caught:
        async with Engine("memory://"):
            pass
    assert "Lock, a member of the union" in str(caught.value)


@pytest.mark.parametrize("what", ["receive", "receive_nowait", "__anext__"])
async def test_receiving_outside_of_a_workflow_is_refused(what: str) -> None:
    with pytest.raises(NotInWorkflowError, match=r"Signal\.receive"):
        await getattr(approved, what)()


# --- by name --------------------------------------------------------------------------


def test_names_and_arguments_make_calls_too() -> None:
    call = signal_call("approved", (True, [1]))
    assert (call.name, [bytes(p.json) for p in call.input]) == (
        "approved",
        [b"true", b"[1]"],
    )
    asked, updated = query_call("how", (1,)), update_call("add", ("x",))
    assert isinstance(asked, QueryCall)
    assert isinstance(updated, UpdateCall)
    payload = json.encode({"a": [1]}, Any, "x")
    assert asked.decode_result(payload) == updated.decode_result(payload) == {"a": [1]}


@pytest.mark.parametrize("make", [signal_call, query_call, update_call])
def test_what_is_no_call_is_refused_with_the_fix(make: Any) -> None:
    async def coroutine() -> None: ...

    for wrong in (approved, 5, None, coroutine(), first_of("items")):
        with pytest.raises(InvalidCallError, match="is no call of a") as caught:
            make(wrong, ())
        assert caught.value.hint
    with pytest.raises(InvalidIdError):
        make("", ())
    with pytest.raises(PayloadError, match="Argument 2 of 'name'"):
        make("name", (1, (2, 3)))


def test_arguments_beside_a_call_are_refused() -> None:
    with pytest.raises(InvalidCallError, match="beside"):
        signal_call(approved(True), (False,))


# --- receiving ------------------------------------------------------------------------


def test_values_are_received_once_and_in_order() -> None:
    run = OneRun(three())
    run.start(run.signalled(approved(True)), run.signalled(approved(False)))
    run.signal(approved(True))
    assert run.result() == [True, False, True]


@pytest.mark.parametrize(
    ("kind", "call", "expected"),
    [
        ("items", items(Item("apple", 2)), Item("apple", 2)),
        ("items", signal_call("items", ({"name": "pear"},)), Item("pear")),
        ("either", either("x"), "x"),
        ("either", either(None), None),
        ("stop", stop(), None),
        ("stop", signal_call("stop", ()), None),
    ],
)
def test_received_value_has_the_type_of_the_channel(
    kind: str, call: SignalCall, expected: Any
) -> None:
    @workflow(name="channels.compare")
    async def compare(kind: str) -> bool:
        value = await CHANNELS[kind].receive()
        return type(value) is type(expected) and bool(value == expected)

    run = OneRun(compare(kind))
    run.start()
    run.signal(call)
    assert run.result() is True


def test_value_that_cannot_be_decoded_is_set_aside_and_the_next_is_received() -> None:
    run = OneRun(three())
    run.start()
    for call in (
        approved(True),
        signal_call("approved", ("yes",)),
        signal_call("approved", ()),
        signal_call("approved", (True, False)),
        approved(False),
        approved(True),
    ):
        run.signal(call)
    assert run.result() == [True, False, True]
    assert len(run.logged) == 3
    assert all(isinstance(c["exception"], UndecodableError) for c in run.logged)


def test_nothing_to_receive_is_an_empty_queue() -> None:
    @workflow(name="channels.looking")
    async def looking() -> list[Any]:
        found: list[Any] = []
        for _ in range(2):
            try:
                found.append(approved.receive_nowait())
            except asyncio.QueueEmpty:
                found.append("empty")
        return found

    run = OneRun(looking())
    run.start(run.signalled(approved(True)))
    assert run.result() == [True, "empty"]
