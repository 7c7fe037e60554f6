"""The semantics that reimplementations of durable execution get wrong, by row.

The rows are those of the feature reference, section 4. Each has tests whose names begin
with `test_row_`; `test_every_row_has_a_test` counts them. Beside this file there are:

| rows                  | tests in                           |
| --------------------- | ---------------------------------- |
| 1 to 3                | `test_semantics_of_signals.py`     |
| 4 to 7                | `test_semantics_of_updates.py`     |
| 8 to 12               | `test_semantics_of_cancellation.py`|
| 13 to 17              | here                               |
| 18                    | `test_semantics_of_chains.py`      |
| 19, 20, 25            | `test_semantics_of_replay.py`      |
| 8, 21, 22, 24         | `test_semantics_of_runs.py`        |
| 23                    | `test_semantics_of_children.py`    |
| messages: 12, 14 to 17| `test_semantics_of_signals.py`     |
| children: 10 to 12, 19| `test_semantics_of_children.py`    |
| stores: 3 to 5, 23, 24| `test_semantics_of_chains.py`      |
"""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ActivityCancellationType,
    ApplicationError,
    WorkflowFailedError,
    activity,
    info,
    sleep,
    wait_condition,
    workflow,
)
from durable.core.history.commands import (
    CancelTimer,
    CompleteWorkflowExecution,
    FailWorkflowExecution,
    ScheduleActivityTask,
    StartTimer,
)
from durable.core.history.events import TimerFired
from durable.core.workflow_task import WorkflowTaskCompletion
from durable.errors import InvalidDurationError
from durable.testing.driver import Driver


@activity(name="semantics.ship", retry=None)
async def ship(item: str) -> str:
    return item


@activity(
    name="semantics.ship_and_wait",
    retry=None,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
async def ship_and_wait(item: str) -> str:
    return item


@activity(
    name="semantics.ship_and_forget",
    retry=None,
    cancellation_type=ActivityCancellationType.ABANDON,
)
async def ship_and_forget(item: str) -> str:
    return item


def kinds(completion: WorkflowTaskCompletion | None) -> list[type]:
    assert completion is not None
    return [type(command) for command in completion.commands]


# --- row 13 ---------------------------------------------------------------------------


def test_row_13_a_durable_sleep_of_zero_is_a_timer_and_a_turn() -> None:
    @workflow
    async def dozing() -> None:
        await sleep(0)

    driver = Driver(dozing())
    assert kinds(driver.start()) == [StartTimer]
    assert kinds(driver.advance(0)) == [CompleteWorkflowExecution]


def test_row_13_an_asyncio_sleep_of_zero_only_yields() -> None:
    @workflow
    async def yielding() -> None:
        await asyncio.sleep(0)

    assert kinds(Driver(yielding()).start()) == [CompleteWorkflowExecution]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e18])
def test_row_13_a_durable_sleep_refuses_what_is_no_duration(seconds: float) -> None:
    @workflow
    async def wrong() -> None:
        await sleep(seconds)

    driver = Driver(wrong())
    assert kinds(driver.start()) == [FailWorkflowExecution]
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    assert isinstance(caught.value.__cause__, InvalidDurationError)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e18])
def test_row_13_an_asyncio_sleep_refuses_what_is_no_duration(seconds: float) -> None:
    @workflow
    async def wrong() -> None:
        await asyncio.sleep(seconds)

    assert kinds(Driver(wrong()).start()) == [FailWorkflowExecution]


def test_row_13_a_cancel_beats_a_fire_that_is_stored_already() -> None:
    @workflow
    async def racing() -> str:
        timer = asyncio.ensure_future(sleep(5))
        item = await ship("a")
        timer.cancel()
        await asyncio.wait([timer])
        await sleep(60)
        return f"{item} {timer.cancelled()}"

    driver = Driver(racing())
    driver.start()
    started = driver.history[2]
    assert kinds(driver.complete(2, "a")) == [CancelTimer, StartTimer]
    late = TimerFired(timer_id="1", started_event_id=started.event_id)
    assert kinds(driver.turn(late)) == []
    driver.crash()  # the void fire is in the history, and replays as void
    driver.fire_next_timer()
    assert driver.result() == "a True"


def test_row_13_a_fire_of_an_unknown_timer_is_ignored() -> None:
    @workflow
    async def waiting() -> None:
        await sleep(5)

    driver = Driver(waiting())
    driver.start()
    assert kinds(driver.turn(TimerFired(timer_id="9", started_event_id=77))) == []


# --- row 14 ---------------------------------------------------------------------------


def test_row_14_a_condition_without_timeout_makes_no_timer() -> None:
    @workflow
    async def waiting() -> int:
        items: list[str] = []

        async def fill() -> None:
            items.append(await ship("a"))

        filling = asyncio.ensure_future(fill())
        await wait_condition(lambda: bool(items))
        await filling
        return len(items)

    driver = Driver(waiting())
    assert kinds(driver.start()) == [ScheduleActivityTask]
    driver.complete(2, "a")
    assert driver.result() == 1


def test_row_14_success_cancels_the_timer() -> None:
    @workflow
    async def waiting() -> None:
        items: list[str] = []

        async def fill() -> None:
            items.append(await ship("a"))

        filling = asyncio.ensure_future(fill())
        await wait_condition(lambda: bool(items), timeout=10)
        await filling

    driver = Driver(waiting())
    assert kinds(driver.start()) == [StartTimer, ScheduleActivityTask]
    assert kinds(driver.complete(3, "a")) == [CancelTimer, CompleteWorkflowExecution]


def test_row_14_expiry_raises_timeout_error_which_fails_the_run() -> None:
    @workflow
    async def waiting() -> None:
        await wait_condition(lambda: False, timeout=10)

    driver = Driver(waiting())
    driver.start()
    assert kinds(driver.advance(10)) == [FailWorkflowExecution]
    with pytest.raises(WorkflowFailedError) as caught:
        driver.result()
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_row_14_a_timeout_of_zero_only_looks() -> None:
    @workflow
    async def looking() -> list[Any]:
        await wait_condition(lambda: True, timeout=0)
        try:
            await wait_condition(lambda: False, timeout=0)
        except TimeoutError:
            return ["at once", info().history_length]
        return []

    assert kinds(Driver(looking()).start()) == [CompleteWorkflowExecution]


def test_row_14_a_condition_that_holds_at_once_leaves_no_trace() -> None:
    @workflow
    async def looking() -> None:
        await wait_condition(lambda: True, timeout=10)

    assert kinds(Driver(looking()).start()) == [CompleteWorkflowExecution]


@pytest.mark.parametrize("timeout", [None, 0, 5])
def test_row_14_what_the_predicate_raises_is_raised_where_the_code_waits(
    timeout: int | None,
) -> None:
    def broken() -> bool:
        raise ApplicationError("broken predicate")

    @workflow
    async def looking() -> str:
        try:
            await wait_condition(broken, timeout=timeout)
        except ApplicationError as error:
            return error.message
        return "nothing was raised"

    driver = Driver(looking())
    driver.start()
    assert driver.result() == "broken predicate"


def test_row_14_conditions_are_checked_after_everything_ready_has_run() -> None:
    @workflow
    async def ordered() -> list[str]:
        seen: list[str] = []
        state = {"count": 0}

        async def count() -> None:
            for _ in range(3):
                state["count"] += 1
                seen.append(f"count {state['count']}")
                await asyncio.sleep(0)

        async def watch() -> None:
            await wait_condition(lambda: state["count"] > 0)
            seen.append("watched")

        await asyncio.gather(watch(), count())
        return seen

    driver = Driver(ordered())
    driver.start()
    assert driver.result() == ["count 1", "count 2", "count 3", "watched"]


# --- row 15 and 16 --------------------------------------------------------------------


def test_row_15_results_resolve_in_the_order_of_history() -> None:
    @workflow
    async def collecting() -> list[str]:
        seen: list[str] = []

        async def one(item: str) -> None:
            seen.append(await ship(item))

        await asyncio.gather(*map(one, "abc"))
        return seen

    driver = Driver(collecting())
    driver.start()
    driver.turn(driver.completed(4, "c"), driver.completed(2, "a"))
    driver.crash()
    driver.complete(3, "b")
    assert driver.result() == ["c", "a", "b"]


def test_row_15_results_come_before_timers_of_the_same_turn() -> None:
    @workflow
    async def racing() -> str:
        shipping = asyncio.ensure_future(ship("a"))
        sleeping = asyncio.ensure_future(sleep(5))
        done, _ = await asyncio.wait(
            {shipping, sleeping}, return_when=asyncio.FIRST_COMPLETED
        )
        return f"{shipping in done} {sleeping in done}"

    driver = Driver(racing())
    driver.start()
    driver.clock.advance(5)
    driver.turn(driver.completed(2, "a"))
    assert [type(e.attributes).__name__ for e in driver.history[3:5]] == [
        "ActivityTaskCompleted",
        "TimerFired",
    ]
    assert driver.result() == "True True"


def test_row_16_all_events_of_a_turn_are_applied_before_any_code_runs() -> None:
    @workflow
    async def seeing() -> list[bool]:
        first, second = (asyncio.ensure_future(ship(item)) for item in "ab")
        seen: list[bool] = []
        await first
        # The second result came in the same turn; its task has not run, but is ready.
        await asyncio.sleep(0)
        seen.append(second.done())
        await second
        return seen

    driver = Driver(seeing())
    driver.start()
    driver.turn(driver.completed(2, "a"), driver.completed(3, "b"))
    assert driver.result() == [True]


# --- row 17 ---------------------------------------------------------------------------


def test_row_17_commands_of_other_tasks_come_before_the_end() -> None:
    @workflow
    async def leaving() -> str:
        background = asyncio.ensure_future(ship("background"))
        await asyncio.sleep(0)
        del background
        return "done"

    driver = Driver(leaving())
    assert kinds(driver.start()) == [ScheduleActivityTask, CompleteWorkflowExecution]


def test_row_17_tasks_that_run_on_after_the_return_are_still_committed() -> None:
    @workflow
    async def leaving() -> str:
        async def later() -> None:
            for _ in range(5):
                await asyncio.sleep(0)
            await ship("later")

        asyncio.ensure_future(later())  # noqa: RUF006 - nobody holds it, on purpose
        await asyncio.sleep(0)
        return "done"

    driver = Driver(leaving())
    assert kinds(driver.start()) == [ScheduleActivityTask, CompleteWorkflowExecution]
    driver.crash()
    driver.replay()
    assert driver.result() == "done"


# --- all rows -------------------------------------------------------------------------


def test_every_row_has_a_test() -> None:
    sources = Path(__file__).parent.glob("test_semantics*.py")
    names = [
        int(row)
        for source in sources
        for row in re.findall(r"def test_row_(\d+)_", source.read_text())
    ]
    assert sorted(set(names)) == list(range(1, 26))
