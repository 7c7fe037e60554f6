"""Whatever stands in the database, a terminal is shown no control characters of it."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from durable.cli.main import cli
from tests.sizes import IS_ALL

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e"
COMMANDS = [
    ["list"],
    ["list", "--limit", "1"],
    ["show", "done"],
    ["show", "failed", "--payloads"],
    ["show", "stuck"],
    ["show", "sleeping"],
    ["history", "done", "--payloads"],
    ["history", "sleeping"],
    ["result", "done", "--timeout", "1ms"],
    ["result", "failed", "--timeout", "1ms"],
    ["result", "stuck", "--timeout", "1ms"],
    ["stack", "sleeping", "--timeout", "1ms"],
    ["signal", "sleeping", "go"],
    ["cancel", "sleeping"],
    ["terminate", "sleeping"],
    ["reset", "done", "--dry-run"],
    ["retry", "failed"],
    ["pause", "sleeping"],
    ["diff", "done", "failed", "--payloads"],
    ["delete", "sleeping", "--terminate"],
    ["doctor"],
    ["db", "current"],
    ["db", "backup", "copy.db"],
    ["workers"],
    ["workers", "--json"],
]
SHARE = 3
"""One of so many commands is tried on each column, unless all are asked for."""
TABLES = [
    "durable_runs",
    "durable_history",
    "durable_attempts",
    "durable_workers",
    "durable_schema",
]


def text_columns(path: Path) -> Iterator[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        for table in TABLES:
            for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})"):
                if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                    yield table, name


@pytest.mark.slow
@pytest.mark.parametrize("part", range(SHARE if IS_ALL else 1))
@pytest.mark.parametrize(
    ("table", "is_colored"),
    [*((table, False) for table in TABLES), ("durable_runs", True)],
)
def test_control_characters_of_tampered_rows_never_reach_the_terminal(
    folder: Path,
    table: str,
    part: int,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_colored: bool,
) -> None:
    path = folder / "orders.db"
    original = path.read_bytes()
    colours = ("\x1b[1m", "\x1b[2m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m")
    if is_colored:
        monkeypatch.setenv("FORCE_COLOR", "1")
    commands = COMMANDS[1:6] if is_colored else COMMANDS
    shown = 0
    columns = [column for found, column in text_columns(path) if found == table]
    for number, name in enumerate(columns):
        for command in commands[(number + part) % SHARE :: SHARE]:
            path.write_bytes(original)
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(
                    f"UPDATE OR IGNORE {table} SET {name} = {name} || ?",  # noqa: S608 - from above
                    (HOSTILE,),
                )
            done = CliRunner().invoke(cli, command)
            for line in (done.stdout + done.stderr).split("\n"):
                for colour in colours if is_colored else ():
                    line = line.replace(colour, "")
                assert line.isprintable(), (name, command, line)
            shown += r"\x1b]0;owned\x07" in done.output
            for left in folder.glob("copy.db"):
                left.unlink()
            for left in folder.glob("orders.db-*"):
                left.unlink()
    assert shown or table in ("durable_workers", "durable_attempts")
