"""What every command promises: help, usage, and leaving databases alone."""

import sqlite3
from contextlib import closing
from pathlib import Path

import click
import pytest

from durable.cli.main import COMMANDS, cli
from tests.unit.cli.invoking import APP, error_of, invoke

# --- help and usage -------------------------------------------------------------------


DB_COMMANDS = ["upgrade", "current", "backup", "copy", "accept-loss"]


def all_commands() -> list[tuple[str, ...]]:
    names = [(name,) for name in COMMANDS if name != "db"]
    return [*names, ("db",), *(("db", name) for name in DB_COMMANDS)]


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
    ("signal", "x", "go"),
    ("query", "x", "count"),
    ("update", "x", "add", "1"),
    ("stack", "x"),
    ("cancel", "x"),
    ("terminate", "x"),
    ("reset", "x"),
    ("retry", "x"),
    ("fork", "x"),
    ("diff", "x", "y"),
    ("pause", "x"),
    ("resume", "x"),
    ("delete", "x"),
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


@pytest.mark.parametrize("args", READING, ids=lambda args: args[0])
def test_command_that_reads_leaves_a_strange_database_without_tables(
    args: tuple[str, ...], folder: Path
) -> None:
    with closing(sqlite3.connect("strange.db")) as strange:
        strange.execute("CREATE TABLE theirs (x)")
        strange.commit()

    done = invoke(*args, "--database", "sqlite:///strange.db")

    assert done.exit_code == 7
    assert "code: schema_revision" in done.stderr
    with closing(sqlite3.connect("strange.db")) as strange:
        found = strange.execute("SELECT name FROM sqlite_master").fetchall()
    assert found == [("theirs",)]


def test_password_of_the_database_is_never_shown(folder: Path) -> None:
    url = "postgresql://u:pa%20ss w@rd@h/db"

    for args in (("list",), ("list", "--json"), ("db", "current"), ("run", f"{APP}:x")):
        done = invoke(*args, "--database", url)
        assert done.exit_code in (2, 7)
        assert "w@rd" not in done.output
        assert "pa%20ss" not in done.output
