"""Heartbeats: what they say reaches the next attempt, and silence is noticed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import pytest

from durable import (
    ActivityTimeoutError,
    Engine,
    Handle,
    PayloadError,
    RetryPolicy,
    activity,
    activity_info,
    heartbeat,
    workflow,
)
from durable.errors import InvalidOptionError, NotInWorkflowError

SEEN: list[object] = []
QUICK = RetryPolicy(max_attempts=3, initial_interval=0.01)


class Progress(msgspec.Struct):
    page: int
    name: str = ""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    SEEN.clear()


async def _pages(end: str) -> int:
    info = activity_info()
    SEEN.append(info.heartbeat_details)
    for page in range(1, 1_001):
        heartbeat(Progress(page, end))
    if info.attempt == 1:
        if end == "fail":
            raise ValueError("lost the line")
        await asyncio.sleep(60)
    found = info.heartbeat_detail(Progress)
    assert found is not None
    return found.page


@activity(name="beats.pages", retry=QUICK)
async def pages(end: str) -> int:
    return await _pages(end)


@activity(name="beats.plain", retry=QUICK)
def plain_pages(end: str) -> int:
    info = activity_info()
    SEEN.append(info.heartbeat_details)
    for page in range(1, 1_001):
        heartbeat(Progress(page, end))
    if info.attempt == 1:
        raise ValueError("lost the line")
    found = info.heartbeat_detail(Progress)
    assert found is not None
    return found.page


@activity(name="beats.process", retry=QUICK, run_in="process")
def process_pages(end: str) -> int:
    info = activity_info()
    for page in range(1, 1_001):
        heartbeat(Progress(page, end))
    if info.attempt == 1:
        raise ValueError("lost the line")
    found = info.heartbeat_detail(Progress)
    assert found is not None
    return found.page


@activity(name="beats.silent", retry=None, heartbeat_timeout=0.2)
async def silent(beats: int) -> int:
    for n in range(beats):
        heartbeat(n)
        await asyncio.sleep(0.05)
    SEEN.append("silent")
    await asyncio.sleep(60)
    return 0


@activity(name="beats.alive", retry=None, heartbeat_timeout=0.2)
async def alive() -> int:
    for n in range(10):
        await asyncio.sleep(0.08)
        heartbeat(n)
    return 1


@activity(name="beats.auto", retry=None, heartbeat_timeout=0.1, auto_heartbeat=True)
def automatic() -> int:
    time.sleep(0.5)
    return 1


@activity(name="beats.unfit", retry=None)
async def unfit() -> str:
    try:
        heartbeat(object())
    except PayloadError as error:
        return str(error)
    return ""


@workflow(name="beats.run")
async def run(kind: str, queue: str | None = None) -> int:
    if kind == "plain":
        return await plain_pages.options(task_queue=queue)("fail")
    if kind == "process":
        return await process_pages.options(task_queue=queue)("fail")
    if kind == "timeout":
        return await pages.options(start_to_close_timeout=0.3, task_queue=queue)(kind)
    return await pages.options(task_queue=queue)(kind)


@workflow(name="beats.waits")
async def waits(beats: int, queue: str | None = None) -> tuple[str, list[object]]:
    try:
        await silent.options(task_queue=queue)(beats)
    except ActivityTimeoutError as error:
        return error.timeout_type, [*error.heartbeat_details]
    return "", []


@workflow(name="beats.others")
async def others(kind: str) -> int | str:
    if kind == "alive":
        return await alive()
    return await automatic() if kind == "auto" else await unfit()


DEFINITIONS = [
    process_pages,
    *(run, waits, others, pages, plain_pages, silent, alive, automatic, unfit),
]


def make_engine(database: str, **options: object) -> Engine:
    return Engine(
        database,
        definitions=DEFINITIONS,
        activity_queues={"elsewhere": 10},
        **options,  # type: ignore[arg-type]  # as named by tests
    )


@pytest.fixture(params=[None, "elsewhere"])
def queue(request: pytest.FixtureRequest) -> str | None:
    found: str | None = request.param
    return found


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("kind", ["fail", "plain", "timeout"])
async def test_the_next_attempt_knows_what_was_said_last(
    database: str, kind: str, queue: str | None
) -> None:
    """Right after it the attempt fails: nothing was written since the first one."""
    async with make_engine(database) as engine:
        assert await engine.execute(run(kind, queue)) == 1_000
    name = "fail" if kind == "plain" else kind
    assert [(), ({"page": 1_000, "name": name},)] == SEEN


async def test_those_of_processes_count(database: str, queue: str | None) -> None:
    async with make_engine(database) as engine:
        assert await engine.execute(run("process", queue)) == 1_000


@pytest.mark.parametrize("beats", [0, 3])
async def test_silence_is_noticed(database: str, beats: int, queue: str | None) -> None:
    async with make_engine(database) as engine:
        began = time.monotonic()
        details = [2] if beats else []
        assert await engine.execute(waits(beats, queue)) == ("heartbeat", details)
        assert time.monotonic() - began < 2


async def test_who_is_heard_goes_on(database: str) -> None:
    async with make_engine(database) as engine:
        assert await engine.execute(others("alive")) == 1


async def test_its_worker_may_say_so(database: str) -> None:
    async with make_engine(database) as engine:
        assert await engine.execute(others("auto")) == 1


async def test_what_cannot_be_recorded_is_refused_at_once(database: str) -> None:
    async with make_engine(database) as engine:
        assert "Detail 1 of a heartbeat" in str(await engine.execute(others("unfit")))


async def test_few_of_many_are_written(database: str, queue: str | None) -> None:
    async with make_engine(database) as engine:
        handle: Handle[int] = await engine.start(run("fail", queue), id="w")
        assert await handle.result() == 1_000
        rows = await handle.attempts()
    said = '{"json":{"page":1000,"name":"fail"}}'
    assert [row.details for row in rows] == [f"[{said}]"] * 2


def test_outside_of_activities_it_is_refused() -> None:
    with pytest.raises(NotInWorkflowError, match="heartbeat"):
        heartbeat(1)


@pytest.mark.parametrize("value", [0, -1, "soon"])
def test_timeouts_that_cannot_be(value: object) -> None:
    with pytest.raises((InvalidOptionError, ValueError), match="heartbeat_timeout"):
        silent.options(heartbeat_timeout=value)  # type: ignore[arg-type]  # as users may
