"""Runs wait as long as they mean to, whatever becomes of the machine's clock."""

from __future__ import annotations

import asyncio

import pytest

from durable import (
    RetryPolicy,
    activity,
    activity_info,
    sleep,
    wait_condition,
    workflow,
)
from durable.testing import TestEnvironment


@activity(name="set_back.flaky", retry=RetryPolicy(initial_interval="500ms"))
async def flaky() -> int:
    if activity_info().attempt < 2:
        raise ValueError
    return 1


@workflow(name="set_back.nap")
async def nap(seconds: float) -> str:
    await sleep(seconds)
    return "nap"


@workflow(name="set_back.retry")
async def retry() -> str:
    await flaky()
    return "retry"


@workflow(name="set_back.limit")
async def limit() -> str:
    try:
        await wait_condition(lambda: False, timeout=0.5)
    except TimeoutError:
        return "limit"
    return "no limit"


@workflow(name="set_back.forever", run_timeout=0.5)
async def forever() -> str:
    await asyncio.Event().wait()
    return "never"


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("distance", ["30s", "1d", "400d"])
async def test_nothing_waits_longer_after_the_clock_was_set_back(
    database: str, distance: str, *, ahead: bool
) -> None:
    async with TestEnvironment(database) as env:
        asleep = await env.start(nap(1))
        if ahead:
            env.clock.advance(distance)
            await env.settle()
            assert await env.execute(nap(0.5)) == "nap"
        env.clock.set_back(distance)
        before = env.clock.monotonic()
        await asyncio.gather(
            *(env.execute(call) for call in (nap(0.5), retry(), limit()))
        )
        with pytest.raises(TimeoutError, match="run_timeout"):
            await env.execute(forever())
        assert env.clock.monotonic() - before < 2_000_000
        assert await asleep.result() == "nap"
        assert env.clock.monotonic() - before < 2_000_000
