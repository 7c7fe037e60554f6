"""Workflows that tests reset, retry and fork, and the engine that they run in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import durable
from durable import (
    ApplicationError,
    Handle,
    RetryPolicy,
    RunStatus,
    Signal,
    activity,
    workflow,
)
from durable.doctor.doctor import examine
from durable.store.connect import connect
from durable.testing.environment import TestEnvironment

RAN: list[str] = []
BROKEN: set[str] = set()
word = Signal("word", str)


@activity(retry=RetryPolicy(max_attempts=1))
async def redo(name: str) -> str:
    RAN.append(name)
    if name in BROKEN:
        raise ApplicationError(f"{name} is broken")
    return name


@activity
async def redo_other(name: str) -> str:
    RAN.append(name)
    return name


@workflow
async def redo_three() -> str:
    first = await redo("a")
    second = await redo_other("b")
    return first + second + await redo("c")


@workflow
async def drawing() -> list[str]:
    one = str(durable.uuid4())
    await redo("a")
    two = str(durable.uuid4())
    await redo("b")
    return [one, two, str(durable.uuid4()), durable.info().run_id]


@workflow
async def redo_listening() -> list[str]:
    heard = [await word.receive()]
    await redo("a")
    heard.append(await word.receive())
    await redo("b")
    heard.append(await word.receive())
    return heard


@workflow
async def waiting_child(name: str) -> str:
    return name + await word.receive()


@workflow
async def redo_parent() -> str:
    child = await durable.start_child(waiting_child("x"), id="child")
    await redo("a")
    late = await durable.start_child(waiting_child("y"), id="late")
    return await child.result() + await late.result()


@asynccontextmanager
async def opened(database: str, **options: Any) -> AsyncIterator[TestEnvironment]:
    """An engine, and a database that the doctor finds nothing wrong with after it."""
    async with TestEnvironment(database, **options) as env:
        yield env
    store = connect(database, clock=env.clock)
    await store.open()
    try:
        assert [finding async for finding in examine(store, settle=0.0)] == []
    finally:
        await store.close()


async def find_open(env: TestEnvironment, workflow_id: str) -> Handle[Any]:
    """Wait until a run of that id is open."""
    while True:
        for run in await env.list(workflow_id=workflow_id, status=RunStatus.RUNNING):
            return await env.get(workflow_id, run_id=run.run_id)
        await asyncio.sleep(0.01)
