"""What is asked of tasks outside of transactions that write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable import limits
from durable.store.activity_tasks import TaskState
from durable.store.queries import CancelledTask, TaskCount
from durable.store.records import NEVER
from durable.store.sql import salvage
from durable.store.sql.fetching import fetch
from durable.store.sql.tasks import statements
from durable.store.sql.tasks.task_tables import find_heads

if TYPE_CHECKING:
    from durable.store import queries
    from durable.store.activity_tasks import ActivityTaskRecord
    from durable.store.database import Session
    from durable.store.records import WorkerRecord

_STATES = {state.value: state for state in TaskState}


def find_states(
    session: Session, run_ids: list[str]
) -> dict[str, dict[int, TaskState]]:
    """Return the states of the tasks of runs, by run and event."""
    found: dict[str, dict[int, TaskState]] = {}
    for run_id, event_id, state in fetch(
        session, statements.LOAD_STATES, run_ids=run_ids
    ):
        if state in _STATES:
            found.setdefault(run_id, {})[event_id] = _STATES[state]
    return found


def found(
    session: Session, query: queries.FindActivityTask
) -> ActivityTaskRecord | None:
    """See the query."""
    key = {"run_id": query.run_id, "event_id": query.scheduled_event_id}
    rows = fetch(session, statements.FIND_TASK, **key)
    return salvage.to_task(rows[0]) if rows else None


def listed(
    session: Session, query: queries.ListActivityTasks
) -> list[ActivityTaskRecord]:
    """See the query."""
    page = max(0, min(query.where.limit, limits.LIST_PAGE_MAX))
    statement = statements.list_tasks(query.namespace, query.where, page)
    return [salvage.to_task(row) for row in fetch(session, statement)]


def cancelled(
    session: Session, _: queries.FindCancelledTasks, owner: str
) -> list[CancelledTask]:
    """See the query."""
    rows = fetch(session, statements.FIND_CANCELLED, myself=owner)
    return [CancelledTask(*row) for row in rows]


def next_at(
    session: Session, query: queries.NextActivityTaskAt, worker: WorkerRecord
) -> int | None:
    """See the query."""
    namespace = worker.namespace
    rows = fetch(session, statements.NEXT_EXPIRY, namespace=namespace)
    instants = [at for (at,) in rows if isinstance(at, int)]
    for queue, types in query.queues:
        heads = find_heads(session, namespace, queue, types)
        instants += [due_at for _, due_at, _ in heads if due_at != NEVER]
    return min(instants, default=None)


def counted(session: Session, query: queries.CountActivityTasks) -> list[TaskCount]:
    """See the query."""
    rows = fetch(session, statements.COUNT_TASKS, namespace=query.namespace)
    return sorted(
        TaskCount(queue, _STATES[state], tasks, oldest_at)
        for queue, state, tasks, oldest_at in rows
        if state in _STATES
    )
