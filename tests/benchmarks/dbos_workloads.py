"""The same workloads on DBOS: async steps, its defaults, its own recovery.

A single executor recovers its pending workflows by itself when it is launched; that is
what its documentation describes for a process without its control plane.
"""

import asyncio
import importlib
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeVar

from tests.benchmarks.children import tell_parent, worker_process
from tests.benchmarks.databases import url_of

F = TypeVar("F", bound=Callable[..., Any])


class Dbos(Protocol):
    """The part of DBOS that is used here, as type checkers may run without it."""

    def __call__(self, *, config: dict[str, str]) -> object: ...
    def step(self) -> Callable[[F], F]: ...
    def workflow(self) -> Callable[[F], F]: ...
    def launch(self) -> None: ...
    async def register_queue_async(self, name: str) -> object: ...
    def destroy(self) -> None: ...
    async def start_workflow_async(self, *call: object) -> Any: ...
    async def retrieve_workflow_async(self, workflow_id: str) -> Any: ...
    async def send_async(self, workflow_id: str, message: object) -> None: ...
    async def recv_async(self, *, timeout_seconds: float) -> Any: ...
    async def list_workflows_async(self, **where: object) -> list[Any]: ...


_MODULE = importlib.import_module("dbos")
DBOS: Dbos = _MODULE.DBOS

STEPS = 10
_WARM_UP = 20
_WINDOW = 200
_DAY = 86_400.0
_OPEN = ["PENDING", "ENQUEUED"]


class World:
    """What the steps note, and what they wait for."""

    times: list[float]
    blocked_step: int = 0
    blocked = 0
    halfway = 0
    resumed: set[str]
    finished = 0


def _begin() -> None:
    World.times = []
    World.blocked_step = World.blocked = World.halfway = World.finished = 0
    World.resumed = set()


@DBOS.step()
async def add(left: int, right: int) -> int:
    World.times.append(time.perf_counter())
    return left + right


@DBOS.step()
async def step(run: str, number: int) -> int:
    if number == World.blocked_step:
        World.blocked += 1
        await asyncio.Event().wait()
    World.resumed.add(run)
    World.halfway += number == STEPS // 2
    World.finished += number == STEPS
    return number


@DBOS.workflow()
async def one(number: int) -> int:
    return await add(number, 1)


@DBOS.workflow()
async def sequence(count: int) -> int:
    total = 0
    for number in range(count):
        total = await add(total, number)
    return total


@DBOS.workflow()
async def fan_out(count: int) -> int:
    return len(await asyncio.gather(*[add(number, 1) for number in range(count)]))


@DBOS.workflow()
async def ten_steps(run: str) -> int:
    total = 0
    for number in range(1, STEPS + 1):
        total += await step(run, number)
    return total


@DBOS.workflow()
async def ten_steps_and_a_signal(run: str) -> int:
    total = 0
    for number in range(1, STEPS + 1):
        if number == STEPS // 2 + 1:
            total += await DBOS.recv_async(timeout_seconds=_DAY)
        total += await step(run, number)
    return total


@DBOS.workflow()
async def long_history(count: int) -> int:
    total = 0
    for number in range(count):
        total = await add(total, number)
    return await step("long", 1)


def launch(directory: Path) -> None:
    DBOS(
        config={
            "name": "benchmark",
            "system_database_url": url_of(directory, "dbos"),
            "log_level": "WARNING",
        }
    )
    DBOS.launch()


async def _warm_up() -> None:
    await asyncio.gather(*[one(number) for number in range(_WARM_UP)])


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - recovered ones run in another thread
        await asyncio.sleep(0.001)


async def latency(directory: Path, size: int) -> dict[str, Any]:
    launch(directory)
    await _warm_up()
    taken = []
    for number in range(size):
        began = time.perf_counter()
        await one(number)
        taken.append(time.perf_counter() - began)
    return {"p50": median(taken)}


async def concurrent(directory: Path, size: int) -> dict[str, Any]:
    launch(directory)
    await _warm_up()
    began = time.perf_counter()
    await asyncio.gather(*[one(number) for number in range(size)])
    return {"seconds": time.perf_counter() - began}


async def sequential(directory: Path, size: int) -> dict[str, Any]:
    launch(directory)
    await _warm_up()
    World.times.clear()
    began = time.perf_counter()
    await sequence(size)
    seconds = time.perf_counter() - began
    gaps = [b - a for a, b in zip(World.times, World.times[1:], strict=False)]
    width = min(_WINDOW, size // 2)
    return {
        "seconds": seconds,
        "first": median(gaps[:width]),
        "last": median(gaps[-width:]),
    }


async def fanned(directory: Path, size: int) -> dict[str, Any]:
    launch(directory)
    await _warm_up()
    began = time.perf_counter()
    await fan_out(size)
    return {"seconds": time.perf_counter() - began}


async def prepare_crash(directory: Path, size: int) -> dict[str, Any]:
    World.blocked_step = STEPS // 2 + 1
    launch(directory)
    for number in range(size):
        await DBOS.start_workflow_async(ten_steps, f"r{number}")
    await _until(lambda: World.blocked == size)
    return await tell_parent("ready")


async def recover(directory: Path, size: int) -> dict[str, Any]:
    launch(directory)
    await _until(lambda: len(World.resumed) == size)
    resumed_at = time.time()
    await _until(lambda: World.finished == size)
    while await DBOS.list_workflows_async(status=_OPEN, limit=1):  # noqa: ASYNC110 - both are asked alike
        await asyncio.sleep(0.005)
    return {"resumed_at": resumed_at, "finished_at": time.time()}


async def prepare_waits(directory: Path, size: int) -> dict[str, Any]:
    launch(directory)
    for number in range(size):
        with _MODULE.SetWorkflowID(f"r{number}"):
            await DBOS.start_workflow_async(ten_steps_and_a_signal, f"r{number}")
    await _until(lambda: World.halfway == size)
    return await tell_parent("ready")


async def recover_by_id(directory: Path, size: int) -> dict[str, Any]:
    launch(directory)
    ids = [f"r{number}" for number in range(size)]
    runs = await asyncio.gather(*[DBOS.retrieve_workflow_async(i) for i in ids])
    await asyncio.gather(*[DBOS.send_async(i, 0) for i in ids])
    await asyncio.gather(*[run.get_result() for run in runs])
    return {"finished_at": time.time()}


async def prepare_history(directory: Path, size: int) -> dict[str, Any]:
    World.blocked_step = 1
    launch(directory)
    await DBOS.start_workflow_async(long_history, size)
    await _until(lambda: World.blocked == 1)
    return await tell_parent("ready")


async def replay(directory: Path, size: int) -> dict[str, Any]:
    began = time.perf_counter()
    launch(directory)
    await _until(lambda: bool(World.resumed))
    seconds = time.perf_counter() - began
    while await DBOS.list_workflows_async(status=_OPEN, limit=1):  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.005)
    assert len(World.times) == 0  # nothing recorded was run again
    return {"seconds": seconds}


async def drained(directory: Path, size: int) -> dict[str, Any]:
    """Jobs that wait already in a queue, on two workers."""
    client = _MODULE.DBOSClient(system_database_url=url_of(directory, "dbos"))
    # The tables are there once somebody has been launched.
    async with worker_process("tests.benchmarks.dbos_worker", directory):
        pass
    options = {"queue_name": "jobs", "workflow_name": "job"}
    for start in range(0, size, _WINDOW):
        numbers = range(start, min(start + _WINDOW, size))
        await asyncio.gather(*[client.enqueue_async(options, n) for n in numbers])
    began = time.perf_counter()
    module = "tests.benchmarks.dbos_worker"
    async with worker_process(module, directory), worker_process(module, directory):
        while await client.list_workflows_async(status=_OPEN, limit=1):  # noqa: ASYNC110 - both are asked alike
            await asyncio.sleep(0.05)
        return {"seconds": time.perf_counter() - began}


WORKLOADS: dict[str, Callable[[Path, int], Coroutine[Any, Any, dict[str, Any]]]] = {
    "latency": latency,
    "concurrent": concurrent,
    "sequential": sequential,
    "fanned": fanned,
    "prepare_crash": prepare_crash,
    "recover": recover,
    "prepare_waits": prepare_waits,
    "recover_by_id": recover_by_id,
    "prepare_history": prepare_history,
    "replay": replay,
    "drained": drained,
}


def run(workload: str, directory: Path, size: int) -> dict[str, Any]:
    async def main() -> dict[str, Any]:
        _begin()
        return await WORKLOADS[workload](directory, size)

    try:
        return asyncio.run(main())
    finally:
        DBOS.destroy()
