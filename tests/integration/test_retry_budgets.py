"""Retries are a share of first attempts: one for which nothing is left waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable import (
    ActivityExecutor,
    ActivityState,
    Engine,
    RetryBudget,
    RetryPolicy,
    activity,
    activity_info,
    activity_method,
    workflow,
)
from durable.clock import SystemClock
from durable.core.history.commands import ActivitySettings, RetrySettings
from durable.core.history.events import ActivityTaskScheduled
from durable.core.history.payload import Failure
from durable.errors import InvalidOptionError
from durable.runs import inputs
from durable.runs.activity_tasks.retry_budgets import RetryBudgets
from durable.runs.live_run import Attempt
from durable.testing.environment import TestEnvironment

SECOND: Final = 1_000_000
AT_ONCE: Final = RetryPolicy(initial_interval=0.001, max_attempts=3)
BEGAN: list[float] = []
"""When each retry began, in seconds of the clock of its test."""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    BEGAN.clear()


async def fail_once() -> None:
    info = activity_info()
    if info.attempt == 1:
        raise ConnectionError("down")
    BEGAN.append(info.started_at / SECOND)


TWO_LEFT: Final = RetryBudget(ratio=0, min_per_second=0.1, burst=2)
here = activity(name="budget.here", retry=AT_ONCE, retry_budget=TWO_LEFT)(fail_once)
elsewhere = activity(
    name="budget.there", retry=AT_ONCE, retry_budget=TWO_LEFT, task_queue="gpu"
)(fail_once)
free = activity(name="budget.free", retry=AT_ONCE)(fail_once)


@activity(name="budget.half", retry=AT_ONCE, retry_budget=RetryBudget(ratio=0.5))
async def half(fails: bool) -> None:
    if fails:
        await fail_once()


@activity(
    name="budget.hurried",
    retry=AT_ONCE,
    retry_budget=TWO_LEFT,
    schedule_to_close_timeout="5s",
)
async def hurried() -> None:
    await fail_once()


@workflow(name="budget.many")
async def many(name: str, count: int) -> int:
    call = {"here": here, "elsewhere": elsewhere, "free": free, "hurried": hurried}
    call["patient"] = hurried.options(schedule_to_close_timeout="1h")
    calls = [call[name]() for _ in range(count)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    return sum(isinstance(end, ConnectionError) for end in ends)


@workflow(name="budget.halves")
async def halves(good: int) -> None:
    await asyncio.gather(*[half(True) for _ in range(10)])
    await asyncio.gather(*[half(False) for _ in range(good)])
    await asyncio.gather(*[half(True) for _ in range(10)])


DEFINITIONS: Final = [many, halves, here, elsewhere, free, half, hurried]


def environment(database: str) -> TestEnvironment:
    return TestEnvironment(
        database, definitions=DEFINITIONS, activity_queues={"gpu": 20}
    )


def waits() -> list[int]:
    return [round(instant - BEGAN[0]) for instant in BEGAN]


@pytest.mark.parametrize("name", ["here", "elsewhere"])
async def test_retries_wait_for_what_is_allowed_each_second(
    name: str, database: str
) -> None:
    async with environment(database) as env:
        assert await env.execute(many(name, 6)) == 0
        assert waits() == [0, 0, 10, 20, 30, 40]
        BEGAN.clear()
        assert await env.execute(many("free", 6)) == 0
        assert waits() == [0] * 6


@pytest.mark.parametrize(("good", "late"), [(0, [1, 2, 3, 4, 5]), (10, []), (99, [])])
async def test_first_attempts_allow_their_share_of_retries(
    good: int, late: list[int]
) -> None:
    async with TestEnvironment(definitions=DEFINITIONS) as env:
        await env.execute(halves(good))
        assert waits() == [0] * (20 - len(late)) + late


async def test_retry_that_would_begin_too_late_ends_now_and_takes_nothing() -> None:
    async with TestEnvironment(definitions=DEFINITIONS) as env:
        assert await env.execute(many("hurried", 5)) == 3
        assert waits() == [0, 0]
        began = env.clock.now()
        run = await env.start(many("hurried", 1))
        assert await run.result() == 1
        assert env.clock.now() - began < SECOND
        [attempt] = await run.attempts()
        assert "ConnectionError" in (attempt.failure or "")
        assert await env.execute(many("patient", 1)) == 0
        assert waits() == [0, 0, 10]


async def test_wait_is_visible_and_outlives_its_worker(
    tmp_path: Path, forgotten: None
) -> None:
    goes: Counter[str] = Counter()
    budget = RetryBudget(ratio=0, min_per_second=0.5, burst=1)

    @activity(name="budget.shown", retry=AT_ONCE, retry_budget=budget)
    async def shown() -> int:
        goes["begun"] += 1
        if activity_info().attempt < 3:
            raise ConnectionError("down")
        return activity_info().attempt

    @workflow(name="budget.showing")
    async def showing() -> int:
        return await shown()

    url = f"sqlite:///{tmp_path}/budgets.db"
    async with Engine(url) as engine:
        run = await engine.start(showing(), id="r")
        async with asyncio.timeout(20):
            while not (found := await run.activities()) or found[0].attempt < 3:  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.005)
        assert found[0].state is ActivityState.BACKING_OFF
        assert found[0].due_at is not None
        assert (found[0].due_at - found[0].since).total_seconds() > 1.5
        due_at = found[0].due_at
        assert goes["begun"] == 2
    async with Engine(url) as engine:  # its own budget has one left
        run = await engine.get("r", workflow=showing)
        [again] = await run.activities()
        assert again.due_at == due_at
        assert await run.result() == 3


async def test_executor_without_an_engine_keeps_budgets(forgotten: None) -> None:
    budget = RetryBudget(ratio=0, min_per_second=20, burst=1)
    slow = here.options()
    assert slow.retry_budget is TWO_LEFT  # of the definition, whatever a call says
    bounded = activity(name="budget.alone", retry=AT_ONCE, retry_budget=budget)
    since = SystemClock().now()
    async with ActivityExecutor() as executor:
        calls = [await executor.start(bounded(fail_once)) for _ in range(5)]
        for call in calls:
            await call.result()
    # The first retry is paid for; it may begin late, and the others do not wait for it.
    assert BEGAN[-1] - since / SECOND >= 0.19


def test_wrong_budgets_are_refused(forgotten: None) -> None:
    class Shop:
        @activity_method(retry_budget=TWO_LEFT)
        async def sell(self) -> None: ...

    assert Shop.sell.retry_budget is TWO_LEFT
    for wrong in (-0.1, float("nan"), float("inf"), True, "0.1", None, 2_000_000):
        with pytest.raises(InvalidOptionError, match=r"RetryBudget\.ratio is"):
            RetryBudget(ratio=cast(Any, wrong))
    with pytest.raises(InvalidOptionError, match=r"min_per_second is 0: .* from 0.001"):
        RetryBudget(min_per_second=0)
    with pytest.raises(InvalidOptionError, match=r"burst is 0.5: .* from 1 to"):
        RetryBudget(burst=0.5)
    with pytest.raises(InvalidOptionError, match="give a RetryBudget"):
        activity(retry_budget=cast(Any, 0.1))(fail_once)
    with pytest.raises(InvalidOptionError, match="It is of the definition"):
        cast(Any, here).options(retry_budget=TWO_LEFT)


# --- what holds of any order ----------------------------------------------------------


def failed(max_attempts: int, error: str) -> inputs.AttemptFailed:
    settings = ActivitySettings(
        task_queue="",
        start_to_close_timeout=None,
        schedule_to_close_timeout=None,
        schedule_to_start_timeout=None,
        heartbeat_timeout=None,
        retry_policy=RetrySettings(max_attempts, 1, 1, 1.0, (), ("Final",)),
        cancellation_type="try_cancel",
        at_most_once=False,
    )
    scheduled = ActivityTaskScheduled("1", "render", (), settings, {})
    run: Any = SimpleNamespace(run_id="r")
    return inputs.AttemptFailed(
        Attempt(run, 2, scheduled, 0, {}), Failure(type=error), 0
    )


BUDGETS: Final = st.builds(
    RetryBudget,
    ratio=st.sampled_from([0, 0.1, 0.5, 2]),
    min_per_second=st.sampled_from([0.001, 0.5, 7]),
    burst=st.sampled_from([1, 2.5, 10]),
)
STEPS: Final = st.lists(
    st.tuples(st.sampled_from(["begins", "fails", "ends"]), st.integers(0, 3 * SECOND)),
    max_size=40,
)


@given(BUDGETS, STEPS)
def test_no_more_begin_than_allowed_and_each_has_its_time(
    budget: RetryBudget, steps: list[tuple[str, int]]
) -> None:
    budgets, now, earned = RetryBudgets(), 0, 0.0
    due: list[tuple[int, float]] = []
    for what, passed in steps:
        now += passed
        if what == "begins":
            budgets.earn("a", budget, now)
            earned += budget.ratio
        elif what == "fails":
            begins = budgets.spend("a", budget, failed(0, "Error"), now)
            assert begins >= now
            due.append((begins, earned))
        else:  # for good: nothing follows, and nothing is taken
            budgets.spend("a", budget, failed(1, "Error"), now)
            budgets.spend("a", budget, failed(0, "Final"), now)
    for begins, _ in due:
        by_then = [more for other, more in due if other <= begins]
        paid = budget.burst + max(by_then) + budget.min_per_second * begins / SECOND
        assert len(by_then) <= paid + 1e-6


def test_clock_that_is_set_back_pays_nothing_twice() -> None:
    budgets, budget = RetryBudgets(), RetryBudget(ratio=0, burst=1)
    begins = [
        budgets.spend("a", budget, failed(0, "Error"), now * SECOND)
        for now in (9, 5, 9, 9)
    ]
    assert begins == [9 * SECOND, 6 * SECOND, 11 * SECOND, 12 * SECOND]
