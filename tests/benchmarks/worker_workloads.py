"""Workers in processes of their own: how much more two do, how soon they answer.

And what a worker costs that has nothing to do.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from statistics import median
from typing import Any

from durable import (
    Engine,
    activity,
    query,
    run,
    signal,
    update,
    wait_condition,
    workflow,
)
from tests.benchmarks.children import work_until_told, worker_process
from tests.benchmarks.databases import url_of

_WARM_UP = 20
_TURNS = 5
# Some milliseconds of pure Python: many times what the turn costs around it.
_ADDITIONS = 100_000
# What a worker does at its beginning is over.
_SETTLED = 2.0


@activity(name="bench.pass_on")
async def pass_on(number: int) -> int:
    return number


@workflow(name="bench.heavy")
async def heavy() -> int:
    total = 0
    for turn in range(_TURNS):
        for number in range(_ADDITIONS):
            total += number ^ turn
        total = await pass_on(total)
    return total


@workflow(name="bench.Account")
class Account:
    """Answers until it is closed."""

    def __init__(self) -> None:
        self.balance = 0
        self.is_closed = False

    @run
    async def keep(self) -> int:
        await wait_condition(lambda: self.is_closed)
        return self.balance

    @query
    def value(self) -> int:
        return self.balance

    @update
    def add(self, amount: int) -> int:
        self.balance += amount
        return self.balance

    @signal
    def close(self) -> None:
        self.is_closed = True


def _worker(directory: Path) -> AbstractAsyncContextManager[None]:
    return worker_process("tests.benchmarks.worker_workloads", directory)


# --- workloads ------------------------------------------------------------------------


async def heavy_code(directory: Path, size: int) -> dict[str, Any]:
    """Runs whose own code computes, with one worker and then with two."""
    async with Engine(url_of(directory), worker=False) as client, _worker(directory):
        one = await _execute_all(client, size)
        async with _worker(directory):
            two = await _execute_all(client, size)
    return {"one": one, "two": two}


async def _execute_all(client: Engine, size: int) -> float:
    await asyncio.gather(*[client.execute(heavy()) for _ in range(_WARM_UP)])
    began = time.perf_counter()
    await asyncio.gather(*[client.execute(heavy()) for _ in range(size)])
    return time.perf_counter() - began


async def asked_across(directory: Path, size: int) -> dict[str, Any]:
    """Queries and updates of a client, answered by another process's worker."""
    queries, updates = [], []
    async with Engine(url_of(directory), worker=False) as client, _worker(directory):
        handle = await client.start(Account.keep())
        for number in range(size):
            began = time.perf_counter()
            await handle.update(Account.add(number))
            updates.append(time.perf_counter() - began)
            began = time.perf_counter()
            await handle.query(Account.value())
            queries.append(time.perf_counter() - began)
        await handle.signal(Account.close())
        await handle.result()
    return {"query": median(queries), "update": median(updates)}


async def idle(directory: Path, size: int) -> dict[str, Any]:
    """The processor's time of a worker that has nothing to do, for so many seconds."""
    async with Engine(url_of(directory)) as engine:
        await asyncio.gather(*[engine.execute(heavy()) for _ in range(_WARM_UP)])
        await asyncio.sleep(_SETTLED)
        before = time.process_time()
        await asyncio.sleep(size)
        return {"share": (time.process_time() - before) / size}


WORKLOADS: dict[str, Callable[[Path, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "heavy_code": heavy_code,
    "asked_across": asked_across,
    "idle": idle,
}


def run_workload(workload: str, directory: Path, size: int) -> dict[str, Any]:
    return asyncio.run(WORKLOADS[workload](directory, size))


if __name__ == "__main__":
    asyncio.run(work_until_told(Engine(url_of(Path(sys.argv[1])))))
