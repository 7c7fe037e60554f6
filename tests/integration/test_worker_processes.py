"""`durable worker --processes`: kept alive, drained in order, never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.test_cli_processes import APP, Process, Shop, shop, wait_for

__all__ = ["shop"]

pytestmark = [pytest.mark.slow, pytest.mark.sweep(3, of_class=True)]


@pytest.fixture(autouse=True)
def nobody_is_left(shop: Shop) -> Iterator[None]:
    """End what a test that fails would leave behind: the processes of its workers."""
    yield
    shop.end()
    logs = "".join(process.stderr for process in shop.processes)
    for pid in {int(found) for found in re.findall(r"worker (\d+)-", logs)}:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # Its number may be another's by now.
            if Path(f"/proc/{pid}/cwd").readlink() == shop.folder:
                os.kill(pid, signal.SIGKILL)


def keep(shop: Shop, *args: str, count: int = 2) -> Process:
    """Begin a command with several processes, and wait until all of them work."""
    keeper = shop.begin("worker", "app.py", "--processes", str(count), *args)
    ready = "ready: task queue"
    wait_for(lambda: keeper.stderr.count(ready) == count, "that all of them work")
    return keeper


def pids_of(shop: Shop, keeper: Process) -> list[int]:
    """The processes of live workers, as the database has them."""
    assert keeper.process.poll() is None, keeper.stderr
    if not (shop.folder / "runs.db").exists():
        return []
    with closing(sqlite3.connect(shop.folder / "runs.db")) as connection:
        try:
            rows = connection.execute("SELECT pid FROM durable_workers").fetchall()
        except sqlite3.OperationalError:  # it is being made
            return []
    return [pid for (pid,) in rows if is_there(pid)]


def is_there(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def expect_next_worker_to_go_on(shop: Shop) -> None:
    """The first activity was waited for, and whatever comes after it is left to do.

    A process that drained a moment later may have scheduled the second one.
    """
    left = shop.show("order-1")
    assert (left["owner"], left["status"]) == (None, "running")
    pending = {activity["activity_type"] for activity in left["pending"]["activities"]}
    assert pending <= {"plain"}
    shop.worker()
    assert json.loads(shop.ask("result", "order-1").stdout) == "teaTEA"
    assert len(shop.began("tea")) == 1


def test_runs_are_done_and_all_end_in_order(shop: Shop) -> None:
    keeper = keep(shop, "--drain-timeout", "20s")
    pids = pids_of(shop, keeper)
    shop.call("start", "passing", "--input", '["tea"]', "--id", "order-1")
    wait_for(lambda: shop.began("tea"), "the activity's begin")

    keeper.signal(signal.SIGTERM)
    keeper.wait_for_log("SIGTERM: draining")
    shop.open_gate("tea")

    assert keeper.end() == 0
    assert [pid for pid in pids if is_there(pid)] == []
    assert keeper.stderr.count("worker stopped") == 2
    last = keeper.stderr.splitlines()[-1]
    assert re.search(
        r"all stopped after \d+ s: 2 processes, started again: 0 times,"
        r" ended with exit code 0, with exit code 0$",
        last,
    )
    (began,) = shop.began("tea")
    assert int(began.suffix[1:]) in pids
    assert keeper.stdout == ""
    expect_next_worker_to_go_on(shop)


def test_killed_process_is_started_again_and_its_run_goes_on(shop: Shop) -> None:
    keeper = keep(shop)
    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    (began,) = wait_for(lambda: shop.began("tea"), "the activity's begin")
    victim = int(began.suffix[1:])

    os.kill(victim, signal.SIGKILL)
    found = keeper.wait_for_log(
        r"process (\d) ended by SIGKILL after \S+ s; another one is started in 1 s"
    )
    shop.open_gate("tea")
    wait_for(
        lambda: victim not in pids_of(shop, keeper) and len(pids_of(shop, keeper)) == 2,
        "another process",
    )

    assert json.loads(shop.ask("result", "order-1").stdout) == "teaTEA"
    assert found[1] in "12"
    keeper.signal(signal.SIGINT)
    assert keeper.end() == 0
    assert "started again: 1 times" in keeper.stderr


def test_second_signal_ends_all_at_once(shop: Shop) -> None:
    keeper = keep(shop, "--drain-timeout", "1h")
    pids = pids_of(shop, keeper)
    # Or a terminal would send them what they are told in order.
    assert os.getpgid(keeper.process.pid) not in map(os.getpgid, pids)
    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    wait_for(lambda: shop.began("tea"), "the activity's begin")

    keeper.signal(signal.SIGINT)
    keeper.wait_for_log("SIGINT: draining; a second signal ends")

    def ended() -> bool:
        if keeper.process.poll() is None:
            keeper.signal(signal.SIGINT)
        return keeper.process.poll() is not None

    wait_for(ended, "the end of the command")
    assert keeper.end() == 128 + signal.SIGINT
    assert "SIGINT again: ended at once; so are its 2 processes" in keeper.stderr
    wait_for(lambda: not any(map(is_there, pids)), "the end of its processes")


def test_processes_drain_when_the_one_that_keeps_them_is_killed(shop: Shop) -> None:
    keeper = keep(shop)
    pids = pids_of(shop, keeper)
    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    wait_for(lambda: shop.began("tea"), "the activity's begin")

    keeper.signal(signal.SIGKILL)
    keeper.end()
    wait_for(
        lambda: keeper.stderr.count("that keeps this worker has ended: draining") == 2,
        "that both notice",
    )
    shop.open_gate("tea")

    wait_for(lambda: not any(map(is_there, pids)), "the end of its processes")
    assert keeper.stderr.count("worker stopped") == 2
    expect_next_worker_to_go_on(shop)


def test_signal_to_all_of_them_is_one_signal(shop: Shop) -> None:
    """Service managers send it to each process, and the keeper passes it on."""
    keeper = keep(shop, "--drain-timeout", "20s")
    pids = pids_of(shop, keeper)
    shop.ask("start", "passing", "--input", '["tea"]', "--id", "order-1")
    wait_for(lambda: shop.began("tea"), "the activity's begin")

    for pid in pids:
        os.kill(pid, signal.SIGTERM)
    wait_for(
        lambda: keeper.stderr.count("SIGTERM: draining") == 2, "that both of them drain"
    )
    wait_for(lambda: keeper.stderr.count("worker stopped") == 1, "the idle one's end")
    keeper.signal(signal.SIGTERM)
    wait_for(
        lambda: keeper.stderr.count("SIGTERM: draining") == 3, "that the keeper does"
    )
    shop.open_gate("tea")

    assert keeper.end() == 0
    assert keeper.stderr.count("worker stopped") == 2
    assert shop.show("order-1")["pending"]["activities"] == []


@pytest.mark.parametrize(
    ("app", "args", "code", "said"),
    [
        ("1 / 0\n", (), 1, "ZeroDivisionError: division by zero (app.py:1)"),
        (APP, ("--resources", "app:nothing"), 2, "'nothing'"),
        (APP, ("--database", "sqlite:////proc/none/runs.db"), 7, "code: "),
        ("import os\nos._exit(9)\n", (), 9, ""),
    ],
)
def test_error_of_all_of_them_is_told_once_and_ends_the_command(
    shop: Shop, app: str, args: tuple[str, ...], code: int, said: str
) -> None:
    shop.write(app)

    done = shop.call(
        "worker", "app.py", "--processes", "3", *args, exit_code=code
    )  # it ends by itself

    assert done.stderr.count(said) == 1 or not said
    assert "is started in" not in done.stderr
    assert "all stopped" in done.stderr.splitlines()[-1]


def test_process_that_does_not_end_is_killed(shop: Shop) -> None:
    keeper = keep(shop, "--drain-timeout", "100ms", count=1)
    (pid,) = pids_of(shop, keeper)
    os.kill(pid, signal.SIGSTOP)

    keeper.signal(signal.SIGTERM)

    assert keeper.end() == 128 + signal.SIGKILL
    assert "process 1 does not end and is killed" in keeper.stderr
    assert not is_there(pid)


def test_options_and_settings_reach_every_process(shop: Shop) -> None:
    shop.write(
        'processes = 2\nmax_activities = 7\nnamespace = "shop"\nqueues = ["a", "b"]\n'
        "health_port = 0\n",
        "other.toml",
    )
    keeper = shop.begin(
        "--config", "other.toml", "--log-format", "json", "worker", "app.py"
    )
    wait_for(lambda: keeper.stderr.count("ready: ") == 4, "that all of them work")

    lines = [json.loads(line) for line in keeper.stderr.splitlines()]
    workers = [json.loads(x) for x in shop.ask("workers", "--json").stdout.splitlines()]
    (health,) = [x["message"] for x in lines if x["message"].startswith("health:")]

    assert sorted(worker["task_queue"] for worker in workers) == ["a", "a", "b", "b"]
    assert {worker["namespace"] for worker in workers} == {"shop"}
    url = health.removeprefix("health: ")
    assert url.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - a port of ours
        assert json.load(answer)["capacity"] == 28
    keeper.signal(signal.SIGTERM)
    assert keeper.end() == 0
