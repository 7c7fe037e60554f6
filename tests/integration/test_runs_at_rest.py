"""What sleeps or waits is nobody's, and goes on wherever there is room for it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from durable import (
    Engine,
    Signal,
    WorkflowTerminatedError,
    activity,
    limits,
    query,
    run,
    workflow,
)
from durable.store.connect import connect
from durable.store.queries import ListRuns
from durable.store.records import LoadedRun, RunFilter, RunRecord
from durable.worker.loader import Loader

GO = Signal("at_rest.go", int)


@workflow(name="at_rest.waiting")
async def waiting() -> int:
    return await GO.receive()


@workflow(name="at_rest.Counter")
class Counter:
    def __init__(self) -> None:
        self.total = 0

    @run
    async def count(self, until: int) -> int:
        while self.total < until:
            self.total += await GO.receive()
        return self.total

    @query
    def seen(self) -> int:
        return self.total


@activity(name="at_rest.hold")
async def hold() -> None:
    await asyncio.Event().wait()


@workflow(name="at_rest.holding")
async def holding() -> int:
    held = asyncio.create_task(hold())
    number = await GO.receive()
    held.cancel()
    return number


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.001)


async def test_a_run_is_owned_while_something_is_under_way_and_then_nobodys(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    store = connect(url)
    async with Engine(url) as engine:
        await store.open()
        rests = await engine.start(waiting(), id="rests")
        works = await engine.start(holding(), id="works")

        assert (await rests.describe()).owner is None
        assert (await works.describe()).owner is not None
        await works.signal(GO(1))
        assert await works.result() == 1
        await rests.signal(GO(2))
        assert await rests.result() == 2
        await store.close()


async def test_a_question_to_a_run_that_others_went_on_with_hears_of_that(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with Engine(url) as first, Engine(url) as second:
        here = await first.start(Counter.count(9), id="counter")
        there = await second.get("counter")
        for expected in range(1, 9):
            sender, asker = (here, there) if expected % 2 else (there, here)
            await sender.signal(GO(1))
            assert await asker.query(Counter.seen()) == expected
            assert await sender.query(Counter.seen()) == expected
        await there.signal(GO(1))
        assert await here.result(timeout="20s") == 9


async def test_a_worker_takes_no_more_than_it_has_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is there for whoever comes; all of it is done in the end."""
    monkeypatch.setattr(limits, "CLAIM_RUNS_MAX", 4)
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    store = connect(url)
    async with Engine(url, worker=False) as client:
        runs = [await client.start(waiting(), id=f"w{n}") for n in range(20)]
        for number, started in enumerate(runs):
            await started.signal(GO(number))
    may_read = asyncio.Event()
    asked: list[str] = []
    read = Loader._read

    async def read_when_it_may(self: Loader, run_ids: list[str]) -> list[LoadedRun]:
        asked.extend(run_ids)
        await may_read.wait()
        return await read(self, run_ids)

    monkeypatch.setattr(Loader, "_read", read_when_it_may)
    await store.open()
    async with Engine(url) as busy:
        await until(lambda: bool(asked))
        for _ in range(100):  # it would look again after 20 ms
            await asyncio.sleep(0.001)
        listed: Sequence[RunRecord] = await store.read(
            ListRuns("default", RunFilter(limit=50))
        )
        assert len([r for r in listed if r.owner is not None]) == len(asked) == 4

        may_read.set()
        for number in range(20):
            ended = await busy.get(f"w{number}")
            assert await ended.result(timeout="20s") == number
        await store.close()


async def test_run_that_another_ended_before_anybody_waited_is_not_waited_for() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    async with Engine(url) as one, Engine(url, worker=False) as other:
        started = await one.start(waiting(), id="w")
        client = one._open_client()
        await (await other.get("w")).terminate("enough")
        # Once this was heard, nobody changes anything any more.
        await until(lambda: client.outcomes.changes > 0)
        await until(lambda: client.listener._reading is None)
        with pytest.raises(WorkflowTerminatedError):
            await started.result(timeout="3s")
