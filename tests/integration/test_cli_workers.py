"""`durable workers`: who is there, since when, and with what."""

from __future__ import annotations

import json
import signal
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_cli_processes import Shop, shop, wait_for
from tests.servers import free_port

__all__ = ["shop"]

pytestmark = pytest.mark.slow


def listed(shop: Shop, *args: str) -> list[dict[str, Any]]:
    lines = shop.ask("workers", "--json", *args).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_workers_are_listed_with_what_they_have(shop: Shop) -> None:
    first = shop.worker("app.py", "--drain-timeout", "1h")
    for number in range(2):
        shop.ask("start", "passing", "--input", '["tea"]', "--id", f"order-{number}")
    wait_for(lambda: shop.began("tea"), "the activities' begin")
    wait_for(lambda: listed(shop)[0]["live_runs"] == 2, "that both runs are its own")
    second = shop.worker("app.py", "--activity-queue", "gpu=4")

    rows = {row["pid"]: row for row in listed(shop)}
    busy, idle = rows[first.process.pid], rows[second.process.pid]
    assert len(rows) == 2
    assert busy["worker_id"] in first.stderr
    assert (busy["live_runs"], idle["live_runs"]) == (2, 0)
    assert {row["status"] for row in rows.values()} == {"running"}
    assert idle["activity_queues"] == {"default": 1000, "gpu": 4}
    assert idle["workflows"] == ["passing", "quick"]
    assert idle["activities"] == ["gated", "plain"]
    assert (idle["cached_runs_max"], idle["capacity"]) == (1000, 1000)
    wait_for(
        lambda: {r["running_activities"] for r in listed(shop)} == {0, 2},
        "that the busy one renews its lease, and tells what runs",
    )
    assert (busy["task_queue"], busy["namespace"]) == ("default", "default")
    assert 0 < busy["lease_seconds_left"] <= 10
    since, until = (
        datetime.fromisoformat(busy[name])
        for name in ("started_at", "lease_expires_at")
    )
    assert since < until

    first.signal(signal.SIGTERM)
    wait_for(
        lambda: (
            {r["pid"]: r["status"] for r in listed(shop)}
            == {first.process.pid: "draining", second.process.pid: "running"}
        ),
        "that the first one is told to drain",
    )
    table = shop.ask("workers").stdout.splitlines()
    assert " ".join(table[0].split()) == (
        "STATUS WORKER QUEUE ACTIVITY QUEUES KNOWS RUNS IN MEMORY ACTIVITIES LEASE"
        " SINCE (UTC) PID HOST"
    )
    (drains,) = (line for line in table if line.startswith("draining"))
    assert drains.split()[1:11] == [
        *(busy["worker_id"], "default", "default=1000"),
        *("2", "workflows,", "2", "activities", "2", "2/1000", "2/1000"),
    ]
    assert drains.split()[-2] == str(first.process.pid)
    named = shop.ask("workers", "--types").stdout.splitlines()
    assert named[2:4] == ["  workflows: passing, quick", "  activities: gated, plain"]
    shop.open_gate("tea")
    assert first.end() == 0
    assert [row["pid"] for row in listed(shop)] == [second.process.pid]


def test_lease_that_is_over_is_told(shop: Shop) -> None:
    worker = shop.worker()
    worker.signal(signal.SIGKILL)
    worker.end()
    with closing(sqlite3.connect(shop.folder / "runs.db")) as connection, connection:
        connection.execute("UPDATE durable_workers SET lease_expires_at = 1")

    (row,) = listed(shop)

    assert (row["status"], row["lease_seconds_left"]) == ("lease over", 0)
    assert shop.ask("workers").stdout.splitlines()[1].startswith("lease over  ")


def test_all_namespaces_are_listed_unless_one_is_named(shop: Shop) -> None:
    shop.worker()
    shop.begin("--namespace", "shop", "worker", "app.py").wait_for_log("ready: ")

    assert sorted(row["namespace"] for row in listed(shop)) == ["default", "shop"]
    assert [r["namespace"] for r in listed(shop, "--namespace", "shop")] == ["shop"]
    assert listed(shop, "--namespace", "none") == []
    table = shop.ask("workers").stdout.splitlines()
    assert [line.split()[-1] for line in table] == [
        "NAMESPACE",
        *(row["namespace"] for row in listed(shop)),
    ]


def test_nobody_is_told_in_words_and_json_is_empty(shop: Shop) -> None:
    shop.ask("start", "quick", "--input", '["tea"]')

    nobody = shop.ask("workers")

    assert nobody.stdout == ""
    assert nobody.stderr == "no worker is there: 'durable worker MODULE' begins one\n"
    assert listed(shop) == []
    assert shop.ask("workers", "--json").stderr == ""


def test_database_that_is_absent_or_old_is_left_as_it_is(shop: Shop) -> None:
    absent = shop.ask("workers", exit_code=7)
    assert "There is no database file" in absent.stderr
    assert not (shop.folder / "runs.db").exists()

    shop.ask("start", "quick", "--input", '["tea"]')
    with closing(sqlite3.connect(shop.folder / "runs.db")) as connection, connection:
        connection.execute("UPDATE durable_schema SET version_num = '0005'")

    old = shop.ask("workers", "--json", exit_code=7)

    assert json.loads(old.stderr)["error"]["code"] == "schema_revision"
    assert "durable db upgrade" in old.stderr


def test_odd_row_is_listed_with_its_damage(shop: Shop) -> None:
    shop.worker()
    with closing(sqlite3.connect(shop.folder / "runs.db")) as connection, connection:
        connection.execute(
            "UPDATE durable_workers SET status = 'asleep', task_queue = ?,"
            " started_at = -5",
            ("\x1b[31mred",),
        )

    (row,) = listed(shop)

    assert row["damage"] is not None
    assert row["status"] == "running"
    table = shop.ask("workers").stdout
    assert "\x1b" not in table
    assert "red" in table


@pytest.mark.parametrize("processes", ["1", "2"])
def test_worker_that_waits_for_its_server_ends_when_it_is_told_to(
    tmp_path: Path, processes: str
) -> None:
    shop = Shop(tmp_path, f"postgresql://app@127.0.0.1:{free_port()}/app")
    worker = shop.begin("worker", "app.py", "--processes", processes)
    worker.wait_for_log("trying again for 60 s")

    worker.signal(signal.SIGTERM)

    assert worker.end() == 0
    assert worker.stderr.count("trying again") == 1
    assert "Traceback" not in worker.stderr
