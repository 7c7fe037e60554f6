"""Statements of SQLAlchemy Core, alike on all databases; each is compiled once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVarTuple

import sqlalchemy as sa

from durable.core.history.ids import OWN_TYPES
from durable.store.records import NEVER, RunStatus, WorkerStatus
from durable.store.sql.salvage import (
    ATTEMPT_FIELDS,
    MESSAGE_FIELDS,
    RUN_FIELDS,
    WORKER_FIELDS,
)
from durable.store.sql.tables import (
    ATTEMPTS,
    ATTRIBUTE_KINDS,
    HISTORY,
    INBOX,
    NAMESPACES,
    REPLIES,
    RUNS,
    WORKERS,
    listed_namespace,
    unlisted_namespace,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from durable.store.records import AttemptRecord, RunFilter, RunRecord

_Row = TypeVarTuple("_Row")
_IS_OPEN: Final = RUNS.c.open_key.is_not(None)


def by_index(statement: sa.Select[*_Row], index: str) -> sa.Select[*_Row]:
    """Walk by that index, on MariaDB: others have no such words, nor a need of them.

    It may walk a whole table as long as that is small, and what is walked is locked.
    """
    hint = f"FORCE INDEX ({index})"
    return statement.with_hint(RUNS, hint, "mariadb").with_hint(RUNS, hint, "mysql")


def _many(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, expanding=True)


# --- columns and values ---------------------------------------------------------------

RUN_COLUMNS: Final = [RUNS.c[field] for field in RUN_FIELDS]
ATTEMPT_COLUMNS: Final = [ATTEMPTS.c[field] for field in ATTEMPT_FIELDS]
MESSAGE_COLUMNS: Final = [INBOX.c[field] for field in MESSAGE_FIELDS]
_WORKER_COLUMNS: Final = [WORKERS.c[field] for field in WORKER_FIELDS]


def run_values(record: RunRecord) -> tuple[Any, ...]:
    """Return a run's values in the order of `RUN_COLUMNS`, and its open key."""
    return (
        record.namespace,
        record.workflow_id,
        record.run_id,
        record.workflow_type,
        record.task_queue,
        record.status.value,
        record.started_at,
        record.first_run_id,
        record.request_id,
        record.closed_at,
        record.owner,
        record.wake_at,
        record.stuck,
        record.version,
        record.continued_from_run_id,
        record.parent_workflow_id,
        record.parent_run_id,
        record.root_run_id,
        record.parent_initiated_event_id,
        record.parent_close_policy,
        record.state,
        record.checkpoint_event_id,
        record.epoch,
        record.attributes,
        record.memo,
        record.workflow_id if record.status is RunStatus.RUNNING else None,
    )


def attempt_values(attempt: AttemptRecord) -> tuple[Any, ...]:
    """Return an attempt's values in the order of `ATTEMPT_COLUMNS`."""
    return (
        attempt.run_id,
        attempt.scheduled_event_id,
        attempt.attempt,
        attempt.activity_type,
        attempt.state.value,
        attempt.due_at,
        attempt.started_at,
        attempt.closed_at,
        attempt.failure,
        attempt.worker_id,
        attempt.details,
        attempt.heartbeat_at,
    )


HISTORY_COLUMNS: Final = [
    HISTORY.c[name]
    for name in ("run_id", "event_id", "task_number", "type", "time", "data", "flags")
]

# --- runs -----------------------------------------------------------------------------

FIND_OPEN_RUNS: Final = sa.select(RUNS.c.open_key, *RUN_COLUMNS).where(
    unlisted_namespace == sa.bindparam("namespace"),
    RUNS.c.open_key.in_(_many("workflow_ids")),
)
FIND_NEWEST_RUN_OF_CHAIN: Final = (
    sa.select(RUNS.c.run_id)
    .where(
        unlisted_namespace == sa.bindparam("namespace"),
        RUNS.c.workflow_id == sa.bindparam("workflow_id"),
        RUNS.c.first_run_id == sa.bindparam("first_run_id"),
    )
    # The namespace first, as the index of workflow ids has it.
    .order_by(RUNS.c.namespace.desc(), RUNS.c.started_at.desc(), RUNS.c.run_id.desc())
    .limit(1)
)
_latest_starts: Final = (
    sa.select(RUNS.c.workflow_id, sa.func.max(RUNS.c.started_at))
    .where(
        unlisted_namespace == sa.bindparam("namespace"),
        RUNS.c.workflow_id.in_(_many("workflow_ids")),
    )
    .group_by(RUNS.c.workflow_id)
)
# Of those that began at one instant the last one counts.
FIND_NEWEST_RUNS: Final = (
    sa.select(RUNS.c.workflow_id, *RUN_COLUMNS)
    .where(
        unlisted_namespace == sa.bindparam("namespace"),
        sa.tuple_(RUNS.c.workflow_id, RUNS.c.started_at).in_(_latest_starts),
    )
    .order_by(RUNS.c.run_id)
)
IS_OPEN: Final = sa.select(RUNS.c.run_id).where(
    RUNS.c.run_id == sa.bindparam("run_id"), _IS_OPEN
)
LOAD_RUNS: Final = sa.select(*RUN_COLUMNS).where(RUNS.c.run_id.in_(_many("run_ids")))

# No namespace is empty, so all of them follow "".
NEXT_NAMESPACE: Final = sa.select(sa.func.min(listed_namespace)).where(
    listed_namespace > sa.bindparam("after")
)


def list_runs(namespace: str, where: RunFilter, limit: int) -> sa.Select[Any]:
    """Build the statement of one page of a listing."""
    # Of a parent's children there are few: the bare column would lure SQLite into
    # walking all runs of the namespace, because they come in the order of the listing.
    if where.parent_run_id is not None:
        conditions = [RUNS.c.namespace.concat("") == namespace]
    elif where.workflow_id is not None or where.run_ids is not None:
        conditions = [RUNS.c.namespace == namespace]
    else:
        conditions = [listed_namespace == namespace]
    if where.status is not None:
        conditions.append(RUNS.c.status == where.status.value)
    if where.workflow_type is not None:
        conditions.append(RUNS.c.workflow_type == where.workflow_type)
    if where.hides_own:
        conditions.append(RUNS.c.workflow_type.not_like(f"{OWN_TYPES}%"))
    if where.workflow_id is not None:
        conditions.append(RUNS.c.workflow_id == where.workflow_id)
    if where.parent_run_id is not None:
        conditions.append(RUNS.c.parent_run_id == where.parent_run_id)
    if where.stuck is not None:
        stuck = RUNS.c.stuck
        conditions.append(stuck.is_not(None) if where.stuck else stuck.is_(None))
    if where.started_before is not None:
        conditions.append(RUNS.c.started_at < where.started_before)
    if where.after is not None:
        instant, run_id = where.after
        # The first condition alone tells where in the index the page begins.
        conditions.append(RUNS.c.started_at <= instant)
        conditions.append(sa.or_(RUNS.c.started_at < instant, RUNS.c.run_id < run_id))
    if where.run_ids is not None:
        conditions.append(RUNS.c.run_id.in_(where.run_ids))
    return (
        sa.select(*RUN_COLUMNS)
        .where(*conditions)
        .order_by(RUNS.c.started_at.desc(), RUNS.c.run_id.desc())
        .limit(limit)
    )


_MINE: Final = RUNS.c.owner == sa.bindparam("myself")

DUE_RUNS: Final = (
    sa.select(RUNS.c.run_id)
    .where(_MINE, RUNS.c.wake_at <= sa.bindparam("until"))
    .order_by(RUNS.c.wake_at, RUNS.c.run_id)
    .limit(sa.bindparam("page"))
)
NEXT_OWN_WAKE_AT: Final = (
    sa.select(RUNS.c.wake_at)
    .where(_MINE, RUNS.c.wake_at.is_not(None))
    .order_by(RUNS.c.wake_at)
    .limit(sa.literal(1))
)
# Walks the worker's runs, which are those that are live.
MAILED_RUNS: Final = (
    sa.select(INBOX.c.run_id)
    .join_from(RUNS, INBOX, INBOX.c.run_id == RUNS.c.run_id)
    .where(_MINE)
    .group_by(INBOX.c.run_id)
    .order_by(sa.func.min(INBOX.c.sequence))
    .limit(sa.bindparam("page"))
)
OPEN_RUNS: Final = sa.select(RUNS.c.run_id).where(
    _IS_OPEN, RUNS.c.run_id.in_(_many("run_ids"))
)
_OF_QUEUE: Final = (
    RUNS.c.namespace == sa.bindparam("namespace"),
    RUNS.c.task_queue == sa.bindparam("task_queue"),
    RUNS.c.workflow_type.in_(_many("workflow_types")),
)
# One text of both, since no index is to be used for it.
_SERVED: Final = sa.or_(
    RUNS.c.version.is_(None),
    (RUNS.c.version + "@" + RUNS.c.workflow_type).in_(_many("versions")),
)
SERVED: Final = (RUNS.c.workflow_type.in_(_many("workflow_types")), _SERVED)
"""What a worker has code for, of whatever queue."""
_AT_REST: Final = (RUNS.c.owner.is_(None), RUNS.c.wake_at.is_not(None))
AT_REST_IN_QUEUE: Final = (*_OF_QUEUE[:2], *_AT_REST)
"""Runs at rest that have something to wait for, of whatever type."""
FIND_CLAIMABLE: Final = (
    by_index(sa.select(RUNS.c.run_id, RUNS.c.epoch), "durable_runs_due")
    .where(*_OF_QUEUE, *_AT_REST, RUNS.c.wake_at <= sa.bindparam("until"), _SERVED)
    .order_by(RUNS.c.wake_at, RUNS.c.run_id)
    .limit(sa.bindparam("page"))
)
_IS_PARKED: Final = (
    _IS_OPEN,
    RUNS.c.stuck.is_not(None),
    sa.func.coalesce(RUNS.c.wake_at, 0) < NEVER,
    RUNS.c.owner.is_(None),
)
FIND_STUCK: Final = (
    by_index(sa.select(RUNS.c.run_id, RUNS.c.epoch), "durable_runs_stuck")
    .where(*_OF_QUEUE, _SERVED, *_IS_PARKED, RUNS.c.run_id > sa.bindparam("after"))
    .order_by(RUNS.c.run_id)
    .limit(sa.bindparam("page"))
)
# For databases that lock what they only walk, too.
TAKE_RUNS: Final = (
    by_index(sa.select(RUNS.c.run_id, RUNS.c.epoch), "PRIMARY")
    .where(RUNS.c.run_id.in_(_many("run_ids")), _IS_OPEN, RUNS.c.owner.is_(None))
    .order_by(RUNS.c.run_id)
    .with_for_update(skip_locked=True)
)
NEXT_WAKE_AT: Final = (
    by_index(sa.select(RUNS.c.wake_at), "durable_runs_due")
    .where(*_OF_QUEUE, *_AT_REST, _SERVED)
    .order_by(RUNS.c.wake_at)
    .limit(sa.literal(1))
)
DUE_VERSIONS: Final = (
    by_index(sa.select(RUNS.c.workflow_type, RUNS.c.version), "durable_runs_due")
    .where(
        *_OF_QUEUE,
        *_AT_REST,
        RUNS.c.wake_at <= sa.bindparam("until"),
        RUNS.c.version.is_not(None),
    )
    .distinct()
)
STUCK_VERSIONS: Final = (
    by_index(sa.select(RUNS.c.workflow_type, RUNS.c.version), "durable_runs_stuck")
    .where(*_OF_QUEUE, *_IS_PARKED, RUNS.c.version.is_not(None))
    .distinct()
)
COUNT_VERSIONS: Final = (
    sa.select(
        RUNS.c.workflow_type,
        RUNS.c.version,
        sa.func.count(),
        sa.func.min(RUNS.c.started_at),
    )
    .where(listed_namespace == sa.bindparam("namespace"), _IS_OPEN)
    .group_by(RUNS.c.workflow_type, RUNS.c.version)
)
# By the end of its index: `wake_at` is known there without a look at any row.
UNOWNED_RUNS: Final = (
    by_index(
        sa.select(
            RUNS.c.run_id,
            RUNS.c.workflow_id,
            RUNS.c.workflow_type,
            RUNS.c.task_queue,
            RUNS.c.version,
            RUNS.c.wake_at,
        ),
        "durable_runs_wake_at",
    )
    .where(
        RUNS.c.namespace == sa.bindparam("namespace"),
        RUNS.c.task_queue > sa.literal_column("''"),  # else SQLite walks all runs
        *_AT_REST,
        RUNS.c.wake_at <= sa.bindparam("until"),
        RUNS.c.stuck.is_(None),
    )
    .order_by(RUNS.c.started_at, RUNS.c.run_id)
    .limit(sa.bindparam("page"))
)
# For databases that lock rows.
LOCK_RUNS: Final = (
    by_index(sa.select(RUNS.c.run_id), "PRIMARY")
    .where(RUNS.c.run_id.in_(_many("run_ids")))
    .order_by(RUNS.c.run_id)
    .with_for_update()
)
LOCK_RUNS_OF_OWNERS: Final = (
    sa.select(RUNS.c.run_id)
    .where(RUNS.c.owner.in_(_many("owners")))
    .order_by(RUNS.c.run_id)
    .with_for_update()
)
FIND_RUNS_OF_OWNERS: Final = sa.select(RUNS.c.run_id).where(
    RUNS.c.owner.in_(_many("owners"))
)
FIND_STRAYS: Final = sa.select(RUNS.c.run_id, RUNS.c.owner).where(
    RUNS.c.owner.is_not(None), RUNS.c.owner.not_in(sa.select(WORKERS.c.worker_id))
)
OWN_RUNS: Final = (
    sa.update(RUNS)
    .where(RUNS.c.run_id.in_(_many("run_ids")))
    .values(
        owner=sa.bindparam("new_owner", type_=sa.String()),
        epoch=RUNS.c.epoch + sa.literal(1),
        stuck=None,
    )
)
_at_rest_and_due: Final[dict[str, Any]] = {
    "owner": None,
    "wake_at": sa.bindparam("due"),
    "epoch": RUNS.c.epoch + sa.literal(1),
}
DISOWN_RUNS: Final = (
    sa.update(RUNS)
    .where(_MINE, RUNS.c.run_id.in_(_many("run_ids")))
    .values(**_at_rest_and_due)
)
DISOWN_ALL_RUNS: Final = (
    sa.update(RUNS).where(RUNS.c.owner.in_(_many("owners"))).values(**_at_rest_and_due)
)
# What has an owner is live, and little. As text, because building and compiling it
# would take longer than opening a database.
DISOWN_STRAYS: Final = sa.text(
    "UPDATE durable_runs SET owner = NULL, wake_at = :due, epoch = epoch + 1"
    " WHERE owner IS NOT NULL"
    " AND owner NOT IN (SELECT worker_id FROM durable_workers)"
)
FREE_RUN: Final = (
    sa.update(RUNS)
    .where(RUNS.c.run_id == sa.bindparam("freed"))
    .values(**_at_rest_and_due, stuck=None)
)
MOVE_RUN: Final = (
    sa.update(RUNS)
    .where(RUNS.c.run_id == sa.bindparam("moved"))
    .values(version=sa.bindparam("new_version"))
)


def served(versions: Iterable[tuple[str, str]]) -> list[str]:
    """Pairs of type and version as statements compare them."""
    return [f"{version}@{workflow_type}" for workflow_type, version in versions]


# --- history, inbox, attempts ---------------------------------------------------------

READ_HISTORY: Final = (
    sa.select(*HISTORY_COLUMNS)
    .where(
        HISTORY.c.run_id == sa.bindparam("run_id"),
        HISTORY.c.event_id > sa.bindparam("after"),
    )
    .order_by(HISTORY.c.event_id)
)
LOAD_HISTORY: Final = (
    sa.select(*HISTORY_COLUMNS)
    .where(HISTORY.c.run_id.in_(_many("run_ids")))
    .order_by(HISTORY.c.run_id, HISTORY.c.event_id)
)
# A character that JSON has no use for; many, since the longer a separator is, the
# faster Python finds it.
PACKED_SEPARATOR: Final = 8 * "\x1e"
# A driver takes much longer to hand over a row than a database to find it, so a run's
# history comes as one: `reads` takes it apart, and asks for the rows if it cannot.
LOAD_PACKED_HISTORY: Final = (
    sa.select(
        HISTORY.c.run_id,
        sa.func.count(),
        sa.func.min(HISTORY.c.event_id),
        sa.func.max(HISTORY.c.event_id),
        sa.func.sum(HISTORY.c.event_id),
        sa.func.min(HISTORY.c.flags),
        sa.func.max(HISTORY.c.flags),
        sa.func.aggregate_strings(HISTORY.c.task_number, ","),
        sa.func.aggregate_strings(HISTORY.c.time, ","),
        sa.func.aggregate_strings(HISTORY.c.type, ","),
        sa.func.aggregate_strings(HISTORY.c.data, PACKED_SEPARATOR),
    )
    .where(HISTORY.c.run_id.in_(_many("run_ids")))
    .group_by(HISTORY.c.run_id)
)
LOAD_FIRST_ROWS: Final = LOAD_HISTORY.where(HISTORY.c.event_id == sa.literal(1))
LOAD_HISTORY_FROM_CHECKPOINT: Final = (
    sa.select(*HISTORY_COLUMNS)
    .join_from(
        RUNS,
        HISTORY,
        sa.and_(
            HISTORY.c.run_id == RUNS.c.run_id,
            HISTORY.c.event_id >= RUNS.c.checkpoint_event_id,
        ),
    )
    .where(RUNS.c.run_id.in_(_many("run_ids")))
    .order_by(RUNS.c.run_id, HISTORY.c.event_id)
)
_end: Final = HISTORY.alias()
# Not by max(), for which MariaDB would walk all events.
_latest_event_id: Final = (
    sa.select(_end.c.event_id)
    # Whatever else was put there, SQLite takes text to be greater than any number.
    .where(_end.c.run_id == RUNS.c.run_id, _end.c.event_id <= sa.literal(2**31 - 1))
    .order_by(_end.c.event_id.desc())
    .limit(sa.literal(1))
    .scalar_subquery()
)
# Inputs that no task has taken have no number of their own.
_last_task: Final = sa.case(
    (
        HISTORY.c.task_number == 0,
        sa.select(sa.func.max(_end.c.task_number))
        .where(_end.c.run_id == RUNS.c.run_id)
        .scalar_subquery(),
    ),
    else_=HISTORY.c.task_number,
)
FIND_HISTORY_ENDS: Final = (
    sa.select(HISTORY.c.run_id, HISTORY.c.event_id, _last_task, HISTORY.c.time)
    .join_from(
        RUNS,
        HISTORY,
        sa.and_(
            HISTORY.c.run_id == RUNS.c.run_id, HISTORY.c.event_id == _latest_event_id
        ),
    )
    .where(RUNS.c.run_id.in_(_many("run_ids")))
)
INSERT_EVENTS: Final = sa.insert(HISTORY).inline()
DELETE_EVENTS_AFTER: Final = sa.delete(HISTORY).where(
    HISTORY.c.run_id == sa.bindparam("repaired"),
    HISTORY.c.event_id > sa.bindparam("kept"),
)
FIND_EVENT_DATA: Final = sa.select(HISTORY.c.data).where(
    HISTORY.c.run_id == sa.bindparam("run_id"),
    HISTORY.c.event_id == sa.bindparam("event_id"),
)
FIND_EVENT: Final = sa.select(HISTORY.c.time, HISTORY.c.data).where(
    HISTORY.c.run_id == sa.bindparam("run_id"),
    HISTORY.c.event_id == sa.bindparam("event_id"),
)
LOAD_MESSAGES: Final = (
    sa.select(*MESSAGE_COLUMNS)
    .where(INBOX.c.run_id.in_(_many("run_ids")))
    .order_by(INBOX.c.sequence)
)
READ_REPLY: Final = sa.select(REPLIES.c.data).where(
    REPLIES.c.run_id == sa.bindparam("run_id"),
    REPLIES.c.request_id == sa.bindparam("request_id"),
)
# With the newest row of those that have closed.
READ_NEWS: Final = (
    sa.select(
        RUNS.c.run_id,
        _IS_OPEN,
        RUNS.c.stuck.is_not(None),
        _latest_event_id,
        *HISTORY_COLUMNS,
    )
    .join_from(
        RUNS,
        HISTORY,
        sa.and_(
            RUNS.c.open_key.is_(None),
            HISTORY.c.run_id == RUNS.c.run_id,
            HISTORY.c.event_id == _latest_event_id,
        ),
        isouter=True,
    )
    .where(RUNS.c.run_id.in_(_many("run_ids")))
)
FIND_REPLIES: Final = sa.select(REPLIES.c.run_id, REPLIES.c.request_id).where(
    REPLIES.c.run_id.in_(_many("run_ids"))
)
DELETE_OLD_REPLIES: Final = sa.delete(REPLIES).where(
    REPLIES.c.created_at < sa.bindparam("until")
)
LOAD_ATTEMPTS: Final = (
    sa.select(*ATTEMPT_COLUMNS)
    .where(ATTEMPTS.c.run_id.in_(_many("run_ids")))
    .order_by(ATTEMPTS.c.run_id, ATTEMPTS.c.scheduled_event_id, ATTEMPTS.c.attempt)
)

# --- workers --------------------------------------------------------------------------

# By the index, which holds only what has an owner: that is live, and little.
COUNT_OWNED_RUNS: Final = (
    sa.select(RUNS.c.owner, sa.func.count())
    .where(RUNS.c.owner.is_not(None))
    .group_by(RUNS.c.owner)
)
LIST_WORKERS: Final = sa.select(*_WORKER_COLUMNS).order_by(WORKERS.c.worker_id)
FIND_DEAD_WORKERS: Final = (
    sa.select(WORKERS.c.worker_id)
    .where(
        WORKERS.c.worker_id != sa.bindparam("myself"),
        sa.or_(
            WORKERS.c.lease_expires_at <= sa.bindparam("now"),
            WORKERS.c.worker_id.in_(_many("presumed_dead")),
        ),
    )
    .order_by(WORKERS.c.worker_id)
)
LOCK_DEAD_WORKERS: Final = FIND_DEAD_WORKERS.with_for_update(skip_locked=True)
LOCK_DEAD_WORKER: Final = LOCK_DEAD_WORKERS.where(
    WORKERS.c.worker_id == sa.bindparam("candidate")
)
_HOLDER: Final = WORKERS.c.worker_id == sa.bindparam("holder")
FIND_WORKER: Final = sa.select(WORKERS.c.worker_id).where(_HOLDER)
LOCK_WORKER: Final = FIND_WORKER.with_for_update(read=True, key_share=True)
LOCK_WORKERS: Final = (
    sa.select(WORKERS.c.worker_id)
    .where(WORKERS.c.worker_id.in_(_many("worker_ids")))
    .order_by(WORKERS.c.worker_id)
    .with_for_update()
)
INSERT_WORKER: Final = sa.insert(WORKERS).inline()
DELETE_WORKERS: Final = sa.delete(WORKERS).where(
    WORKERS.c.worker_id.in_(_many("worker_ids"))
)
_TOLD: Final[sa.ColumnElement[str]] = sa.func.coalesce(
    sa.bindparam("told"), WORKERS.c.places
)
RENEW_LEASE: Final = (
    sa.update(WORKERS)
    .where(_HOLDER)
    .values(lease_expires_at=sa.bindparam("until"), places=_TOLD)
)
DRAIN_WORKER: Final = (
    sa.update(WORKERS).where(_HOLDER).values(status=WorkerStatus.DRAINING.value)
)

# --- attributes and namespaces --------------------------------------------------------

_KINDS: Final = sa.select(ATTRIBUTE_KINDS.c.name, ATTRIBUTE_KINDS.c.kind).where(
    ATTRIBUTE_KINDS.c.namespace == sa.bindparam("namespace")
)
FIND_KINDS: Final = _KINDS.where(ATTRIBUTE_KINDS.c.name.in_(_many("names")))
READ_KINDS: Final = _KINDS.order_by(ATTRIBUTE_KINDS.c.name)
READ_NAMESPACES: Final = sa.select(*NAMESPACES.c).order_by(NAMESPACES.c.namespace)
READ_NAMESPACE: Final = READ_NAMESPACES.where(
    NAMESPACES.c.namespace == sa.bindparam("namespace")
)
LOCK_NAMESPACE: Final = (
    sa.select(NAMESPACES.c.created_at)
    .where(NAMESPACES.c.namespace == sa.bindparam("namespace_"))
    .with_for_update()
)
INSERT_NAMESPACE: Final = sa.insert(NAMESPACES).inline()
UPDATE_NAMESPACE: Final = (
    sa.update(NAMESPACES)
    .where(NAMESPACES.c.namespace == sa.bindparam("namespace_"))
    .values(
        retention_days=sa.bindparam("retention_days"),
        description=sa.bindparam("description"),
        defaults=sa.bindparam("defaults"),
    )
)
