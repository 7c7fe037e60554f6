"""Activities that anyone may take, in `MemoryStore`: one dict, walked as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from durable import limits
from durable.store.activity_tasks import ActivityTaskRecord, TaskKey, TaskState
from durable.store.deciding.rows import Task
from durable.store.queries import CancelledTask, TaskCount
from durable.store.records import NEVER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from durable.store.deciding.rows import TaskRows
    from durable.store.queries import ListActivityTasks
    from durable.store.records import WorkerRecord

replace = msgspec.structs.replace


class MemoryTasks:
    """The part of `Tables` and of what is read that concerns tasks."""

    def __init__(self) -> None:
        """Begin without any."""
        self.tasks: dict[TaskKey, ActivityTaskRecord] = {}
        self.workers: dict[str, WorkerRecord] = {}

    def tasks_of(self, run_id: str) -> list[ActivityTaskRecord]:
        """Return a run's tasks, by event."""
        return [self.tasks[key] for key in sorted(self.tasks) if key[0] == run_id]

    def look_for_tasks(
        self, keys: Collection[TaskKey], run_ids: Collection[str]
    ) -> dict[TaskKey, Task]:
        """See `Tables`."""
        return {
            key: Task(
                *(*key, one.namespace, one.state, one.attempt),
                *(one.worker_id, one.judge_id, one.cancel, one.started_at),
            )
            for key, one in self.tasks.items()
            if key in keys or key[0] in run_ids
        }

    def write_tasks(self, rows: TaskRows) -> None:
        """See `Tables`."""
        for key in rows.ended:
            self.tasks.pop(key, None)
        for key, change in rows.changed.items():
            self.tasks[key] = replace(self.tasks[key], **change.given)
        self.tasks.update(rows.put)

    def claim_tasks(
        self,
        worker: WorkerRecord,
        task_queue: str,
        types: Sequence[str] | None,
        limit: int,
        now: int,
    ) -> list[ActivityTaskRecord]:
        """See `Tables`."""
        due = [
            one
            for one in self._find_waiting(worker.namespace, task_queue, types)
            if one.due_at <= now and (one.expires_at is None or one.expires_at > now)
        ]
        due.sort(key=lambda one: (one.priority, one.due_at, one.key))
        return self._replace(
            due[:limit],
            state=TaskState.CLAIMED,
            worker_id=worker.worker_id,
            started_at=now,
            expires_at=None,
            heartbeat_at=None,
            judge_id=None,
            cancel=None,
        )

    def _find_waiting(
        self, namespace: str, task_queue: str, types: Iterable[str] | None
    ) -> Iterator[ActivityTaskRecord]:
        known = None if types is None else frozenset(types)
        for one in self.tasks.values():
            if (
                (one.namespace, one.task_queue) == (namespace, task_queue)
                and one.state is TaskState.WAITING
                and (known is None or one.activity_type in known)
            ):
                yield one

    def _replace(
        self, found: list[ActivityTaskRecord], **fields: object
    ) -> list[ActivityTaskRecord]:
        changed = [replace(one, **fields) for one in found]
        self.tasks.update((one.key, one) for one in changed)
        return changed

    def take_tasks(
        self, worker: WorkerRecord, limit: int, now: int
    ) -> list[ActivityTaskRecord]:
        """See `Tables`."""
        expired = [
            (at, one.key, one)
            for at, one in self._unjudged(worker.namespace)
            if at <= now
        ]
        expired.sort(key=lambda found: found[:2])
        taken = [one for _, _, one in expired[:limit]]
        return self._replace(taken, judge_id=worker.worker_id)

    def _unjudged(self, namespace: str) -> Iterator[tuple[int, ActivityTaskRecord]]:
        for one in self.tasks.values():
            if (
                one.expires_at is not None
                and one.namespace == namespace
                and one.state is not TaskState.CLAIMED
                and one.judge_id not in self.workers
            ):
                yield one.expires_at, one

    def lose_tasks(self) -> None:
        """See `Tables`."""
        lost = [
            one
            for one in self.tasks.values()
            if one.state is TaskState.CLAIMED and one.worker_id not in self.workers
        ]
        self._replace(lost, state=TaskState.LOST, expires_at=0)

    def delete_tasks(self, run_ids: Sequence[str], after: int = 0) -> None:
        """Delete the tasks of runs, or those of later events."""
        gone = frozenset(run_ids)
        for key in [k for k in self.tasks if k[0] in gone and k[1] > after]:
            del self.tasks[key]

    # --- reads ------------------------------------------------------------------------

    def list_tasks(self, query: ListActivityTasks) -> list[ActivityTaskRecord]:
        """See the query."""
        where = query.where
        found = [
            one
            for key, one in sorted(self.tasks.items())
            if one.namespace == query.namespace
            and where.task_queue in (None, one.task_queue)
            and where.activity_type in (None, one.activity_type)
            and where.state in (None, one.state)
            and where.run_id in (None, one.run_id)
            and (where.after is None or key > where.after)
        ]
        return found[: max(0, min(where.limit, limits.LIST_PAGE_MAX))]

    def find_cancelled_tasks(self, worker_id: str) -> list[CancelledTask]:
        """See the query."""
        return [
            CancelledTask(*key, one.attempt, one.cancel)
            for key, one in sorted(self.tasks.items())
            if one.state is TaskState.CLAIMED
            and one.worker_id == worker_id
            and one.cancel is not None
        ]

    def next_task_at(
        self,
        worker: WorkerRecord | None,
        queues: Iterable[tuple[str, tuple[str, ...] | None]],
    ) -> int | None:
        """See the query."""
        if worker is None:
            return None
        found = [at for at, _ in self._unjudged(worker.namespace)]
        for queue, types in queues:
            waiting = self._find_waiting(worker.namespace, queue, types)
            found += [one.due_at for one in waiting if one.due_at != NEVER]
        return min(found, default=None)

    def count_tasks(self, namespace: str) -> list[TaskCount]:
        """See the query."""
        found: dict[tuple[str, TaskState], list[int]] = {}
        for one in self.tasks.values():
            if one.namespace == namespace:
                key = (one.task_queue, one.state)
                found.setdefault(key, []).append(one.due_at)
        return [
            TaskCount(*key, len(instants), min(instants))
            for key, instants in sorted(found.items())
        ]
