"""A run's inbox has a bound: the sender hears of it, and what was taken is kept."""

from __future__ import annotations

import pytest

from durable import (
    Engine,
    InboxFullError,
    Signal,
    activity,
    external,
    limits,
    query,
    run,
    update,
    workflow,
)
from durable.testing import TestEnvironment

numbers = Signal("inbox.numbers", int)


@workflow(name="inbox.Adder")
class Adder:
    def __init__(self) -> None:
        self.total = 0

    @run
    async def add(self, count: int) -> int:
        for _ in range(count):
            self.total += await numbers.receive()
        return self.total

    @update
    async def give(self, number: int) -> int:
        return number

    @query
    def seen(self) -> int:
        return self.total


@activity(name="inbox.rest", retry=None)
async def rest() -> None:
    """Do nothing."""


@workflow(name="inbox.sender")
async def sender(workflow_id: str) -> str:
    try:
        await external(workflow_id).signal(numbers(1))
    except InboxFullError:
        await rest()
        return "full"
    return "sent"


async def test_a_full_inbox_refuses_and_loses_nothing(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INBOX_MESSAGES_MAX", 5)
    async with Engine(database, worker=False) as client:
        handle = await client.start(Adder.add(6), id="adder")
        for number in range(5):
            await handle.signal(numbers(number), request_id=f"n{number}")
        with pytest.raises(InboxFullError, match="'adder'"):
            await handle.signal(numbers(100))
        with pytest.raises(InboxFullError):
            await handle.start_update(Adder.give(1))
        # What was taken before is acknowledged again.
        await handle.signal(numbers(100), request_id="n4")
    async with TestEnvironment(database, definitions=[sender, rest]) as other:
        found = await other.execute(sender("adder"))
        assert found == "full"
    async with TestEnvironment(database) as env:
        handle = await env.get("adder")
        assert await handle.query(Adder.seen()) == sum(range(5))
        await env.settle()
        await handle.signal(numbers(5))
        assert await handle.result() == sum(range(6))
