"""Errors fail a run, bugs park it; a parked run heals with mended code."""

from __future__ import annotations

import asyncio

import pytest

from durable import (
    NondeterminismError,
    RunStatus,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    sleep,
    workflow,
)
from durable.testing.environment import TestEnvironment

RAN: list[str] = []


@activity
async def step(name: str) -> str:
    RAN.append(name)
    return name


@activity
async def other(name: str) -> str:
    RAN.append(name)
    return name


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


async def test_a_bug_parks_the_run_and_the_waiter_is_told_at_once(
    database: str,
) -> None:
    @workflow(name="order")
    async def broken() -> str:
        await step("a")
        return [][1]

    @workflow(name="order")
    async def mended() -> str:
        first = await step("a")
        return first + await step("b")

    async with TestEnvironment(database, definitions=[broken, step]) as env:
        run = await env.start(broken(), id="w")
        with pytest.raises(WorkflowStuckError, match="IndexError") as stuck:
            await run.result()
        assert "return [][1]" in str(stuck.value)
        described = await run.describe()
        assert described.status is RunStatus.RUNNING
        assert described.stuck is not None
        assert described.stuck.type == "IndexError"
        assert [r.workflow_id for r in await env.list(stuck=True)] == ["w"]
    async with TestEnvironment(
        database, definitions=[mended, step], clock=env.clock
    ) as env:
        healed = await env.get("w", workflow=mended)
        assert await healed.result() == "ab"
        assert (await healed.describe()).stuck is None
        assert RAN == ["a", "b"]  # what was recorded did not run again


async def test_a_mismatch_parks_with_both_sides_and_heals_with_the_old_code(
    database: str,
) -> None:
    @workflow(name="order")
    async def original() -> str:
        first = await step("a")
        await sleep("1h")
        return first + await step("b")

    @workflow(name="order")
    async def changed() -> str:
        first = await other("a")
        await sleep("1h")
        return first + await step("b")

    async with TestEnvironment(database, definitions=[original, step]) as env:
        await env.start(original(), id="w")
        await env.sleep("1s")
    async with TestEnvironment(
        database, definitions=[changed, step, other], clock=env.clock
    ) as env:
        await env.sleep("2h")
        run = await env.get("w")
        with pytest.raises(WorkflowStuckError) as stuck:
            await run.result()
        cause = stuck.value.__cause__
        assert isinstance(cause, NondeterminismError)
        text = str(stuck.value)
        assert "event 2 is ActivityTaskScheduled('step'" in text
        assert "ScheduleActivityTask('other'" in text
        assert text.count("test_stuck.py:") >= 2
        before = len(await run.history())
    async with TestEnvironment(
        database, definitions=[original, step], clock=env.clock
    ) as env:
        run = await env.get("w")
        assert await run.result() == "ab"
        assert len(await run.history()) > before
    assert RAN == ["a", "b"]


async def test_swapped_arguments_are_a_mismatch(database: str) -> None:
    @workflow(name="order")
    async def original() -> None:
        await asyncio.gather(step("x"), step("y"))
        await sleep("1h")

    @workflow(name="order")
    async def swapped() -> None:
        await asyncio.gather(step("y"), step("x"))
        await sleep("1h")

    async with TestEnvironment(database, definitions=[original, step]) as env:
        await env.start(original(), id="w")
        await env.sleep("1s")
    async with TestEnvironment(
        database, definitions=[swapped, step], clock=env.clock
    ) as env:
        await env.sleep("2h")
        with pytest.raises(WorkflowStuckError, match=r"argument 1 \('\w+'\) differs"):
            await (await env.get("w")).result()


async def test_an_ordinary_exception_fails_the_run_as_python_people_expect() -> None:
    @workflow
    async def failing() -> None:
        raise ValueError("bad order")

    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError, match="ValueError: bad order"):
            await env.execute(failing())


async def test_the_lists_of_failures_and_bugs_are_options_of_the_workflow() -> None:
    @workflow(fail_on=(LookupError,))
    async def expects_lookups() -> None:
        raise KeyError("missing")

    @workflow(park_on=(ValueError,))
    async def fears_values() -> None:
        raise ValueError("odd")

    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError):
            await env.execute(expects_lookups())
        with pytest.raises(WorkflowStuckError):
            await env.execute(fears_values())


async def test_an_activitys_lookup_error_is_a_failure_not_a_bug() -> None:
    @activity(retry=None)
    async def find() -> None:
        raise KeyError("row")

    @workflow
    async def looking() -> None:
        await find()

    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError, match="KeyError"):
            await env.execute(looking())


async def test_a_group_with_a_bug_in_it_parks() -> None:
    @workflow
    async def grouped(bug: bool) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_raise(TypeError("x") if bug else ValueError("x")))

    async with TestEnvironment() as env:
        with pytest.raises(WorkflowStuckError):
            await env.execute(grouped(True))
        with pytest.raises(WorkflowFailedError):
            await env.execute(grouped(False))


async def _raise(error: Exception) -> None:
    raise error


async def test_an_outcome_is_recorded_even_if_the_code_then_has_a_bug(
    database: str,
) -> None:
    @workflow(name="order")
    async def broken() -> str:
        result = await step("a")
        raise TypeError(result)

    @workflow(name="order")
    async def mended() -> str:
        return await step("a")

    async with TestEnvironment(database, definitions=[broken, step]) as env:
        run = await env.start(broken(), id="w")
        with pytest.raises(WorkflowStuckError):
            await run.result()
    async with TestEnvironment(
        database, definitions=[mended, step], clock=env.clock
    ) as env:
        assert await (await env.get("w")).result() == "a"
    assert RAN == ["a"]


async def test_a_bug_before_the_first_command_still_leaves_a_durable_run(
    database: str,
) -> None:
    @workflow(name="order")
    async def broken(value: int) -> int:
        raise NotImplementedError

    @workflow(name="order")
    async def mended(value: int) -> int:
        return value

    async with TestEnvironment(database, definitions=[broken]) as env:
        run = await env.start(broken(7), id="w")
        with pytest.raises(WorkflowStuckError):
            await run.result()
    async with TestEnvironment(database, definitions=[mended], clock=env.clock) as env:
        assert await (await env.get("w")).result() == 7


async def test_a_run_of_an_unknown_type_waits_for_a_worker_that_knows_it(
    database: str,
) -> None:
    @workflow
    async def known() -> str:
        await sleep("1h")
        return "ok"

    async with TestEnvironment(database, definitions=[known]) as env:
        await env.start(known(), id="w")
    async with TestEnvironment(database, definitions=[step], clock=env.clock) as env:
        await env.sleep("2h")
        described = await (await env.get("w")).describe()
        assert (described.status, described.stuck) == (RunStatus.RUNNING, None)
        assert described.owner is None
    async with TestEnvironment(database, definitions=[known], clock=env.clock) as env:
        assert await (await env.get("w")).result() == "ok"
