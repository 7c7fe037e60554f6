"""Conditions on runs in SQL, of two values: what is missing meets no comparison."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

import sqlalchemy as sa

from durable.core.history.payload import PAUSED_TEXT
from durable.search.conditions import (
    All,
    Among,
    Compare,
    Condition,
    IsNull,
    Leaf,
    Not,
    OneOf,
    StartsWith,
)
from durable.search.kinds import Kept
from durable.search.run_fields import COLUMN_OF
from durable.store.sql.tables import ATTRIBUTES, RUNS, duration

Clause = sa.ColumnElement[bool]

_OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


_PAUSED: Final[Clause] = sa.and_(
    RUNS.c.stuck.is_not(None), RUNS.c.stuck.startswith(PAUSED_TEXT, autoescape=True)
)


def stuck_clause(*, is_paused: bool = False) -> Clause:
    """Return that a run is parked: because it is paused, or for another reason."""
    found = _PAUSED if is_paused else sa.not_(_PAUSED)
    return sa.and_(RUNS.c.stuck.is_not(None), found)


def value_column(leaf: Compare | Among | StartsWith) -> sa.Column[Any]:
    """Return the column of attributes that the values of a comparison are in."""
    match leaf:
        case Compare(value=value):
            sample: Kept = value
        case Among(values=values):
            # No value of an attribute is of two kinds.
            sample = values[0] if values else ""
        case StartsWith(prefix=prefix):
            sample = prefix
    return ATTRIBUTES.c.keyword if isinstance(sample, str) else ATTRIBUTES.c.number


def system_column(name: str) -> sa.ColumnElement[Any]:
    """Return what every run has, by its name."""
    if name == "Stuck":
        return sa.case((stuck_clause(), sa.literal(1)), else_=sa.literal(0))
    if name == "Paused":
        return sa.case((_PAUSED, sa.literal(1)), else_=sa.literal(0))
    if name == "ExecutionDuration":
        return duration
    if name == "RootRunId":
        return sa.func.coalesce(RUNS.c.root_run_id, RUNS.c.first_run_id)
    return RUNS.c[COLUMN_OF[name]]


def clause_of(condition: Condition) -> Clause:
    """Return a condition on a row of runs."""
    match condition:
        case All(parts):
            return sa.and_(sa.true(), *map(clause_of, parts))
        case OneOf(parts):
            return sa.or_(sa.false(), *map(clause_of, parts))
        case Not(part):
            return sa.not_(clause_of(part))
        case Compare() | Among() | StartsWith() | IsNull():
            return _leaf(condition)
        case _:
            raise TypeError(condition)


def _leaf(leaf: Leaf) -> Clause:
    if isinstance(leaf, IsNull):
        if leaf.is_system:
            return system_column(leaf.field).is_(None)
        return sa.not_(_of_run(leaf.field))
    if not leaf.is_system:
        return _of_run(leaf.field, of_attributes(leaf))
    column = system_column(leaf.field)
    return sa.and_(column.is_not(None), compared(column, leaf))


def _of_run(name: str, *conditions: Clause) -> Clause:
    mine = ATTRIBUTES.c.run_id == RUNS.c.run_id, ATTRIBUTES.c.name == name
    found = sa.select(sa.literal(1)).select_from(ATTRIBUTES).where(*mine, *conditions)
    return found.correlate(RUNS).exists()


def of_attributes(leaf: Compare | Among | StartsWith) -> Clause:
    """Return a comparison on a row of attributes, but for its name."""
    return compared(value_column(leaf), leaf)


def compared(
    column: sa.ColumnElement[Any], leaf: Compare | Among | StartsWith
) -> Clause:
    """Return a comparison with a column."""
    match leaf:
        case Compare(how=how, value=value):
            clause: Clause = _OPERATORS[how](column, value)
            return clause
        case Among(values=values):
            return column.in_(values) if values else sa.false()
        case StartsWith(prefix=prefix):
            # Not LIKE, which is not of one case everywhere, nor walks an index.
            above = next_text(prefix)
            low: Clause = column >= prefix
            return low if above is None else sa.and_(low, column < above)


def next_text(prefix: str) -> str | None:
    """Return the first text above all that begin with one; None if there is none."""
    while prefix:
        code = ord(prefix[-1]) + 1
        if code <= 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if 0xD800 <= code < 0xE000 else code)
        prefix = prefix[:-1]
    return None
