"""`durable check`: what is told of runs that new code cannot go on with."""

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.unit.cli.invoking import APP, error_of, invoke, lines_of

pytestmark = pytest.mark.slow  # each begins a process

SLEEPING = """
from dataclasses import dataclass
from durable import activity, sleep, workflow

@dataclass
class Order:
    id: int
    note: str = ""

@activity(name="cli_charge")
async def charge(order: Order) -> str: ...

@workflow(name="cli_sleeping")
async def sleeping(order: Order) -> None:
    await charge(order)
    {}
"""


def new_code(folder: Path, line: str) -> str:
    path = folder / "candidate.py"
    path.write_text(SLEEPING.format(line))
    return str(path)


def check(*args: str) -> tuple[str, ...]:
    return ("check", *args, "--workflow", "cli_sleeping", "--processes", "1")


def more_runs(folder: Path, count: int) -> None:
    """Copy the sleeping run."""
    with closing(sqlite3.connect(folder / "orders.db")) as database:
        (run_id,) = database.execute(
            "SELECT run_id FROM durable_runs WHERE workflow_id = 'sleeping'"
        ).fetchone()
        for table in ("durable_runs", "durable_history"):
            names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            for number in range(count):
                mine = {"run_id", "request_id", "open_key", "workflow_id"}
                values = ", ".join(
                    f"{name} || '-{number}'" if name in mine else name for name in names
                )
                database.execute(
                    f"INSERT INTO {table} ({', '.join(names)})"  # noqa: S608 - names of columns
                    f" SELECT {values} FROM {table} WHERE run_id = ?",
                    (run_id,),
                )
        database.commit()


def test_code_that_fits_lets_all_runs_go_on(folder: Path) -> None:
    done = invoke(*check(APP))

    assert (done.exit_code, done.stdout) == (0, "")
    assert "All go on with this code: 1 run, 4 events." in done.stderr
    (told,) = lines_of(invoke(*check(APP, "--json")))
    assert told == {"histories": 1, "events": 4, "broken": 0, "causes": []}


def test_runs_that_break_alike_are_one_cause_with_both_lines(folder: Path) -> None:
    more_runs(folder, 4)
    done = invoke(*check(new_code(folder, "await charge(order)")))

    assert done.exit_code == 8
    heading, recorded, now, code, *_ = done.stdout.splitlines()
    assert re.match(r"1\. cli_sleeping: 5 runs \(.* and 2 more\)$", heading)
    assert recorded.endswith("orders_app.py:31")
    assert now.endswith("candidate.py:16")
    assert code.strip() == "await charge(order)"
    assert 'if patched("cli_sleeping-cli_charge"):' in done.stdout
    assert "await sleep(86400)  # as at" in done.stdout
    assert "5 of 5 runs, 20 events cannot go on" in done.stderr


def test_sample_takes_some_runs_of_each_shape(folder: Path) -> None:
    more_runs(folder, 4)
    (told,) = lines_of(invoke(*check(APP, "--json", "--sample", "2")))

    assert told["histories"] == 2
    everything = invoke("check", APP, "--json", "--all", "--sample", "1")
    assert json.loads(everything.stdout)["histories"] == 4


def test_workflow_that_no_module_defines_breaks_the_gate(folder: Path) -> None:
    path = folder / "other.py"
    path.write_text(
        "from durable import workflow\n@workflow\nasync def other() -> None: ...\n"
    )
    done = invoke(*check(str(path)))

    assert done.exit_code == 8
    assert "no module that was given goes on with this workflow" in done.stdout
    assert invoke(*check(str(path), "--skip-unknown")).exit_code == 0


def test_junit_has_a_case_for_each_run(folder: Path) -> None:
    more_runs(folder, 1)
    args = check(new_code(folder, "await charge(order)"), "--junit", "junit.xml")
    assert invoke(*args).exit_code == 8

    written = folder / "junit.xml"
    suite = ElementTree.fromstring(written.read_text())  # noqa: S314 - our own
    written.unlink()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "2")
    names = sorted(str(case.get("name")).split()[0] for case in suite)
    assert names == ["sleeping", "sleeping"]
    (failure,) = suite[0]
    assert "candidate.py:16" in str(failure.text)


def test_code_that_never_ends_is_interrupted_and_named(folder: Path) -> None:
    path = new_code(folder, "while True: pass")
    done = invoke(*check(path, "--json", "--seconds", "0.2"))

    assert done.exit_code == 8
    (cause,) = json.loads(done.stdout)["causes"]
    assert cause["first"]["message"].startswith("The workflow's code held its process")
    assert cause["first"]["code_at"].endswith("candidate.py:16")


def test_check_of_no_run_does_not_say_that_all_is_well(folder: Path) -> None:
    done = invoke("check", new_code(folder, "await charge(order)"), "--workflow", "no")

    assert done.exit_code == 0
    assert "There was nothing to try" in done.stderr


def test_threads_that_the_code_has_begun_do_not_keep_the_check_from_its_end(
    folder: Path,
) -> None:
    path = Path(new_code(folder, "await charge(order)"))
    thread = (
        "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
    )
    path.write_text(thread + path.read_text())

    assert invoke(*check(str(path))).exit_code == 8


def test_code_that_ends_its_process_is_a_typed_error(folder: Path) -> None:
    path = new_code(folder, "__import__('os')._exit(3)")
    done = invoke(*check(path, "--json"))

    assert done.exit_code == 1
    assert error_of(done)["code"] == "child_died"


@pytest.mark.parametrize(
    ("text", "exit_code", "words"),
    [
        ("1 / 0", 1, "cannot be imported: ZeroDivisionError"),
        ("", 2, "there is no workflow and no activity in there"),
    ],
)
def test_module_that_cannot_be_loaded_is_refused_in_words(
    text: str, exit_code: int, words: str, folder: Path
) -> None:
    path = folder / "broken.py"
    path.write_text(text)
    done = invoke(*check(str(path), "--json"))

    assert done.exit_code == exit_code
    assert words in error_of(done)["message"]


def test_exported_histories_are_checked_without_a_database(folder: Path) -> None:
    exported = folder / "history.json"
    exported.write_text(invoke("history", "sleeping", "--json", "--payloads").stdout)
    (folder / "orders.db").unlink()

    assert invoke("check", APP, "--file", str(exported)).exit_code == 0
    path = new_code(folder, "await charge(order)")
    assert invoke("check", path, "--file", str(exported)).exit_code == 8


def test_candidate_is_not_loaded_into_this_process(folder: Path) -> None:
    path = new_code(folder, "await charge(order)")
    assert invoke(*check(path)).exit_code == 8

    assert invoke("replay", APP, "--id", "sleeping").exit_code == 0
