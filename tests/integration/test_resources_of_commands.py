"""`--resources` of the command line: each process opens and closes its own."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_cli_processes import Shop, wait_for

pytestmark = pytest.mark.slow

APP = """
import asyncio
import contextlib
import os
from pathlib import Path

from durable import RetryPolicy, activity, activity_method, resource, workflow


class Pool:
    def __init__(self):
        self.owner = os.getpid()


class Desk:
    def __init__(self, pool):
        self.pool = pool

    @activity_method(retry=RetryPolicy(initial_interval=0.05))
    async def gated(self, name: str) -> int:
        Path(f"{name}.began.{os.getpid()}").touch()
        while not Path(f"{name}.open").exists():
            await asyncio.sleep(0.01)
        return self.pool.owner


@activity
def owner(*, pool: Pool = resource(Pool)) -> int:
    return pool.owner


@workflow
async def flow(name: str) -> list[int]:
    return [await Desk.gated(name), await owner()]


@contextlib.asynccontextmanager
async def open_resources():
    pool = Pool()
    print(f"opened by {pool.owner}")
    yield {Pool: pool, Desk: Desk(pool)}
    print(f"closed by {os.getpid()}")


@contextlib.contextmanager
def refuse():
    raise ConnectionRefusedError("postgres://me:secret@host is not there")
    yield
"""
GIVEN = ("--resources", "app.py:open_resources")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    shop.write(APP)
    yield shop
    for process in shop.processes:
        process.process.kill()
        process.process.wait()


def test_a_worker_that_was_killed_is_followed_by_one_with_resources_of_its_own(
    shop: Shop,
) -> None:
    first = shop.worker("app.py", *GIVEN)
    shop.call("start", "app.py:flow", '"x"', "--id", "x")
    wait_for(lambda: shop.began("x"), "the activity")
    first.process.kill()
    first.end()
    assert "closed by" not in first.stderr

    second = shop.worker("app.py", *GIVEN)
    shop.open_gate("x")
    result = json.loads(shop.call("result", "x", "--timeout", "15s").stdout)
    pid = second.process.pid
    assert result == [pid, pid]
    second.signal(signal.SIGTERM)
    assert second.end() == 0
    assert f"closed by {pid}" in second.stderr


def test_what_is_wrong_with_resources_is_one_error_and_no_traceback(
    shop: Shop,
) -> None:
    for command in (("worker", "app.py"), ("run", "app.py:flow", '"x"')):
        lacking = shop.call(*command, exit_code=1).stderr
        assert "activity 'Desk.gated' takes Desk as 'self'" in lacking
        assert "code: resource_missing" in lacking
        down = shop.call(*command, "--resources", "app.py:refuse", exit_code=1).stderr
        assert "refuse raised ConnectionRefusedError: postgres://me:***@host" in down
    for wrong, complaint in (
        ("app.py:open_resource", "did you mean 'open_resources'?"),
        ("app.py", "not of the form MODULE:NAME"),
    ):
        said = shop.call("worker", "app.py", "--resources", wrong, exit_code=2).stderr
        assert complaint in said
