"""The rows of `test_semantics.py` that take an engine: retries, delivery, ids."""

import asyncio
import itertools
from typing import Any

import pytest

from durable import (
    ActivityTimeoutError,
    ApplicationError,
    IdConflictPolicy,
    IdReusePolicy,
    RetryPolicy,
    RunStatus,
    WorkflowAlreadyStartedError,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    activity_info,
    sleep,
    workflow,
)
from durable.core.history.events import ActivityTaskCompleted
from durable.testing.environment import TestEnvironment


@workflow(name="runs.value")
async def value_of(number: int) -> int:
    return number


@workflow(name="runs.ending")
async def ending(how: str) -> str:
    if how == "fails":
        raise ApplicationError("no")
    if how == "sleeps":
        await sleep("1d")
    return how


# --- row 8 ----------------------------------------------------------------------------


async def test_row_08_a_bug_is_raised_at_once_and_the_run_is_parked() -> None:
    @workflow
    async def buggy() -> int:
        return [1][5]

    async with TestEnvironment() as env:
        run = await env.start(buggy())
        with pytest.raises(WorkflowStuckError, match="IndexError") as caught:
            await run.result()
        assert isinstance(caught.value.__cause__, IndexError)
        assert (await run.describe()).status is RunStatus.RUNNING


# --- row 21 ---------------------------------------------------------------------------


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (3, 3), (5, 5)])
async def test_row_21_attempts_include_the_first(most: int, expected: int) -> None:
    attempts: list[int] = []

    @activity(retry=RetryPolicy(max_attempts=most))
    async def failing() -> None:
        attempts.append(activity_info().attempt)
        raise ValueError("no")

    @workflow
    async def trying() -> None:
        await failing()

    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError):
            await env.execute(trying())
    assert attempts == list(range(1, expected + 1))


async def test_row_21_waits_grow_to_the_longest() -> None:
    times: list[float] = []

    @activity(
        retry=RetryPolicy(
            max_attempts=6, initial_interval=1, max_interval=5, backoff_coefficient=2
        )
    )
    async def failing() -> None:
        times.append(asyncio.get_running_loop().time())
        raise ValueError("no")

    @workflow
    async def trying() -> None:
        await failing()

    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError):
            await env.execute(trying())
    gaps = [round(b - a, 6) for a, b in itertools.pairwise(times)]
    assert gaps == [1, 2, 4, 5, 5]


async def test_row_21_no_attempt_waits_past_the_deadline() -> None:
    count = 0

    @activity(
        retry=RetryPolicy(max_attempts=0, initial_interval=10),
        schedule_to_close_timeout=25,
    )
    async def failing() -> None:
        nonlocal count
        count += 1
        raise ValueError(f"attempt {count}")

    @workflow
    async def trying() -> None:
        await failing()

    async with TestEnvironment() as env:
        began = env.now()
        with pytest.raises(WorkflowFailedError) as caught:
            await env.execute(trying())
        # 10 s, then 20 s would pass 25 s: it ends now, with the last failure.
        assert (env.now() - began).total_seconds() == 10
    assert count == 2
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value.__cause__) == "attempt 2"


async def test_row_21_an_attempt_that_passes_start_to_close_is_tried_again() -> None:
    count = 0

    @activity(
        retry=RetryPolicy(max_attempts=2, initial_interval=1), start_to_close_timeout=5
    )
    async def hanging() -> str:
        nonlocal count
        count += 1
        if count == 1:
            await asyncio.sleep(1_000)
        return "second"

    @workflow
    async def trying() -> str:
        return await hanging()

    async with TestEnvironment() as env:
        began = env.now()
        assert await env.execute(trying()) == "second"
        assert (env.now() - began).total_seconds() == 6


async def test_row_21_schedule_to_close_is_never_tried_again() -> None:
    count = 0

    @activity(retry=RetryPolicy(max_attempts=9), schedule_to_close_timeout=5)
    async def hanging() -> None:
        nonlocal count
        count += 1
        await asyncio.sleep(1_000)

    @workflow
    async def trying() -> None:
        await hanging()

    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError) as caught:
            await env.execute(trying())
    assert count == 1
    assert isinstance(caught.value.__cause__, ActivityTimeoutError)
    assert caught.value.__cause__.timeout_type == "schedule_to_close"


async def test_row_21_attempts_and_waits_survive_a_restart() -> None:
    attempts: list[int] = []

    @activity(retry=RetryPolicy(max_attempts=3, initial_interval=100, max_interval=100))
    async def failing() -> str:
        attempts.append(activity_info().attempt)
        if len(attempts) < 3:
            raise ValueError("no")
        return "done"

    @workflow
    async def trying() -> str:
        return await failing()

    async with TestEnvironment("memory://row-21") as env:
        began = env.now()
        await env.start(trying(), id="row-21")
        await env.sleep(50)
        clock = env.clock
    async with TestEnvironment("memory://row-21", clock=clock) as env:
        run = await env.get("row-21", workflow=trying)
        assert await run.result() == "done"
        assert (env.now() - began).total_seconds() == 200
    assert attempts == [1, 2, 3]


# --- row 22 ---------------------------------------------------------------------------


async def test_row_22_the_late_result_of_a_timed_out_attempt_is_refused() -> None:
    seen: list[str] = []

    @activity(
        retry=RetryPolicy(max_attempts=2, initial_interval=1), start_to_close_timeout=5
    )
    async def lingering() -> str:
        attempt = activity_info().attempt
        if attempt == 1:
            try:
                await asyncio.sleep(1_000)
            except asyncio.CancelledError:
                await asyncio.sleep(100)  # it will not hear
                seen.append("late")
                return "late"
        return "in time"

    @workflow
    async def trying() -> str:
        result = await lingering()
        await sleep(1_000)
        return result

    async with TestEnvironment() as env:
        run = await env.start(trying())
        assert await run.result() == "in time"
        outcomes = [
            event
            for event in await run.history()
            if isinstance(event.attributes, ActivityTaskCompleted)
        ]
    assert seen == ["late"]
    assert len(outcomes) == 1


async def test_row_22_attempts_have_one_idempotency_key() -> None:
    keys: list[str] = []

    @activity(retry=RetryPolicy(max_attempts=3, initial_interval=1))
    async def keyed() -> None:
        keys.append(activity_info().idempotency_key)
        if len(keys) < 3:
            raise ValueError("no")

    @workflow
    async def trying() -> None:
        await keyed()
        await keyed()

    async with TestEnvironment() as env:
        run = await env.start(trying())
        await run.result()
    assert keys == [f"{run.run_id}/1"] * 3 + [f"{run.run_id}/2"]


# --- row 24 ---------------------------------------------------------------------------


async def test_row_24_conflict_policy_rules_open_runs() -> None:
    async with TestEnvironment() as env:
        first = await env.start(ending("sleeps"), id="one")
        with pytest.raises(WorkflowAlreadyStartedError) as caught:
            await env.start(ending("returns"), id="one", on_conflict="fail")
        assert caught.value.run_id == first.run_id
        same = await env.start(
            ending("returns"), id="one", on_conflict=IdConflictPolicy.USE_EXISTING
        )
        assert same.run_id == first.run_id
        other = await env.start(
            ending("returns"), id="one", on_conflict=IdConflictPolicy.TERMINATE_EXISTING
        )
        assert other.run_id != first.run_id
        assert (await first.describe()).status is RunStatus.TERMINATED
        assert await other.result() == "returns"


@pytest.mark.parametrize(
    ("how", "policy", "is_allowed"),
    [
        ("returns", IdReusePolicy.ALLOW_DUPLICATE, True),
        ("returns", IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, False),
        ("returns", IdReusePolicy.REJECT_DUPLICATE, False),
        ("fails", IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, True),
        ("cancelled", IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, True),
        ("terminated", IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, True),
        ("timed out", IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY, True),
        ("fails", IdReusePolicy.REJECT_DUPLICATE, False),
    ],
)
async def test_row_24_reuse_policy_rules_closed_runs(
    how: str, policy: IdReusePolicy, is_allowed: bool
) -> None:
    async with TestEnvironment() as env:
        body = how if how in ("returns", "fails") else "sleeps"
        timeout = 5 if how == "timed out" else None
        first = await env.start(ending(body), id="one", run_timeout=timeout)
        if how == "cancelled":
            await first.cancel()
        elif how == "terminated":
            await first.terminate()
        if how == "returns":
            await first.result()
        else:
            with pytest.raises(WorkflowFailedError):
                await first.result()
        if is_allowed:
            second = await env.start(ending("returns"), id="one", id_reuse=policy)
            assert second.run_id != first.run_id
        else:
            with pytest.raises(WorkflowAlreadyStartedError, match="one"):
                await env.start(
                    ending("returns"), id="one", on_conflict="fail", id_reuse=policy
                )


async def test_row_24_a_request_id_makes_starting_idempotent() -> None:
    async with TestEnvironment() as env:
        runs = await asyncio.gather(
            *(
                env.start(value_of(number), id=f"id-{number}", request_id="once")
                for number in range(10)
            )
        )
        assert len({run.run_id for run in runs}) == 1
        assert len({await run.result() for run in runs}) == 1
        again: Any = await env.start(value_of(99), id="other", request_id="once")
        assert again.run_id == runs[0].run_id
