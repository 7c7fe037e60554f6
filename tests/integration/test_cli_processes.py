"""The command line in processes of its own: started, stopped, killed, taken over."""
# size: one shop, whose processes begin and end alike, serves all of these tests.

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from durable.cli.main import cli

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_MAX = 20

pytestmark = pytest.mark.slow

# An activity waits for a file to appear, so that a test decides when it goes on.
APP = """
import asyncio
import os
from pathlib import Path

from durable import RetryPolicy, activity, sleep, workflow

QUICK = RetryPolicy(max_attempts=3, initial_interval=0.05)


@activity(retry=QUICK)
async def gated(name: str) -> str:
    Path(f"{name}.began.{os.getpid()}").touch()
    while not Path(f"{name}.open").exists():
        await asyncio.sleep(0.01)
    return name


@activity
async def plain(name: str) -> str:
    return name.upper()


@workflow
async def passing(name: str) -> str:
    first = await gated(name)
    return first + await plain(name)


@workflow
async def quick(name: str) -> str:
    print("printed by the workflow")
    return await plain(name)
"""


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Wait until something is the case, and return it."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what} has not happened within {SECONDS_MAX} s")


class Process:
    """A running command; what it says goes into files, so that it never blocks."""

    def __init__(
        self, folder: Path, name: str, args: tuple[str, ...], database: str
    ) -> None:
        self._out = folder / f"{name}.out"
        self._err = folder / f"{name}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "durable", *args],
                cwd=folder,
                env=environment(database),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        def look() -> re.Match[str] | None:
            found = re.search(pattern, self.stderr)
            assert found or self.process.poll() is None, self.stderr
            return found

        found: re.Match[str] = wait_for(look, f"{pattern!r} in the log")
        return found

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        return self.process.wait(SECONDS_MAX)


def environment(database: str = "sqlite:///runs.db") -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("DURABLE_") and name != "FORCE_COLOR"
    }
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "DURABLE_DATABASE_URL": database,
    }


class Shop:
    """A folder with a program and a database, and the commands run in it."""

    def __init__(self, folder: Path, database: str = "sqlite:///runs.db") -> None:
        self.folder = folder
        self.database = database
        self.processes: list[Process] = []
        self.write(APP)

    def write(self, text: str, name: str = "app.py") -> None:
        (self.folder / name).write_text(text)

    def begin(self, *args: str) -> Process:
        name = f"p{len(self.processes)}"
        process = Process(self.folder, name, args, self.database)
        self.processes.append(process)
        return process

    def worker(self, *args: str) -> Process:
        worker = self.begin("worker", *(args or ("app.py",)))
        worker.wait_for_log("ready: task queue 'default'")
        return worker

    def call(self, *args: str, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "durable", *args],
            cwd=self.folder,
            env=environment(self.database),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
        )
        assert done.returncode == exit_code, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def ask(self, *args: str, exit_code: int = 0) -> Result:
        """Likewise, where no code is needed: this process is another than theirs."""
        with contextlib.chdir(self.folder):
            done = CliRunner().invoke(
                cli,
                args,
                env={"DURABLE_DATABASE_URL": self.database, "FORCE_COLOR": None},
            )
        assert done.exit_code == exit_code, f"{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def show(self, workflow_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.ask("show", workflow_id, "--json").stdout
        )
        return found

    def open_gate(self, name: str) -> None:
        (self.folder / f"{name}.open").touch()

    def began(self, name: str) -> list[Path]:
        return list(self.folder.glob(f"{name}.began.*"))

    def count_events(self, kind: str) -> int:
        path = self.folder / "runs.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM durable_history WHERE type = ?", (kind,)
            ).fetchone()
        return int(count)

    def end(self) -> None:
        for process in self.processes:
            if process.process.poll() is None:
                process.process.kill()
            process.process.wait()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.end()


def test_run_started_in_one_process_is_done_by_a_worker_in_another(shop: Shop) -> None:
    shop.worker("app")
    shop.open_gate("tea")

    started = shop.call("start", "passing", "--input", '["tea"]', "--id", "order-1")
    result = shop.call("result", "order-1", "--timeout", "10s")

    assert started.stdout == "order-1\n"
    assert json.loads(result.stdout) == "teaTEA"
    assert shop.call("doctor").stdout == ""


def test_run_that_comes_before_any_worker_waits_for_one(shop: Shop) -> None:
    shop.call("start", "app:quick", "--input", '{"name": "tea"}', "--id", "early")
    assert shop.show("early")["owner"] is None

    shop.worker()

    assert json.loads(shop.ask("result", "early").stdout) == "TEA"


def test_worker_drains_at_sigterm_and_gives_its_runs_up(shop: Shop) -> None:
    worker = shop.worker()
    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    wait_for(lambda: shop.began("tea"), "the activity's begin")

    worker.signal(signal.SIGTERM)
    worker.wait_for_log("SIGTERM: draining")
    shop.open_gate("tea")

    assert worker.end() == 0
    assert "worker stopped" in worker.stderr
    assert worker.stdout == ""
    left = shop.show("order-1")
    assert (left["status"], left["owner"], left["pending"]["activities"]) == (
        "running",
        None,
        [],
    )
    shop.worker()
    assert json.loads(shop.ask("result", "order-1").stdout) == "teaTEA"
    assert len(shop.began("tea")) == 1
    assert shop.show("order-1")["attempts"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_a_worker_at_once(
    shop: Shop, number: signal.Signals
) -> None:
    worker = shop.worker("app.py", "--drain-timeout", "1h")
    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    wait_for(lambda: shop.began("tea"), "the activity's begin")

    worker.signal(number)
    worker.wait_for_log("draining; a second signal ends the process at once")

    def ended() -> bool:
        if worker.process.poll() is None:
            worker.signal(number)
        return worker.process.poll() is not None

    wait_for(ended, "the end of the worker")
    assert worker.end() == 128 + number, worker.stderr
    assert "worker stopped" not in worker.stderr
    assert (
        f"{number.name} again: ended at once; left to other workers: 'gated' (id 1,"
        " attempt 1) of run 'order-1' at "
    ) in worker.stderr


def test_signal_that_comes_twice_within_a_moment_is_one(shop: Shop) -> None:
    worker = shop.worker()

    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGINT)

    assert worker.end() == 0
    assert worker.stderr.count("draining;") == 1


def test_killed_worker_is_taken_over_by_the_next(shop: Shop) -> None:
    first = shop.worker()
    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    wait_for(lambda: shop.began("tea"), "the first attempt's begin")
    first.signal(signal.SIGKILL)
    first.end()
    (dead,) = json.loads(shop.ask("show", "order-1", "--json").stdout)["owner"].split()

    second = shop.worker()
    wait_for(lambda: len(shop.began("tea")) == 2, "the second attempt's begin")
    shop.open_gate("tea")

    assert json.loads(shop.ask("result", "order-1").stdout) == "teaTEA"
    alive = second.wait_for_log("worker (\\S+) ready").group(1)
    shown = shop.ask("show", "order-1").stdout
    assert "gated attempt 1 lost with its worker" in shown
    assert re.search(rf"gated completed +attempt 2, .*worker {alive}", shown)
    assert dead != alive
    assert shop.ask("doctor").stdout == ""


def test_code_that_changed_is_found_before_it_is_deployed(shop: Shop) -> None:
    shop.call("run", "app:quick", "--input", '["tea"]', "--id", "order-1")
    shop.write(APP.replace("return await plain(name)", "return await gated(name)"))

    done = shop.call("replay", "app", "--all", exit_code=8)

    assert done.stdout.startswith("mismatch  order-1  quick  4 events")
    assert "event 2 is ActivityTaskScheduled('plain'" in done.stdout
    assert "the code issues ScheduleActivityTask('gated'" in done.stdout
    assert "app.py:33" in done.stdout
    assert "code: nondeterminism" in done.stderr
    assert shop.began("tea") == [], "an activity ran during a replay"
    assert shop.count_events("ActivityTaskScheduled") == 1


def test_recorded_history_replays_where_there_is_no_database(shop: Shop) -> None:
    shop.call("run", "app:quick", "--input", '["tea"]', "--id", "order-1")
    recorded = shop.ask("history", "order-1", "--json", "--payloads").stdout
    (shop.folder / "history.json").write_text(recorded)
    (shop.folder / "runs.db").unlink()

    done = shop.call("replay", "app", "--file", "history.json")

    assert done.stdout.startswith("ok        order-1")
    assert not (shop.folder / "runs.db").exists()


def test_stuck_run_goes_on_once_its_code_is_mended(shop: Shop) -> None:
    shop.write(APP.replace("return await plain(name)", "return await plain(nmae)"))
    first = shop.worker()
    shop.ask("start", "quick", "--input", '["tea"]', "--id", "order-1")

    stuck = shop.ask("result", "order-1", exit_code=1)
    assert "NameError: name 'nmae' is not defined" in stuck.stderr
    assert "code: workflow_stuck" in stuck.stderr
    assert "NameError" in shop.ask("show", "order-1").stdout
    first.signal(signal.SIGTERM)
    assert first.end() == 0

    shop.write(APP)
    shop.worker()
    wait_for(
        lambda: shop.count_events("WorkflowExecutionCompleted"), "the end of the run"
    )
    assert json.loads(shop.ask("result", "order-1").stdout) == "TEA"


def test_data_alone_goes_to_stdout(shop: Shop) -> None:
    done = shop.call("run", "app:quick", "--input", '["tea"]')

    assert done.stdout == '"TEA"\n'
    assert "printed by the workflow" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_that_is_stopped_is_kept_and_goes_on(
    shop: Shop, number: signal.Signals
) -> None:
    running = shop.begin("run", "app:passing", "--input", '["tea"]', "--id", "order-1")
    wait_for(lambda: shop.began("tea"), "the activity's begin")
    (run,) = [
        json.loads(line) for line in shop.ask("list", "--json").stdout.splitlines()
    ]
    assert (run["status"], run["workflow_id"]) == ("running", "order-1")

    running.signal(number)
    shop.open_gate("tea")

    assert running.end() == 128 + number
    assert running.stdout == ""
    assert "run 'order-1'" in running.stderr
    assert "Traceback" not in running.stderr
    again = shop.call(
        "run", "app:passing", "--input", '["tea"]', "--id", "order-1",
        "--on-conflict", "use_existing",
    )  # fmt: skip
    assert json.loads(again.stdout) == "teaTEA"


def test_waiting_for_a_result_can_be_broken_off(shop: Shop) -> None:
    shop.ask("start", "nobody_knows", "--id", "order-1")
    waiting = shop.begin("result", "order-1")
    wait_for(lambda: len(list(shop.folder.glob("runs.db-*"))), "the wait")

    waiting.signal(signal.SIGINT)

    assert waiting.end() == 130
    assert "Traceback" not in waiting.stderr


def test_cancel_from_another_process_reaches_the_code(shop: Shop) -> None:
    shop.worker()
    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    wait_for(lambda: shop.began("tea"), "the activity's begin")

    shop.ask("cancel", "order-1", "--reason", "enough")

    failed = shop.ask("result", "order-1", exit_code=5)
    assert "was cancelled" in failed.stderr
    assert "cancel requested: enough" in shop.ask("show", "order-1").stdout


# --- messages -------------------------------------------------------------------------

CART = """
import os

from durable import query, run, signal, sleep, update, wait_condition, workflow


@workflow
class Cart:
    def __init__(self) -> None:
        self.items: list[str] = []
        self.is_closed = False

    @run
    async def shop(self) -> list[str]:
        await wait_condition(lambda: self.is_closed)
        return self.items

    @signal
    def put(self, item: str) -> None:
        self.items.append(item)

    @query
    def count(self) -> int:
        return len(self.items)

    @query
    def reach_out(self) -> int:
        return os.system("true")

    @update
    async def close(self, reason: str) -> str:
        await sleep(0.01)
        self.is_closed = True
        return reason

    @update
    async def dawdle(self) -> None:
        await wait_condition(lambda: False)
"""


def test_messages_reach_a_run_of_another_process_without_its_code(shop: Shop) -> None:
    shop.write(CART, "cart.py")
    shop.worker("cart.py")
    shop.ask("start", "Cart", "--id", "cart-1")

    shop.ask("signal", "cart-1", "put", '"tea"')
    shop.ask("signal", "cart-1", "put", '"milk"')

    assert shop.ask("query", "cart-1", "count").stdout == "2\n"
    stack = shop.ask("stack", "cart-1").stdout
    assert "waits for a condition" in stack
    assert "cart.py:15 in Cart.shop" in stack
    done = shop.ask("update", "cart-1", "close", '"enough"', "--json")
    assert json.loads(done.stdout)["result"] == "enough"
    assert json.loads(shop.ask("result", "cart-1").stdout) == ["tea", "milk"]


def test_closed_run_is_asked_by_way_of_its_code(shop: Shop) -> None:
    shop.write(CART, "cart.py")
    shop.worker("cart.py")
    shop.ask("start", "Cart", "--id", "cart-1")
    shop.ask("signal", "cart-1", "put", '"tea"')
    shop.ask("update", "cart-1", "close", '"enough"')

    # Nobody has it in memory now: the code answers, or nobody does.
    closed = shop.ask("query", "cart-1", "count", exit_code=5)
    assert "hint: Give the run's code with --module" in closed.stderr
    assert shop.call("query", "cart-1", "count", "-m", "cart").stdout == "1\n"
    refused = shop.call("query", "cart-1", "reach_out", "-m", "cart", exit_code=5)
    assert "called os.system() at " in refused.stderr
    assert "cart.py:28, which cannot be replayed" in refused.stderr
    assert shop.ask("doctor").stdout == ""


def test_question_that_nobody_answers_ends_in_time(shop: Shop) -> None:
    shop.ask("start", "Cart", "--id", "cart-1")

    for command in ("query", "stack"):
        name = ["count"] if command == "query" else []
        done = shop.call(command, "cart-1", *name, "--timeout", "100ms", exit_code=6)
        assert "code: no_answer" in done.stderr
        assert "--module" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_for_an_update_can_be_broken_off_and_taken_up(
    shop: Shop, number: signal.Signals
) -> None:
    shop.write(CART, "cart.py")
    shop.worker("cart.py")
    shop.ask("start", "Cart", "--id", "cart-1")
    waiting = shop.begin("update", "cart-1", "dawdle", "--update-id", "u1")
    wait_for(
        lambda: shop.count_events("WorkflowExecutionUpdateAccepted"), "the acceptance"
    )

    waiting.signal(number)

    assert waiting.end() == 128 + number
    assert waiting.stdout == ""
    assert "--update-id u1" in waiting.stderr
    assert "Traceback" not in waiting.stderr
    again = shop.ask(
        "update", "cart-1", "dawdle", "--update-id", "u1", "--timeout", "100ms",
        exit_code=6,
    )  # fmt: skip
    assert "was not answered" in again.stderr
    assert shop.count_events("WorkflowExecutionUpdateAccepted") == 1
    assert "update dawdle  id u1, under way" in shop.ask("show", "cart-1").stdout


def test_module_that_cannot_be_imported_is_an_error_without_traceback(
    shop: Shop,
) -> None:
    shop.write("1 / 0\n", "broken.py")

    for args in (
        ("worker", "broken"),
        ("run", "broken:x"),
        ("replay", "broken", "--all"),
        ("query", "order-1", "x", "-m", "broken"),
        ("stack", "order-1", "-m", "broken"),
    ):
        done = shop.call(*args, exit_code=1)
        assert "ZeroDivisionError: division by zero (broken.py:1)" in done.stderr
        assert "code: import_failed" in done.stderr


def test_help_does_not_wait_for_the_database_layer(shop: Shop) -> None:
    check = (
        "import sys, durable.cli.main as m\n"
        "try: m.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'sqlalchemy', 'alembic', 'rich', 'asyncio', 'durable.engine'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", check],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )

    assert done.returncode == 0, done.stderr


def test_followed_run_is_told_of_as_another_process_records_it(shop: Shop) -> None:
    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    followed = shop.begin("show", "order-1", "--follow")
    wait_for(lambda: "passing started" in followed.stdout, "its first line")
    assert "gated" not in followed.stdout

    shop.worker()
    wait_for(lambda: "gated scheduled" in followed.stdout, "what was recorded since")
    assert followed.process.poll() is None
    shop.open_gate("tea")

    assert followed.end() == 0
    assert followed.stderr == ""
    last = followed.stdout.splitlines()[-1]
    assert re.search(r"\d  \+\S+  completed +8 bytes", last)
    assert followed.stdout.count("plain completed") == 1


def test_followed_run_that_is_parked_is_waited_for(shop: Shop) -> None:
    shop.write(APP.replace("return await plain(name)", "return await plain(nmae)"))
    first = shop.worker()
    shop.ask("start", "quick", "--input", '["tea"]', "--id", "order-1")
    followed = shop.begin("show", "order-1", "-f", "--json")
    wait_for(lambda: "parked" in followed.stdout, "what it is parked for")
    first.signal(signal.SIGTERM)
    assert first.end() == 0
    assert followed.process.poll() is None

    shop.write(APP)
    shop.worker()

    assert followed.end() == 0
    moments = [json.loads(line) for line in followed.stdout.splitlines()]
    (parked,) = (one for one in moments if one["event_id"] is None)
    assert parked["text"].startswith("parked: NameError: name 'nmae'")
    assert moments[-1]["text"] == "completed"
    assert {one["workflow_id"] for one in moments} == {"order-1"}


def test_following_ends_in_order_when_it_is_interrupted(shop: Shop) -> None:
    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    followed = shop.begin("show", "order-1", "--follow")
    wait_for(lambda: "passing started" in followed.stdout, "its first line")

    followed.signal(signal.SIGINT)

    assert followed.end() == 130
    assert followed.stderr == ""


def test_following_ends_when_nobody_reads_it_any_more(shop: Shop) -> None:
    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "durable", "show", "order-1", "-f"],
        cwd=shop.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as followed:
        assert followed.stdout is not None
        assert followed.stderr is not None
        assert followed.stdout.readline().startswith(b"order-1  passing  running")

        followed.stdout.close()  # nothing more is recorded, and so written

        followed.wait(SECONDS_MAX)
        assert followed.stderr.read() == b""
