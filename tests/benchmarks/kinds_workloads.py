"""Activities that are plain functions: in threads, and in processes."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from durable import Engine, activity, workflow
from tests.benchmarks.databases import url_of

_WARM_UP = 100
# Some tens of milliseconds of pure Python: many times what it costs to get there.
_ADDITIONS = 400_000


@activity(name="bench.in_thread")
def in_thread(number: int) -> int:
    return number


@workflow(name="bench.fan_out_threads")
async def fan_out_threads(count: int) -> int:
    return sum(await asyncio.gather(*[in_thread(n) for n in range(count)]))


@activity(name="bench.in_process", run_in="process")
def in_process(number: int) -> int:
    total = number
    for each in range(_ADDITIONS):
        total += each ^ number
    return total


@workflow(name="bench.fan_out_processes")
async def fan_out_processes(count: int) -> int:
    return sum(await asyncio.gather(*[in_process(n) for n in range(count)]))


async def threads(directory: Path, size: int) -> dict[str, Any]:
    """Activities in threads, all of one run."""
    async with Engine(url_of(directory)) as engine:
        await engine.execute(fan_out_threads(_WARM_UP))
        began = time.perf_counter()
        await engine.execute(fan_out_threads(size))
        return {"seconds": time.perf_counter() - began}


async def processes(directory: Path, size: int) -> dict[str, Any]:
    """Activities that compute, in one process and then in two."""
    taken = []
    for count in (1, 2):
        url = url_of(directory)
        async with Engine(url, max_activity_processes=count) as engine:
            await engine.execute(fan_out_processes(2 * count))
            began = time.perf_counter()
            await engine.execute(fan_out_processes(size))
            taken.append(time.perf_counter() - began)
    return {"one": taken[0], "two": taken[1]}


WORKLOADS: dict[str, Callable[[Path, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "threads": threads,
    "processes": processes,
}


def run_workload(workload: str, directory: Path, size: int) -> dict[str, Any]:
    return asyncio.run(WORKLOADS[workload](directory, size))
