"""The workloads on durable, as a user would write them; each in a process of its own.

Every function here takes a directory for its database and a size, and returns raw
numbers in seconds, counts and bytes.
"""

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

from durable import Engine, RunStatus, Signal, activity, sleep, workflow
from tests.benchmarks import (
    gate_workloads,
    kinds_workloads,
    message_workloads,
    queue_workloads,
    resting_workloads,
    retention_workloads,
    search_workloads,
    worker_workloads,
)
from tests.benchmarks.children import tell_parent
from tests.benchmarks.databases import ServerYardstick, url_of, yardstick_of
from tests.benchmarks.machine import Yardstick, resident_bytes

STEPS = 10
"""Activities of each run that is killed; the kill comes within the middle one."""
_WARM_UP = 20
_WINDOW = 200
_BATCH = 1_000
# Sleepers until the cache of live runs is full and the allocator's arenas have grown
# to what batches of this size need; from there on each sleeper counts.
_SETTLING = 8 * _BATCH
_DAY = 86_400.0
go_on = Signal("go on", int)


class World:
    """What the activities note, and what they wait for."""

    times: list[float]
    blocked_step: int = 0
    blocked = 0
    halfway = 0
    resumed: set[str]
    finished = 0
    changed: asyncio.Event


def _begin() -> None:
    World.times = []
    World.blocked_step = World.blocked = World.halfway = World.finished = 0
    World.resumed = set()
    World.changed = asyncio.Event()


@activity
async def add(left: int, right: int) -> int:
    World.times.append(time.perf_counter())
    return left + right


@activity
async def step(run: str, number: int) -> int:
    if number == World.blocked_step:
        World.blocked += 1
        World.changed.set()
        await asyncio.Event().wait()
    World.resumed.add(run)
    World.halfway += number == STEPS // 2
    World.finished += number == STEPS
    World.changed.set()
    return number


@workflow
async def one(number: int) -> int:
    return await add(number, 1)


@workflow
async def sequence(count: int) -> int:
    total = 0
    for number in range(count):
        total = await add(total, number)
    return total


@workflow
async def fan_out(count: int) -> int:
    return len(await asyncio.gather(*[add(number, 1) for number in range(count)]))


@workflow(name="bench.ten_steps")
async def ten_steps(run: str) -> int:
    total = 0
    for number in range(1, STEPS + 1):
        total += await step(run, number)
    return total


@workflow
async def ten_steps_and_a_signal(run: str) -> int:
    total = 0
    for number in range(1, STEPS + 1):
        if number == STEPS // 2 + 1:
            total += await go_on.receive()
        total += await step(run, number)
    return total


@workflow
async def long_history(count: int) -> int:
    total = 0
    for number in range(count):
        total = await add(total, number)
    return await step("long", 1)


@workflow
async def sleeper(seconds: float) -> None:
    await sleep(seconds)


async def _warm_up(engine: Engine) -> None:
    await asyncio.gather(*[engine.execute(one(n)) for n in range(_WARM_UP)])


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        World.changed.clear()
        await World.changed.wait()


# --- workloads ------------------------------------------------------------------------


async def latency(directory: Path, size: int) -> dict[str, Any]:
    async with Engine(url_of(directory)) as engine:
        await _warm_up(engine)
        yardstick = yardstick_of(directory)
        taken = []
        for number in range(size):
            began = time.perf_counter()
            await engine.execute(one(number))
            taken.append(time.perf_counter() - began)
            yardstick.commit()
        return {"p50": median(taken), "commit": yardstick.close()}


async def concurrent(directory: Path, size: int) -> dict[str, Any]:
    return await _concurrent(url_of(directory), size)


async def concurrent_in_memory(directory: Path, size: int) -> dict[str, Any]:
    return await _concurrent("memory://", size)


async def _concurrent(url: str, size: int) -> dict[str, Any]:
    async with Engine(url) as engine:
        await _warm_up(engine)
        began = time.perf_counter()
        await asyncio.gather(*[engine.execute(one(n)) for n in range(size)])
        return {"seconds": time.perf_counter() - began}


async def sequential(directory: Path, size: int) -> dict[str, Any]:
    yardstick = yardstick_of(directory)
    async with Engine(url_of(directory)) as engine:
        await _warm_up(engine)
        _commit(yardstick)
        World.times.clear()
        began = time.perf_counter()
        await engine.execute(sequence(size))
        seconds = time.perf_counter() - began
        _commit(yardstick)
    windows = _windows(min(_WINDOW, size // 2))
    return {"seconds": seconds, "commit": yardstick.close(), **windows}


def _commit(yardstick: Yardstick | ServerYardstick) -> None:
    for _ in range(_WINDOW):
        yardstick.commit()


async def long_run(directory: Path, size: int) -> dict[str, Any]:
    """One run of very many steps: around its 100th, and around its last."""
    async with Engine(url_of(directory)) as engine:
        await _warm_up(engine)
        World.times.clear()
        await engine.execute(sequence(size))
    width = min(_WINDOW, size // 4)
    del World.times[: min(100, width)]
    return _windows(width)


def _windows(width: int) -> dict[str, float]:
    """The middle time between two steps, at the beginning and at the end."""
    gaps = [b - a for a, b in zip(World.times, World.times[1:], strict=False)]
    return {"first": median(gaps[:width]), "last": median(gaps[-width:])}


async def fanned(directory: Path, size: int) -> dict[str, Any]:
    async with Engine(url_of(directory)) as engine:
        await _warm_up(engine)
        began = time.perf_counter()
        await engine.execute(fan_out(size))
        return {"seconds": time.perf_counter() - began}


async def prepare_crash(directory: Path, size: int) -> dict[str, Any]:
    """Bring all runs into their middle step and wait to be killed."""
    World.blocked_step = STEPS // 2 + 1
    engine = await Engine(url_of(directory)).open()
    await asyncio.gather(
        *[engine.start(ten_steps(f"r{n}"), id=f"r{n}") for n in range(size)]
    )
    await _until(lambda: World.blocked == size)
    return await tell_parent("ready")


async def recover(directory: Path, size: int) -> dict[str, Any]:
    """Go on with what was killed; instants are epoch seconds, as the parent's are."""
    async with Engine(url_of(directory)) as engine:
        await _until(lambda: len(World.resumed) == size)
        resumed_at = time.time()
        await _until(lambda: World.finished == size)
        while await _newest_open(engine) == "bench.ten_steps":  # noqa: ASYNC110 - both are asked alike
            await asyncio.sleep(0.005)
        return {"resumed_at": resumed_at, "finished_at": time.time()}


async def _newest_open(engine: Engine) -> str | None:
    """The type of the run that began last of those that run."""
    found = await engine.list(status=RunStatus.RUNNING, limit=1)
    return found[0].workflow_type if found else None


async def prepare_waits(directory: Path, size: int) -> dict[str, Any]:
    """Bring all runs to where they wait for a signal, and wait to be killed."""
    engine = await Engine(url_of(directory)).open()
    await asyncio.gather(
        *[
            engine.start(ten_steps_and_a_signal(f"r{n}"), id=f"r{n}")
            for n in range(size)
        ]
    )
    await _until(lambda: World.halfway == size)
    return await tell_parent("ready")


async def recover_by_id(directory: Path, size: int) -> dict[str, Any]:
    """Find what was killed by its ids, signal all of it, and await all results."""
    async with Engine(url_of(directory)) as engine:
        runs = await asyncio.gather(*[engine.get(f"r{n}") for n in range(size)])
        await asyncio.gather(*[run.signal(go_on(0)) for run in runs])
        await asyncio.gather(*[run.result() for run in runs])
        return {"finished_at": time.time()}


async def prepare_history(directory: Path, size: int) -> dict[str, Any]:
    """Make one long history, whose last activity waits to be killed."""
    World.blocked_step = 1
    engine = await Engine(url_of(directory)).open()
    await engine.start(long_history(size), id="long")
    await _until(lambda: World.blocked == 1)
    return await tell_parent("ready")


async def replay(directory: Path, size: int) -> dict[str, Any]:
    """From opening the engine to the activity that was under way."""
    async with Engine(url_of(directory, "other")) as engine:
        await _warm_up(engine)  # whatever is imported and compiled at first use
    World.times.clear()
    began = time.perf_counter()
    async with Engine(url_of(directory)) as engine:
        await _until(lambda: bool(World.resumed))
        seconds = time.perf_counter() - began
        await (await engine.get("long")).result()
    assert len(World.times) == 0  # nothing recorded was run again
    return {"seconds": seconds}


async def sleeping(directory: Path, size: int) -> dict[str, Any]:
    """Memory of many sleeping runs: while they are started, and after a restart."""
    url = url_of(directory)
    async with Engine(url) as engine:
        await _warm_up(engine)
        at_first = _settled_bytes()
        await _put_to_sleep(engine, min(_SETTLING, size))
        with_cache = _settled_bytes()
        await _put_to_sleep(engine, size)
        at_last = _settled_bytes()
    async with Engine(url_of(directory, "empty")) as engine:
        await _warm_up(engine)
        empty = _settled_bytes()
    async with Engine(url) as engine:
        await _warm_up(engine)
        reopened = _settled_bytes()
    return {
        "per_run": (at_last - with_cache) / size,
        "growth": at_last - at_first,
        "reopened": reopened - empty,
    }


async def _put_to_sleep(engine: Engine, count: int) -> None:
    for start in range(0, count, _BATCH):
        await asyncio.gather(
            *[
                engine.start(sleeper(_DAY))
                for _ in range(start, min(start + _BATCH, count))
            ]
        )


def _settled_bytes() -> int:
    gc.collect()
    return resident_bytes()


WORKLOADS: dict[str, Callable[[Path, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "latency": latency,
    "concurrent": concurrent,
    "concurrent_in_memory": concurrent_in_memory,
    "sequential": sequential,
    "long_run": long_run,
    "fanned": fanned,
    "prepare_crash": prepare_crash,
    "recover": recover,
    "prepare_waits": prepare_waits,
    "recover_by_id": recover_by_id,
    "prepare_history": prepare_history,
    "replay": replay,
    "sleeping": sleeping,
}


def run(workload: str, directory: Path, size: int) -> dict[str, Any]:
    if workload in message_workloads.WORKLOADS:
        return message_workloads.run_workload(workload, directory, size)
    if workload in resting_workloads.WORKLOADS:
        return resting_workloads.run_workload(workload, directory, size)
    if workload in kinds_workloads.WORKLOADS:
        return kinds_workloads.run_workload(workload, directory, size)
    if workload in queue_workloads.WORKLOADS:
        return queue_workloads.run_workload(workload, directory, size)
    if workload in gate_workloads.WORKLOADS:
        return gate_workloads.run_workload(workload, directory, size)
    if workload in retention_workloads.WORKLOADS:
        return retention_workloads.run_workload(workload, directory, size)
    if workload in search_workloads.WORKLOADS:
        return search_workloads.run_workload(workload, directory, size)
    if workload in worker_workloads.WORKLOADS:
        return worker_workloads.run_workload(workload, directory, size)

    async def main() -> dict[str, Any]:
        _begin()
        return await WORKLOADS[workload](directory, size)

    return asyncio.run(main())
