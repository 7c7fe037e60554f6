"""The facade for programs without an event loop."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from durable import (
    Engine,
    ResultTimeoutError,
    RunStatus,
    SyncEngine,
    WorkflowCancelledError,
    activity,
    sleep,
    workflow,
)
from durable.errors import EngineClosedError


@activity(name="sync.add")
def add(a: int, b: int) -> int:
    return a + b


@workflow(name="sync.total")
async def total(numbers: list[int]) -> int:
    result = 0
    for number in numbers:
        result = await add(result, number)
    return result


@workflow(name="sync.wait")
async def wait() -> None:
    await sleep("1d")


def test_a_script_starts_finds_and_stops_runs(tmp_path: Path) -> None:
    with SyncEngine(f"sqlite:///{tmp_path / 'runs.db'}") as engine:
        assert engine.execute(total([1, 2, 3]), id="sum") == 6
        found = engine.get("sum", workflow=total)
        assert found.result() == 6
        assert found.describe().status is RunStatus.COMPLETED
        assert len(found.history()) == 8
        run = engine.start(wait(), id="wait")
        with pytest.raises(ResultTimeoutError):
            run.result(timeout="10ms")
        run.cancel("enough")
        with pytest.raises(WorkflowCancelledError):
            run.result()
        assert [r.workflow_id for r in engine.list()] == ["wait", "sum"]


def test_several_threads_share_one_engine() -> None:
    results: list[int] = []
    with SyncEngine("memory://") as engine:
        threads = [
            threading.Thread(
                target=lambda n=n: results.append(engine.execute(total([n, n])))
            )
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [2 * n for n in range(8)]


def test_use_before_open_and_after_close_is_refused() -> None:
    engine = SyncEngine("memory://")
    with pytest.raises(EngineClosedError, match="not open"):
        engine.list()
    engine.open()
    engine.close()
    engine.close()
    with pytest.raises(EngineClosedError):
        engine.list()


async def test_the_async_engine_refuses_use_after_close_too() -> None:
    engine = Engine("memory://")
    with pytest.raises(EngineClosedError, match="not open"):
        await engine.list()
    async with engine:
        pass
    await engine.close()
    with pytest.raises(EngineClosedError, match="closed"):
        await engine.list()
    await engine.open()
    assert await engine.execute(total([1])) == 1
    await engine.close()


async def test_many_engines_open_and_close_in_one_process(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with Engine(url) as one, Engine(url) as two, Engine("memory://") as three:
        assert await one.execute(total([1])) == 1
        assert await two.execute(total([2])) == 2
        assert await three.execute(total([3])) == 3
