"""Workers that die by SIGKILL in the middle of what they took: what ran how often."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, OutcomeUnknown, WorkflowFailedError, limits
from tests.integration import task_kill

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOST_ATTEMPTS_MAX", task_kill.LOST_MAX)


@asynccontextmanager
async def worker(
    database: str, moment: str, log: Path, *more: str
) -> AsyncGenerator[subprocess.Popen[str]]:
    process = subprocess.Popen(  # noqa: ASYNC220 - a fork takes milliseconds
        [sys.executable, task_kill.__file__, database, moment, str(log), *more],
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


async def dead(process: subprocess.Popen[str]) -> None:
    assert await asyncio.to_thread(process.wait) == -9


def ran(log: Path) -> Counter[int]:
    lines = log.read_text().splitlines() if log.exists() else []
    return Counter(int(line.split()[1]) for line in lines)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "effects"


def home(database: str) -> Engine:
    return Engine(database, definitions=[task_kill.run])


@pytest.fixture
def database(shared_url: str) -> str:
    return shared_url


@pytest.mark.parametrize(
    ("moment", "attempts", "details"),
    [
        ("claimed", {2: 1}, []),
        ("running", {1: 1, 2: 1}, [{"done": 7}]),
        ("ending", {1: 1, 2: 1}, None),
        ("ended", {1: 1}, None),
    ],
)
async def test_what_may_run_again(
    database: str, log: Path, moment: str, attempts: dict[int, int], details: object
) -> None:
    async with home(database) as engine:
        run = await engine.start(task_kill.run(7), id="k")
        async with worker(database, moment, log) as first:
            await dead(first)
        async with worker(database, "never", log):
            attempt, found = await run.result(timeout=40)
    assert ran(log) == attempts
    assert attempt == max(attempts)
    assert details is None or found == details


@pytest.mark.parametrize(
    ("moment", "times", "is_known"),
    [
        ("claimed", 0, False),
        ("running", 1, False),
        ("ending", 1, False),
        ("ended", 1, True),
    ],
)
async def test_what_must_not_run_again(
    database: str, log: Path, moment: str, times: int, is_known: bool
) -> None:
    async with home(database) as engine:
        run = await engine.start(task_kill.run(7, once=True), id="k")
        async with worker(database, moment, log) as first:
            await dead(first)
        async with worker(database, "never", log):
            if is_known:
                assert (await run.result(timeout=40))[0] == 1
            else:
                with pytest.raises(WorkflowFailedError) as caught:
                    await run.result(timeout=40)
                assert isinstance(caught.value.__cause__, OutcomeUnknown)
    assert ran(log).total() == times


async def test_one_that_kills_its_worker_is_given_up(database: str, log: Path) -> None:
    async with home(database) as engine:
        run = await engine.start(task_kill.run(7), id="k")
        for _ in range(task_kill.LOST_MAX):
            async with worker(database, "poison", log) as one:
                await dead(one)
        async with worker(database, "never", log):
            with pytest.raises(WorkflowFailedError) as caught:
                await run.result(timeout=40)
            other = await engine.start(task_kill.run(8), id="neighbour")
            assert (await other.result(timeout=20))[0] == 1
    assert isinstance(caught.value.__cause__, OutcomeUnknown)
    assert ran(log)[1] == 2
    assert ran(log).total() == task_kill.LOST_MAX + 1


async def test_details_survive_the_worker_of_the_run(database: str, log: Path) -> None:
    async with Engine(database, worker=False, definitions=[task_kill.run]) as client:
        run = await client.start(task_kill.run(7, local=True), id="k")
        async with worker(database, "running", log, "local") as first:
            await dead(first)
        async with worker(database, "never", log, "local"):
            result: list[Any] = await run.result(timeout=40)
    assert result == [2, [{"done": 7}]]
    assert ran(log) == {1: 1, 2: 1}
