"""What a group of operations writes, on PostgreSQL: one statement a kind of rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from durable.store.deciding import rows as bits
from durable.store.postgresql.driver import Statement, numbers, texts
from durable.store.sql import salvage, statements, tables
from durable.store.sql.tasks import writing

if TYPE_CHECKING:
    import sqlalchemy as sa

    from durable.store.deciding.rows import Rows, Run, TaskRows

_Pack = Callable[[Sequence[Any]], Any]


class _ManyRows:
    """A statement that takes rows as one array a column."""

    def __init__(self, columns: Iterable[sa.Column[Any]], text: str) -> None:
        """Compose the text; {columns} are the names, {rows} the rows by those names."""
        names: list[str] = []
        casts: list[str] = []
        self._packs: list[_Pack] = []
        for column in columns:
            is_number = column.type.python_type is int
            names.append(column.name)
            casts.append("%b::int8[]" if is_number else "%b::text[]")
            pack: _Pack = numbers if is_number else texts
            self._packs.append(pack)
        listed = ", ".join(names)
        rows = f"unnest({', '.join(casts)}) AS n({listed})"
        self._text = text.format(columns=listed, rows=rows)

    def fill(self, rows: Iterable[Sequence[Any]]) -> Statement:
        """Return it with its rows; there is at least one."""
        columns = zip(*rows, strict=True)
        return Statement(
            self._text,
            tuple(
                pack(column) for pack, column in zip(self._packs, columns, strict=True)
            ),
        )


def _insert(columns: Sequence[sa.Column[Any]], after: str = "") -> _ManyRows:
    table = columns[0].table.name
    return _ManyRows(
        columns,
        f"INSERT INTO {table} ({{columns}}) SELECT * FROM {{rows}}{after}",  # noqa: S608 - constant names, here and below
    )


def _put(columns: Sequence[sa.Column[Any]], keys: int) -> _ManyRows:
    names = [column.name for column in columns]
    replaced = ", ".join(f"{name} = excluded.{name}" for name in names[keys:])
    return _insert(
        columns, f" ON CONFLICT ({', '.join(names[:keys])}) DO UPDATE SET {replaced}"
    )


def _update(names: Sequence[str], changes: str) -> _ManyRows:
    columns = [tables.RUNS.c[name] for name in ("run_id", *names)]
    return _ManyRows(
        columns,
        f"UPDATE durable_runs SET {changes} FROM {{rows}}"  # noqa: S608 - as above
        " WHERE durable_runs.run_id = n.run_id",
    )


def _delete(columns: Sequence[sa.Column[Any]]) -> _ManyRows:
    table = columns[0].table.name
    same = " AND ".join(f"{table}.{c.name} = n.{c.name}" for c in columns)
    return _ManyRows(columns, f"DELETE FROM {table} USING {{rows}} WHERE {same}")  # noqa: S608 - as above


_CLOSE: Final = _update(
    ["status", "closed_at"],
    "status = n.status, closed_at = n.closed_at, owner = NULL, wake_at = NULL,"
    " stuck = NULL, open_key = NULL",
)
_PLACE: Final = ["owner", "wake_at", "epoch"]
_MOVED: Final = "owner = n.owner, wake_at = n.wake_at, epoch = n.epoch"
_MOVE: Final = _update(_PLACE, _MOVED)
_PARK: Final = _update([*_PLACE, "stuck"], f"{_MOVED}, stuck = n.stuck")
_PUBLISH: Final = _update(
    ["state", "checkpoint_event_id"],
    "state = coalesce(n.state, durable_runs.state), checkpoint_event_id ="
    " coalesce(n.checkpoint_event_id, durable_runs.checkpoint_event_id)",
)
_DESCRIBE: Final = _update(
    ["attributes", "memo"], "attributes = n.attributes, memo = n.memo"
)
_UNINDEX: Final = _delete([tables.ATTRIBUTES.c.run_id])
_INDEX: Final = _insert(list(tables.ATTRIBUTES.c))
_KINDS: Final = _insert(list(tables.ATTRIBUTE_KINDS.c))
_RUNS: Final = _insert([*statements.RUN_COLUMNS, tables.RUNS.c.open_key])
_HISTORY: Final = _insert(statements.HISTORY_COLUMNS)
_ATTEMPTS: Final = _put([tables.ATTEMPTS.c[n] for n in salvage.ATTEMPT_FIELDS], 3)
_REPLIES: Final = _put(list(tables.REPLIES.c), 2)
_I: Final = tables.INBOX.c
_MESSAGES: Final = _insert(
    [_I.sequence, _I.run_id, _I.request_id, _I.kind, _I.data, _I.created_at]
)
_TAKEN: Final = _delete([_I.run_id, _I.sequence])
_TAKEN_REQUESTS: Final = _delete([_I.run_id, _I.request_id])
_EMPTIED: Final = _delete([_I.run_id])
_T: Final = tables.ACTIVITY_TASKS.c
_TASKS: Final = _put(list(_T), 2)
_TASKS_ENDED: Final = _delete([_T.run_id, _T.scheduled_event_id])
_TASKS_CHANGED: Final = _ManyRows(
    [_T[name] for name in writing.NAMES],
    writing.UPDATE.format(
        changes=writing.changes(lambda _, name: f"n.{name}"), rows="{rows}"
    ),
)
_READ: Final = _delete([tables.REPLIES.c.run_id, tables.REPLIES.c.request_id])


_WHOLE: Final = {
    table.name: _insert(list(table.c)) for table in tables.METADATA.tables.values()
}


def insert_all(table: sa.Table, rows: Iterable[Sequence[Any]]) -> Statement:
    """Return the statement that inserts whole rows of a table."""
    return _WHOLE[table.name].fill(rows)


def write(rows: Rows) -> list[Statement]:
    """Return the statements that write a group's rows."""
    letters = [
        (m.sequence, m.run_id, m.request_id, m.kind, m.data, m.created_at)
        for m in rows.letters
    ]
    replies = [
        (r.run_id, r.request_id, r.data, r.created_at)
        for r in rows.replies.values()
        if r is not None
    ]
    wanted: tuple[tuple[_ManyRows, Collection[Any]], ...] = (
        (_RUNS, [statements.run_values(run) for run in rows.created]),
        (_HISTORY, rows.history),
        (_ATTEMPTS, [statements.attempt_values(a) for a in rows.attempts.values()]),
        (_REPLIES, replies),
        (_READ, [key for key, reply in rows.replies.items() if reply is None]),
        (_TAKEN, rows.consumed),
        (_TAKEN_REQUESTS, rows.consumed_requests),
        (_EMPTIED, [(run_id,) for run_id in rows.emptied]),
        (_MESSAGES, letters),
        (_UNINDEX, [(run_id,) for run_id in rows.reindexed]),
        (_INDEX, rows.attributes),
        # In one order, so that no two wait for each other.
        (_KINDS, sorted((*key, kind) for key, kind in rows.kinds.items())),
    )
    # Who closes gives up its id before another takes it.
    found = _write_runs(rows.changed) if rows.changed else []
    return found + [text.fill(values) for text, values in wanted if values]


def write_tasks(rows: TaskRows) -> list[Statement]:
    """Return the statements that write what a group does to tasks."""
    wanted = (
        (_TASKS_ENDED, rows.ended),
        (_TASKS_CHANGED, list(writing.changed(rows))),
        (_TASKS, list(writing.inserted(rows))),
    )
    return [text.fill(values) for text, values in wanted if values]


def _write_runs(changed: list[Run]) -> list[Statement]:
    found: dict[_ManyRows, list[tuple[Any, ...]]] = {
        text: [] for text in (_CLOSE, _MOVE, _PARK, _PUBLISH, _DESCRIBE)
    }
    for run in changed:
        changes = run.changes
        if changes & bits.CLOSED:
            found[_CLOSE].append((run.run_id, str(run.status), run.closed_at))
        elif changes & bits.MOVED:
            move = (run.run_id, run.owner, run.wake_at, run.epoch)
            if changes & bits.PARKED:
                found[_PARK].append((*move, run.stuck))
            else:
                found[_MOVE].append(move)
        if changes & bits.PUBLISHED:
            shown = (run.run_id, run.state, run.checkpoint_event_id)
            found[_PUBLISH].append(shown)
        what = run.properties
        if changes & bits.DESCRIBED and what is not None:
            found[_DESCRIBE].append((run.run_id, what.attributes, what.memo))
    return [text.fill(rows) for text, rows in found.items() if rows]
