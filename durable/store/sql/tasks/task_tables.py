"""Tasks within a transaction: how they are looked at, claimed, judged and lost."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from durable.errors import CorruptHistoryError
from durable.store.activity_tasks import ActivityTaskRecord, TaskState
from durable.store.deciding.queue_turns import take_by_turns
from durable.store.deciding.rows import Task, TaskChange, TaskRows
from durable.store.sql import salvage
from durable.store.sql.fetching import fetch
from durable.store.sql.tasks import queue_tables, statements
from durable.store.sql.tasks.heads import Waiting, find_heads, since

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from durable.store.activity_tasks import TaskKey
    from durable.store.database import Session
    from durable.store.deciding.queue_turns import Head, Turn
    from durable.store.queues import HeldCount, QueueRecord
    from durable.store.records import WorkerRecord

_Key = TypeVar("_Key", str, tuple[str, int])
# Two parameters each; all databases take these many.
_KEYS_PER_STATEMENT = 500
_STATES = {state.value: state for state in TaskState}


def _pages(keys: Iterable[_Key]) -> Iterator[list[_Key]]:
    found = list(keys)
    for start in range(0, len(found), _KEYS_PER_STATEMENT):
        yield found[start : start + _KEYS_PER_STATEMENT]


class TaskTables:
    """The part of `Tables` that concerns tasks, but for `write_tasks`."""

    _session: Session

    def write_tasks(self, rows: TaskRows) -> None:
        """See `Tables`; first what ends, last what is inserted."""
        raise NotImplementedError

    # --- looking ----------------------------------------------------------------------

    def look_for_tasks(
        self, keys: Collection[TaskKey], run_ids: Collection[str]
    ) -> dict[TaskKey, Task]:
        """See `Tables`. All are locked in the order of their keys."""
        wanted = set(keys)
        for page in _pages(run_ids):
            # None can come to a run that is locked.
            found = fetch(self._session, statements.FIND_KEYS, run_ids=page)
            wanted.update((run_id, event_id) for run_id, event_id in found)
        return self._lock(wanted)

    def _lock(self, keys: Iterable[TaskKey]) -> dict[TaskKey, Task]:
        tasks: dict[TaskKey, Task] = {}
        for row in self._lock_tasks(keys):
            run_id, event_id, namespace, state, *others = row
            task = Task(run_id, event_id, namespace, _STATES.get(state), *others)
            tasks[task.key] = task
        return tasks

    def _lock_tasks(self, keys: Iterable[TaskKey]) -> list[Any]:
        lock = statements.LOCK_TASKS
        pages = [fetch(self._session, lock, keys=p) for p in _pages(sorted(keys))]
        return [row for page in pages for row in page]

    # --- what workers do --------------------------------------------------------------

    def claim_tasks(
        self,
        worker: WorkerRecord,
        task_queue: str,
        types: Sequence[str] | None,
        limit: int,
        now: int,
    ) -> list[ActivityTaskRecord]:
        """See `Tables`."""
        session, of_queue = self._session, (worker.namespace, task_queue)
        found = find_heads(session, *of_queue, types)
        heads = sorted(one for one in found if one.due_at <= now)
        taken: list[ActivityTaskRecord] = []
        for priority, group in itertools.groupby(heads, lambda head: head.priority):
            room = limit - len(taken)
            if room <= 0:
                break
            where = {
                "namespace": worker.namespace,
                "task_queue": task_queue,
                "of_priority": priority,
                "until": now,
            }
            for head, share in self._share_out(list(group), where, room).items():
                of_kind = {**where, "kind": head.kind, **since(head.place)}
                rows = fetch(session, statements.TAKE_DUE, **of_kind, page=share)
                taken += _read(rows)
        return self._claim(worker, taken, now)

    def _claim(
        self, worker: WorkerRecord, taken: list[ActivityTaskRecord], now: int
    ) -> list[ActivityTaskRecord]:
        taken.sort(key=lambda one: (one.priority, one.due_at, one.key))
        return self._change(
            taken,
            state=TaskState.CLAIMED,
            worker_id=worker.worker_id,
            started_at=now,
            expires_at=None,
            heartbeat_at=None,
            judge_id=None,
            cancel=None,
        )

    def claim_in_turn(
        self,
        worker: WorkerRecord,
        task_queue: str,
        types: Sequence[str] | None,
        turn: Turn,
        now: int,
    ) -> list[ActivityTaskRecord]:
        """See `Tables`."""
        session, namespace = self._session, worker.namespace
        where = {"namespace": namespace, "task_queue": task_queue, "until": now}
        taken: list[ActivityTaskRecord] = []

        found = find_heads(session, namespace, task_queue, types)
        due = {(h.priority, h.kind): h for h in found if h.due_at <= now}

        def find(of: dict[str, Any], kinds: Sequence[str]) -> list[Head]:
            of_kinds = {kind: due[of["of_priority"], kind].place for kind in kinds}
            return queue_tables.find_ready(session, {**where, **of}, of_kinds, turn)

        def take(of: dict[str, Any]) -> int:
            place = due[of["of_priority"], of["kind"]].place
            of_key = {**where, **of, **since(place)}
            found = _read(fetch(session, statements.TAKE_OF_KEY, **of_key))
            taken.extend(found)
            return len(found)

        take_by_turns([head[:3] for head in due.values()], turn, find, take)
        return self._claim(worker, taken, now)

    def lock_queue(self, namespace: str, name: str) -> QueueRecord | None:
        """See `Tables`."""
        return queue_tables.read_queue(self._session, namespace, name, locks=True)

    def put_queue(self, record: QueueRecord, *, is_new: bool) -> None:
        """See `Tables`."""
        fields, execute = msgspec.structs.asdict(record), self._session.connection
        if is_new:
            execute.execute(statements.INSERT_QUEUE, fields)
            return
        key = {"of_namespace": fields.pop("namespace"), "named": fields.pop("name")}
        execute.execute(statements.UPDATE_QUEUE, {**key, **fields})

    def delete_queue(self, namespace: str, name: str) -> bool:
        """See `Tables`."""
        key = {"of_namespace": namespace, "named": name}
        found = self._session.connection.execute(statements.DELETE_QUEUE, key)
        return found.rowcount > 0

    def count_held(self, namespace: str, task_queue: str) -> list[HeldCount]:
        """See `Tables`."""
        return queue_tables.count_held(self._session, namespace, task_queue)

    def _share_out(
        self, heads: list[Waiting], where: dict[str, Any], room: int
    ) -> dict[Waiting, int]:
        """Say how many of each type come first, if all are of one priority."""
        if len(heads) == 1:
            return {heads[0]: room}
        first: list[tuple[Any, ...]] = []
        for head in heads:
            of_kind = {**where, "kind": head.kind, **since(head.place)}
            rows = fetch(self._session, statements.PEEK_DUE, **of_kind, page=room)
            first += [(*row, head) for row in rows]
        shares: dict[Waiting, int] = {}
        for *_, head in sorted(first)[:room]:
            shares[head] = shares.get(head, 0) + 1
        return shares

    def take_tasks(
        self, worker: WorkerRecord, limit: int, now: int
    ) -> list[ActivityTaskRecord]:
        """See `Tables`."""
        key = {"namespace": worker.namespace, "until": now, "page": limit}
        rows = fetch(self._session, statements.TAKE_EXPIRED, **key)
        return self._change(_read(rows), judge_id=worker.worker_id)

    def _change(
        self, found: list[ActivityTaskRecord], **fields: Any
    ) -> list[ActivityTaskRecord]:
        if not found:
            return []
        changed = {one.key: TaskChange.of(**fields) for one in found}
        self.write_tasks(TaskRows(changed=changed))
        return [msgspec.structs.replace(one, **fields) for one in found]

    def lose_tasks(self) -> None:
        """See `Tables`. There are none, as a rule."""
        found = fetch(self._session, statements.FIND_STRAYS)
        if not found:
            return
        owners = {(run_id, event_id): owner for run_id, event_id, owner in found}
        lost = {
            key: TaskChange.of(state=TaskState.LOST, expires_at=0)
            for key, task in self._lock(owners).items()
            if task.state is TaskState.CLAIMED and task.worker_id == owners[key]
        }
        if lost:
            self.write_tasks(TaskRows(changed=lost))


def _read(rows: Iterable[Sequence[Any]]) -> list[ActivityTaskRecord]:
    """Build records; what cannot be read is left for the doctor."""
    found: list[ActivityTaskRecord] = []
    for row in rows:
        try:
            found.append(salvage.to_task(row))
        except CorruptHistoryError:
            continue
    return found
