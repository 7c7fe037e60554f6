"""What users of queues have met elsewhere is done here, and does not come to pass."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from durable import (
    ActivityTimeoutError,
    Engine,
    Rate,
    WorkflowCancelledError,
    WorkflowFailedError,
    activity,
    workflow,
)
from tests.integration import queue_kill
from tests.integration.queue_kill import QUEUE
from tests.integration.test_queue_kills import Limits, judge, read_ledger

ROOT = Path(__file__).parents[2]
BEGAN: list[str] = []
RUNNING: list[str] = []
MOST: list[int] = []
GATE: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    for one in (BEGAN, RUNNING, MOST, GATE):
        one.clear()
    GATE.append(asyncio.Event())


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/queue.db"


@activity(name="reports.job", task_queue="q", retry=None)
async def job(key: str) -> str:
    BEGAN.append(key)
    RUNNING.append(key)
    MOST.append(len(RUNNING))
    await asyncio.sleep(0.003)
    RUNNING.remove(key)
    return key


@activity(name="reports.held", task_queue="q", retry=None)
async def held(key: str) -> str:
    BEGAN.append(key)
    await GATE[0].wait()
    return key


@activity(name="reports.strange", task_queue="q")
async def strange() -> None: ...


@workflow(name="reports.jobs")
async def jobs(keys: list[str]) -> int:
    calls = [job.options(fairness_key=key)(key) for key in keys]
    return len(await asyncio.gather(*calls))


@workflow(name="reports.holds")
async def holds(keys: list[str]) -> int:
    calls = [held.options(fairness_key=key)(key) for key in keys]
    return len(await asyncio.gather(*calls))


@workflow(name="reports.late")
async def late() -> None:
    await job.options(schedule_to_start_timeout=0.05)("late")


@workflow(name="reports.asks_strangers")
async def asks_strangers() -> None:
    await strange()


RUNS = [jobs, holds, late, asks_strangers]


@asynccontextmanager
async def opened(database: str) -> AsyncGenerator[Engine]:
    """Where the runs are, which serves no queue."""
    async with Engine(database, definitions=RUNS, task_queue="runs") as engine:
        yield engine


def worker(database: str, slots: int = 9, **options: float) -> Engine:
    return Engine(
        database,
        definitions=[job, held],
        task_queue="none",
        activity_queues={"q": slots},
        **options,  # type: ignore[arg-type]  # drain_timeout
    )


async def until(is_so: Callable[[], Awaitable[object]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await is_so():  # noqa: ASYNC110 - a worker makes it so
            await asyncio.sleep(0.005)


async def began(count: int, seconds: float = 20) -> None:
    async def have() -> bool:
        return len(BEGAN) >= count

    await until(have, seconds)


async def waits(engine: Engine, count: int) -> None:
    async def do() -> bool:
        return (await engine.queues.get("q")).waiting == count

    await until(do)


async def test_many_workers_that_see_one_free_slot_run_one(database: str) -> None:
    async with opened(database) as engine, AsyncExitStack() as stack:
        await engine.queues.configure("q", concurrency=1)
        for _ in range(5):
            await stack.enter_async_context(worker(database))
        assert await engine.execute(jobs(["a"] * 30)) == 30
    assert set(MOST) == {1}


@pytest.mark.slow
async def test_three_that_boot_after_a_kill_at_the_limit_keep_to_it(
    tmp_path: Path, database: str
) -> None:
    ledger = tmp_path / "ledger"
    processes: list[asyncio.subprocess.Process] = []

    async def boot(commit: int) -> None:
        processes.append(
            await asyncio.create_subprocess_exec(
                *(sys.executable, queue_kill.__file__, database, str(ledger)),
                str(commit),
                stdout=asyncio.subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        )

    definitions = [queue_kill.fan]
    async with Engine(database, definitions=definitions) as engine:
        await engine.queues.configure(QUEUE, concurrency=1)
        run = await engine.start(queue_kill.fan("abc" * 4))
        try:
            await boot(6)
            assert await processes[0].wait() == -9
            for _ in range(3):
                await boot(0)
            assert await run.result(timeout=50) == sum(range(12))
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
    judge(read_ledger(ledger), Limits(1, None, None, None))


async def test_pause_is_heeded_by_what_is_started_right_after_it(
    database: str,
) -> None:
    async with opened(database) as engine, worker(database):
        await engine.execute(jobs(["a"]))
        await engine.queues.pause("q")
        run = await engine.start(jobs(["b", "b"]))
        await waits(engine, 2)
        # It would be taken by now, as the first one was.
        await engine.queues.configure("other", concurrency=1)
        assert BEGAN == ["a"]
        await engine.queues.resume("q")
        assert await run.result(timeout=20) == 2


async def test_pause_removes_nothing_and_outlives_its_workers(database: str) -> None:
    async with opened(database) as engine:
        await engine.queues.pause("q")
        run = await engine.start(jobs(["a", "b", "c"]))
        await waits(engine, 3)
        for _ in range(2):
            async with worker(database):
                await waits(engine, 3)
        assert BEGAN == []
        async with worker(database):
            await engine.queues.resume("q")
            assert await run.result(timeout=20) == 3


async def test_limit_that_is_taken_away_leaves_nothing_behind(database: str) -> None:
    async with opened(database) as engine, worker(database):
        await engine.queues.configure("q", key_concurrency=1)
        run = await engine.start(holds(["a"] * 40))
        await began(1)
        await waits(engine, 39)
        await engine.queues.delete("q")
        GATE[0].set()
        assert await run.result(timeout=20) == 40


async def test_key_at_its_limit_keeps_nobody_else_waiting(database: str) -> None:
    async with opened(database) as engine, worker(database):
        await engine.queues.configure("q", concurrency=5, key_concurrency=1)
        flood = await engine.start(holds(["big"] * 50))
        await began(1)
        assert await engine.execute(jobs(["small"] * 5)) == 5
        assert BEGAN.count("big") == 1
        GATE[0].set()
        assert await flood.result(timeout=20) == 50


async def test_idle_worker_hears_that_a_slot_elsewhere_is_free(database: str) -> None:
    async with opened(database) as engine:
        await engine.queues.configure("q", concurrency=1)
        run = await engine.start(holds(["a", "b"]))
        first = worker(database)
        await first.open()
        await began(1)
        async with worker(database):
            closing = asyncio.create_task(first.close())  # it ends what it has
            GATE[0].set()
            await began(2, seconds=4)  # and not when the other looks around
            await closing
            assert await run.result(timeout=20) == 2


async def test_activity_that_no_worker_knows_takes_no_slot(database: str) -> None:
    async with opened(database) as engine, worker(database):
        await engine.queues.configure("q", concurrency=1)
        unknown = await engine.start(asks_strangers())
        await waits(engine, 1)
        assert await engine.execute(jobs(["a"] * 3)) == 3
        await unknown.terminate("nobody knows it")
        assert (await engine.queues.get("q")).waiting == 0


async def test_rate_goes_on_after_its_first_time_has_passed(database: str) -> None:
    async with opened(database) as engine, worker(database):
        await engine.queues.configure("q", rate=Rate(2, per="50ms"))
        async with asyncio.timeout(20):
            assert await engine.execute(jobs(["a"] * 20)) == 20


async def test_what_waits_in_a_paused_queue_can_end(database: str) -> None:
    async with opened(database) as engine, worker(database):
        await engine.queues.pause("q")
        cancelled = await engine.start(jobs(["a"]))
        await waits(engine, 1)
        await cancelled.cancel()
        with pytest.raises(WorkflowCancelledError):
            await cancelled.result(timeout=20)
        run = await engine.start(late())
        with pytest.raises(WorkflowFailedError) as caught:
            await run.result(timeout=20)
        assert isinstance(caught.value.__cause__, ActivityTimeoutError)
        assert BEGAN == []


async def test_lower_limit_waits_for_what_runs_and_a_higher_one_for_nothing(
    database: str,
) -> None:
    async with opened(database) as engine, worker(database):
        await engine.queues.configure("q", concurrency=3)
        run = await engine.start(holds(list("abcdef")))
        await began(3)
        await engine.queues.configure("q", concurrency=1)
        assert (await engine.queues.get("q")).running == 3
        await engine.queues.configure("q", concurrency=5)
        await began(5)
        await waits(engine, 1)
        GATE[0].set()
        assert await run.result(timeout=20) == 6


@pytest.mark.parametrize("way", ["cancel", "terminate"])
async def test_a_stopped_run_gave_its_slot_to_two(database: str, way: str) -> None:
    async with opened(database) as engine, worker(database):
        await engine.queues.configure("q", concurrency=2)
        running = [await engine.start(holds([f"a{n}"]), id=f"a{n}") for n in range(2)]
        await began(2)
        for n in range(3):
            await engine.start(holds([f"b{n}"]), id=f"b{n}")
        await waits(engine, 3)
        await getattr(running[0], way)()
        await began(3)
        await waits(engine, 2)
        assert (await engine.queues.get("q")).running == 2
        GATE[0].set()
        await began(5)
