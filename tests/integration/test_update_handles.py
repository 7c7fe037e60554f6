"""Those who wait for updates: senders, others who look, and both from afar."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Engine,
    Handle,
    NoAnswerError,
    Signal,
    continue_as_new,
    run,
    update,
    wait_condition,
    workflow,
)
from durable.client.updates import UpdateHandle
from durable.core.history.codec import decode_rows

COUNT = 100
go = Signal("update_handles.go", int)


@workflow(name="update_handles.Rounds")
class Rounds:
    @run
    async def play(self, rounds: int) -> int:
        await go.receive()
        if rounds:
            continue_as_new(rounds - 1)
        return rounds

    @update
    async def add(self, number: int) -> int:
        return number


@workflow(name="update_handles.Tally")
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


async def test_handle_that_only_looks_follows_a_run_that_goes_on_as_new() -> None:
    async with Engine("memory://") as engine:
        first = await engine.start(Rounds.play(1), id="rounds")
        looking = asyncio.create_task(first.get_update("u1").result(timeout="9s"))
        await first.signal(go(1))
        second: Handle[Any] = await engine.get("rounds")
        while second.run_id == first.run_id:
            await asyncio.sleep(0)
            second = await engine.get("rounds")
        assert await second.update(Rounds.add(5), update_id="u1") == 5
        assert await looking == 5


async def test_update_that_was_given_back_is_left_to_whoever_sends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = 0
    look = UpdateHandle._look

    async def counted(handle: UpdateHandle[Any]) -> bool:
        nonlocal looks
        looks += 1
        return await look(handle)

    monkeypatch.setattr(UpdateHandle, "_look", counted)
    async with Engine("memory://") as engine:
        handle = await engine.start(Rounds.play(0))
        seen = handle.get_update("u1")
        seen._outcome.take(None)
        with pytest.raises(NoAnswerError, match="was not answered within"):
            await seen.result(timeout="50ms")
        assert looks <= 3  # it waits for news, and does not look again and again
        assert await handle.update(Rounds.add(7), update_id="u1") == 7
        assert await seen.result() == 7


async def test_those_who_wait_in_another_process_read_the_history_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows_read = 0

    def counted(rows: Any) -> Any:
        nonlocal rows_read
        rows_read += len(rows)
        return decode_rows(rows)

    monkeypatch.setattr("durable.client.waiting.tails.decode_rows", counted)
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with Engine(url) as engine, Engine(url, worker=False) as away:
        await engine.start(Tally.count(COUNT), id="tally")
        handle = await away.get("tally", workflow=Tally.count)
        answers = await asyncio.gather(
            *[handle.update(Tally.add(1)) for _ in range(COUNT)]
        )
        assert sorted(answers) == list(range(1, COUNT + 1))
        events = len(await handle.history())
    assert 0 < rows_read <= 2 * events
