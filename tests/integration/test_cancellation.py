"""Cancellation: a state, delivered once, seen by plain asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from durable import (
    ActivityCancellationType,
    RunStatus,
    WorkflowCancelledError,
    WorkflowFailedError,
    activity,
    info,
    sleep,
    workflow,
)
from durable.testing.environment import TestEnvironment

SEEN: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    SEEN.clear()


@activity
async def note(text: str) -> str:
    SEEN.append(text)
    return text


@activity(start_to_close_timeout="1h", retry=None)
async def long_work(stubborn: bool = False) -> str:
    SEEN.append("begun")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        SEEN.append("asked to stop")
        if stubborn:
            return "finished all the same"
        raise
    return "finished"


async def cancel_soon(env: TestEnvironment, call: Any, **options: Any) -> Any:
    run = await env.start(call, id="w", **options)
    await env.sleep(5)
    await run.cancel("enough")
    return run


async def test_cx_01_swallowed_once_never_comes_again(database: str) -> None:
    @workflow(name="swallow")
    async def swallow() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await sleep(100)
        await sleep(100)
        return await note("went on")

    async with TestEnvironment(database) as env:
        run = await cancel_soon(env, swallow())
        await run.cancel("again")
        assert await run.result() == "went on"
        assert (await run.describe()).status is RunStatus.COMPLETED


async def test_cx_01_accepted_before_the_first_task_the_code_still_begins(
    database: str,
) -> None:
    @workflow(name="early")
    async def early() -> None:
        await note("first line")
        await sleep(100)

    async with TestEnvironment(database, worker=False) as client:
        run = await client.start(early(), id="w")
        await run.cancel("too late")
    async with TestEnvironment(database, clock=client.clock) as env:
        again = await env.get("w")
        with pytest.raises(WorkflowCancelledError):
            await again.result()
        kinds = [type(event.attributes).__name__ for event in await again.history()]
        # The code began: it asked for its activity before it heard of the cancel.
        assert kinds[-1] == "WorkflowExecutionCanceled"


async def test_cx_02_the_reason_can_be_read(database: str) -> None:
    @workflow(name="why")
    async def why() -> str | None:
        try:
            await sleep(100)
        except asyncio.CancelledError:
            return info().cancellation_reason
        return None

    async with TestEnvironment(database) as env:
        run = await cancel_soon(env, why())
        assert await run.result() == "enough"


async def test_cx_03_a_cancelled_error_nobody_asked_for_is_a_failure() -> None:
    @workflow(name="spurious")
    async def spurious() -> None:
        raise asyncio.CancelledError

    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError) as failed:
            await env.execute(spurious())
        assert not isinstance(failed.value, WorkflowCancelledError)


async def test_cx_03_another_error_after_the_cancel_is_a_failure(
    database: str,
) -> None:
    @workflow(name="angry")
    async def angry() -> None:
        try:
            await sleep(100)
        except asyncio.CancelledError:
            raise ValueError("not now") from None

    async with TestEnvironment(database) as env:
        run = await cancel_soon(env, angry())
        with pytest.raises(WorkflowFailedError, match="not now"):
            await run.result()
        assert (await run.describe()).status is RunStatus.FAILED


async def test_cx_04_cleanup_may_run_activities(database: str) -> None:
    @workflow(name="tidy")
    async def tidy() -> None:
        try:
            await sleep(100)
        finally:
            await note("undo 2")
            await sleep(3)
            await note("undo 1")

    async with TestEnvironment(database) as env:
        run = await cancel_soon(env, tidy())
        with pytest.raises(WorkflowCancelledError):
            await run.result()
    assert SEEN == ["undo 2", "undo 1"]


async def test_cx_04_shielded_work_is_not_touched(database: str) -> None:
    @workflow(name="shielded")
    async def shielded() -> str:
        task = asyncio.ensure_future(long_work())
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            return await task
        return "not cancelled"

    async with TestEnvironment(database) as env:
        run = await cancel_soon(env, shielded())
        assert await run.result() == "finished"
    assert SEEN == ["begun"]


@pytest.mark.parametrize(
    ("kind", "stubborn", "outcome", "seen"),
    [
        ("TRY_CANCEL", False, "cancelled", ["begun", "asked to stop"]),
        ("TRY_CANCEL", True, "cancelled", ["begun", "asked to stop"]),
        ("ABANDON", False, "cancelled", ["begun"]),
        ("WAIT_CANCELLATION_COMPLETED", False, "cancelled", ["begun", "asked to stop"]),
        (
            "WAIT_CANCELLATION_COMPLETED",
            True,
            "finished all the same",
            ["begun", "asked to stop"],
        ),
    ],
)
async def test_row_10_cancel_while_an_activity_is_in_flight(
    database: str, kind: str, stubborn: bool, outcome: str, seen: list[str]
) -> None:
    @workflow(name="holding")
    async def holding() -> str:
        work = long_work.options(cancellation_type=ActivityCancellationType[kind])
        try:
            result = await work(stubborn)
        except asyncio.CancelledError:
            await sleep(1)
            return "cancelled"
        return result

    async with TestEnvironment(database) as env:
        run = await cancel_soon(env, holding())
        assert await run.result() == outcome
        assert seen == SEEN


async def test_cx_05_cancelling_a_task_sends_the_command(database: str) -> None:
    @workflow(name="inner")
    async def inner() -> str:
        task = asyncio.ensure_future(long_work())
        await sleep(5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await sleep(5)
        return "done"

    async with TestEnvironment(database) as env:
        run = await env.start(inner(), id="w")
        assert await run.result() == "done"
        kinds = [type(event.attributes).__name__ for event in await run.history()]
        assert kinds.count("ActivityTaskCancelRequested") == 1
        assert kinds.count("ActivityTaskCanceled") == 1
    assert SEEN == ["begun", "asked to stop"]


async def test_row_11_a_cancel_beats_a_result_of_the_same_turn(database: str) -> None:
    @workflow(name="race")
    async def race() -> str:
        try:
            return await note("result")
        except asyncio.CancelledError:
            return "cancelled"

    async with TestEnvironment(database, worker=False) as client:
        run = await client.start(race(), id="w")
        await run.cancel("now")
    async with TestEnvironment(database, clock=client.clock) as env:
        assert await (await env.get("w")).result() == "cancelled"


async def test_b16_the_answer_to_the_canceller_matches_the_end() -> None:
    @workflow(name="short")
    async def short() -> str:
        return await note("done")

    async with TestEnvironment() as env:
        for number in range(50):
            run = await env.start(short(), id=f"w{number}")
            cancelling = asyncio.ensure_future(run.cancel())
            for _ in range(number % 7):
                await asyncio.sleep(0)
            try:
                await cancelling
                accepted = True
            except Exception:  # noqa: BLE001 - refused because it has closed
                accepted = False
            try:
                await run.result()
                cancelled = False
            except WorkflowCancelledError:
                cancelled = True
            history = await run.history()
            requested = any(
                type(e.attributes).__name__ == "WorkflowExecutionCancelRequested"
                for e in history
            )
            assert requested == accepted
            assert not cancelled or accepted


@workflow(name="obliging")
async def obliging(seconds: float) -> str:
    """Answer a cancel with a result."""
    try:
        await sleep(seconds)
    except asyncio.CancelledError:
        return f"asked to stop: {info().cancellation_reason}"
    return "finished"


@workflow(name="relying")
async def relying(of_child: bool, seconds: float) -> str:
    """Rely on a child or an activity, then wait for much longer."""
    stubborn = long_work.options(
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
    )
    result = await (obliging(seconds) if of_child else stubborn(True))
    try:
        await sleep(100_000)
    except asyncio.CancelledError:
        return f"cancelled after {result}"
    return f"never told after {result}"


@pytest.mark.parametrize("of_child", [True, False])
async def test_a_cancel_that_was_answered_with_a_result_reaches_the_parent(
    database: str, of_child: bool
) -> None:
    async with TestEnvironment(database) as env:
        run = await cancel_soon(env, relying(of_child, 100))
        assert (await run.result()).startswith("cancelled after")


async def test_a_cancel_and_a_childs_end_that_wait_for_a_worker_are_both_seen(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        await env.start(relying(True, 3), id="w")
        await env.sleep(1)
    async with TestEnvironment(database, worker=False, clock=env.clock) as client:
        await (await client.get("w")).cancel("while nobody worked")
        await client.sleep(600)
    async with TestEnvironment(database, clock=client.clock) as env:
        run = await env.get("w")
        # Whether the child ends before it is asked to is for its worker to say.
        with contextlib.suppress(WorkflowCancelledError):
            assert (await run.result()).startswith("cancelled after")


async def test_the_reason_of_a_cancelled_task_reaches_a_live_child() -> None:
    @workflow(name="explaining")
    async def explaining() -> str:
        task = asyncio.ensure_future(obliging(100))
        await sleep(1)
        task.cancel("the customer has left")
        return await task

    async with TestEnvironment() as env:
        assert await env.execute(explaining()) == "asked to stop: the customer has left"
