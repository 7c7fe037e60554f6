"""An activity that a worker does not know waits for one that does."""

from __future__ import annotations

import asyncio
import logging

import pytest

from durable import (
    ActivityTimeoutError,
    Engine,
    RunStatus,
    WorkflowFailedError,
    activity,
    workflow,
)
from durable.store import transaction
from durable.store.records import AttemptState
from durable.testing.environment import TestEnvironment

RAN: list[int] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


@pytest.fixture
def _long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time jumps over the leases of all but its own environment."""
    monkeypatch.setattr(transaction, "LEASE_MICROSECONDS", 3_600_000_000)


@activity(name="unknown.charge", retry=None, effect="once")
async def charge(n: int) -> int:
    RAN.append(n)
    return n


@activity(name="unknown.other")
async def other() -> None: ...


@workflow(name="unknown.order")
async def order(n: int) -> int:
    return await charge(n)


@workflow(name="unknown.hasty")
async def hasty(timeout: str) -> int:
    if timeout == "start":
        return await charge.options(schedule_to_start_timeout="90s")(1)
    return await charge.options(schedule_to_close_timeout="150s")(1)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "unknown.charge" in record.getMessage()
    ]


async def test_it_waits_with_one_warning_a_minute(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with TestEnvironment(database, definitions=[order, other]) as env:
        runs = [await env.start(order(n), id=f"o{n}") for n in range(3)]
        await env.sleep("150s")
        assert len(warnings(caplog)) == 3
        assert "unknown.other" in warnings(caplog)[0]
        for run in runs:
            assert (await run.describe()).status is RunStatus.RUNNING
            assert [r.state for r in await run.attempts()] == [AttemptState.BACKOFF]
    async with TestEnvironment(
        database, definitions=[order, charge], clock=env.clock
    ) as env:
        began = env.clock.now()
        for n in range(3):
            run = await env.get(f"o{n}")
            assert await run.result() == n
        assert env.clock.now() - began < 1_000_000
    assert sorted(RAN) == [0, 1, 2]


@pytest.mark.usefixtures("_long_leases")
async def test_another_worker_that_knows_it_gets_the_run(database: str) -> None:
    async with (
        TestEnvironment(database, definitions=[order, other]) as env,
        Engine(database, definitions=[order, charge], clock=env.clock) as knows,
    ):
        await env.start(order(1), id="o")
        assert await (await knows.get("o")).result() == 1
    assert RAN == [1]


@pytest.mark.usefixtures("_long_leases")
async def test_a_worker_that_comes_later_gets_it_within_a_minute(
    database: str,
) -> None:
    async with TestEnvironment(database, definitions=[order, other]) as env:
        await env.start(order(1), id="o")
        await env.sleep("10s")
        async with Engine(
            database, definitions=[order, charge], clock=env.clock
        ) as knows:
            result = asyncio.ensure_future((await knows.get("o")).result())
            await env.sleep("60s")
            assert await result == 1
    assert RAN == [1]


@pytest.mark.parametrize(("timeout", "seconds"), [("start", 90), ("close", 150)])
async def test_only_its_own_schedule_timeouts_fail_it(
    timeout: str, seconds: int, database: str
) -> None:
    async with TestEnvironment(database, definitions=[hasty, other]) as env:
        run = await env.start(hasty(timeout))
        began = env.clock.now()
        with pytest.raises(WorkflowFailedError) as failed:
            await run.result()
        assert isinstance(failed.value.__cause__, ActivityTimeoutError)
        assert failed.value.__cause__.timeout_type == f"schedule_to_{timeout}"
        assert round((env.clock.now() - began) / 1_000_000) == seconds


async def test_a_run_that_waits_can_be_cancelled(database: str) -> None:
    async with TestEnvironment(database, definitions=[order, other]) as env:
        run = await env.start(order(1), id="o")
        await env.sleep("5s")
        await run.cancel()
        with pytest.raises(WorkflowFailedError):
            await run.result()
        assert (await run.describe()).status is RunStatus.CANCELLED
