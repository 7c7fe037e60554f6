"""`--interceptors` of the command line: workers of each kind are within them."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_cli_processes import Shop

pytestmark = pytest.mark.slow

APP = """
from durable import Interceptor, activity, activity_info, workflow


class Adds(Interceptor):
    def __init__(self, name):
        self.name = name

    async def start_activity(self, input, next):
        input.headers[self.name] = "yes"
        return await next(input)


@activity
def told() -> dict[str, str]:
    return activity_info().headers


@workflow
async def ask() -> dict[str, str]:
    return await told()


ONE = Adds("one")
BOTH = [Adds("one"), Adds("two")]
NONE = [5]
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    shop.write(APP)
    yield shop
    for process in shop.processes:
        process.process.kill()
        process.process.wait()


@pytest.mark.parametrize("more", [(), ("--processes", "1")])
def test_a_worker_is_within_the_interceptors_that_it_is_told(
    shop: Shop, more: tuple[str, ...]
) -> None:
    worker = shop.worker("app.py", "--interceptors", "app.py:BOTH", *more)
    shop.call("start", "app.py:ask", "--id", "x")
    result = json.loads(shop.call("result", "x", "--timeout", "15s").stdout)
    assert result == {"one": "yes", "two": "yes"}
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


def test_run_takes_one_and_says_what_is_wrong_with_others(shop: Shop) -> None:
    done = shop.call("run", "app.py:ask", "--interceptors", "app.py:ONE")
    assert json.loads(done.stdout) == {"one": "yes"}
    for wrong, complaint in (
        ("app.py:BOTHS", "did you mean 'BOTH'?"),
        ("app.py", "not of the form MODULE:NAME"),
        ("app.py:NONE", "interceptors has 5"),
    ):
        given = ("run", "app.py:ask", "--interceptors", wrong)
        said = shop.call(*given, exit_code=2).stderr
        assert complaint in said
        assert "Traceback" not in said
