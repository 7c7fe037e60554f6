"""One action on many runs: done once on each, whatever dies meanwhile."""

import asyncio
from pathlib import Path

import pytest

from durable import (
    Attribute,
    BatchDescription,
    Engine,
    ResultTimeoutError,
    Run,
    RunStatus,
    Signal,
    SyncEngine,
    WorkflowNotFoundError,
    continue_as_new,
    workflow,
)
from durable.batches import state
from durable.batches.state import pack_condition, unpack_condition
from durable.errors import (
    InvalidOptionError,
    QuerySyntaxError,
    UndecodableError,
    WorkflowCancelledError,
    WorkflowFailedError,
)
from durable.search.conditions import Condition
from durable.store.sql import searching

group = Attribute("group", str)
note = Signal("note", int)
go_on = Signal("go_on", bool)


@workflow(name="batches.collects")
async def collects(count: int) -> list[int]:
    return [await note.receive() for _ in range(count)]


@workflow(name="batches.chain")
async def chain(left: int) -> None:
    if left:
        continue_as_new(left - 1)


DEFINITIONS = [collects, chain]


async def fill(engine: Engine, count: int) -> None:
    for number in range(count):
        await engine.start(
            collects(2),
            id=f"r{number}",
            attributes={group: "even" if number % 2 == 0 else "odd"},
        )


async def statuses(engine: Engine) -> dict[str, str]:
    return {run.workflow_id: run.status.value for run in await engine.list()}


async def test_each_run_gets_a_signal_once(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PAGE", 3)
    async with Engine(database, definitions=DEFINITIONS) as engine:
        await fill(engine, 20)
        chosen = engine.batch(where=group == "even")
        assert (await chosen.count()).total == 10

        first = await chosen.signal(note(1), rate=None)
        done = await first.result(timeout=30)
        assert (done.action, done.total, done.done) == ("signal", 10, 10)
        assert (done.status, done.skipped, done.failed) == ("completed", {}, {})
        second = await chosen.signal("note", 2, rate=None, id="second")
        again = await chosen.signal("note", 2, rate=None, id="second")
        assert again.id == second.id
        await second.result(timeout=30)

        for number in range(0, 20, 2):
            run = await engine.get(f"r{number}")
            assert await run.result(timeout=10) == [1, 2]
        assert (await engine.list(where=group == "odd", status="completed")) == []
        # Batches are hidden, unless they are asked for.
        assert len(await engine.list(limit=1_000)) == 20
        assert len(await engine.list(workflow_type="durable.batch")) == 2


async def test_runs_are_cancelled_terminated_and_deleted(database: str) -> None:
    async with Engine(database, definitions=DEFINITIONS) as engine:
        await fill(engine, 6)
        await engine.execute(chain(3), id="chain")

        cancelled = await engine.batch(workflow_id="r0").cancel("why", rate=None)
        assert (await cancelled.result(timeout=30)).done == 1
        with pytest.raises(WorkflowCancelledError):
            await (await engine.get("r0")).result(timeout=10)
        ended = await engine.batch(where="group = 'odd'").terminate(rate=None)
        assert (await ended.result(timeout=30)).done == 3
        assert await statuses(engine) == {
            "chain": "continued_as_new",
            "r0": "cancelled",
            "r1": "terminated",
            "r2": "running",
            "r3": "terminated",
            "r4": "running",
            "r5": "terminated",
        }
        deleted = await engine.batch(all_runs=True).delete(rate=None)
        found = await deleted.result(timeout=30)
        assert (found.done, found.skipped) == (8, {"open": 2})
        assert sorted(await statuses(engine)) == ["r2", "r4"]
        # What is counted is what is listed: batches are runs, too.
        assert (await engine.count()).total == 2
        by_status = await engine.count(group_by=Run.status)
        assert (by_status.total, by_status.groups) == (2, {"running": 2})
        own = await engine.count(where=Run.type == "durable.batch")
        assert own.total == 3
        deleted = await engine.batch(status="running").delete(terminate=True, rate=None)
        assert (await deleted.result(timeout=30)).done == 2
        assert await statuses(engine) == {}


async def test_first_runs_of_chains_go_after_the_others(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PAGE", 2)
    async with Engine(database, definitions=DEFINITIONS) as engine:
        await engine.execute(chain(5), id="a")
        await engine.execute(chain(2), id="b")

        batch = await engine.batch(workflow_type="batches.chain").delete(rate=None)

        found = await batch.result(timeout=30)
        assert (found.done, found.skipped) == (9, {})
        assert await statuses(engine) == {}


async def test_batch_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PAGE", 2)
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with Engine(url, definitions=DEFINITIONS) as engine:
        await fill(engine, 12)
        batch = await engine.batch(where=group == "even").signal(note(1), rate=20)
        while True:
            if (await batch.describe()).done:
                break
            await asyncio.sleep(0.01)
    async with Engine(url, definitions=DEFINITIONS) as engine:
        batch = engine.get_batch(batch.id)
        with pytest.raises(ResultTimeoutError):
            await batch.result(timeout=0.001)
        assert (await batch.result(timeout=30)).done == 6
        for number in range(0, 12, 2):
            handle = await engine.get(f"r{number}")
            signals = [
                event
                for event in await handle.history()
                if type(event.attributes).__name__ == "WorkflowExecutionSignaled"
            ]
            assert len(signals) == 1


async def test_rate_is_kept_and_a_batch_can_be_stopped(database: str) -> None:
    async with Engine(database, definitions=DEFINITIONS) as engine:
        await fill(engine, 10)
        loop = asyncio.get_running_loop()
        began = loop.time()
        batch = await engine.batch(status="running").signal(note(1), rate=20)
        assert (await batch.result(timeout=30)).done == 10
        slow = await engine.batch(status="running").signal(note(1), rate=0.01)
        while True:
            if (await slow.describe()).done:
                break
            await asyncio.sleep(0.01)
        await slow.cancel()
        with pytest.raises(WorkflowCancelledError):
            await slow.result(timeout=10)
        found = await slow.describe()
        assert (found.status, found.done) == (RunStatus.CANCELLED, 1)
        assert loop.time() - began < 30
        assert isinstance(found, BatchDescription)
        assert found.to_dict()["total"] == 10


async def test_what_cannot_be_is_refused_before_anything_is_done() -> None:
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        with pytest.raises(InvalidOptionError, match="no filter"):
            engine.batch()
        # A text that was not filled in must not mean all runs.
        for blank in ("", " \n", "ORDER BY StartTime"):
            with pytest.raises(InvalidOptionError, match="no filter"):
                await engine.batch(where=blank).terminate()
        with pytest.raises(InvalidOptionError, match="beside a filter"):
            engine.batch(workflow_id="x", all_runs=True)
        with pytest.raises(InvalidOptionError, match="rate is 0"):
            await engine.batch(workflow_id="x").cancel(rate=0)
        with pytest.raises(QuerySyntaxError):
            await engine.batch(where="nonsense").cancel()
        with pytest.raises(WorkflowNotFoundError, match="no batch 'x'"):
            await engine.get_batch("x").describe()
        assert await engine.list(workflow_type="durable.batch") == []


async def test_query_that_becomes_too_broad_ends_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not try for ever, and says why."""
    monkeypatch.setattr(searching, "_BUDGETS", (3,))
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with Engine(url, definitions=DEFINITIONS) as engine:
        await fill(engine, 8)
        batch = await engine.batch(where=Run.queue > "no such queue").cancel()
        with pytest.raises(WorkflowFailedError, match="given up after"):
            await batch.result(timeout=30)
        assert (await batch.describe()).status == "failed"


def test_batches_work_without_an_event_loop(tmp_path: Path) -> None:
    with SyncEngine(tmp_path / "runs.db", definitions=DEFINITIONS) as engine:
        engine.start(collects(1), id="r")
        chosen = engine.batch(workflow_type="batches.collects")
        assert chosen.count(only_open=True).total == 1
        assert chosen.signal(note(7)).result(timeout=30).done == 1
        assert engine.get("r").result(timeout=10) == [7]
        batch = chosen.delete()
        assert engine.get_batch(batch.id).result(timeout=30).done == 1
        assert batch.describe().status == "completed"


@pytest.mark.parametrize(
    "condition",
    [
        Run.status == "failed",
        Run.type.in_(["a", "b"]),
        Run.id.starts_with("x") | ~Run.closed.is_null(),
        (group == "a") & (Run.stuck == True) & ~(group == "b"),  # noqa: E712 - a condition
    ],
)
def test_condition_comes_back_as_it_was(condition: Condition) -> None:
    assert unpack_condition(pack_condition(condition)) == condition


def test_condition_of_a_newer_release_is_named() -> None:
    with pytest.raises(UndecodableError, match="'Near'"):
        unpack_condition(["Near", "x"])
