"""A shop whose orders are in the database of its runs."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import orm

from durable import Attribute, Engine, Signal, query, run, update, workflow

noted = Signal("noted", int)
customer = Attribute("customer", str)


@workflow(name="outbox.greet")
async def greet(name: str) -> str:
    return f"hello {name}"


@workflow(name="outbox.collect")
async def collect(count: int) -> list[int]:
    return [await noted.receive() for _ in range(count)]


@workflow(name="outbox.cart")
class Cart:
    def __init__(self) -> None:
        self.items: list[str] = []

    @run
    async def shop(self) -> None:
        await noted.receive()

    @update
    def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    @query
    def all_items(self) -> list[str]:
        return self.items


DEFINITIONS = [greet, collect, Cart]


class Base(orm.DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    customer: orm.Mapped[str] = orm.mapped_column(sa.String(50))


def as_sqlalchemy(url: str) -> str:
    scheme, _, rest = url.partition("://")
    drivers = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
    return f"{drivers.get(scheme, scheme)}://{rest}"


def open_engine(url: str, **options: Any) -> Engine:
    return Engine(url, definitions=DEFINITIONS, **options)


@contextlib.contextmanager
def database(url: str) -> Any:
    engine = sa.create_engine(as_sqlalchemy(url))
    try:
        Base.metadata.create_all(engine)
        yield engine
    finally:
        engine.dispose()


async def wait_for(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until it holds; the test's own limit ends a vain wait."""
    while not await condition():  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.005)


async def is_empty(engine: Engine) -> bool:
    return not await engine.outbox.list()
