"""Tasks within a transaction: how they are looked at, claimed, judged and lost."""

from __future__ import annotations

import bisect
import itertools
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from durable import limits
from durable.errors import CorruptHistoryError
from durable.store.activity_tasks import ActivityTaskRecord, TaskState
from durable.store.deciding.queue_turns import take_by_turns
from durable.store.deciding.rows import Task, TaskChange, TaskRows
from durable.store.sql import salvage
from durable.store.sql.fetching import fetch
from durable.store.sql.tables import COLLATIONS
from durable.store.sql.tasks import queue_tables, statements

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


def find_heads(
    session: Session, namespace: str, task_queue: str, types: Iterable[str] | None
) -> Iterator[tuple[int, int, str]]:
    """Yield what waits in a queue: priority, first instant and type of each kind."""
    known = None if types is None else frozenset(types)
    where = {"namespace": namespace, "task_queue": task_queue}
    steps = _step_heads if session.connection.dialect.name in COLLATIONS else _all_heads
    for kind, priority, due_at in steps(session, where, known):
        if (known is None or kind in known) and isinstance(due_at, int):
            yield priority, due_at, kind


def _all_heads(
    session: Session, where: dict[str, Any], _: Collection[str] | None
) -> Iterator[Any]:
    """Find them in one statement, or several if there are very many types."""
    after: Any = ""
    while after is not None:
        found = fetch(session, statements.FIND_HEADS, **where, after=after)
        yield from found
        kinds = {kind for kind, _, _ in found}
        after = max(kinds) if len(kinds) >= limits.TASK_TYPES_AT_ONCE else None


def _step_heads(
    session: Session, where: dict[str, Any], known: Collection[str] | None
) -> Iterator[Any]:
    """Find one after the other; types that nobody asks for are jumped over."""
    jumps = sorted(known or ())
    found = fetch(session, statements.NEXT_KIND, **where, after="")
    while found:
        kind, priority, _ = found[0]
        if known is None or kind in known:
            yield found[0]
            key = {"kind": kind, "of_priority": priority}
            if more := fetch(session, statements.NEXT_PRIORITY, **where, **key):
                found = more
                continue
        if known is None:
            found = fetch(session, statements.NEXT_KIND, **where, after=kind)
            continue
        place = bisect.bisect_right(jumps, kind)
        if place == len(jumps):
            return
        jump = jumps[place]
        found = fetch(session, statements.FIRST_OF_KIND, **where, kind=jump)


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
        heads = sorted(h for h in find_heads(session, *of_queue, types) if h[1] <= now)
        taken: list[ActivityTaskRecord] = []
        for priority, group in itertools.groupby(heads, lambda head: head[0]):
            room = limit - len(taken)
            if room <= 0:
                break
            where = {
                "namespace": worker.namespace,
                "task_queue": task_queue,
                "of_priority": priority,
                "until": now,
            }
            shares = self._share_out([kind for _, _, kind in group], where, room)
            for kind, share in shares.items():
                rows = fetch(
                    session, statements.TAKE_DUE, **where, kind=kind, page=share
                )
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

        def find(of: dict[str, Any], kinds: Sequence[str]) -> list[Head]:
            return queue_tables.find_ready(session, {**where, **of}, kinds, turn)

        def take(of: dict[str, Any]) -> int:
            found = _read(fetch(session, statements.TAKE_OF_KEY, **where, **of))
            taken.extend(found)
            return len(found)

        heads = find_heads(session, namespace, task_queue, types)
        due = [head for head in heads if head[1] <= now]
        take_by_turns(due, turn, find, take)
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
        self, kinds: list[str], where: dict[str, Any], room: int
    ) -> dict[str, int]:
        """Say how many of each type come first, if all are of one priority."""
        if len(kinds) == 1:
            return {kinds[0]: room}
        first: list[tuple[Any, ...]] = []
        for kind in kinds:
            rows = fetch(
                self._session, statements.PEEK_DUE, **where, kind=kind, page=room
            )
            first += [(*row, kind) for row in rows]
        shares: dict[str, int] = {}
        for *_, kind in sorted(first)[:room]:
            shares[kind] = shares.get(kind, 0) + 1
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
