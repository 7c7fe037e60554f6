"""Signals, queries, children and checkpoints on durable, as a user would write them.

W5 and its kin: in one process, and from another process on the same database.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

from durable import (
    Engine,
    Signal,
    activity,
    checkpoint,
    query,
    run,
    signal,
    wait_condition,
    workflow,
)
from tests.benchmarks.children import ROOT
from tests.benchmarks.databases import url_of

_WARM_UP = 20
_WINDOW = 200
tick = Signal("tick", int)


class World:
    """What workflows and activities let the benchmark see."""

    seen_at: list[float]
    times: list[float]


@activity(name="bench.note")
async def note(number: int) -> int:
    World.times.append(time.perf_counter())
    return number


@activity(name="bench.heard")
async def heard(number: int) -> int:
    World.seen_at.append(time.time())
    return number


@workflow(name="bench.collect")
async def collect(count: int) -> int:
    total = 0
    for _ in range(count):
        total += await tick.receive()
    return total


@workflow(name="bench.heed")
async def heed(count: int) -> int:
    """An activity follows each signal, so its effect is durable when it is seen."""
    total = 0
    for _ in range(count):
        total += await heard(await tick.receive())
    return total


@workflow(name="bench.leaf")
async def leaf(number: int) -> int:
    return number


@workflow(name="bench.family")
async def family(count: int) -> int:
    return sum(await asyncio.gather(*[leaf(number) for number in range(count)]))


@workflow(name="bench.Counter")
class Counter:
    """Counts signals until it is told to stop."""

    def __init__(self) -> None:
        self.number = 0
        self.is_over = False

    @run
    async def count(self) -> int:
        await wait_condition(lambda: self.is_over)
        return self.number

    @signal
    def add(self) -> None:
        self.number += 1

    @signal
    def stop(self) -> None:
        self.is_over = True

    @query
    def value(self) -> int:
        return self.number


@workflow(name="bench.endless", checkpoint_every=500)
async def endless(number: int, count: int) -> int:
    while number < count:
        number += 1
        await note(number)
        checkpoint(number, count)
    await tick.receive()
    return number


async def _warm_up(engine: Engine) -> None:
    handle = await engine.start(collect(_WARM_UP))
    await asyncio.gather(*[handle.signal(tick(1)) for _ in range(_WARM_UP)])
    await handle.result()
    await engine.execute(family(_WARM_UP))


async def signals(directory: Path, size: int) -> dict[str, Any]:
    """Signals to one run until it has seen them all."""
    async with Engine(url_of(directory)) as engine:
        await _warm_up(engine)
        handle = await engine.start(collect(size))
        began = time.perf_counter()
        await asyncio.gather(*[handle.signal(tick(1)) for _ in range(size)])
        await handle.result()
        return {"seconds": time.perf_counter() - began}


async def signal_effect(directory: Path, size: int) -> dict[str, Any]:
    """One signal after the other, each until an activity runs because of it."""
    async with Engine(url_of(directory)) as engine:
        await _warm_up(engine)
        World.seen_at.clear()
        handle = await engine.start(heed(size))
        sent = []
        for _ in range(size):
            sent.append(time.time())
            await handle.signal(tick(1))
        await handle.result()
    return {"p50": _middle(sent, World.seen_at)}


def _middle(sent: list[float], seen: list[float]) -> float:
    return median(b - a for a, b in zip(sent, seen, strict=True))


async def signals_across(directory: Path, size: int) -> dict[str, Any]:
    """The same as `signals`, sent by another process."""
    async with Engine(url_of(directory)) as engine:
        await _warm_up(engine)
        handle = await engine.start(collect(size), id="across")
        sender = await _sender(directory, "all", size)
        await handle.result()
        finished_at = time.time()
        began_at = float((await _lines(sender))[0])
    return {"seconds": finished_at - began_at}


async def signal_effect_across(directory: Path, size: int) -> dict[str, Any]:
    """The same as `signal_effect`, sent by another process."""
    async with Engine(url_of(directory)) as engine:
        await _warm_up(engine)
        World.seen_at.clear()
        handle = await engine.start(heed(size), id="across")
        sender = await _sender(directory, "each", size)
        await handle.result()
        sent = [float(line) for line in await _lines(sender)]
    return {"p50": _middle(sent, World.seen_at)}


async def _sender(directory: Path, how: str, size: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.message_workloads"),
        *(str(directory), how, str(size)),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )


async def _lines(sender: asyncio.subprocess.Process) -> list[str]:
    output, _ = await sender.communicate()
    return output.decode().splitlines()


async def send(directory: Path, how: str, size: int) -> None:
    """In the other process: send all signals at once, or each after a pause."""
    async with Engine(url_of(directory), worker=False) as engine:
        handle = await engine.get("across")
        if how == "all":
            print(time.time())
            await asyncio.gather(*[handle.signal(tick(1)) for _ in range(size)])
            return
        for _ in range(size):
            await asyncio.sleep(0.01)
            print(time.time())
            await handle.signal(tick(1))


async def queries(directory: Path, size: int) -> dict[str, Any]:
    """A query of a run that is in memory."""
    async with Engine(url_of(directory)) as engine:
        await _warm_up(engine)
        handle = await engine.start(Counter.count())
        taken = []
        for _ in range(size):
            began = time.perf_counter()
            await handle.query(Counter.value())
            taken.append(time.perf_counter() - began)
    return {"p50": median(taken)}


async def children(directory: Path, size: int) -> dict[str, Any]:
    """Children from one parent, all at once, until it has all their results."""
    async with Engine(url_of(directory)) as engine:
        await _warm_up(engine)
        began = time.perf_counter()
        await engine.execute(family(size))
        return {"seconds": time.perf_counter() - began}


async def checkpoints(directory: Path, size: int) -> dict[str, Any]:
    """An endless loop: its steps at first and at last, and how long it loads."""
    short = max(1, size // 10)
    async with Engine(url_of(directory)) as engine:
        await _warm_up(engine)
        await _finish_loop(engine, short, "short")
        World.times.clear()
        await _finish_loop(engine, size, "long")
    width = min(_WINDOW, size // 4)
    times = World.times[min(100, width) :]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    return {
        "first": median(gaps[:width]),
        "last": median(gaps[-width:]),
        "load_short": await _load(directory, "short"),
        "load_long": await _load(directory, "long"),
    }


async def _finish_loop(engine: Engine, size: int, name: str) -> None:
    handle = await engine.start(endless(0, size), id=name)
    while len(World.times) < size:  # noqa: ASYNC110 - an event would cost each step
        await asyncio.sleep(0.01)
    await handle.describe()


async def _load(directory: Path, name: str) -> float:
    """From a cold engine to the answer of a run that must be replayed."""
    taken = []
    for _ in range(3):
        async with Engine(url_of(directory), worker=False) as engine:
            handle = await engine.get(name)
            began = time.perf_counter()
            await handle.stack()
            taken.append(time.perf_counter() - began)
    return min(taken)


WORKLOADS: dict[str, Callable[[Path, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "signals": signals,
    "signal_effect": signal_effect,
    "signals_across": signals_across,
    "signal_effect_across": signal_effect_across,
    "queries": queries,
    "children": children,
    "checkpoints": checkpoints,
}


def run_workload(workload: str, directory: Path, size: int) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        World.seen_at, World.times = [], []
        return await WORKLOADS[workload](directory, size)

    return asyncio.run(main())


if __name__ == "__main__":
    _, _directory, _how, _size = sys.argv
    asyncio.run(send(Path(_directory), _how, int(_size)))
