"""`run.events()`: what a run does, told as it is committed."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from durable import (
    Engine,
    Signal,
    SyncEngine,
    WorkflowNotFoundError,
    activity,
    continue_as_new,
    workflow,
)
from durable.core.history.events import HistoryEvent

GO = Signal("go", str)


@activity(name="followed.note")
async def note(word: str) -> str:
    return word


@workflow(name="followed.listen")
async def listen(rounds: int) -> str:
    word = await note(await GO.receive())
    if rounds:
        continue_as_new(rounds - 1)
    return word


def names(events: list[HistoryEvent]) -> list[str]:
    """Their types, but for what says only where a turn began."""
    found = [type(event.attributes).__name__ for event in events]
    return [name for name in found if name != "WorkflowTaskStarted"]


ROUND = [
    *("WorkflowExecutionStarted", "WorkflowExecutionSignaled"),
    *("ActivityTaskScheduled", "ActivityTaskCompleted"),
]


async def test_each_event_is_told_once_in_order_on_to_the_end_of_the_chain(
    database: str,
) -> None:
    async with Engine(database) as engine, asyncio.timeout(30):
        run = await engine.start(listen(1))
        told: list[HistoryEvent] = []
        async for event in run.events():
            told.append(event)
            # It is committed: whoever asks now has it, too.
            if type(event.attributes).__name__ == "WorkflowExecutionStarted":
                await run.signal(GO("on"))
        assert names(told) == [
            *(*ROUND, "WorkflowExecutionContinuedAsNew"),
            *(*ROUND, "WorkflowExecutionCompleted"),
        ]
        second = await run.history()
        assert [event.event_id for event in told[:5]] == [1, 2, 3, 4, 5]
        assert told[5:] == second
        again = [event async for event in run.events(after=4)]
        assert again == told[4:]


async def test_what_another_process_commits_is_told(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    client = Engine(url, worker=False)
    async with Engine(url), client, asyncio.timeout(30):
        run = await client.start(listen(0))
        told: list[HistoryEvent] = []
        events = run.events()
        told.append(await anext(events))
        await run.signal(GO("on"))
        told += [event async for event in events]
        assert names(told) == [*ROUND, "WorkflowExecutionCompleted"]


async def test_handle_of_one_certain_run_ends_with_that_run() -> None:
    async with Engine("memory://") as engine, asyncio.timeout(30):
        run = await engine.start(listen(1), id="two")
        await run.signal(GO("a"))
        await run.signal(GO("b"))
        await run.result()
        first = await engine.get("two", run_id=run.run_id)
        told = [event async for event in first.events()]
        assert names(told)[-1] == "WorkflowExecutionContinuedAsNew"


async def test_run_that_is_deleted_meanwhile_ends_it_by_type() -> None:
    async with Engine("memory://") as engine, asyncio.timeout(30):
        run = await engine.start(listen(0))
        events = run.events()
        await anext(events)
        await run.delete(terminate=True)
        with pytest.raises(WorkflowNotFoundError):
            await anext(events)


def test_code_without_a_loop_follows_too() -> None:
    with SyncEngine("memory://") as engine:
        run = engine.start(listen(0))
        run.signal(GO("on"))
        assert names([*run.events()])[-1] == "WorkflowExecutionCompleted"
        assert names([*itertools.islice(run.events(), 1)]) == [ROUND[0]]
