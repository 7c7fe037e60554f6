"""Activities that wait in queues: how many, how soon, and by how many workers."""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from durable import Engine, RunStatus, activity, workflow
from durable.clock import SystemClock
from durable.store.activity_tasks import ClaimActivityTasks
from durable.store.lease import RegisterWorker
from durable.store.sql.tables import ACTIVITY_TASKS
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.steady_clock import SteadyClock
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import QUEUE, make_task, make_worker
from tests.benchmarks.children import work_until_told, worker_process
from tests.benchmarks.databases import server_of, url_of
from tests.benchmarks.machine import resident_bytes
from tests.store.stage import ignore, make_executor

_WARM_UP = 20
_BATCH = 500
# Some tens of milliseconds of pure Python: many times what it costs to get there.
_ADDITIONS = 400_000
_CLAIMS = 40
_CLAIMED = 10
_GO_ON = asyncio.Event()
_BEGUN = 0


@activity(name="bench.job")
async def job(number: int) -> int:
    return number


@activity(name="bench.pends")
async def pends(number: int) -> int:
    global _BEGUN
    _BEGUN += 1
    await _GO_ON.wait()
    return number


@activity(name="bench.compute", task_queue="compute")
def compute(number: int) -> int:
    total = number
    for each in range(_ADDITIONS):
        total += each ^ number
    return total


@workflow(name="bench.job_run")
async def job_run(number: int) -> int:
    return await job(number)


@workflow(name="bench.fan_out_jobs")
async def fan_out_jobs(count: int) -> int:
    return sum(await asyncio.gather(*[job(n) for n in range(count)]))


@workflow(name="bench.fan_out_pending")
async def fan_out_pending(count: int) -> int:
    return sum(await asyncio.gather(*[pends(n) for n in range(count)]))


@workflow(name="bench.fan_out_computing")
async def fan_out_computing(count: int) -> int:
    return sum(await asyncio.gather(*[compute(n) for n in range(count)]))


def _worker(directory: Path) -> AbstractAsyncContextManager[None]:
    return worker_process("tests.benchmarks.queue_workloads", directory)


# --- workloads ------------------------------------------------------------------------


async def fanned_widely(directory: Path, size: int) -> dict[str, Any]:
    """Many activities of one run that do nothing."""
    async with Engine(url_of(directory)) as engine:
        await engine.execute(fan_out_jobs(_WARM_UP))
        began = time.perf_counter()
        await engine.execute(fan_out_jobs(size))
        return {"seconds": time.perf_counter() - began}


async def pending(directory: Path, size: int) -> dict[str, Any]:
    """Memory of one run's activities while none of them has ended."""
    async with Engine(url_of(directory), max_activities=size) as engine:
        await engine.execute(fan_out_jobs(_WARM_UP))
        before = resident_bytes()
        handle = await engine.start(fan_out_pending(size))
        while size > _BEGUN:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        grown = resident_bytes() - before
        _GO_ON.set()
        await handle.result()
        return {"grown": grown}


async def standalone(directory: Path, size: int) -> dict[str, Any]:
    """A job without a workflow, and a run of one activity, by turns."""
    jobs, runs = [], []
    async with Engine(url_of(directory)) as engine:
        for number in range(_WARM_UP + size):
            began = time.perf_counter()
            await engine.execute(job_run(number))
            runs.append(time.perf_counter() - began)
            began = time.perf_counter()
            await (await engine.start_activity(job(number))).result()
            jobs.append(time.perf_counter() - began)
    return {"job": median(jobs[_WARM_UP:]), "run": median(runs[_WARM_UP:])}


async def claimed(directory: Path, size: int) -> dict[str, Any]:
    """Claims of ten by turns: from a queue of this size, and of a hundredth of it."""
    few = _fill(directory, "few", max(size // 100, _CLAIMS * _CLAIMED))
    many = _fill(directory, "many", size)
    taken: dict[GroupExecutor, list[float]] = {few: [], many: []}
    for _ in range(_CLAIMS):
        for executor, times in taken.items():
            claim = ClaimActivityTasks(queues=((QUEUE, ("charge",)),), limit=_CLAIMED)
            began = time.perf_counter()
            executor.execute([claim])
            times.append(time.perf_counter() - began)
    few.close()
    many.close()
    return {"few": median(taken[few]), "many": median(taken[many])}


def _executor(directory: Path, name: str) -> GroupExecutor:
    if server_of(directory) is not None:
        return make_executor(url_of(directory, name))
    database = SqliteDatabase(directory / f"{name}.db")
    return GroupExecutor(database, SteadyClock(SystemClock()))


def _fill(directory: Path, name: str, size: int) -> GroupExecutor:
    executor = _executor(directory, name)
    session = executor.open()
    executor.execute([RegisterWorker(make_worker("w"), ignore)])
    for start in range(0, size, _BATCH):
        numbers = range(start, min(start + _BATCH, size))
        tasks = [make_task(f"r{number:07}", due_at=1) for number in numbers]
        session.begin()
        session.insert(ACTIVITY_TASKS, [msgspec.structs.astuple(t) for t in tasks])
        session.commit()
    return executor


async def shared_out(directory: Path, size: int) -> dict[str, Any]:
    """Activities that compute, of one run, on one worker and then on two."""
    async with Engine(url_of(directory)) as engine, _worker(directory):
        one = await _compute_all(engine, size)
        async with _worker(directory):
            two = await _compute_all(engine, size)
    return {"one": one, "two": two}


async def _compute_all(engine: Engine, size: int) -> float:
    await engine.execute(fan_out_computing(4))
    began = time.perf_counter()
    await engine.execute(fan_out_computing(size))
    return time.perf_counter() - began


async def drained(directory: Path, size: int) -> dict[str, Any]:
    """Jobs that wait already, on two workers."""
    async with Engine(url_of(directory), worker=False) as client:
        for start in range(0, size, _BATCH):
            numbers = range(start, min(start + _BATCH, size))
            await asyncio.gather(
                *[client.start_activity(job(n), task_queue="jobs") for n in numbers]
            )
        began = time.perf_counter()
        async with _worker(directory), _worker(directory):
            while await client.list_activities(status=RunStatus.RUNNING, limit=1):  # noqa: ASYNC110 - both are asked alike
                await asyncio.sleep(0.05)
            return {"seconds": time.perf_counter() - began}


WORKLOADS: dict[str, Callable[[Path, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "fanned_widely": fanned_widely,
    "pending": pending,
    "standalone": standalone,
    "claimed": claimed,
    "shared_out": shared_out,
    "drained": drained,
}


def run_workload(workload: str, directory: Path, size: int) -> dict[str, Any]:
    return asyncio.run(WORKLOADS[workload](directory, size))


if __name__ == "__main__":
    asyncio.run(
        work_until_told(
            Engine(
                url_of(Path(sys.argv[1])),
                task_queue="jobs",
                activity_queues={"compute": 2},
            )
        )
    )
