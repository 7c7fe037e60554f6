"""What is wrong with a SQLite file, beyond what a look at each run would show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

# Of one kind; the rest are counted.
_SHOWN: Final = 20
_OF_RUNS: Final = (
    "durable_history",
    "durable_attempts",
    "durable_inbox",
    "durable_replies",
)


def check_file(connection: sqlite3.Connection) -> list[str]:
    """Return what is wrong: the file's structure, rows of no run, keys."""
    cursor = connection.cursor()
    found = [
        f"the file is damaged: {message}"
        for (message,) in cursor.execute(f"PRAGMA quick_check({_SHOWN})").fetchall()
        if message != "ok"
    ]
    for table in _OF_RUNS:
        found += _find_strays(cursor, table)
    found += _find_keys(cursor)
    found += _find_moved(cursor)
    return found


def _find_strays(cursor: sqlite3.Cursor, table: str) -> list[str]:
    rows = cursor.execute(
        # Bytes cannot break what is text to the driver; the tables' names are ours.
        f"SELECT CAST(run_id AS BLOB), count(*) FROM {table} WHERE NOT EXISTS"  # noqa: S608 - constant names
        f" (SELECT 1 FROM durable_runs WHERE durable_runs.run_id = {table}.run_id)"
        " GROUP BY run_id"
    ).fetchall()
    return _list(
        rows,
        lambda row: (
            f"{row[1]} rows of {table} are of run {_name(row[0])}, which does not exist"
        ),
    )


def _find_keys(cursor: sqlite3.Cursor) -> list[str]:
    rows = cursor.execute(
        "SELECT CAST(run_id AS BLOB), CAST(status AS BLOB), open_key IS NULL"
        " FROM durable_runs"
        " WHERE (status = 'running') = (open_key IS NULL)"
        " OR open_key IS NOT NULL AND open_key IS NOT workflow_id"
    ).fetchall()
    return _list(rows, _describe_key)


def _describe_key(row: Any) -> str:
    run_id, status, has_none = row
    key = "no key of an open run" if has_none else "the key of another, or an open, run"
    return f"run {_name(run_id)} is {_name(status)}, and its row has {key}"


def _find_moved(cursor: sqlite3.Cursor) -> list[str]:
    """Find runs that were put into a namespace which their history does not name."""
    rows = cursor.execute(
        "SELECT CAST(durable_runs.run_id AS BLOB), CAST(durable_runs.namespace"
        " AS BLOB) FROM durable_runs"
        " JOIN durable_history ON durable_history.run_id = durable_runs.run_id"
        " AND durable_history.event_id = 1"
        " WHERE CASE WHEN json_valid(durable_history.data) THEN"
        " coalesce(json_extract(durable_history.data, '$.namespace'), 'default')"
        " IS NOT durable_runs.namespace ELSE 0 END"
    ).fetchall()
    return _list(
        rows,
        lambda row: (
            f"run {_name(row[0])} is in namespace {_name(row[1])}, and its"
            " history names another"
        ),
    )


def _list(rows: list[Any], describe: Callable[[Any], str]) -> list[str]:
    found = [describe(row) for row in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        found.append(f"and {len(rows) - _SHOWN} more of that kind")
    return found


def _name(text: bytes) -> str:
    return repr(text.decode("utf-8", "replace"))
