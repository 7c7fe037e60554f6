"""What waits in each task queue: walked from one queue to the next by an index.

However many runs sleep, and however many have closed, only due and parked ones are
walked, and not more of them than are counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from durable import limits
from durable.store.queries import QueueBacklog, ReadBacklog
from durable.store.records import NEVER, due_since
from durable.store.sql.fetching import fetch
from durable.store.sql.statements import by_index
from durable.store.sql.tables import RUNS

if TYPE_CHECKING:
    from durable.store.database import Session


class _OfIndex(FunctionElement[bool]):
    """The condition of a partial index, where there are such."""

    inherit_cache = True


@compiles(_OfIndex)
def _compile(element: Any, compiler: Any, **how: Any) -> str:
    return str(compiler.process(element.clauses, **how))


# Elsewhere each queue is in the index, and one that is asked for nothing tells so.
@compiles(_OfIndex, "mariadb")
@compiles(_OfIndex, "mysql")
def _compile_nothing(element: Any, compiler: Any, **how: Any) -> str:
    return "1 = 1"


_AT_REST: Final = sa.and_(RUNS.c.owner.is_(None), RUNS.c.wake_at.is_not(None))
_IS_STUCK: Final = sa.and_(
    RUNS.c.stuck.is_not(None),
    RUNS.c.open_key.is_not(None),
    sa.or_(RUNS.c.wake_at.is_(None), RUNS.c.wake_at != NEVER),
)
_OF_NAMESPACE: Final = RUNS.c.namespace == sa.bindparam("namespace")
_OF_QUEUE: Final = RUNS.c.task_queue == sa.bindparam("task_queue")
_PAGE: Final = sa.literal(limits.BACKLOG_RUNS_MAX)


def _next_queue(condition: Any) -> sa.Select[Any]:
    queues = (
        sa.select(RUNS.c.task_queue)
        .where(
            _OF_NAMESPACE,
            _OfIndex(condition),
            RUNS.c.task_queue > sa.bindparam("after"),
        )
        .order_by(RUNS.c.task_queue)
        .limit(sa.literal(1))
    )
    return by_index(queues, "durable_runs_due")


_NEXT_DUE_QUEUE: Final = _next_queue(_AT_REST)
_due_runs = (
    sa.select(RUNS.c.wake_at)
    .where(
        _OF_NAMESPACE,
        _OF_QUEUE,
        _AT_REST,
        RUNS.c.wake_at <= sa.bindparam("until"),
        RUNS.c.stuck.is_(None),
    )
    .order_by(RUNS.c.wake_at)
    .limit(_PAGE)
)
_due = by_index(_due_runs, "durable_runs_due").subquery()
_DUE: Final = sa.select(
    sa.func.count(),
    sa.func.min(_due.c.wake_at),
    sa.func.min(sa.case((_due.c.wake_at >= 0, _due.c.wake_at))),
)
_stuck_runs = sa.select(RUNS.c.task_queue).where(_OF_NAMESPACE, _IS_STUCK).limit(_PAGE)
_stuck = by_index(_stuck_runs, "durable_runs_stuck").subquery()
_STUCK: Final = sa.select(_stuck.c.task_queue, sa.func.count()).group_by(
    _stuck.c.task_queue
)


def backlog(session: Session, query: ReadBacklog) -> list[QueueBacklog]:
    """Say what waits in each task queue; see `ReadBacklog`."""
    found: dict[str, QueueBacklog] = {}
    key = {"namespace": query.namespace}
    after = ""
    for _ in range(limits.BACKLOG_QUEUES_MAX):
        rows = fetch(session, _NEXT_DUE_QUEUE, **key, after=after)
        if not rows or not isinstance(rows[0][0], str):
            break
        after = rows[0][0]
        of_queue = {**key, "task_queue": after, "until": query.until}
        ((runs, *oldest),) = fetch(session, _DUE, **of_queue)
        if runs:
            since = min(due_since(at) for at in oldest if at is not None)
            found[after] = QueueBacklog(after, runs, since, 0)
    for queue, stuck in fetch(session, _STUCK, **key):
        if isinstance(queue, str):
            known = found.get(queue, QueueBacklog(queue, 0, None, 0))
            found[queue] = known._replace(stuck=stuck)
    return [found[queue] for queue in sorted(found)]
