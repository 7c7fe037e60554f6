"""Timers that code holds: fired, cancelled, looked at, lost with the process."""

from __future__ import annotations

import asyncio

import pytest

from durable import Timer, info, set_query_handler, start_timer, workflow
from durable.core.history.events import TimerCanceled, TimerFired, TimerStarted
from durable.errors import (
    InvalidDurationError,
    NotInWorkflowError,
    QueryFailedError,
    ReadOnlyError,
)
from durable.testing import Driver, replay_at_every_prefix


def kinds(driver: Driver) -> list[str]:
    return [
        type(event.attributes).__name__
        for event in driver.history
        if isinstance(event.attributes, TimerStarted | TimerFired | TimerCanceled)
    ]


@workflow(name="timers.two")
async def two_timers() -> list[bool]:
    long, short = start_timer("2h"), start_timer("1h")
    set_query_handler("seen", lambda: [long.is_triggered, short.is_triggered])
    return [await short.wait(), await long.wait(), await short.wait()]


def test_timers_fire_by_their_times_and_answer_afterwards_too() -> None:
    driver = Driver(two_timers())
    driver.start()
    assert driver.query("seen") == [False, False]
    driver.fire_next_timer()
    assert driver.query("seen") == [False, True]
    driver.crash()
    assert driver.query("seen") == [False, True]
    driver.crash()
    driver.fire_next_timer()
    assert driver.result() == [True, True, True]
    assert kinds(driver) == ["TimerStarted"] * 2 + ["TimerFired"] * 2
    replay_at_every_prefix(driver.history)


@workflow(name="timers.waiters")
async def many_wait() -> list[bool]:
    timer = start_timer(60)
    try:
        async with asyncio.timeout(10):
            await timer.wait()
    except TimeoutError:
        assert not timer.is_triggered
    return await asyncio.gather(*(timer.wait() for _ in range(3)))


def test_every_waiter_is_woken_and_a_cancelled_wait_leaves_the_timer_alone() -> None:
    driver = Driver(many_wait())
    driver.start()
    driver.advance(10)
    driver.advance(50)
    assert driver.result() == [True, True, True]


@workflow(name="timers.cancelled")
async def cancelled() -> list[object]:
    early = start_timer("1h", summary="the same turn")
    assert early.cancel()
    timer = start_timer("3h")
    waiting = asyncio.create_task(timer.wait())
    await start_timer("1h").wait()
    return [timer.cancel(), timer.cancel(), timer.is_cancelled, await waiting]


def test_cancelled_timer_never_fires_and_whoever_waits_goes_on() -> None:
    driver = Driver(cancelled())
    driver.start()
    driver.crash()
    driver.fire_next_timer()
    assert driver.result() == [True, False, True, False]
    # What was cancelled in the turn that started it leaves no trace.
    assert kinds(driver) == [
        "TimerStarted",
        "TimerStarted",
        "TimerFired",
        "TimerCanceled",
    ]
    replay_at_every_prefix(driver.history)


@workflow(name="timers.of_a_query")
async def asked() -> bool:
    timer = start_timer("1h", summary="reminder")
    set_query_handler("cancel", timer.cancel)
    set_query_handler("start", lambda: start_timer("1h").seconds)
    return await timer.wait()


@pytest.mark.parametrize("name", ["cancel", "start"])
def test_query_may_look_at_a_timer_and_change_none(name: str) -> None:
    driver = Driver(asked())
    driver.start()
    with pytest.raises((ReadOnlyError, QueryFailedError)):
        driver.query(name)
    driver.fire_next_timer()
    assert driver.result() is True


def test_summary_and_line_are_recorded() -> None:
    driver = Driver(asked())
    driver.start()
    (started,) = (
        event.attributes
        for event in driver.history
        if isinstance(event.attributes, TimerStarted)
    )
    line = asked.function.__code__.co_firstlineno + 2
    assert (started.summary, started.start_to_fire_timeout) == (
        "reminder",
        3_600 * 10**6,
    )
    assert started.source == f"{__file__}:{line}"


def test_wrong_use_is_refused() -> None:
    with pytest.raises(NotInWorkflowError, match=r"durable\.start_timer\(\)"):
        start_timer("1h")


@workflow(name="timers.wrong")
async def wrong() -> str:
    try:
        start_timer("soon")
    except InvalidDurationError as error:
        return error.message
    return info().run_id


def test_what_is_no_duration_starts_no_timer() -> None:
    driver = Driver(wrong())
    driver.start()
    assert "durable.start_timer() is 'soon'" in driver.result()
    assert kinds(driver) == []


@workflow(name="timers.shown")
async def shown() -> list[str]:
    first, second = start_timer(1), start_timer("1m")
    found = [repr(first)]
    await first.wait()
    second.cancel()
    return [*found, repr(first), repr(second)]


def test_timer_says_how_it_stands() -> None:
    driver = Driver(shown())
    driver.start()
    driver.fire_next_timer()
    assert driver.result() == [
        "<timer of 1 s, running>",
        "<timer of 1 s, triggered>",
        "<timer of 60 s, cancelled>",
    ]
    assert isinstance(Timer, type)


LEFT: list[str] = []


@workflow(name="timers.left")
async def left() -> None:
    timer = start_timer("1h")
    try:
        await timer.wait()
    finally:
        LEFT.append("left")
        timer.cancel()


def test_run_that_leaves_memory_cancels_nothing() -> None:
    LEFT.clear()
    driver = Driver(left())
    driver.start()
    driver.crash()
    driver.fire_next_timer()
    driver.result()
    assert kinds(driver) == ["TimerStarted", "TimerFired"]
    assert LEFT[-1] == "left"
