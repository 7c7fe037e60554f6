"""Runs that belong together: parents and children, chains, and runs with messages."""

import asyncio
import contextlib
from typing import Any

from durable import (
    Engine,
    Handle,
    ParentClosePolicy,
    Signal,
    checkpoint,
    continue_as_new,
    query,
    run,
    set_state,
    signal,
    start_child,
    update,
    wait_condition,
    workflow,
)

go = Signal("go", int)


@workflow(name="doctor_kid")
async def kid(rounds: int) -> int:
    if rounds > 1:
        await asyncio.sleep(0.001)
        continue_as_new(rounds - 1)
    return await go.receive()


@workflow(name="doctor_deaf")
async def deaf() -> None:
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await go.receive()
            continue_as_new()


@workflow(name="doctor_family")
async def family(*rounds: int) -> list[int]:
    calls = [
        kid.options(id=f"kid-{number}")(count)
        for number, count in enumerate(rounds, start=1)
    ]
    return await asyncio.gather(*calls)


@workflow(name="doctor_grown")
async def grown(rounds: int) -> int:
    if rounds > 1:
        await asyncio.sleep(0.001)
        continue_as_new(rounds - 1)
    return rounds


@workflow(name="doctor_brood")
async def brood(*names: str) -> list[int]:
    calls = [grown.options(id=name)(index % 3) for index, name in enumerate(names)]
    return await asyncio.gather(*calls)


@workflow(name="doctor_estate")
async def estate() -> None:
    heir = kid.options(id="heir", parent_close_policy=ParentClosePolicy.ABANDON)
    ward = deaf.options(id="ward", parent_close_policy=ParentClosePolicy.REQUEST_CANCEL)
    await start_child(heir(1))
    await start_child(ward())
    await start_child(ward.options(id="new ward")())
    await start_child(kid.options(id="minor")(1))


@workflow(name="doctor_chain", checkpoint_every=4)
async def chain(rounds: int, left: int = 9) -> int:
    if rounds > 1:
        await asyncio.sleep(0.001)
        continue_as_new(rounds - 1)
    while left:
        checkpoint(rounds, left)
        left = left - await go.receive()
        set_state(left)
    return left


@workflow(name="doctor_shop")
class Shop:
    def __init__(self) -> None:
        self.sold = 0

    @run
    async def trade(self) -> int:
        await wait_condition(lambda: self.sold > 9)
        return self.sold

    @signal
    def sell(self, count: int) -> None:
        self.sold += count
        set_state(self.sold)

    @query
    def count(self) -> int:
        return self.sold

    @update
    async def refund(self, count: int) -> int:
        await asyncio.sleep(0)
        self.sold -= count
        return self.sold


DEFINITIONS = [kid, deaf, family, grown, brood, estate, chain, Shop]


async def run_families(url: str) -> None:
    async with Engine(url, definitions=DEFINITIONS) as engine:
        parent = await engine.start(family(1, 2), id="family")
        await until(parent, "ChildWorkflowExecutionStarted", 2)
        await engine.execute(estate(), id="estate")
        await until(await engine.get("ward"), "WorkflowExecutionCancelRequested")
        ward = await engine.get("new ward")
        ward = await engine.get("new ward", run_id=ward.run_id)
        await until(ward, "WorkflowExecutionCancelRequested")
        await ward.signal(go(1))
        await until(ward, "WorkflowExecutionContinuedAsNew")
        links = await engine.start(chain(3), id="chain")
        last = await engine.get("chain", run_id=await third_run(engine, links.run_id))
        for number in range(1, 4):
            await last.signal(go(1))
            await until(last, "StateTransitioned", number)
        await until(last, "CheckpointRecorded")
        shop = await engine.start(Shop.trade(), id="shop")
        await shop.signal(Shop.sell(2))
        await shop.signal("sell", "many")
        assert await shop.update(Shop.refund(1), update_id="u1") == 1
        await until(await engine.get("kid-2"), "WorkflowExecutionStarted")


async def third_run(engine: Engine, run_id: str) -> str:
    for _ in range(2):
        before = await engine.get("chain", run_id=run_id)
        await until(before, "WorkflowExecutionContinuedAsNew")
        last: Any = (await before.history())[-1].attributes
        run_id = last.new_run_id
    return run_id


async def until(handle: Handle[Any], event: str, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while True:
            kinds = [type(e.attributes).__name__ for e in await handle.history()]
            if kinds.count(event) >= count:
                return
            await asyncio.sleep(0.005)
