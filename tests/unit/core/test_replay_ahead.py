"""A replay goes on at once where a turn brings the awaited result and nothing else.

The code must see just what it saw live: the same times, the same order of tasks, the
same interruptions.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from durable import (
    activity,
    checkpoint,
    info,
    now,
    patched,
    set_state,
    sleep,
    wait_condition,
    workflow,
)
from durable.api.workflows.workflow import WorkflowCall
from durable.core.loop.loop import DeterministicLoop
from durable.errors import NondeterminismError
from durable.options import ActivityCancellationType
from durable.testing.driver import Driver


@activity(name="ahead.step", retry=None)
async def step(value: int) -> int:
    return value


@activity(name="ahead.other", retry=None)
async def other(value: int) -> int:
    return value


patient = step.options(
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
)


@workflow(name="ahead.plain")
async def plain(times: int) -> list[Any]:
    seen: list[Any] = []
    for number in range(times):
        seen += [await step(number), now().isoformat(), info().history_length]
    return seen


@workflow(name="ahead.tasks")
async def tasks(times: int) -> list[int]:
    for number in range(times):
        await step(number)
    later = {asyncio.create_task(other(number)) for number in range(7)}
    return [await task for task in later]  # in the order of their numbers, mixed


@workflow(name="ahead.beside")
async def beside(times: int) -> int:
    async def tick() -> None:
        for number in range(times):
            await other(number)

    ticking = asyncio.create_task(tick())
    for number in range(times):
        await step(number)
    await ticking
    return times


@workflow(name="ahead.conditions")
async def conditions(times: int) -> list[int]:
    seen: list[int] = []

    async def watch() -> None:
        for number in range(times):
            await wait_condition(lambda: len(seen) > number)  # noqa: B023 - awaited at once
            seen.append(-number)

    watching = asyncio.create_task(watch())
    for number in range(times):
        seen += [await step(number)]
    await watching
    return seen


@workflow(name="ahead.limited")
async def limited(times: int) -> int:
    for number in range(times):
        async with asyncio.timeout(60):
            await step(number)
        await sleep(1)
    return times


@workflow(name="ahead.queued")
async def queued(times: int) -> list[int]:
    seen: list[int] = []
    for number in range(times):
        asyncio.get_running_loop().call_soon(seen.append, number)
        await step(number)
        seen.append(-number)
    return seen


@workflow(name="ahead.patched")
async def patched_code(times: int) -> int:
    for number in range(times):
        await step(number)
        if patched(f"ahead {number}"):
            await other(number)
    return times


@workflow(name="ahead.patient")
async def waits(times: int) -> list[int]:
    for number in range(times):
        await patient(number)
    later = {asyncio.create_task(other(number)) for number in range(7)}
    return [await task for task in later]


@workflow(name="ahead.checkpoints", checkpoint_every=4)
async def checkpoints(done: int) -> int:
    while done < 6:
        await step(done)
        done += 1
        checkpoint(done)
    return done


@workflow(name="ahead.caught")
async def caught(times: int) -> list[str]:
    seen: list[str] = []
    for number in range(times):
        try:
            await step(number)
        except Exception as error:  # noqa: BLE001 - as code does
            seen.append(type(error).__name__)
    return seen


PROGRAMS = [
    plain(3),
    tasks(3),
    beside(3),
    conditions(3),
    limited(2),
    queued(3),
    patched_code(3),
    waits(2),
    checkpoints(0),
    caught(3),
]


def play(
    call: WorkflowCall[Any], before_turn: Callable[[Driver], None], which: int = 0
) -> Driver:
    """Drive a run to its end, each time by the outcome of this open activity.

    Every second one of `caught` fails.
    """
    driver = Driver(call)
    driver.start()
    while not driver.is_closed:
        before_turn(driver)
        if not driver.pending:
            driver.fire_next_timer()
        elif call.definition is caught and int(driver.pending[which].activity_id) % 2:
            driver.fail(driver.pending[which], ValueError("no"))
        else:
            driver.complete(driver.pending[which], len(driver.history))
    return driver


@pytest.mark.parametrize("which", [0, -1], ids=["oldest", "newest"])
@pytest.mark.parametrize("call", PROGRAMS, ids=lambda call: call.definition.name)
def test_a_run_that_is_replayed_before_each_turn_decides_the_same(
    call: WorkflowCall[Any], which: int
) -> None:
    warm = play(call, lambda _: None, which)
    cold = play(call, Driver.crash, which)
    assert cold.history == warm.history
    cold.crash()
    cold.replay()


def test_the_code_is_not_put_aside_for_a_result_that_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[None] = []
    create = DeterministicLoop.create_future

    def create_future(self: DeterministicLoop) -> Any:
        made.append(None)
        return create(self)

    monkeypatch.setattr(DeterministicLoop, "create_future", create_future)
    driver = play(plain(20), lambda _: None)
    assert len(made) == 20
    driver.crash()
    driver.replay()
    assert len(made) == 20


def test_a_step_that_differs_later_is_found_where_it_is() -> None:
    driver = play(plain(4), lambda _: None)

    @workflow(name="ahead.changed")
    async def changed(times: int) -> None:
        for number in range(times):
            await (step if number < 2 else other)(number)

    mended = Driver(changed(4))
    mended.history = driver.history
    with pytest.raises(
        NondeterminismError, match=r"'ahead\.step', id 3"
    ) as caught_here:
        mended.replay()
    assert caught_here.value.event_id == 6
    assert "ahead.other" in (caught_here.value.found or "")


def test_a_command_that_the_code_issues_beside_it_is_a_mismatch() -> None:
    driver = play(plain(3), lambda _: None)

    @workflow(name="ahead.more")
    async def more(times: int) -> None:
        for number in range(times):
            if number == 1:
                set_state(number)
            await step(number)

    mended = Driver(more(3))
    mended.history = driver.history
    with pytest.raises(NondeterminismError) as caught_here:
        mended.replay()
    assert caught_here.value.event_id == 4
