"""What is asked of tasks outside of transactions that write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durable import limits
from durable.store.activity_tasks import TaskState
from durable.store.deciding.queue_turns import begin_turn
from durable.store.queries import CancelledTask, TaskCount
from durable.store.records import NEVER
from durable.store.sql import salvage
from durable.store.sql.fetching import fetch
from durable.store.sql.tasks import queue_tables, statements
from durable.store.sql.tasks.heads import find_heads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable.store import queries
    from durable.store.activity_tasks import ActivityTaskRecord
    from durable.store.database import Session
    from durable.store.queues import QueueRecord
    from durable.store.records import WorkerRecord
    from durable.store.sql.tasks.heads import Waiting

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
    namespace, now = worker.namespace, query.limits_at
    rows = fetch(session, statements.NEXT_EXPIRY, namespace=namespace)
    instants = [at for (at,) in rows if isinstance(at, int)]
    for queue, types in query.queues:
        record = None
        if now is not None:
            record = queue_tables.read_queue(session, namespace, queue)
        heads = find_heads(session, namespace, queue, types)
        if record is None or now is None:
            instants += [one.due_at for one in heads if one.due_at != NEVER]
        else:
            instants += _allowed_at(session, record, list(heads), worker, now)
    return min(instants, default=None)


def _allowed_at(
    session: Session,
    record: QueueRecord,
    heads: list[Waiting],
    worker: WorkerRecord,
    now: int,
) -> Iterator[int]:
    """Yield instants at which a worker may find something in a configured queue."""
    namespace, queue = record.namespace, record.name
    held = (
        queue_tables.count_held(session, namespace, queue) if record.has_slots else ()
    )
    turn = begin_turn(record, held, worker.worker_id, 1, now)
    if not turn.room and turn.next_at is None:
        return
    earliest = turn.next_at or 0
    where = {"namespace": namespace, "task_queue": queue, "until": now}
    for head in heads:
        if head.due_at == NEVER:
            continue
        of_kind = {**where, "of_priority": head.priority, "kind": head.kind}
        kinds = {head.kind: head.place}
        turn.room = 1
        if head.due_at > now or queue_tables.find_ready(session, of_kind, kinds, turn):
            yield max(head.due_at, earliest)
            continue
        # Other keys have room, but are due later.
        for (later,) in fetch(session, statements.NEXT_DUE, **of_kind):
            if later != NEVER:
                yield max(later, earliest)


def configured(session: Session, query: queries.ReadQueues) -> list[QueueRecord]:
    """See the query."""
    rows = fetch(session, statements.READ_QUEUES, of_namespace=query.namespace)
    return [salvage.to_queue(row) for row in rows]


def counted(session: Session, query: queries.CountActivityTasks) -> list[TaskCount]:
    """See the query."""
    rows = fetch(session, statements.COUNT_TASKS, namespace=query.namespace)
    return sorted(
        TaskCount(queue, _STATES[state], tasks, oldest_at)
        for queue, state, tasks, oldest_at in rows
        if state in _STATES
    )
