"""`durable reset`, `retry`, `fork`, `diff`, `pause` and `resume`."""

import json
from pathlib import Path

import pytest

from tests.unit.cli.invoking import invoke


def test_dry_run_says_what_would_be_done_and_does_nothing(folder: Path) -> None:
    before = invoke("list", "--json").stdout

    done = invoke("reset", "done", "--to", "first_task", "--dry-run")

    assert done.exit_code == 0
    assert done.stdout.startswith("would keep: 0 events of run ")
    assert "would undo: cli_charge" in done.stdout
    assert done.stdout.endswith("nothing was done\n")
    plan = json.loads(invoke("retry", "failed", "--dry-run", "--json").stdout)
    assert (plan["done"], plan["workflow_id"]) == ("nothing", "failed")
    assert invoke("fork", "done", "--dry-run").exit_code == 0
    assert "would be paused" in invoke("pause", "sleeping", "--dry-run").stdout
    assert invoke("list", "--json").stdout == before


def test_reset_retry_and_fork_make_new_runs(folder: Path) -> None:
    reset = json.loads(
        invoke("reset", "done", "--before", "cli_charge", "--json").stdout
    )
    retried = invoke("retry", "failed", "--reason", "mended")
    forked = json.loads(invoke("fork", "done", "--id", "copy", "--json").stdout)

    assert reset["done"] == "reset"
    assert reset["new_run_id"] != reset["run_id"]
    assert retried.stdout.startswith("failed (run ")
    assert " goes on as failed (run " in retried.stdout
    assert forked["new_workflow_id"] == "copy"
    shown = [json.loads(line) for line in invoke("list", "--json").stdout.splitlines()]
    named = [(run["workflow_id"], run["status"]) for run in shown]
    for workflow_id in ("done", "failed", "copy"):
        assert (workflow_id, "running") in named
    assert "reset from run" in invoke("show", "failed").stdout
    assert "mended" in invoke("show", "failed").stdout


def test_same_request_id_is_the_same_run(folder: Path) -> None:
    args = ("reset", "done", "--to", "2", "--request-id", "q", "--json")
    first, again = (json.loads(invoke(*args).stdout) for _ in range(2))

    assert first["new_run_id"] == again["new_run_id"]


@pytest.mark.parametrize(
    ("args", "exit_code", "says"),
    [
        (("reset", "done", "--to", "99"), 2, "There is no event 99"),
        (("reset", "done", "--to", "middle"), 2, "to is 'middle'"),
        (("reset", "done", "--before", "chrge"), 2, "did you mean 'cli_charge'"),
        (("reset", "done", "--to", "1", "--before", "charge"), 2, "either --to or"),
        (("reset", "nobody"), 3, "There is no run"),
        (("retry", "done"), 2, "has completed"),
        (("retry", "sleeping"), 2, "is open"),
        (("fork", "done", "--id", "sleeping"), 4, "has been running since"),
        (("fork", "done", "--version", "two"), 2, "version"),
        (("pause", "done"), 4, "takes no more requests"),
        (("diff", "done", "nobody"), 3, "There is no run"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    folder: Path, args: tuple[str, ...], exit_code: int, says: str
) -> None:
    done = invoke(*args)

    assert done.exit_code == exit_code
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_diff_says_where_two_runs_part(folder: Path) -> None:
    alike = invoke("diff", "done", "done")
    apart = invoke("diff", "done", "sleeping")
    data = json.loads(invoke("diff", "done", "sleeping", "--json").stdout)

    assert "the runs did the same" in alike.stdout
    assert "alike: 0 calls\nthen they differ in the call\n" in apart.stdout
    assert data["alike"] == 0
    assert data["difference"]["left"]["name"] == "cli_place_order"
    assert "bytes" in data["difference"]["left"]["input"][0]
    shown = invoke("diff", "done", "sleeping", "--payloads").stdout
    assert '"id":42' in shown


def test_pause_and_resume_are_requests_to_a_worker(folder: Path) -> None:
    paused = invoke("pause", "sleeping", "--note", "wait")
    resumed = json.loads(invoke("resume", "sleeping", "--json").stdout)

    assert paused.stdout.endswith(" is to be paused\n")
    assert resumed["done"] == "resumed"
