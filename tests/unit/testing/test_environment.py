"""The engine for tests: virtual time, mocks, restarts, and a stall that is told."""

import asyncio
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ResultTimeoutError,
    RetryPolicy,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowStuckError,
    WorkflowTimedOutError,
    activity,
    now,
    sleep,
    workflow,
)
from durable.errors import InvalidOptionError, NotRegisteredError
from durable.testing.clock import VirtualClock
from durable.testing.environment import StalledError, TestEnvironment


@activity(name="environment.charge", retry=RetryPolicy(max_attempts=2))
async def charge(amount: int) -> str:
    raise AssertionError("the real one must not run in these tests")


@activity(name="environment.mail")
def mail(text: str) -> int:
    time.sleep(0.01)
    return len(text)


@workflow(name="environment.order")
async def order(amount: int) -> str:
    receipt = await charge(amount)
    await sleep("3d")
    await mail(receipt)
    return receipt


@workflow(name="environment.napping")
async def napping(days: int) -> list[float]:
    began = now()
    for _ in range(days):
        await sleep("1d")
    return [(now() - began) / timedelta(days=1)]


@workflow(name="environment.waiting")
async def waiting() -> None:
    await asyncio.Event().wait()


@pytest.fixture(params=["memory://", "sqlite://"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite://":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return str(request.param)


async def test_time_jumps_to_what_is_due(database: str) -> None:
    async with TestEnvironment(database, mocks={charge: lambda amount: "paid"}) as env:
        run = await env.start(order(5))
        await env.sleep("2d")
        assert (await run.describe()).closed_at is None
        await env.sleep("1d")
        assert await run.result() == "paid"
        description = await run.describe()
        assert description.closed_at is not None
        assert description.closed_at - description.started_at == timedelta(days=3)


async def test_result_waits_in_virtual_time(database: str) -> None:
    async with TestEnvironment(database) as env:
        before = env.now()
        assert await env.execute(napping(400)) == [400]
        assert env.now() - before == timedelta(days=400)


async def test_timeout_of_result_is_virtual() -> None:
    async with TestEnvironment() as env:
        run = await env.start(napping(2))
        before = env.now()
        with pytest.raises(ResultTimeoutError):
            await run.result(timeout="1h")
        assert env.now() - before == timedelta(hours=1)
        assert await run.result() == [2]


async def test_many_runs_share_time() -> None:
    async with TestEnvironment() as env:
        before = env.now()
        results = await asyncio.gather(*(env.execute(napping(n)) for n in range(50)))
        assert results == [[n] for n in range(50)]
        assert env.now() - before == timedelta(days=49)


@pytest.mark.parametrize("key", [charge, "environment.charge"])
async def test_mock_by_activity_or_name_gets_the_decoded_arguments(key: Any) -> None:
    seen: list[int] = []

    def fake(amount: int) -> str:
        seen.append(amount)
        return f"fake {amount}"

    async def fake_async(amount: int) -> str:
        await asyncio.sleep(1)
        return fake(amount)

    for mock in (fake, fake_async):
        async with TestEnvironment(mocks={key: mock}) as env:
            assert await env.execute(order(5)) == "fake 5"
    assert seen == [5, 5]


async def test_mock_may_fail_and_is_tried_again() -> None:
    count = 0

    def fake(amount: int) -> str:
        nonlocal count
        count += 1
        if count < 2:
            raise ValueError("no")
        return "paid"

    async with TestEnvironment(mocks={charge: fake}) as env:
        assert await env.execute(order(5)) == "paid"
    assert count == 2


async def test_mock_that_returns_another_type_parks_the_run() -> None:
    async with TestEnvironment(mocks={charge: lambda amount: amount}) as env:
        with pytest.raises(WorkflowStuckError, match=r"environment.charge"):
            await env.execute(order(5))


async def test_mocks_leave_other_engines_alone() -> None:
    async with TestEnvironment(mocks={charge: lambda amount: "paid"}):
        pass
    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError, match="real one"):
            await env.execute(order(5))


def test_mock_of_nothing_is_refused() -> None:
    with pytest.raises(NotRegisteredError, match="'nothing'"):
        TestEnvironment(mocks={"nothing": lambda: 1})
    with pytest.raises(InvalidOptionError, match="cannot be called"):
        TestEnvironment(mocks={charge: "paid"})  # type: ignore[dict-item]  # the fault under test


async def test_waiting_for_what_never_comes_is_told_at_once() -> None:
    with pytest.raises(StalledError, match=r"'for-ever' \(environment.waiting\)"):
        async with TestEnvironment() as env:
            await env.execute(waiting(), id="for-ever")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_stall_without_runs_says_so() -> None:
    with pytest.raises(StalledError, match="No run is open"):
        async with TestEnvironment():
            await asyncio.Event().wait()


async def test_cancel_from_outside_is_no_stall() -> None:
    async def main() -> None:
        async with TestEnvironment() as env:
            await env.start(napping(10_000))
            await asyncio.sleep(0)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(main())


async def test_cancelled_and_timed_out_runs_end_in_time() -> None:
    async with TestEnvironment() as env:
        run = await env.start(waiting())
        await run.cancel()
        with pytest.raises(WorkflowCancelledError):
            await run.result()
        before = env.now()
        run = await env.start(waiting(), run_timeout="1h")
        with pytest.raises(WorkflowTimedOutError):
            await run.result()
        assert env.now() - before == timedelta(hours=1)


async def test_run_goes_on_in_the_next_environment(tmp_path: Path) -> None:
    for url in ("memory://next", f"sqlite:///{tmp_path / 'next.db'}"):
        async with TestEnvironment(url) as env:
            run = await env.start(napping(10), id="run")
            await env.sleep("5d")
        env.clock.advance("30d")  # downtime: the timer is long overdue
        async with TestEnvironment(url, clock=env.clock) as again:
            run = await again.get("run", workflow=napping)
            assert await run.result() == [39]


async def test_two_environments_share_a_loop_and_a_clock() -> None:
    clock = VirtualClock()
    async with (
        TestEnvironment("memory://shared", clock=clock) as first,
        TestEnvironment("memory://shared", clock=clock, worker=False) as second,
    ):
        run = await second.start(napping(3), id="run")
        assert await run.result() == [3]
        assert first.now() == second.now()
    await asyncio.sleep(0.001)  # real time again


async def test_same_test_twice_gives_the_same_history() -> None:
    async def play() -> list[tuple[int, int, str]]:
        async with TestEnvironment(mocks={charge: lambda amount: "paid"}) as env:
            run = await env.start(order(5))
            await env.sleep("1h")
            await run.result()
            return [
                (event.task_number, event.time, type(event.attributes).__name__)
                for event in await run.history()
            ]

    assert await play() == await play()


async def test_plain_activities_run_in_threads_for_which_time_waits() -> None:
    @workflow
    async def mailing() -> int:
        async with asyncio.timeout(0.001):  # virtual: the thread takes 0.01 s, really
            return await mail("hello")

    async with TestEnvironment() as env:
        assert await env.execute(mailing()) == 5


async def test_time_stands_still_while_a_commit_is_on_its_way(tmp_path: Path) -> None:
    async with TestEnvironment(
        f"sqlite:///{tmp_path / 'test.db'}", mocks={mail: lambda text: 1}
    ) as env:

        @workflow(name="environment.mailing")
        async def mailing() -> int:
            return sum([await mail("x") for _ in range(20)])

        before = env.now()
        async with asyncio.timeout(3_600):
            await env.execute(mailing())
        assert env.now() == before


def test_pytest_does_not_collect_the_class() -> None:
    assert TestEnvironment.__test__ is False
