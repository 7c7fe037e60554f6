"""Activities that anyone may take, in `MemoryStore`: one dict, walked as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from durable import limits
from durable.store.activity_tasks import ActivityTaskRecord, TaskKey, TaskState
from durable.store.deciding.queue_turns import Head, begin_turn, take_by_turns
from durable.store.deciding.rows import Task
from durable.store.queries import CancelledTask, TaskCount
from durable.store.queues import HeldCount
from durable.store.records import NEVER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from durable.store.deciding.queue_turns import Turn
    from durable.store.deciding.rows import TaskRows
    from durable.store.queries import ListActivityTasks
    from durable.store.queues import QueueRecord
    from durable.store.records import WorkerRecord

replace = msgspec.structs.replace


class MemoryTasks:
    """The part of `Tables` and of what is read that concerns tasks."""

    def __init__(self) -> None:
        """Begin without any."""
        self.tasks: dict[TaskKey, ActivityTaskRecord] = {}
        self.workers: dict[str, WorkerRecord] = {}
        self.queues: dict[tuple[str, str], QueueRecord] = {}

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
        return self._claim(worker, due[:limit], now)

    def _claim(
        self, worker: WorkerRecord, taken: list[ActivityTaskRecord], now: int
    ) -> list[ActivityTaskRecord]:
        return self._replace(
            taken,
            state=TaskState.CLAIMED,
            worker_id=worker.worker_id,
            started_at=now,
            expires_at=None,
            heartbeat_at=None,
            judge_id=None,
            cancel=None,
        )

    # --- configured queues ------------------------------------------------------------

    def lock_queue(self, namespace: str, name: str) -> QueueRecord | None:
        """See `Tables`."""
        return self.queues.get((namespace, name))

    def put_queue(self, record: QueueRecord, *, is_new: bool) -> None:
        """See `Tables`."""
        self.queues[record.namespace, record.name] = record

    def delete_queue(self, namespace: str, name: str) -> bool:
        """See `Tables`."""
        return self.queues.pop((namespace, name), None) is not None

    def list_queues(self, namespace: str) -> list[QueueRecord]:
        """See `ReadQueues`."""
        return [row for key, row in sorted(self.queues.items()) if key[0] == namespace]

    def count_held(self, namespace: str, task_queue: str) -> list[HeldCount]:
        """See `Tables`."""
        return [
            HeldCount(one.fairness_key, one.worker_id, 1)
            for one in self.tasks.values()
            if (one.namespace, one.task_queue) == (namespace, task_queue)
            and one.state is TaskState.CLAIMED
        ]

    def claim_in_turn(
        self,
        worker: WorkerRecord,
        task_queue: str,
        types: Sequence[str] | None,
        turn: Turn,
        now: int,
    ) -> list[ActivityTaskRecord]:
        """See `Tables`."""
        taken: list[ActivityTaskRecord] = []

        def due(priority: int) -> list[ActivityTaskRecord]:
            found = self._find_waiting(worker.namespace, task_queue, types)
            return [
                one
                for one in sorted(found, key=lambda one: (one.due_at, one.key))
                if one.priority == priority
                and one.due_at <= now
                and (one.expires_at is None or one.expires_at > now)
            ]

        def find(of: dict[str, Any], _: Sequence[str]) -> list[Head]:
            first: dict[tuple[str, str], Head] = {}
            for one in due(of["of_priority"]):
                head = (one.fairness_key, one.activity_type)
                first.setdefault(head, Head(*head, one.due_at, one.fairness_weight))
            return [one for one in first.values() if turn.room_of(one.fairness_key) > 0]

        def take(of: dict[str, Any]) -> int:
            which = (of["key"], of["kind"])
            found = [
                one
                for one in due(of["of_priority"])
                if (one.fairness_key, one.activity_type) == which
            ][: of["page"]]
            taken.extend(found)
            return len(found)

        waiting = self._find_waiting(worker.namespace, task_queue, types)
        take_by_turns({(w.priority, 0, "") for w in waiting}, turn, find, take)
        taken.sort(key=lambda one: (one.priority, one.due_at, one.key))
        return self._claim(worker, taken, now)

    def _allowed_at(
        self,
        waiting: list[ActivityTaskRecord],
        record: QueueRecord,
        owner: str,
        now: int,
    ) -> Iterator[int]:
        held = self.count_held(record.namespace, record.name)
        turn = begin_turn(record, held, owner, 1, now)
        if turn.room or turn.next_at is not None:
            earliest, turn.room = turn.next_at or 0, 1
            for one in waiting:
                if one.due_at > now or turn.room_of(one.fairness_key) > 0:
                    yield max(one.due_at, earliest)

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
        limits_at: int | None,
    ) -> int | None:
        """See the query."""
        if worker is None:
            return None
        found = [at for at, _ in self._unjudged(worker.namespace)]
        for queue, types in queues:
            waiting = [
                one
                for one in self._find_waiting(worker.namespace, queue, types)
                if one.due_at != NEVER
            ]
            record = self.queues.get((worker.namespace, queue))
            if record is None or limits_at is None:
                found += [one.due_at for one in waiting]
            else:
                owner = worker.worker_id
                found += self._allowed_at(waiting, record, owner, limits_at)
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
