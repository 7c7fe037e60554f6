"""A paused run: nothing begins, and nothing is lost."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from durable import (
    Handle,
    RetryPolicy,
    RunStatus,
    Signal,
    SyncEngine,
    WorkflowClosedError,
    WorkflowPausedError,
    activity,
    query,
    run,
    sleep,
    update,
    workflow,
)
from durable.doctor.doctor import examine
from durable.store.connect import connect
from durable.testing.contract.rows import wait_until
from durable.testing.environment import TestEnvironment

RAN: list[str] = []
GATES: list[asyncio.Event] = []
word = Signal("word", str)


@activity
async def held_step(name: str) -> str:
    RAN.append(name)
    return name


@activity(retry=RetryPolicy(max_attempts=3, initial_interval=60.0))
async def held_failing(name: str) -> str:
    RAN.append(name)
    if RAN.count(name) == 1:
        raise ConnectionError(name)
    return name


@activity(start_to_close_timeout="30d")
async def held_long(name: str) -> str:
    RAN.append(name)
    await GATES[-1].wait()
    return name


@workflow
async def held_listening() -> list[str]:
    heard: list[str] = []
    while len(heard) < 3:
        heard.append(await word.receive())
    return heard


@workflow
async def held_working() -> str:
    return await held_long("a") + await held_step("b")


@workflow
async def held_trying() -> str:
    return await held_failing("a")


@workflow
async def held_napping() -> str:
    await sleep("1h")
    return await held_step("late")


@workflow
class HeldCart:
    def __init__(self) -> None:
        self.items: list[str] = []

    @run
    async def run(self) -> list[str]:
        if await word.receive() == "hold":
            await held_long("cart")
            await word.receive()
        return self.items

    @update
    async def add(self, item: str) -> int:
        self.items.append(item)
        return len(self.items)

    @query
    def count(self) -> int:
        return len(self.items)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


@asynccontextmanager
async def opened(database: str, **options: Any) -> AsyncIterator[TestEnvironment]:
    """An engine, and a database that the doctor finds nothing wrong with after it."""
    GATES.append(asyncio.Event())
    async with TestEnvironment(database, **options) as env:
        yield env
    store = connect(database, clock=env.clock)
    await store.open()
    try:
        assert [finding async for finding in examine(store, settle=0.0)] == []
    finally:
        await store.close()


async def until_paused(handle: Handle[Any]) -> None:
    for _ in range(1_000):
        if (await handle.describe()).paused is not None:
            return
        await asyncio.sleep(0.01)
    pytest.fail("it was never paused")


async def test_what_comes_in_is_kept_and_seen_after_it(database: str) -> None:
    async with opened(database) as env:
        handle = await env.start(held_listening(), id="w")
        await handle.signal(word("1"))

        await handle.pause(note="wait for the bank")
        await until_paused(handle)
        await handle.signal(word("2"))
        await handle.signal(word("3"))

        described = await handle.describe()
        assert (described.status, described.stuck) == (RunStatus.RUNNING, None)
        assert described.paused == "wait for the bank"
        assert [r.paused for r in await env.list(status="paused")] == [described.paused]
        assert await env.list(stuck=True) == []
        waiter = asyncio.ensure_future(handle.result())
        await handle.resume()
        assert await waiter == ["1", "2", "3"]
        assert await env.list(status="paused") == []


async def test_an_activity_that_runs_ends_and_the_next_does_not_begin(
    database: str,
) -> None:
    async with opened(database) as env:
        handle = await env.start(held_working(), id="w")
        await wait_until(lambda: RAN == ["a"])

        await handle.pause()
        await asyncio.sleep(5)
        assert (await handle.describe()).paused is None
        GATES[-1].set()
        await until_paused(handle)
        await asyncio.sleep(1000)

        assert RAN == ["a"]
        await handle.resume()
        assert await handle.result() == "ab"
        assert RAN == ["a", "b"]


@workflow
async def held_both() -> str:
    napped = asyncio.create_task(sleep(10))
    done = await held_long("a")
    await napped
    return done


async def test_a_timer_that_is_due_while_an_activity_still_runs_waits() -> None:
    # Virtual time passes while the file of another store is opened.
    database = f"memory://{uuid.uuid4().hex}"
    async with opened(database) as env:
        handle = await env.start(held_both(), id="w")
        await wait_until(lambda: RAN == ["a"])
        await handle.pause()
        await asyncio.sleep(30)

        store = connect(database, clock=env.clock)
        await store.open()
        found = [finding async for finding in examine(store, settle=0.0)]
        assert [finding for finding in found if finding.run is not None] == []
        await store.close()
        assert (await handle.describe()).paused is None
        fired = [type(e.attributes).__name__ for e in await handle.history()]
        assert "TimerFired" not in fired
        GATES[-1].set()
        await handle.resume()
        assert await handle.result() == "a"


async def test_a_next_attempt_waits_for_the_end_of_the_pause(database: str) -> None:
    async with opened(database) as env:
        handle = await env.start(held_trying(), id="w")
        await wait_until(lambda: RAN == ["a"])

        await handle.pause()
        await until_paused(handle)
        await asyncio.sleep(1000)

        assert RAN == ["a"]
        await handle.resume()
        assert await handle.result() == "a"


async def test_a_timer_that_came_due_fires_at_the_end_of_the_pause(
    database: str,
) -> None:
    async with opened(database) as env:
        handle = await env.start(held_napping(), id="w", run_timeout="2h")
        await handle.pause()
        await until_paused(handle)
        await asyncio.sleep(5000)
        assert RAN == []

        await handle.resume()

        assert await handle.result() == "late"


async def test_a_pause_outlives_its_worker(database: str) -> None:
    async with opened(database) as env:
        handle = await env.start(held_working(), id="w")
        await wait_until(lambda: RAN == ["a"])
        await handle.pause(note="n")
        GATES[-1].set()
    async with opened(database, clock=env.clock) as env:
        handle = await env.get("w")
        await until_paused(handle)
        await asyncio.sleep(100)
        assert RAN == ["a"]
        await handle.resume()
        assert await handle.result() == "ab"


async def test_a_run_that_no_worker_has_is_paused_before_it_begins(
    database: str,
) -> None:
    async with TestEnvironment(database, worker=False) as env:
        handle = await env.start(held_listening(), id="w")
        await handle.signal(word("1"))
        await handle.pause()
    async with opened(database, clock=env.clock) as env:
        handle = await env.get("w")
        await until_paused(handle)
        assert not [e for e in await handle.history() if e.task_number]
        await handle.signal(word("2"))
        await handle.signal(word("3"))
        await handle.resume()
        assert await handle.result() == ["1", "2", "3"]


async def test_queries_are_refused_and_updates_wait(database: str) -> None:
    async with opened(database) as env:
        handle = await env.start(HeldCart.run(), id="w")
        assert await handle.update(HeldCart.add("apple")) == 1
        await handle.pause(note="n")
        await until_paused(handle)

        with pytest.raises(WorkflowPausedError, match="is paused: n"):
            await handle.query(HeldCart.count())
        waiter = asyncio.ensure_future(handle.update(HeldCart.add("pear")))
        await asyncio.sleep(5)
        assert not waiter.done()

        await handle.resume()
        assert await waiter == 2
        assert await handle.query(HeldCart.count()) == 2
        await handle.signal(word("done"))
        assert await handle.result() == ["apple", "pear"]


async def test_an_update_that_came_before_the_run_was_set_aside_is_answered(
    database: str,
) -> None:
    async with opened(database) as env:
        handle = await env.start(HeldCart.run(), id="w")
        await handle.signal(word("hold"))
        await wait_until(lambda: RAN == ["cart"])
        await handle.pause()
        waiter = asyncio.ensure_future(handle.update(HeldCart.add("apple")))
        await asyncio.sleep(5)
        assert not waiter.done()
        assert (await handle.describe()).paused is None  # an activity runs

        await handle.resume()

        assert await waiter == 1
        GATES[-1].set()
        await handle.signal(word("done"))
        assert await handle.result() == ["apple"]


async def test_pausing_twice_and_resuming_what_runs_changes_nothing(
    database: str,
) -> None:
    async with opened(database) as env:
        handle = await env.start(held_listening(), id="w")
        await handle.resume()
        await handle.pause(request_id="q")
        await handle.pause(request_id="q")
        await handle.pause(note="again")
        await until_paused(handle)
        await handle.resume()
        for text in ("1", "2", "3"):
            await handle.signal(word(text))
        assert await handle.result() == ["1", "2", "3"]
        with pytest.raises(WorkflowClosedError):
            await handle.pause()


async def test_a_paused_run_can_be_reset_and_terminated(database: str) -> None:
    async with opened(database) as env:
        handle = await env.start(held_listening(), id="w")
        await handle.signal(word("1"))
        await handle.pause()
        await until_paused(handle)
        await handle.signal(word("2"))

        again = await handle.reset(to="first_task")
        await again.signal(word("3"))
        assert await again.result() == ["1", "2", "3"]

        other = await env.start(held_listening(), id="o")
        await other.pause()
        await until_paused(other)
        await other.terminate()
        assert (await other.describe()).paused is None


def test_runs_are_paused_without_an_event_loop(database: str) -> None:
    with SyncEngine(database) as engine:
        handle = engine.start(held_listening(), id="w")
        handle.pause(note="n")
        handle.resume()
        for text in ("1", "2", "3"):
            handle.signal(word(text))
        assert handle.result() == ["1", "2", "3"]
