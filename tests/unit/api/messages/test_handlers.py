"""Handlers that a function workflow sets as it runs."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any

import pytest

from durable import (
    Signal,
    all_handlers_finished,
    current_update,
    set_query_handler,
    set_signal_handler,
    set_state,
    set_update_handler,
    sleep,
    wait_condition,
    workflow,
)
from durable.api.messages.messages import query_call, signal_call, update_call
from durable.core.history.commands import SetState
from durable.core.history.events import StateTransitioned
from durable.core.history.flags import CURRENT, Flag
from durable.core.history.payload import Payloads
from durable.core.runtime import Handler
from durable.errors import (
    DefinitionError,
    InvalidIdError,
    InvalidOptionError,
    NotInWorkflowError,
    PayloadError,
    QueryFailedError,
    ReadOnlyError,
    UndecodableError,
    UpdateRejectedError,
)
from tests.unit.api.one_run import OneRun

numbers = Signal("numbers", list[int])


class Step(enum.Enum):
    PAYING = "paying"


@dataclasses.dataclass
class Progress:
    step: int


@workflow(name="handlers.setting")
async def setting(kind: str) -> list[Any]:
    log: list[Any] = []
    SETTERS[kind](log)
    await wait_condition(lambda: log[-1:] == ["end"])
    await wait_condition(all_handlers_finished)
    return log


def set_plain(log: list[Any]) -> None:
    def take(item: str, n: int = 1) -> None:
        log.append([item, n])

    set_signal_handler("add", take)
    set_signal_handler("raw", log.append)
    set_signal_handler("end", lambda: log.append("end"))


def set_async(log: list[Any]) -> None:
    async def take(item: str) -> None:
        await sleep(1)
        log.append(item)

    class Taking:
        async def __call__(self, item: str) -> None:
            await sleep(2)
            log.append(item.upper())

    set_signal_handler("add", take)
    set_signal_handler("shout", Taking())
    set_signal_handler("twice", functools.partial(take, item="x"))
    set_signal_handler("end", lambda: log.append("end"))


def set_channel(log: list[Any]) -> None:
    async def later(values: list[int]) -> None:
        await asyncio.sleep(0)
        log.append(sum(values))

    set_signal_handler(numbers, lambda values: log.append(list(reversed(values))))
    set_signal_handler(Signal("sums", list[int]), later)
    set_signal_handler(Signal("end", None), lambda _: log.append("end"))


def set_dynamic(log: list[Any]) -> None:
    def take(name: str, *args: int) -> None:
        log.append([name, *args])

    set_signal_handler(None, take)
    set_signal_handler("end", lambda: log.append("end"))


def set_asked(log: list[Any]) -> None:
    def count(least: int = 0) -> int:
        return len(log) + least

    def change() -> None:
        set_state("changed")

    set_query_handler("status", lambda: "waiting")
    set_query_handler("count", count)
    set_query_handler("change", change)
    set_query_handler("odd", lambda: object())
    set_query_handler(None, lambda name, *args: [name, *args])


def set_updated(log: list[Any]) -> None:
    async def add(item: str, n: int = 1) -> int:
        log.append(item)
        found = current_update()
        assert found is not None
        await asyncio.sleep(0)
        log.append([found.id, found.name])
        return n + 1

    def check(item: str, n: int = 1) -> None:
        if n < 1:
            raise ValueError(f"{n} of {item}")
        found = current_update()
        assert found is not None
        assert found.name == "add"

    def any_update(name: str, n: int) -> list[Any]:
        return [name, n]

    set_update_handler("add", add, validator=check)
    set_update_handler(None, any_update)
    assert current_update() is None


SETTERS: dict[str, Callable[[list[Any]], None]] = {
    "plain": set_plain,
    "async": set_async,
    "channel": set_channel,
    "dynamic": set_dynamic,
    "asked": set_asked,
    "updated": set_updated,
}


def begin(kind: str) -> OneRun:
    one = OneRun(setting(kind))
    one.start()
    return one


# --- signals --------------------------------------------------------------------------


def test_arguments_are_read_by_the_annotations_of_the_handler() -> None:
    one = begin("plain")
    one.signal(
        signal_call("add", ("apple", 2)),
        signal_call("add", ("pear",)),
        signal_call("raw", ({"any": [1]},)),
        signal_call("add", (5,)),
        signal_call("add", ()),
        signal_call("add", ("a", 1, 2)),
        signal_call("raw", ()),
        signal_call("end", ()),
    )
    assert one.result() == [["apple", 2], ["pear", 1], {"any": [1]}, "end"]
    assert len(one.logged) == 4
    assert all(isinstance(c["exception"], UndecodableError) for c in one.logged)


def test_async_handlers_of_every_shape_are_awaited() -> None:
    one = begin("async")
    one.signal(
        signal_call("shout", ("b",)),
        signal_call("add", ("a",)),
        signal_call("twice", ()),
        signal_call("end", ()),
    )
    assert not one.replayer.is_closed
    for _ in range(2):
        one.now += 1_000_000
        one.turn()
    assert one.result() == ["end", "a", "x", "B"]


def test_handler_of_a_channel_reads_by_its_type() -> None:
    one = begin("channel")
    one.signal(numbers([1, 2]), signal_call("sums", ([3, 4],)))
    one.signal(signal_call("numbers", (["x"],)), signal_call("end", ()))
    assert one.result() == [[2, 1], 7, "end"]
    assert len(one.logged) == 1


def test_handler_of_all_names_comes_after_the_one_of_the_name() -> None:
    one = begin("dynamic")
    one.signal(
        signal_call("poke", (1, 2)),
        signal_call("poke", ("x",)),
        signal_call("other", ()),
        signal_call("end", ()),
    )
    assert one.result() == [["poke", 1, 2], ["other"], "end"]


def test_signals_are_kept_until_a_handler_is_set_and_after_it_is_taken_away() -> None:
    @workflow(name="handlers.switching")
    async def switching() -> list[Any]:
        log: list[Any] = []
        await sleep(1)
        set_signal_handler("add", log.append)
        await sleep(1)
        set_signal_handler("add", None)
        await sleep(1)
        log.append("unset")
        set_signal_handler(Signal("add", int), log.append)
        await asyncio.sleep(0)
        set_signal_handler(Signal("add", int), None)
        await sleep(1)
        return log

    one = OneRun(switching())
    one.start(one.signalled(signal_call("add", (1,))))
    for number in (2, 3, 4):
        one.now += 1_000_000
        one.turn(one.signalled(signal_call("add", (number,))))
    one.now += 1_000_000
    one.turn()
    # The third came in one turn with the timer, and messages come first.
    assert one.result() == [1, 2, 3, "unset", 4]


# --- queries --------------------------------------------------------------------------


def test_queries_are_answered_by_the_handlers() -> None:
    one = begin("asked")
    assert one.query(query_call("status", ())) == "waiting"
    assert one.query(query_call("count", ())) == 0
    assert one.query(query_call("count", (5,))) == 5
    assert one.query(query_call("how", (1, "x"))) == ["how", 1, "x"]


def test_query_that_fails_harms_nobody() -> None:
    one = begin("asked")
    with pytest.raises(UndecodableError):
        one.query(query_call("count", ("x",)))
    with pytest.raises(UndecodableError):
        one.query(query_call("status", (1,)))
    with pytest.raises(PayloadError, match="result of 'odd'"):
        one.query(query_call("odd", ()))
    with pytest.raises(ReadOnlyError):
        one.query(query_call("change", ()))
    assert one.query(query_call("count", ())) == 0


def test_query_without_a_handler_names_those_there_are() -> None:
    one = begin("plain")
    with pytest.raises(QueryFailedError, match="no_such"):
        one.query(query_call("no_such", ()))


# --- updates --------------------------------------------------------------------------


def test_update_is_validated_handled_and_answered() -> None:
    one = begin("updated")
    assert one.update(update_call("add", ("apple", 2)), "u-1") == 3
    with pytest.raises(ValueError, match="0 of pear"):
        one.update(update_call("add", ("pear", 0)), "u-2")
    with pytest.raises(UndecodableError):
        one.update(update_call("add", (5,)), "u-3")
    assert one.update(update_call("else", (7,)), "u-4") == ["else", 7]
    with pytest.raises(UndecodableError):
        one.update(update_call("else", ("x",)), "u-5")


def test_update_without_a_handler_is_rejected() -> None:
    one = begin("plain")
    with pytest.raises((UpdateRejectedError, Exception), match="No handler"):
        one.update(update_call("add", ()))


# --- what is refused ------------------------------------------------------------------


async def asynchronous(*args: Any) -> None: ...


def keywords(**options: int) -> None: ...


WRONG: list[tuple[str, Callable[[], None], type[Exception], str]] = [
    (
        "no function",
        lambda: set_signal_handler("x", 5),  # type: ignore[call-overload]  # the fault under test
        DefinitionError,
        "no function",
    ),
    (
        "no function for a channel",
        lambda: set_signal_handler(numbers, 5),  # type: ignore[call-overload]  # likewise
        DefinitionError,
        "no function",
    ),
    (
        "keywords",
        lambda: set_signal_handler("x", keywords),
        DefinitionError,
        r"\*\*options",
    ),
    (
        "no room for a name",
        lambda: set_signal_handler(None, lambda: None),
        DefinitionError,
        "message's name",
    ),
    (
        "async query",
        lambda: set_query_handler("x", asynchronous),
        DefinitionError,
        "async",
    ),
    (
        "async validator",
        lambda: set_update_handler("x", asynchronous, validator=asynchronous),
        DefinitionError,
        "validator of update 'x' is async",
    ),
    ("empty name", lambda: set_update_handler("", keywords), InvalidIdError, "empty"),
    (
        "unknown policy",
        lambda: set_signal_handler("x", print, unfinished="forget"),  # type: ignore[call-overload]  # likewise
        InvalidOptionError,
        "unfinished",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_wrong_handler_is_refused_where_it_is_set(
    call: Callable[[], None], error: type[Exception], message: str
) -> None:
    @workflow(name="handlers.wrong")
    async def wrong() -> bool:
        with pytest.raises(error, match=message):
            call()
        return True

    one = OneRun(wrong())
    one.start()
    assert one.result() is True


def test_plain_handler_that_returns_a_coroutine_is_refused() -> None:
    @workflow(name="handlers.forgetful")
    async def forgetful() -> None:
        set_signal_handler("poke", lambda: asynchronous())
        await sleep(1)

    one = OneRun(forgetful())
    one.start()
    with pytest.raises(DefinitionError, match="'poke' is a plain function"):
        one.signal(signal_call("poke", ()))


@pytest.mark.parametrize(
    "call",
    [
        lambda: set_signal_handler("x", print),
        lambda: set_query_handler("x", print),
        lambda: set_update_handler("x", print),
        lambda: set_state("x"),
        lambda: current_update(),
        lambda: all_handlers_finished(),
    ],
    ids=["signal", "query", "update", "set_state", "current_update", "finished"],
)
def test_outside_of_a_workflow_it_is_refused(call: Callable[[], None]) -> None:
    with pytest.raises(NotInWorkflowError, match="durable"):
        call()


@pytest.mark.parametrize(("unfinished", "warns"), [("warn", True), ("abandon", False)])
def test_policy_for_unfinished_handlers_reaches_the_core(
    unfinished: Any, warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Runtime:
        def set_handler(self, kind: str, name: str, handler: Handler) -> None:
            seen.append((kind, name, handler.warns_unfinished))

    monkeypatch.setattr(
        "durable.api.messages.handlers.get_runtime", lambda operation: Runtime()
    )
    set_signal_handler("a", len, unfinished=unfinished)
    set_signal_handler(numbers, len, unfinished=unfinished)
    set_update_handler("b", len, unfinished=unfinished)
    assert seen == [
        ("signal", "a", warns),
        ("signal", "numbers", warns),
        ("update", "b", warns),
    ]


# --- the rest -------------------------------------------------------------------------


def test_state_is_recorded_with_the_one_before() -> None:
    @workflow(name="handlers.states")
    async def states() -> None:
        set_state("waiting")
        set_state({"step": 2, "of": [1]})
        set_state(Step.PAYING)
        set_state(Progress(1))
        with pytest.raises(PayloadError):
            set_state({"step": (1, 2)})
        with pytest.raises(PayloadError):
            set_state(object())

    one = OneRun(states())
    done = one.start()
    changes = [c for c in done.commands if isinstance(c, SetState)]
    assert [bytes(c.current.json) for c in changes] == [
        b'"waiting"',
        b'{"step":2,"of":[1]}',
        b'"paying"',
        b'{"step":1}',
    ]
    assert len(one.events(StateTransitioned)) == 4


async def takes_lock(order: str | asyncio.Lock) -> None: ...


def gives_lock() -> str | asyncio.Lock:
    return ""


odd = Signal("odd", str | asyncio.Lock)
UNREADABLE: list[tuple[str, Callable[[], object]]] = [
    ("handler of signal 'x': argument", lambda: set_signal_handler("x", takes_lock)),
    ("handler of update 'x': argument", lambda: set_update_handler("x", takes_lock)),
    ("handler of update 'x': the result", lambda: set_update_handler("x", gives_lock)),
    ("handler of query 'x': the result", lambda: set_query_handler("x", gives_lock)),
    (
        "validator of update 'x': argument",
        lambda: set_update_handler("x", takes, validator=checks_lock),
    ),
    ("value of signal 'odd'", lambda: set_signal_handler(odd, takes)),
    ("value of signal 'odd'", odd.receive_nowait),
]


def takes(order: str) -> None: ...


def checks_lock(order: str | asyncio.Lock) -> None: ...


@pytest.mark.parametrize("flags", [CURRENT, CURRENT & ~Flag.HANDLERS_CHECKED])
@pytest.mark.parametrize(("told", "use"), UNREADABLE, ids=range(len(UNREADABLE)))
def test_annotation_is_refused_where_a_handler_is_set_or_a_channel_read(
    told: str, use: Callable[[], object], flags: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    @workflow(name="handlers.unreadable")
    async def unreadable() -> None:
        asyncio.get_running_loop().flags = flags  # type: ignore[attr-defined]  # ours
        try:
            use()
        except DefinitionError as error:
            found.append(str(error))
        except asyncio.QueueEmpty:
            pass

    OneRun(unreadable()).start()
    assert all(told in text and "Lock" in text for text in found)
    # What was recorded before this was checked goes on as it did.
    assert bool(found) == bool(flags & Flag.HANDLERS_CHECKED)


def test_signature_that_python_cannot_tell_is_refused() -> None:
    inputs: Payloads = ()

    @workflow(name="handlers.builtin")
    async def builtin() -> bool:
        with pytest.raises(DefinitionError, match="cannot be found out"):
            set_query_handler("x", type)
        return not inputs

    one = OneRun(builtin())
    one.start()
    assert one.result() is True
