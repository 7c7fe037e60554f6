"""Good use of entities: no checker may object."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, assert_type

from durable import (
    Engine,
    Entity,
    EntityCall,
    SyncEngine,
    activity,
    activity_client,
    entity,
    entity_key,
    exclusive,
    locked,
    shared,
    workflow,
)


@entity
class Cart(Entity):
    items: dict[str, int] = field(default_factory=dict)
    is_open: bool = True

    @exclusive
    async def add(self, item: str, n: int = 1) -> int:
        self.items[item] = n
        assert_type(self.total(), int)
        assert_type(await self.add("x"), int)
        assert_type(self.drop("x"), bool)
        return self.total()

    @exclusive(name="remove")
    def drop(self, item: str) -> bool:
        return self.items.pop(item, None) is not None

    @shared
    def total(self) -> int:
        return sum(self.items.values())

    @shared(name="whose")
    def key(self) -> str:
        return entity_key()


@entity(name="stock", version="1.0.0", checkpoint_every=10, task_queue="slow")
@dataclass
class Stock(Entity):
    n: int = 0

    @exclusive
    async def take(self, *, n: int) -> list[int]:
        self.n -= n
        return [self.n]


@entity
class Plain:
    n: int = 0

    @exclusive
    def add(self) -> int:
        return self.n


def references(key: str) -> None:
    cart = Cart.of("alice")
    assert_type(cart, type[Cart])
    assert_type(cart.add("apple", n=2), EntityCall[int])
    assert_type(Cart[key].drop("apple"), EntityCall[bool])
    assert_type(Cart["alice"].total(), EntityCall[int])
    assert_type(Stock[f"{key}-1"].take(n=1), EntityCall[list[int]])
    of_a_call(Cart["alice"].add)


def of_a_call(method: Callable[[str], EntityCall[int]]) -> EntityCall[int]:
    return method("apple")


@workflow
async def shopping(key: str) -> int:
    assert_type(await Cart[key].add("apple"), int)
    async with locked(Cart[key], Stock["apple"]):
        await Stock["apple"].take(n=1)
    return await Cart[key].total()


@activity
async def restock(n: int) -> int:
    engine = activity_client()
    assert_type(engine, Engine)
    assert_type(await engine.call(Stock["apple"].take(n=-n)), list[int])
    return n


async def main(engine: Engine, sync_engine: SyncEngine) -> None:
    assert_type(await engine.call(Cart["alice"].add("apple")), int)
    assert_type(await engine.call(Cart["a"].drop("x"), update_id="one"), bool)
    assert_type(await engine.call(Cart["a"].key(), timeout="5s"), str)
    assert_type(sync_engine.call(Cart["alice"].total()), int)


async def objects() -> None:
    cart = Cart(items={"apple": 1})
    assert_type(cart, Cart)
    assert_type(cart.items, dict[str, int])
    assert_type(cart.total(), int)
    assert_type(await cart.add("apple", n=2), int)
    method: Callable[[str], Coroutine[Any, Any, int]] = cart.add
    assert_type(await method("apple"), int)
    assert_type(Plain(n=5).add(), int)
