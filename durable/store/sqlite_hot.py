"""The hot statements for SQLite: raw SQL on the driver's own connection.

The driver gives the interpreter's lock away at each statement and must wait to get it
back, so `executemany` waits once per row. Here many rows go into one statement, in a
few fixed sizes so that the driver's cache keeps every text prepared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from durable.store import statements
from durable.store.policies import allows_every_reuse

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from durable.store.database import Closing, WakeUp
    from durable.store.records import (
        AttemptRecord,
        HistoryRow,
        MessageRecord,
        RunRecord,
        StartRun,
    )

# Larger texts take longer to prepare than they save.
_ROWS_PER_STATEMENT: Final = (64, 16, 4, 1)
# Lists of ids are cheap to prepare; 32,766 is SQLite's limit on parameters.
_IDS_PER_STATEMENT: Final = (1024, 128, 16, 4, 1)

_RUN_COLUMNS: Final = ", ".join(statements.RUN_FIELDS)


class _Rows:
    """One statement with a list of rows, in every size."""

    def __init__(self, before: str, width: int, after: str = "") -> None:
        row = f"({', '.join('?' * width)})"
        self._width = width
        self._texts = [
            (size * width, f"{before} {', '.join([row] * size)}{after}")
            for size in _ROWS_PER_STATEMENT
        ]

    def execute(self, cursor: sqlite3.Cursor, values: list[Any]) -> int:
        """Execute with the flat values of any number of rows; count the changed."""
        changed = 0
        place = 0
        left = len(values)
        for size, text in self._texts:
            while left >= size:
                cursor.execute(text, values[place : place + size])
                changed += cursor.rowcount
                place += size
                left -= size
        return changed


class _Ids:
    """One query with a list of ids, in every size; {} stands for the list."""

    def __init__(self, text: str) -> None:
        self._texts = [
            (size, text.replace("{}", ", ".join("?" * size)))
            for size in _IDS_PER_STATEMENT
        ]

    def fetch(
        self, cursor: sqlite3.Cursor, before: Sequence[str], ids: Sequence[str]
    ) -> list[Any]:
        """Fetch the rows of all ids."""
        rows: list[Any] = []
        place = 0
        left = len(ids)
        for size, text in self._texts:
            while left >= size:
                chunk = ids[place : place + size]
                rows += cursor.execute(text, [*before, *chunk]).fetchall()
                place += size
                left -= size
        return rows


_INSERT_RUNS: Final = _Rows(f"INSERT INTO runs ({_RUN_COLUMNS}, open_key) VALUES", 20)
_INSERT_HISTORY: Final = _Rows(
    "INSERT INTO history"
    " (run_id, event_id, task_number, type, time, data, flags, fence) VALUES",
    8,
)
_CLOSE_RUNS: Final = _Rows(
    "UPDATE runs SET status = new.column2, closed_at = new.column3, owner = NULL,"
    " is_active = 0, wake_at = NULL, stuck = NULL, open_key = NULL FROM (VALUES",
    4,
    ") AS new WHERE runs.run_id = new.column1 AND runs.owner = new.column4",
)
_UPDATE_RUNS: Final = _Rows(
    "UPDATE runs SET is_active = new.column2, wake_at = new.column3, stuck = NULL"
    " FROM (VALUES",
    4,
    ") AS new WHERE runs.run_id = new.column1 AND runs.owner = new.column4",
)
_WAKE_RUNS: Final = _Rows(
    "UPDATE runs SET is_active = new.column2, wake_at = new.column3 FROM (VALUES",
    4,
    ") AS new WHERE runs.run_id = new.column1 AND runs.owner = new.column4",
)
_PUT_ATTEMPTS: Final = _Rows(
    f"INSERT OR REPLACE INTO attempts ({', '.join(statements.ATTEMPT_FIELDS)}) VALUES",
    10,
)
# `(run_id, sequence) IN (VALUES ...)` would walk the whole inbox.
_DELETE_MESSAGES: Final = _Rows(
    "DELETE FROM inbox WHERE sequence IN (SELECT inbox.sequence FROM (VALUES",
    2,
    ") AS used JOIN inbox ON inbox.sequence = used.column2"
    " AND inbox.run_id = used.column1)",
)

_READ_HEADER: Final = (
    "SELECT (SELECT fence FROM workers WHERE worker_id = ?),"
    " EXISTS (SELECT 1 FROM inbox)"
)
_SELECT_RUNS: Final = f"SELECT {_RUN_COLUMNS} FROM runs WHERE namespace = ?"  # noqa: S608 - constant names
_FIND_BY_REQUEST: Final = _Ids(f"{_SELECT_RUNS} AND request_id IN ({{}})")
_FIND_OPEN: Final = _Ids(f"{_SELECT_RUNS} AND open_key IN ({{}})")
_FIND_BY_WORKFLOW: Final = _Ids(f"{_SELECT_RUNS} AND workflow_id IN ({{}})")
_COUNT_OWNED: Final = _Ids(
    "SELECT count(*) FROM runs WHERE owner = ? AND run_id IN ({})"
)
_MESSAGE_COLUMNS: Final = ", ".join(statements.MESSAGE_FIELDS)
_FIND_MESSAGES: Final = _Ids(
    f"SELECT {_MESSAGE_COLUMNS} FROM inbox WHERE run_id IN ({{}})"  # noqa: S608 - as above
)


class SqliteHotPath:
    """Implements `HotPath` on one raw connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Prepare nothing; the driver caches each text when it is first used."""
        self._cursor = connection.cursor()

    def read_header(self, worker_id: str | None) -> tuple[int | None, bool]:
        """See `HotPath`."""
        rows = self._cursor.execute(_READ_HEADER, (worker_id,)).fetchall()
        fence, has_messages = rows[0]
        return fence, bool(has_messages)

    def find_holders(self, starts: Sequence[StartRun]) -> list[RunRecord]:
        """See `HotPath`."""
        by_namespace: dict[str, list[StartRun]] = {}
        for start in starts:
            by_namespace.setdefault(start.record.namespace, []).append(start)
        rows: list[Any] = []
        for namespace, group in by_namespace.items():
            requests = [start.record.request_id for start in group]
            workflows = [start.record.workflow_id for start in group]
            strict = [
                start.record.workflow_id
                for start in group
                if not allows_every_reuse(start)
            ]
            before = [namespace]
            rows += _FIND_BY_REQUEST.fetch(self._cursor, before, requests)
            rows += _FIND_OPEN.fetch(self._cursor, before, workflows)
            rows += _FIND_BY_WORKFLOW.fetch(self._cursor, before, strict)
        return [statements.to_run(row) for row in rows]

    def count_owned(self, run_ids: Sequence[str], owner: str) -> int:
        """See `HotPath`."""
        counts = _COUNT_OWNED.fetch(self._cursor, [owner], run_ids)
        return sum(count for (count,) in counts)

    def find_messages(self, run_ids: Sequence[str]) -> list[MessageRecord]:
        """See `HotPath`."""
        rows = _FIND_MESSAGES.fetch(self._cursor, [], run_ids)
        messages = [statements.to_message(row) for row in rows]
        return sorted(messages, key=lambda message: message.sequence)

    def insert_runs(self, records: Sequence[RunRecord]) -> None:
        """See `HotPath`."""
        values: list[Any] = []
        for record in records:
            values += statements.run_values(record)
        _INSERT_RUNS.execute(self._cursor, values)

    def append_history(self, parts: Iterable[tuple[Sequence[HistoryRow], int]]) -> None:
        """See `HotPath`."""
        values: list[Any] = []
        for rows, fence in parts:
            for row in rows:
                values += row
                values.append(fence)
        _INSERT_HISTORY.execute(self._cursor, values)

    def close_runs(self, closings: Sequence[Closing], owner: str) -> int:
        """See `HotPath`."""
        return self._change(_CLOSE_RUNS, closings, owner)

    def update_runs(self, wake_ups: Sequence[WakeUp], owner: str) -> int:
        """See `HotPath`."""
        return self._change(_UPDATE_RUNS, wake_ups, owner)

    def wake_runs(self, wake_ups: Sequence[WakeUp], owner: str) -> int:
        """See `HotPath`."""
        return self._change(_WAKE_RUNS, wake_ups, owner)

    def _change(
        self, rows: _Rows, changes: Sequence[Closing | WakeUp], owner: str
    ) -> int:
        values: list[Any] = []
        for change in changes:
            values += change
            values.append(owner)
        return rows.execute(self._cursor, values)

    def put_attempts(self, attempts: Sequence[AttemptRecord]) -> None:
        """See `HotPath`."""
        values: list[Any] = []
        for attempt in attempts:
            values += statements.attempt_values(attempt)
        _PUT_ATTEMPTS.execute(self._cursor, values)

    def delete_messages(self, consumed: Sequence[tuple[str, int]]) -> None:
        """See `HotPath`."""
        values: list[Any] = []
        for message in consumed:
            values += message
        _DELETE_MESSAGES.execute(self._cursor, values)
