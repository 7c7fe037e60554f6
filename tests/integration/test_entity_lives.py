"""Entities over their lives: restarts, ends, rest, and what they cost."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Engine,
    RunStatus,
    SyncEngine,
    UpdateFailedError,
    WorkflowStuckError,
    locked,
    sleep,
    workflow,
)
from durable.api.entities import entity_definition
from durable.errors import UpdateRejectedError
from durable.store.queries import LoadRuns, Query, ReadHistory
from durable.testing.environment import TestEnvironment
from tests.integration.stock import RAN, Stock, order, work


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


async def test_state_survives_restarts(database: str) -> None:
    clock = None
    for number in range(1, 6):
        async with TestEnvironment(database, clock=clock) as env:
            clock = env.clock
            assert await env.call(Stock["a"].take(f"{number}")) == 10 - number
    async with TestEnvironment(database, clock=clock) as env:
        assert await env.call(Stock["a"].left()) == 5
        assert await env.call(Stock["a"].whose()) == ["a", *"12345"]


async def test_cancelled_entity_ends_after_its_calls_and_begins_anew() -> None:
    async with TestEnvironment() as env:
        calls = [asyncio.create_task(env.call(Stock["a"].take(k))) for k in "bc"]
        await env.settle()
        run = await env.get("entity:entities.Stock:a")
        await run.cancel()
        assert await asyncio.gather(*calls) == [9, 8]
        await env.settle()
        assert (await run.describe()).status is RunStatus.CANCELLED
        assert await env.call(Stock["a"].left()) == 10
        assert await env.call(Stock["a"].put()) == 11


async def test_terminated_entity_fails_the_calls_under_way_and_begins_anew() -> None:
    async with TestEnvironment() as env:
        in_workflow = await env.start(order("a"), id="w")
        call = asyncio.create_task(env.call(Stock["a"].take("b")))
        await env.settle()
        await (await env.get("entity:entities.Stock:a")).terminate("gone")
        with pytest.raises(UpdateFailedError, match="ended before"):
            await call
        found = await in_workflow.result()
        assert "UpdateFailedError" in found[0]
        assert found[1] == 10


async def test_call_that_an_ended_entity_did_not_take_goes_to_the_next() -> None:
    name = "memory://not-taken"
    async with TestEnvironment(name, worker=False) as client:
        calls = [asyncio.create_task(client.call(Stock["a"].put()))]
        await client.settle()
        calls.append(asyncio.create_task(client.call(Stock["a"].put())))
        await client.settle()
        await (await client.get("entity:entities.Stock:a")).terminate()
        async with TestEnvironment(name, clock=client.clock) as env:
            assert sorted(await asyncio.gather(*calls)) == [11, 12]
            assert len(await env.list()) == 2


async def test_leaving_a_section_does_not_make_an_ended_entity_anew() -> None:
    @workflow(name="lives.holding")
    async def holding() -> str:
        async with locked(Stock["a"]):
            await sleep(10)
        return "done"

    async with TestEnvironment() as env:
        run = await env.start(holding())
        await env.sleep(1)
        await (await env.get("entity:entities.Stock:a")).terminate()
        assert await run.result() == "done"
        found = await env.list(workflow_type="entity:entities.Stock")
        assert [entity.status for entity in found] == [RunStatus.TERMINATED]


async def test_entity_that_is_called_without_a_pause_stays_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entity_definition, "BUSY_EVENTS", 40)

    async def caller(env: TestEnvironment) -> None:
        for _ in range(25):
            await env.call(Stock["a"].take("x", 0))

    async with TestEnvironment() as env:
        await asyncio.gather(caller(env), caller(env), env.execute(order("a", n=0)))
        assert RAN.count("begin x") == 50
        run = await env.get("entity:entities.Stock:a")
        events = [type(e.attributes).__name__ for e in await run.history()]
        taken = [n for n, kind in enumerate(events) if kind == "CheckpointRecorded"]
        assert max(b - a for a, b in itertools.pairwise([0, *taken])) < 60


async def test_entity_is_a_run_that_can_be_looked_at() -> None:
    async with TestEnvironment() as env:
        nap = asyncio.create_task(env.call(Stock["a"].nap(5)))
        await env.settle()
        run = await env.get("entity:entities.Stock:a")
        frames = [f for task in await run.stack() for f in task.frames]
        assert any("nap" in frame.function for frame in frames)
        assert await run.query("left") == 10
        assert await run.update("put", 5, update_id="by name") == 15
        with pytest.raises(UpdateRejectedError):
            await run.update("put", "text")
        await nap


async def test_idle_entities_cost_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'idle.db'}"
    async with Engine(url, max_cached_runs=10) as engine:
        before = len(asyncio.all_tasks())
        for begin in range(0, 1_000, 100):
            keys = range(begin, begin + 100)
            await asyncio.gather(*[engine.call(Stock[f"k{k}"].put()) for k in keys])
        worker: Any = engine._worker
        assert len(worker._runner.runs) <= 10
        assert len(asyncio.all_tasks()) <= before + 1
        runs = await engine.list(workflow_type="entity:entities.Stock", limit=1_000)
        assert len(runs) == 1_000
    async with Engine(url) as engine:
        before = len(asyncio.all_tasks())
        worker = engine._worker
        assert worker._runner.runs == {}
        assert await engine.call(Stock["k777"].put()) == 12
        assert list(worker._runner.runs) == [
            (await engine.get("entity:entities.Stock:k777")).run_id
        ]
        assert len(asyncio.all_tasks()) <= before + 1


async def test_thousands_of_calls_leave_a_load_of_two_rows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'long.db'}"
    async with Engine(url) as engine:
        for _ in range(20):
            await asyncio.gather(*[engine.call(Stock["a"].put()) for _ in range(100)])
        run = await engine.get("entity:entities.Stock:a")
        assert len(await run.history()) > 4_000
    async with Engine(url) as engine:
        (loaded,) = await engine._store.read(LoadRuns([run.run_id]))
        assert len(loaded.rows) == 2
        assert await engine.call(Stock["a"].left()) == 2_010
        assert await engine.call(Stock["a"].put()) == 2_011


async def test_callers_far_apart_from_the_worker_read_little(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'two.db'}"
    async with Engine(url) as worker, Engine(url, worker=False) as client:
        await asyncio.gather(*[worker.call(Stock["a"].put()) for _ in range(50)])
        rows: list[int] = []
        read = client._store.read

        async def counting(query: Query[Any]) -> Any:
            found = await read(query)
            if isinstance(query, ReadHistory):
                rows.append(len(found))
            return found

        client._store.read = counting  # type: ignore[method-assign]  # to see what is read
        assert await client.call(Stock["a"].put(), timeout="30s") == 61
        assert await client.call(Stock["a"].left()) == 61
        assert await client.call(Stock["b"].put(), timeout="30s") == 11
        assert sum(rows) < 40


async def test_engine_of_some_definitions_calls_entities(tmp_path: Path) -> None:
    async with TestEnvironment(definitions=[Stock, order, work]) as env:
        assert await env.execute(order("a")) == [9, 9]


async def test_stuck_entity_keeps_its_callers_until_it_is_mended(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with TestEnvironment(database) as env:
        await env.call(Stock["a"].put())
    definition: Any = Stock["a"].put().target.definition
    read = definition.decode_state
    monkeypatch.setattr(definition, "decode_state", lambda _: read(None))
    async with TestEnvironment(database, clock=env.clock) as env:
        with pytest.raises(WorkflowStuckError):
            await env.call(Stock["a"].put(), timeout="1h")
        await env.start(order("a"), id="w")
        await env.sleep("10m")
        assert (await (await env.get("w")).describe()).status is RunStatus.RUNNING
    monkeypatch.undo()
    async with TestEnvironment(database, clock=env.clock) as env:
        found = await (await env.get("w", workflow=order)).result()
        # The call that got no answer was durable all the same.
        assert found == [11, 11]


def test_sync_engine_calls_entities() -> None:
    with SyncEngine("memory://") as engine:
        assert engine.call(Stock["a"].put()) == 11
        assert engine.call(Stock["a"].put(2), update_id="x", timeout="5s") == 13
        assert engine.call(Stock["a"].left()) == 13
