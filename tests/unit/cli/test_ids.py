"""The same command again, names that were meant, ids on a line, paths as databases."""

import io
import json
from pathlib import Path

import pytest

from durable import options
from durable.cli.commands.finding import list_runs as listing
from durable.store.records import RunRecord, RunStatus
from tests.unit.cli import orders_app as app
from tests.unit.cli.invoking import APP, invoke, lines_of

ORDER = f'{{"id": 42, "note": "{app.SECRET}"}}'
RUN = ("run", f"{APP}:place_order", ORDER, "--id", "done")


# --- an id is an idempotency key ------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "start"])
def test_the_same_command_again_is_the_same_run(command: str, folder: Path) -> None:
    again = invoke(command, *RUN[1:])

    assert again.exit_code == 0
    assert "was started before" in again.stderr
    if command == "run":
        assert lines_of(again) == [
            {"receipt": f"receipt-42-{app.SECRET}", "gift": "False"}
        ]
    assert len(lines_of(invoke("list", "--id", "done", "--json"))) == 1


def test_other_arguments_are_refused_in_words_that_can_be_typed(folder: Path) -> None:
    other = ("run", f"{APP}:place_order", '{"id": 43}', "--id", "done")
    text, data = invoke(*other), invoke(*other, "--json")
    hint = json.loads(data.stderr.splitlines()[-1])["error"]["hint"]

    assert text.exit_code == 4
    assert "argument 1 ('order') differs" in text.stderr
    assert app.SECRET not in text.stderr
    for word in ("--on-conflict use_existing", "--id-reuse new_run"):
        assert word in text.stderr
        assert word in hint
    assert 'id_reuse="' not in text.stderr


def test_a_failed_run_says_how_to_run_again_and_what_tells_more(folder: Path) -> None:
    again = invoke("run", f"{APP}:failing", "--id", "failed")

    assert again.exit_code == 5
    assert "--id-reuse after_failure" in again.stderr
    assert "'durable show failed'" in again.stderr
    anew = ("run", f"{APP}:failing", "--id", "failed", "--id-reuse", "after_failure")
    assert invoke(*anew).exit_code == 5
    assert len(lines_of(invoke("list", "--id", "failed", "--json"))) == 2


@pytest.mark.parametrize("word", ["new_run", "allow_duplicate"])
def test_a_new_run_is_to_be_had_by_asking(word: str, folder: Path) -> None:
    lines_of(invoke(*RUN, "--id-reuse", word))

    assert len(lines_of(invoke("list", "--id", "done", "--json"))) == 2


def test_every_policy_is_a_word_of_the_command_line() -> None:
    text = " ".join(invoke("run", "--help").stdout.split())

    for policy in options.IdConflictPolicy:
        assert policy.value in text
    for reuse in options.IdReusePolicy:
        assert reuse.word in text


# --- nothing is started by a wrong line -----------------------------------------------


@pytest.mark.parametrize(
    "option", [("--timeout", "abc"), ("--run-timeout", "-1s"), ("--timeout", "5 m o")]
)
def test_a_wrong_duration_starts_nothing(option: tuple[str, str], folder: Path) -> None:
    before = len(lines_of(invoke("list", "--json")))

    done = invoke("run", f"{APP}:forever", "--id", "w", *option)

    assert done.exit_code == 2
    assert option[0] in done.stderr
    assert option[1] in done.stderr
    assert len(lines_of(invoke("list", "--json"))) == before


@pytest.mark.parametrize("command", ["run", "result"])
@pytest.mark.parametrize("name", ["failed", "stuck"])
def test_a_run_without_a_result_points_to_what_tells_more(
    command: str, name: str, folder: Path
) -> None:
    if command == "result":
        done = invoke("result", name)
    elif name == "failed":
        done = invoke("run", f"{APP}:failing")
    else:
        done = invoke("run", f"{APP}:buggy", ORDER, "--id", "stuck")

    assert done.exit_code in (1, 5)
    assert "durable show " in done.stderr


# --- what was meant -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (("shwo", "done"), "'show'"),
        (("show", "slepping"), "'sleeping'"),
        (("result", "Done"), "'done'"),
        (("run", f"{APP}:place_oder"), "'place_order'"),
        (("run", f"{APP}:forever", "--timout", "1s"), "--timeout"),
        (("list", "--statu", "running"), "--status"),
    ],
    ids=str,
)
def test_a_name_that_nothing_has_brings_the_one_that_was_meant(
    args: tuple[str, ...], meant: str, folder: Path
) -> None:
    done = invoke(*args)

    assert done.exit_code in (2, 3)
    assert "did you mean" in done.stderr.lower()
    assert meant in done.stderr


def test_a_name_like_no_other_brings_none(folder: Path) -> None:
    assert "did you mean" not in invoke("show", "xyzzy").stderr.lower()


# --- lists ----------------------------------------------------------------------------


def test_stuck_is_asked_for_as_a_status(folder: Path) -> None:
    (run,) = lines_of(invoke("list", "--status", "stuck", "--json"))

    assert run["workflow_id"] == "stuck"


def test_a_list_fits_80_columns_with_whole_ids(folder: Path) -> None:
    long = "order-0123456789-0123456789-01234567"
    invoke("start", "cli_sleeping", "--id", long)
    invoke("start", "cli_sleeping")

    narrow = ("--type", "cli_sleeping")
    lines = invoke("list", *narrow).stdout.splitlines()

    ids = [run["workflow_id"] for run in lines_of(invoke("list", *narrow, "--json"))]
    assert len(ids) == 3
    assert max(map(len, lines)) <= 80
    for workflow_id, line in zip(ids, lines[1:], strict=True):
        assert workflow_id in line.split()


def test_the_runs_of_one_id_are_told_apart_by_whole_run_ids(folder: Path) -> None:
    invoke("start", "cli_failing", "--id", "failed", "--id-reuse", "new_run")

    lines = invoke("list", "--id", "failed").stdout.splitlines()

    runs = lines_of(invoke("list", "--id", "failed", "--json"))
    assert len(runs) == 2
    assert [line.split()[1] for line in lines[1:]] == [run["run_id"] for run in runs]
    assert max(map(len, lines)) <= 80


def test_name_that_is_nearly_one_of_others_is_told_of_at_once(folder: Path) -> None:
    misspelt = invoke("start", "cli_slepping", "--id", "a")
    again = invoke("start", "cli_slepping", "--id", "b")
    right = invoke("start", "cli_sleeping")
    strange = invoke("start", "nothing_of_the_kind")

    assert (misspelt.exit_code, misspelt.stdout) == (0, "a\n")
    assert "runs of 'cli_sleeping'" in misspelt.stderr
    assert [r.stderr for r in (again, right, strange)] == [""] * 3


def test_on_a_terminal_a_long_name_is_cut_and_no_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a_workflow_of_a_very_long_name_that_fits_nowhere"
    invoke("start", name, "--id", "order-0123456789-0123456789-01234567")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    records = [make_record(name)]
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    listing._write_table(records, by_run_id=False)

    heading, line = terminal.getvalue().splitlines()
    assert len(heading) <= len(line) == 80
    assert line.split()[1] == records[0].workflow_id
    assert line.endswith("…")


def make_record(workflow_type: str) -> RunRecord:
    return RunRecord(
        namespace="default",
        workflow_id="order-0123456789-0123456789-01234567",
        run_id="r",
        workflow_type=workflow_type,
        task_queue="default",
        status=RunStatus.RUNNING,
        started_at=1_764_337_140_000_000,
        first_run_id="r",
        request_id="q",
    )


# --- databases ------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["orders.db", "./orders.db", "sqlite:///orders.db"])
def test_a_database_is_a_path_or_a_url(given: str, folder: Path) -> None:
    before = lines_of(invoke("--database", given, "list", "--json"))
    after = lines_of(invoke("list", "--json", "--database", given))

    assert len(before) == len(after) == 4
    absolute = str(folder / "orders.db")
    assert lines_of(invoke("list", "--json", "--database", absolute)) == before
