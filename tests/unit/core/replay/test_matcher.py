"""What a mismatch says: where, both sides, both lines of code, and what to do."""

import asyncio
import re
from typing import Any

import pytest

from durable import NondeterminismError, activity, patched, sleep, workflow
from durable.testing.driver import Driver


@activity(name="matcher.first", retry=None)
async def first(value: int = 0) -> int:
    return value


@activity(name="matcher.second", retry=None)
async def second(value: int = 0) -> int:
    return value


def mismatch(before: Any, after: Any, *, finish: bool = False) -> NondeterminismError:
    """Record with one body, replay with the other."""
    body = before

    @workflow(name="matcher.edited")
    async def edited() -> None:
        await body()

    driver = Driver(edited(), workflow_id="order-42")
    driver.start()
    if finish:
        while driver.pending:
            driver.complete(driver.pending[0], 0)
    driver.crash()
    body = after
    with pytest.raises(NondeterminismError) as caught:
        driver.replay()
    return caught.value


async def calls_first() -> None:
    await first(1)


async def calls_second() -> None:
    await second(2)


async def calls_first_with_more() -> None:
    await first(100)


async def sleeps() -> None:
    await sleep(1.5)


async def does_nothing() -> None: ...


async def calls_both() -> None:
    await first(1)
    await second(2)


async def gathers_both() -> None:
    await asyncio.gather(first(3), second(4))


async def gathers_both_swapped() -> None:
    await asyncio.gather(second(4), first(3))


def test_message_of_another_activity_names_everything() -> None:
    error = mismatch(calls_first, calls_second)
    assert error.event_id == 2
    assert re.fullmatch(
        r"ActivityTaskScheduled\('matcher.first', id 1, 1 arguments?, 1 bytes?\) at "
        + re.escape(f"{__file__}:{calls_first.__code__.co_firstlineno + 1}"),
        str(error.recorded),
    )
    assert re.fullmatch(
        r"ScheduleActivityTask\('matcher.second', id 1, 1 arguments?, 1 bytes?\) at "
        + re.escape(f"{__file__}:{calls_second.__code__.co_firstlineno + 1}"),
        str(error.found),
    )
    text = str(error)
    assert text.startswith("Run 'order-42' (matcher.edited, ")
    assert f"event 2 is {error.recorded}, but the code issues {error.found}" in text
    assert "the activity differs." in text
    assert error.hint is not None
    assert text.endswith(error.hint)
    assert "patched(" in error.hint


def test_arguments_that_differ_are_named_and_sized_and_never_shown() -> None:
    error = mismatch(calls_first, calls_first_with_more)
    assert ": argument 1 ('value') differs." in str(error)
    assert "3 bytes" in str(error.found)
    assert "100" not in str(error.found).split(" at ")[0]


def test_timer_where_an_activity_was() -> None:
    error = mismatch(calls_first, sleeps)
    assert error.event_id == 2
    assert str(error.found).startswith("StartTimer(id 1, 1.5 s) at ")


def test_nothing_where_an_activity_was() -> None:
    error = mismatch(calls_first, does_nothing)
    assert (error.event_id, error.found) == (2, "CompleteWorkflowExecution")


def test_end_where_nothing_more_was_recorded() -> None:
    error = mismatch(gathers_both, does_nothing)
    assert (error.event_id, error.found) == (2, "CompleteWorkflowExecution")


def test_activity_too_few() -> None:
    async def gathers_one() -> None:
        await asyncio.gather(first(3), sleep_for_ever())

    async def sleep_for_ever() -> None:
        await asyncio.Event().wait()

    error = mismatch(gathers_both, gathers_one)
    assert (error.event_id, error.found) == (3, None)
    assert "event 3 is ActivityTaskScheduled('matcher.second'" in str(error)
    assert "but the code issues nothing there" in str(error)


def test_activity_too_many() -> None:
    error = mismatch(calls_first, gathers_both_like_first)
    assert (error.event_id, error.recorded) == (None, None)
    assert "history holds nothing more for this workflow task" in str(error)
    assert "ScheduleActivityTask('matcher.second', id 2" in str(error)


async def gathers_both_like_first() -> None:
    await asyncio.gather(first(1), second(4))


def test_swapped_calls_are_found_at_the_first() -> None:
    error = mismatch(gathers_both, gathers_both_swapped)
    assert error.event_id == 2
    assert "'matcher.second'" in str(error.found)


def test_position_is_that_of_the_first_difference_and_not_of_the_turn() -> None:
    async def edited_late() -> None:
        await first(1)
        await asyncio.gather(second(2), first(9))

    error = mismatch(calls_both, edited_late, finish=True)
    # Events: 1 started, 2 scheduled, 3 completed, 4 scheduled, 5 completed, 6 end.
    assert error.event_id is None
    assert "ScheduleActivityTask('matcher.first', id 3" in str(error)

    async def edited_in_the_middle() -> None:
        await first(1)
        await first(2)

    error = mismatch(calls_both, edited_in_the_middle, finish=True)
    assert error.event_id == 4


def test_patch_where_an_activity_was() -> None:
    async def patches() -> None:
        patched("p")
        await first(1)

    def before() -> Any:
        return calls_first()

    body: Any = before

    @workflow(name="matcher.patching")
    async def patching() -> None:
        await body()

    driver = Driver(patching())
    driver.start()
    body = patches
    driver.crash()
    driver.complete(2, 0)  # on replay patched() is False and records nothing
    assert driver.is_closed


def test_error_survives_pickling() -> None:
    import pickle

    error = mismatch(calls_first, sleeps)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert str(copy) == str(error)
    assert (copy.event_id, copy.recorded, copy.found) == (
        error.event_id,
        error.recorded,
        error.found,
    )
