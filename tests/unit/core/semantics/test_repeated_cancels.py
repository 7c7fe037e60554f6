"""Scopes that cancel their tasks again and again, as those of anyio do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from durable import (
    ActivityCancellationType,
    ApplicationError,
    ChildCancellationType,
    Saga,
    WorkflowCancelledError,
    activity,
    sleep,
    workflow,
)
from durable.testing import Driver, replay_at_every_prefix
from tests.unit.core.semantics.logbook import words


@activity(
    name="repeated.work",
    retry=None,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
async def work(value: int) -> int:
    return value


@activity(name="repeated.undo")
async def undo(value: int) -> None: ...


@activity(name="repeated.step", compensate=undo)
async def step(value: int) -> int:
    return value


@workflow(name="repeated.child")
async def child(value: int) -> int:
    await sleep(100)
    return value


async def of_work() -> int:
    return await work(1)


async def of_child() -> int:
    return await child.options(id="kid")(1)


async def of_requested() -> int:
    kind = ChildCancellationType.WAIT_CANCELLATION_REQUESTED
    return await child.options(id="kid", cancellation_type=kind)(1)


async def in_a_task() -> int:
    return await asyncio.create_task(of_work())


async def in_a_group() -> int:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(of_child())
    return task.result()


async def in_a_group_of_anyio() -> int:
    async with anyio.create_task_group() as group:
        group.start_soon(of_work)
    return 7


async def gathered() -> int:
    return sum(await asyncio.gather(of_work(), of_work()))


WAITS: dict[str, Callable[[], Awaitable[int]]] = {
    wait.__name__: wait
    for wait in (
        of_work,
        of_child,
        of_requested,
        in_a_task,
        in_a_group,
        in_a_group_of_anyio,
        gathered,
    )
}


@workflow(name="repeated.within")
async def within(name: str) -> list[Any]:
    seen: list[Any] = []
    task = asyncio.current_task()
    assert task is not None
    with anyio.move_on_after(5) as scope:
        seen.append(await WAITS[name]())
        await sleep(100)
        seen.append("went on")
    seen += [scope.cancelled_caught, task.cancelling()]
    seen.append(await words.receive())
    return seen


def end_all(driver: Driver, how: str) -> None:
    """End what the run waits for, all in one turn."""
    ends: list[Any] = [one.delivered() for one in driver.deliveries]
    for kid in driver.children:
        if how == "stops":
            ends.append(kid.cancelled())
        elif how == "fails":
            ends.append(kid.failed(ApplicationError("no")))
        else:
            ends.append(kid.completed(3))
    for pending in driver.pending:
        if how == "stops":
            ends.append(driver.cancelled(pending))
        elif how == "fails":
            ends.append(driver.failed(pending, ApplicationError("no")))
        else:
            ends.append(driver.completed(pending, 3))
    driver.turn(*ends)


def begin(call: Any) -> Driver:
    driver = Driver(call)
    driver.start()
    if driver.children:
        driver.turn(*[kid.started() for kid in driver.children])
    return driver


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("how", ["stops", "answers"])
@pytest.mark.parametrize("crash", [False, True])
def test_a_scope_of_anyio_waits_and_then_moves_on(
    name: str, how: str, crash: bool
) -> None:
    driver = begin(within(name))
    driver.advance(5)
    assert all(one.is_cancel_requested for one in driver.pending)
    assert all(one.is_cancel_requested for one in driver.children)
    driver.signal(words("a turn in between"))
    if crash:
        driver.crash()
    end_all(driver, how)
    seen: list[Any] = ["a turn in between"]
    if not driver.is_closed:
        driver.signal(words("after it"))
    replay_at_every_prefix(driver.history)
    result = driver.result()
    assert result[-3:] == [True, 0, *seen]
    assert "went on" not in result


def test_a_request_within_such_a_scope_is_seen_outside_of_it() -> None:
    @workflow(name="repeated.asked")
    async def asked() -> str:
        with anyio.move_on_after(5):
            await work(1)
        await words.receive()
        return "not told"

    driver = begin(asked())
    driver.advance(5)
    driver.cancel()
    end_all(driver, "stops")
    replay_at_every_prefix(driver.history)
    with pytest.raises(WorkflowCancelledError):
        driver.result()


def test_a_failure_within_such_a_scope_is_raised() -> None:
    @workflow(name="repeated.failing")
    async def failing() -> str:
        try:
            with anyio.move_on_after(5):
                await work(1)
        except ApplicationError as error:
            return f"{error.message} {await words.receive()}"
        return "hidden"

    driver = begin(failing())
    driver.advance(5)
    end_all(driver, "fails")
    driver.signal(words("word"))
    replay_at_every_prefix(driver.history)
    assert driver.result() == "no word"


def test_shielded_cleanup_within_a_group_of_anyio_comes_to_its_end() -> None:
    async def member(seen: list[str]) -> None:
        try:
            await anyio.sleep(1_000)
        finally:
            with anyio.CancelScope(shield=True):
                await work(1)
                seen.append("cleaned")

    @workflow(name="repeated.cleaning")
    async def cleaning() -> list[str]:
        seen: list[str] = []
        with anyio.move_on_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(member, seen)
                group.start_soon(member, seen)
        return seen

    driver = begin(cleaning())
    driver.advance(5)
    for _ in range(2):
        driver.crash()
        driver.complete(driver.pending[0], 1)
    replay_at_every_prefix(driver.history)
    assert driver.result() == ["cleaned", "cleaned"]


def test_a_saga_within_such_a_scope_is_undone() -> None:
    @workflow(name="repeated.saga")
    async def saga() -> bool:
        with anyio.move_on_after(5) as scope:
            async with Saga():
                await step(1)
                await step(2)
        return scope.cancelled_caught

    driver = begin(saga())
    driver.complete(driver.pending[0], 1)
    driver.advance(5)
    driver.complete(driver.pending[0], 2)  # the step that was asked to stop
    kinds: list[str] = []
    while not driver.is_closed:
        kinds.append(driver.pending[0].activity_type)
        driver.complete(driver.pending[0], None)
    replay_at_every_prefix(driver.history)
    assert kinds == ["repeated.undo", "repeated.undo"]
    assert driver.result() is True


def test_code_that_counts_repeated_cancels_gets_as_many_as_it_counts() -> None:
    @workflow(name="repeated.counting")
    async def counting() -> int:
        seen = 0
        with anyio.move_on_after(5):
            while seen < 10:
                try:
                    await words.receive()
                except asyncio.CancelledError:
                    seen += 1
            await sleep(100)
        return seen

    driver = begin(counting())
    driver.advance(5)
    replay_at_every_prefix(driver.history)
    assert driver.result() == 10
