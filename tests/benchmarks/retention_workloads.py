"""Closed runs whose time is over: how fast they go, and what others notice of it."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

from durable import Engine, RetentionRule, activity, workflow
from durable.client.keeping.retention import sweep
from durable.store.connect import connect
from durable.store.records import RunRecord, RunStatus, StartRun
from durable.store.store import Store
from tests.benchmarks.databases import url_of

_BATCH = 1_000
_EVENTS = 4  # as a run of one activity has
_LONG_AGO = 1_600_000_000_000_000
_LONE_RUNS = 300
RULES = [RetentionRule(keep="1d")]


@activity(name="retained.step")
async def _step(number: int) -> int:
    return number


@workflow(name="retained.one")
async def _one(number: int) -> int:
    return await _step(number)


def _start(number: int) -> StartRun:
    run_id = f"0170e4b3-4000-7000-8000-{number:012}"
    record = RunRecord(
        namespace="default",
        workflow_id=f"wf-{number}",
        run_id=run_id,
        workflow_type="retained.one",
        task_queue="queue",
        status=RunStatus.COMPLETED,
        started_at=_LONG_AGO + number,
        closed_at=_LONG_AGO + number + 1,
        first_run_id=run_id,
        root_run_id=run_id,
        request_id=run_id,
    )
    data = f'{{"filler":"{"x" * 200}"}}'
    rows = [
        (run_id, event_id, 1, "TimerFired", _LONG_AGO, data, 0)
        for event_id in range(1, _EVENTS + 1)
    ]
    return StartRun(record=record, rows=rows)


async def _fill(store: Store, size: int) -> None:
    for first in range(0, size, _BATCH):
        numbers = range(first, min(first + _BATCH, size))
        await asyncio.gather(*(store.perform(_start(number)) for number in numbers))


async def _lone_runs(engine: Engine, prefix: str, until: Callable[[], bool]) -> float:
    taken: list[float] = []
    while len(taken) < _LONE_RUNS and not until():
        began = time.perf_counter()
        await engine.execute(_one(len(taken)), id=f"{prefix} {len(taken)}")
        taken.append(time.perf_counter() - began)
    return median(taken)


async def retained(directory: Path, size: int) -> dict[str, Any]:
    """Runs a second alone, and a lone run's p50 while a sweep goes on, and without."""
    store = connect(url_of(directory))
    await store.open()
    await _fill(store, size)
    began = time.perf_counter()
    swept = await sweep(store, "default", RULES)
    seconds = time.perf_counter() - began
    assert swept.deleted == size, swept
    await _fill(store, size)
    await store.close()
    async with Engine(url_of(directory), definitions=[_one, _step]) as engine:
        await _lone_runs(engine, "warm", lambda: False)
        alone = await _lone_runs(engine, "alone", lambda: False)
        worker = engine._worker
        assert worker is not None
        sweeping = asyncio.create_task(
            sweep(engine._store, "default", RULES, is_busy=worker.is_busy)
        )
        beside = await _lone_runs(engine, "beside", sweeping.done)
        sweeping.cancel()
    return {"seconds": seconds, "alone": alone, "beside": beside}


WORKLOADS: dict[str, Callable[[Path, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "retained": retained,
}


def run_workload(workload: str, directory: Path, size: int) -> dict[str, Any]:
    return asyncio.run(WORKLOADS[workload](directory, size))
