"""MemoryStore: the store without a database, for tests and for trying things out.

It keeps the contract of `durable.store.store` word for word, but for durability:
nothing survives the process.
"""

# size: one line for each query that a store answers.

from __future__ import annotations

import asyncio
import functools
import os
import threading
import weakref
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, TypeVar

from durable import limits
from durable.search.conditions import matches
from durable.search.run_fields import reader_of
from durable.store import queries
from durable.store.deciding import policies
from durable.store.lease import (
    RENEWAL_SECONDS,
    DrainWorker,
    RegisterWorker,
    ReleaseWorker,
)
from durable.store.memory.memory_database import MemoryDatabase
from durable.store.memory.memory_outbox import find_in_outbox, list_outbox
from durable.store.queries import (
    QueueBacklog,
    RunNews,
    UnownedRun,
    VersionCount,
    sort_versions,
)
from durable.store.records import NEVER, LoadedRun, RunStatus, due_since
from durable.store.steady_clock import SteadyClock
from durable.store.submission import (
    Admission,
    deliver,
    is_asked_for,
    is_withdrawn,
    wait_for_outcome,
)
from durable.store.transaction import Transaction, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from durable.clock import Clock
    from durable.observer import Observer
    from durable.search.conditions import Condition
    from durable.search.kinds import Kept
    from durable.store.deciding.decide import Outcomes
    from durable.store.queries import Query
    from durable.store.records import (
        AttemptRecord,
        HistoryRow,
        RunRecord,
        WorkerRecord,
    )
    from durable.store.store import Operation, Outcome

T = TypeVar("T")
_Operation: TypeAlias = "Operation | RegisterWorker | DrainWorker | ReleaseWorker"
_Submitted: TypeAlias = "tuple[_Operation, Outcome]"

# Named databases live as long as the process, so that a test can close one engine and
# find everything again with the next.
_databases: Final[dict[str, MemoryDatabase]] = {}
_databases_lock = threading.Lock()
_stores: Final[weakref.WeakSet[MemoryStore]] = weakref.WeakSet()


def _get_database(name: str, clock: Clock) -> MemoryDatabase:
    if not name:
        return MemoryDatabase(SteadyClock(clock))
    with _databases_lock:
        if name not in _databases:
            _databases[name] = MemoryDatabase(SteadyClock(clock))
        return _databases[name]


def _forget_inherited() -> None:
    global _databases_lock
    _databases_lock = threading.Lock()
    _databases.clear()
    _stores.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)


class MemoryStore:
    """A store in this process's memory; stores of one name share one database."""

    def __init__(
        self, name: str = "", *, clock: Clock, observer: Observer | None = None
    ) -> None:
        """Use the database of that name, or a private one without a name.

        Args:
            name: which database; it is made by the first store that names it.
            clock: where a new database reads the time; a named one keeps its first.
            observer: is told of each group of operations.
        """
        self._admission = Admission(f"memory://{name}")
        self._name, self._clock = name, clock
        self._database = _get_database(name, clock)
        self._observer = observer
        self._queue: list[_Submitted] = []
        self._is_flush_due = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: WorkerRecord | None = None
        self._lost: Callable[[], None] | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._report: Callable[[], str] | None = None
        self._changed: Callable[[], None] | None = None
        self._is_change_due = False

    async def open(self) -> None:
        """Let calls in."""
        if self._admission.is_forked:
            # The copy belongs to workers of the parent, which go on there.
            self._database = _get_database(self._name, self._clock)
            self._queue, self._is_flush_due = [], False
            self._worker = self._lost = self._renewal = None
        self._admission.begin_opening()
        self._loop = asyncio.get_running_loop()
        self._admission.open()
        with _databases_lock:
            _stores.add(self)

    async def close(self) -> None:
        """Finish what was submitted, end the lease, let no more calls in."""
        loop = self._loop
        if loop is None or self._admission.is_forked:
            return
        self._loop = None
        if self._worker is not None:
            self._queue.append((ReleaseWorker(), _ignore))
        self._admission.close()
        with _databases_lock:
            _stores.discard(self)
        self._flush(loop)
        if loop.is_closed():
            return  # and so was everybody who could want an outcome
        # Who waits for one of the outcomes hears of it before this returns.
        await asyncio.sleep(0)

    def now(self) -> int:
        """Microseconds since 1970 by the database's clock; never steps back."""
        return self._database.clock.now()

    def submit(self, operation: Operation, done: Outcome) -> None:
        """Queue an operation; it is applied by the loop's next round."""
        self._enqueue(operation, done)

    def _enqueue(self, operation: _Operation, done: Outcome) -> None:
        self._admission.check()
        assert self._loop is not None  # noqa: S101 - open sets both
        self._queue.append((operation, done))
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush, self._loop)

    async def perform(self, operation: Operation) -> Any:
        """Submit an operation, wait until it is applied, return its result or raise."""
        self._admission.check()
        return await wait_for_outcome(
            lambda done: self._enqueue(operation, done),
            may_withdraw=is_asked_for(operation),
        )

    async def register_worker(
        self,
        worker: WorkerRecord,
        lost: Callable[[], None],
        report: Callable[[], str] | None = None,
    ) -> WorkerRecord:
        """Enter this process as a worker; give it a lease."""
        operation = RegisterWorker(worker, lost)
        self._report = report
        registered: WorkerRecord = await wait_for_outcome(
            lambda done: self._enqueue(operation, done)
        )
        return registered

    async def drain_worker(self) -> None:
        """Say in this worker's row that it drains."""
        await wait_for_outcome(lambda done: self._enqueue(DrainWorker(), done))

    async def release_worker(self) -> None:
        """Give up the lease and every run of this worker."""
        await wait_for_outcome(lambda done: self._enqueue(ReleaseWorker(), done))

    def holds_lease(self) -> bool:
        """Whether nobody has taken this worker's runs."""
        worker = self._worker
        return worker is not None and self._database.has_worker(worker.worker_id)

    def lease_seconds(self) -> float:
        """How long this worker's lease still runs; 0 if it has none."""
        row = self._database.workers.get(self._worker.worker_id if self._worker else "")
        left = 0 if row is None else row.lease_expires_at - self._database.clock.read()
        return max(0, left) / 1_000_000

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever another store of the same name has committed."""
        self._changed = changed

    # --- applying ---------------------------------------------------------------------

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_flush_due = False
        submitted = [item for item in self._queue if not is_withdrawn(item[1])]
        self._queue = []
        if not submitted:
            return
        with self._database.lock:
            outcomes = self._apply_group([operation for operation, _ in submitted])
        if loop.is_closed():
            return
        if self._observer is not None:
            rows = sum(len(getattr(o, "rows", ())) for o, _ in submitted)
            report = functools.partial(
                self._observer.committed,
                operations=len(submitted),
                rows=rows,
                duration=0,
            )
            loop.call_soon(report)
        self._tell_others()
        deliver(loop, [done for _, done in submitted], outcomes)

    def _apply(self, operation: _Operation) -> Any:
        ((result, error),) = self._apply_group([operation])
        if error is not None:
            raise error
        return result

    def _apply_group(self, operations: list[Any]) -> Outcomes:
        outcomes: Outcomes = []
        for part in split(operations):
            transaction = self._begin()
            outcomes += transaction.apply(part)
            self._take_over(transaction)
        return outcomes

    def _begin(self) -> Transaction:
        database = self._database
        return Transaction(database, database.clock, self._worker, self._lost)

    def _take_over(self, transaction: Transaction) -> None:
        before, self._worker = self._worker, transaction.worker
        self._lost = transaction.lost
        worker = self._worker
        if worker is None:
            self._stop_renewing()
        elif before is None or before.worker_id != worker.worker_id:
            self._schedule_renewal()
        if transaction.is_lost and self._lost is not None and self._loop is not None:
            self._loop.call_soon(self._lost)
            self._lost = None

    def _stop_renewing(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def _schedule_renewal(self) -> None:
        self._stop_renewing()
        if self._loop is not None:
            self._renewal = self._loop.call_later(RENEWAL_SECONDS, self._renew)

    def _renew(self) -> None:
        with self._database.lock:
            transaction = self._begin()
            transaction.renew(None if self._report is None else self._report())
            self._take_over(transaction)
        if not transaction.is_lost:
            self._schedule_renewal()

    def _tell_others(self) -> None:
        if len(_stores) < 2:
            return
        with _databases_lock:
            others = [
                store
                for store in _stores
                if store is not self and store._database is self._database
            ]
        for store in others:
            store._notice_change()

    def _notice_change(self) -> None:
        loop = self._loop
        if loop is None or self._is_change_due or self._changed is None:
            return
        self._is_change_due = True
        try:
            loop.call_soon_threadsafe(self._report_change)
        except RuntimeError:  # its loop has ended without closing the store
            self._is_change_due = False

    def _report_change(self) -> None:
        self._is_change_due = False
        if self._changed is not None and self._loop is not None:
            self._changed()

    # --- reads ------------------------------------------------------------------------

    async def read(self, query: Query[T]) -> T:
        """Answer a query."""
        self._admission.check()
        with self._database.lock:
            answer: T = self._ANSWERS[type(query)](self, query)
        return answer

    def _load_runs(self, query: queries.LoadRuns) -> list[LoadedRun]:
        database = self._database
        return [
            LoadedRun(
                record=database.runs[run_id],
                rows=self._rows_for_replay(run_id),
                messages=database.messages_of(run_id),
                attempts=self._attempts_of(run_id),
                tasks={task.key[1]: task.state for task in database.tasks_of(run_id)},
            )
            for run_id in query.run_ids
            if run_id in database.runs
        ]

    def _rows_of(self, run_id: str, after_event_id: int) -> list[HistoryRow]:
        rows = self._database.history.get(run_id, {})
        return [rows[e] for e in sorted(rows) if e > after_event_id]

    def _rows_for_replay(self, run_id: str) -> list[HistoryRow]:
        checkpoint = self._database.runs[run_id].checkpoint_event_id
        rows = self._rows_of(run_id, 0)
        return [row for row in rows if row[1] == 1 or row[1] >= checkpoint]

    def _attempts_of(self, run_id: str) -> list[AttemptRecord]:
        attempts = self._database.attempts
        return [attempts[key] for key in sorted(attempts) if key[0] == run_id]

    def _read_reply(self, query: queries.ReadReply) -> str | None:
        reply = self._database.replies.get((query.run_id, query.request_id))
        return None if reply is None else reply.data

    def _read_news(self, query: queries.ReadNews) -> list[RunNews]:
        database = self._database
        replies: dict[str, list[str]] = {}
        for run_id, request_id in database.replies:
            replies.setdefault(run_id, []).append(request_id)
        known = [run_id for run_id in query.run_ids if run_id in database.runs]
        return [self._news_of(i, sorted(replies.get(i, ()))) for i in known]

    def _news_of(self, run_id: str, replies: list[str]) -> RunNews:
        run = self._database.runs[run_id]
        rows = self._database.history.get(run_id, {})
        last, is_open = max(rows, default=0), run.status is RunStatus.RUNNING
        return RunNews(
            run_id=run_id,
            is_open=is_open,
            is_stuck=run.stuck is not None,
            last_event_id=last,
            replies=tuple(replies),
            last_row=None if is_open else rows.get(last),
        )

    def _find_run(self, query: queries.FindRun) -> RunRecord | None:
        return self._database.find_run(query.namespace, query.workflow_id, query.run_id)

    def _find_started(self, query: queries.FindStarted) -> RunRecord | None:
        key = (query.namespace, query.request_id)
        run_id = self._database.run_ids_by_request.get(key)
        return None if run_id is None else self._database.runs[run_id]

    def _list_runs(self, query: queries.ListRuns) -> list[RunRecord]:
        found = [
            run
            for run in self._database.runs.values()
            if run.namespace == query.namespace and policies.is_listed(run, query.where)
        ]
        found.sort(key=lambda run: (run.started_at, run.run_id), reverse=True)
        return found[: policies.page_size(query.where)]

    def _search(self, query: queries.SearchRuns) -> list[RunRecord]:
        order, after = query.order, query.after
        found: list[tuple[tuple[int, str], RunRecord]] = []
        for run in self._matching(query.namespace, query.where):
            instant = order.instant_of(run)
            if instant is None:
                continue
            place = (instant, run.run_id)
            is_next = after is None or (
                place < after if order.is_descending else place > after
            )
            if is_next:
                found.append((place, run))
        found.sort(key=lambda one: one[0], reverse=order.is_descending)
        page = max(0, min(query.limit, limits.LIST_PAGE_MAX))
        return [run for _, run in found[:page]]

    def _matching(self, namespace: str, where: Condition | None) -> list[RunRecord]:
        runs = [r for r in self._database.runs.values() if r.namespace == namespace]
        if where is None:
            return runs
        return [run for run in runs if matches(where, reader_of(run))]

    def _count(self, query: queries.CountRuns) -> queries.RunCounts:
        runs = self._matching(query.namespace, query.where)
        groups: Counter[Kept | None] = Counter()
        if query.group_by is not None:
            for run in runs:
                groups.update(reader_of(run)(*query.group_by) or (None,))
        found = dict(groups.most_common(limits.COUNT_GROUPS_MAX))
        return queries.RunCounts(len(runs), True, found)

    def _read_kinds(self, query: queries.ReadAttributeKinds) -> dict[str, str]:
        kinds = sorted(self._database.kinds.items())
        return {name: kind for (place, name), kind in kinds if place == query.namespace}

    def _find_due(self, query: queries.FindDueRuns) -> list[str]:
        own = [] if self._worker is None else self._own_runs()
        due = sorted(
            (run.wake_at, run.run_id)
            for run in own
            if run.wake_at is not None and run.wake_at <= query.until
        )
        return [run_id for _, run_id in due[: max(query.limit, 0)]]

    def _own_runs(self) -> list[RunRecord]:
        owner = "" if self._worker is None else self._worker.worker_id
        return list(self._database.owned_runs(owner))

    def _find_mailed(self, query: queries.FindMailedRuns) -> list[str]:
        database = self._database
        owner = None if self._worker is None else self._worker.worker_id
        mailed = {
            message.run_id: None
            for _, message in sorted(database.inbox.items())
            if owner is not None and database.runs[message.run_id].owner == owner
        }
        return list(mailed)[: max(query.limit, 0)]

    def _find_closed(self, query: queries.FindClosedRuns) -> list[str]:
        still_open = {run.run_id for run in self._database.open_runs()}
        return [run_id for run_id in query.run_ids if run_id not in still_open]

    def _find_next_wake_up(self, query: queries.FindNextWakeUp) -> int | None:
        if self._worker is None:
            return None
        at_rest = self._database.at_rest(
            self._worker, query.workflow_types, query.versions
        )
        waits = [run.wake_at for run in (*self._own_runs(), *at_rest)]
        return min((at for at in waits if at is not None and at != NEVER), default=None)

    def _find_stuck(self, query: queries.FindStuckRuns) -> list[str]:
        if self._worker is None:
            return []
        at_rest = self._database.at_rest(
            self._worker, query.workflow_types, query.versions
        )
        stuck = sorted(run.run_id for run in at_rest if _is_parked(run))
        found = [run_id for run_id in stuck if run_id > query.after]
        return found[: max(query.limit, 0)]

    def _find_due_versions(
        self, query: queries.FindDueVersions
    ) -> list[tuple[str, str]]:
        return self._versions(
            query.workflow_types,
            lambda run: run.wake_at is not None and run.wake_at <= query.until,
        )

    def _find_stuck_versions(
        self, query: queries.FindStuckVersions
    ) -> list[tuple[str, str]]:
        return self._versions(query.workflow_types, _is_parked)

    def _versions(
        self, workflow_types: Iterable[str], is_meant: Callable[[RunRecord], bool]
    ) -> list[tuple[str, str]]:
        if self._worker is None:
            return []
        found = self._database.at_rest(self._worker, workflow_types, None)
        return sorted(
            {
                (run.workflow_type, run.version)
                for run in found
                if run.version is not None and is_meant(run)
            }
        )

    def _count_versions(self, query: queries.CountVersions) -> list[VersionCount]:
        found: dict[tuple[str, str | None], list[int]] = {}
        for run in self._database.open_runs():
            if run.namespace == query.namespace:
                key = (run.workflow_type, run.version)
                found.setdefault(key, []).append(run.started_at)
        return sort_versions(
            VersionCount(*key, len(starts), min(starts))
            for key, starts in found.items()
        )

    def _find_unowned(self, query: queries.FindUnowned) -> list[UnownedRun]:
        found = [
            run
            for run in self._database.owned_runs(None)
            if run.namespace == query.namespace
            and run.stuck is None
            and policies.is_due(run.wake_at, query.until)
        ]
        found.sort(key=lambda run: (run.started_at, run.run_id))
        return [
            UnownedRun(
                run.run_id,
                run.workflow_id,
                run.workflow_type,
                run.task_queue,
                run.version,
                run.wake_at or 0,
            )
            for run in found[: max(query.limit, 0)]
        ]

    def _read_backlog(self, query: queries.ReadBacklog) -> list[QueueBacklog]:
        found: dict[str, QueueBacklog] = {}
        for run in self._database.open_runs():
            if run.namespace != query.namespace:
                continue
            nothing = QueueBacklog(run.task_queue, 0, None, 0)
            _, runs, oldest_at, stuck = found.get(run.task_queue, nothing)
            if run.stuck is not None and run.wake_at != NEVER:
                stuck += 1
            elif run.owner is None and policies.is_due(run.wake_at, query.until):
                since = due_since(run.wake_at or 0)
                runs, oldest_at = runs + 1, min(since, oldest_at or since)
            else:
                continue
            found[run.task_queue] = QueueBacklog(run.task_queue, runs, oldest_at, stuck)
        return [found[queue] for queue in sorted(found)]

    def _list_namespaces(self, _: queries.ListNamespaces) -> list[str]:
        return sorted({run.namespace for run in self._database.runs.values()})

    def _list_workers(self, _: queries.ListWorkers) -> list[WorkerRecord]:
        return [row for _, row in sorted(self._database.workers.items())]

    def _count_owned(self, _: queries.CountOwnedRuns) -> dict[str, int]:
        owners = (run.owner for run in self._database.open_runs())
        return dict(Counter(owner for owner in owners if owner is not None))

    _ANSWERS: ClassVar[dict[type[Query[Any]], Callable[[MemoryStore, Any], Any]]] = {
        queries.LoadRuns: _load_runs,
        queries.ReadMessages: lambda self, q: self._database.messages_of(q.run_id),
        queries.ReadReply: _read_reply,
        queries.ReadNews: _read_news,
        queries.ReadHistory: lambda self, q: self._rows_of(q.run_id, q.after_event_id)[
            : q.limit
        ],
        queries.ReadAttempts: lambda self, q: self._attempts_of(q.run_id),
        queries.FindRun: _find_run,
        queries.ListRuns: _list_runs,
        queries.SearchRuns: _search,
        queries.CountRuns: _count,
        queries.ReadAttributeKinds: _read_kinds,
        queries.ReadNamespaces: lambda self, q: [
            row
            for name, row in sorted(self._database.namespaces.items())
            if q.namespace in (None, name)
        ],
        queries.ReadQueues: lambda self, q: self._database.list_queues(q.namespace),
        queries.FindDueRuns: _find_due,
        queries.FindMailedRuns: _find_mailed,
        queries.FindClosedRuns: _find_closed,
        queries.FindNextWakeUp: _find_next_wake_up,
        queries.FindStuckRuns: _find_stuck,
        queries.FindUnowned: _find_unowned,
        queries.FindDueVersions: _find_due_versions,
        queries.FindStuckVersions: _find_stuck_versions,
        queries.CountVersions: _count_versions,
        queries.ReadBacklog: _read_backlog,
        queries.ListNamespaces: _list_namespaces,
        queries.ListWorkers: _list_workers,
        queries.CountOwnedRuns: _count_owned,
        queries.FindActivityTask: lambda self, q: self._database.tasks.get(
            (q.run_id, q.scheduled_event_id)
        ),
        queries.ListActivityTasks: lambda self, q: self._database.list_tasks(q),
        queries.FindCancelledTasks: lambda self, _: self._database.find_cancelled_tasks(
            "" if self._worker is None else self._worker.worker_id
        ),
        queries.NextActivityTaskAt: lambda self, q: self._database.next_task_at(
            self._worker, q.queues, q.limits_at
        ),
        queries.CountActivityTasks: lambda self, q: self._database.count_tasks(
            q.namespace
        ),
        queries.CountRunTurns: lambda self, q: self._database.count_all_turns(
            q.namespace
        ),
        queries.FindRunTurn: lambda self, q: self._database.find_turn(q.run_id),
        queries.NextRunTurnAt: lambda self, q: self._database.next_turn_at(
            q, self._worker
        ),
        queries.FindStarted: _find_started,
        queries.FindOutbox: lambda self, q: find_in_outbox(self._database.outbox, q),
        queries.ReadOutbox: lambda self, q: next(
            (r for r in self._database.outbox.values() if r.outbox_id == q.outbox_id),
            None,
        ),
        queries.ListOutbox: lambda self, q: list_outbox(self._database.outbox, q),
        queries.CheckIntegrity: lambda _self, _query: [],
    }


def _is_parked(run: RunRecord) -> bool:
    return run.stuck is not None and run.wake_at != NEVER


def _ignore(result: object, error: BaseException | None) -> None:
    """Receive an outcome that nobody waits for."""
