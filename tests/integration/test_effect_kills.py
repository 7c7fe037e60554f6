"""What runs how often when its worker dies: each class of effects, and transactions."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from durable import ActivityState, Done, Engine, Handle, NotDone
from durable.errors import ActivityNotFoundError, InvalidCallError
from durable.store.callers.transactions import _make_engine
from tests.integration import effect_kill

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@asynccontextmanager
async def worker(
    database: str, moment: str, log: Path
) -> AsyncGenerator[subprocess.Popen[str]]:
    process = subprocess.Popen(  # noqa: ASYNC220 - a fork takes milliseconds
        [sys.executable, effect_kill.__file__, database, moment, str(log)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    watchdog = threading.Timer(50, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        assert line in ("ready\n", "")  # or it has died by then
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def die(database: str, moment: str, log: Path) -> None:
    async with worker(database, moment, log) as process:
        assert await asyncio.to_thread(process.wait) == -9


def lines_of(log: Path) -> list[str]:
    return log.read_text().splitlines()


async def until(check: Callable[[], Any]) -> Any:
    async with asyncio.timeout(40):
        while not (found := await check()):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)
    return found


def client(database: str) -> Engine:
    known = [effect_kill.run, effect_kill.plain, effect_kill.verified]
    return Engine(
        database,
        worker=False,
        definitions=[*known, effect_kill.order, effect_kill.book],
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "effects").touch()
    return tmp_path / "effects"


# What ran, by attempt, and what came of it; "?" waits for an operator.
EXPECTED = {
    ("begun", "read"): ([2], "charge 2"),
    ("begun", "idempotent"): ([2], "charge 2"),
    ("begun", "once"): ([], "unknown since 1"),
    ("begun", "wait"): ([], "?"),
    ("begun", "verify"): ([2], "charge 2"),
    ("running", "read"): ([1, 2], "charge 2"),
    ("running", "idempotent"): ([1, 2], "charge 2"),
    ("running", "once"): ([1], "unknown since 1"),
    ("running", "wait"): ([1], "?"),
    ("running", "verify"): ([1], "charge found"),
    ("returned", "idempotent"): ([1, 2], "charge 2"),
    ("returned", "once"): ([1], "unknown since 1"),
    ("returned", "verify"): ([1], "charge found"),
}


@pytest.mark.sweep(3)
@pytest.mark.parametrize("queue", ["default", "gpu"])
@pytest.mark.parametrize(("moment", "way"), EXPECTED, ids=map("-".join, EXPECTED))
async def test_what_runs_how_often_if_its_worker_is_killed(
    tmp_path: Path, log: Path, moment: str, way: str, queue: str
) -> None:
    await ran_how_often(f"sqlite:///{tmp_path / 'runs.db'}", log, moment, way, queue)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("way", ["verify", "wait", "once"])
async def test_what_runs_how_often_on_each_database(
    shared_url: str, log: Path, way: str
) -> None:
    await ran_how_often(shared_url, log, "running", way, "gpu")


async def ran_how_often(
    database: str, log: Path, moment: str, way: str, queue: str
) -> None:
    attempts, result = EXPECTED[moment, way]
    async with client(database) as engine:
        run = await engine.start(effect_kill.run(way, queue), id="k")
        await die(database, moment, log)
        async with worker(database, "never", log):
            if result == "?":
                await until(lambda: in_doubt(run))
                await engine.activities.resolve(
                    Done("said"), workflow_id="k", activity_id="1"
                )
                result = "said"
            assert await run.result(timeout=40) == result
    assert [int(line.split()[1]) for line in lines_of(log)] == attempts


async def in_doubt(run: Handle[Any]) -> bool:
    found = await run.activities()
    return bool(found) and found[0].state is ActivityState.IN_DOUBT


@pytest.mark.sweep(1)
@pytest.mark.parametrize("queue", ["default", "gpu"])
async def test_poison_stops_after_its_attempts_and_neighbours_complete(
    tmp_path: Path, log: Path, queue: str
) -> None:
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with client(database) as engine:
        run = await engine.start(effect_kill.run("idempotent", queue, "poison"), id="p")
        near = [
            await engine.start(
                effect_kill.run("idempotent", queue, f"n{i}"), id=f"n{i}"
            )
            for i in range(3)
        ]
        for _ in range(effect_kill.LOST_MAX):
            await die(database, "poison", log)
        async with worker(database, "poison", log) as process:
            last = await run.result(timeout=40)
            assert last == f"unknown since {effect_kill.LOST_MAX}"
            for other in near:
                assert (await other.result(timeout=40)).startswith("n")
            assert process.poll() is None
    lines = lines_of(log)
    assert [f"poison {n}" for n in range(1, effect_kill.LOST_MAX + 1)] == [
        line for line in lines if line.startswith("poison")
    ]


async def test_one_that_an_operator_calls_not_done_runs_again(
    tmp_path: Path, log: Path
) -> None:
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with client(database) as engine:
        run = await engine.start(effect_kill.run("wait", "default"), id="k")
        await die(database, "begun", log)
        async with worker(database, "never", log):
            await until(lambda: in_doubt(run))
            await engine.activities.resolve(NotDone(), workflow_id="k", activity_id="1")
            assert await run.result(timeout=40) == "charge 2"
    assert lines_of(log) == ["charge 2"]


# --- transactions ---------------------------------------------------------------------


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    ("moment", "rows"),
    [("written", 0), ("fencing", 0), ("fenced", 0), ("committed", 1), ("told", 1)],
)
async def test_a_row_and_the_result_are_there_both_or_neither(
    shared_url: str, log: Path, moment: str, rows: int
) -> None:
    async with client(shared_url) as engine:
        tables = _make_engine(engine._store)
        count = sa.text("SELECT count(*) FROM booked")
        with tables.begin() as connection:
            connection.execute(sa.text("CREATE TABLE booked (n INTEGER)"))
        run = await engine.start(effect_kill.order(7), id="k")
        await die(shared_url, moment, log)
        with tables.begin() as connection:
            assert connection.scalar(count) == rows
        named = {"workflow_id": "k", "activity_id": "1"}
        outside = engine.activities
        refused = (InvalidCallError, *([ActivityNotFoundError] * (moment == "told")))
        for speak in (
            outside.complete(result=1, **named),
            outside.fail(error="no", **named),
            outside.cancel(**named),
            outside.resolve(NotDone(), **named),
            run.complete_activity("1", 1),
            run.retry_activity("1"),
        ):
            with pytest.raises(refused):
                await speak
        async with worker(shared_url, "never", log):
            assert await run.result(timeout=40) == 14
        with tables.begin() as connection:
            assert connection.scalar(count) == 1


async def test_a_committed_transaction_is_no_cancelled_one(
    tmp_path: Path, log: Path
) -> None:
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with client(database) as engine:
        with _make_engine(engine._store).begin() as connection:
            connection.execute(sa.text("CREATE TABLE booked (n INTEGER)"))
        run = await engine.start(effect_kill.order(7, patient=True), id="k")
        await die(database, "committed", log)
        await run.cancel()
        async with worker(database, "never", log):
            assert await run.result(timeout=40) == 14
