"""Rows as they are copied: which every database can hold, their digest, no owners."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec
import sqlalchemy as sa

from durable.errors import CorruptHistoryError
from durable.store.records import TaskState, at_once
from durable.store.sql.tables import ACTIVITY_TASKS, METADATA, RUNS, WORKERS

if TYPE_CHECKING:
    from collections.abc import Sequence

Row: TypeAlias = tuple[Any, ...]

TABLES: Final = tuple(table for table in METADATA.sorted_tables if table is not WORKERS)
"""What is copied; workers are processes, and live where they are."""

_DIGEST_BYTES: Final = 32
_SHOWN_CHARS_MAX: Final = 80
_encode: Final = msgspec.msgpack.Encoder().encode


class Sum(NamedTuple):
    """What a table holds, for comparing."""

    rows: int
    digest: str


class Digest:
    """The BLAKE2b of rows, each as an array of MessagePack, in the order of the key."""

    def __init__(self) -> None:
        """Begin without a row."""
        self.rows = 0
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)

    def add(self, rows: Sequence[Row]) -> None:
        """Go on with these; how rows are grouped makes no difference."""
        self._hash.update(b"".join(map(_encode, rows)))
        self.rows += len(rows)

    @property
    def sum(self) -> Sum:
        """What it is by now."""
        return Sum(self.rows, self._hash.hexdigest())


# --- owners ---------------------------------------------------------------------------

_NAMES: Final = [column.name for column in RUNS.c]
_OWNER, _WAKE_AT, _EPOCH = map(_NAMES.index, ("owner", "wake_at", "epoch"))


def disown(rows: Sequence[Row], now: int) -> list[Row]:
    """Return runs at rest and due that had an owner, as if it had been reaped."""
    return [row if row[_OWNER] is None else _at_rest(row, now) for row in rows]


def _at_rest(row: Row, now: int) -> Row:
    changed = list(row)
    changed[_OWNER] = None
    changed[_WAKE_AT] = at_once(now)
    changed[_EPOCH] += 1
    return tuple(changed)


_TASKS: Final = [column.name for column in ACTIVITY_TASKS.c]
_STATE, _EXPIRES_AT = map(_TASKS.index, ("state", "expires_at"))


def lose(rows: Sequence[Row]) -> list[Row]:
    """Return tasks that were claimed as lost, likewise."""
    return [row if row[_STATE] != TaskState.CLAIMED else _lost(row) for row in rows]


def _lost(row: Row) -> Row:
    changed = list(row)
    changed[_STATE], changed[_EXPIRES_AT] = TaskState.LOST.value, 0
    return tuple(changed)


# --- what every database can hold -----------------------------------------------------


class _Rule(NamedTuple):
    """What a column may hold: SQLite takes anything, others do not."""

    name: str
    types: frozenset[type]
    bits: int
    """Of a number; 0 for a text."""
    chars: int | None

    def find_fault(self, values: Sequence[Any]) -> str | None:
        """Say what one of the values is that none may be."""
        if not self.types.issuperset(map(type, values)):
            return self._name_type(next(v for v in values if type(v) not in self.types))
        given = [value for value in values if value is not None]
        if not given:
            return None
        if self.bits:
            limit = 2 ** (self.bits - 1)
            if min(given) < -limit or max(given) >= limit:
                return f"a number of more than {self.bits} bits"
        elif any("\0" in value for value in given):
            return "text with a NUL"
        elif self.chars is not None and max(map(len, given)) > self.chars:
            return f"text of more than {self.chars} characters"
        return None

    def _name_type(self, value: Any) -> str:
        if value is None:
            return "nothing"
        if isinstance(value, bytes):
            return "bytes that are no UTF-8 text"
        wanted = "a number" if self.bits else "text"
        return f"{type(value).__name__} instead of {wanted}"


def _rule_of(column: sa.Column[Any]) -> _Rule:
    kind = column.type
    is_number = isinstance(kind, sa.Integer)
    types: set[type] = {int if is_number else str}
    if column.nullable:
        types.add(type(None))
    bits = 0
    if is_number:  # a variant for SQLite is not what others have
        bits = 64 if isinstance(kind, sa.BigInteger) else 32
    chars = kind.length if isinstance(kind, sa.String) else None
    return _Rule(column.name, frozenset(types), bits, chars)


_RULES: Final = {table.name: [_rule_of(c) for c in table.c] for table in TABLES}


def check(table: sa.Table, rows: Sequence[Row]) -> None:
    """Return if every database can hold these rows as they are.

    Raises:
        CorruptHistoryError: one of them was changed by something else.
    """
    rules = _RULES[table.name]
    for place, (rule, values) in enumerate(
        zip(rules, zip(*rows, strict=True), strict=True)
    ):
        if rule.find_fault(values) is None:
            continue
        for row in rows:
            fault = rule.find_fault([row[place]])
            if fault is not None:
                raise _cannot_be_copied(table, row, rule.name, fault)


def _cannot_be_copied(
    table: sa.Table, row: Row, column: str, fault: str
) -> CorruptHistoryError:
    values = dict(zip((c.name for c in table.c), row, strict=True))
    key = ", ".join(
        f"{column.name} {_show(values[column.name])}"
        for column in table.primary_key.columns
        if column.name != "run_id"
    )
    where = f"{table.name}, {key}" if key else table.name
    whose = "A namespace"
    if "run_id" in values:
        whose = f"Run {_show(values['run_id'])}"
    return CorruptHistoryError(
        f"{whose} cannot be copied: the column {column!r} of its"
        f" row in {where} holds {fault}, which not every database can hold.",
        hint="Something other than this library has changed it. Nothing was copied:"
        " mend that row, or delete it, and run the command again.",
    )


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS_MAX else f"{text[:_SHOWN_CHARS_MAX]}..."
