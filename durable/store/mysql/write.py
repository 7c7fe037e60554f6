"""What a group of operations writes, on MariaDB.

Rows that are new go many at a time. Each that changes has a statement of its own: by
its key, which locks no other, and no slower than to join it with a list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from durable.store.deciding import rows as bits
from durable.store.mysql.driver import listed, literal
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from durable.store.deciding.rows import Rows, Run, TaskRows

# Of one statement; a row may be longer.
_CHARS_MAX: Final = 1_000_000


class _Insert:
    """A statement that inserts rows."""

    def __init__(self, kind: RowKind) -> None:
        self._before = f"INSERT INTO {kind.table} ({kind.names}) VALUES "  # noqa: S608 - constants
        _, changes = kind.clauses(lambda _, name: f"VALUES({name})")
        is_put = kind.how is How.PUT
        self._after = f" ON DUPLICATE KEY UPDATE {changes}" if is_put else ""

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


class _Each:
    """A statement that changes one row, or deletes it."""

    def __init__(self, kind: RowKind) -> None:
        same, changes = kind.clauses(lambda place, _: f"{{{place - 1}}}")
        table = kind.table
        verb = f"UPDATE {table} SET {changes}" if changes else f"DELETE FROM {table}"  # noqa: S608 - constants
        self._text = f"{verb} WHERE {same}"

    def fill(self, rows: Iterable[Sequence[Any]]) -> Iterator[str]:
        """Return it for each row."""
        return (self._text.format(*map(literal, row)) for row in rows)


_STATEMENTS: Final = {
    kind: (_Insert if kind.how in (How.INSERTED, How.PUT) else _Each)(kind)
    for kind in row_kinds.ALL
}


def write(rows: Rows) -> list[str]:
    """Return the statements that write a group's rows."""
    # Who closes gives up its id before another takes it.
    found = [text for run in rows.changed if (text := _update(run))]
    found += _STATEMENTS[RUNS].fill(map(statements.run_values, rows.created))
    for kind, values in written(rows):
        found += _STATEMENTS[kind].fill(values)
    return found


def write_tasks(rows: TaskRows) -> list[str]:
    """Return the statements that write what a group does to tasks."""
    found = [*_STATEMENTS[TASKS_ENDED].fill(rows.ended)]
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
    return [*found, *_STATEMENTS[TASKS].fill(writing.inserted(rows))]


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
