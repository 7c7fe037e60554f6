"""How runs end: the closing command, and what parks a run instead."""

import asyncio
import sys
from typing import Any

import pytest

from durable import (
    ApplicationError,
    NondeterminismError,
    WorkflowFailedError,
    activity,
    sleep,
    wait_condition,
    workflow,
)
from durable.core.history.commands import CancelWorkflowExecution, FailWorkflowExecution
from durable.core.history.events import (
    WorkflowExecutionCompleted,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from durable.errors import InternalError, PayloadError, WorkflowTaskError
from durable.testing.driver import Driver


@activity(name="run machine.look", retry=None)
async def look() -> int:
    return 1


def test_completed_run_holds_its_result_and_takes_no_more() -> None:
    @workflow
    async def quick() -> list[int]:
        return [1, 2]

    driver = Driver(quick())
    completion = driver.start()
    assert completion.is_closed
    assert isinstance(driver.history[-1].attributes, WorkflowExecutionCompleted)
    with pytest.raises(InternalError, match="closed run"):
        driver.turn(driver.cancel_requested())


def test_changed_result_of_a_closed_run_is_no_mismatch() -> None:
    result = 1

    @workflow
    async def quick() -> int:
        return result

    driver = Driver(quick())
    driver.start()
    driver.crash()
    result = 2
    driver.replay()
    assert driver.result() == 1


def test_changed_way_of_ending_is_a_mismatch() -> None:
    is_failing = False

    @workflow
    async def quick() -> int:
        if is_failing:
            raise ApplicationError("no")
        return 1

    driver = Driver(quick())
    driver.start()
    driver.crash()
    is_failing = True
    with pytest.raises(NondeterminismError, match="FailWorkflowExecution"):
        driver.replay()


@pytest.mark.parametrize(
    "event",
    [WorkflowExecutionTimedOut("run"), WorkflowExecutionTerminated("because")],
)
def test_closed_from_outside_no_code_runs(event: Any) -> None:
    seen = []

    @workflow
    async def cleaning() -> None:
        try:
            await sleep(10)
        finally:
            seen.append("cleanup")

    driver = Driver(cleaning())
    driver.start()
    completion = driver.turn(event)
    assert (completion.commands, completion.is_closed) == ((), True)
    assert seen == []
    driver.crash()
    assert driver.is_closed


@pytest.mark.parametrize("where", ["main", "task", "callback", "predicate"])
def test_sys_exit_parks_the_run_and_not_the_program(where: str) -> None:
    async def leave() -> None:
        sys.exit(3)

    @workflow
    async def leaving() -> None:
        if where == "main":
            await leave()
        elif where == "task":
            await asyncio.gather(leave())
        elif where == "callback":
            asyncio.get_running_loop().call_soon(sys.exit, 3)
        else:
            await wait_condition(lambda: sys.exit(3))
        await sleep(1)

    with pytest.raises(WorkflowTaskError, match=r"sys\.exit\(3\)"):
        Driver(leaving()).start()


def test_keyboard_interrupt_passes_through() -> None:
    @workflow
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Driver(interrupted()).start()


def test_callback_that_raises_parks_the_run() -> None:
    @workflow
    async def calling() -> None:
        asyncio.get_running_loop().call_soon([].pop)
        await sleep(1)

    with pytest.raises(IndexError):
        Driver(calling()).start()


def test_callback_that_looks_at_a_cancelled_task_parks_the_run() -> None:
    """Its CancelledError must not cancel whoever drives the turn."""

    @workflow
    async def calling() -> None:
        task = asyncio.ensure_future(asyncio.sleep(10))
        task.add_done_callback(lambda done: done.result())
        await asyncio.sleep(0)
        task.cancel()
        await sleep(1)

    with pytest.raises(asyncio.CancelledError):
        Driver(calling()).start()


def test_exception_of_a_forgotten_task_is_reported_and_harmless() -> None:
    @workflow
    async def forgetting() -> int:
        async def lost() -> None:
            raise ValueError("lost")

        task = asyncio.ensure_future(lost())
        await asyncio.sleep(0)
        del task
        await sleep(1)
        return 1

    driver = Driver(forgetting())
    driver.start()
    driver.crash()
    (context,) = driver.unhandled
    assert isinstance(context["exception"], ValueError)
    driver.fire_next_timer()
    assert driver.result() == 1
    driver.crash()
    assert len(driver.unhandled) == 1  # replayed code reports nothing again


@pytest.mark.parametrize("depth", [1, 2])
def test_activity_error_caused_by_a_cancel_ends_as_cancelled(depth: int) -> None:
    @workflow
    async def wrapping() -> None:
        try:
            await sleep(10)
        except asyncio.CancelledError as error:
            wrapped: BaseException = error
            for _ in range(depth - 1):
                wrapped = asyncio.CancelledError("again")
            raise wrapped from None

    driver = Driver(wrapping())
    driver.start()
    assert isinstance(driver.cancel().commands[-1], CancelWorkflowExecution)


def test_group_around_the_cancel_is_a_failure_of_its_own() -> None:
    @workflow
    async def grouping() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(sleep(10))
            await sleep(20)

    driver = Driver(grouping())
    driver.start()
    assert isinstance(driver.cancel().commands[-1], CancelWorkflowExecution)


def test_error_of_a_task_group_fails_the_run_with_its_members() -> None:
    @workflow
    async def grouping() -> None:
        async def fail(message: str) -> None:
            raise ApplicationError(message)

        async with asyncio.TaskGroup() as group:
            group.create_task(fail("a"))
            group.create_task(fail("b"))

    driver = Driver(grouping())
    assert isinstance(driver.start().commands[-1], FailWorkflowExecution)
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    group = caught.value.__cause__
    assert isinstance(group, ExceptionGroup)
    assert [str(error) for error in group.exceptions] == ["a", "b"]


def test_result_that_cannot_be_recorded_parks_with_its_name() -> None:
    @workflow(name="bad result")
    async def wrong() -> Any:
        return object()

    driver = Driver(wrong())
    with pytest.raises(PayloadError, match="The result of 'bad result'"):
        driver.start()


def test_task_without_inputs_is_malformed() -> None:
    @workflow
    async def waiting() -> None:
        await sleep(1)

    driver = Driver(waiting())
    driver.start()
    with pytest.raises(InternalError, match="neither inputs nor due timers"):
        driver.turn()


def test_task_after_the_first_must_not_start_the_run() -> None:
    @workflow
    async def quick() -> None: ...

    driver = Driver(quick())
    with pytest.raises(InternalError, match="must start the run"):
        driver.turn(driver.cancel_requested())
