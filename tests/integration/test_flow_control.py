"""Configured queues: what runs at once, how fast it begins, and whose turn it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Engine,
    QueueDescription,
    QueueNotFoundError,
    Rate,
    RetryPolicy,
    SyncEngine,
    activity,
    workflow,
)
from durable.errors import InvalidIdError, InvalidInputError, InvalidOptionError
from durable.store.activity_tasks import TaskState
from durable.store.queries import CountActivityTasks

BEGAN: list[tuple[str, int]] = []
NOW: dict[str, int] = {}
MOST: dict[str, int] = {}
GATE: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    for one in (BEGAN, NOW, MOST, GATE):
        one.clear()


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/flow.db"


@activity(name="flow.work")
async def work(key: str, n: int) -> int:
    BEGAN.append((key, n))
    NOW[key] = NOW.get(key, 0) + 1
    NOW["all"] = NOW.get("all", 0) + 1
    for name in (key, "all"):
        MOST[name] = max(MOST.get(name, 0), NOW[name])
    await asyncio.sleep(0.005)
    NOW[key] -= 1
    NOW["all"] -= 1
    return n


@activity(name="flow.held")
async def held(n: int) -> int:
    BEGAN.append(("held", n))
    await GATE[0].wait()
    return n


@activity(name="flow.flaky", retry=RetryPolicy(initial_interval=0.05))
async def flaky() -> int:
    BEGAN.append(("flaky", 0))
    if len(BEGAN) == 1:
        GATE[0].set()
        raise ValueError("not yet")
    return len(BEGAN)


@workflow(name="flow.fan")
async def fan(key: str, count: int, priority: int | None = None) -> int:
    call = work.options(fairness_key=key or None, priority=priority)
    return sum(await asyncio.gather(*[call(key, n) for n in range(count)]))


@workflow(name="flow.holds")
async def holds(count: int) -> int:
    return sum(await asyncio.gather(*map(held, range(count))))


@workflow(name="flow.retries")
async def retries() -> int:
    return await flaky()


@workflow(name="flow.idle")
async def idle() -> int:
    return 1


DEFINITIONS = [fan, holds, retries, idle, work, held, flaky]


def open_engine(database: str, **options: Any) -> Engine:
    return Engine(database, definitions=DEFINITIONS, **options)


async def until(is_so: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await is_so():  # noqa: ASYNC110 - a worker makes it so
            await asyncio.sleep(0.005)


async def began(count: int) -> None:
    async def have() -> bool:
        return len(BEGAN) >= count

    await until(have)


async def waits(engine: Engine, count: int) -> None:
    async def do() -> bool:
        return (await engine.queues.get("default")).waiting == count

    await until(do)


async def test_activities_of_a_worker_s_own_runs_keep_to_the_limit(
    database: str,
) -> None:
    async with open_engine(database) as engine:
        described = await engine.queues.configure("default", concurrency=3)
        assert described == QueueDescription(name="default", concurrency=3)
        assert await engine.execute(fan("a", 30)) == sum(range(30))
        assert MOST["all"] == 3
        await engine.queues.configure("default", concurrency=1, key_concurrency=1)
        MOST.clear()
        assert await engine.execute(fan("a", 5)) == 10
        assert MOST["all"] == 1
        await engine.queues.delete("default")
        MOST.clear()
        assert await engine.execute(fan("a", 30)) == sum(range(30))
        assert MOST["all"] > 3
        assert await engine.queues.list() == []


async def test_paused_queue_lets_nothing_begin_and_its_runs_rest(
    database: str,
) -> None:
    GATE.append(asyncio.Event())
    async with open_engine(database) as engine:
        running = await engine.start(holds(1))
        await began(1)
        paused = await engine.queues.pause("default", note="the service is down")
        assert paused.paused_at is not None
        assert paused.note == "the service is down"
        waiting = await engine.start(fan("a", 4))
        again = await engine.queues.pause("default", note=None)
        assert again.paused_at == paused.paused_at
        assert (again.waiting, again.running, again.note) == (4, 0, None)
        GATE[0].set()
        assert await running.result() == 0  # what runs goes on
        assert len(BEGAN) == 1
        await engine.queues.resume("default")
        assert await waiting.result() == 6


async def test_own_workflows_go_on_while_their_queue_is_paused(database: str) -> None:
    async with open_engine(database) as engine:
        await engine.queues.pause("default")
        handle = await engine.schedules.create("s", idle(), "@hourly")
        await handle.trigger()
        await until(lambda: engine.list(workflow_type="flow.idle"))


async def test_retry_waits_for_its_queue_too(database: str) -> None:
    GATE.append(asyncio.Event())
    async with open_engine(database) as engine:
        run = await engine.start(retries())
        await GATE[0].wait()
        await engine.queues.pause("default")
        await waits(engine, 1)
        assert len(BEGAN) == 1
        await engine.queues.resume("default")
        assert await run.result() == 2


async def test_workers_share_the_limits_and_hear_of_other_ones_at_once(
    database: str,
) -> None:
    GATE.append(asyncio.Event())
    async with open_engine(database, worker=False) as client:
        await client.queues.configure("default", concurrency=3, worker_concurrency=2)
        async with open_engine(database) as first, open_engine(database) as second:
            run = await client.start(holds(9))
            await began(3)
            assert (await client.queues.get("default")).running == 3
            await client.queues.configure("default", concurrency=None)
            await began(4)
            counts = [
                health.running_activities
                for engine in (first, second)
                if (health := await engine.health()) is not None
            ]
            assert counts == [2, 2]
            await client.queues.configure("default", worker_concurrency=None)
            GATE[0].set()
            assert await run.result(timeout=20) == 36


async def test_rate_holds_in_every_window_and_is_used_up(database: str) -> None:
    instants: list[float] = []

    @activity(name="flow.stamp")
    async def stamp() -> None:
        instants.append(time.monotonic())

    @workflow(name="flow.stamps")
    async def stamps(count: int) -> None:
        await asyncio.gather(*(stamp() for _ in range(count)))

    async with Engine(database, definitions=[stamp, stamps]) as engine:
        await engine.queues.configure("default", rate=Rate(20, per="200ms"))
        await engine.execute(stamps(60))
    # A claim is what the rate is of; its functions begin a moment after it.
    late = 0.05
    for earlier, later in zip(instants, instants[20:], strict=False):
        assert later - earlier >= 0.2 - late


async def test_customers_take_turns(database: str) -> None:
    async with open_engine(database) as engine:
        await engine.queues.configure("default", concurrency=1, paused=True)
        flood = await engine.start(fan("flood", 50))
        one = await engine.start(fan("one", 1))
        urgent = await engine.start(fan("urgent", 1, priority=1))
        await waits(engine, 52)
        await engine.queues.resume("default")
        await asyncio.gather(*(run.result() for run in (flood, one, urgent)))
    order = [key for key, _ in BEGAN]
    assert order[0] == "urgent"
    assert order.index("one") <= 2


async def test_key_limit_is_of_each_key(database: str) -> None:
    async with open_engine(database) as engine:
        await engine.queues.configure("default", key_concurrency=2)
        await asyncio.gather(*(engine.execute(fan(key, 8)) for key in "abc"))
    assert {key: MOST[key] for key in "abc"} == {"a": 2, "b": 2, "c": 2}
    assert 2 < MOST["all"] <= 6


async def test_slots_of_a_worker_that_leaves_are_free(database: str) -> None:
    GATE.append(asyncio.Event())
    async with open_engine(database, worker=False) as client:
        await client.queues.configure("default", concurrency=1)
        run = await client.start(holds(2))
        async with open_engine(database, drain_timeout=0):
            await began(1)
        assert (await client.queues.get("default")).running == 0
        GATE[0].set()
        async with open_engine(database):
            assert await run.result(timeout=20) == 1
        counts = await client._open_client().store.read(CountActivityTasks("default"))
        assert TaskState.CLAIMED not in {one.state for one in counts}


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"concurrency": 0}, "pause the queue"),
        ({"concurrency": True}, "concurrency of a queue is True"),
        ({"worker_concurrency": 1.5}, "worker_concurrency of a queue is 1.5"),
        ({"key_concurrency": 2_000_000}, "give 1 to 1,000,000"),
        ({"rate": "fast"}, "'fast', which is no rate"),
        ({"rate": "0/s"}, "rate of a queue is 0"),
        ({"rate": 5}, "rate of a queue is 5: give a Rate"),
        ({"rate": Rate(5, burst=0)}, "the burst of a rate of a queue is 0"),
        ({"rate": Rate(500_000, per="1ms")}, "at most one a microsecond"),
        ({"rate": Rate(5, per="soon")}, "no duration"),
        ({"paused": 1}, "paused is 1"),
        ({"note": 5}, "note of a queue is 5"),
    ],
)
async def test_wrong_limit_is_refused(limits: dict[str, Any], says: str) -> None:
    async with Engine("memory://", worker=False) as engine:
        with pytest.raises(InvalidInputError, match=says) as caught:
            await engine.queues.configure("gpu", **limits)
        assert "queue" in str(caught.value) or "paused" in str(caught.value)
        assert await engine.queues.list() == []


async def test_queue_that_nobody_has_configured_is_told_as_such() -> None:
    async with Engine("memory://", worker=False) as engine:
        await engine.queues.configure("gpu", rate="5 / min", note="n")
        for act in (engine.queues.resume, engine.queues.delete, engine.queues.get):
            with pytest.raises(QueueNotFoundError, match="Did you mean 'gpu'"):
                await act("gpuu")
        with pytest.raises(InvalidIdError):
            await engine.queues.configure("", concurrency=1)
        (found,) = await engine.queues.list()
        assert found.rate == Rate(5, "1m")
        assert str(found.rate) == "5/1m"
        assert found.to_dict()["rate"] == {"count": 5, "per": "1m", "burst": None}


async def test_two_that_change_a_queue_at_once_lose_nothing() -> None:
    async with Engine("memory://", worker=False) as engine:
        queues = engine.queues
        await asyncio.gather(
            queues.configure("q", concurrency=1),
            queues.configure("q", worker_concurrency=2),
            queues.configure("q", key_concurrency=3),
            queues.pause("q"),
        )
        found = await queues.get("q")
    limits = (found.concurrency, found.worker_concurrency, found.key_concurrency)
    assert limits == (1, 2, 3)
    assert found.paused_at is not None


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 0},
        {"priority": 6},
        {"priority": "high"},
        {"fairness_weight": 0},
        {"fairness_weight": None},
        {"fairness_key": 5},
        {"fairness_key": ""},
        {"fairness_key": "x" * 65},
    ],
)
def test_wrong_option_of_an_activity_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises((InvalidOptionError, InvalidIdError), match="of activity"):
        work.options(**options)


def test_sync_engine_has_queues(tmp_path: Path) -> None:
    with SyncEngine(f"sqlite:///{tmp_path}/s.db", definitions=DEFINITIONS) as engine:
        queues = engine.queues
        assert queues.configure("default", concurrency=2).concurrency == 2
        assert engine.execute(fan("a", 6)) == 15
        assert MOST["all"] == 2
        assert queues.pause("default", note="n").note == "n"
        assert queues.resume("default").paused_at is None
        assert queues.get("default").name == "default"
        assert [one.name for one in queues.list()] == ["default"]
        queues.delete("default")
        assert queues.list() == []
