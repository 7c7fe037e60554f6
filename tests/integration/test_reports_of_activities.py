"""What users of job queues have met elsewhere does not come to pass here."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from durable import (
    ActivityTimeoutError,
    Engine,
    activity,
    activity_info,
    workflow,
)
from durable.errors import CommitUnknownError, DatabaseUnavailableError
from durable.store.activity_tasks import ClaimActivityTasks, TakeExpiredTasks

RAN: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


@activity(name="met.once", task_queue="met", effect="once")
async def once(key: str) -> int:
    RAN[key] += 1
    return activity_info().attempt


@workflow(name="met.many")
async def many(count: int) -> list[int]:
    return await asyncio.gather(*[once(str(n)) for n in range(count)])


@workflow(name="met.nobody")
async def nobody() -> str:
    try:
        await once.options(task_queue="none", schedule_to_start_timeout=0.05)("late")
    except ActivityTimeoutError as error:
        return error.timeout_type
    return ""


DEFINITIONS = [many, nobody, once]


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
