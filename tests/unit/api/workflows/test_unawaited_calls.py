"""A call that workflow code makes and never awaits is a bug, found where it is made."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable import WorkflowStuckError, activity, continue_as_new, sleep, workflow
from durable.testing.environment import TestEnvironment

RAN: list[int] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


@activity(name="unawaited.charge")
async def charge(n: int) -> int:
    RAN.append(n)
    return n


@workflow(name="unawaited.child")
async def child(n: int) -> int:
    return n


@workflow(name="unawaited.forgot")
async def forgot_activity() -> int:
    charge(1)  # type: ignore[unused-coroutine]  # the fault under test
    return await charge(2)


@workflow(name="unawaited.forgot_child")
async def forgot_child() -> int:
    child(1)  # the fault under test
    return await charge(2)


@workflow(name="unawaited.forgot_late")
async def forgot_late() -> int:
    held = charge(1)
    await sleep(5)
    return 0 if held else 1


@pytest.mark.parametrize(
    ("flow", "name"),
    [
        (forgot_activity, "unawaited.charge"),
        (forgot_child, "unawaited.child"),
        (forgot_late, "unawaited.charge"),
    ],
)
async def test_a_call_that_is_never_awaited_parks_at_its_line(
    flow: Any, name: str
) -> None:
    async with TestEnvironment() as env:
        run = await env.start(flow())
        with pytest.raises(WorkflowStuckError) as stuck:
            await run.result()
    assert f"The call of {name!r} at" in str(stuck.value)
    assert "test_unawaited_calls.py:" in str(stuck.value)
    assert RAN == []  # nothing behind the line took place either


async def test_mended_code_goes_on_where_the_call_is() -> None:
    @workflow(name="unawaited.mended")
    async def broken() -> int:
        first = await charge(1)
        charge(2)  # type: ignore[unused-coroutine]  # the fault under test
        return first + await charge(3)

    @workflow(name="unawaited.mended")
    async def mended() -> int:
        first = await charge(1)
        return first + await charge(2) + await charge(3)

    database = "memory://unawaited"
    async with TestEnvironment(database, definitions=[broken, charge]) as env:
        run = await env.start(broken(), id="o")
        with pytest.raises(WorkflowStuckError):
            await run.result()
    async with TestEnvironment(
        database, definitions=[mended, charge], clock=env.clock
    ) as env:
        assert await (await env.get("o")).result() == 6
    assert RAN == [1, 2, 3]


@workflow(name="unawaited.good")
async def good(again: bool) -> int:
    held = charge(1)
    await sleep(1)
    total = await held
    for n in (2, 3):
        try:
            await asyncio.wait_for(charge(n), 0)
        except TimeoutError:
            total += 100
    for call in (charge(4), child(5)):
        asyncio.create_task(call).cancel()
    tasks = [asyncio.create_task(charge(6)), asyncio.create_task(child(7))]
    total += sum(await asyncio.gather(*tasks))
    if again:
        continue_as_new(good(False))
    return total


async def test_calls_that_are_awaited_later_or_given_up_are_none() -> None:
    async with TestEnvironment() as env:
        assert await env.execute(good(True)) == 214
