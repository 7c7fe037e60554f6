"""What a message costs does not grow with how many others wait beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from durable import Engine, Handle, Signal, run, update, wait_condition, workflow
from durable.runs import incoming, messages
from durable.runs.incoming import key_of

COUNT = 300
LOOKS_PER_MESSAGE = 12
tick = Signal("many.tick", int)


@workflow(name="many.collect")
async def collect(count: int) -> int:
    return sum([await tick.receive() for _ in range(count)])


@workflow(name="many.Tally")
class Tally:
    def __init__(self) -> None:
        self.number = 0

    @run
    async def count(self, count: int) -> int:
        await wait_condition(lambda: self.number >= count)
        return self.number

    @update
    async def add(self, number: int) -> int:
        self.number += number
        return self.number


def signalled_by_id(run: Handle[Any], number: int) -> Awaitable[Any]:
    return run.signal(tick(1), request_id=f"tick-{number}")


def updated(run: Handle[Any], _: int) -> Awaitable[Any]:
    return run.update(Tally.add(1))


@pytest.mark.parametrize(
    ("start", "send"), [(collect, signalled_by_id), (Tally.count, updated)]
)
async def test_messages_are_told_apart_by_few_looks_at_each(
    start: Any,
    send: Callable[[Handle[Any], int], Awaitable[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0

    def counted(event: Any) -> str:
        nonlocal looks
        looks += 1
        return key_of(event)

    for module in (incoming, messages):
        monkeypatch.setattr(module, "key_of", counted)
    async with Engine("memory://") as engine:
        handle = await engine.start(start(COUNT))
        await asyncio.gather(*[send(handle, number) for number in range(COUNT)])
        assert await handle.result() == COUNT
    assert looks <= LOOKS_PER_MESSAGE * COUNT


async def test_a_message_that_is_sent_again_while_it_waits_counts_once() -> None:
    async with Engine("memory://") as engine:
        handle = await engine.start(collect(2))
        again = [handle.signal(tick(3), request_id="same") for _ in range(50)]
        await asyncio.gather(*again, handle.signal(tick(4), request_id="other"))
        assert await handle.result() == 7
