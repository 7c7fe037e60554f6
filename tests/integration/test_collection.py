"""Runs that have ended leave nothing behind that only the cyclic collector frees.

It would look at all that a run was made of, several times, before it is gone.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import operator
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import CoroutineType, FrameType

import pytest

from durable import (
    Engine,
    Signal,
    activity,
    checkpoint,
    continue_as_new,
    run,
    sleep,
    update,
    wait_condition,
    workflow,
)

ROOT = Path(__file__).resolve().parent.parent.parent
ROUNDS = 3
LIVES = 5

go = Signal("collection.go", int)


@activity(name="collection.step")
async def step(number: int) -> int:
    return number


@activity(name="collection.plain")
def plain(number: int) -> int:
    return number


@workflow(name="collection.one")
async def one() -> int:
    return await step(1) + await plain(1)


@workflow(name="collection.many")
async def many() -> int:
    await sleep("1ms")
    return sum(await asyncio.gather(*(step(number) for number in range(3))))


@workflow(name="collection.plain_run")
async def plain_run() -> None: ...


@workflow(name="collection.parent")
async def parent() -> int:
    return await one()


@workflow(name="collection.Told")
class Told:
    def __init__(self) -> None:
        self.sum = 0

    @run
    async def live(self) -> int:
        number = await go.receive()
        return self.sum + number

    @update
    async def add(self, number: int) -> None:
        self.sum += await step(number)


@workflow(name="collection.laps", checkpoint_every=1)
async def laps(left: int) -> int:
    while left:
        left -= await step(1)
        checkpoint(left)
    return left


@workflow(name="collection.chain")
async def chain(left: int) -> int:
    if left:
        continue_as_new(left - 1)
    return left


@workflow(name="collection.patient")
async def patient() -> int:
    for _ in range(2):
        try:
            await wait_condition(lambda: False, timeout="1ms")
        except TimeoutError:
            continue
    return 0


async def tell(engine: Engine) -> None:
    handle = await engine.start(Told.live())
    await handle.update(Told.add(1))
    await handle.signal(go(1))
    assert await handle.result() == 2


async def trigger(engine: Engine) -> None:
    if not await engine.schedules.list():
        await engine.schedules.create("s", plain_run(), "0 0 1 1 * 2199")
    schedule = engine.schedules.get("s")
    workflow_id = await schedule.trigger(overlap="buffer_all")
    await (await engine.get(workflow_id)).result()
    while (await schedule.describe()).running:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.01)


SHAPES: dict[str, Callable[[Engine], Awaitable[object]]] = {
    "activities": lambda engine: engine.execute(one()),
    "a timer": lambda engine: engine.execute(many()),
    "a child": lambda engine: engine.execute(parent()),
    "messages": tell,
    "checkpoints": lambda engine: engine.execute(laps(3)),
    "a chain": lambda engine: engine.execute(chain(2)),
    "timeouts": lambda engine: engine.execute(patient()),
    "a schedule": trigger,
}


async def collect(database: str, shape: str) -> list[str]:
    """Live some runs, three times over; say what of ours was left each time."""
    live = SHAPES[shape]
    rounds: list[Counter[str]] = []
    async with Engine(database) as engine:
        await live(engine)  # what is made once and kept
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        for _ in range(ROUNDS):
            for _ in range(LIVES):
                await live(engine)
            gc.collect()
            rounds.append(Counter(map(describe, gc.garbage)))
            # What was saved is garbage still: freed, or each round would find it again,
            # and what happens once (a claim that overtakes a commit) would count as
            # what happens always.
            gc.set_debug(0)
            gc.garbage.clear()
            gc.collect()
            gc.set_debug(gc.DEBUG_SAVEALL)
        gc.set_debug(0)
    always = functools.reduce(operator.and_, rounds)
    least = LIVES - 1  # the last may be held by a step that has not ended
    if not any(n >= least and what.startswith("durable") for what, n in always.items()):
        return []
    return [f"{n} {what}" for what, n in always.most_common()]


def describe(thing: object) -> str:
    """Name a piece of garbage: its type, and what else tells where it comes from."""
    if isinstance(thing, FrameType | CoroutineType):
        code = thing.f_code if isinstance(thing, FrameType) else thing.cr_code
        return f"{type(thing).__name__} of {code.co_qualname}"
    kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
    return f"{kind}: {thing!r}" if isinstance(thing, BaseException) else kind


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_that_has_ended_leaves_nothing_to_the_collector(
    database: str, shape: str
) -> None:
    # In a process of its own: what other tests have left may end at any time.
    program = [sys.executable, "-W", "error", "-m", __name__, database, shape]
    ended = subprocess.run(
        program, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


if __name__ == "__main__":
    print(*asyncio.run(collect(*sys.argv[1:])), sep="\n", end="")
