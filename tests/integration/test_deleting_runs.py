"""Runs are deleted whole, and what an open run needs stays."""

import asyncio
from pathlib import Path

import pytest

from durable import (
    Attribute,
    Engine,
    RunNeededError,
    Signal,
    SyncEngine,
    WorkflowNotFoundError,
    activity,
    continue_as_new,
    start_child,
    workflow,
)
from durable.client.handle import Handle
from durable.doctor.doctor import examine
from durable.store.connect import connect
from durable.store.records import Deleted, DeleteRuns

customer = Attribute("customer", str)
go_on = Signal("go_on", bool)
stays = Signal("stays", bool)


@activity(name="deleting.ship")
async def ship(name: str) -> str:
    return name


@workflow(name="deleting.order")
async def order(name: str) -> str:
    return await ship(name)


@workflow(name="deleting.waits")
async def waits() -> bool:
    return await stays.receive()


@workflow(name="deleting.chain")
async def chain(left: int) -> int:
    if left:
        continue_as_new(left - 1)
    await stays.receive()
    return left


@workflow(name="deleting.parent")
async def parent(count: int) -> int:
    for number in range(count):
        child = await start_child(waits(), id=f"child-{number}")
        await child.result()
    await stays.receive()
    return count


async def listed(engine: Engine, count: int, **what: str) -> None:
    """Wait until so many runs are listed."""
    async with asyncio.timeout(10):
        while True:
            if len(await engine.list(**what)) == count:  # type: ignore[arg-type]  # texts
                return
            await asyncio.sleep(0.01)


DEFINITIONS = [ship, order, waits, chain, parent]


async def test_run_is_gone_and_its_id_means_nothing(database: str) -> None:
    async with Engine(database, definitions=DEFINITIONS) as engine:
        run = await engine.start(order("a"), id="o", attributes={customer: "ann"})
        assert await run.result() == "a"

        assert await run.delete() == 1

        assert await engine.list(where=customer == "ann") == []
        with pytest.raises(WorkflowNotFoundError):
            await engine.get("o")
        with pytest.raises(WorkflowNotFoundError):
            await run.delete()
        # Another call under that id is no conflict any more.
        assert await engine.execute(order("b"), id="o") == "b"


async def test_open_run_goes_only_if_it_is_to_be_ended(database: str) -> None:
    async with Engine(database, definitions=DEFINITIONS) as engine:
        run = await engine.start(waits(), id="w")
        with pytest.raises(RunNeededError, match="it is open") as refused:
            await run.delete()
        assert (refused.value.workflow_id, refused.value.need) == ("w", "open")
        waiting = asyncio.create_task(run.result())
        await asyncio.sleep(0)

        assert await run.delete(terminate=True) == 1

        with pytest.raises(Exception, match="terminated"):
            await waiting
        assert await engine.list() == []


async def test_whole_chain_goes_and_one_named_run_of_it_does_not(
    database: str,
) -> None:
    async with Engine(database, definitions=DEFINITIONS) as engine:
        first = await engine.start(chain(3), id="c")
        await listed(engine, 3, workflow_id="c", status="continued_as_new")
        runs = await engine.list(workflow_id="c")
        last = await engine.get("c")
        await last.signal(stays(True))
        assert await last.result() == 0
        for one in (runs[0], runs[1], runs[3]):
            named = await engine.get("c", run_id=one.run_id)
            with pytest.raises(RunNeededError, match="chain") as refused:
                await named.delete()
            assert refused.value.need == "chain"
        assert len(await engine.list(workflow_id="c")) == 4

        assert await first.delete() == 4

        assert await engine.list(workflow_id="c") == []


async def test_child_goes_once_its_parent_knows_of_its_end(database: str) -> None:
    async with Engine(database, definitions=DEFINITIONS) as engine:
        run = await engine.start(parent(2), id="p")
        await listed(engine, 1, workflow_id="child-0")
        child = await engine.get("child-0")

        assert await child.delete(terminate=True) == 1

        second = await engine.start(parent(0), id="q")
        await second.signal(stays(True))
        assert await second.result() == 0
        with pytest.raises(Exception, match="terminated"):  # it heard how that ended
            await run.result()


async def test_deleted_runs_of_a_chain_are_no_fault(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with Engine(url, definitions=DEFINITIONS) as engine:
        await engine.start(chain(3), id="c")
        await listed(engine, 3, workflow_id="c", status="continued_as_new")
        runs = [run.run_id for run in await engine.list(workflow_id="c")]
    store = connect(url)
    await store.open()
    deleted: Deleted = await store.perform(DeleteRuns(run_ids=tuple(runs)))
    assert set(deleted.run_ids) == set(runs[1:3])

    found = [one async for one in examine(store)]
    await store.close()
    assert found == []
    async with Engine(url, definitions=DEFINITIONS) as engine:
        # What was asked for under the id is still known.
        handle = await engine.start(chain(3), id="c")
        assert handle.run_id == runs[0]
        await handle.signal(stays(True))
        assert await handle.result() == 0


async def test_handle_of_a_first_run_finds_the_newest(database: str) -> None:
    """Those in between are deleted, as retention does it, and it waits for years."""
    async with Engine(database, definitions=DEFINITIONS) as engine:
        first = await engine.start(chain(3), id="c")
        await listed(engine, 3, workflow_id="c", status="continued_as_new")
    async with Engine(database, definitions=DEFINITIONS) as engine:
        ids = [run.run_id for run in await engine.list(workflow_id="c")]
        await engine._store.perform(DeleteRuns(run_ids=tuple(ids)))
        assert len(await engine.list(workflow_id="c")) == 2
        handle = Handle[int](
            engine._open_client(), "c", ids[-1], None, first_run_id=ids[-1]
        )
        assert first.run_id == handle.run_id

        waiting = asyncio.create_task(handle.result(timeout=20))
        await handle.signal(stays(True))

        assert await waiting == 0
        pinned = await engine.get("c", run_id=ids[-1])
        with pytest.raises(WorkflowNotFoundError):
            await pinned.result(timeout=20)


def test_delete_works_without_an_event_loop(tmp_path: Path) -> None:
    with SyncEngine(tmp_path / "runs.db", definitions=DEFINITIONS) as engine:
        run = engine.start(order("a"), id="o")
        assert run.result() == "a"
        assert run.delete() == 1
        assert engine.list() == []
        assert engine.start(waits(), id="w").delete(terminate=True) == 1
