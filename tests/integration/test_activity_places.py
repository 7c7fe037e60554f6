"""A place is free when its thread is; an attempt that waits for one has not begun."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading

import pytest

from durable import (
    ActivityTimeoutError,
    Engine,
    WorkflowFailedError,
    activity,
    activity_info,
    workflow,
)
from durable.store.records import AttemptState
from durable.testing.environment import TestEnvironment

BEGAN = threading.Semaphore(0)
RELEASED = threading.Event()
ATTEMPTS: list[int] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RELEASED.clear()
    ATTEMPTS.clear()


@activity(name="places.hang", retry=None)
def hang() -> None:
    BEGAN.release()
    RELEASED.wait()


@activity(name="places.quick")
def quick() -> int:
    ATTEMPTS.append(activity_info().attempt)
    return 1


@activity(name="places.on_loop")
async def on_loop() -> int:
    return 2


@workflow(name="places.hanging")
async def hanging() -> None:
    await hang()


@workflow(name="places.quickly")
async def quickly() -> int:
    return await quick()


@workflow(name="places.elsewhere")
async def elsewhere() -> int:
    return await on_loop()


def exhausted(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "are held by" in record.getMessage()
    ]


async def test_hung_threads_are_named_once_and_starve_nobody(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Neither virtual time, in which no thread lives, nor a timeout, which a thread that
    # is slow to begin would meet outside of its function.
    async with Engine(database, max_activity_threads=2, max_activities=2) as engine:
        hung = [await engine.start(hanging()) for _ in range(2)]
        for _ in hung:
            await asyncio.to_thread(BEGAN.acquire)
        for run in hung:
            await run.terminate()
        waiting = [await engine.start(quickly()) for _ in range(2)]
        for quick_run in waiting:
            rows = await quick_run.attempts()
            while not rows:
                await asyncio.sleep(0)
                rows = await quick_run.attempts()
            assert [(row.attempt, row.state) for row in rows] == [
                (1, AttemptState.BACKOFF)
            ]
        # What needs no thread goes on meanwhile.
        assert await engine.execute(elsewhere()) == 2
        (said,) = exhausted(caplog)
        assert "'places.hang' (id 1, attempt 1)" in said
        assert "threading.py" in said or "test_activity_places.py" in said
        RELEASED.set()
        for quick_run in waiting:
            assert await quick_run.result() == 1
    assert ATTEMPTS == [1, 1]


async def test_what_swallows_its_cancellation_is_named_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ends = asyncio.Event()

    @activity(name="places.stubborn", start_to_close_timeout="10s", retry=None)
    async def stubborn() -> None:
        while not ends.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await ends.wait()

    @workflow(name="places.stubbornly")
    async def stubbornly() -> None:
        await stubborn()

    async with TestEnvironment(max_activities=1) as env:
        with pytest.raises(WorkflowFailedError):
            await env.execute(stubbornly())
        run = await env.start(elsewhere())
        await env.sleep("10s")
        (said,) = exhausted(caplog)
        assert "'places.stubborn'" in said
        ends.set()
        assert await run.result() == 2


@pytest.mark.parametrize("timeout_type", ["schedule_to_start", "schedule_to_close"])
async def test_only_schedule_timeouts_count_while_an_attempt_waits(
    timeout_type: str, database: str
) -> None:
    @activity(name="places.long")
    async def long() -> None:
        await asyncio.sleep(40)

    @workflow(name="places.block")
    async def block() -> None:
        await long()

    @workflow(name="places.hasty")
    async def hasty() -> int:
        if timeout_type == "schedule_to_start":
            return await on_loop.options(schedule_to_start_timeout="5s")()
        return await on_loop.options(schedule_to_close_timeout="5s")()

    async with TestEnvironment(database, max_activities=1) as env:
        await env.start(block())
        began = env.clock.now()
        with pytest.raises(WorkflowFailedError) as failed:
            await env.execute(hasty())
        assert isinstance(failed.value.__cause__, ActivityTimeoutError)
        assert failed.value.__cause__.timeout_type == timeout_type
        assert round((env.clock.now() - began) / 1_000_000) == 5


async def test_a_retry_that_waits_for_a_place_has_not_begun(database: str) -> None:
    @activity(name="places.flaky")
    async def flaky() -> int:
        ATTEMPTS.append(activity_info().attempt)
        if activity_info().attempt == 1:
            raise ValueError("once")
        return 3

    @activity(name="places.occupy", effect="once")
    async def occupy() -> None:
        await asyncio.sleep(30)

    @workflow(name="places.flakily")
    async def flakily() -> int:
        return await flaky()

    @workflow(name="places.occupied")
    async def occupied() -> None:
        await occupy()

    async with TestEnvironment(database, max_activities=1) as env:
        run = await env.start(flakily())
        await env.start(occupied())
        await env.sleep("5s")
        states = [(row.attempt, row.state) for row in await run.attempts()]
        assert states == [(1, AttemptState.FAILED), (2, AttemptState.BACKOFF)]
        assert await run.result() == 3
    assert ATTEMPTS == [1, 2]


async def test_an_attempt_that_is_stopped_before_its_first_step_gives_its_place_back(
    database: str,
) -> None:
    @workflow(name="places.ended")
    async def ended() -> None:
        await asyncio.gather(*(on_loop() for _ in range(4)))

    async with TestEnvironment(database, max_activities=1) as env:
        for _ in range(3):
            run = await env.start(ended())
            await run.terminate()
        assert await env.execute(elsewhere()) == 2
