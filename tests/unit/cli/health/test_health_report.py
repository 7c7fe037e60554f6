"""What is told of workers: when they are live and ready, as JSON and as numbers."""

import json
import re
from typing import Any

import msgspec
import pytest

from durable.cli.health.report import (
    Health,
    ProcessHealth,
    Status,
    as_json,
    as_metrics,
    sum_up,
)
from durable.worker.health import WorkerHealth

WELL = WorkerHealth(
    worker_id="w1",
    task_queue="default",
    status="running",
    live_runs=3,
    running_activities=2,
    capacity=10,
    lease_seconds_left=7.5,
    is_database_reachable=True,
)


def make(status: Status, **changes: Any) -> ProcessHealth:
    worker = msgspec.structs.replace(WELL, **changes)
    return ProcessHealth(pid=1, status=status, workers=[worker])


@pytest.mark.parametrize(
    ("changes", "is_ready"),
    [
        ({}, True),
        ({"status": "draining"}, False),
        ({"lease_seconds_left": 0}, False),
        ({"is_database_reachable": False}, False),
    ],
)
def test_worker_is_ready_if_it_takes_work(
    changes: dict[str, Any], is_ready: bool
) -> None:
    assert msgspec.structs.replace(WELL, **changes).is_ready is is_ready


@pytest.mark.parametrize(
    ("process", "is_live"),
    [
        (make("ready"), True),
        (make("starting"), True),
        (make("draining", lease_seconds_left=0), True),
        (make("restarting"), True),
        (make("unavailable", is_database_reachable=False), True),
        (make("unavailable", lease_seconds_left=0), False),
        (ProcessHealth(status="silent"), False),
    ],
)
def test_process_is_live_unless_only_a_new_one_helps(
    process: ProcessHealth, is_live: bool
) -> None:
    assert process.is_live is is_live
    together = sum_up([make("ready"), process], is_draining=False)
    assert together.is_live is is_live


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        (["ready"], "ready"),
        (["draining"], "draining"),
        (["ready", "ready"], "ready"),
        (["ready", "starting"], "starting"),
        (["starting", "starting"], "starting"),
        (["ready", "restarting"], "unavailable"),
        (["ready", "silent"], "unavailable"),
        (["ready", "draining"], "unavailable"),
        (["silent", "silent"], "silent"),
    ],
)
def test_all_together_are_ready_if_each_is(
    statuses: list[Status], status: Status
) -> None:
    processes = [make(each) for each in statuses]

    assert sum_up(processes, is_draining=False).status == status
    assert sum_up(processes, is_draining=True).status == "draining"
    assert sum_up(processes, is_draining=False).is_ready is (status == "ready")


def two() -> Health:
    odd = make("draining", worker_id="w2", task_queue='a"b\\c', lease_seconds_left=0.25)
    odd = msgspec.structs.replace(odd, number=2, restarts=4)
    return sum_up([make("ready"), odd], is_draining=False)


def test_json_tells_sums_and_details() -> None:
    told = json.loads(as_json(two()))

    assert told["status"] == "unavailable"
    assert (told["is_live"], told["is_ready"]) == (True, False)
    assert told["worker_ids"] == ["w1", "w2"]
    assert told["task_queues"] == ['a"b\\c', "default"]
    assert (told["live_runs"], told["running_activities"], told["capacity"]) == (
        *(6, 4, 20),
    )
    assert told["lease_seconds_left"] == 0.25
    assert [process["restarts"] for process in told["processes"]] == [0, 4]
    assert told["processes"][0]["workers"] == [msgspec.to_builtins(WELL)]


SAMPLE = re.compile(r'[a-z_]+(\{([a-z_]+="([^"\\\n]|\\["\\n])*",?)+\})? -?[0-9.e+-]+')


def test_metrics_are_of_the_text_format() -> None:
    text = as_metrics(two())

    assert text.endswith("\n")
    described: set[str] = set()
    for line in text.splitlines():
        if line.startswith("# "):
            described.add(line.split()[2])
        else:
            assert SAMPLE.fullmatch(line), line
            assert re.split(r"[{ ]", line)[0] in described
    assert 'durable_worker_live_runs{process="1",task_queue="default"} 3\n' in text
    assert r'lease_seconds_left{process="2",task_queue="a\"b\\c"} 0.25' in text
    assert 'durable_process_restarts_total{process="2"} 4\n' in text
    assert "durable_live 1\n" in text
    assert "durable_ready 0\n" in text
    assert len(set(text.splitlines())) == len(text.splitlines())
