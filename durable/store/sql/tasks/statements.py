"""What is asked of the table of tasks; how it is written is each database's own.

No statement looks at more rows than it may answer with, whatever else waits: of each
type and priority in a queue the first is found from the one before, by the index.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVarTuple

import sqlalchemy as sa

from durable import limits
from durable.store.activity_tasks import TaskState
from durable.store.sql import statements
from durable.store.sql.salvage import QUEUE_FIELDS, TASK_FIELDS
from durable.store.sql.tables import ACTIVITY_TASKS, QUEUES, RUNS, WORKERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable.store.queries import TaskFilter

_Row = TypeVarTuple("_Row")
_T: Final = ACTIVITY_TASKS.c
COLUMNS: Final = [_T[field] for field in TASK_FIELDS]
_KEY: Final = (_T.run_id, _T.scheduled_event_id)
_CLAIMED: Final = TaskState.CLAIMED.value


def _by_index(statement: sa.Select[*_Row], index: str) -> sa.Select[*_Row]:
    """Walk by that index on MariaDB, see `durable.store.sql.statements.by_index`."""
    hint = f"FORCE INDEX ({index})"
    for dialect in ("mariadb", "mysql"):
        statement = statement.with_hint(ACTIVITY_TASKS, hint, dialect)
    return statement


def _of_index(name: str) -> str:
    return f"durable_activity_tasks_{name}"


# --- by their keys --------------------------------------------------------------------

LOCK_TASKS: Final = (
    _by_index(
        sa.select(
            *(*_KEY, _T.namespace, _T.state, _T.attempt),
            *(_T.worker_id, _T.judge_id, _T.cancel, _T.started_at),
        ),
        "PRIMARY",
    )
    .where(sa.tuple_(*_KEY).in_(sa.bindparam("keys", expanding=True)))
    .order_by(*_KEY)
    .with_for_update()
)
FIND_KEYS: Final = sa.select(*_KEY).where(
    _T.run_id.in_(sa.bindparam("run_ids", expanding=True))
)
# With whether they have tasks: most runs have none, and are not asked for them.
LOAD_RUNS: Final = statements.LOAD_RUNS.add_columns(
    sa.exists().where(_T.run_id == RUNS.c.run_id)
)
LOAD_STATES: Final = sa.select(*_KEY, _T.state).where(
    _T.run_id.in_(sa.bindparam("run_ids", expanding=True))
)
DELETE_AFTER: Final = sa.delete(ACTIVITY_TASKS).where(
    _T.run_id == sa.bindparam("repaired"),
    _T.scheduled_event_id > sa.bindparam("kept"),
)
FIND_TASK: Final = sa.select(*COLUMNS).where(
    _T.run_id == sa.bindparam("run_id"),
    _T.scheduled_event_id == sa.bindparam("event_id"),
)

# --- what waits -----------------------------------------------------------------------

_OF_QUEUE: Final = (
    _T.namespace == sa.bindparam("namespace"),
    _T.task_queue == sa.bindparam("task_queue"),
    # As the condition of the index has it: a parameter may be anything.
    _T.state == sa.literal_column("'waiting'"),
)


def _first(column: Any, *where: Any, by: Any = None, index: str = "due") -> Any:
    by = column if by is None else by
    found = sa.select(column).where(*_OF_QUEUE, *where).order_by(by)
    return _by_index(found.limit(sa.literal(1)), _of_index(index)).scalar_subquery()


def _find_heads() -> sa.Select[Any, Any, Any]:
    kind, priority = _T.activity_type, _T.priority
    first_kind = _first(kind, kind > sa.bindparam("after"))
    kinds = sa.select(
        first_kind.label("kind"), sa.literal(1, literal_execute=True).label("place")
    ).cte("kinds", recursive=True)
    kinds = kinds.union_all(
        sa.select(_first(kind, kind > kinds.c.kind), kinds.c.place + sa.literal(1))
        .select_from(kinds)
        .where(
            kinds.c.kind.is_not(None),
            kinds.c.place < sa.literal(limits.TASK_TYPES_AT_ONCE),
        )
    )
    heads = (
        sa.select(
            kinds.c.kind.label("kind"),
            _first(priority, kind == kinds.c.kind).label("priority"),
        )
        .select_from(kinds)
        .where(kinds.c.kind.is_not(None))
        .cte("heads", recursive=True)
    )
    heads = heads.union_all(
        sa.select(
            heads.c.kind,
            _first(priority, kind == heads.c.kind, priority > heads.c.priority),
        )
        .select_from(heads)
        .where(heads.c.priority.is_not(None))
    )
    due_at = _first(_T.due_at, kind == heads.c.kind, priority == heads.c.priority)
    return (
        sa.select(heads.c.priority, due_at, heads.c.kind)
        .select_from(heads)
        .where(heads.c.priority.is_not(None))
    )


FIND_HEADS: Final = _find_heads()
"""Of the types after a name that wait in a queue, each priority and its first instant.
For SQLite, which cannot bring all of it by one walk of the index."""
_PLACE: Final = (_T.due_at, *_KEY)
_HEAD: Final = "priority, due_at, activity_type, run_id, scheduled_event_id"
_FIRST_AFTER: Final = (
    f"(SELECT {_HEAD} FROM durable_activity_tasks"  # noqa: S608 - constants, here and below
    " WHERE namespace = :namespace AND task_queue = :task_queue AND state = 'waiting'"
    " AND (activity_type, priority) > ({after}) ORDER BY"
    " activity_type, priority, due_at, run_id, scheduled_event_id LIMIT 1)"
)
# What this session's statements have found in the indexes, whether or not it is there
# still; the parts of a union are carried out one after the other.
_WALKED: Final = " + ".join(
    f"pg_stat_get_xact_tuples_returned('{_of_index(name)}'::regclass)"
    for name in ("due", "turns")
)
WALK_HEADS: Final = sa.text(
    f"WITH RECURSIVE heads AS (SELECT f.*, 1 AS place FROM"  # noqa: S608 - as above
    f" {_FIRST_AFTER.format(after=':after, :after_priority')} AS f"
    " UNION ALL SELECT n.*, h.place + 1 FROM heads AS h CROSS JOIN LATERAL"
    f" {_FIRST_AFTER.format(after='h.activity_type, h.priority')} AS n"
    " WHERE h.place < :page)"
    f" SELECT 0, -({_WALKED}), '', '', 0"
    f" UNION ALL SELECT {_HEAD} FROM heads"
    f" UNION ALL SELECT 0, {_WALKED}, '', '', 0"
)
"""For PostgreSQL: likewise after a type and priority, and with places; before and after
them, how many entries the session has walked by then."""


# For databases that walk the index for a condition which is no constant.
def _head(*where: Any, order: Sequence[Any]) -> sa.Select[Any, Any, Any, Any, Any]:
    found = sa.select(_T.priority, _T.due_at, _T.activity_type, *_KEY)
    first = found.where(*_OF_QUEUE, *where).order_by(*order).limit(sa.literal(1))
    return _by_index(first, _of_index("due"))


_BY_KIND: Final = (_T.activity_type, _T.priority, *_PLACE)
NEXT_KIND: Final = _head(_T.activity_type > sa.bindparam("after"), order=_BY_KIND)
FIRST_OF_KIND: Final = _head(_T.activity_type >= sa.bindparam("kind"), order=_BY_KIND)
NEXT_PRIORITY: Final = _head(
    _T.activity_type == sa.bindparam("kind"),
    _T.priority > sa.bindparam("of_priority"),
    order=_BY_KIND[1:],  # with the type it would sort them
)


_OF_KIND: Final = (
    _T.activity_type == sa.bindparam("kind"),
    _T.priority == sa.bindparam("of_priority"),
)
_SINCE: Final = [
    sa.bindparam(name, type_=column.type)
    for name, column in zip(("since", "since_run", "since_event"), _PLACE, strict=True)
]
# The first alone tells MariaDB where in the index to begin.
_FROM_PLACE: Final = (
    _T.due_at >= _SINCE[0],
    sa.tuple_(*_PLACE) >= sa.tuple_(*_SINCE),
)
FIRST_FROM: Final = _head(*_OF_KIND, *_FROM_PLACE, order=_PLACE)
"""Of one type and priority the first from a place on."""


def _due(
    *columns: sa.Column[Any], where: Sequence[Any] = (), index: str = "due"
) -> sa.Select[Any]:
    found = (
        sa.select(*columns)
        .where(
            *_OF_QUEUE,
            *_OF_KIND,
            *where,
            *_FROM_PLACE,
            _T.due_at <= sa.bindparam("until"),
            sa.or_(_T.expires_at.is_(None), _T.expires_at > sa.bindparam("until")),
        )
        .order_by(_T.due_at, *_KEY)
        .limit(sa.bindparam("page"))
    )
    return _by_index(found, _of_index(index))


PEEK_DUE: Final = _due(_T.due_at, *_KEY)
# What others are taking just now is theirs.
TAKE_DUE: Final = _due(*COLUMNS).with_for_update(skip_locked=True)

# --- whose turn it is -----------------------------------------------------------------

TAKE_OF_KEY: Final = _due(
    *COLUMNS, where=[_T.fairness_key == sa.bindparam("key")], index="turns"
).with_for_update(skip_locked=True)
NEXT_DUE: Final = _by_index(
    sa.select(_T.due_at)
    .where(*_OF_QUEUE, *_OF_KIND, _T.due_at > sa.bindparam("until"))
    .order_by(_T.due_at)
    .limit(sa.literal(1)),
    _of_index("due"),
)


def _find_keys(*from_place: sa.ColumnElement[bool]) -> sa.Select[Any, Any, Any]:
    key = _T.fairness_key

    def first(column: Any, where: Any, by: Any = None) -> Any:
        of_kind = (*_OF_KIND, *from_place, where)
        return _first(column, *of_kind, by=by, index="turns")

    keys = sa.select(
        first(key, key >= sa.bindparam("from_key")).label("fairness_key"),
        sa.literal(1, literal_execute=True).label("place"),
    ).cte("keys", recursive=True)
    found = keys.c.fairness_key
    keys = keys.union_all(
        sa.select(first(key, key > found), keys.c.place + sa.literal(1))
        .select_from(keys)
        .where(found.is_not(None), keys.c.place < sa.bindparam("page"))
    )
    found = keys.c.fairness_key
    return (
        sa.select(
            found,
            first(_T.due_at, key == found),
            first(_T.fairness_weight, key == found, by=_T.due_at),
        )
        .select_from(keys)
        .where(found.is_not(None))
    )


FIND_KEYS_OF_KIND: Final = _find_keys()
"""The keys from one on that wait of a type and priority, each with its first instant
and weight."""
FIND_KEYS_FROM: Final = _find_keys(*_FROM_PLACE)
"""Likewise, but only tasks from a place on: SQLite would walk them by age and sort."""
NEXT_KEY: Final = _by_index(
    sa.select(_T.fairness_key, _T.due_at, _T.fairness_weight)
    .where(*_OF_QUEUE, *_OF_KIND, *_FROM_PLACE)
    .where(_T.fairness_key >= sa.bindparam("from_key"))
    .order_by(_T.fairness_key, _T.due_at)
    .limit(sa.literal(1)),
    _of_index("turns"),
)
COUNT_HELD: Final = _by_index(
    sa.select(_T.fairness_key, _T.worker_id, sa.func.count())
    .where(
        *_OF_QUEUE[:2],
        _T.state == sa.literal_column("'claimed'"),
    )
    .group_by(_T.fairness_key, _T.worker_id),
    _of_index("held"),
)

# --- queues ---------------------------------------------------------------------------

_QUEUE: Final = [QUEUES.c[field] for field in QUEUE_FIELDS]
_BY_NAME: Final = (
    QUEUES.c.namespace == sa.bindparam("of_namespace"),
    QUEUES.c.name == sa.bindparam("named"),
)
READ_QUEUES: Final = (
    sa.select(*_QUEUE)
    .where(QUEUES.c.namespace == sa.bindparam("of_namespace"))
    .order_by(QUEUES.c.name)
)
READ_QUEUE: Final = sa.select(*_QUEUE).where(*_BY_NAME)
LOCK_QUEUE: Final = READ_QUEUE.with_for_update()
INSERT_QUEUE: Final = sa.insert(QUEUES).inline()
UPDATE_QUEUE: Final = (
    sa.update(QUEUES)
    .where(*_BY_NAME)
    .values({c.name: sa.bindparam(c.name) for c in _QUEUE if not c.primary_key})
)
DELETE_QUEUE: Final = sa.delete(QUEUES).where(*_BY_NAME)

# --- what is to be judged -------------------------------------------------------------

_UNJUDGED: Final = (
    _T.namespace == sa.bindparam("namespace"),
    _T.expires_at.is_not(None),
    _T.state != _CLAIMED,
    sa.or_(_T.judge_id.is_(None), _T.judge_id.not_in(sa.select(WORKERS.c.worker_id))),
)
TAKE_EXPIRED: Final = _by_index(
    sa.select(*COLUMNS)
    .where(*_UNJUDGED, _T.expires_at <= sa.bindparam("until"))
    .order_by(_T.expires_at, *_KEY)
    .limit(sa.bindparam("page"))
    .with_for_update(skip_locked=True, of=ACTIVITY_TASKS),
    _of_index("expiry"),
)
NEXT_EXPIRY: Final = _by_index(
    sa.select(_T.expires_at)
    .where(*_UNJUDGED)
    .order_by(_T.expires_at)
    .limit(sa.literal(1)),
    _of_index("expiry"),
)

# --- whose they are -------------------------------------------------------------------

# What a worker has is live, and little.
FIND_STRAYS: Final = sa.select(*_KEY, _T.worker_id).where(
    _T.worker_id.is_not(None),
    _T.state == _CLAIMED,
    _T.worker_id.not_in(sa.select(WORKERS.c.worker_id)),
)
FIND_CANCELLED: Final = (
    sa.select(*_KEY, _T.attempt, _T.cancel)
    .where(
        _T.worker_id == sa.bindparam("myself"),
        _T.cancel.is_not(None),
        _T.state == _CLAIMED,
    )
    .order_by(*_KEY)
)

# --- for people -----------------------------------------------------------------------


def list_tasks(namespace: str, where: TaskFilter, limit: int) -> sa.Select[Any]:
    """Build the statement of one page of a listing."""
    conditions = [_T.namespace == namespace]
    for column, value in (
        (_T.task_queue, where.task_queue),
        (_T.activity_type, where.activity_type),
        (_T.state, where.state),
        (_T.run_id, where.run_id),
    ):
        if value is not None:
            conditions.append(column == str(value))
    if where.after is not None:
        run_id, event_id = where.after
        later = _T.scheduled_event_id > event_id
        conditions.append(_T.run_id >= run_id)
        conditions.append(sa.or_(_T.run_id > run_id, later))
    return sa.select(*COLUMNS).where(*conditions).order_by(*_KEY).limit(limit)


_counted = (
    sa.select(_T.task_queue, _T.state, _T.due_at)
    .where(_T.namespace == sa.bindparam("namespace"))
    .limit(sa.literal(limits.BACKLOG_TASKS_MAX))
    .subquery()
)
COUNT_TASKS: Final = sa.select(
    _counted.c.task_queue,
    _counted.c.state,
    sa.func.count(),
    sa.func.min(_counted.c.due_at),
).group_by(_counted.c.task_queue, _counted.c.state)
