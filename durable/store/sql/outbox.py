"""The outbox, as it is read: what is due, in the order of writing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from durable.store.queries import OutboxPage
from durable.store.sql import salvage
from durable.store.sql.fetching import fetch
from durable.store.sql.statements import RUN_COLUMNS
from durable.store.sql.tables import OUTBOX, RUNS, unlisted_namespace

if TYPE_CHECKING:
    from durable.store.database import Session
    from durable.store.queries import FindOutbox, ListOutbox, ReadOutbox
    from durable.store.records import OutboxRecord

_COLUMNS: Final = [OUTBOX.c[field] for field in salvage.OUTBOX_FIELDS]
_IN_NAMESPACE: Final = OUTBOX.c.namespace == sa.bindparam("namespace")
# Nearly always there is nothing.
_HAS_ANY: Final = (
    sa.select(sa.literal(1))
    .where(_IN_NAMESPACE, OUTBOX.c.due_at >= sa.literal(0))
    .limit(sa.literal(1))
)
_earlier: Final = OUTBOX.alias()
# Each by the index, in its order, however many wait.
_FIND_NEW: Final = (
    sa.select(*_COLUMNS)
    .where(
        _IN_NAMESPACE,
        OUTBOX.c.due_at == sa.literal(0),
        ~sa.exists().where(
            _earlier.c.namespace == sa.bindparam("namespace"),
            _earlier.c.due_at > sa.literal(0),
            _earlier.c.target == OUTBOX.c.target,
            _earlier.c.sequence < OUTBOX.c.sequence,
        ),
    )
    .order_by(OUTBOX.c.sequence)
    .limit(sa.bindparam("page"))
)
_FIND_RETRIED: Final = (
    sa.select(*_COLUMNS)
    .where(_IN_NAMESPACE, OUTBOX.c.due_at > sa.literal(0))
    .order_by(OUTBOX.c.due_at, OUTBOX.c.sequence)
    .limit(sa.bindparam("page"))
)
_READ: Final = sa.select(*_COLUMNS).where(
    OUTBOX.c.outbox_id == sa.bindparam("outbox_id")
)

FIND_STARTED: Final = sa.select(*RUN_COLUMNS).where(
    RUNS.c.request_id == sa.bindparam("request_id"),
    unlisted_namespace == sa.bindparam("namespace"),
)
"""The run of a start that was delivered."""


def find(session: Session, query: FindOutbox) -> OutboxPage:
    """Return what is due."""
    key: dict[str, str | int] = {"namespace": query.namespace}
    if not fetch(session, _HAS_ANY, **key):
        return OutboxPage()
    key["page"] = query.limit
    retried = _to_records(fetch(session, _FIND_RETRIED, **key))
    new = _to_records(fetch(session, _FIND_NEW, **key))
    return to_page(retried, new, query)


def to_page(
    retried: list[OutboxRecord], new: list[OutboxRecord], query: FindOutbox
) -> OutboxPage:
    """Put together what was refused before, by when it is due, and what is new."""
    due = [
        row for row in retried if row.due_at is not None and row.due_at <= query.until
    ]
    later = retried[len(due)] if len(due) < len(retried) else None
    return OutboxPage(
        rows=sorted([*due, *new], key=lambda row: row.sequence),
        next_at=None if later is None else later.due_at,
        is_whole=max(len(due), len(new)) < query.limit,
    )


def read(session: Session, query: ReadOutbox) -> OutboxRecord | None:
    """Return one row."""
    rows = fetch(session, _READ, outbox_id=query.outbox_id)
    return salvage.salvage_outbox(rows[0]) if rows else None


def page(session: Session, query: ListOutbox) -> list[OutboxRecord]:
    """Return a page of rows, whoever they are for."""
    conditions = [OUTBOX.c.sequence > query.after]
    if query.namespace is not None:
        conditions.append(OUTBOX.c.namespace == query.namespace)
    due_at = OUTBOX.c.due_at
    if query.is_aside is not None:
        conditions.append(due_at.is_(None) if query.is_aside else due_at.is_not(None))
    statement = sa.select(*_COLUMNS).where(*conditions).order_by(OUTBOX.c.sequence)
    return _to_records(fetch(session, statement.limit(query.limit)))


def _to_records(rows: list[Any]) -> list[OutboxRecord]:
    return [salvage.salvage_outbox(row) for row in rows]
