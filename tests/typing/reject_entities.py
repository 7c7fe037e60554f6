"""Wrong use of entities: each marked line must be an error in each checker."""

from __future__ import annotations

from dataclasses import field

from durable import (
    Engine,
    Entity,
    EntityCall,
    entity,
    exclusive,
    locked,
    shared,
    workflow,
)


@entity
class Cart(Entity):
    items: dict[str, int] = field(default_factory=dict)

    @exclusive
    async def add(self, item: str, n: int = 1) -> int:
        total: str = self.total()  # E
        await self.add(1)  # E
        return len(total)

    @shared
    def total(self) -> int:
        return sum(self.items.values())


class Wrong:
    @exclusive(name=5)  # E
    def named(self) -> int:
        return 1

    @shared(dynamic=True)  # E
    def dynamic(self) -> int:
        return 1


@entity(run_timeout="5s")  # E
class Timed(Entity):
    n: int = 0


@workflow
async def shopping(key: str) -> None:
    text: str = await Cart[key].add("apple")  # E
    await Cart[key].add(1)  # E
    async with locked("alice"):  # E
        print(text)


async def main(engine: Engine) -> None:
    Cart["alice"].add(1)  # E
    Cart["alice"].add()  # E
    Cart["alice"].add("apple", m=2)  # E
    Cart["alice"].total(1)  # E
    Cart["alice"].sum()  # E
    Cart[5].total()  # E
    Cart.of(5)  # E
    Cart(items=5)  # E
    Cart(total=5)  # E
    wrong: EntityCall[str] = Cart["alice"].total()  # E
    number: str = await engine.call(Cart["alice"].total())  # E
    await engine.call(Cart["alice"].add("apple"), timout=5)  # E
    await engine.call("add")  # E
    print(wrong, number)
