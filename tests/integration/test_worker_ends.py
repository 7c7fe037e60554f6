"""`durable worker` ends by its drain timeout and a moment, whatever runs in it."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing

import pytest

from tests.integration.test_cli_processes import Shop, shop, wait_for

__all__ = ["shop"]

APP = """
import asyncio
import contextlib
import threading
from pathlib import Path

import durable
from durable import activity, workflow


@activity
def blocking() -> None:
    Path("begun").touch()
    threading.Event().wait()


@activity
async def stubborn() -> None:
    Path("begun").touch()
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


@activity
async def elsewhere() -> None:
    Path("begun").touch()
    await asyncio.to_thread(threading.Event().wait)


@workflow
async def flow(kind: str) -> None:
    await {"blocking": blocking, "stubborn": stubborn, "elsewhere": elsewhere}[kind]()


@workflow
async def spin() -> None:
    with durable.allow("the test waits for it"):
        Path("begun").touch()
    while True:
        pass
"""


def begin(shop: Shop, *start: str) -> None:
    shop.call("start", *start, "--id", "o")
    wait_for((shop.folder / "begun").exists, "the activity's begin")


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("blocking", 0, "leaves it to the next worker"),
        ("stubborn", 0, "does not end when it is cancelled"),
        ("elsewhere", 128 + signal.SIGTERM, "still running"),
    ],
)
def test_it_ends_though_an_activity_does_not(
    shop: Shop, kind: str, code: int, said: str
) -> None:
    shop.write(APP)
    worker = shop.worker("app.py", "--drain-timeout", "100ms")
    begin(shop, "flow", "--input", f'["{kind}"]')

    worker.signal(signal.SIGTERM)

    assert worker.end() == code, worker.stderr
    assert said in worker.stderr
    assert "Traceback" not in worker.stderr


def test_it_hears_a_signal_while_workflow_code_spins(shop: Shop) -> None:
    shop.write(APP)
    worker = shop.worker("app.py", "--drain-timeout", "100ms")
    begin(shop, "spin")

    worker.signal(signal.SIGTERM)

    assert worker.end() in (0, 128 + signal.SIGTERM)
    assert "SIGTERM: draining" in worker.stderr


def test_it_ends_while_another_process_holds_the_write_lock(shop: Shop) -> None:
    worker = shop.worker("app.py", "--drain-timeout", "100ms")
    path = shop.folder / "runs.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 128 + signal.SIGTERM, worker.stderr
    assert "ended 2.1 s after SIGTERM" in worker.stderr
    shop.worker()  # whose predecessor's lease is no obstacle
