"""What a group of operations writes, on SQLite: raw SQL on the driver's connection."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

from durable.store.deciding import rows as bits
from durable.store.records import RUNNING
from durable.store.sql import row_kinds, statements
from durable.store.sql.row_kinds import (
    RUNS,
    TASKS,
    TASKS_ENDED,
    How,
    RowKind,
    written,
)
from durable.store.sql.tasks import writing
from durable.store.sqlite.texts import ManyRows

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from durable.store.deciding.rows import Rows, Run, TaskRows
    from durable.store.records import RunRecord

_chained: Final = itertools.chain.from_iterable
_CLOSED: Final = bits.CLOSED
_MOVED: Final = bits.MOVED
_PARKED: Final = bits.PARKED
_PUBLISHED: Final = bits.PUBLISHED
_DESCRIBED: Final = bits.DESCRIBED


def _compose(kind: RowKind) -> ManyRows:
    table, width = kind.table, len(kind.columns)
    same, changes = kind.clauses(lambda place, _: f"new.column{place}")
    insert = f"INTO {table} ({kind.names}) VALUES"
    if kind.how is How.INSERTED:
        return ManyRows(f"INSERT {insert}", width)
    if kind.how is How.PUT:
        return ManyRows(f"INSERT OR REPLACE {insert}", width)
    if kind.how is How.UPDATED:
        return ManyRows(
            f"UPDATE {table} SET {changes} FROM (VALUES",  # noqa: S608 - constant names, here and below
            width,
            f") AS new WHERE {same}",
        )
    if width == 1:
        return ManyRows(f"DELETE FROM {table} WHERE {kind.key} IN (", 1, ")")  # noqa: S608 - as above
    # `(run_id, sequence) IN (VALUES ...)` would walk the whole table, and so might a
    # plain join, which the planner is free to turn round.
    return ManyRows(
        f"DELETE FROM {table} WHERE rowid IN (SELECT {table}.rowid FROM (VALUES",  # noqa: S608 - as above
        width,
        f") AS new CROSS JOIN {table} ON {same})",
    )


_STATEMENTS: Final = {kind: _compose(kind) for kind in row_kinds.ALL}
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
_T: Final = "durable_activity_tasks"
_KEYS: Final = f" WHERE {_T}.run_id = {{}} AND {_T}.scheduled_event_id = {{}}"
_CHANGE_TASKS: Final = ManyRows(
    f"UPDATE {_T} SET {writing.changes(lambda n, _: f'new.column{n}')}"  # noqa: S608 - as above
    " FROM (VALUES",
    writing.WIDTH,
    f") AS new{_KEYS.format('new.column1', 'new.column2')}",
    single=f"UPDATE {_T} SET {writing.changes(lambda n, _: f'?{n}')}"  # noqa: S608 - as above
    + _KEYS.format("?1", "?2"),
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
    for kind, values in written(rows):
        _STATEMENTS[kind].execute(cursor, list(_chained(values)))
    if rows.last_sequence is not None:
        _raise_sequence(cursor, rows, rows.last_sequence)


def write_tasks(cursor: sqlite3.Cursor, rows: TaskRows) -> None:
    """Write what a group does to tasks."""
    if rows.ended:
        _STATEMENTS[TASKS_ENDED].execute(cursor, list(_chained(rows.ended)))
    if rows.changed:
        _CHANGE_TASKS.execute(cursor, list(_chained(writing.changed(rows))))
    if rows.put:
        _STATEMENTS[TASKS].execute(cursor, list(_chained(writing.inserted(rows))))


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
        _STATEMENTS[RUNS].execute(cursor, values)


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


def _raise_sequence(cursor: sqlite3.Cursor, rows: Rows, last: int) -> None:
    # No number is given twice, even if its message was taken up within the group.
    letters = rows.letters
    if (not letters or letters[-1].sequence != last) and cursor.execute(
        _SET_SEQUENCE, (last,)
    ).rowcount == 0:
        cursor.execute(_FIRST_SEQUENCE, ("durable_inbox", last))
