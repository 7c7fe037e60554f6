"""What a group of operations writes, kind by kind; each database has its own texts.

Runs that change are not among it: what of them changes differs from run to run.
"""

from __future__ import annotations

import enum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from durable.store.sql import statements, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import sqlalchemy as sa

    from durable.store.deciding.rows import Rows


class How(enum.Enum):
    """What becomes of a row."""

    INSERTED = enum.auto()
    PUT = enum.auto()
    """Inserted, or all of it replaced."""
    UPDATED = enum.auto()
    DELETED = enum.auto()


class RowKind:
    """Rows that are written alike.

    Attributes:
        how: what becomes of them.
        columns: those whose values each row has.
        table: the name of theirs.
        names: the names of the columns, as statements list them.
        key: the names of the first of them, by which rows are found.
    """

    def __init__(
        self, how: How, columns: Sequence[sa.Column[Any]], keys: int = 0
    ) -> None:
        """Name the columns; so many of them are the key."""
        self._names = [column.name for column in columns]
        self._keys = keys
        self.how, self.columns = how, columns
        self.table = str(columns[0].table)
        self.names = ", ".join(self._names)
        self.key = ", ".join(self._names[:keys])

    def clauses(self, value_of: Callable[[int, str], str]) -> tuple[str, str]:
        """Compose what follows WHERE, and what follows SET.

        `value_of` is told the place of a column, from 1, and its name.
        """
        texts = [f"{n} = {value_of(i, n)}" for i, n in enumerate(self._names, 1)]
        same = (f"{self.table}.{text}" for text in texts[: self._keys])
        return " AND ".join(same), ", ".join(texts[self._keys :])


def _deleted(*columns: sa.Column[Any]) -> RowKind:
    return RowKind(How.DELETED, columns, len(columns))


_I: Final = tables.INBOX.c
_O: Final = tables.OUTBOX.c
_T: Final = tables.ACTIVITY_TASKS.c
_S: Final = [_O.sequence, _O.due_at, _O.tries, _O.failure]

RUNS: Final = RowKind(How.INSERTED, [*statements.RUN_COLUMNS, tables.RUNS.c.open_key])
HISTORY: Final = RowKind(How.INSERTED, statements.HISTORY_COLUMNS)
TASKS: Final = RowKind(How.PUT, list(_T), 2)
TASKS_ENDED: Final = _deleted(_T.run_id, _T.scheduled_event_id)
_ATTEMPTS: Final = RowKind(How.PUT, statements.ATTEMPT_COLUMNS, 3)
_REPLIES: Final = RowKind(How.PUT, list(tables.REPLIES.c), 2)
_READ: Final = _deleted(tables.REPLIES.c.run_id, tables.REPLIES.c.request_id)
_CONSUMED: Final = _deleted(_I.run_id, _I.sequence)
_REQUESTS_CONSUMED: Final = _deleted(_I.run_id, _I.request_id)
_EMPTIED: Final = _deleted(_I.run_id)
_LETTERS: Final = RowKind(How.INSERTED, list(_I))
_REINDEXED: Final = _deleted(tables.ATTRIBUTES.c.run_id)
_ATTRIBUTES: Final = RowKind(How.INSERTED, list(tables.ATTRIBUTES.c))
_MARKS: Final = RowKind(How.PUT, list(tables.ATTRIBUTES.c), 3)
_KINDS: Final = RowKind(How.INSERTED, list(tables.ATTRIBUTE_KINDS.c))
_DELIVERED: Final = _deleted(_O.sequence)
_SETTLED: Final = RowKind(How.UPDATED, _S, 1)
ALL: Final = [kind for kind in vars().values() if isinstance(kind, RowKind)]

_reply_values: Final = attrgetter(*tables.REPLIES.c.keys())
_letter_values: Final = attrgetter(*_I.keys())
_settled_values: Final = attrgetter(*(column.name for column in _S))


def written(rows: Rows) -> Iterator[tuple[RowKind, Iterable[Sequence[Any]]]]:
    """Yield the values of rows in the order of writing; of each kind there are some.

    Runs are left out, which are written before.
    """
    if rows.history:
        yield HISTORY, rows.history
    if rows.attempts:
        yield _ATTEMPTS, map(statements.attempt_values, rows.attempts.values())
    if rows.replies:
        replies = [reply for reply in rows.replies.values() if reply is not None]
        if replies:
            yield _REPLIES, map(_reply_values, replies)
        if len(replies) < len(rows.replies):
            yield _READ, [key for key, reply in rows.replies.items() if reply is None]
    if rows.consumed:
        yield _CONSUMED, rows.consumed
    if rows.consumed_requests:
        yield _REQUESTS_CONSUMED, rows.consumed_requests
    if rows.emptied:
        yield _EMPTIED, zip(rows.emptied, strict=True)
    if rows.letters:
        yield _LETTERS, map(_letter_values, rows.letters)
    if rows.reindexed:
        yield _REINDEXED, zip(rows.reindexed, strict=True)
    if rows.attributes:
        yield _ATTRIBUTES, rows.attributes
    if rows.marks:
        yield _MARKS, rows.marks.values()
    if rows.kinds:
        # In one order, so that no two wait for each other.
        yield _KINDS, sorted((*key, kind) for key, kind in rows.kinds.items())
    if rows.delivered:
        yield _DELIVERED, zip(rows.delivered, strict=True)
    if rows.settled:
        yield _SETTLED, map(_settled_values, rows.settled.values())
