"""Workflows that begin after a delay, and workflows that are tried again as a whole."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from durable import (
    ChildWorkflowError,
    RetryPolicy,
    RunStatus,
    Signal,
    WorkflowFailedError,
    has_last_result,
    info,
    last_failure,
    sleep,
    workflow,
)
from durable.doctor.doctor import examine
from durable.doctor.findings import Check
from durable.errors import ApplicationError, InvalidInputError, NotInWorkflowError
from durable.testing.environment import TestEnvironment

POLICY = RetryPolicy(max_attempts=3, initial_interval="10s", backoff_coefficient=2.0)
ping = Signal("ping", int)


class Declined(Exception):
    """What is not worth another try."""


@workflow(name="tries.failing")
async def failing(until: int = 99, kind: str = "") -> list[Any]:
    before = last_failure()
    attempt = info().attempt
    if kind == "declined":
        raise Declined("no")
    if kind == "final":
        raise ApplicationError("no", non_retryable=True)
    if attempt < until:
        raise ValueError(f"try {attempt}")
    return [attempt, None if before is None else str(before), has_last_result()]


@workflow(name="tries.slow")
async def slow() -> int:
    if info().attempt < 2:
        await sleep("1h")
    return info().attempt


@workflow(name="tries.parent")
async def parent(until: int) -> Any:
    try:
        return await failing.options(id="child", retry=POLICY)(until)
    except (ChildWorkflowError, ValueError) as error:
        return str(error)


@workflow(name="tries.listening")
async def listening() -> int:
    return await ping.receive()


async def test_failed_run_is_begun_again_as_a_new_run_of_its_id(database: str) -> None:
    async with TestEnvironment(database) as env:
        begun = env.now()
        run = await env.start(failing(3), id="r", retry=POLICY)
        assert await run.result() == [3, "try 2", False]
        passed = (
            env.now() - begun
        ).total_seconds()  # 10, 20, and a µs that orders runs
        assert passed == pytest.approx(30, abs=0.001)
        tries = await env.list(workflow_id="r")
        assert [one.status.value for one in tries] == ["completed", "failed", "failed"]
        assert len({one.run_id for one in tries}) == 3
        assert {one.first_run_id for one in tries} == {run.run_id}


async def test_last_try_fails_for_good_and_pinned_handles_see_their_own() -> None:
    async with TestEnvironment() as env:
        run = await env.start(failing(), id="r", retry=POLICY)
        with pytest.raises(WorkflowFailedError, match="try 3"):
            await run.result()
        assert len(await env.list(workflow_id="r")) == 3


@pytest.mark.parametrize("kind", ["declined", "final"])
async def test_what_the_policy_excludes_is_not_tried_again(kind: str) -> None:
    policy = RetryPolicy(non_retryable=(Declined,))
    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError):
            await env.execute(failing(3, kind), id="r", retry=policy)
        assert len(await env.list(workflow_id="r")) == 1


async def test_run_timeout_is_tried_again_and_execution_timeout_ends_all() -> None:
    async with TestEnvironment() as env:
        assert await env.execute(slow(), id="r", run_timeout="1m", retry=POLICY) == 2
        with pytest.raises(WorkflowFailedError):
            await env.execute(failing(), id="e", retry=POLICY, execution_timeout="25s")
        assert len(await env.list(workflow_id="e")) == 2  # 10 s, but not 20 s more


async def test_cancelled_and_terminated_runs_are_not_tried_again() -> None:
    async with TestEnvironment() as env:
        for number, end in enumerate(("cancel", "terminate")):
            run = await env.start(listening(), id=f"r{number}", retry=POLICY)
            await env.settle()
            await getattr(run, end)()
            await env.settle()
            assert len(await env.list(workflow_id=f"r{number}")) == 1


async def test_parent_hears_of_the_last_try_only() -> None:
    async with TestEnvironment() as env:
        assert await env.execute(parent(3)) == [3, "try 2", False]
        assert "try 3" in await env.execute(parent(99))
        assert len(await env.list(workflow_id="child")) == 6


async def test_tries_survive_restarts_and_the_doctor_finds_nothing(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        clock = env.clock
        await env.start(failing(3), id="r", retry=POLICY)
        await env.start(parent(2), id="p")
        await env.settle()
    async with TestEnvironment(database, clock=clock) as env:
        assert (await (await env.get("r")).result())[0] == 3
        assert (await (await env.get("p")).result())[0] == 2
        found = [f.check async for f in examine(env._store)]
        # Virtual time has passed a lease that the machine's clock has not.
        assert set(found) <= {Check.EXPIRED_LEASE}


async def test_signal_that_nobody_received_is_carried_to_the_next_try() -> None:
    @workflow(name="tries.late")
    async def late() -> int:
        if info().attempt == 1:
            await sleep(5)
            raise ValueError("first")
        return await ping.receive()

    async with TestEnvironment() as env:
        run = await env.start(late(), retry=POLICY)
        await env.settle()
        await run.signal(ping(7))
        assert await run.result() == 7


async def test_delayed_run_begins_then_and_its_timeouts_count_from_there() -> None:
    async with TestEnvironment() as env:
        begun = env.now()
        run = await env.start(failing(1), delay="10m", run_timeout="1m")
        await env.sleep("9m")
        assert len(await run.history()) == 1
        assert await run.result() == [1, None, False]
        assert env.now() - begun == timedelta(minutes=10)


async def test_signal_begins_a_delayed_run_at_once(database: str) -> None:
    async with TestEnvironment(database) as env:
        begun = env.now()
        run = await env.start(listening(), delay="1d")
        await env.sleep("1m")
        await run.signal(ping(3))
        assert await run.result() == 3
        assert env.now() - begun == timedelta(minutes=1)


async def test_delay_outlives_a_restart(database: str) -> None:
    async with TestEnvironment(database) as env:
        clock = env.clock
        await env.start(failing(1), id="r", delay="1h")
    async with TestEnvironment(database, clock=clock) as env:
        run = await env.get("r")
        await env.sleep("59m")
        assert (await run.describe()).status is RunStatus.RUNNING
        assert await run.result() == [1, None, False]


async def test_wrong_policy_or_delay_is_refused() -> None:
    async with TestEnvironment() as env:
        wrong: list[dict[str, Any]] = [{"retry": 3}, {"delay": "soon"}, {"delay": -1}]
        for options in wrong:
            with pytest.raises(InvalidInputError):
                await env.start(failing(), **options)
        assert await env.list() == []


def test_last_result_is_known_to_workflows_only() -> None:
    with pytest.raises(NotInWorkflowError, match="last_failure"):
        last_failure()
