"""What the tests of resources share: a pool, and programs that take one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from durable import RetryPolicy, activity, activity_method, resource, workflow


class Pool:
    """Something that must be open while it is used."""

    def __init__(self, name: str = "pool") -> None:
        self.name = name
        self.is_open = True
        self.log: list[str] = []

    def use(self, what: str) -> str:
        assert self.is_open
        self.log.append(what)
        return f"{what} by {self.name}"


class Shop:
    """An object whose methods are activities; defined anew by each test."""

    def __init__(self, pool: Pool) -> None: ...

    charge: Any
    refund: Any
    count: Any


class App:
    """What one test's program defines."""

    def __init__(self) -> None:
        @activity(name="resources.reserve")
        async def reserve(sku: str, *, pool: Pool = resource(Pool)) -> str:
            return pool.use(sku)

        @activity(name="resources.pack")
        def pack(sku: str, size: int = 1, pool: Pool = resource("packing")) -> str:
            return pool.use(f"{sku}*{size}")

        @workflow(name="resources.order")
        async def order(sku: str) -> list[str]:
            return [await reserve(sku), await pack(sku, size=2)]

        self.reserve, self.pack, self.order = reserve, pack, order


def make_shop() -> type[Shop]:
    class Shop:
        def __init__(self, pool: Pool) -> None:
            self.pool = pool

        @activity_method
        async def refund(self, receipt: str, cents: int) -> None:
            self.pool.use(f"refund of {receipt}, {cents}")

        @activity_method(compensate=refund, retry=RetryPolicy(initial_interval=1))
        async def charge(self, cents: int) -> str:
            if len(self.pool.log) == 0:
                self.pool.use("failed attempt")
                raise ConnectionError("again")
            return self.pool.use(f"charge {cents}")

        @activity_method
        def count(self, items: list[str], *, other: Pool = resource(Pool)) -> int:
            self.pool.use(other.name)
            return len(items)

    return Shop  # type: ignore[return-value]  # the same shape, with its activities


class Opener:
    """Opens two pools, one within the other, and says what happened."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.pools: list[Pool] = []

    @contextlib.asynccontextmanager
    async def pool(self, name: str) -> AsyncGenerator[Pool, None]:
        self.said.append(f"open {name}")
        pool = Pool(name)
        self.pools.append(pool)
        try:
            yield pool
        finally:
            pool.is_open = False
            self.said.append(f"close {name}")

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[dict[type | str, object], None]:
        async with self.pool("a") as a, self.pool("b") as b:
            yield {Pool: a, "packing": b}
