"""Runs that have ended leave nothing behind that only the cyclic collector frees.

It would look at all that a run was made of, several times, before it is gone.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import operator
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from durable import Engine, Signal, activity, run, sleep, update, workflow

ROUNDS = 3
LIVES = 3

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


async def tell(engine: Engine) -> None:
    handle = await engine.start(Told.live())
    await handle.update(Told.add(1))
    await handle.signal(go(1))
    assert await handle.result() == 2


SHAPES: dict[str, Callable[[Engine], Awaitable[object]]] = {
    "activities": lambda engine: engine.execute(one()),
    "a timer": lambda engine: engine.execute(many()),
    "a child": lambda engine: engine.execute(parent()),
    "messages": tell,
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_run_that_has_ended_leaves_nothing_to_the_collector(
    database: str, shape: str
) -> None:
    live = SHAPES[shape]
    rounds: list[Counter[type]] = []
    async with Engine(database) as engine:
        await live(engine)  # what is made once and kept
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for _ in range(ROUNDS):
                for _ in range(LIVES):
                    await live(engine)
                gc.collect()
                rounds.append(Counter(type(thing) for thing in gc.garbage))
                gc.garbage.clear()
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    # What an earlier test left to threads and frames may end now, but only once.
    always = functools.reduce(operator.and_, rounds)
    ours = {
        kind: n
        for kind, n in always.items()
        if n >= LIVES and "durable" in kind.__module__
    }
    assert not ours, always
