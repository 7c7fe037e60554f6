"""Runs at rest: opened again by the million, shared out, found, and woken by a signal.

And what waiting for runs of other processes costs, counted in reads.
"""

import asyncio
import contextlib
import os
import sqlite3
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, TypeVar, cast

from durable import Engine, Signal, activity, sleep, workflow
from durable.store.connect import connect
from durable.store.queries import Query
from durable.store.store import Store
from tests.benchmarks.children import tell_parent, work_until_told, worker_process
from tests.benchmarks.databases import url_of

T = TypeVar("T")

_BATCH = 1_000
_DAY = 86_400.0
_OPENED = 9
_COMMITS = 20
# So long the first sleeper sleeps: meanwhile another worker comes.
_HEAD_START = 3.0
# So many come due in a second: more than one worker takes at once.
_DUE_A_SECOND = 500
# What waits has read what it must, and what was committed has been heard of.
_SETTLED = 0.3
# Until then all schedules are there.
_HEAD_START_OF_SCHEDULES = timedelta(seconds=15)
tick = Signal("tick", int)


class World:
    """What the activities note."""

    seen: asyncio.Event


@activity(name="bench.woken")
async def woken(number: int) -> int:
    World.seen.set()
    return number


@activity(name="bench.whose")
async def whose() -> int:
    return os.getpid()


@workflow(name="bench.sleeper")
async def sleeper(seconds: float) -> None:
    await sleep(seconds)


@workflow(name="bench.light_sleeper")
async def light_sleeper(seconds: float) -> int:
    async with asyncio.timeout(seconds):
        number = await tick.receive()
    return await woken(number)


@workflow(name="bench.waker")
async def waker(seconds: float) -> int:
    await sleep(seconds)
    return await whose()


@workflow(name="bench.brief")
async def brief() -> int:
    return 1


async def _start_all(engine: Engine, calls: list[Any], prefix: str) -> list[Any]:
    runs = []
    for start in range(0, len(calls), _BATCH):
        batch = enumerate(calls[start : start + _BATCH], start)
        runs += await asyncio.gather(
            *[engine.start(call, id=f"{prefix}-{n}") for n, call in batch]
        )
    return runs


# --- opening --------------------------------------------------------------------------

_FIRST = "sleeper-00000000"


async def prepare_sleepers(directory: Path, size: int) -> dict[str, Any]:
    """Put one run to sleep and wait to be killed."""
    engine = await Engine(url_of(directory)).open()
    await engine.start(sleeper(_DAY), id=_FIRST, request_id=_FIRST)
    return await tell_parent("ready")


async def opened(directory: Path, size: int) -> dict[str, Any]:
    """Open after a kill, with so many sleepers; and an empty file, for comparison."""
    taken = [await _open(url_of(directory, "empty")) for _ in range(_OPENED)]
    with _multiplied(directory / "durable.db", size):
        return {"seconds": await _open(url_of(directory)), "empty": median(taken[1:])}


async def _open(url: str) -> float:
    engine = Engine(url)
    began = time.perf_counter()
    await engine.open()
    seconds = time.perf_counter() - began
    await engine.close()
    return seconds


@contextlib.contextmanager
def _multiplied(path: Path, size: int) -> Any:
    """Copy the rows of the one sleeper that the library wrote, under other ids.

    The connection stays open, so that the log of the killed program is still there.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    execute = connection.execute
    (run_id,) = execute("SELECT run_id FROM durable_runs").fetchone()
    names = {
        "run": run_id,
        "first": _FIRST,
        "head": run_id[:-8],
        "count": size - 1,
    }
    execute("BEGIN IMMEDIATE")
    for table in ("durable_runs", "durable_history"):
        columns = []
        for _, name, kind, *_ in execute(f"PRAGMA table_info({table})"):
            if name == "wake_at":
                columns.append("wake_at + n * 1000")
            elif name == "started_at":
                columns.append("started_at - n * 1000")
            elif "CHAR" in kind or "TEXT" in kind:
                columns.append(
                    f"replace(replace({name}, :run, :head || printf('%08x', n)),"
                    " :first, 'sleeper-' || printf('%08d', n))"
                )
            else:
                columns.append(name)
        execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1"  # noqa: S608 - names of our columns
            f" FROM numbers WHERE n < :count) INSERT INTO {table}"
            f" SELECT {', '.join(columns)} FROM numbers, {table} AS one"
            " WHERE one.run_id = :run AND n <= :count",
            names,
        )
    execute("COMMIT")
    execute("PRAGMA wal_checkpoint(TRUNCATE)")
    try:
        yield
    finally:
        connection.close()


async def multiply_sleepers(directory: Path, size: int) -> dict[str, Any]:
    """Copy the rows of the one sleeper on PostgreSQL, as `_multiplied` does."""
    import psycopg

    async with await psycopg.AsyncConnection.connect(
        url_of(directory), autocommit=True
    ) as connection:
        found = await connection.execute("SELECT run_id FROM durable_runs")
        ((run_id,),) = await found.fetchall()
        for table in ("durable_runs", "durable_history"):
            found = await connection.execute(
                "SELECT column_name, data_type FROM information_schema.columns"
                " WHERE table_name = %s ORDER BY ordinal_position",
                (table,),
            )
            columns = []
            for name, kind in await found.fetchall():
                if name == "wake_at":
                    columns.append("wake_at + n * 1000")
                elif name == "started_at":
                    # No million of runs begins at one instant, nor is listed so.
                    columns.append("started_at - n * 1000")
                elif kind in {"text", "character varying"}:
                    columns.append(
                        f"replace(replace({name}, %(run)s,"
                        f" %(head)s || lpad(to_hex(n), 8, '0')),"
                        f" %(first)s, 'sleeper-' || lpad(n::text, 8, '0'))"
                    )
                else:
                    columns.append(name)
            await connection.execute(
                f"INSERT INTO {table} SELECT {', '.join(columns)}"  # noqa: S608 - names of our columns
                f" FROM generate_series(1, %(count)s) AS numbers (n), {table} AS one"
                " WHERE one.run_id = %(run)s",
                {
                    "run": run_id,
                    "head": run_id[:-8],
                    "first": _FIRST,
                    "count": size - 1,
                },
            )
        await connection.execute("VACUUM ANALYZE")
    return {}


# --- schedules ------------------------------------------------------------------------


async def schedules(directory: Path, size: int) -> dict[str, Any]:
    """Let so many schedules act at one second; tell when the last run had begun."""
    async with Engine(url_of(directory)) as engine:
        due = datetime.now(UTC).replace(microsecond=0) + _HEAD_START_OF_SCHEDULES
        cron = f"{due:%S %M %H %d %m} * {due:%Y}"
        for start in range(0, size, _BATCH):
            await asyncio.gather(
                *[
                    engine.schedules.create(f"schedule-{n}", brief(), cron)
                    for n in range(start, min(start + _BATCH, size))
                ]
            )
        late = datetime.now(UTC) >= due
        runs: list[Any] = []
        while len(runs) < size and not late:
            await asyncio.sleep(0.2)
            runs = await engine.list(
                workflow_type="bench.brief", status="completed", limit=size
            )
    assert not late, "they took too long to create"
    # A run of one turn closes as it begins.
    ends = [run.closed_at for run in runs if run.closed_at is not None]
    return {"seconds": (max(ends) - due).total_seconds()}


# --- finding and waiting --------------------------------------------------------------


async def gets(directory: Path, size: int) -> dict[str, Any]:
    """Find runs by their ids, all at once, from a client."""
    async with Engine(url_of(directory)) as engine:
        await _start_all(engine, [sleeper(_DAY) for _ in range(size)], "s")
    async with Engine(url_of(directory), worker=False) as client:
        await client.get("s-0")
        began = time.perf_counter()
        await asyncio.gather(*[client.get(f"s-{n}") for n in range(size)])
        return {"seconds": time.perf_counter() - began}


class CountingStore:
    """A store that counts what is read of it."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def read(self, query: Query[T]) -> T:
        self.reads += 1
        return await self.inner.read(query)


async def waiting(directory: Path, size: int) -> dict[str, Any]:
    """Handles that wait for results while runs of no concern end elsewhere."""
    store = CountingStore(connect(url_of(directory)))
    client = Engine(cast("Store", store), worker=False)
    async with Engine(url_of(directory)) as worker, client:
        await _start_all(worker, [sleeper(_DAY) for _ in range(size)], "s")
        found = await asyncio.gather(*[client.get(f"s-{n}") for n in range(size)])
        tasks = [asyncio.create_task(handle.result()) for handle in found]
        await asyncio.sleep(_SETTLED)
        before = store.reads
        for _ in range(_COMMITS):
            await worker.execute(brief())
            await asyncio.sleep(_SETTLED / _COMMITS)
        await asyncio.sleep(_SETTLED)
        reads = store.reads - before
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return {"reads": reads}


# --- waking ---------------------------------------------------------------------------


async def signal_at_rest(directory: Path, size: int) -> dict[str, Any]:
    """Signals to runs that no worker owns or remembers, each until its effect."""
    async with Engine(url_of(directory)) as engine:
        await _start_all(engine, [light_sleeper(_DAY) for _ in range(size)], "s")
    taken = []
    async with Engine(url_of(directory)) as engine:
        for number in range(size):
            handle = await engine.get(f"s-{number}")
            World.seen.clear()
            began = time.perf_counter()
            await handle.signal(tick(number))
            await World.seen.wait()
            taken.append(time.perf_counter() - began)
    return {"p50": median(taken)}


async def shared(directory: Path, size: int) -> dict[str, Any]:
    """Timers of one worker's runs come due after another worker has come."""
    async with Engine(url_of(directory)) as engine:
        calls = [waker(_HEAD_START + n / _DUE_A_SECOND) for n in range(size)]
        runs = await _start_all(engine, calls, "w")
        async with _another(directory):
            done_by = await asyncio.gather(*[handle.result() for handle in runs])
    others = sum(pid != os.getpid() for pid in done_by)
    return {"share": others / size}


def _another(directory: Path) -> AbstractAsyncContextManager[None]:
    return worker_process("tests.benchmarks.resting_workloads", directory)


WORKLOADS: dict[str, Callable[[Path, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "prepare_sleepers": prepare_sleepers,
    "multiply_sleepers": multiply_sleepers,
    "opened": opened,
    "gets": gets,
    "waiting": waiting,
    "schedules": schedules,
    "signal_at_rest": signal_at_rest,
    "shared": shared,
}


def run_workload(workload: str, directory: Path, size: int) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        World.seen = asyncio.Event()
        return await WORKLOADS[workload](directory, size)

    return asyncio.run(main())


if __name__ == "__main__":
    asyncio.run(work_until_told(Engine(url_of(Path(sys.argv[1])))))
