"""Good use of resources of activities: no checker may object."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Generic, Protocol, TypeVar, assert_type

from durable import (
    Engine,
    SyncEngine,
    activity,
    activity_method,
    resource,
    workflow,
)
from durable.testing import TestEnvironment

T = TypeVar("T")


class Pool:
    def fetch(self) -> int:
        return 1


class Maker(Generic[T]): ...


class Gateway(Protocol):
    def pay(self) -> str: ...


class Visa:
    def pay(self) -> str:
        return ""


assert_type(resource(Pool), Pool)


@activity
async def charge(
    cents: int,
    *,
    pool: Pool = resource(Pool),
    maker: Maker[int] = resource(Maker[int]),
    gateway: Gateway = resource("gateway"),
) -> str:
    assert_type(pool, Pool)
    return f"{pool.fetch()} {cents} {maker} {gateway.pay()}"


@activity
async def release(seat: str, cents: int, *, pool: Pool = resource(Pool)) -> None: ...


@activity(compensate=release)
async def reserve(cents: int, *, pool: Pool = resource(Pool)) -> str:
    return f"{cents} {pool}"


@activity
def pack(items: list[str], pool: Pool = resource(Pool)) -> str:
    return ",".join(items) * pool.fetch()


class Shop:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @activity_method(start_to_close_timeout="5s")
    async def refund(self, receipt: str, cents: int) -> None: ...

    @activity_method(compensate=refund, name="charge_shop")
    async def charge(self, cents: int, *, pool: Pool = resource(Pool)) -> str:
        return f"{cents} {pool}"

    @activity_method
    def pack(self, items: list[str], n: int = 1) -> bytes:
        return b""


shop = Shop(Pool())


@workflow
async def place(cents: int) -> str:
    assert_type(await charge(cents), str)
    assert_type(await pack(["a"]), str)
    assert_type(await Shop.charge(cents), str)
    assert_type(await shop.charge(cents), str)
    assert_type(await Shop.pack(["a"], n=2), bytes)
    assert_type(await Shop.pack.options(summary="x")(["a"]), bytes)
    return await Shop.charge.options(retry=None)(cents)


@asynccontextmanager
async def open_resources() -> AsyncGenerator[dict[type | str, object], None]:
    pool = Pool()
    yield {Pool: pool, "gateway": Visa(), Shop: Shop(pool)}


@asynccontextmanager
async def open_pool() -> AsyncGenerator[dict[type[Pool], Pool], None]:
    yield {Pool: Pool()}


@contextmanager
def open_plainly() -> Generator[dict[str, Gateway], None, None]:
    yield {"gateway": Visa()}


def give_nothing(cents: int) -> str:
    return ""


async def main() -> None:
    Engine("memory://", resources=open_resources)
    Engine("memory://", resources=open_pool)
    Engine("memory://", resources={Pool: Pool(), "gateway": Visa()})
    SyncEngine("memory://", resources=open_plainly)
    TestEnvironment(resources={Pool: Pool()}, mocks={Shop.charge: give_nothing})
    assert_type(await charge(5, pool=Pool()), str)
    assert_type(await pack(["a"], Pool()), str)
    assert_type(await shop.charge(5, pool=Pool()), str)
