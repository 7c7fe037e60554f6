"""What exceeds the room of a worker goes to others that serve its queue."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import pytest

from durable import Engine, activity, workflow
from durable.api.activities.activity_context import get_context
from durable.store.queries import ListActivityTasks
from durable.worker.lookout import Lookout

RAN: list[tuple[str, int]] = []
GATE: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()
    GATE.clear()


def who() -> str:
    """The worker that runs the activity.

    No activity declares it, or each engine of this process would have to have it.
    """
    return str(get_context("who").resources["who"])


@activity(name="shared.slow")
async def slow(n: int) -> int:
    RAN.append((who(), n))
    await asyncio.sleep(0.02)
    return n


@activity(name="shared.plain")
def plain(n: int) -> int:
    RAN.append((who(), n))
    time.sleep(0.01)
    return n


@activity(name="shared.gated")
async def gated(n: int) -> int:
    RAN.append((who(), n))
    await GATE[0].wait()
    return n


@workflow(name="shared.fan_out")
async def fan_out(count: int, kind: str = "slow") -> int:
    call = {"slow": slow, "plain": plain, "gated": gated}[kind]
    return sum(await asyncio.gather(*map(call, range(count))))


@workflow(name="shared.one")
async def one(n: int) -> int:
    return await gated(n)


def worker(database: str, who: str, slots: int = 5) -> Engine:
    return Engine(
        database,
        definitions=[fan_out, one, slow, plain, gated],
        resources={"who": who},
        max_activities=slots,
        max_activity_threads=slots,
    )


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.005)


def terms_of(engine: Engine) -> object:
    assert engine._worker is not None  # pyright: ignore[reportPrivateUsage]  # what no user sees
    return engine._worker._runner.terms  # pyright: ignore[reportPrivateUsage]  # what no user sees


async def knows_others(engine: Engine) -> None:
    """Let a worker look whether there are others, as it does once per half a lease."""
    lookout: Lookout = engine._worker._lookout  # type: ignore[union-attr]  # it is open
    await lookout._reap()  # pyright: ignore[reportPrivateUsage]  # what no user sees
    assert terms_of(engine).has_others  # type: ignore[attr-defined]  # see above


@pytest.mark.parametrize("kind", ["slow", "plain"])
async def test_a_fan_out_uses_all_workers(database: str, kind: str) -> None:
    async with worker(database, "a") as engine, worker(database, "b"):
        await knows_others(engine)
        assert await engine.execute(fan_out(100, kind)) == sum(range(100))
    counts = Counter(who for who, _ in RAN)
    assert sorted(n for _, n in RAN) == list(range(100))
    assert min(counts["a"], counts["b"]) >= 20, counts


async def test_many_runs_use_all_workers(database: str) -> None:
    GATE.append(asyncio.Event())
    async with worker(database, "a") as engine, worker(database, "b"):
        await knows_others(engine)
        starts = [engine.start(one(n), id=f"one-{n}") for n in range(60)]
        runs = await asyncio.gather(*starts)
        await until(lambda: len(RAN) >= 10)  # all places of both, and none ends
        counts = Counter(who for who, _ in RAN)
        GATE[0].set()
        assert [await run.result() for run in runs] == list(range(60))
    assert sorted(n for _, n in RAN) == list(range(60))
    assert counts == {"a": 5, "b": 5}


async def test_alone_it_writes_no_tasks(database: str) -> None:
    GATE.append(asyncio.Event())
    async with worker(database, "a") as engine:
        run = await engine.start(fan_out(20, "gated"), id="f")
        await until(lambda: len(RAN) == 5)
        store = engine._store  # pyright: ignore[reportPrivateUsage]  # what no user sees
        assert await store.read(ListActivityTasks("default")) == []
        GATE[0].set()
        assert await run.result() == sum(range(20))


async def test_what_waits_goes_to_a_worker_that_comes(database: str) -> None:
    GATE.append(asyncio.Event())
    async with worker(database, "a") as engine:
        run = await engine.start(fan_out(12, "gated"), id="f")
        await until(lambda: len(RAN) == 5)
        async with worker(database, "b"):
            await knows_others(engine)
            await until(lambda: len(RAN) == 10)
            assert Counter(who for who, _ in RAN) == {"a": 5, "b": 5}
            GATE[0].set()
            assert await run.result() == sum(range(12))
    assert sorted(n for _, n in RAN) == list(range(12))


async def test_what_was_left_to_others_comes_back(database: str) -> None:
    """Those who might have taken it are gone before they have begun it."""
    GATE.append(asyncio.Event())
    async with worker(database, "a") as engine:
        async with worker(database, "b", slots=1):
            await knows_others(engine)
            run = await engine.start(fan_out(20, "gated"), id="f")
            await until(lambda: len(RAN) == 6)
            GATE[0].set()
            GATE[0] = asyncio.Event()
        GATE[0].set()
        assert await run.result() == sum(range(20))
    assert sorted(n for _, n in RAN) == list(range(20))
