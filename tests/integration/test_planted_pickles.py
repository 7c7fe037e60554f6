"""G1: a pickle in any column that holds JSON is never loaded, whoever reads it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import pickle
import shutil
import sqlite3
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Attribute,
    Engine,
    RetryPolicy,
    activity,
    heartbeat,
    run,
    set_state,
    signal,
    update,
    wait_condition,
    workflow,
)
from durable.doctor.doctor import examine
from durable.errors import DurableError
from durable.store.sql.tables import METADATA

pytestmark = pytest.mark.slow

ORDERS = 2
CUSTOMER = Attribute("customer", str)
LONG = RetryPolicy(initial_interval="5h", max_interval="5h")
# JSON is of no bounded length; of a text for people, too, whatever is in it.
COLUMNS = sorted(
    (table.name, column.name)
    for table in METADATA.sorted_tables
    for column in table.columns
    if str(column.type) == "TEXT" and column.name not in {"description", "note"}
)
# What a life as short as this leaves empty.
SELDOM = """
UPDATE durable_activity_tasks SET progress = '[1]';
UPDATE durable_queues SET rate_log = '[1]';
INSERT INTO durable_replies (run_id, request_id, data, created_at)
SELECT run_id, 'r', '{"result": {"json": 1}}', 1 FROM durable_runs;
INSERT INTO durable_outbox
(outbox_id, namespace, target, kind, data, created_at, due_at, tries, failure)
VALUES ('i', 'default', 'o0', 'message', '{"data": {"json": 1}}', 1, 0, 0, '[1]');
"""
# Nothing is parked, and who is done takes the reports of workers with it.
EMPTY = {("durable_runs", "stuck"), ("durable_workers", "places")}


@activity(name="planted.fails", retry=LONG)
async def fails(number: int) -> None:
    heartbeat("half")
    raise ConnectionError("down")


@activity(name="planted.far", task_queue="far", heartbeat_timeout="1h")
async def far(number: int) -> int:
    heartbeat(number)
    return number


@workflow(name="planted.order")
class Order:
    def __init__(self, number: int) -> None:
        self.count = 0

    @run
    async def wait(self, number: int) -> int:
        set_state(["begun"])
        found = await asyncio.gather(fails(number), far(number))
        await wait_condition(lambda: self.count > ORDERS)
        return len(found)

    @signal
    def add(self, count: int) -> None:
        self.count += count

    @update
    def remove(self, count: int) -> int:
        self.count -= count
        return self.count


DEFINITIONS = [Order, fails, far]


class Canary:
    """Loaded from a pickle, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def is_payload(value: object) -> bool:
    return isinstance(value, dict) and bool({"json", "encoding"} & value.keys())


def spoil(value: Any, payload: dict[str, str]) -> Any:
    """Put the payload in the place of each, and of each value that is none."""
    if is_payload(value) or not isinstance(value, dict | list):
        return payload
    if isinstance(value, list):
        return [spoil(one, payload) for one in value]
    return {
        key: spoil(one, payload) if isinstance(one, dict | list) else one
        for key, one in value.items()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with rows in all tables; nothing of it has ended."""
    path = tmp_path_factory.mktemp("planted") / "runs.db"
    asyncio.run(make(path))
    return path


async def make(path: Path) -> None:
    async with Engine(path, definitions=DEFINITIONS) as engine:
        handles = [
            await engine.start(
                Order.wait(n), id=f"o{n}", attributes={CUSTOMER: "ann"}, memo={"n": n}
            )
            for n in range(ORDERS)
        ]
        await engine.queues.configure("far", rate="1/s")
        for handle in handles:
            await handle.update(Order.remove(1))
    async with Engine(path, definitions=DEFINITIONS, worker=False) as client:
        for handle in [await client.get(f"o{n}") for n in range(ORDERS)]:
            await handle.signal(Order.add(1))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(SELDOM)


async def use(path: Path) -> None:
    """All that reads rows: workers, clients and the doctor."""
    queues = {"far": 1}
    async with Engine(path, definitions=DEFINITIONS, activity_queues=queues) as engine:
        runs = [await engine.get(f"o{n}") for n in range(ORDERS)]
        reads: list[Awaitable[object]] = [
            read
            for one in runs
            for read in (
                one.describe(),
                one.attempts(),
                one.activities(),
                one.stack(),
                one.update(Order.remove(1)),
                one.signal(Order.add(9)),
                one.result(),
            )
        ]
        # Those that wait for what is parked do so in vain.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.gather(*reads, return_exceptions=True)
        for listed in (engine.list, engine.queues.list, engine.activities.list):
            with contextlib.suppress(DurableError):
                await listed()
        with contextlib.suppress(DurableError):
            async for _ in examine(engine._store, namespace="default"):
                pass


@pytest.mark.sweep(4)
@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_g1_a_pickle_in_any_column_is_never_loaded(
    table: str, column: str, made: Path, tmp_path: Path
) -> None:
    path, canary = tmp_path / "runs.db", tmp_path / "canary"
    shutil.copy(made, path)
    data = base64.b64encode(pickle.dumps(Canary(canary))).decode()
    payload = {"encoding": "pickle", "data": data}
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        planted = 0
        find = f"SELECT DISTINCT {column} FROM {table} WHERE {column} <> ''"  # noqa: S608 - names of ours
        change = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"  # noqa: S608 - likewise
        for (text,) in connection.execute(find).fetchall():
            spoilt = json.dumps(spoil(json.loads(text), payload))
            connection.execute(change, (spoilt, text))
            planted += spoilt.count("pickle")
    assert planted or (table, column) in EMPTY

    asyncio.run(use(path))

    assert not canary.exists()
