"""Activities of other queues, heartbeats and promises in virtual time."""

from __future__ import annotations

import asyncio

from durable import (
    ActivityTimeoutError,
    RetryPolicy,
    activity,
    activity_info,
    external_promise,
    heartbeat,
    workflow,
)
from durable.testing.environment import TestEnvironment

DAY = 86_400 * 1_000_000
HOURLY = RetryPolicy(
    max_attempts=3, initial_interval="1h", max_interval="1h", backoff_coefficient=1
)


@activity(name="virtual.flaky", task_queue="gpu", retry=HOURLY)
async def flaky() -> int:
    if activity_info().attempt < 3:
        raise ValueError("not yet")
    return activity_info().attempt


@activity(name="virtual.long", task_queue="gpu", retry=HOURLY)
async def long() -> int:
    first = activity_info().heartbeat_detail(int) or 0
    for hour in range(first, 24):
        heartbeat(hour)
        await asyncio.sleep(3_600)
        if hour == 11 and activity_info().attempt == 1:
            await asyncio.sleep(86_400)
    return first


@workflow(name="virtual.retries")
async def retries() -> int:
    return await flaky()


@workflow(name="virtual.waits")
async def waits() -> str:
    try:
        await flaky.options(task_queue="nobody", schedule_to_start_timeout="1d")()
    except ActivityTimeoutError as error:
        return error.timeout_type
    return ""


@workflow(name="virtual.beats")
async def beats() -> int:
    options = long.options(start_to_close_timeout="3d", heartbeat_timeout="2h")
    return await options()


@workflow(name="virtual.promises")
async def promises() -> str:
    promise = external_promise(int)
    try:
        async with asyncio.timeout(3 * 86_400):
            await promise
    except TimeoutError:
        return "nobody came"
    return ""


DEFINITIONS = [retries, waits, beats, promises, flaky, long]


def environment(database: str) -> TestEnvironment:
    return TestEnvironment(
        database, definitions=DEFINITIONS, activity_queues={"gpu": 2}
    )


async def test_retries_elsewhere_take_no_time(database: str) -> None:
    async with environment(database) as env:
        began = env.clock.now()
        assert await env.execute(retries()) == 3
        assert 0 <= env.clock.now() - began - 2 * DAY // 24 < 1_000_000


async def test_a_day_without_a_worker(database: str) -> None:
    async with environment(database) as env:
        began = env.clock.now()
        assert await env.execute(waits()) == "schedule_to_start"
        assert 0 <= env.clock.now() - began - DAY < 1_000_000


async def test_a_day_of_heartbeats(database: str) -> None:
    async with environment(database) as env:
        assert await env.execute(beats()) == 11


async def test_three_days_of_waiting(database: str) -> None:
    async with environment(database) as env:
        began = env.clock.now()
        assert await env.execute(promises()) == "nobody came"
        assert 0 <= env.clock.now() - began - 3 * DAY < 1_000_000
