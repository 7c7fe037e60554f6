"""Runs are found by what they say of themselves, whatever became of their engine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Attribute,
    AttributeTypeError,
    Engine,
    NamespaceExistsError,
    NamespaceNotFoundError,
    QueryTooBroadError,
    Run,
    Signal,
    SyncEngine,
    checkpoint,
    continue_as_new,
    get_attribute,
    memo,
    patched,
    sleep,
    upsert_attributes,
    upsert_memo,
    workflow,
)
from durable.errors import InvalidOptionError, NotInWorkflowError
from durable.store.sql import searching

customer = Attribute("customer", str)
amount = Attribute("amount", int)
tags = Attribute("tags", list[str])
go_on = Signal("go_on", str)


@workflow
async def ship(name: str) -> list[Any]:
    upsert_attributes({amount: 1, tags: ["a", "b"]})
    upsert_memo({"seen": [name]})
    word = await go_on.receive()
    upsert_attributes({amount: 2, tags: None})
    upsert_memo({"seen": None, "word": word})
    return [get_attribute(customer), get_attribute(amount), get_attribute(tags), memo()]


@workflow
async def chain(left: int) -> int:
    upsert_attributes({amount: left})
    upsert_memo({"left": left})
    if left == 2:
        upsert_attributes({tags: ["first"]})
    if left:
        continue_as_new(left - 1)
    return left


@workflow(checkpoint_every=10)
async def counting(number: int) -> list[Any]:
    if number == 0:
        upsert_attributes({amount: 7})
        upsert_memo({"by": None, "since": number})
    while number < 30:
        await sleep(0)
        number += 1
        checkpoint(number)
    await go_on.receive()
    return [get_attribute(customer), get_attribute(amount), memo()]


@workflow
async def amended(number: int, is_last: bool) -> int:
    if number and patched("weigh"):
        upsert_attributes({customer: "ann"})
    await go_on.receive()
    if number and patched("label"):
        number += 1
    if not is_last:
        continue_as_new(0, True)
    return number


@workflow
async def parent() -> None:
    await chain.options(id="child", attributes={customer: "of child"})(0)


@workflow
async def mistyped() -> None:
    upsert_attributes({Attribute("customer", int): 1})
    await go_on.receive()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/x.db"


@pytest.fixture
async def engine(url: str) -> AsyncIterator[Engine]:
    async with Engine(url) as engine:
        yield engine


async def ids(engine: Engine, where: Any) -> list[str]:
    return [run.workflow_id for run in await engine.list(where=where)]


async def test_attributes_outlive_the_engine_and_its_replay(url: str) -> None:
    async with Engine(url) as engine:
        run = await engine.start(
            ship("x"), id="s", attributes={customer: "ann"}, memo={"by": 1}
        )
        assert await ids(engine, (customer == "ann") & (tags == "b")) == ["s"]
        found = await run.describe()
        assert found.attributes == {"customer": "ann", "amount": 1, "tags": ["a", "b"]}
        assert found.memo == {"by": 1, "seen": ["x"]}
    async with Engine(url) as engine:
        run = await engine.get("s", workflow=ship)
        await run.signal(go_on("now"))

        assert await run.result() == ["ann", 2, None, {"by": 1, "word": "now"}]
        assert await ids(engine, tags == "b") == []
        assert await ids(engine, (amount == 2) & (Run.status == "completed")) == ["s"]
        assert await run.memo() == {"by": 1, "word": "now"}


async def test_a_chain_keeps_its_attributes_and_the_memo_it_began_with(
    engine: Engine,
) -> None:
    await engine.execute(
        chain(2), id="c", attributes={customer: "ann"}, memo={"first": True}
    )

    runs = await engine.list(where=customer == "ann")
    assert [run.attributes["amount"] for run in runs] == [0, 1, 2]
    assert [run.attributes["tags"] for run in runs] == [["first"]] * 3
    assert [run.memo for run in runs] == [{"first": True, "left": n} for n in range(3)]


async def test_runs_are_found_by_the_patches_that_they_go_by(url: str) -> None:
    async with Engine(url) as engine:
        for id, number in (("old", 0), ("new", 1)):
            await engine.start(amended(number, True), id=id)
        assert await ids(engine, Run.patches == "weigh") == ["new"]
        assert await ids(engine, ~(Run.patches == "weigh")) == ["old"]
    async with Engine(url) as engine:  # it is told of what a replay finds, too
        run = await engine.get("new")
        await run.signal(go_on("now"))
        await run.result()
        for where in (Run.patches == "weigh", "Patches = 'label'"):
            assert await ids(engine, where) == ["new"]
        assert (await engine.count(group_by="Patches")).groups == {
            "label": 1,
            "weigh": 1,
            None: 1,
        }
    async with Engine(url, worker=False) as engine:  # so that nobody drives it on
        fork = await (await engine.get("new")).fork(id="fork", to="last_task")
        assert (await fork.describe()).attributes["durable_patches"] == ["weigh"]
    async with Engine(url) as engine:
        run = await engine.start(amended(1, False), id="chain")
        await run.signal(go_on("now"))
        await run.signal(go_on("now"))
        await run.result()
        newest, first = await engine.list(workflow_id="chain")
        assert first.attributes["durable_patches"] == ["label", "weigh"]
        assert newest.attributes == {"customer": "ann"}


async def test_a_checkpoint_carries_attributes_and_memo_on(url: str) -> None:
    async with Engine(url) as engine:
        run = await engine.start(
            counting(0), id="n", attributes={customer: "ann"}, memo={"by": 1}
        )
        await run.signal(go_on("now"))
        assert await run.result() == ["ann", 7, {"since": 0}]
        kinds = [type(event.attributes).__name__ for event in await run.history()]
        assert "CheckpointRecorded" in kinds
        assert (await run.describe()).attributes == {"customer": "ann", "amount": 7}


async def test_a_child_has_the_attributes_of_its_call(engine: Engine) -> None:
    await engine.execute(parent(), id="p", attributes={customer: "of parent"})

    assert await ids(engine, customer.starts_with("of child")) == ["child"]
    assert await ids(engine, customer == "of parent") == ["p"]


async def test_a_name_of_another_type_is_refused_and_parks_code(engine: Engine) -> None:
    await engine.execute(chain(0), id="c", attributes={customer: "ann"})
    number: Attribute[Any] = Attribute("customer", int)

    with pytest.raises(AttributeTypeError, match="Int here, and a Keyword"):
        await engine.start(chain(0), id="d", attributes={number: 1})
    with pytest.raises(AttributeTypeError, match="Int here, and a Keyword"):
        await engine.list(where=number == 1)
    with pytest.raises(AttributeTypeError):
        await engine.count(group_by=number)
    assert await ids(engine, Run.id == "d") == []


async def test_code_that_takes_a_wrong_type_parks_and_says_why(url: str) -> None:
    async with Engine(url, worker=False) as client:
        run = await client.start(mistyped(), id="m")
        await client.start(chain(0), id="c", attributes={customer: "ann"})
    async with Engine(url) as engine:
        run = await engine.get("m", workflow=mistyped)
        async with asyncio.timeout(20):
            while (found := await run.describe()).stuck is None:  # noqa: ASYNC110 - another's doing
                await asyncio.sleep(0.01)  # until it is so, or time is up
        assert "'customer' is a Int here, and a Keyword" in found.stuck.message
        assert await ids(engine, Run.stuck == True) == ["m"]  # noqa: E712 - a condition


async def test_counts_by_value_and_pages_by_cursor(engine: Engine) -> None:
    for number in range(7):
        name = "ann" if number % 3 else "bob"
        await engine.execute(chain(0), id=f"c{number}", attributes={customer: name})

    counts = await engine.count(where=Run.type == "chain", group_by=customer)
    assert (counts.total, counts.groups) == (7, {"ann": 4, "bob": 3})
    assert (await engine.count(group_by="ExecutionStatus")).groups == {"completed": 7}
    for order in (Run.closed.ascending(), Run.started.descending()):
        found: list[str] = []
        cursor = None
        while page := await engine.list(order_by=order, limit=2, after=cursor):
            found += [run.workflow_id for run in page]
            cursor = page[-1].cursor
        expected = [f"c{number}" for number in range(7)]
        assert found == sorted(expected, reverse=order.is_descending)
    with pytest.raises(InvalidOptionError, match="not counted by 'StartTime'"):
        await engine.count(group_by=Run.started)


async def test_runs_of_a_chain_are_found_by_its_first(engine: Engine) -> None:
    first = await engine.start(chain(2), id="long")
    await first.result()
    await engine.execute(chain(0), id="short")

    found = await engine.list(where=Run.first_run_id == first.run_id)
    assert [run.workflow_id for run in found] == ["long"] * 3
    assert found == await engine.list(where=f"FirstRunId = '{first.run_id}'")
    begun = await engine.list(where="ContinuedFromRunId IS NULL")
    assert sorted(run.workflow_id for run in begun) == ["long", "short"]
    (second,) = await engine.list(where=Run.continued_from_run_id == first.run_id)
    assert second.continued_from_run_id == first.run_id


async def test_a_query_without_an_index_ends_and_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        await engine.execute(chain(0), id=f"c{number}", attributes={customer: "ann"})
    monkeypatch.setattr(searching, "_BUDGETS", (2, 4))

    with pytest.raises(QueryTooBroadError, match="Version"):
        await engine.list(where=(Run.version < "9") & (customer == "ann"))
    with pytest.raises(QueryTooBroadError, match="ContinuedFromRunId"):
        await engine.list(where=Run.continued_from_run_id == "c0")
    assert await ids(engine, (customer == "ann") & (amount == 5)) == []
    assert not (await engine.count(where=Run.version < "9")).is_complete
    for rare in (
        Run.version == "9",
        Run.queue == "gpu",
        Run.parent_id == "c0",
        Run.root_run_id == "c0",
        Run.first_run_id == "c0",
        Run.duration > "1h",
    ):
        assert await ids(engine, rare) == []
        assert (await engine.count(where=rare)).is_complete


async def test_namespaces_have_settings_and_walls(url: str) -> None:
    async with Engine(url) as here, Engine(url, namespace="eu") as there:
        await here.execute(chain(0), id="h", attributes={customer: "ann"})
        await there.execute(chain(0), id="t")
        assert await ids(there, customer == "ann") == []
        assert await ids(there, None) == ["t"]

        created = await here.namespaces.create("eu", retention_days=30)
        assert (created.name, created.retention_days) == ("eu", 30)
        with pytest.raises(NamespaceExistsError):
            await here.namespaces.create("eu")
        changed = await here.namespaces.update("eu", description="Europe")
        assert (changed.retention_days, changed.description) == (30, "Europe")
        assert (await there.namespaces.describe("default")).created_at is None
        assert [one.name for one in await here.namespaces.list()] == ["default", "eu"]
        with pytest.raises(NamespaceNotFoundError, match="Did you mean 'eu'"):
            await here.namespaces.describe("eux")
        with pytest.raises(InvalidOptionError, match="retention_days is 0"):
            await here.namespaces.create("x", retention_days=0)


def test_programs_without_a_loop_have_the_same(url: str) -> None:
    with SyncEngine(url) as engine:
        engine.execute(chain(0), id="c", attributes={customer: "ann"})

        assert [r.workflow_id for r in engine.list(where="customer = 'ann'")] == ["c"]
        assert engine.count(where=customer == "ann").total == 1
        engine.namespaces.create("eu", retention_days=3)
        engine.namespaces.update("eu", retention_days=None)
        assert engine.namespaces.describe("eu").retention_days is None
        assert [one.name for one in engine.namespaces.list()] == ["default", "eu"]


def test_workflow_code_alone_may_change_them() -> None:
    for call in (upsert_attributes, upsert_memo):
        with pytest.raises(NotInWorkflowError):
            call({})
