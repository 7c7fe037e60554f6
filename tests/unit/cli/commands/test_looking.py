"""`list`, `show`, `history`, `doctor` and `db`."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from durable.store.connect import connect
from durable.store.sql.schema import HEAD
from durable.testing.contract.rows import make_start
from tests.unit.cli import orders_app as app
from tests.unit.cli.invoking import APP, invoke, lines_of

# --- looking --------------------------------------------------------------------------


RUN_KEYS = {
    "namespace",
    "workflow_id",
    "run_id",
    "workflow_type",
    "task_queue",
    "status",
    "started_at",
    "closed_at",
    "wake_at",
    "owner",
    "version",
    "stuck",
    "paused",
    "waits_for_turn",
    "first_run_id",
    "continued_from_run_id",
    "parent_workflow_id",
    "parent_run_id",
    "attributes",
    "memo",
}


def test_list_as_json_is_one_run_a_line_newest_first(folder: Path) -> None:
    runs = lines_of(invoke("list", "--json"))

    assert [run["workflow_id"] for run in runs] == [
        "sleeping",
        "stuck",
        "failed",
        "done",
    ]
    assert all(set(run) == {*RUN_KEYS, "cursor"} for run in runs)
    assert runs[0]["started_at"].endswith("Z")
    assert runs[0]["closed_at"] is None
    assert runs[1]["stuck"]["type"] == "IndexError"
    assert (runs[3]["status"], runs[3]["version"]) == ("completed", "2.0.0")


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["--status", "failed"], ["failed"]),
        (["--status", "running"], ["sleeping", "stuck"]),
        (["--type", "cli_place_order"], ["done"]),
        (["--id", "stuck"], ["stuck"]),
        (["--stuck"], ["stuck"]),
        (["--not-stuck"], ["sleeping", "failed", "done"]),
        (["--limit", "2"], ["sleeping", "stuck"]),
        (["--before", "2020-01-01"], []),
        (["--before", "2999-01-01T00:00:00Z", "--limit", "1"], ["sleeping"]),
        (["--namespace", "other"], []),
    ],
    ids=str,
)
def test_list_can_be_narrowed(args: list[str], found: list[str], folder: Path) -> None:
    runs = lines_of(invoke("list", "--json", *args))

    assert [run["workflow_id"] for run in runs] == found


async def _start_at_one_instant(count: int) -> None:
    store = connect("sqlite:///orders.db", migrate=False)
    await store.open()
    at = store.now() + 60_000_000
    for number in range(count):
        run_id = f"same-{number}"
        await store.perform(make_start(run_id, started_at=at))
    await store.close()


@pytest.mark.parametrize("limit", ["1", "2", "3"])
def test_list_goes_on_after_a_cursor_and_skips_nothing(
    folder: Path, limit: str
) -> None:
    asyncio.run(_start_at_one_instant(5))
    whole = [run["run_id"] for run in lines_of(invoke("list", "--json"))]

    listed: list[str] = []
    after: tuple[str, ...] = ()
    while page := lines_of(invoke("list", "--json", "--limit", limit, *after)):
        listed += [run["run_id"] for run in page]
        after = ("--after", page[-1]["cursor"])
    assert listed == whole

    shown = invoke("list", "--limit", limit)
    (cursor,) = re.findall("there are more: add --after (.*)", shown.stderr)
    following = invoke("list", "--json", "--after", cursor)
    assert [r["run_id"] for r in lines_of(following)] == whole[int(limit) :]
    assert "more" not in invoke("list", "--limit", str(len(whole))).stderr


@pytest.mark.parametrize("chosen", [None, "shop", "default"])
def test_doctor_looks_at_all_namespaces_unless_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DURABLE_NAMESPACE", raising=False)

    async def fill() -> None:
        store = connect("sqlite:///shops.db")
        await store.open()
        for namespace in ("default", "shop"):  # with rows that say nothing
            run_id = f"odd-{namespace}"
            start = make_start(
                run_id, namespace=namespace, workflow_id="odd", workflow_type="other"
            )
            await store.perform(start)
        await store.close()

    asyncio.run(fill())
    command = ["--database", "shops.db", "doctor", "--json"]

    done = invoke(*command, *(("--namespace", chosen) if chosen else ()))

    assert done.exit_code == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    odd = {f["namespace"] for f in found if f["workflow_id"] == "odd"}
    assert odd == ({chosen} if chosen else {"default", "shop"})
    if chosen is None:
        text = invoke(*command[:-1]).stdout
        assert "odd (run odd-shop in namespace 'shop'): " in text
        assert "odd (run odd-default): " in text


def test_list_refuses_what_is_no_cursor(folder: Path) -> None:
    refused = invoke("list", "--after", "yesterday")

    assert refused.exit_code == 2
    assert "--after is 'yesterday'" in refused.stderr


def test_list_as_text_is_a_table(folder: Path) -> None:
    done = invoke("list")

    heading, *rows = done.stdout.splitlines()
    assert heading.split()[:3] == ["STATUS", "WORKFLOW", "ID"]
    assert [row.split()[0] for row in rows] == [
        "running",
        "stuck",
        "failed",
        "completed",
    ]
    assert "\x1b" not in done.stdout


def test_show_tells_what_is_pending(folder: Path) -> None:
    done = invoke("show", "sleeping")

    assert done.exit_code == 0
    assert done.stdout.startswith("sleeping  cli_sleeping  running for ")
    assert "cli_charge completed" in done.stdout
    assert "  timer 1  due in " in done.stdout.split("pending now")[1]


def test_show_tells_why_a_run_is_stuck(folder: Path) -> None:
    done = invoke("show", "stuck")

    assert "stuck: parked until its code is mended" in done.stdout
    assert "  IndexError: list index out of range" in done.stdout
    assert "orders_app.py" in done.stdout.split("IndexError")[1]


def test_show_escapes_what_a_failure_says(folder: Path) -> None:
    done = invoke("show", "failed")

    assert r"failed: RuntimeError: declined\x1b[31m" in done.stdout
    assert "\x1b" not in done.stdout


def test_show_as_json_is_one_object(folder: Path) -> None:
    (run,) = lines_of(invoke("show", "sleeping", "--json"))

    assert set(run) == RUN_KEYS | {
        "event_count",
        "task_count",
        "checkpoint_event_id",
        "continued_as_run_id",
        "state",
        "signals",
        "dead_letters",
        "pending",
        "waiting_messages",
        "attempts",
        "timeline",
    }
    (timer,) = run["pending"]["timers"]
    assert timer["summary"] == "until tomorrow"
    assert timer["due_at"] == run["wake_at"]
    assert [moment["event_id"] for moment in run["timeline"]] == [1, 2, 3, 4]


def test_show_of_one_of_several_runs_goes_by_the_run_id(folder: Path) -> None:
    (run,) = lines_of(invoke("list", "--json", "--id", "done"))

    assert invoke("show", "done", "--run-id", run["run_id"]).exit_code == 0
    assert invoke("show", "done", "--run-id", "another").exit_code == 3


def test_show_of_the_last_lines(folder: Path) -> None:
    done = invoke("show", "done", "--last", "1")

    assert "(3 lines above)" in done.stdout
    assert len(lines_of(invoke("show", "done", "--json", "--last", "1"))) == 1


VALUES = [
    ("show", "done"),
    ("show", "done", "--json"),
    ("history", "done"),
    ("history", "done", "--json"),
]


@pytest.mark.parametrize("args", VALUES, ids=" ".join)
def test_recorded_values_are_shown_on_request_only(
    args: tuple[str, ...], folder: Path
) -> None:
    hidden, shown = invoke(*args), invoke(*args, "--payloads")

    assert hidden.exit_code == shown.exit_code == 0
    assert app.SECRET not in hidden.output
    assert app.SECRET in shown.output


@pytest.mark.slow
def test_secret_in_arguments_is_in_no_other_output(folder: Path) -> None:
    for args in (
        ("list",),
        ("list", "--json"),
        ("show", "stuck"),
        ("show", "sleeping", "--json"),
        ("doctor",),
        ("replay", APP, "--all"),
        ("cancel", "sleeping"),
    ):
        assert app.SECRET not in invoke(*args).output


def test_history_as_json_is_one_event_a_line(folder: Path) -> None:
    events = lines_of(invoke("history", "done", "--json"))

    assert [event["event_id"] for event in events] == [1, 2, 3, 4]
    assert all(
        set(event) == {"event_id", "task_number", "type", "time", "flags", "data"}
        for event in events
    )
    assert events[1]["data"]["input"] == [
        {"hidden": True, "encoding": "json/plain", "size": 32}
    ]
    assert events[1]["data"]["activity_type"] == "cli_charge"


def test_history_as_text_is_one_event_a_line(folder: Path) -> None:
    done = invoke("history", "failed")

    assert len(done.stdout.splitlines()) == 4
    assert "\x1b" not in done.stdout


# --- doctor and db --------------------------------------------------------------------


@pytest.mark.slow
def test_doctor_prints_findings_and_ends_with_1(folder: Path) -> None:
    text, data = invoke("doctor"), invoke("doctor", "--json")

    assert text.exit_code == data.exit_code == 1
    assert text.stdout.startswith("stuck           stuck (run ")
    (found,) = [json.loads(line) for line in data.stdout.splitlines()]
    assert found["workflow_id"] == "stuck"
    assert set(found) == {
        "check",
        "is_notice",
        "namespace",
        "workflow_id",
        "run_id",
        "message",
    }


def test_doctor_of_a_healthy_database_ends_with_0(folder: Path) -> None:
    invoke("terminate", "stuck")

    text, data = invoke("doctor"), invoke("doctor", "--json")

    assert (text.exit_code, text.stdout) == (0, "")
    assert "nothing is wrong" in text.stderr
    assert lines_of(data) == []


def test_db_says_its_revision_and_makes_the_tables(folder: Path) -> None:
    assert lines_of(invoke("db", "current", "--json"))[0]["is_current"] is True

    new = ("--database", "sqlite:///new.db")
    assert invoke("db", "upgrade", *new).stdout == f"{HEAD}  sqlite:///new.db\n"
    assert invoke("db", "upgrade", *new).exit_code == 0
    assert invoke("list", *new).exit_code == 0


def test_file_that_is_no_database_is_named_as_such(folder: Path) -> None:
    Path("text.db").write_text("no database at all, but long enough to look at")

    for args in (("list",), ("db", "current")):
        done = invoke(*args, "--database", "sqlite:///text.db")
        assert done.exit_code == 7
        assert "code: not_a_database" in done.stderr


# --- what was meant -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (("list", "--status", "stcuk"), "did you mean 'stuck'?"),
        (("start", "x", "--on-conflict", "fial"), "did you mean 'fail'?"),
        (("run", f"{APP}:x", "--id-reuse", "newrun"), "did you mean 'new_run'?"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_word_that_is_none_names_the_one_that_is_like_it(
    args: tuple[str, ...], meant: str, folder: Path
) -> None:
    done = invoke(*args)

    assert done.exit_code == 2
    assert meant in done.stderr


def test_list_that_finds_nothing_names_what_is_there_and_like_it(folder: Path) -> None:
    for option, given, meant in (
        ("--type", "cli_place_orders", "cli_place_order"),
        ("--id", "sleepin", "sleeping"),
    ):
        done = invoke("list", option, given)

        assert (done.exit_code, len(done.stdout.splitlines())) == (0, 1)
        assert f"nothing is called {given!r}; did you mean {meant!r}?" in done.stderr
    assert invoke("list", "--status", "cancelled").stderr == ""
    assert invoke("list", "--id", "sleepin", "--json").output == ""
