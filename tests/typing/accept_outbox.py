"""Good use of transactions: no checker may object."""

from __future__ import annotations

import sqlite3
from typing import Any, assert_type

import psycopg
import pymysql
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext import asyncio as sa_asyncio

from durable import (
    AsyncWithin,
    Engine,
    Handle,
    OutboxHandle,
    Signal,
    SyncEngine,
    SyncHandle,
    SyncOutboxHandle,
    SyncWithin,
    Within,
    workflow,
)

approved = Signal("approved", bool)


@workflow
async def place(number: int) -> str:
    return str(number)


async def write(
    engine: Engine,
    connection: sa.Connection,
    session: orm.Session,
    scoped: orm.scoped_session[orm.Session],
    lite: sqlite3.Connection,
    pg: psycopg.Connection[Any],
    my: pymysql.Connection[Any],
) -> None:
    for given in (connection, session, scoped, lite, pg, my):
        assert_type(engine.within(given), Within)
    within = engine.within(session)
    handle = within.start(place(1), id="a", memo={"x": 1})
    assert_type(handle, OutboxHandle[str])
    assert_type(within.start("place", 1), OutboxHandle[Any])
    assert_type(await handle.result(timeout="10s"), str)
    assert_type(await handle.started(), Handle[str])
    within.signal(handle, approved(True))
    within.signal("a", "approved", True, request_id="r")
    within.cancel("a", "enough")
    assert_type(within.update("a", "add", 1), str)


async def write_async(
    engine: Engine,
    connection: sa_asyncio.AsyncConnection,
    session: sa_asyncio.AsyncSession,
    pg: psycopg.AsyncConnection[Any],
) -> None:
    for given in (connection, session, pg):
        assert_type(engine.within(given), AsyncWithin)
    within = engine.within(session)
    handle = await within.start(place(1))
    assert_type(handle, OutboxHandle[str])
    await within.signal(handle, approved(True))
    await within.cancel(handle)
    assert_type(await within.update("a", "add", 1), str)


def write_sync(engine: SyncEngine, session: orm.Session) -> None:
    within = engine.within(session)
    assert_type(within, SyncWithin)
    handle = within.start(place(1))
    assert_type(handle, SyncOutboxHandle[str])
    within.signal(handle, approved(True))
    assert_type(handle.result(), str)
    assert_type(handle.started(), SyncHandle[str])
    assert_type(engine.outbox.retry(1), list[int])
