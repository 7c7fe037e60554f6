"""Rows 8 to 12 of the semantics: how runs fail, and what a cancel does.

See `test_semantics.py` for the others.
"""

import asyncio
from typing import Any

import pytest

from durable import (
    ActivityCancellationType,
    ApplicationError,
    WorkflowCancelledError,
    WorkflowFailedError,
    activity,
    info,
    sleep,
    workflow,
)
from durable.core.history import flags
from durable.core.history.commands import (
    CancelTimer,
    CancelWorkflowExecution,
    CompleteWorkflowExecution,
    FailWorkflowExecution,
    RequestCancelActivityTask,
    ScheduleActivityTask,
    StartTimer,
)
from durable.core.history.events import Attributes
from durable.core.workflow_task import WorkflowTaskCompletion
from durable.testing.driver import Driver


@activity(name="cancelling.ship", retry=None)
async def ship(item: str) -> str:
    return item


@activity(
    name="cancelling.ship_and_wait",
    retry=None,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
async def ship_and_wait(item: str) -> str:
    return item


@activity(
    name="cancelling.ship_and_forget",
    retry=None,
    cancellation_type=ActivityCancellationType.ABANDON,
)
async def ship_and_forget(item: str) -> str:
    return item


def kinds(completion: WorkflowTaskCompletion | None) -> list[type]:
    assert completion is not None
    return [type(command) for command in completion.commands]


# --- row 8 ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("x"), ApplicationError("x"), OSError(5)])
def test_row_08_an_error_fails_the_workflow(error: Exception) -> None:
    @workflow
    async def failing() -> None:
        raise error

    driver = Driver(failing())
    assert kinds(driver.start()) == [FailWorkflowExecution]
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    assert type(caught.value.__cause__) is type(error)


@pytest.mark.parametrize(
    "error",
    [
        TypeError("x"),
        KeyError("x"),
        AssertionError("x"),
        ExceptionGroup("x", [ValueError(1), ExceptionGroup("y", [NameError("z")])]),
    ],
)
def test_row_08_a_bug_fails_only_the_task_and_the_inputs_wait(error: Exception) -> None:
    bug: Exception | None = error

    @workflow
    async def buggy() -> str:
        item = await ship("a")
        if bug is not None:
            raise bug
        return item

    driver = Driver(buggy())
    driver.start()
    with pytest.raises(type(error)):
        driver.complete(2, "a")
    last = driver.history[-1]
    assert (last.task_number, last.event_id) == (0, 3)
    with pytest.raises(type(error)):  # a retry changes nothing in the history
        driver.turn()
    assert len(driver.history) == 3

    bug = None  # the mended code takes the input that waited
    driver.turn()
    assert driver.result() == "a"


# --- row 9 ----------------------------------------------------------------------------


def test_row_09_cancellation_is_a_state_delivered_once() -> None:
    @workflow
    async def stubborn() -> int:
        seen = 0
        for _ in range(3):
            try:
                await sleep(10)
            except asyncio.CancelledError:
                seen += 1
        return seen

    driver = Driver(stubborn())
    driver.start()
    driver.cancel("once")
    assert kinds(driver.cancel("twice")) == []
    driver.crash()
    driver.cancel("thrice")
    driver.fire_next_timer()
    driver.fire_next_timer()
    assert driver.result() == 1


def test_row_09_a_swallowed_cancel_completes_the_run() -> None:
    @workflow
    async def swallowing() -> str | None:
        try:
            await sleep(10)
        except asyncio.CancelledError:
            return info().cancellation_reason
        return None

    driver = Driver(swallowing())
    driver.start()
    driver.cancel("closing time")
    assert driver.result() == "closing time"


def test_row_09_a_cancel_before_the_first_task_lets_the_code_begin() -> None:
    begun = []

    @workflow
    async def beginning() -> None:
        begun.append(1)
        await sleep(10)

    driver = Driver(beginning())
    completion = driver.turn(driver.started(), driver.cancel_requested())
    assert begun == [1]
    assert kinds(completion) == [CancelWorkflowExecution]


def test_row_09_code_that_never_waits_outruns_an_early_cancel() -> None:
    @workflow
    async def quick() -> int:
        return 1

    driver = Driver(quick())
    driver.turn(driver.started(), driver.cancel_requested())
    assert driver.result() == 1


def test_row_09_the_status_is_cancelled_only_if_requested() -> None:
    @workflow
    async def cancelling() -> None:
        raise asyncio.CancelledError

    driver = Driver(cancelling())
    assert kinds(driver.start()) == [FailWorkflowExecution]


def test_row_09_another_error_after_a_cancel_is_a_failure() -> None:
    @workflow
    async def failing() -> None:
        try:
            await sleep(10)
        finally:
            raise ValueError("cleanup failed")

    driver = Driver(failing())
    driver.start()
    assert kinds(driver.cancel())[-1] is FailWorkflowExecution


def test_row_09_cleanup_after_a_cancel_may_wait() -> None:
    @workflow
    async def compensating() -> None:
        try:
            await sleep(10)
        finally:
            await ship("back")

    driver = Driver(compensating())
    driver.start()
    assert kinds(driver.cancel()) == [CancelTimer, ScheduleActivityTask]
    assert kinds(driver.complete(driver.pending[0], "back")) == [
        CancelWorkflowExecution
    ]
    with pytest.raises(WorkflowCancelledError):
        driver.result()


# --- row 10 ---------------------------------------------------------------------------


def test_row_10_try_cancel_raises_at_once_and_asks_the_activity_to_stop() -> None:
    @workflow
    async def trying() -> str:
        try:
            return await ship("a")
        except asyncio.CancelledError:
            return "cancelled"

    driver = Driver(trying())
    driver.start()
    assert kinds(driver.cancel()) == [
        RequestCancelActivityTask,
        CompleteWorkflowExecution,
    ]
    assert driver.result() == "cancelled"


@pytest.mark.parametrize("outcome", ["completed", "failed", "cancelled"])
def test_row_10_wait_cancellation_gives_the_true_outcome(outcome: str) -> None:
    @workflow
    async def waiting() -> str:
        try:
            return await ship_and_wait("a")
        except asyncio.CancelledError:
            return "cancelled"
        except ApplicationError:
            return "failed"

    driver = Driver(waiting())
    driver.start()
    assert kinds(driver.cancel()) == [RequestCancelActivityTask]
    (pending,) = driver.pending
    assert pending.is_cancel_requested
    if outcome == "completed":
        driver.complete(pending, "completed")
    elif outcome == "failed":
        driver.fail(pending, ApplicationError("no"))
    else:
        driver.turn(driver.cancelled(pending))
    assert driver.result() == outcome


def test_row_10_abandon_raises_at_once_and_sends_nothing() -> None:
    @workflow
    async def abandoning() -> str:
        try:
            return await ship_and_forget("a")
        except asyncio.CancelledError:
            await sleep(1)
            return "abandoned"

    driver = Driver(abandoning())
    driver.start()
    assert kinds(driver.cancel()) == [StartTimer]
    assert kinds(driver.complete(2, "late")) == []  # unheard, and no error
    driver.fire_next_timer()
    assert driver.result() == "abandoned"


@pytest.mark.parametrize("act", [ship, ship_and_wait, ship_and_forget])
def test_row_10_an_activity_cancelled_in_its_own_turn_is_never_recorded(
    act: object,
) -> None:
    @workflow
    async def hasty() -> str:
        task = asyncio.ensure_future(act("a"))  # type: ignore[operator]  # one of the three above
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return await ship("b")

    driver = Driver(hasty())
    driver.start()
    (pending,) = driver.pending
    # The id of the one that was withdrawn stays used, on every replay alike.
    assert (pending.activity_id, len(driver.history)) == ("2", 2)
    driver.crash()
    driver.complete(pending, "b")
    assert driver.result() == "b"


# --- row 11 ---------------------------------------------------------------------------


@pytest.mark.parametrize("cancel_first", [True, False])
@pytest.mark.parametrize("crash", [True, False])
def test_row_11_a_cancel_in_the_turn_of_the_result_is_seen(
    cancel_first: bool, crash: bool
) -> None:
    @workflow
    async def seeing() -> str:
        try:
            return await ship("a")
        except asyncio.CancelledError:
            await sleep(1)
            return "cancelled"

    driver = Driver(seeing())
    driver.start()
    inputs: list[Attributes] = [driver.completed(2, "a"), driver.cancel_requested()]
    if cancel_first:
        inputs.reverse()
    assert kinds(driver.turn(*inputs)) == [StartTimer]  # and no request to cancel
    if crash:
        driver.crash()
    driver.fire_next_timer()
    assert driver.result() == "cancelled"


def test_row_11_the_rule_is_recorded_with_the_turn() -> None:
    @workflow
    async def quick() -> int:
        return 1

    driver = Driver(quick())
    driver.start()
    assert {event.flags for event in driver.history} == {flags.CURRENT}
    assert flags.CURRENT & flags.Flag.DRAIN_ONCE


# --- row 12 ---------------------------------------------------------------------------


def test_row_12_shield_keeps_the_inner_operation() -> None:
    @workflow
    async def shielding() -> str:
        inner = asyncio.ensure_future(ship("a"))
        try:
            return await asyncio.shield(inner)
        except asyncio.CancelledError:
            return "outer cancelled, inner " + await inner

    driver = Driver(shielding())
    driver.start()
    assert kinds(driver.cancel()) == []
    driver.complete(2, "done")
    assert driver.result() == "outer cancelled, inner done"


def test_row_12_a_timeout_within_a_cancelled_run_counts_right() -> None:
    @workflow
    async def counting() -> int:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncio.timeout(5):
                await ship("a")
        except TimeoutError:
            return task.cancelling()
        return -1

    driver = Driver(counting())
    driver.start()
    driver.advance(5)
    assert driver.result() == 0


def test_row_12_the_wait_after_a_true_outcome_raises_the_cancel() -> None:
    @workflow
    async def waiting() -> list[Any]:
        first = await ship_and_wait("a")
        seen = 0
        for item in ("b", "c"):
            try:
                await ship(item)
            except asyncio.CancelledError:
                seen += 1
        return [first, seen]

    driver = Driver(waiting())
    driver.start()
    driver.cancel()
    assert kinds(driver.complete(2, "one")) == [ScheduleActivityTask]
    assert driver.pending[0].activity_id == "3"  # the second was withdrawn
    driver.complete(driver.pending[0], "three")
    assert driver.result() == ["one", 1]


def test_row_12_a_wait_for_that_expires_cancels_the_activity() -> None:
    @workflow
    async def limited() -> str:
        try:
            return await asyncio.wait_for(ship("a"), 3)
        except TimeoutError:
            return "late"

    driver = Driver(limited())
    assert kinds(driver.start()) == [StartTimer, ScheduleActivityTask]
    assert kinds(driver.advance(3)) == [
        RequestCancelActivityTask,
        CompleteWorkflowExecution,
    ]
    assert driver.result() == "late"
