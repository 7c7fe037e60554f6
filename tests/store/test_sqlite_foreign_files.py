"""What is not ours is left as it is, to the byte, by whoever may not migrate."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from durable.cli.main import cli
from durable.errors import SchemaRevisionError, StoreError
from durable.store.connect import connect

DIE = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    connection.execute(statement)
os._exit(0)
"""


def make(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def die_in(path: Path, *statements: str) -> None:
    """Leave a file as a killed program does."""
    command = [sys.executable, "-c", DIE, str(path), *statements]
    subprocess.run(command, check=True)


TABLE = "CREATE TABLE history (page TEXT)"
FILES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "an empty file": Path.touch,
    "a text": lambda path: path.write_text("pages " * 100),
    "a database": lambda path: make(path, TABLE),
    "one with a number of its own": lambda path: make(
        path, TABLE, "PRAGMA user_version = 7"
    ),
    "one with a log": lambda path: make(path, "PRAGMA journal_mode = WAL", TABLE),
    "one whose program died with a log": lambda path: die_in(
        path, "PRAGMA journal_mode = WAL", TABLE
    ),
    "one whose program died in a transaction": lambda path: die_in(
        path,
        TABLE,
        "PRAGMA cache_size = 2",
        "BEGIN IMMEDIATE",
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 99)"
        " INSERT INTO history SELECT hex(zeroblob(2000)) FROM n",
    ),
    "one of a newer release": lambda path: make(
        path,
        "CREATE TABLE durable_schema (version_num TEXT)",
        "INSERT INTO durable_schema VALUES ('9999')",
    ),
}


def state_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What is in a folder; the index of a log is made anew by whoever looks."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if not path.name.endswith("-shm")
    }


@pytest.mark.parametrize("kind", FILES)
async def test_connecting_without_leave_to_migrate_changes_nothing(
    tmp_path: Path, kind: str
) -> None:
    FILES[kind](tmp_path / "x.db")
    before = state_of(tmp_path)
    store = connect(f"sqlite:///{tmp_path / 'x.db'}", migrate=False)

    with pytest.raises(StoreError):
        await store.open()

    assert state_of(tmp_path) == before


@pytest.mark.parametrize("kind", [kind for kind in FILES if kind != "nothing"])
@pytest.mark.parametrize(
    "command",
    [
        ("list",),
        ("doctor", "--fix"),
        ("db", "current"),
        ("db", "accept-loss"),
        ("db", "backup", "copy.db"),
    ],
    ids=" ".join,
)
def test_commands_that_look_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, command: tuple[str, ...]
) -> None:
    (tmp_path / "theirs").mkdir()
    monkeypatch.chdir(tmp_path)
    FILES[kind](tmp_path / "theirs" / "x.db")
    before = state_of(tmp_path / "theirs")

    done = CliRunner().invoke(cli, ["--database", "theirs/x.db", *command])

    assert "Traceback" not in done.output
    assert state_of(tmp_path / "theirs") == before
    assert not (tmp_path / "copy.db").exists()


@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE TABLE durable_history (page TEXT)",),
        (
            "CREATE TABLE durable_schema (version_num TEXT)",
            "INSERT INTO durable_schema VALUES ('9999')",
        ),
    ],
    ids=["tables of our names", "a newer release"],
)
async def test_what_is_refused_keeps_its_journal(
    tmp_path: Path, statements: tuple[str, ...]
) -> None:
    make(tmp_path / "x.db", *statements)
    before = state_of(tmp_path)
    store = connect(f"sqlite:///{tmp_path / 'x.db'}")

    with pytest.raises(SchemaRevisionError):
        await store.open()

    assert state_of(tmp_path) == before
