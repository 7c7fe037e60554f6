"""A worker that drains leaves what it can to others at once, and takes nothing more."""

from __future__ import annotations

import json
import signal
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from tests.integration.test_cli_processes import Shop, shop, wait_for

__all__ = ["shop"]

pytestmark = pytest.mark.slow


def events_of(shop: Shop, workflow_id: str) -> list[dict[str, Any]]:
    lines = shop.ask("history", workflow_id, "--json").stdout.splitlines()
    return [json.loads(line) for line in lines]


def statuses(shop: Shop) -> list[str]:
    lines = shop.ask("workers", "--json").stdout.splitlines()
    return sorted(json.loads(line)["status"] for line in lines)


def test_run_is_taken_over_within_a_second_though_the_drain_goes_on(
    shop: Shop,
) -> None:
    first = shop.worker("app.py", "--drain-timeout", "1h")
    for name in ("tea", "milk"):
        shop.ask("start", "passing", "--input", f'["{name}"]', "--id", name)
        wait_for(partial(shop.began, name), "the activity's begin")
    shop.worker()

    first.signal(signal.SIGTERM)
    first.wait_for_log("SIGTERM: draining")
    wait_for(lambda: statuses(shop) == ["draining", "running"], "that it says so")
    shop.open_gate("tea")

    assert json.loads(shop.ask("result", "tea", "--timeout", "10s").stdout) == "teaTEA"
    assert first.process.poll() is None
    by_type = {event["type"]: event for event in reversed(events_of(shop, "tea"))}
    done, taken = (
        datetime.fromisoformat(by_type[kind]["time"])
        for kind in ("ActivityTaskCompleted", "WorkflowExecutionCompleted")
    )
    assert (taken - done).total_seconds() < 1
    shop.open_gate("milk")
    assert first.end() == 0
    assert json.loads(shop.ask("result", "milk", "--timeout", "10s").stdout) == (
        "milkMILK"
    )
    assert [len(shop.began(name)) for name in ("tea", "milk")] == [1, 1]


def test_worker_that_drains_takes_no_more_runs(shop: Shop) -> None:
    first = shop.worker("app.py", "--drain-timeout", "1h")
    shop.ask("start", "passing", "--input", '["milk"]', "--id", "milk")
    wait_for(lambda: shop.began("milk"), "the activity's begin")
    first.signal(signal.SIGTERM)
    first.wait_for_log("SIGTERM: draining")

    shop.ask("start", "passing", "--input", '["tea"]', "--id", "tea")
    shop.open_gate("tea")
    second = shop.worker()

    assert json.loads(shop.ask("result", "tea", "--timeout", "10s").stdout) == "teaTEA"
    (began,) = shop.began("tea")
    assert int(began.suffix[1:]) == second.process.pid
    assert first.process.poll() is None
