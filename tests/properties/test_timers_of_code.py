"""Timers that code holds: a crash before any turn makes no difference."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from durable import Timer, now, sleep, start_timer, workflow
from durable.testing import Driver, replay_at_every_prefix
from tests.sizes import examples

Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["start", "wait", "cancel", "sleep", "look", "wait_aside"]),
        st.integers(0, 4),
    ),
    max_size=12,
)


@workflow(name="timers_of_code.program")
async def program(steps: list[Step]) -> list[str]:
    timers: list[Timer] = []
    aside: list[asyncio.Task[bool]] = []
    seen: list[str] = []
    for what, number in steps:
        if what == "start":
            timers.append(start_timer(number * 10))
            continue
        if what == "sleep":
            await sleep(number * 7)
            continue
        if not timers:
            continue
        timer = timers[number % len(timers)]
        if what == "wait":
            seen.append(f"{await timer.wait()} at {now():%M:%S}")
        elif what == "cancel":
            seen.append(f"cancelled {timer.cancel()}")
        elif what == "wait_aside":
            aside.append(asyncio.create_task(timer.wait()))
        else:
            seen.append(f"{timer.is_triggered} {timer.is_cancelled}")
        assert not (timer.is_triggered and timer.is_cancelled)
    return [*seen, *map(str, await asyncio.gather(*aside))]


def result_of(steps: list[Step], *, crashes: bool) -> tuple[Any, Driver]:
    driver = Driver(program(steps))
    driver.start()
    while driver.next_timer_at is not None and not driver.is_closed:
        if crashes:
            driver.crash()
        driver.fire_next_timer()
    return driver.result(), driver


@settings(max_examples=examples(500))
@given(STEPS)
def test_crash_before_any_turn_changes_nothing(steps: list[Step]) -> None:
    live, driver = result_of(steps, crashes=False)
    assert result_of(steps, crashes=True)[0] == live
    replay_at_every_prefix(driver.history)
