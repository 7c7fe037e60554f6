"""Good use of the public face: no checker may object."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any, assert_type

from durable import (
    Done,
    Engine,
    Handle,
    NotDone,
    RetryPolicy,
    SyncEngine,
    Workflow,
    activity,
    activity_method,
    info,
    now,
    sleep,
    step,
    wait_condition,
    workflow,
)
from durable.api.workflows.workflow import WorkflowCall


@activity
async def charge(cents: int, *, currency: str = "EUR") -> str:
    return f"{cents} {currency}"


@activity(start_to_close_timeout="30s", retry=RetryPolicy(max_attempts=5))
async def ship(parcel: str) -> int:
    return len(parcel)


@activity
def pack(items: list[str]) -> str:
    return ",".join(items)


@activity(retry=None, schedule_to_close_timeout=timedelta(minutes=5))
def weigh(parcel: str) -> float:
    return float(len(parcel))


@activity(run_in="process", start_to_close_timeout="5m")
def compress(data: bytes, *, level: int = 9) -> bytes:
    return data[:level]


@activity(cancel_thread=False)
def settle(cents: int) -> int:
    return cents


async def find_parcel(parcel: str) -> Done[int] | NotDone:
    return Done(len(parcel))


def find_plainly(parcel: str) -> Done[int]:
    return Done(len(parcel))


@activity(effect="once", verify=find_parcel, in_doubt="wait", priority=1)
async def send(parcel: str) -> int:
    return len(parcel)


@activity(effect="once", verify=find_plainly, fairness_key="a", fairness_weight=2)
def resend(parcel: str) -> int:
    return len(parcel)


class Post:
    async def find(self, parcel: str) -> Done[int]:
        return await self.look(parcel)

    @activity_method
    async def look(self, parcel: str) -> Done[int]:
        return Done(len(parcel))

    @activity_method(effect="once", verify=find)
    async def send(self, parcel: str) -> int:
        return len(parcel)

    @activity_method(effect="once", verify=look)
    async def resend(self, parcel: str) -> int:
        return len(parcel)


async def resolve(engine: Engine, sync_engine: SyncEngine) -> None:
    assert_type(await send.options(effect="read", in_doubt="raise")("a"), int)
    assert_type(await Post().send("a"), int)
    assert_type(await Post.resend("a"), int)
    await engine.activities.resolve(Done(1), workflow_id="a", activity_id="1")
    await engine.activities.resolve(NotDone(), token="t")
    sync_engine.activities.resolve(ValueError(), workflow_id="a", activity_id="1")
    found = await engine.activities.list(in_doubt=True)
    assert_type(found[0].in_doubt, bool)
    job = await engine.start_activity(send("a"), id="job")
    assert_type(await job.result(), int)


@activity(dynamic=True)
def run_any(*args: Any) -> Any:
    return args


@workflow
async def place_order(order_id: int, *, gift: bool = False) -> str:
    receipt = await charge(5, currency="USD")
    assert_type(receipt, str)
    parcel = await pack(["a"])
    assert_type(parcel, str)
    weight = await weigh(parcel)
    assert_type(weight, float)
    assert_type(await compress(b"", level=1), bytes)
    assert_type(await settle(1), int)
    length, other = await asyncio.gather(ship(parcel), charge(1))
    assert_type(length, int)
    assert_type(other, str)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(ship(parcel))
    assert_type(task.result(), int)
    urgent = await ship.options(summary="urgent", retry=None)(parcel)
    assert_type(urgent, int)
    await sleep(timedelta(days=1))
    await sleep("3d")
    await wait_condition(lambda: True, timeout=5)
    print(now().isoformat(), info().workflow_id)
    return f"{receipt} {gift}"


@workflow(version="1.2.0", run_timeout="1h")
async def counts(numbers: list[int]) -> dict[str, int]:
    return {str(number): number for number in numbers}


async def main() -> None:
    assert_type(place_order(1, gift=True), WorkflowCall[str])
    async with Engine("sqlite:///orders.db", max_activities=10) as engine:
        run = await engine.start(place_order(1), id="order-1", run_timeout="1d")
        assert_type(run, Handle[str])
        assert_type(await run.result(timeout=5), str)
        assert_type(await engine.execute(counts([1])), dict[str, int])
        found = await engine.get("order-1", workflow=place_order)
        assert_type(await found.result(), str)
        await run.cancel("why")
        await run.terminate()
    outside = await charge(3)
    assert_type(outside, str)


def script() -> None:
    with SyncEngine("sqlite:///orders.db") as engine:
        assert_type(engine.execute(place_order(1)), str)
        assert_type(engine.start(counts([1])).result(), dict[str, int])


def generic(definition: Workflow[[int], str]) -> WorkflowCall[str]:
    return definition(1)


async def ask(prompt: str) -> bool:
    return bool(prompt)


@workflow
async def steps(prompt: str) -> int:
    def count() -> int:
        return len(prompt)

    assert_type(await step("count", count, key=prompt), int)
    assert_type(await step("ask", lambda: ask(prompt), key=[prompt, 1]), bool)
    assert_type(await step("charge", lambda: charge(3), retry=None), str)
    assert_type(await step("bound", partial(ask, prompt), returns=bool), bool)
    return await step("length", lambda: len(prompt), start_to_close_timeout="10s")
