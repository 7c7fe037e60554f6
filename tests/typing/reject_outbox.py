"""Wrong use of transactions: each marked line must be an error in each checker."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext import asyncio as sa_asyncio

from durable import Engine, Signal, SyncEngine, workflow

approved = Signal("approved", bool)


@workflow
async def place(number: int) -> str:
    return str(number)


async def write(
    engine: Engine,
    shop: sa.Engine,
    session: orm.Session,
    other: sa_asyncio.AsyncSession,
) -> None:
    engine.within(shop)  # E
    engine.within("sqlite:///x.db")  # E
    within = engine.within(session)
    await within.start(place(1))  # E
    within.start(place("1"))  # E
    within.start(place(1), nonsense=1)  # E
    within.signal(7, approved(True))  # E
    within.signal("a", place(1))  # E
    text: int = await within.start(place(1)).result()  # E
    engine.within(other).start(place(1)).result()  # E
    print(text)


def write_sync(engine: SyncEngine, other: sa_asyncio.AsyncSession) -> None:
    engine.within(other)  # E
