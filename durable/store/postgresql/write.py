"""What a group of operations writes, on PostgreSQL: one statement a kind of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from durable.store.deciding import rows as bits
from durable.store.postgresql.driver import Statement, numbers, texts
from durable.store.sql import row_kinds, statements, tables
from durable.store.sql.row_kinds import (
    RUNS,
    TASKS,
    TASKS_ENDED,
    How,
    RowKind,
    written,
)
from durable.store.sql.tasks import writing

if TYPE_CHECKING:
    import sqlalchemy as sa

    from durable.store.deciding.rows import Rows, Run, TaskRows
    from durable.store.deciding.wanted import Wanted
    from durable.store.records import HistoryRow

_Pack = Callable[[Sequence[Any]], Any]


class _ManyRows:
    """A statement that takes rows as one array a column."""

    def __init__(self, columns: Sequence[sa.Column[Any]], text: str) -> None:
        """Compose the text; {columns} are the names, {rows} the rows by those names."""
        self._packs: list[_Pack] = []
        casts: list[str] = []
        for column in columns:
            is_number = column.type.python_type is int
            casts.append("%b::int8[]" if is_number else "%b::text[]")
            self._packs.append(numbers if is_number else texts)
        listed = ", ".join(column.name for column in columns)
        rows = f"unnest({', '.join(casts)}) AS n({listed})"
        self._text = text.format(columns=listed, rows=rows)

    def fill(self, rows: Iterable[Sequence[Any]], *before: Any) -> Statement:
        """Return it with its rows, of which there is at least one.

        `before` are the values of its text that come before the rows.
        """
        columns = zip(self._packs, zip(*rows, strict=True), strict=True)
        return Statement(self._text, (*before, *(pack(one) for pack, one in columns)))


def _compose(kind: RowKind) -> _ManyRows:
    table = kind.table
    new = "excluded" if kind.how is How.PUT else "n"
    same, changes = kind.clauses(lambda _, name: f"{new}.{name}")
    insert = f"INSERT INTO {table} ({{columns}}) SELECT * FROM {{rows}}"  # noqa: S608 - constant names, here and below
    texts = {
        How.INSERTED: insert,
        How.PUT: f"{insert} ON CONFLICT ({kind.key}) DO UPDATE SET {changes}",
        How.UPDATED: f"UPDATE {table} SET {changes} FROM {{rows}} WHERE {same}",  # noqa: S608 - as above
        How.DELETED: f"DELETE FROM {table} USING {{rows}} WHERE {same}",  # noqa: S608 - as above
    }
    return _ManyRows(kind.columns, texts[kind.how])


_STATEMENTS: Final = {kind: _compose(kind) for kind in row_kinds.ALL}


def _update(names: str, value: str = "n.{}", more: str = "") -> _ManyRows:
    columns = [tables.RUNS.c[name] for name in ("run_id", *names.split())]
    kind = RowKind(How.UPDATED, columns, 1)
    same, changes = kind.clauses(lambda _, name: value.format(name))
    text = f"UPDATE durable_runs SET {changes}{more} FROM {{rows}} WHERE {same}"  # noqa: S608 - as above
    return _ManyRows(columns, text)


_CLOSE: Final = _update(
    "status closed_at",
    more=", owner = NULL, wake_at = NULL, stuck = NULL, open_key = NULL",
)
_MOVE: Final = _update("owner wake_at epoch")
_PARK: Final = _update("owner wake_at epoch stuck")
_PUBLISH: Final = _update(
    "state checkpoint_event_id", "coalesce(n.{0}, durable_runs.{0})"
)
_DESCRIBE: Final = _update("attributes memo")
_T: Final = tables.ACTIVITY_TASKS.c
_TASKS_CHANGED: Final = _ManyRows(
    [_T[name] for name in writing.NAMES],
    writing.UPDATE.format(
        changes=writing.changes(lambda _, name: f"n.{name}"), rows="{rows}"
    ),
)

LOCK_WORKER: Final = "SELECT 1 FROM durable_workers WHERE worker_id = %b FOR KEY SHARE"
_LOCK_RUNS: Final = (
    "SELECT 1 FROM durable_runs WHERE run_id = ANY(%b::text[]) ORDER BY run_id"
    " FOR NO KEY UPDATE"
)
# Looked at after all is locked, so in a later statement than the locks.
_CONTINUE: Final = _ManyRows(
    statements.HISTORY_COLUMNS,
    "WITH found AS MATERIALIZED (SELECT"
    " EXISTS (SELECT 1 FROM durable_workers WHERE worker_id = %b)"
    " AND NOT EXISTS (SELECT 1"
    " FROM unnest(%b::text[], %b::int8[], %b::int8[]) AS p(id, last, epoch)"
    " WHERE (SELECT r.epoch FROM durable_runs AS r WHERE r.run_id = p.id"
    " AND r.owner = %b) IS DISTINCT FROM p.epoch"
    " OR (SELECT max(h.event_id) FROM durable_history AS h WHERE h.run_id = p.id)"
    " IS DISTINCT FROM p.last) AS is_so),"
    " written AS (INSERT INTO durable_history ({columns})"
    " SELECT n.* FROM found, {rows} WHERE found.is_so) SELECT is_so FROM found",
)


def insert_all(table: sa.Table, rows: Iterable[Sequence[Any]]) -> Statement:
    """Return the statement that inserts whole rows of a table."""
    return _compose(RowKind(How.INSERTED, list(table.c))).fill(rows)


def append(wanted: Wanted, rows: Sequence[HistoryRow]) -> dict[str, Statement]:
    """Return statements that append to runs if all are as their worker believes.

    The answer to `appended` says so. What is wanted `only_continues`.
    """
    worker_id, places = wanted.worker_id or "", wanted.places
    run_ids = texts(list(places))
    lasts, epochs = map(numbers, zip(*places.values(), strict=True))
    believed = (worker_id, run_ids, lasts, epochs, worker_id)
    return {
        "worker": Statement(LOCK_WORKER, (worker_id,)),
        "runs": Statement(_LOCK_RUNS, (run_ids,)),
        "appended": _CONTINUE.fill(rows, *believed),
    }


def write(rows: Rows) -> list[Statement]:
    """Return the statements that write a group's rows."""
    # Who closes gives up its id before another takes it.
    found = _write_runs(rows.changed) if rows.changed else []
    if rows.created:
        found.append(_STATEMENTS[RUNS].fill(map(statements.run_values, rows.created)))
    found += [_STATEMENTS[kind].fill(values) for kind, values in written(rows)]
    return found


def write_tasks(rows: TaskRows) -> list[Statement]:
    """Return the statements that write what a group does to tasks."""
    wanted = (
        (_STATEMENTS[TASKS_ENDED], rows.ended),
        (_TASKS_CHANGED, list(writing.changed(rows))),
        (_STATEMENTS[TASKS], list(writing.inserted(rows))),
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
