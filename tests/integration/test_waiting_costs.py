"""What it costs to wait for runs of other processes, counted in reads."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, TypeVar, cast

import pytest

from durable import Engine, Signal, activity, run, update, workflow
from durable.errors import DatabaseUnavailableError
from durable.store.connect import connect
from durable.store.queries import LoadRuns, Query, ReadHistory, ReadNews
from durable.store.store import Store

T = TypeVar("T")

go = Signal("waiting.go", int)
stop = Signal("waiting.stop", int)


class CountingStore:
    """A store that counts what is asked of it, and may refuse."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.asked: Counter[type[Any]] = Counter()
        self.rows = 0
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def read(self, query: Query[T]) -> T:
        self.asked[type(query)] += 1
        if isinstance(query, ReadNews) and self.refused:
            self.refused -= 1
            raise DatabaseUnavailableError("The database is away.")
        answer = await self.inner.read(query)
        if isinstance(query, ReadHistory):
            self.rows += len(cast("list[Any]", answer))
        return answer


def counting(database: str) -> tuple[CountingStore, Engine]:
    store = CountingStore(connect(database))
    return store, Engine(cast("Store", store), worker=False)


@activity(name="waiting.step")
async def step(number: int) -> int:
    return number


@workflow(name="waiting.long")
async def long() -> int:
    return await go.receive()


@workflow(name="waiting.short")
async def short() -> int:
    return 1


@workflow(name="waiting.many")
async def many(count: int) -> int:
    return sum([await step(number) for number in range(count)])


@workflow(name="waiting.Slow")
class Slow:
    @run
    async def live(self) -> int:
        return await stop.receive()

    @update
    async def answer(self, number: int) -> int:
        await step(number)
        return await go.receive() + number


async def _settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_commit_elsewhere_does_not_make_everybody_read(database: str) -> None:
    count = 200
    store, client = counting(database)
    async with Engine(database) as worker, client:
        for number in range(count):
            await worker.start(long(), id=f"long-{number}")
        handles = [await client.get(f"long-{number}") for number in range(count)]
        waiting = [asyncio.create_task(handle.result()) for handle in handles]
        while store.asked[ReadNews] < count:  # noqa: ASYNC110 - each looks once
            await asyncio.sleep(0)
        await _settle()
        store.asked.clear()
        for _ in range(20):
            await worker.execute(short())
            await _settle()
        assert store.asked.total() <= 40
        for number, handle in enumerate(handles):
            await handle.signal(go(number))
        assert await asyncio.gather(*waiting) == list(range(count))


async def test_an_ended_run_is_not_read_for_its_last_event(database: str) -> None:
    async with Engine(database) as worker:
        expected = await worker.execute(many(30), id="many")
    store, client = counting(database)
    async with client:
        handle = await client.get("many")
        assert await handle.result() == expected
        assert store.rows <= 1
        assert store.asked[LoadRuns] == 0


@pytest.mark.parametrize("is_refused", [False, True])
async def test_all_who_wait_from_afar_hear_what_concerns_them(
    database: str, *, is_refused: bool
) -> None:
    store, client = counting(database)
    async with Engine(database) as worker, client:
        await worker.start(Slow.live(), id="slow")
        handle = await client.get("slow")
        ended = asyncio.create_task(handle.result())
        sent = [
            await handle.start_update(Slow.answer(number), update_id=f"u{number}")
            for number in range(3)
        ]
        answers = [asyncio.create_task(one.result()) for one in sent]
        await _settle()
        store.refused = 1 if is_refused else 0
        for number in (10, 20, 30):
            await handle.signal(go(number))
        assert sorted(await asyncio.gather(*answers)) == [10, 21, 32]
        await handle.signal(stop(7))
        assert await ended == 7
