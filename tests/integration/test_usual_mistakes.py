"""What happens by mistake in the first week, and how it ends."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import anyio
import pytest

from durable import Engine, WorkflowStuckError, run, workflow
from durable.testing import TestEnvironment


async def fetch(host: str) -> bytes:
    stream = await anyio.connect_tcp(host, 9)
    return await stream.receive()


@workflow(name="mistakes.fetching")
async def fetching(host: str) -> str:
    return (await fetch(host)).decode()


@workflow(name="mistakes.cart")
class Cart:
    @run
    async def go(self, n: int) -> int:
        return n


@workflow(name="mistakes.counting")
async def counting(n: int) -> int:
    return n


async def test_client_library_in_a_workflow_parks_at_the_users_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TestEnvironment() as env:
        started = await env.start(fetching("127.0.0.1"), id="f")
        with pytest.raises(WorkflowStuckError, match="is stuck, nothing is lost"):
            await started.result()

    (line,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    at = fetch.__code__.co_firstlineno + 1
    assert f"{Path(__file__).name}:{at}, which cannot be replayed" in line.getMessage()


async def test_class_is_taken_for_its_workflow(database: str) -> None:
    async with Engine(database, definitions=[Cart]) as engine:
        await engine.start(Cart.go(1), id="c")
        found = await engine.get("c", workflow=Cart)

        assert await found.result() == 1


class Clock:
    """One that is set back while runs are started."""

    behind = 0

    def now(self) -> int:
        return time.time_ns() // 1_000 - self.behind


async def test_pages_hold_every_run_though_the_clock_was_set_back(
    database: str,
) -> None:
    clock = Clock()
    async with Engine(database, definitions=[counting], clock=clock) as engine:
        await engine.execute(counting(0), id="first")
        clock.behind = 3_600_000_000
        for number in range(12):
            await engine.execute(counting(number), id=f"r{number}")

        seen: set[str] = set()
        before = None
        while page := await engine.list(limit=5, started_before=before):
            seen.update(found.workflow_id for found in page)
            before = page[-1].started_at

    assert len(seen) == 13
