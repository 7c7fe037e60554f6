"""`durable queue`: what of a task queue runs at once, how fast, and whether at all."""

import time
from pathlib import Path

import pytest

from durable import SyncEngine, workflow
from tests.unit.cli.invoking import invoke, lines_of


@workflow(name="cli.waiting")
async def waiting() -> None:
    pass


@pytest.fixture(autouse=True)
def _database(folder: Path) -> None:
    with SyncEngine("sqlite:///orders.db", worker=False):
        pass


def test_limits_are_set_shown_and_taken_away() -> None:
    given = (
        "--concurrency",
        "4",
        "--worker-concurrency",
        "2",
        "--key-concurrency",
        "1",
    )
    rate = ("--rate", "100/s", "--burst", "20")
    (found,) = lines_of(invoke("queue", "set", "gpu", *given, *rate, "--json"))
    assert found == {
        "name": "gpu",
        "concurrency": 4,
        "worker_concurrency": 2,
        "key_concurrency": 1,
        "rate": {"count": 100, "per": "1s", "burst": 20},
        "paused_at": None,
        "note": None,
        "waiting": 0,
        "running": 0,
        "of_runs": False,
    }
    shown = invoke("queue", "show", "gpu").stdout.splitlines()
    assert shown[0].split() == [
        *("QUEUE", "OF", "STATE", "RUNNING", "WAITING", "AT", "ONCE", "PER"),
        *("WORKER", "PER", "KEY", "RATE", "NOTE"),
    ]
    assert shown[1].split() == [
        *("gpu", "activities", "open", "0", "0", "4", "2", "1", "100/s", "+20")
    ]
    changed = invoke("queue", "set", "gpu", "--concurrency", "none", "--rate", "none")
    assert changed.stdout.splitlines()[1].split()[5:] == ["-", "2", "1", "-"]
    assert (
        invoke("queue", "delete", "gpu").stdout == "queue gpu has no limits any more\n"
    )
    listed = invoke("queue", "list")
    assert (listed.exit_code, listed.stdout) == (0, "")
    assert "no queue has limits" in listed.stderr


def test_limits_of_runs_are_beside_those_of_activities() -> None:
    invoke("queue", "set", "gpu", "--concurrency", "4")
    (found,) = lines_of(
        invoke("queue", "set", "gpu", "--runs", "--concurrency", "2", "--json")
    )
    assert (found["name"], found["concurrency"], found["of_runs"]) == ("gpu", 2, True)
    listed = invoke("queue", "list").stdout.splitlines()[1:]
    assert [line.split()[1] for line in listed] == ["activities", "runs"]
    assert "paused" in invoke("queue", "pause", "gpu", "--runs").stdout
    assert "open" in invoke("queue", "resume", "gpu", "--runs").stdout
    assert invoke("queue", "delete", "gpu", "--runs").exit_code == 0
    assert invoke("queue", "show", "gpu", "--runs").exit_code == 3
    assert invoke("queue", "show", "gpu").exit_code == 0
    refused = invoke("queue", "set", "gpu", "--runs", "--worker-concurrency", "2")
    assert "worker_concurrency is of activities" in refused.stderr


def test_run_that_waits_for_its_turn_says_so() -> None:
    invoke("queue", "set", "default", "--runs", "--concurrency", "1")
    invoke("queue", "pause", "default", "--runs")
    with SyncEngine("sqlite:///orders.db", definitions=[waiting]) as engine:
        run = engine.start(waiting(), id="w1", priority=2, fairness_key="ann")
        deadline = time.monotonic() + 20
        while not run.describe().waits_for_turn:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    shown = invoke("show", "w1").stdout
    assert "priority 2, key ann" in shown
    assert "waits for its turn in queue default, which is paused; 1 wait" in shown
    (found,) = lines_of(invoke("show", "w1", "--json"))
    assert (found["waits_for_turn"], found["wake_at"]) == (True, None)
    assert "waiting" in invoke("list").stdout
    invoke("queue", "resume", "default", "--runs")
    assert "in queue default: 0 of 1 run, 1 wait" in invoke("show", "w1").stdout
    assert invoke("terminate", "w1").exit_code == 0
    (found,) = lines_of(invoke("queue", "list", "--json"))
    assert (found["running"], found["waiting"]) == (0, 0)


def test_start_says_whose_turn_it_is_and_is_put_off() -> None:
    given = ("--id", "d1", "--debounce", "1h", "--debounce-max", "2h")
    turn = ("--priority", "1", "--fairness-key", "ann")
    first = invoke("start", "cli.waiting", "1", *given, *turn, "--json")
    again = invoke("start", "cli.waiting", "2", *given, *turn, "--json")
    runs = [lines_of(one)[0]["run_id"] for one in (first, again)]
    assert runs[0] == runs[1]
    (found,) = lines_of(invoke("show", "d1", "--json", "--payloads"))
    assert "priority 1" in str(found["timeline"])
    assert "key ann" in str(found["timeline"])
    assert [one["values"] for one in found["timeline"]] == [{"argument 1": 2}]
    late = invoke("start", "cli.waiting", "--debounce-max", "2h")
    assert "without debounce" in late.stderr


def test_queue_is_paused_and_resumed() -> None:
    paused = invoke("queue", "pause", "gpu", "--note", "mending\x1b[31m")
    assert "paused" in paused.stdout
    assert "mending" in paused.stdout
    assert "\x1b" not in paused.stdout
    (found,) = lines_of(invoke("queue", "list", "--json"))
    assert found["paused_at"] is not None
    (found,) = lines_of(invoke("queue", "resume", "gpu", "--json"))
    assert found["paused_at"] is None
    assert "open" in invoke("queue", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("resume", "gpuu"), "Did you mean 'gpu'"),
        (("show", "gpuu"), "Nobody has configured the queue 'gpuu'"),
        (("delete", "gpuu"), "Nobody has configured the queue 'gpuu'"),
        (("set", "gpu"), "Say what is to change"),
        (("set", "gpu", "--concurrency", "0"), "pause the queue"),
        (("set", "gpu", "--concurrency", "many"), "is no number, and not 'none'"),
        (("set", "gpu", "--rate", "fast"), "which is no rate"),
        (("set", "gpu", "--rate", "5/s", "--burst", "0"), "burst of a rate"),
        (("set", "gpu", "--burst", "5"), "--burst is of a rate"),
        (("set", "", "--concurrency", "5"), "the queue's name is empty"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], says: str) -> None:
    invoke("queue", "set", "gpu", "--note", "n")
    refused = invoke("queue", *arguments)
    is_unknown = says.startswith(("Did", "Nobody"))
    assert refused.exit_code == (3 if is_unknown else 2)
    assert says in " ".join(refused.stderr.split())
    (found,) = lines_of(invoke("queue", "list", "--json"))
    assert (found["name"], found["rate"], found["concurrency"]) == ("gpu", None, None)
