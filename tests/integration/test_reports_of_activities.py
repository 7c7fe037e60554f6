"""What users of job queues have met elsewhere does not come to pass here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from typing import Any

import pytest

from durable import (
    ActivityError,
    ActivityTimeoutError,
    Engine,
    RetryPolicy,
    activity,
    activity_info,
    activity_logger,
    complete_later,
    heartbeat,
    workflow,
)
from durable.errors import CommitUnknownError, DatabaseUnavailableError
from durable.store.activity_tasks import ClaimActivityTasks, TakeExpiredTasks
from durable.testing.environment import TestEnvironment

RAN: Counter[str] = Counter()
SECRET = "4111-1111-1111-1111"
SHOWN: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()
    SHOWN.clear()


@activity(name="met.once", task_queue="met", effect="once")
async def once(key: str) -> int:
    RAN[key] += 1
    return activity_info().attempt


@workflow(name="met.many")
async def many(count: int) -> list[int]:
    return await asyncio.gather(*[once(str(n)) for n in range(count)])


@activity(
    name="met.later",
    task_queue="met",
    retry=RetryPolicy(initial_interval="5h", max_interval="5h"),
)
async def later() -> None:
    RAN["later"] += 1
    if activity_info().attempt == 1:
        raise ConnectionError("down")


@workflow(name="met.retrying")
async def retrying() -> None:
    await later()


@workflow(name="met.nobody")
async def nobody() -> str:
    try:
        await once.options(task_queue="none", schedule_to_start_timeout=0.05)("late")
    except ActivityTimeoutError as error:
        return error.timeout_type
    return ""


@activity(name="met.outside", task_queue="met")
async def outside(card: str) -> str:
    SHOWN.append(repr(activity_info()))
    activity_logger.info("it is left to others")
    later = await complete_later()
    outcome: str = later.outcome
    return outcome


@activity(name="met.failing", task_queue="met", retry=None)
async def failing(card: str) -> str:
    SHOWN.append(repr(activity_info()))
    heartbeat(card)
    raise ConnectionError("down")


@workflow(name="met.secrets")
async def secrets() -> str:
    with contextlib.suppress(ActivityError, ConnectionError):
        await failing(SECRET)
    return await outside(SECRET)


DEFINITIONS = [many, nobody, retrying, secrets, once, later, outside, failing]


def opened(database: str) -> Engine:
    return Engine(
        database,
        definitions=DEFINITIONS,
        task_queue="runs",
        activity_queues={"met": 50},
    )


def fails_with(
    monkeypatch: pytest.MonkeyPatch,
    engine: Engine,
    kind: type[Any],
    error: Exception,
    *,
    is_done: bool,
) -> Counter[str]:
    """Let the first operations of a kind fail, though they may be done."""
    perform, seen = engine._store.perform, Counter[str]()

    async def lose(operation: Any) -> Any:
        if not isinstance(operation, kind) or seen["lost"] >= 2:
            return await perform(operation)
        result = await perform(operation) if is_done else ()
        if result or not is_done:
            seen["lost"] += 1
            raise error
        return result

    monkeypatch.setattr(engine._store, "perform", lose)
    return seen


@pytest.mark.parametrize(
    ("error", "is_done"),
    [(CommitUnknownError, True), (DatabaseUnavailableError, False)],
)
async def test_what_was_claimed_runs_though_the_answer_was_lost(
    database: str,
    error: type[Exception],
    is_done: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(database) as engine:
        seen = fails_with(
            *(monkeypatch, engine, ClaimActivityTasks, error("cut off")),
            is_done=is_done,
        )
        run = await engine.start(many(5))
        assert await run.result(timeout=40) == [1] * 5
        assert dict(RAN) == {str(n): 1 for n in range(5)}
        assert seen["lost"]


async def test_what_has_expired_ends_though_the_answer_was_lost(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(database) as engine:
        seen = fails_with(
            *(monkeypatch, engine, TakeExpiredTasks, CommitUnknownError("cut off")),
            is_done=True,
        )
        run = await engine.start(nobody())
        assert await run.result(timeout=40) == "schedule_to_start"
        assert seen["lost"]


async def test_delays_much_longer_than_a_lease_run_once(database: str) -> None:
    async with TestEnvironment(database, definitions=DEFINITIONS) as env:
        await env.start_activity(once.options(task_queue="met")("job"), delay="3h")
        await env.start(retrying(), id="retried")
        await env.sleep("1h")
    async with TestEnvironment(
        database, definitions=DEFINITIONS, clock=env.clock, activity_queues={"met": 5}
    ) as env:
        await env.sleep("9h")
        assert dict(RAN) == {"job": 1, "later": 2}


async def test_g9_no_value_of_an_activity_is_in_logs_or_in_what_describes_it(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with opened(database) as engine:
        await engine.queues.configure("met", concurrency=3)
        run = await engine.start(secrets(), id="s")
        async with asyncio.timeout(40):
            while not (waiting := await engine.activities.list(state="external")):  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.01)
        found: list[object] = [run, *waiting, await run.describe(), engine]
        found += await run.activities()
        found += await engine.queues.list()
        attempts = await run.attempts()
        assert any(SECRET in (one.details or "") for one in attempts)
        found += attempts
        await engine.activities.complete(
            None, SECRET, workflow_id="s", activity_id=waiting[0].activity_id
        )
        assert await run.result() == SECRET
    told = "\n".join([*SHOWN, *map(repr, found), *map(str, found)])
    assert len(SHOWN) == 2
    assert "met.failing" in told
    assert SECRET not in told
    assert "it is left to others" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("way", ["reset", "unpause"])
async def test_what_is_tried_again_by_hand_waits_for_its_paused_queue(way: str) -> None:
    """It ran at once elsewhere, or was stuck when its queue went on."""
    async with TestEnvironment(
        definitions=DEFINITIONS, activity_queues={"met": 5}
    ) as env:
        run = await env.start(retrying(), id="r")
        await env.sleep("1h")
        assert RAN["later"] == 1
        await env.queues.pause("met")
        await getattr(env.activities, way)(workflow_id="r", activity_id="1")
        await env.sleep("1h")
        assert RAN["later"] == 1
        await env.queues.resume("met")
        await env.sleep("1s")
        assert RAN["later"] == 2
        await env.sleep("6h")
        assert (await run.describe()).status.value == "completed"
