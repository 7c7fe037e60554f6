"""Workers with old and with new code on one database: no run is lost between them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Activity,
    Engine,
    Handle,
    RunDescription,
    Signal,
    WorkflowStuckError,
    activity,
    limits,
    workflow,
)
from durable.client.waiting import parked
from durable.testing.contract.rows import wait_until
from durable.worker.lookout import Lookout
from tests.integration.test_cli_processes import Process, Shop, wait_for

OLD = """
from durable import Signal, activity, workflow

GO = Signal("go", str)

@activity
async def reserve(item: str) -> str:
    return f"{item} reserved"

@activity
async def ship(what: str) -> str:
    return f"{what}, shipped"

@workflow
async def order(item: str) -> str:
    reserved = await reserve(item)
    await GO.receive()
    return await ship(reserved)
"""
# `order` asks before it reserves, and `refund` was not there.
NEW = """
from old import GO, activity, reserve, ship, workflow

@activity
async def check(item: str) -> str:
    return f"{item} checked"

@workflow
async def order(item: str) -> str:
    reserved = await reserve(await check(item))
    await GO.receive()
    return await ship(reserved)

@workflow
async def refund(item: str) -> str:
    return await check(item)
"""
RESULTS = {"old": "tea reserved, shipped", "new": "tea checked reserved, shipped"}


@pytest.fixture
def shop(tmp_path: Path, shared_url: str) -> Iterator[Shop]:
    shop = Shop(tmp_path, shared_url)
    shop.write(OLD, "old.py")
    shop.write(NEW.replace("from old import", "from base import"), "new.py")
    shop.write(OLD.partition("@workflow")[0], "base.py")
    yield shop
    shop.end()


@contextlib.contextmanager
def frozen(shop: Shop, worker: Process) -> Iterator[None]:
    """Stop a worker for less than its lease, between two of its writes."""
    worker.signal(signal.SIGSTOP)
    while is_locked(shop):
        worker.signal(signal.SIGCONT)
        worker.signal(signal.SIGSTOP)
    yield
    worker.signal(signal.SIGCONT)


def is_locked(shop: Shop) -> bool:
    if not shop.database.startswith("sqlite"):
        return False  # servers end transactions that have stopped
    with contextlib.closing(sqlite3.connect(shop.folder / "runs.db")) as connection:
        try:
            connection.execute("PRAGMA busy_timeout = 0").close()
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def begin(shop: Shop, workflow_id: str) -> None:
    """Start an order, and wait until it waits for its signal."""
    shop.ask("start", "order", "--input", '["tea"]', "--id", workflow_id)
    wait_for(lambda: waits(shop, workflow_id), "that it waits")


def waits(shop: Shop, workflow_id: str) -> bool:
    lines = shop.ask("history", workflow_id, "--json").stdout.splitlines()
    done = [e["type"] for e in map(json.loads, lines)].count("ActivityTaskCompleted")
    return bool(done) and shop.show(workflow_id)["owner"] is None


def wait_until_stuck(shop: Shop, workflow_id: str) -> None:
    wait_for(lambda: shop.show(workflow_id)["stuck"], "that it is set aside")


def result_of(shop: Shop, workflow_id: str) -> str:
    wait_for(lambda: shop.show(workflow_id)["status"] != "running", "its end")
    return str(json.loads(shop.ask("result", workflow_id).stdout))


@pytest.mark.slow
@pytest.mark.sweep(1)
def test_run_goes_on_with_the_code_that_fits_whoever_takes_it_first(
    shop: Shop,
) -> None:
    workers = {"old": shop.worker("old.py")}
    begin(shop, "old")
    workers["new"] = shop.worker("new.py")
    with frozen(shop, workers["old"]):
        begin(shop, "new")

    for fits in ("old", "new"):
        with frozen(shop, workers[fits]):
            shop.ask("signal", fits, "go", '"now"')
            wait_until_stuck(shop, fits)
            waiting = shop.begin("result", fits)

        assert result_of(shop, fits) == RESULTS[fits]
        assert waiting.end() == 0, waiting.stderr
        assert json.loads(waiting.stdout) == RESULTS[fits]


@pytest.mark.slow
@pytest.mark.sweep(1)
def test_what_fits_no_worker_waits_in_sight_and_what_fits_one_is_left_to_it(
    shop: Shop,
) -> None:
    old = shop.worker("old.py")
    begin(shop, "order-1")
    shop.ask("start", "refund", "--input", '["milk"]', "--id", "refund-1")
    new = shop.worker("new.py")
    assert result_of(shop, "refund-1") == "milk checked"
    assert "refund" not in old.stderr
    old.signal(signal.SIGKILL)
    old.end()

    shop.ask("signal", "order-1", "go", '"now"')
    wait_until_stuck(shop, "order-1")

    assert shop.show("order-1")["stuck"]["type"] == "NondeterminismError"
    assert (
        "stuck: parked until its code is mended" in shop.ask("show", "order-1").stdout
    )
    assert "order-1" in shop.ask("list", "--status", "stuck").stdout
    new.signal(signal.SIGKILL)
    new.end()
    shop.worker("old.py")
    assert result_of(shop, "order-1") == RESULTS["old"]


# --- in one process -------------------------------------------------------------------

GO = Signal("mixed.go", str)


@activity(name="mixed.first")
async def first() -> str:
    return "first"


@activity(name="mixed.second")
async def second() -> str:
    return "second"


def code_of(release: Activity[[], str]) -> list[Any]:
    """One release of `mixed.order`, which begins with that activity."""

    @workflow(name="mixed.order")
    async def order() -> str:
        return await release() + await GO.receive()

    return [order, release]


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> str:
    """A database that is patrolled all the time, and read three runs at a time."""
    monkeypatch.setattr(limits, "LEASE_SECONDS", 0.02)
    monkeypatch.setattr(limits, "LOAD_RUNS_MAX", 3)
    return f"memory://{uuid.uuid4().hex}"


async def begin_orders(engine: Engine) -> list[Handle[str]]:
    """Start seven runs, and wait until they wait for a signal."""
    runs = [await engine.start("mixed.order", id=f"order-{n}") for n in range(7)]
    await until(runs, lambda found: found.owner is None)
    return runs


async def until(
    runs: list[Handle[str]], condition: Callable[[RunDescription], bool]
) -> None:
    for run in runs:
        while not condition(await run.describe()):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)


async def park(engine: Engine, runs: list[Handle[str]]) -> None:
    """Have an engine of other code try runs, as if it had a message for each."""
    assert engine._worker is not None
    engine._worker.wake([run.run_id for run in runs])
    await until(runs, lambda found: found.stuck is not None)


def parkings(caplog: pytest.LogCaptureFixture) -> int:
    return sum("is stuck" in record.getMessage() for record in caplog.records)


async def test_parked_runs_are_tried_by_the_workers_that_are_there(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parked, "_PATIENCE_SECONDS", 60)
    async with (
        Engine(url, definitions=code_of(first)) as fitting,
        Engine(url, definitions=code_of(second)) as other,
    ):
        runs = await begin_orders(fitting)
        early = asyncio.create_task(runs[0].result())
        await park(other, runs)
        late = asyncio.create_task(runs[1].result())
        await until(runs, lambda found: found.stuck is None)
        assert parkings(caplog) == len(runs)
        for run in runs:
            await run.signal(GO("!"))
        assert {await run.result() for run in runs} == {"first!"}
        assert (await early, await late) == ("first!", "first!")


async def test_workers_that_fit_no_better_try_a_run_once_each(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Engine(url, definitions=code_of(first)) as fitting:
        begun = await begin_orders(fitting)
    patrols = 0
    patrol = Lookout._try_parked

    async def counted(lookout: Lookout) -> None:
        nonlocal patrols
        await patrol(lookout)
        patrols += 1

    monkeypatch.setattr(Lookout, "_try_parked", counted)
    code = code_of(second)
    async with (
        Engine(url, definitions=code) as one,
        Engine(url, definitions=code) as other,
    ):
        runs = [await one.get(run.workflow_id) for run in begun]
        await asyncio.gather(park(one, runs), park(other, runs))
        await wait_until(lambda: parkings(caplog) == 2 * len(runs))
        enough = patrols + 20  # for each to look at all of them several times
        await wait_until(lambda: patrols > enough)
        assert parkings(caplog) == 2 * len(runs)
        assert len(caplog.records) == 2 * len(runs)  # who was second says no more
        await until(runs, lambda found: found.stuck is not None)
        monkeypatch.setattr(parked, "_PATIENCE_SECONDS", 0.01)
        with pytest.raises(WorkflowStuckError):
            await runs[0].result()
