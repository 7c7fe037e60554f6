"""What a group of operations writes, on SQLite: raw SQL on the driver's connection."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from durable.store.deciding import rows as bits
from durable.store.records import RUNNING
from durable.store.sql import salvage, statements
from durable.store.sql.tasks import writing
from durable.store.sqlite.texts import ManyKeys, ManyRows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from durable.store.deciding.rows import Rows, Run, TaskRows
    from durable.store.records import RunRecord

_CLOSED: Final = bits.CLOSED
_MOVED: Final = bits.MOVED
_PARKED: Final = bits.PARKED
_PUBLISHED: Final = bits.PUBLISHED
_DESCRIBED: Final = bits.DESCRIBED

_RUN_COLUMNS: Final = ", ".join(salvage.RUN_FIELDS)
_INSERT_RUNS: Final = ManyRows(
    f"INSERT INTO durable_runs ({_RUN_COLUMNS}, open_key) VALUES", 26
)
# Nearly every run begins as the first of its chain, with nothing to wait for; open, or
# ended within its first turn.
_SHARED: Final = "namespace, workflow_type, task_queue, owner, version, status"


def _plain(shared: str, own: Sequence[str]) -> ManyRows:
    """Insert runs that share columns; some columns get the same value as another.

    Args:
        shared: columns whose values are bound once.
        own: for each value of a row the columns that it goes into.
    """
    count = shared.count(",") + 1
    columns = f"{shared}, {', '.join(own)}"
    places = [
        place for place, names in enumerate(own, start=1) for _ in names.split(", ")
    ]
    numbers = [*range(1, count + 1), *(count + place for place in places)]
    values = ", ".join(f"column{place}" for place in places)
    insert = f"INSERT INTO durable_runs ({columns})"
    return ManyRows(
        f"{insert} SELECT {', '.join('?' * count)}, {values} FROM (VALUES",  # noqa: S608 - constant names
        len(own),
        ")",
        single=f"{insert} VALUES (?{', ?'.join(map(str, numbers))})",
    )


_OPEN: Final = "workflow_id, open_key"
_FIRST: Final = "run_id, first_run_id, root_run_id"
_INSERT_PLAIN_RUNS: Final = _plain(_SHARED, [_FIRST, _OPEN, "request_id", "started_at"])
_INSERT_ENDED_RUNS: Final = _plain(
    _SHARED, [_FIRST, "workflow_id", "request_id", "started_at", "closed_at"]
)
# Children come in crowds, which share a parent.
_OF_PARENT: Final = (
    f"{_SHARED}, root_run_id, parent_workflow_id, parent_run_id, parent_close_policy"
)
_CHILD: Final = ["request_id", "started_at", "parent_initiated_event_id"]
_INSERT_PLAIN_CHILDREN: Final = _plain(
    _OF_PARENT, ["run_id, first_run_id", _OPEN, *_CHILD]
)
_INSERT_ENDED_CHILDREN: Final = _plain(
    _OF_PARENT, ["run_id, first_run_id", "workflow_id", *_CHILD, "closed_at"]
)
_INSERT_HISTORY: Final = ManyRows(
    "INSERT INTO durable_history"
    " (run_id, event_id, task_number, type, time, data, flags) VALUES",
    7,
)


def _update(columns: str, width: int) -> ManyRows:
    """Update runs by the first value of each row; {} stands for the others."""
    rows = columns.replace("{", "new.column{")
    return ManyRows(
        f"UPDATE durable_runs SET {rows.format(*range(2, width + 1))} FROM (VALUES",  # noqa: S608 - as above
        width,
        ") AS new WHERE durable_runs.run_id = new.column1",
        single=f"UPDATE durable_runs SET {columns.replace('{', '?{')}".format(  # noqa: S608 - as above
            *range(2, width + 1)
        )
        + " WHERE run_id = ?1",
    )


_CLOSE_RUNS: Final = _update(
    "status = {}, closed_at = {}, owner = NULL, wake_at = NULL,"
    " stuck = NULL, open_key = NULL",
    3,
)
# Binding None is slow, so the least integer stands for it, and the empty text.
_NO_WAKE_UP: Final = -(2**63)
_MOVE: Final = (
    "owner = nullif({}, ''), wake_at = nullif({}, -9223372036854775808), epoch = {}"
)
_MOVE_RUNS: Final = _update(_MOVE, 4)
_TAKE_UP_RUNS: Final = _update(f"{_MOVE}, stuck = NULL", 4)
_PARK_RUNS: Final = _update(f"{_MOVE}, stuck = {{}}", 5)
_PUBLISH: Final = _update(
    "state = coalesce({}, state),"
    " checkpoint_event_id = coalesce({}, checkpoint_event_id)",
    3,
)
_DESCRIBE: Final = _update("attributes = {}, memo = {}", 3)
_UNINDEX: Final = ManyKeys("DELETE FROM durable_attributes WHERE run_id IN ({})")
_INDEX: Final = ManyRows(
    "INSERT INTO durable_attributes"
    " (run_id, name, position, namespace, started_at, keyword, number) VALUES",
    7,
)
_INSERT_KINDS: Final = ManyRows(
    "INSERT INTO durable_attribute_kinds (namespace, name, kind) VALUES", 3
)
_PUT_ATTEMPTS: Final = ManyRows(
    f"INSERT OR REPLACE INTO durable_attempts ({', '.join(salvage.ATTEMPT_FIELDS)})"
    " VALUES",
    12,
)
_PUT_REPLIES: Final = ManyRows(
    "INSERT OR REPLACE INTO durable_replies (run_id, request_id, data, created_at)"
    " VALUES",
    4,
)
_INSERT_MESSAGES: Final = ManyRows(
    "INSERT INTO durable_inbox (sequence, run_id, request_id, kind, data, created_at)"
    " VALUES",
    6,
)
# `(run_id, sequence) IN (VALUES ...)` would walk the whole inbox, and so might a plain
# join, which the planner is free to turn round.
_DELETE_MESSAGES: Final = ManyRows(
    "DELETE FROM durable_inbox WHERE sequence IN (SELECT durable_inbox.sequence FROM"
    " (VALUES",
    2,
    ") AS used CROSS JOIN durable_inbox ON durable_inbox.sequence = used.column2"
    " AND durable_inbox.run_id = used.column1)",
)
_DELETE_REQUESTS: Final = ManyRows(
    "DELETE FROM durable_inbox WHERE sequence IN (SELECT durable_inbox.sequence FROM"
    " (VALUES",
    2,
    ") AS used CROSS JOIN durable_inbox ON durable_inbox.run_id = used.column1"
    " AND durable_inbox.request_id = used.column2)",
)
_DELETE_REPLIES: Final = ManyRows(
    "DELETE FROM durable_replies WHERE rowid IN (SELECT durable_replies.rowid FROM"
    " (VALUES",
    2,
    ") AS used CROSS JOIN durable_replies ON durable_replies.run_id = used.column1"
    " AND durable_replies.request_id = used.column2)",
)
_DELETE_INBOXES: Final = ManyKeys("DELETE FROM durable_inbox WHERE run_id IN ({})")
_T: Final = "durable_activity_tasks"
_KEYS: Final = f" WHERE {_T}.run_id = {{}} AND {_T}.scheduled_event_id = {{}}"
_PUT_TASKS: Final = ManyRows(
    f"INSERT OR REPLACE INTO {_T} ({', '.join(salvage.TASK_FIELDS)}) VALUES",
    len(salvage.TASK_FIELDS),
)
_CHANGE_TASKS: Final = ManyRows(
    f"UPDATE {_T} SET {writing.changes(lambda n, _: f'new.column{n}')}"  # noqa: S608 - as above
    " FROM (VALUES",
    writing.WIDTH,
    f") AS new{_KEYS.format('new.column1', 'new.column2')}",
    single=f"UPDATE {_T} SET {writing.changes(lambda n, _: f'?{n}')}"  # noqa: S608 - as above
    + _KEYS.format("?1", "?2"),
)
_DELETE_TASKS: Final = ManyRows(
    f"DELETE FROM {_T} WHERE rowid IN (SELECT {_T}.rowid FROM (VALUES",  # noqa: S608 - as above
    2,
    f") AS used CROSS JOIN {_T}{_KEYS.format('used.column1', 'used.column2')})",
)
_SET_SEQUENCE: Final = "UPDATE sqlite_sequence SET seq = ? WHERE name = 'durable_inbox'"
_FIRST_SEQUENCE: Final = "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)"


def write(cursor: sqlite3.Cursor, rows: Rows) -> None:
    """Write a group's rows."""
    # Who closes gives up its id before another takes it.
    if rows.changed:
        _update_runs(cursor, rows.changed)
    if rows.created:
        _insert_runs(cursor, rows.created)
    if rows.history:
        _INSERT_HISTORY.execute(cursor, _flatten(rows.history))
    if rows.attempts:
        attempts = map(statements.attempt_values, rows.attempts.values())
        _PUT_ATTEMPTS.execute(cursor, _flatten(attempts))
    if rows.replies:
        _write_replies(cursor, rows)
    if rows.consumed:
        _DELETE_MESSAGES.execute(cursor, _flatten(rows.consumed))
    if rows.consumed_requests:
        _DELETE_REQUESTS.execute(cursor, _flatten(rows.consumed_requests))
    if rows.emptied:
        _DELETE_INBOXES.fetch(cursor, rows.emptied)
    if rows.last_sequence is not None:
        _insert_messages(cursor, rows, rows.last_sequence)
    if rows.reindexed:
        _UNINDEX.fetch(cursor, rows.reindexed)
    if rows.attributes:
        _INDEX.execute(cursor, _flatten(rows.attributes))
    if rows.kinds:
        kinds = ((*key, kind) for key, kind in rows.kinds.items())
        _INSERT_KINDS.execute(cursor, _flatten(kinds))


def write_tasks(cursor: sqlite3.Cursor, rows: TaskRows) -> None:
    """Write what a group does to tasks."""
    if rows.ended:
        _DELETE_TASKS.execute(cursor, _flatten(rows.ended))
    if rows.changed:
        _CHANGE_TASKS.execute(cursor, _flatten(writing.changed(rows)))
    if rows.put:
        _PUT_TASKS.execute(cursor, _flatten(writing.inserted(rows)))


def _update_runs(cursor: sqlite3.Cursor, changed: list[Run]) -> None:
    closings: list[Any] = []
    moves: list[Any] = []
    uptakes: list[Any] = []
    parkings: list[Any] = []
    published: list[Any] = []
    described: list[Any] = []
    for run in changed:
        changes = run.changes
        if changes & _CLOSED:
            assert run.status is not None  # noqa: S101 - it was closed with one
            closings += (run.run_id, str(run.status), run.closed_at)
        elif changes & _MOVED:
            wake_at = _NO_WAKE_UP if run.wake_at is None else run.wake_at
            move = (run.run_id, run.owner or "", wake_at, run.epoch)
            if not changes & _PARKED:
                moves += move
            elif run.stuck is None:
                uptakes += move
            else:
                parkings += (*move, run.stuck)
        if changes & _PUBLISHED:
            published += (run.run_id, run.state, run.checkpoint_event_id)
        if changes & _DESCRIBED and run.properties is not None:
            described += (run.run_id, run.properties.attributes, run.properties.memo)
    if closings:
        _CLOSE_RUNS.execute(cursor, closings)
    if uptakes:
        _TAKE_UP_RUNS.execute(cursor, uptakes)
    if moves:
        _MOVE_RUNS.execute(cursor, moves)
    if parkings:
        _PARK_RUNS.execute(cursor, parkings)
    if published:
        _PUBLISH.execute(cursor, published)
    if described:
        _DESCRIBE.execute(cursor, described)


def _insert_runs(cursor: sqlite3.Cursor, records: list[RunRecord]) -> None:
    plain: dict[tuple[ManyRows, tuple[Any, ...]], list[Any]] = {}
    values: list[Any] = []
    # Children of many parents share too little.
    parents = {record.parent_run_id for record in records}
    is_crowd = len(parents) <= max(4, len(records) // 4)
    for record in records:
        if not (_is_plain(record) and (is_crowd or record.parent_run_id is None)):
            values += statements.run_values(record)
            continue
        shared: tuple[Any, ...] = (
            record.namespace,
            record.workflow_type,
            record.task_queue,
            record.owner,
            record.version,
            str(record.status),
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
            statement = _INSERT_PLAIN_CHILDREN if is_open else _INSERT_ENDED_CHILDREN
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
    for (statement, shared), group in plain.items():
        statement.execute(cursor, group, before=shared)
    if values:
        _INSERT_RUNS.execute(cursor, values)


def _is_plain(record: RunRecord) -> bool:
    return (
        (record.status is RUNNING) is (record.closed_at is None)
        and record.run_id == record.first_run_id
        and record.wake_at is None
        and record.stuck is None
        and record.continued_from_run_id is None
        and record.state is None
        and record.attributes is None
        and record.memo is None
        and not record.checkpoint_event_id
        and not record.epoch
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


def _write_replies(cursor: sqlite3.Cursor, rows: Rows) -> None:
    put = [
        (r.run_id, r.request_id, r.data, r.created_at)
        for r in rows.replies.values()
        if r is not None
    ]
    if put:
        _PUT_REPLIES.execute(cursor, _flatten(put))
    read = [key for key, reply in rows.replies.items() if reply is None]
    if read:
        _DELETE_REPLIES.execute(cursor, _flatten(read))


def _insert_messages(cursor: sqlite3.Cursor, rows: Rows, last: int) -> None:
    letters = rows.letters
    if letters:
        values = [
            (m.sequence, m.run_id, m.request_id, m.kind, m.data, m.created_at)
            for m in letters
        ]
        _INSERT_MESSAGES.execute(cursor, _flatten(values))
    # No number is given twice, even if its message was taken up within the group.
    if (not letters or letters[-1].sequence != last) and cursor.execute(
        _SET_SEQUENCE, (last,)
    ).rowcount == 0:
        cursor.execute(_FIRST_SEQUENCE, ("durable_inbox", last))


def _flatten(rows: Iterable[Iterable[Any]]) -> list[Any]:
    return list(itertools.chain.from_iterable(rows))
