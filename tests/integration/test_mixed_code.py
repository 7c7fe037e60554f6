"""Workers with old and with new code on one database: no run is lost between them."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_cli_processes import Process, Shop, wait_for

pytestmark = pytest.mark.slow

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


def result_of(shop: Shop, workflow_id: str) -> str:
    wait_for(lambda: shop.show(workflow_id)["status"] != "running", "its end")
    return str(json.loads(shop.ask("result", workflow_id).stdout))


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
            wait_for(lambda: shop.show(fits)["stuck"], "that the other has tried it")

        assert result_of(shop, fits) == RESULTS[fits]
