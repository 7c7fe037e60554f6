"""Lets activities begin again that waited because their run was paused."""

from __future__ import annotations

from durable import limits
from durable.runs.activity_tasks.pausing import resume_task
from durable.store.queries import ListActivityTasks, TaskFilter
from durable.store.store import Store


async def resume_tasks(store: Store, namespace: str, run_id: str) -> None:
    """Let all of a run begin; what is not reached is asked about later."""
    after = None
    while True:
        where = TaskFilter(run_id=run_id, after=after, limit=limits.LIST_PAGE_MAX)
        found = await store.read(ListActivityTasks(namespace, where))
        for record in found:
            operation = resume_task(record, store.now())
            if operation is not None:
                await store.perform(operation)
        if len(found) < limits.LIST_PAGE_MAX:
            return
        after = found[-1].key
