"""What users of other systems reported of completions from outside, re-enacted.

Each test names the report that it comes from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from durable import (
    ActivityNotFoundError,
    AttemptOverError,
    Engine,
    RetryPolicy,
    activity,
    activity_info,
    complete_later,
    heartbeat,
    workflow,
)

TOKENS: list[str] = []
SEEN: list[object] = []
QUICK = RetryPolicy(max_attempts=3, initial_interval=0.01)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    TOKENS.clear()
    SEEN.clear()


@activity(name="reports.ask", retry=QUICK)
async def ask(fails: int) -> int:
    later = await complete_later()
    TOKENS.append(later.token)
    if activity_info().attempt <= fails:
        raise ConnectionError("told them, and then the line was dead")
    return later.outcome  # type: ignore[no-any-return]  # it stands for what comes


@activity(name="reports.beats", retry=QUICK)
async def beats() -> int:
    SEEN.append(activity_info().heartbeat_details)
    heartbeat("one")
    await asyncio.sleep(0.05)  # until that is written
    heartbeat("two")
    if activity_info().attempt == 1:
        raise ValueError("right after it")
    return 0


@workflow(name="reports.twice")
async def twice() -> list[int]:
    return [await ask(0), await ask(0)]


@workflow(name="reports.once")
async def once(fails: int = 0) -> int:
    return await ask(fails)


@workflow(name="reports.told")
async def told() -> int:
    return await beats()


def make_engine(database: str) -> Engine:
    return Engine(database, definitions=[twice, once, told, ask, beats])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.005)


async def test_the_second_completion_is_refused(database: str) -> None:
    """temporalio/temporal 1897: a broker delivers at least once."""
    async with make_engine(database) as engine:
        run = await engine.start(once(), id="o")
        await until(lambda: TOKENS)
        await engine.activities.complete(TOKENS[0], 1)
        with pytest.raises(ActivityNotFoundError):
            await engine.activities.complete(TOKENS[0], 1)
        assert await run.result() == 1


async def test_attempts_have_tokens_of_their_own(database: str) -> None:
    """temporalio/sdk-java 1223: the second attempt had the token of the first."""
    async with make_engine(database) as engine:
        run = await engine.start(once(1), id="o")
        await until(lambda: len(TOKENS) == 2)
        assert TOKENS[0] != TOKENS[1]
        with pytest.raises(AttemptOverError):
            await engine.activities.complete(TOKENS[0], 1)
        await engine.activities.complete(TOKENS[1], 2)
        assert await run.result() == 2


async def test_calls_have_tokens_of_their_own(database: str) -> None:
    """coinbase/temporal-ruby 98: each call of one activity seemed to have the same."""
    async with make_engine(database) as engine:
        run = await engine.start(twice(), id="t")
        for number in (1, 2):
            await until(lambda number=number: len(TOKENS) == number)  # type: ignore[misc]  # its default is its type
            await engine.activities.complete(TOKENS[-1], number)
        assert await run.result() == [1, 2]
        assert TOKENS[0] != TOKENS[1]


@pytest.mark.parametrize("fails", [0, 1, 2])
async def test_ids_hold_whatever_attempt_it_is_at(database: str, fails: int) -> None:
    """temporalio/temporal 10135 and documentation 4096: by ids after a retry."""
    async with make_engine(database) as engine:
        run = await engine.start(once(fails), id="o")
        await until(lambda: len(TOKENS) == fails + 1)
        which = {"workflow_id": "o", "activity_id": "1"}
        await engine.activities.heartbeat(None, "half", **which)
        assert (await engine.activities.describe(**which)).attempt == fails + 1
        await engine.activities.complete(result=7, **which)
        assert await run.result() == 7


async def test_a_run_tells_what_it_waits_for(database: str) -> None:
    """cadence-workflow/cadence 324: all outstanding activities, with their tokens."""
    async with make_engine(database) as engine:
        run = await engine.start(once(), id="o")
        await until(lambda: TOKENS)
        (found,) = await engine.activities.list(workflow_id="o", state="external")
        assert found.token == TOKENS[0]
        await engine.activities.complete(found.token, 3)
        assert await run.result() == 3


async def test_a_heartbeat_right_before_the_end_is_not_lost(database: str) -> None:
    """temporalio/temporal 8376, sdk-java 1965, cadence-go-client 577."""
    async with make_engine(database) as engine:
        assert await engine.execute(told()) == 0
    assert SEEN == [(), ("two",)]
