"""A shopping cart: an entity lives under each key, and takes one call after the other.

Run it twice: the second time it finds the carts and the stock as the first run left
them. Everything is in one SQLite file.
"""

import asyncio
from dataclasses import field

from durable import (
    Engine,
    Entity,
    UpdateFailedError,
    activity,
    entity,
    exclusive,
    locked,
    shared,
    workflow,
)

PRICES = {"apple": 30, "pear": 45, "fig": 120}


class OutOfStock(Exception):
    """There are not so many left."""


@activity
async def look_up_price(item: str) -> int:
    """Ask another service; here, only a table."""
    return PRICES[item]


@entity
class Cart(Entity):
    """What one customer wants. Its annotated attributes are the state."""

    items: dict[str, int] = field(default_factory=dict)
    cents: int = 0

    @exclusive
    async def add(self, item: str, n: int = 1) -> int:
        """Runs alone, even while it waits for the price."""
        self.items[item] = self.items.get(item, 0) + n
        self.cents += n * await look_up_price(item)
        return self.count()

    @exclusive
    def clear(self) -> None:
        self.items, self.cents = {}, 0

    @shared
    def count(self) -> int:
        """Reads, at any time."""
        return sum(self.items.values())

    @shared
    def content(self) -> dict[str, int]:
        return self.items

    @shared
    def total(self) -> int:
        return self.cents


@entity
class Stock(Entity):
    """How many of one item there are."""

    left: int = 10

    @exclusive
    def take(self, n: int) -> int:
        self.left -= n
        if self.left < 0:
            raise OutOfStock(f"{n} wanted, {self.left + n} left")
        return self.left

    @exclusive
    def put(self, n: int) -> int:
        self.left += n
        return self.left

    @shared
    def count(self) -> int:
        return self.left


@workflow
async def check_out(customer: str) -> str:
    """Take everything from the stock, or nothing."""
    async with locked(Cart[customer]):  # nobody adds to this cart meanwhile
        items = await Cart[customer].content()
        if not items:
            return f"{customer} has nothing to buy"
        async with locked(*[Stock[item] for item in items]):
            missing = [i for i, n in items.items() if await Stock[i].count() < n]
            if missing:
                return f"{customer} gets nothing: not enough {' and '.join(missing)}"
            for item, n in items.items():
                await Stock[item].take(n)
        cents = await Cart[customer].total()
        await Cart[customer].clear()
    return f"{customer} pays {cents} cents for {items}"


async def main() -> None:
    """Fill carts from many sides at once, and check them out."""
    async with Engine("sqlite:///shop.db") as engine:
        await engine.call(Stock["fig"].put(2))
        await asyncio.gather(
            *(engine.call(Cart["ada"].add("apple")) for _ in range(3)),
            engine.call(Cart["ada"].add("pear", n=2)),
            engine.call(Cart["bob"].add("fig", n=9)),
            engine.call(Cart["eve"].add("fig", n=9)),
        )
        print("ada has", await engine.call(Cart["ada"].content()))
        checkouts = (engine.execute(check_out(name)) for name in ("ada", "bob", "eve"))
        for said in await asyncio.gather(*checkouts):
            print(said)
        try:
            await engine.call(Stock["pear"].take(1_000))
        except UpdateFailedError as error:
            print("refused:", error.__cause__)
        print("pears left:", await engine.call(Stock["pear"].count()))


if __name__ == "__main__":
    asyncio.run(main())
