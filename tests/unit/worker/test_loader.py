"""The loader says when it is at work: a worker takes no more runs meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from durable.errors import DatabaseUnavailableError
from durable.store.store import Store
from durable.worker import loader as loading
from durable.worker.loader import Loader


class AwayStore:
    """A database that is away for the first read."""

    def __init__(self) -> None:
        self.reads = 0
        self.may_answer = asyncio.Event()

    async def read(self, _: object) -> list[Any]:
        self.reads += 1
        if self.reads == 1:
            raise DatabaseUnavailableError("It is away.")
        await self.may_answer.wait()
        return []


async def test_load_that_waits_for_an_outage_keeps_nobody_from_other_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "_RETRY_SECONDS", 0.01)
    store, idle = AwayStore(), asyncio.Event()
    tasks: list[asyncio.Task[None]] = []
    loader = Loader(
        cast("Store", store),
        entered=lambda _: None,
        mail=lambda _: None,
        spawn=lambda step: tasks.append(asyncio.create_task(step)),
    )
    loader.when_idle = idle.set

    loader.load(["r"])
    assert loader.is_busy
    await asyncio.wait_for(idle.wait(), 10)
    assert store.reads == 1
    assert not loader.is_busy

    idle.clear()
    while store.reads == 1:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.001)
    assert loader.is_busy
    store.may_answer.set()
    await asyncio.wait_for(idle.wait(), 10)
    assert not loader.is_busy
    await asyncio.gather(*tasks)
