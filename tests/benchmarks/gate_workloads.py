"""How fast the deploy gate replays open runs, its own start left out."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from durable import Engine, Signal, activity, set_state, workflow
from tests.benchmarks.databases import url_of

_STEPS = 250

done = Signal("gate.done", int)


@activity(name="bench.checked")
async def checked(number: int) -> int:
    return number


@workflow(name="bench.long")
async def long(steps: int) -> int:
    for number in range(steps):
        await checked(number)
    set_state(steps)
    return await done.receive()


def _check(url: str) -> float:
    """Check a database by one process."""
    command = f"-m durable --database {url} check {__name__} --processes 1"
    began = time.perf_counter()
    subprocess.run([sys.executable, *command.split()], check=True, capture_output=True)
    return time.perf_counter() - began


async def gate(directory: Path, size: int) -> dict[str, Any]:
    """Check open runs of so many events in all; and one of two, for comparison."""
    steps = min(_STEPS, size // 2)
    urls = url_of(directory, "one"), url_of(directory)
    for url, runs, each in ((urls[0], 1, 1), (urls[1], size // (2 * steps), steps)):
        async with Engine(url) as engine:
            for number in range(runs):
                run = await engine.start(long(each), id=f"long-{number}")
                while True:
                    if await run.state() is not None:
                        break
                    await asyncio.sleep(0.01)
    one, all_of_them = (_check(url) for url in urls)
    return {"seconds": all_of_them - one}


WORKLOADS: dict[str, Callable[[Path, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "gate": gate,
}


def run_workload(workload: str, directory: Path, size: int) -> dict[str, Any]:
    return asyncio.run(WORKLOADS[workload](directory, size))
