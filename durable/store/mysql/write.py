"""What a group of operations writes, on MariaDB.

Rows that are new go many at a time. Each that changes has a statement of its own: by
its key, which locks no other, and no slower than to join it with a list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from durable.store.deciding import rows as bits
from durable.store.mysql.driver import listed, literal
from durable.store.sql import salvage, statements, tables
from durable.store.sql.tasks import writing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import sqlalchemy as sa

    from durable.store.deciding.rows import Rows, Run, TaskRows

# Of one statement; a row may be longer.
_CHARS_MAX: Final = 1_000_000


class _Insert:
    """A statement that inserts rows."""

    def __init__(self, columns: Sequence[sa.Column[Any]], after: str = "") -> None:
        names = ", ".join(column.name for column in columns)
        table = columns[0].table.name
        self._before = f"INSERT INTO {table} ({names}) VALUES "  # noqa: S608 - constants
        self._after = after

    def fill(self, rows: Iterable[Sequence[Any]]) -> Iterator[str]:
        """Return it with its rows, several times if they are long."""
        written: list[str] = []
        size = 0
        for row in rows:
            text = f"({listed(row)})"
            size += len(text)
            if written and size > _CHARS_MAX:
                yield self._before + ",".join(written) + self._after
                written, size = [], len(text)
            written.append(text)
        if written:
            yield self._before + ",".join(written) + self._after


def _put(columns: Sequence[sa.Column[Any]], keys: int) -> _Insert:
    replaced = ", ".join(f"{c.name} = VALUES({c.name})" for c in columns[keys:])
    return _Insert(columns, f" ON DUPLICATE KEY UPDATE {replaced}")


_RUNS: Final = _Insert([*statements.RUN_COLUMNS, tables.RUNS.c.open_key])
_HISTORY: Final = _Insert(statements.HISTORY_COLUMNS)
_ATTEMPTS: Final = _put([tables.ATTEMPTS.c[n] for n in salvage.ATTEMPT_FIELDS], 3)
_REPLIES: Final = _put(list(tables.REPLIES.c), 2)
_INDEX: Final = _Insert(list(tables.ATTRIBUTES.c))
_KINDS: Final = _Insert(list(tables.ATTRIBUTE_KINDS.c))
_I: Final = tables.INBOX.c
_MESSAGES: Final = _Insert(
    [_I.sequence, _I.run_id, _I.request_id, _I.kind, _I.data, _I.created_at]
)


def write(rows: Rows) -> list[str]:
    """Return the statements that write a group's rows."""
    # Who closes gives up its id before another takes it.
    found = [text for run in rows.changed if (text := _update(run))]
    if rows.created:
        found += _RUNS.fill(map(statements.run_values, rows.created))
    if rows.history:
        found += _HISTORY.fill(rows.history)
    if rows.attempts:
        found += _ATTEMPTS.fill(map(statements.attempt_values, rows.attempts.values()))
    if rows.replies:
        found += _REPLIES.fill(
            (r.run_id, r.request_id, r.data, r.created_at)
            for r in rows.replies.values()
            if r is not None
        )
    read = [key for key, reply in rows.replies.items() if reply is None]
    found += _delete("durable_replies", read)
    found += _delete("durable_inbox", rows.consumed, "sequence")
    found += _delete("durable_inbox", rows.consumed_requests)
    found += [
        f"DELETE FROM durable_inbox WHERE run_id = {literal(run_id)}"  # noqa: S608 - a literal
        for run_id in rows.emptied
    ]
    if rows.letters:
        found += _MESSAGES.fill(
            (m.sequence, m.run_id, m.request_id, m.kind, m.data, m.created_at)
            for m in rows.letters
        )
    found += [
        f"DELETE FROM durable_attributes WHERE run_id = {literal(run_id)}"  # noqa: S608 - a literal
        for run_id in rows.reindexed
    ]
    if rows.attributes:
        found += _INDEX.fill(rows.attributes)
    if rows.kinds:
        # In one order, so that no two wait for each other.
        found += _KINDS.fill(sorted((*key, kind) for key, kind in rows.kinds.items()))
    return found


_TASKS: Final = _put(list(tables.ACTIVITY_TASKS.c), 2)


def write_tasks(rows: TaskRows) -> list[str]:
    """Return the statements that write what a group does to tasks."""
    found = _delete("durable_activity_tasks", rows.ended, "scheduled_event_id")
    alike: dict[tuple[str, str], list[int]] = {}
    for (run_id, event_id), change in sorted(rows.changed.items()):
        new = (f"{name} = {literal(value)}" for name, value in change.given.items())
        alike.setdefault((run_id, ", ".join(new)), []).append(event_id)
    found += [
        f"UPDATE durable_activity_tasks SET {new} WHERE run_id = {literal(run_id)}"  # noqa: S608 - literals
        f" AND scheduled_event_id IN ({listed(event_ids)})"
        for (run_id, new), event_ids in alike.items()
        if new
    ]
    return [*found, *_TASKS.fill(writing.inserted(rows))]


def _delete(
    table: str, keys: Iterable[tuple[str, str | int]], column: str = "request_id"
) -> list[str]:
    return [
        f"DELETE FROM {table} WHERE run_id = {literal(run_id)}"  # noqa: S608 - literals
        f" AND {column} = {literal(key)}"
        for run_id, key in keys
    ]


def _update(run: Run) -> str:
    changes = run.changes
    values: list[str] = []
    if changes & bits.CLOSED:
        values += (
            f"status = {literal(str(run.status))}",
            f"closed_at = {literal(run.closed_at)}",
            "owner = NULL, wake_at = NULL, stuck = NULL, open_key = NULL",
        )
    elif changes & bits.MOVED:
        values += (
            f"owner = {literal(run.owner)}",
            f"wake_at = {literal(run.wake_at)}",
            f"epoch = {literal(run.epoch)}",
        )
        if changes & bits.PARKED:
            values.append(f"stuck = {literal(run.stuck)}")
    if changes & bits.PUBLISHED:
        if run.state is not None:
            values.append(f"state = {literal(run.state)}")
        if run.checkpoint_event_id is not None:
            values.append(f"checkpoint_event_id = {literal(run.checkpoint_event_id)}")
    if changes & bits.DESCRIBED and run.properties is not None:
        values += (
            f"attributes = {literal(run.properties.attributes)}",
            f"memo = {literal(run.properties.memo)}",
        )
    if not values:
        return ""
    key = literal(run.run_id)
    return f"UPDATE durable_runs SET {', '.join(values)} WHERE run_id = {key}"  # noqa: S608 - literals
