"""MemoryStore: the store without a database, for tests and for trying things out.

It keeps the contract of `durable.store.store` word for word, but for durability:
nothing survives the process.
"""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final

from durable.errors import DurableError
from durable.store import policies
from durable.store.lease import RENEWAL_SECONDS, RegisterWorker, ReleaseWorker
from durable.store.memory_database import MemoryDatabase
from durable.store.records import LoadedRun, RunNews, RunStatus, UnownedRun
from durable.store.steady_clock import SteadyClock
from durable.store.submission import (
    Admission,
    deliver,
    is_fenced,
    wait_for_outcome,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from durable.clock import Clock
    from durable.observer import Observer
    from durable.store.records import (
        AttemptRecord,
        HistoryRow,
        MessageRecord,
        Operation,
        RunFilter,
        RunRecord,
        WorkerRecord,
    )
    from durable.store.store import Outcome

_Submitted = tuple["Operation | RegisterWorker | ReleaseWorker", "Outcome"]

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
        # The outcomes were scheduled just now: let them arrive before this returns.
        await asyncio.sleep(0)

    def now(self) -> int:
        """Microseconds since 1970 by the database's clock; never steps back."""
        return self._database.clock.now()

    def submit(self, operation: Operation, done: Outcome) -> None:
        """Queue an operation; it is applied by the loop's next round."""
        self._enqueue(operation, done)

    def _enqueue(
        self, operation: Operation | RegisterWorker | ReleaseWorker, done: Outcome
    ) -> None:
        self._admission.check()
        assert self._loop is not None  # noqa: S101 - open sets both
        self._queue.append((operation, done))
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush, self._loop)

    async def perform(self, operation: Operation) -> Any:
        """Submit an operation, wait until it is applied, return its result or raise."""
        self._admission.check()
        return await wait_for_outcome(lambda done: self._enqueue(operation, done))

    async def register_worker(
        self, worker: WorkerRecord, lost: Callable[[], None]
    ) -> WorkerRecord:
        """Enter this process as a worker; give it a lease and a fencing number."""
        operation = RegisterWorker(worker, lost)
        registered: WorkerRecord = await wait_for_outcome(
            lambda done: self._enqueue(operation, done)
        )
        return registered

    async def release_worker(self) -> None:
        """Give up the lease and every run of this worker."""
        await wait_for_outcome(lambda done: self._enqueue(ReleaseWorker(), done))

    def holds_lease(self) -> bool:
        """Whether nobody has taken this worker's runs."""
        worker = self._worker
        row = None if worker is None else self._database.workers.get(worker.worker_id)
        return worker is not None and row is not None and row.fence == worker.fence

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever another store of the same name has committed."""
        self._changed = changed

    # --- applying ---------------------------------------------------------------------

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_flush_due = False
        submitted, self._queue = self._queue, []
        outcomes: list[tuple[Outcome, Any, BaseException | None]] = []
        with self._database.lock:
            for operation, done in submitted:
                try:
                    outcomes.append((done, self._apply(operation), None))
                except DurableError as error:
                    outcomes.append((done, None, error))
        if not outcomes or loop.is_closed():
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
        loop.call_soon(deliver, loop, outcomes)
        self._tell_others()

    def _apply(self, operation: Operation | RegisterWorker | ReleaseWorker) -> Any:
        database = self._database
        if isinstance(operation, RegisterWorker):
            return self._register(operation)
        if isinstance(operation, ReleaseWorker):
            if self._holds_lease():
                database.apply(operation, self._worker, self._require_lease)
            self._forget_worker()
            return None
        if is_fenced(operation):
            self._require_lease(operation)
        result = database.apply(operation, self._worker, self._require_lease)
        if self._worker is not None:
            # Claiming raises the fencing number.
            worker_id = self._worker.worker_id
            self._worker = database.workers.get(worker_id, self._worker)
        return result

    def _register(self, operation: RegisterWorker) -> WorkerRecord:
        if self._worker is not None and self._holds_lease():
            raise policies.worker_registered(self._worker)
        self._worker = self._database.register(operation)
        self._lost = operation.lost
        self._schedule_renewal()
        return self._worker

    def _forget_worker(self) -> None:
        self._worker = None
        self._lost = None
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def _holds_lease(self) -> bool:
        if self._worker is None:
            return False
        if self.holds_lease():
            return True
        if self._lost is not None and self._loop is not None:
            self._loop.call_soon(self._lost)
            self._lost = None
        return False

    def _require_lease(self, operation: object) -> None:
        if not self._holds_lease():
            raise policies.lease_lost(self._worker)
        policies.check_owner(operation, self._worker)

    def _schedule_renewal(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        if self._loop is not None:
            self._renewal = self._loop.call_later(RENEWAL_SECONDS, self._renew)

    def _renew(self) -> None:
        with self._database.lock:
            if self._worker is not None and self._holds_lease():
                self._database.renew(self._worker)
                self._schedule_renewal()

    def _tell_others(self) -> None:
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

    def _read(self) -> MemoryDatabase:
        self._admission.check()
        return self._database

    async def load_runs(self, run_ids: Sequence[str]) -> list[LoadedRun]:
        """Everything of these runs, in the order asked; unknown ids are left out."""
        database = self._read()
        with database.lock:
            return [
                LoadedRun(
                    record=database.runs[run_id],
                    rows=self._rows_for_replay(run_id),
                    messages=database.messages_of(run_id),
                    attempts=self._attempts_of(run_id),
                )
                for run_id in run_ids
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

    async def read_messages(self, run_id: str) -> list[MessageRecord]:
        """The messages that wait for this run, in commit order."""
        database = self._read()
        with database.lock:
            return database.messages_of(run_id)

    async def read_reply(self, run_id: str, request_id: str) -> str | None:
        """What the owner answered to a message, or None while it has not."""
        database = self._read()
        with database.lock:
            reply = database.replies.get((run_id, request_id))
        return None if reply is None else reply.data

    async def read_news(self, run_ids: Sequence[str]) -> list[RunNews]:
        """What is new of these runs; unknown ids are left out."""
        database = self._read()
        with database.lock:
            replies: dict[str, list[str]] = {}
            for run_id, request_id in database.replies:
                replies.setdefault(run_id, []).append(request_id)
            known = [run_id for run_id in run_ids if run_id in database.runs]
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

    async def read_history(
        self, run_id: str, after_event_id: int = 0
    ) -> list[HistoryRow]:
        """The run's rows after a position, in order; empty for an unknown run."""
        with self._read().lock:
            return self._rows_of(run_id, after_event_id)

    async def read_attempts(self, run_id: str) -> list[AttemptRecord]:
        """The run's attempts, by scheduled event and attempt number."""
        with self._read().lock:
            return self._attempts_of(run_id)

    async def find_run(
        self, namespace: str, workflow_id: str, run_id: str | None = None
    ) -> RunRecord | None:
        """One run; without `run_id` the open or newest of that workflow id."""
        database = self._read()
        with database.lock:
            return database.find_run(namespace, workflow_id, run_id)

    async def list_runs(self, namespace: str, where: RunFilter) -> list[RunRecord]:
        """A page of runs, newest first."""
        database = self._read()
        with database.lock:
            found = [
                run
                for run in database.runs.values()
                if run.namespace == namespace and policies.is_listed(run, where)
            ]
        found.sort(key=lambda run: (run.started_at, run.run_id), reverse=True)
        return found[: policies.page_size(where)]

    def _awaiting(self) -> Iterator[tuple[int, str]]:
        if self._worker is None:
            return
        for run in self._database.owned_runs(self._worker.worker_id):
            if run.wake_at is not None and run.stuck is None:
                yield run.wake_at, run.run_id

    async def due_runs(self, until: int, limit: int) -> list[str]:
        """This worker's open, unparked runs with `wake_at` <= `until`, oldest first."""
        with self._read().lock:
            due = sorted(entry for entry in self._awaiting() if entry[0] <= until)
        return [run_id for _, run_id in due[: max(limit, 0)]]

    async def mailed_runs(self, limit: int) -> list[str]:
        """This worker's open runs that have messages, oldest message first."""
        database = self._read()
        with database.lock:
            owner = None if self._worker is None else self._worker.worker_id
            mailed = {
                message.run_id: None
                for _, message in sorted(database.inbox.items())
                if owner is not None and database.runs[message.run_id].owner == owner
            }
        return list(mailed)[: max(limit, 0)]

    async def lost_runs(self, run_ids: Sequence[str]) -> list[str]:
        """Which of these runs are no longer open, or no longer this worker's."""
        database = self._read()
        with database.lock:
            owner = "" if self._worker is None else self._worker.worker_id
            kept = {run.run_id for run in database.owned_runs(owner)}
        return [run_id for run_id in run_ids if run_id not in kept]

    async def next_wake_at(self) -> int | None:
        """The earliest `wake_at` among this worker's open, unparked runs."""
        with self._read().lock:
            return min((wake_at for wake_at, _ in self._awaiting()), default=None)

    async def count_unowned(self, workflow_types: Sequence[str]) -> int:
        """Open runs without an owner that this worker could claim."""
        database = self._read()
        if self._worker is None:
            return 0
        with database.lock:
            return len(database.claimable(workflow_types, self._worker))

    async def unowned_runs(self, namespace: str, limit: int) -> list[UnownedRun]:
        """Open, unparked runs without an owner, of all types, oldest first."""
        database = self._read()
        with database.lock:
            found = [
                run
                for run in database.owned_runs(None)
                if run.namespace == namespace and run.stuck is None
            ]
        found.sort(key=lambda run: (run.started_at, run.run_id))
        return [
            UnownedRun(r.run_id, r.workflow_id, r.workflow_type, r.task_queue)
            for r in found[: max(limit, 0)]
        ]

    async def list_namespaces(self) -> list[str]:
        """The namespaces that have runs, open or closed, sorted."""
        database = self._read()
        with database.lock:
            return sorted({run.namespace for run in database.runs.values()})

    async def list_workers(self) -> list[WorkerRecord]:
        """All workers that have a row."""
        database = self._read()
        with database.lock:
            return [row for _, row in sorted(database.workers.items())]


def _ignore(result: object, error: BaseException | None) -> None:
    """Receive an outcome that nobody waits for."""
