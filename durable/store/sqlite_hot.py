"""The hot statements for SQLite: raw SQL on the driver's own connection.

The driver gives the interpreter's lock away at each statement and must wait to get it
back, so `executemany` waits once per row. Here many rows go into one statement, in a
few fixed sizes so that the driver's cache keeps every text prepared.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from durable.store import salvage, statements
from durable.store.policies import Target, allows_every_reuse
from durable.store.records import RUNNING, RunStatus

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    from durable.store.database import (
        Closing,
        Mail,
        Place,
        Published,
        RequestKey,
        WakeUp,
    )
    from durable.store.family import Letter
    from durable.store.records import (
        AttemptRecord,
        HistoryRow,
        MessageRecord,
        ReplyRecord,
        RunRecord,
        StartRun,
    )

# Larger texts take longer to prepare than they save.
_ROWS_PER_STATEMENT: Final = (64, 16, 4, 2, 1)
# Lists of ids are cheap to prepare; 32,766 is SQLite's limit on parameters.
_IDS_PER_STATEMENT: Final = (1024, 128, 16, 4, 1)

_RUN_COLUMNS: Final = ", ".join(salvage.RUN_FIELDS)
_STATUSES: Final = {status.value: status for status in RunStatus}


class _Rows:
    """One statement with a list of rows, in every size.

    Values that all rows share are bound once, before or after the rows: binding is what
    costs most. None and booleans cost most of all, as the driver looks for an adapter.
    """

    def __init__(self, before: str, width: int, after: str = "") -> None:
        row = f"({', '.join('?' * width)})"
        self._texts = [
            (size * width, f"{before} (VALUES {', '.join([row] * size)}){after}")
            for size in _ROWS_PER_STATEMENT
        ]
        self._text_of = dict(self._texts)

    def execute(
        self,
        cursor: sqlite3.Cursor,
        values: list[Any],
        *,
        before: Sequence[Any] = (),
        after: Sequence[Any] = (),
    ) -> int:
        """Execute with the flat values of any number of rows; count the changed."""
        text = self._text_of.get(len(values))
        if text is not None:  # a run by itself, as a rule
            return cursor.execute(text, [*before, *values, *after]).rowcount
        changed = 0
        for text, chunk in self._split(values):
            cursor.execute(text, [*before, *chunk, *after])
            changed += cursor.rowcount
        return changed

    def fetch(
        self, cursor: sqlite3.Cursor, values: list[Any], *, after: Sequence[Any] = ()
    ) -> list[Any]:
        """Fetch what a query finds for any number of rows."""
        found: list[Any] = []
        for text, chunk in self._split(values):
            found += cursor.execute(text, [*chunk, *after]).fetchall()
        return found

    def _split(self, values: list[Any]) -> Iterator[tuple[str, list[Any]]]:
        place = 0
        left = len(values)
        for size, text in self._texts:
            while left >= size:
                yield text, values[place : place + size]
                place += size
                left -= size


class _Ids:
    """One statement with a list of ids, in every size; {} stands for the list."""

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


_INSERT_RUNS: Final = _Rows(
    f"INSERT INTO durable_runs ({_RUN_COLUMNS}, open_key) SELECT * FROM", 24
)
# Nearly every run begins as the first of its chain, with nothing to wait for; open, or
# ended within its first turn.
_SHARED: Final = (
    "namespace, workflow_type, task_queue, owner, is_active, version, status"
)
_INSERT_PLAIN_RUNS: Final = _Rows(
    f"INSERT INTO durable_runs ({_SHARED}, run_id, first_run_id, root_run_id,"
    " workflow_id, open_key, request_id, started_at)"
    " SELECT ?, ?, ?, ?, ?, ?, ?, column1, column1, column1, column2, column2,"
    " column3, column4 FROM",
    4,
)
_INSERT_ENDED_RUNS: Final = _Rows(
    f"INSERT INTO durable_runs ({_SHARED}, run_id, first_run_id, root_run_id,"
    " workflow_id, request_id, started_at, closed_at)"
    " SELECT ?, ?, ?, ?, ?, ?, ?, column1, column1, column1, column2,"
    " column3, column4, column5 FROM",
    5,
)
# Children come in crowds, which share a parent.
_OF_PARENT: Final = (
    "root_run_id, parent_workflow_id, parent_run_id, parent_close_policy"
)
_INSERT_PLAIN_CHILDREN: Final = _Rows(
    f"INSERT INTO durable_runs ({_SHARED}, {_OF_PARENT}, run_id, first_run_id,"
    " workflow_id, open_key, request_id, started_at, parent_initiated_event_id)"
    " SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, column1, column1, column2, column2,"
    " column3, column4, column5 FROM",
    5,
)
_INSERT_ENDED_CHILDREN: Final = _Rows(
    f"INSERT INTO durable_runs ({_SHARED}, {_OF_PARENT}, run_id, first_run_id,"
    " workflow_id, request_id, started_at, parent_initiated_event_id, closed_at)"
    " SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, column1, column1, column2,"
    " column3, column4, column5, column6 FROM",
    6,
)
_INSERT_HISTORY: Final = _Rows(
    "INSERT INTO durable_history"
    " (fence, run_id, event_id, task_number, type, time, data, flags)"
    " SELECT ?, * FROM",
    7,
)
_OF_OWNER: Final = (
    " AS new WHERE durable_runs.run_id = new.column1 AND durable_runs.owner = ?"
)
# Whoever writes after an event that is not there believes in a turn that never was
# committed. The lookup meets the page that the rows have just been put on.
_FOLLOWS: Final = (
    " AND (new.column4 = 0 OR EXISTS (SELECT 1 FROM durable_history"
    " WHERE durable_history.run_id = new.column1"
    " AND durable_history.event_id = new.column4))"
)
_CLOSE_RUNS: Final = _Rows(
    "UPDATE durable_runs SET status = new.column2, closed_at = new.column3,"
    " owner = NULL, is_active = 0, wake_at = NULL, stuck = NULL, open_key = NULL FROM",
    4,
    _OF_OWNER + _FOLLOWS,
)
# Binding None is slow, so the least integer stands for it.
_NO_WAKE_UP: Final = -(2**63)
_SET_WAKE_UP: Final = (
    "UPDATE durable_runs SET is_active = new.column2,"
    " wake_at = nullif(new.column3, -9223372036854775808)"
)
_UPDATE_RUNS: Final = _Rows(
    f"{_SET_WAKE_UP}, stuck = NULL FROM", 4, _OF_OWNER + _FOLLOWS
)
_WAKE_RUNS: Final = _Rows(f"{_SET_WAKE_UP} FROM", 4, _OF_OWNER)
_PUT_ATTEMPTS: Final = _Rows(
    f"INSERT OR REPLACE INTO durable_attempts ({', '.join(salvage.ATTEMPT_FIELDS)})"
    " SELECT * FROM",
    10,
)
_PUBLISH: Final = _Rows(
    "UPDATE durable_runs SET state = coalesce(new.column2, state),"
    " checkpoint_event_id = coalesce(new.column3, checkpoint_event_id) FROM",
    3,
    " AS new WHERE durable_runs.run_id = new.column1",
)
_PUT_REPLIES: Final = _Rows(
    "INSERT OR REPLACE INTO durable_replies (run_id, request_id, data, created_at)"
    " SELECT * FROM",
    4,
)
_INSERT_MESSAGES: Final = _Rows(
    "INSERT INTO durable_inbox (created_at, run_id, request_id, kind, data)"
    " SELECT ?, * FROM",
    4,
)
# `(run_id, sequence) IN (VALUES ...)` would walk the whole inbox, and so might a plain
# join, which the planner is free to turn round.
_DELETE_MESSAGES: Final = _Rows(
    "DELETE FROM durable_inbox WHERE sequence IN (SELECT durable_inbox.sequence FROM",
    2,
    " AS used CROSS JOIN durable_inbox ON durable_inbox.sequence = used.column2"
    " AND durable_inbox.run_id = used.column1)",
)
_DELETE_REQUESTS: Final = _Rows(
    "DELETE FROM durable_inbox WHERE sequence IN (SELECT durable_inbox.sequence FROM",
    2,
    " AS used CROSS JOIN durable_inbox ON durable_inbox.run_id = used.column1"
    " AND durable_inbox.request_id = used.column2)",
)
_DELETE_REPLIES: Final = _Rows(
    "DELETE FROM durable_replies WHERE rowid IN (SELECT durable_replies.rowid FROM",
    2,
    " AS used CROSS JOIN durable_replies ON durable_replies.run_id = used.column1"
    " AND durable_replies.request_id = used.column2)",
)
_FIND_REQUESTS: Final = _Rows(
    "SELECT durable_inbox.run_id, durable_inbox.request_id FROM",
    2,
    " AS sent CROSS JOIN durable_inbox ON durable_inbox.run_id = sent.column1"
    " AND durable_inbox.request_id = sent.column2",
)
_DELETE_INBOXES: Final = _Ids("DELETE FROM durable_inbox WHERE run_id IN ({})")

_READ_HEADER: Final = (
    "SELECT (SELECT fence FROM durable_workers WHERE worker_id = ?),"
    " EXISTS (SELECT 1 FROM durable_inbox)"
)
_SELECT_RUNS: Final = f"SELECT {_RUN_COLUMNS} FROM durable_runs WHERE namespace = ?"  # noqa: S608 - constant names
_FIND_BY_REQUEST: Final = _Ids(f"{_SELECT_RUNS} AND request_id IN ({{}})")
_FIND_OPEN: Final = _Ids(f"{_SELECT_RUNS} AND open_key IN ({{}})")
# One run of each id is enough to tell that the id was used; some have very many.
_FIND_BY_WORKFLOW: Final = _Ids(
    f"{_SELECT_RUNS} AND workflow_id IN ({{}}) GROUP BY workflow_id"
)
_IS_USED: Final = (
    "SELECT 1 FROM durable_runs WHERE workflow_id = ? AND namespace = ? LIMIT 1"
)
_FIND_WRITABLE: Final = _Rows(
    "SELECT durable_runs.run_id FROM",
    2,
    " AS new CROSS JOIN durable_runs WHERE durable_runs.run_id = new.column1"
    " AND durable_runs.owner = ?" + _FOLLOWS.replace("column4", "column2"),
)
_MESSAGE_COLUMNS: Final = ", ".join(salvage.MESSAGE_FIELDS)
_FIND_MESSAGES: Final = (
    f"SELECT {_MESSAGE_COLUMNS} FROM durable_inbox WHERE run_id = ? ORDER BY sequence"  # noqa: S608 - as above
)
_FIND_MAIL: Final = _Ids(
    "SELECT run_id, sequence, request_id, kind FROM durable_inbox WHERE run_id IN ({})"
)
_SELECT_TARGETS: Final = (
    "SELECT run_id, namespace, workflow_id, first_run_id, status, closed_at"
    " FROM durable_runs"
)
_FIND_TARGETS: Final = _Ids(f"{_SELECT_TARGETS} WHERE run_id IN ({{}})")
_FIND_OPEN_TARGETS: Final = _Ids(
    f"{_SELECT_TARGETS} WHERE namespace = ? AND open_key IN ({{}})"
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
        return [salvage.to_run(row) for row in rows]

    def is_used(self, namespace: str, workflow_id: str) -> bool:
        """See `HotPath`."""
        found = self._cursor.execute(_IS_USED, (workflow_id, namespace)).fetchall()
        return bool(found)

    def find_writable(self, places: Sequence[Place], owner: str) -> list[str]:
        """See `HotPath`."""
        values = _flatten(places)
        rows = _FIND_WRITABLE.fetch(self._cursor, values, after=(owner,))
        return [run_id for (run_id,) in rows]

    def find_messages(self, run_id: str) -> list[MessageRecord]:
        """See `HotPath`."""
        rows = self._cursor.execute(_FIND_MESSAGES, (run_id,)).fetchall()
        return [salvage.to_message(row) for row in rows]

    def find_mail(self, run_ids: Sequence[str]) -> list[Mail]:
        """See `HotPath`."""
        return _FIND_MAIL.fetch(self._cursor, [], run_ids)

    def find_targets(self, run_ids: Sequence[str]) -> list[Target]:
        """See `HotPath`."""
        return _to_targets(_FIND_TARGETS.fetch(self._cursor, [], run_ids))

    def find_open_targets(
        self, namespace: str, workflow_ids: Sequence[str]
    ) -> list[Target]:
        """See `HotPath`."""
        rows = _FIND_OPEN_TARGETS.fetch(self._cursor, [namespace], workflow_ids)
        return _to_targets(rows)

    def find_requests(self, keys: Sequence[RequestKey]) -> list[RequestKey]:
        """See `HotPath`."""
        return _FIND_REQUESTS.fetch(self._cursor, _flatten(keys))

    def insert_runs(self, records: Sequence[RunRecord]) -> None:
        """See `HotPath`."""
        plain: dict[tuple[_Rows, tuple[Any, ...]], list[Any]] = {}
        values: list[Any] = []
        for record in records:
            if not _is_plain(record):
                values += statements.run_values(record)
                continue
            shared: tuple[Any, ...] = (
                record.namespace,
                record.workflow_type,
                record.task_queue,
                record.owner,
                int(record.is_active),
                record.version,
                record.status.value,
            )
            own: tuple[Any, ...] = (
                record.run_id,
                record.workflow_id,
                record.request_id,
                record.started_at,
            )
            is_open = record.status is RUNNING
            if record.parent_run_id is None:
                statement = _INSERT_PLAIN_RUNS if is_open else _INSERT_ENDED_RUNS
            else:
                statement = (
                    _INSERT_PLAIN_CHILDREN if is_open else _INSERT_ENDED_CHILDREN
                )
                shared += (
                    record.root_run_id,
                    record.parent_workflow_id,
                    record.parent_run_id,
                    record.parent_close_policy,
                )
                own += (record.parent_initiated_event_id,)
            if not is_open:
                own += (record.closed_at,)
            plain.setdefault((statement, shared), []).extend(own)
        for (statement, shared), rows in plain.items():
            statement.execute(self._cursor, rows, before=shared)
        if values:
            _INSERT_RUNS.execute(self._cursor, values)

    def append_history(self, parts: Iterable[tuple[Sequence[HistoryRow], int]]) -> None:
        """See `HotPath`."""
        by_fence: dict[int, list[Any]] = {}
        for rows, fence in parts:
            values = by_fence.setdefault(fence, [])
            for row in rows:
                values += row
        for fence, values in by_fence.items():
            _INSERT_HISTORY.execute(self._cursor, values, before=(fence,))

    def close_runs(self, closings: Sequence[Closing], owner: str) -> int:
        """See `HotPath`."""
        values = [value for closing in closings for value in closing]
        return _CLOSE_RUNS.execute(self._cursor, values, after=(owner,))

    def update_runs(self, wake_ups: Sequence[WakeUp], owner: str) -> int:
        """See `HotPath`."""
        values = _wake_up_values(wake_ups)
        return _UPDATE_RUNS.execute(self._cursor, values, after=(owner,))

    def wake_runs(self, wake_ups: Sequence[WakeUp], owner: str) -> int:
        """See `HotPath`."""
        values = _wake_up_values(wake_ups)
        return _WAKE_RUNS.execute(self._cursor, values, after=(owner,))

    def put_attempts(self, attempts: Sequence[AttemptRecord]) -> None:
        """See `HotPath`."""
        values: list[Any] = []
        for attempt in attempts:
            values += statements.attempt_values(attempt)
        _PUT_ATTEMPTS.execute(self._cursor, values)

    def publish(self, published: Sequence[Published]) -> None:
        """See `HotPath`."""
        _PUBLISH.execute(self._cursor, _flatten(published))

    def insert_messages(self, letters: Sequence[Letter], created_at: int) -> None:
        """See `HotPath`."""
        _INSERT_MESSAGES.execute(self._cursor, _flatten(letters), before=(created_at,))

    def delete_messages(self, consumed: Sequence[tuple[str, int]]) -> None:
        """See `HotPath`."""
        _DELETE_MESSAGES.execute(self._cursor, _flatten(consumed))

    def delete_requests(self, keys: Sequence[RequestKey]) -> None:
        """See `HotPath`."""
        _DELETE_REQUESTS.execute(self._cursor, _flatten(keys))

    def delete_inboxes(self, run_ids: Sequence[str]) -> None:
        """See `HotPath`."""
        _DELETE_INBOXES.fetch(self._cursor, [], run_ids)

    def put_replies(self, replies: Sequence[ReplyRecord]) -> None:
        """See `HotPath`."""
        rows = [(r.run_id, r.request_id, r.data, r.created_at) for r in replies]
        _PUT_REPLIES.execute(self._cursor, _flatten(rows))

    def delete_replies(self, keys: Sequence[RequestKey]) -> None:
        """See `HotPath`."""
        _DELETE_REPLIES.execute(self._cursor, _flatten(keys))


def _flatten(rows: Iterable[Iterable[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(rows))


def _to_targets(rows: list[Any]) -> list[Target]:
    return [
        Target(
            run_id,
            namespace,
            workflow_id,
            first_run_id,
            _STATUSES.get(status),
            closed_at,
        )
        for run_id, namespace, workflow_id, first_run_id, status, closed_at in rows
    ]


def _is_plain(record: RunRecord) -> bool:
    return (
        (record.status is RUNNING) is (record.closed_at is None)
        and record.run_id == record.first_run_id
        and record.wake_at is None
        and record.stuck is None
        and record.continued_from_run_id is None
        and record.state is None
        and not record.checkpoint_event_id
        and (
            record.parent_run_id is not None
            or (
                record.run_id == record.root_run_id
                and record.parent_workflow_id is None
                and record.parent_initiated_event_id is None
                and record.parent_close_policy is None
            )
        )
    )


def _wake_up_values(wake_ups: Sequence[WakeUp]) -> list[Any]:
    values: list[Any] = []
    for run_id, is_active, wake_at, follows in wake_ups:
        wake_at = _NO_WAKE_UP if wake_at is None else wake_at
        values += (run_id, int(is_active), wake_at, follows)
    return values
