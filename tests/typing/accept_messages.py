"""Good use of signals, queries and updates: no checker may object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from durable import (
    HandlerUnfinishedPolicy,
    QueryCall,
    Signal,
    SignalCall,
    UpdateCall,
    Workflow,
    WorkflowCall,
    all_handlers_finished,
    current_update,
    query,
    run,
    set_query_handler,
    set_signal_handler,
    set_state,
    set_update_handler,
    signal,
    update,
    wait_condition,
    workflow,
)


@dataclasses.dataclass
class Item:
    name: str


approved = Signal("approved", bool)
items = Signal("items", Item)
numbers = Signal("numbers", list[int])
either: Signal[int | str] = Signal("either", int | str)
stop = Signal("stop", None)


def calls() -> None:
    assert_type(approved, Signal[bool])
    assert_type(numbers, Signal[list[int]])
    assert_type(stop, Signal[None])
    assert_type(approved(True), SignalCall)
    items(Item("apple"))
    numbers([1])
    either(1)
    either("one")
    stop()
    stop(None)


@workflow
async def asking(order: int) -> str:
    assert_type(await approved.receive(), bool)
    assert_type(items.receive_nowait(), Item)
    async for item in items:
        assert_type(item, Item)
    async for value in either:
        assert_type(value, int | str)
    set_query_handler("status", lambda: "waiting")
    set_query_handler(None, answer)
    set_signal_handler("poke", print)
    set_signal_handler(approved, take_decision)
    set_signal_handler(items, take_item, unfinished="abandon")
    set_signal_handler("poke", None)
    set_update_handler("add", add_item, validator=check_item)
    set_state("done")
    await wait_condition(all_handlers_finished)
    found = current_update()
    return "" if found is None else found.name


def answer(name: str, *args: object) -> str:
    return f"{name}{args}"


def take_decision(decision: bool) -> None: ...


async def take_item(item: Item) -> None: ...


def add_item(item: Item) -> int:
    return len(item.name)


def check_item(item: Item) -> None: ...


class Counting:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    @query
    def count(self) -> int:
        return sum(self.counts.values())


@workflow
class Cart(Counting):
    @run
    async def run(self, customer: str, *, gift: bool = False) -> float:
        return 1.0

    @signal
    def add(self, item: str, n: int = 1) -> None:
        self.counts[item] = n

    @signal(unfinished=HandlerUnfinishedPolicy.ABANDON)
    async def later(self, item: str) -> None: ...

    @signal(dynamic=True)
    def anything(self, name: str, *args: Any) -> None: ...

    @query(name="first")
    def first_item(self, default: str | None = None) -> str | None:
        return default

    @query(dynamic=True)
    def any_question(self, name: str, *args: Any) -> list[int]:
        return []

    @update
    async def checkout(self, code: str) -> float:
        return len(code)

    @checkout.validator
    def check_checkout(self, code: str) -> None: ...

    @update(name="drop", unfinished="abandon")
    def drop_item(self, item: str) -> bool:
        return item in self.counts


@workflow(name="other", version="1.0.0", checkpoint_every=100)
class Other:
    def __init__(self, start: int) -> None:
        self.start = start

    @run
    async def begin(self, start: int) -> list[int]:
        return [start]


def calls_of_classes() -> None:
    assert_type(Cart.run("alice", gift=True), WorkflowCall[float])
    assert_type(Cart.add("apple", n=2), SignalCall)
    assert_type(Cart.later("apple"), SignalCall)
    assert_type(Cart.anything("poke", 1, "two"), SignalCall)
    assert_type(Cart.count(), QueryCall[int])
    assert_type(Cart.first_item(), QueryCall[str | None])
    assert_type(Cart.any_question("how", 1), QueryCall[list[int]])
    assert_type(Cart.checkout("code"), UpdateCall[float])
    assert_type(Cart.drop_item("apple"), UpdateCall[bool])
    assert_type(Other.begin(1), WorkflowCall[list[int]])
    of_a_class(Other.begin)


def of_a_class(definition: Workflow[[int], list[int]]) -> WorkflowCall[list[int]]:
    return definition(1)


async def instances() -> None:
    cart = Cart()
    assert_type(cart, Cart)
    assert_type(cart.add("apple", n=2), None)
    assert_type(cart.count(), int)
    assert_type(cart.drop_item("apple"), bool)
    assert_type(await cart.checkout("code"), float)
    assert_type(await cart.run("alice"), float)
    await cart.later("apple")
    cart.check_checkout("code")
    other = Other(5)
    method: Callable[[int], Coroutine[Any, Any, list[int]]] = other.begin
    assert_type(await method(1), list[int])
