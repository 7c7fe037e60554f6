"""`durable activity`: jobs without a workflow, and those that wait."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, RetryPolicy, activity, workflow
from tests.unit.cli import orders_app as app
from tests.unit.cli.invoking import APP, error_of, invoke, lines_of

URL = "sqlite:///orders.db"
WHICH = ("--workflow-id", "w", "--activity-id", "1")


@activity(
    name="cli_activities.render",
    task_queue="gpu",
    retry=RetryPolicy(max_attempts=5, initial_interval=7),
)
async def render(n: int) -> int:
    return n * 2


@workflow(name="cli_activities.video")
async def video(n: int) -> int:
    return await render(n)


def cli(*args: str) -> Any:
    return invoke("--database", URL, "activity", *args)


def work(workflow_id: str, *definitions: Any, **options: Any) -> Any:
    """What becomes of a run once there is a worker."""

    async def go_on() -> Any:
        async with Engine(URL, definitions=definitions, **options) as engine:
            return await (await engine.get(workflow_id)).result(timeout=20)

    return asyncio.run(go_on())


@pytest.mark.parametrize("target", ["cli_charge", f"{APP}:charge"])
def test_an_activity_is_started_listed_and_done(folder: Path, target: str) -> None:
    order = json.dumps({"id": 7, "note": "n"})
    done = cli("start", target, order, "--id", "job")
    assert (done.exit_code, done.stdout) == (0, "job\n"), done.output
    again = cli("start", target, order, "--id", "job")
    assert (again.stdout, "was started before" in again.stderr) == ("job\n", True)
    (listed,) = lines_of(cli("jobs", "--json", "--status", "running"))
    assert (listed["id"], listed["activity_type"]) == ("job", "cli_charge")
    assert work("job", app.charge) == "receipt-7-n"
    table = cli("jobs", "--type", "cli_charge")
    assert table.stdout.splitlines()[1].split()[0] == "completed"
    assert "no activity was started so" in cli("jobs", "--type", "other").stderr
    result = invoke("--database", URL, "result", "job")
    assert result.stdout == '"receipt-7-n"\n'


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((f"{APP}:chrage", "{}"), "has no activity 'chrage'"),
        ((f"{APP}:charge", "5"), "does not fit its annotation"),
        (("cli_charge", "--input", '{"order": 1}'), "Give MODULE:ACTIVITY"),
        ((f"{APP}:place_order", "{}"), "has no activity 'place_order'"),
    ],
)
def test_a_start_that_cannot_be_is_refused(
    folder: Path, args: tuple[str, ...], said: str
) -> None:
    done = cli("start", "--json", *args)
    assert done.exit_code == 2
    assert said in error_of(done)["message"]


@pytest.fixture
def waiting(folder: Path) -> None:
    async def begin() -> None:
        async with Engine(URL, definitions=[video]) as engine:
            await engine.start(video(3), id="w")

    asyncio.run(begin())


def test_options_of_one_that_waits_are_changed(waiting: None) -> None:
    (listed,) = lines_of(cli("list", "--json"))
    assert (listed["task_queue"], listed["state"]) == ("gpu", "waiting")
    options = ("--queue", "default", "--attempts", "2")
    timeouts = ("--schedule-to-start-timeout", "1h", "--heartbeat-timeout", "30s")
    done = cli("update-options", *WHICH, *options, *timeouts)
    assert done.stdout == "activity 1 of workflow w is changed\n", done.output
    (shown,) = lines_of(cli("show", "--json", *WHICH))
    assert (shown["task_queue"], shown["expires_at"] is None) == ("default", False)
    done = cli("update-options", *WHICH, "--schedule-to-start-timeout", "none")
    (shown,) = lines_of(cli("show", "--json", *WHICH))
    assert shown["expires_at"] is None
    assert work("w", video, render) == 6


def test_a_change_that_cannot_be_is_refused(waiting: None) -> None:
    done = cli("update-options", "--json", *WHICH)
    assert "Nothing was given" in error_of(done)["message"]
    done = cli("update-options", "--json", *WHICH, "--start-to-close-timeout", "none")
    assert "would have neither" in error_of(done)["message"]
    done = cli("update-options", "--json", *WHICH[:3], "9", "--attempts", "2")
    assert "has no activity '9'" in error_of(done)["message"]


@pytest.mark.parametrize("command", ["pause", "unpause", "reset", "cancel"])
def test_one_that_waits_is_held_up_let_go_and_ended(
    waiting: None, command: str
) -> None:
    done = cli(command, *WHICH)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("activity 1 of workflow w is ")


def test_one_is_completed_and_failed_from_outside(waiting: None) -> None:
    assert cli("complete", *WHICH, "--result", "8").exit_code == 0
    assert work("w", video) == 8
