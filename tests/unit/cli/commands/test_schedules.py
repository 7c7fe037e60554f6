"""`durable schedules`: what users type, see, and are told if it is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.invoking import invoke, lines_of

REPORTS = str(Path(__file__).parents[1] / "reports_app.py")


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DURABLE_DATABASE_URL", f"sqlite:///{tmp_path / 'r.db'}")
    return tmp_path


def create(*more: str, cron: str = "0 9 * * MON-FRI") -> tuple[str, ...]:
    target = (f"{REPORTS}:report", '"ours"', "--cron", cron)
    return ("schedules", "create", "s", *target, *more)


def test_schedule_is_created_listed_and_shown_without_a_worker(reports: Path) -> None:
    made = invoke(*create("--timezone", "Europe/Berlin", "--note", "why"))
    assert made.exit_code == 0, made.stderr
    assert made.stdout.startswith("schedule s: 0 9 * * MON-FRI, next ")
    assert (
        invoke(*create("--timezone", "Europe/Berlin", "--note", "why")).exit_code == 0
    )
    listed = invoke("schedules", "list")
    assert "cli_report" in listed.stdout
    assert "0 9 * * MON-FRI (Europe/Berlin)" in listed.stdout
    ((found,)) = lines_of(invoke("schedules", "show", "s", "--json"))
    assert (found["status"], found["note"], found["actions"]) == ("active", "why", 0)
    assert len(found["next"]) == 10
    shown = invoke("schedules", "show", "s").stdout
    assert shown.count("  next  ") == 10
    assert "note       why" in shown
    assert "durable.schedule" not in invoke("list").stdout
    assert "schedule:s" in invoke("list", "--type", "durable.schedule").stdout


@pytest.mark.parametrize(
    ("args", "exit_code", "error"),
    [
        (create(cron="0 25 * * *"), 2, "column 3: 25 is out of range"),
        (create("--timezone", "Europe/Berln"), 2, "did you mean 'Europe/Berlin'?"),
        (create("--overlap", "skipp"), 2, "did you mean 'skip'?"),
        (create("--jitter", "soon"), 2, "no duration"),
        (("schedules", "create", "s", f"{REPORTS}:report"), 2, "Say when"),
        (("schedules", "show", "nobody"), 3, "no schedule 'nobody'"),
        (("schedules", "delete", "none"), 3, "no schedule 'none'"),
        (("schedules", "list", "--after", "noone"), 3, "no schedule 'noone'"),
        (
            ("schedules", "backfill", "s", "--from", "now", "--to", "2026-01-01"),
            2,
            "'now' is no instant",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_told_with_its_exit_code(
    args: tuple[str, ...], exit_code: int, error: str, reports: Path
) -> None:
    assert invoke(*create(cron="@yearly")).exit_code == 0
    told = invoke(*args)
    assert told.exit_code == exit_code
    assert error in told.stderr
    assert "Traceback" not in told.stderr


def test_another_schedule_of_that_id_is_a_conflict(reports: Path) -> None:
    invoke(*create())
    told = invoke(*create(cron="@daily"), "--json")
    assert told.exit_code == 4
    assert (
        json.loads(told.stderr.splitlines()[-1])["error"]["code"] == "schedule_exists"
    )


@pytest.mark.slow
def test_worker_carries_out_what_commands_ask(reports: Path) -> None:
    invoke(*create())
    worker = subprocess.Popen(
        [sys.executable, "-m", "durable", "worker", REPORTS],
        stderr=subprocess.DEVNULL,
    )
    try:
        assert "is paused" in invoke("schedules", "pause", "s", "--note", "x").stdout
        triggered = invoke("schedules", "trigger", "s").stdout.strip()
        assert triggered.startswith("s-2")
        assert invoke("result", triggered).stdout.strip() == '"ours"'
        week = ("--from", "2026-11-02", "--to", "2026-11-06T23:00Z")
        told = invoke("schedules", "backfill", "s", *week, "--overlap", "buffer_all")
        assert "acts for 5 times" in told.stdout
        assert "goes on" in invoke("schedules", "unpause", "s").stdout
        assert "is deleted" in invoke("schedules", "delete", "s").stdout
        assert invoke("schedules", "show", "s").exit_code == 3
    finally:
        worker.terminate()
        worker.wait(20)
