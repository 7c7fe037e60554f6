"""What every command promises: help, exit codes, streams, JSON."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from durable import Engine
from durable.cli.main import COMMANDS, cli
from durable.errors import WorkflowFailedError, WorkflowStuckError
from tests.unit.cli import orders_app as app

APP = str(Path(app.__file__))
ENGINE = Engine  # named here, so that patching `durable` could not replace it


async def fill(url: str) -> None:
    definitions = [
        app.charge,
        app.place_order,
        app.sleeping,
        app.failing,
        app.buggy,
    ]
    order = app.Order(42, app.SECRET)
    async with ENGINE(url, definitions=definitions) as engine:
        await engine.execute(app.place_order(order), id="done")
        with pytest.raises(WorkflowFailedError):
            await engine.execute(app.failing(), id="failed")
        with pytest.raises(WorkflowStuckError):
            await engine.execute(app.buggy(order), id="stuck")
        handle = await engine.start(app.sleeping(order), id="sleeping")
        async with asyncio.timeout(10):
            while True:
                if len(await handle.history()) == 4:
                    break
                await asyncio.sleep(0.005)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "template.db"
    asyncio.run(fill(f"sqlite:///{path}"))
    return path


@pytest.fixture
def folder(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    shutil.copyfile(template, tmp_path / "orders.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DURABLE_DATABASE_URL", "sqlite:///orders.db")
    for name in ("DURABLE_DEBUG", "DURABLE_NAMESPACE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    # Nobody may leave a log or a lock behind.
    assert {path.suffix for path in tmp_path.iterdir()} <= {".db", ".json", ".py"}


def invoke(*args: str, **options: Any) -> Result:
    done = CliRunner().invoke(cli, args, **options)
    assert "Traceback" not in done.output
    return done


def lines_of(done: Result) -> list[Any]:
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def error_of(done: Result) -> dict[str, Any]:
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    error: dict[str, Any] = json.loads(line)["error"]
    assert set(error) == {"code", "message", "hint"}
    return error


# --- help and usage -------------------------------------------------------------------


def all_commands() -> list[tuple[str, ...]]:
    names = [(name,) for name in COMMANDS if name != "db"]
    return [*names, ("db",), ("db", "upgrade"), ("db", "current")]


@pytest.mark.parametrize("path", all_commands(), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    done = invoke(*path, "--help")

    assert done.exit_code == 0
    assert done.stdout.startswith(f"Usage: cli {' '.join(path)}")
    assert done.stderr == ""


def test_short_helps_of_the_table_lead_to_commands_of_those_names() -> None:
    context = click.Context(cli)
    for name, (_, _, text) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help
        assert len(text) < 60
    assert "replay" in invoke("--help").stdout


READING = [
    ("list",),
    ("show", "x"),
    ("history", "x"),
    ("result", "x"),
    ("cancel", "x"),
    ("terminate", "x"),
    ("doctor",),
    ("db", "current"),
    ("replay", APP, "--all"),
]


@pytest.mark.parametrize("args", READING, ids=lambda args: args[0])
@pytest.mark.parametrize("is_json", [False, True], ids=["text", "json"])
def test_command_that_reads_makes_no_database(
    args: tuple[str, ...],
    is_json: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    done = invoke(
        "--database", "sqlite:///none.db", *args, *(["--json"] if is_json else [])
    )

    assert done.exit_code == 7
    assert list(tmp_path.iterdir()) == []
    if is_json:
        assert error_of(done)["code"] == "database_unavailable"
    else:
        assert "There is no database file" in done.stderr
        assert "code: database_unavailable" in done.stderr


@pytest.mark.parametrize("args", READING, ids=lambda args: args[0])
def test_command_that_reads_does_not_make_tables(
    args: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.db").touch()

    done = invoke("--database", "sqlite:///empty.db", *args)

    assert done.exit_code == 7
    assert (tmp_path / "empty.db").stat().st_size == 0


@pytest.mark.parametrize("args", READING, ids=lambda args: args[0])
def test_database_in_memory_is_refused_where_it_makes_no_sense(
    args: tuple[str, ...],
) -> None:
    done = invoke("--database", "memory://", *args)

    assert done.exit_code == 2
    assert "lives in one process only" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("bogus",),
        ("list", "--bogus"),
        ("list", "--status", "sleepy"),
        ("list", "--limit", "0"),
        ("list", "--before", "yesterday"),
        ("show",),
        ("show", "a", "b"),
        ("run", "no-colon"),
        ("run", f"{APP}:place_order", "--input", "{"),
        ("run", f"{APP}:place_order", "--on-conflict", "shrug"),
        ("run", f"{APP}:place_order", "--input", "[{}]"),
        ("start", f"{APP}:nothing"),
        ("start", "cli_forever", "--id", "a\nb"),
        ("start", "cli_forever", "--run-timeout", "soon"),
        ("worker",),
        ("worker", "no_such_module"),
        ("replay", APP),
        ("replay", APP, "--all", "--id", "x"),
        ("replay", APP, "--file", "no.json"),
        ("--log-level", "loud", "list"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2_in_both_forms(
    args: tuple[str, ...], folder: Path
) -> None:
    text, data = invoke(*args), invoke(*args, "--json")

    assert (text.exit_code, text.stdout) == (2, "")
    assert "error: " in text.stderr
    assert data.exit_code == 2
    assert error_of(data)["message"]


def test_version_is_printed() -> None:
    done = invoke("--version")

    assert done.exit_code == 0
    assert done.stdout.startswith("durable 0.")


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
}


def test_list_as_json_is_one_run_a_line_newest_first(folder: Path) -> None:
    runs = lines_of(invoke("list", "--json"))

    assert [run["workflow_id"] for run in runs] == [
        "sleeping",
        "stuck",
        "failed",
        "done",
    ]
    assert all(set(run) == RUN_KEYS for run in runs)
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


# --- results, ends --------------------------------------------------------------------


def test_result_is_printed_as_json_either_way(folder: Path) -> None:
    plain, data = invoke("result", "done"), invoke("result", "done", "--json")

    value = {"receipt": f"receipt-42-{app.SECRET}", "gift": "False"}
    assert lines_of(plain) == [value]
    ((found,)) = lines_of(data)
    assert found["result"] == value
    assert set(found) == {"workflow_id", "run_id", "status", "result"}


@pytest.mark.parametrize(
    ("args", "exit_code", "error"),
    [
        (("result", "failed"), 5, "workflow_failed"),
        (("result", "stuck"), 1, "workflow_stuck"),
        (("result", "sleeping", "--timeout", "10ms"), 6, "result_timeout"),
        (("result", "nobody"), 3, "workflow_not_found"),
        (("show", "nobody"), 3, "workflow_not_found"),
        (("history", "nobody"), 3, "workflow_not_found"),
        (("cancel", "nobody"), 3, "workflow_not_found"),
        (("cancel", "done"), 4, "workflow_closed"),
        (("terminate", "done"), 4, "workflow_closed"),
        (("start", "cli_sleeping", "--id", "sleeping"), 4, "workflow_already_started"),
        (
            ("start", "cli_sleeping", "--id", "done", "--id-reuse", "reject_duplicate"),
            4,
            "workflow_already_started",
        ),
        (("replay", APP, "--id", "nobody"), 3, "workflow_not_found"),
        (("replay", APP, "--id", "stuck"), 1, "replay_failed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_each_outcome_has_its_exit_code_and_error_code(
    args: tuple[str, ...], exit_code: int, error: str, folder: Path
) -> None:
    text, data = invoke(*args), invoke(*args, "--json")

    assert text.exit_code == data.exit_code == exit_code
    assert f"code: {error}" in text.stderr
    assert json.loads(data.stderr.splitlines()[-1])["error"]["code"] == error


def test_cancel_and_terminate_say_whom(folder: Path) -> None:
    asked = lines_of(invoke("cancel", "sleeping", "--reason", "why", "--json"))
    told = invoke("show", "sleeping").stdout
    ended = invoke("terminate", "sleeping", "--reason", "a\x1bb")

    assert asked[0]["done"] == "cancel_requested"
    assert "cancel request  not seen by the code yet" in told
    assert ended.stdout.startswith("sleeping (run ")
    assert r"terminated: a\x1bb" in invoke("show", "sleeping").stdout
    assert invoke("result", "sleeping").exit_code == 5


# --- starting -------------------------------------------------------------------------


def test_run_prints_the_result_and_nothing_else_on_stdout(folder: Path) -> None:
    done = invoke(
        "run",
        f"{APP}:place_order",
        "--input",
        '{"order": {"id": 7}, "gift": true}',
        "--id",
        "seven",
    )

    assert lines_of(done) == [{"receipt": "receipt-7-", "gift": "True"}]
    assert "the workflow prints" in done.stderr
    assert [
        run["status"] for run in lines_of(invoke("list", "--id", "seven", "--json"))
    ]


def test_run_as_json_names_the_run(folder: Path) -> None:
    done = invoke("run", f"{APP}:place_order", "--input", '[{"id": 7}]', "--json")

    (found,) = lines_of(done)
    assert found["result"]["receipt"] == "receipt-7-"
    assert found["workflow_id"] == found["run_id"]


@pytest.mark.parametrize(
    ("args", "exit_code"),
    [
        (("failing",), 5),
        (("forever", "--timeout", "10ms"), 6),
        (("place_order", "--input", '[{"id": 7}]', "--id", "sleeping"), 4),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_run_ends_with_the_outcome_of_the_workflow(
    args: tuple[str, ...], exit_code: int, folder: Path
) -> None:
    name, *rest = args

    done = invoke("run", f"{APP}:{name}", *rest)

    assert (done.exit_code, done.stdout) == (exit_code, "")


def test_run_works_in_memory(folder: Path) -> None:
    done = invoke(
        "--database",
        "memory://",
        "run",
        f"{APP}:cli_place_order",
        "--input",
        "-",
        input='[{"id": 7}]',
    )

    assert lines_of(done)[0]["receipt"] == "receipt-7-"


def test_start_by_name_needs_no_code(folder: Path) -> None:
    done = invoke("start", "somebody_elses", "--input", "[1]", "--id", "x")

    assert (done.exit_code, done.stdout) == (0, "x\n")
    (run,) = lines_of(invoke("list", "--id", "x", "--json"))
    assert run["workflow_type"] == "somebody_elses"
    assert run["owner"] is None


def test_start_with_code_checks_the_arguments(folder: Path) -> None:
    done = invoke("start", f"{APP}:sleeping", "--input", '[{"id": 7}]', "--json")

    assert set(lines_of(done)[0]) == {"workflow_id", "run_id"}
    assert invoke("start", f"{APP}:sleeping", "--input", "[7]").exit_code == 2


def test_same_request_starts_once(folder: Path) -> None:
    first, second = (
        lines_of(invoke("start", "x", "--request-id", "r1", "--json")) for _ in range(2)
    )

    assert first[0]["run_id"] == second[0]["run_id"]


# --- replay, doctor, db ---------------------------------------------------------------


def test_replay_of_sound_runs_says_ok(folder: Path) -> None:
    done = invoke("replay", APP, "--id", "done", "--json")

    (found,) = lines_of(done)
    assert (found["verdict"], found["event_count"]) == ("ok", 4)
    assert "1 ok" in invoke("replay", APP, "--id", "sleeping").stderr
    assert "the workflow prints" not in done.stdout


def test_replay_of_all_names_what_is_stuck(folder: Path) -> None:
    done = invoke("replay", APP, "--all", "--json")

    assert done.exit_code == 1
    verdicts = [json.loads(line)["verdict"] for line in done.stdout.splitlines()]
    assert verdicts == ["ok", "stuck", "ok", "ok"]
    opened = invoke("replay", APP, "--open", "--json")
    assert len(opened.stdout.splitlines()) == 2


def test_replay_of_a_file_finds_the_exact_mismatch(folder: Path) -> None:
    recorded = invoke("history", "done", "--json", "--payloads").stdout
    Path("good.json").write_text(recorded)
    Path("array.json").write_text(f"[{','.join(recorded.splitlines())}]")
    Path("bad.json").write_text(recorded.replace('"cli_charge"', '"cli_refund"'))

    assert invoke("replay", APP, "--file", "good.json").exit_code == 0
    assert invoke("replay", APP, "--file", "array.json").exit_code == 0
    assert invoke("replay", APP, "--file", "-", input=recorded).exit_code == 0
    bad = invoke("replay", APP, "--file", "bad.json", "--json")

    assert bad.exit_code == 8
    found = json.loads(bad.stdout)
    assert (found["verdict"], found["event_id"]) == ("mismatch", 2)
    assert "'cli_refund'" in found["recorded"]
    assert "'cli_charge'" in found["found"]
    text = invoke("replay", APP, "--file", "bad.json")
    assert text.stdout.startswith("mismatch  done  cli_place_order  4 events")
    assert "event 2 is ActivityTaskScheduled('cli_refund'" in text.stdout
    assert "code: nondeterminism" in text.stderr


def test_replay_of_a_file_without_values_says_how_to_write_it(folder: Path) -> None:
    Path("h.json").write_text(invoke("history", "done", "--json").stdout)

    done = invoke("replay", APP, "--file", "h.json")

    assert done.exit_code == 2
    assert "--payloads" in done.stderr


@pytest.mark.parametrize(
    ("text", "exit_code"),
    [("", 1), ("{}", 2), ("[3]", 2), ("nonsense", 2), ('{"event_id": 1}', 2)],
)
def test_replay_of_a_file_of_another_kind_is_refused(
    text: str, exit_code: int, folder: Path
) -> None:
    Path("h.json").write_text(text)

    assert invoke("replay", APP, "--file", "h.json").exit_code == exit_code


def test_replay_skips_what_no_module_defines(folder: Path) -> None:
    invoke("start", "somebody_elses", "--id", "x")
    assert invoke("replay", APP, "--id", "x").exit_code == 2

    done = invoke("replay", APP, "--open", "--json")

    assert json.loads(done.stdout.splitlines()[0])["verdict"] == "skipped"


@pytest.mark.slow
def test_doctor_prints_findings_and_ends_with_1(folder: Path) -> None:
    text, data = invoke("doctor"), invoke("doctor", "--json")

    assert text.exit_code == data.exit_code == 1
    assert text.stdout.startswith("stuck           stuck (run ")
    (found,) = [json.loads(line) for line in data.stdout.splitlines()]
    assert found["workflow_id"] == "stuck"
    assert set(found) == {"check", "is_notice", "workflow_id", "run_id", "message"}


def test_doctor_of_a_healthy_database_ends_with_0(folder: Path) -> None:
    invoke("terminate", "stuck")

    text, data = invoke("doctor"), invoke("doctor", "--json")

    assert (text.exit_code, text.stdout) == (0, "")
    assert "nothing is wrong" in text.stderr
    assert lines_of(data) == []


def test_db_says_its_revision_and_makes_the_tables(folder: Path) -> None:
    assert lines_of(invoke("db", "current", "--json"))[0]["is_current"] is True

    new = ("--database", "sqlite:///new.db")
    assert invoke("db", "upgrade", *new).stdout == "0001  sqlite:///new.db\n"
    assert invoke("db", "upgrade", *new).exit_code == 0
    assert invoke("list", *new).exit_code == 0


def test_file_that_is_no_database_is_named_as_such(folder: Path) -> None:
    Path("text.db").write_text("no database at all, but long enough to look at")

    for args in (("list",), ("db", "current")):
        done = invoke(*args, "--database", "sqlite:///text.db")
        assert done.exit_code == 7
        assert "code: not_a_database" in done.stderr


def test_password_of_the_database_is_never_shown(folder: Path) -> None:
    url = "postgresql://u:pa%20ss w@rd@h/db"

    for args in (("list",), ("list", "--json"), ("db", "current"), ("run", f"{APP}:x")):
        done = invoke(*args, "--database", url)
        assert done.exit_code in (2, 7)
        assert "w@rd" not in done.output
        assert "pa%20ss" not in done.output
