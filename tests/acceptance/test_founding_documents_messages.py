"""Signals, queries, updates: what was asked for, row by row (see `founding_rows`)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Engine,
    HandleQueryInput,
    Interceptor,
    NextPlain,
    QueryFailedError,
    Signal,
    UpdateFailedError,
    UpdateRejectedError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    query,
    run,
    set_query_handler,
    signal,
    sleep,
    start_timer,
    update,
    wait_condition,
    workflow,
)
from durable.core.history.events import (
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
)
from durable.errors import ReadOnlyError
from durable.testing import TestEnvironment
from tests.acceptance.founding_rows import shows

approval = Signal("approval", bool)
note = Signal("note", str)


class Unfit(Exception):
    """What a handler may raise."""


@workflow(name="founding.Cart")
class Cart:
    def __init__(self) -> None:
        self.items: list[str] = []
        self.is_paid = False

    @run
    async def shop(self) -> list[str]:
        await wait_condition(lambda: self.is_paid)
        return self.items

    @signal
    def add(self, item: str) -> None:
        if item == "poison":
            raise Unfit(item)
        self.items.append(item)

    @signal
    async def add_later(self, item: str) -> None:
        await sleep("1h")
        self.items.append(item)

    @query
    def count(self, least: int = 0) -> int:
        return max(least, len(self.items))

    @query
    def take(self) -> None:
        self.is_paid = True

    @query
    def remind(self) -> float:
        return start_timer("1d").seconds

    @update
    async def pay(self, cents: int) -> str:
        if cents > 1_000:
            raise Unfit("too much")
        self.is_paid = True
        return f"{len(self.items)} things for {cents}"

    @pay.validator
    def check_payment(self, cents: int) -> None:
        if not self.items:
            raise ValueError("the cart is empty")


@shows(
    "signal handler",
    "`@signal` on a method, plain or async, or `set_signal_handler()`; what it raises"
    " fails the run",
)
async def test_s2_2_1_handlers_are_plain_or_async_and_may_fail() -> None:
    async with TestEnvironment() as env:
        cart = await env.start(Cart.shop())
        await cart.signal(Cart.add_later("tea"))
        await cart.signal(Cart.add("milk"))
        await env.sleep("2h")
        assert await cart.update(Cart.pay(5)) == "2 things for 5"
        assert await cart.result() == ["milk", "tea"]
        other = await env.start(Cart.shop())
        await other.signal(Cart.add("poison"))
        with pytest.raises(WorkflowFailedError) as caught:
            await other.result()
    assert isinstance(caught.value.__cause__, Unfit)


@workflow(name="founding.receives")
async def receives() -> list[object]:
    found: list[object] = [await note.receive()]
    await sleep("1h")
    found.append(await approval.receive())
    found += [await note.receive(), await note.receive()]
    return found


@shows(
    "signal queue",
    "`Signal(name, type)`: `await approval.receive()` takes the oldest of its name."
    " They are rows of the database, not memory; `WorkflowNotFoundError` for an"
    " unknown run",
)
async def test_s2_2_1_two_names_interleaved_keep_their_order_over_a_restart(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'signals.db'}"
    async with TestEnvironment(url) as env:
        handle = await env.start(receives(), id="w")
        for call in (note("1"), note("2"), approval(True), note("3")):
            await handle.signal(call)
    async with TestEnvironment(url, clock=env.clock) as env:
        handle = await env.get("w", workflow=receives)
        assert await handle.result() == ["1", True, "2", "3"]
        with pytest.raises(WorkflowNotFoundError):
            await env.get("nobody")


@shows("signal queue")
async def test_s2_2_1_two_waiters_wake_once_each() -> None:
    @workflow(name="founding.two_wait")
    async def two_wait() -> list[str]:
        return list(await asyncio.gather(note.receive(), note.receive()))

    async with TestEnvironment() as env:
        handle = await env.start(two_wait())
        await handle.signal(note("a"))
        await env.sleep(1)
        assert (await handle.describe()).closed_at is None
        await handle.signal(note("b"))
        assert await handle.result() == ["a", "b"]


@shows(
    "signal envelope",
    "an event `WorkflowExecutionSignaled` with name, data, sender and time; one with"
    " the same `request_id=` comes once",
)
async def test_s2_2_1_signal_is_kept_with_its_sender_and_comes_once() -> None:
    async with TestEnvironment() as env:
        handle = await env.start(receives())
        sent_at = env.now()
        for _ in range(3):
            await handle.signal(note("1"), request_id="click-7")
        await env.settle()
        events = [
            event
            for event in await handle.history()
            if isinstance(event.attributes, WorkflowExecutionSignaled)
        ]
    (event,) = events
    assert event.time == sent_at.timestamp() * 1_000_000
    assert isinstance(event.attributes, WorkflowExecutionSignaled)
    assert (event.attributes.signal_name, event.attributes.request_id) == (
        "note",
        "click-7",
    )
    assert event.attributes.identity


@shows(
    "query handler",
    "`@query` on a method, or `set_query_handler()`; queries take arguments, too."
    " `WorkflowNotFoundError`, `QueryFailedError`; a handler that changes something is"
    " refused",
)
async def test_s2_2_2_query_reads_only_and_answers_alike_after_a_restart(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'queries.db'}"
    async with TestEnvironment(url) as env:
        cart = await env.start(Cart.shop(), id="cart")
        await cart.signal(Cart.add("tea"))
        assert await cart.query(Cart.count()) == 1
        for changing in (Cart.take(), Cart.remind()):
            with pytest.raises(QueryFailedError) as caught:
                await cart.query(changing)
            assert isinstance(caught.value.__cause__, ReadOnlyError)
        with pytest.raises(QueryFailedError, match="sum"):
            await cart.query("sum")
    async with TestEnvironment(url, clock=env.clock) as env:
        cart = await env.get("cart", workflow=Cart)
        assert await cart.query(Cart.count()) == 1
        assert await cart.query(Cart.count(least=7)) == 7
        assert (await cart.describe()).closed_at is None


@workflow(name="founding.progress")
async def progress() -> str:
    status = "waiting"
    set_query_handler("status", lambda: status)
    status = "approved" if await approval.receive() else "refused"
    await sleep("1d")
    return status


@shows(
    "client",
    "`set_query_handler()` in code; a handle's `signal` and `query`, by value or by"
    " name. `Engine(..., worker=False)` is a mere client, `SyncEngine` one without"
    " asyncio",
)
async def test_s1_5_2_3_client_signals_and_asks_what_the_code_has_set() -> None:
    async with TestEnvironment() as env:
        handle = await env.start(progress(), id="w")
        assert await handle.query("status") == "waiting"
        await (await env.get("w")).signal("approval", True)
        assert await handle.query("status") == "approved"
        assert await handle.result() == "approved"


@shows("client")
async def test_s1_5_2_3_client_of_its_own_needs_no_code(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'client.db'}"
    async with Engine(url) as worker, Engine(url, worker=False) as client:
        await worker.start(progress(), id="w")
        other = await client.get("w")
        await other.signal("approval", False)
        assert await other.query("status", timeout="30s") == "refused"


class Asked(Interceptor):
    def __init__(self) -> None:
        self.names: list[str] = []

    def handle_query(
        self, input: HandleQueryInput, next: NextPlain[HandleQueryInput]
    ) -> Any:
        self.names.append(input.query_name)
        return next(input)


@shows(
    "event bus",
    "`run.events()` follows what a run does, signals among it, in the order of the"
    " commits and after them, whichever process it is. Queries leave no event: an"
    " `Interceptor` hears of them, and may answer",
)
async def test_s1_2_2_4_subscribers_hear_of_signals_and_queries() -> None:
    asked = Asked()
    async with Engine("memory://", interceptors=[asked]) as engine:
        cart = await engine.start(Cart.shop())
        heard: list[str] = []
        async for event in cart.events():
            what = event.attributes
            if isinstance(what, WorkflowExecutionStarted):
                await cart.signal(Cart.add("milk"))
            elif isinstance(what, WorkflowExecutionSignaled):
                heard.append(what.signal_name)
                assert await cart.query(Cart.count()) == 1
                await cart.update(Cart.pay(5))
    assert heard == ["add"]
    assert asked.names == ["count"]


@shows("updates", "`@update` with a validator; `run.update()` gives the answer")
async def test_s1_updates_are_validated_recorded_and_answered() -> None:
    async with TestEnvironment() as env:
        cart = await env.start(Cart.shop())
        with pytest.raises(UpdateRejectedError) as rejected:
            await cart.update(Cart.pay(5))
        assert "empty" in str(rejected.value.__cause__)
        await cart.signal(Cart.add("tea"))
        with pytest.raises(UpdateFailedError) as failed:
            await cart.update(Cart.pay(5_000))
        assert isinstance(failed.value.__cause__, Unfit)
        assert await cart.update(Cart.pay(5), update_id="u") == "1 things for 5"
        assert await cart.update(Cart.pay(5), update_id="u") == "1 things for 5"
        kinds = [type(event.attributes).__name__ for event in await cart.history()]
    assert kinds.count("WorkflowExecutionUpdateAccepted") == 2
    assert kinds.count("WorkflowExecutionUpdateCompleted") == 2
