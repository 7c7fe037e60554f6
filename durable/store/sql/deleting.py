"""Statements that delete runs with all their rows, and say what is tied to them."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from durable.store.deciding.deleting import OpenParent, Tie
from durable.store.records import RunStatus
from durable.store.sql.tables import (
    ACTIVITY_TASKS,
    ATTEMPTS,
    ATTRIBUTES,
    HISTORY,
    INBOX,
    REPLIES,
    RUNS,
)

_RUN_IDS: Final[sa.BindParameter[Any]] = sa.bindparam("run_ids", expanding=True)
_parent: Final = RUNS.alias("parent")
_child: Final = RUNS.alias("child")
_before: Final = RUNS.alias("before")
_other: Final = RUNS.alias("other")
_end: Final = HISTORY.alias("ending")
# Of most runs there is no other of the same chain, and no index tells of chains: the
# runs of one workflow id may be many. So the run's own end is asked first.
_goes_on: Final = sa.or_(
    RUNS.c.status == RunStatus.CONTINUED_AS_NEW.value,
    sa.and_(
        RUNS.c.status.in_((RunStatus.FAILED.value, RunStatus.TIMED_OUT.value)),
        sa.exists().where(
            _end.c.run_id == RUNS.c.run_id,
            _end.c.type.in_(
                ("WorkflowExecutionFailed", "WorkflowExecutionTimedOut"),
            ),
            _end.c.data.like('%"new_run_id"%'),
        ),
    ),
)
_has_successors: Final = sa.and_(
    RUNS.c.first_run_id == RUNS.c.run_id,
    _goes_on,
    sa.exists().where(
        _other.c.workflow_id == RUNS.c.workflow_id,
        _other.c.namespace == RUNS.c.namespace,
        _other.c.first_run_id == RUNS.c.run_id,
        _other.c.run_id.not_in(_RUN_IDS),
    ),
)
FIND_TIES: Final = (
    sa.select(
        RUNS.c.run_id,
        RUNS.c.open_key.is_not(None),
        RUNS.c.first_run_id,
        _before.c.run_id,
        _has_successors,
        sa.exists().where(
            _child.c.parent_run_id == RUNS.c.run_id, _child.c.open_key.is_not(None)
        ),
        sa.exists().where(REPLIES.c.run_id == RUNS.c.run_id),
        _parent.c.open_key,
        _parent.c.owner,
        _parent.c.wake_at,
        _parent.c.stuck.is_not(None),
        sa.exists().where(INBOX.c.run_id == _parent.c.run_id),
    )
    .select_from(RUNS)
    .outerjoin(_parent, _parent.c.run_id == RUNS.c.parent_run_id)
    .outerjoin(_before, _before.c.run_id == RUNS.c.continued_from_run_id)
    .where(RUNS.c.run_id.in_(_RUN_IDS))
)
DELETIONS: Final = [
    sa.delete(table).where(table.c.run_id.in_(_RUN_IDS))
    for table in (HISTORY, ATTEMPTS, ACTIVITY_TASKS, INBOX, REPLIES, ATTRIBUTES, RUNS)
]


def to_tie(row: Any) -> tuple[str, Tie]:
    """Read a row of `FIND_TIES`."""
    run_id, is_open, first_run_id, before, goes_on, has_child, has_reply, *above = row
    parent_key, owner, wake_at, is_stuck, has_mail = above
    parent = OpenParent(
        owner=owner,
        wake_at=wake_at if isinstance(wake_at, int) else None,
        is_stuck=bool(is_stuck),
        has_mail=bool(has_mail),
    )
    return run_id, Tie(
        is_open=bool(is_open),
        first_run_id=first_run_id,
        predecessor=before,
        has_successors=bool(goes_on),
        has_open_child=bool(has_child),
        parent=None if parent_key is None else parent,
        has_reply=bool(has_reply),
    )
