"""SqlStore: the store upon a SQL database, whichever it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from durable.store import reads
from durable.store.groups import GroupExecutor
from durable.store.lease import RegisterWorker, ReleaseWorker
from durable.store.reader import NO_READER, Reader, read_explained
from durable.store.steady_clock import SteadyClock
from durable.store.submission import Admission, wait_for_outcome
from durable.store.writer import ReadTask, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from durable.clock import Clock
    from durable.observer import Observer
    from durable.store.database import Database, Session
    from durable.store.records import (
        AttemptRecord,
        HistoryRow,
        LoadedRun,
        MessageRecord,
        Operation,
        RunFilter,
        RunNews,
        RunRecord,
        UnownedRun,
        WorkerRecord,
    )
    from durable.store.store import Outcome

# For what the threads had begun when the loop ended.
_ABANDONED_SECONDS: Final = 5.0


_LOCK_SAMPLES: Final = 10
_LOCK_SAMPLE_SECONDS: Final = 0.05


class SqlStore:
    """A store upon a SQL database: one thread writes, another one reads."""

    def __init__(
        self, database: Database, *, clock: Clock, observer: Observer | None = None
    ) -> None:
        """Use a database that is not opened yet."""
        self._database = database
        self._clock = SteadyClock(clock)
        self._observer = observer
        self._admission = Admission(database.name)
        self._writer: Writer | None = None
        self._executor: GroupExecutor | None = None
        self._reader: Reader | None = None
        self._reads_by_writer = False
        self._worker: WorkerRecord | None = None
        self._changed: Callable[[], None] | None = None
        self._closing: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Connect and check the schema; start the writer."""
        self._admission.begin_opening()
        try:
            await self._open()
        except BaseException:
            self._admission.close()
            raise
        self._admission.open()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        reader = Reader(self._database, loop=loop)
        executor = GroupExecutor(self._database, self._clock)
        writer = Writer(
            executor,
            loop=loop,
            name=self._database.name,
            observer=self._observer,
            ended=reader.end,
        )
        self._database.forget_file()
        try:
            await wait_for_outcome(writer.start)
        except BaseException:
            # Cancelled, perhaps: the thread must not stay.
            writer.stop(_ignore)
            raise
        self._writer, self._reader = writer, reader
        self._executor = executor
        self._worker = None
        self._closing = None
        if self._changed is not None:
            writer.watch(self._changed)

    async def close(self) -> None:
        """Finish what was submitted, end the lease, disconnect."""
        writer = self._writer
        if writer is None or self._admission.is_forked:
            return  # a fork has nothing: all belongs to the parent process
        if writer.is_abandoned:
            # Its loop has ended without closing: nobody hears when the threads end.
            self._admission.close()
            writer.stop(_ignore)
            writer.join(_ABANDONED_SECONDS)
            return
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(writer))
        # Cancelling one waiter must not cancel the closing.
        await asyncio.shield(self._closing)

    async def _close(self, writer: Writer) -> None:
        if self._worker is not None:
            writer.submit(ReleaseWorker(), _ignore)
            self._worker = None
        self._admission.close()
        # The writer's thread ends the reader's, and waits for it.
        await wait_for_outcome(writer.stop)

    def now(self) -> int:
        """Microseconds since 1970 by the injected clock; never steps back."""
        return self._clock.now()

    # --- writes -----------------------------------------------------------------------

    def submit(self, operation: Operation, done: Outcome) -> None:
        """Queue an operation for the next commit."""
        self._submit(operation, done)

    def _submit(self, operation: Any, done: Outcome) -> None:
        self._admission.check()
        assert self._writer is not None  # noqa: S101 - open sets both
        self._writer.submit(operation, done)

    async def perform(self, operation: Operation) -> Any:
        """Submit an operation, wait for its commit, return its result or raise."""
        self._admission.check()
        return await wait_for_outcome(lambda done: self._submit(operation, done))

    async def register_worker(
        self, worker: WorkerRecord, lost: Callable[[], None]
    ) -> WorkerRecord:
        """Enter this process as a worker; give it a lease and a fencing number."""
        operation = RegisterWorker(worker, lost)

        def submit(done: Outcome) -> None:
            def receive(result: Any, error: BaseException | None) -> None:
                # Even if nobody waits any more: `close` must end the lease.
                if error is None:
                    self._worker = result
                done(result, error)

            self._submit(operation, receive)

        registered: WorkerRecord = await wait_for_outcome(submit)
        return registered

    async def release_worker(self) -> None:
        """Give up the lease and every run of this worker, in one transaction."""
        await wait_for_outcome(lambda done: self._submit(ReleaseWorker(), done))
        self._worker = None

    def holds_lease(self) -> bool:
        """Whether nobody can have taken this worker's runs, as far as is known."""
        executor = self._executor
        return executor is not None and self._clock.read() < executor.lease_expires_at

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` on the loop whenever another store object has committed."""
        self._changed = changed
        if self._writer is not None:
            self._writer.watch(changed)

    # --- reads ------------------------------------------------------------------------

    async def _read(self, read: Callable[[Session], Any]) -> Any:
        self._admission.check()
        reader = self._reader
        assert reader is not None  # noqa: S101 - open sets both
        if not self._reads_by_writer:
            result = await wait_for_outcome(lambda done: reader.submit(read, done))
            if result is not NO_READER:
                return result
            self._reads_by_writer = True
        task = ReadTask(lambda session: read_explained(self._database, session, read))
        return await wait_for_outcome(lambda done: self._submit(task, done))

    async def load_runs(self, run_ids: Sequence[str]) -> list[LoadedRun]:
        """Everything of these runs, in the order asked; unknown ids are left out."""
        loaded: list[LoadedRun] = await self._read(
            lambda session: reads.load_runs(session, run_ids)
        )
        return loaded

    async def read_messages(self, run_id: str) -> list[MessageRecord]:
        """The messages that wait for this run, in commit order."""
        messages: list[MessageRecord] = await self._read(
            lambda session: reads.read_messages(session, run_id)
        )
        return messages

    async def read_reply(self, run_id: str, request_id: str) -> str | None:
        """What the owner answered to a message, or None while it has not."""
        reply: str | None = await self._read(
            lambda session: reads.read_reply(session, run_id, request_id)
        )
        return reply

    async def read_news(self, run_ids: Sequence[str]) -> list[RunNews]:
        """What is new of these runs; unknown ids are left out."""
        news: list[RunNews] = await self._read(
            lambda session: reads.read_news(session, run_ids)
        )
        return news

    async def read_history(
        self, run_id: str, after_event_id: int = 0
    ) -> list[HistoryRow]:
        """The run's rows after a position, in order; empty for an unknown run."""
        rows: list[HistoryRow] = await self._read(
            lambda session: reads.read_history(session, run_id, after_event_id)
        )
        return rows

    async def read_attempts(self, run_id: str) -> list[AttemptRecord]:
        """The run's attempts, by scheduled event and attempt number."""
        attempts: list[AttemptRecord] = await self._read(
            lambda session: reads.read_attempts(session, run_id)
        )
        return attempts

    async def find_run(
        self, namespace: str, workflow_id: str, run_id: str | None = None
    ) -> RunRecord | None:
        """One run; without `run_id` the open or newest of that workflow id."""
        run: RunRecord | None = await self._read(
            lambda session: reads.find_run(session, namespace, workflow_id, run_id)
        )
        return run

    async def list_runs(self, namespace: str, where: RunFilter) -> list[RunRecord]:
        """A page of runs, newest first."""
        runs: list[RunRecord] = await self._read(
            lambda session: reads.list_runs(session, namespace, where)
        )
        return runs

    async def due_runs(self, until: int, limit: int) -> list[str]:
        """This worker's open, unparked runs with `wake_at` <= `until`, oldest first."""
        owner = self._owner
        run_ids: list[str] = await self._read(
            lambda session: reads.due_runs(session, owner, until, limit)
        )
        return run_ids

    async def mailed_runs(self, limit: int) -> list[str]:
        """This worker's open runs that have messages, oldest message first."""
        owner = self._owner
        run_ids: list[str] = await self._read(
            lambda session: reads.mailed_runs(session, owner, limit)
        )
        return run_ids

    async def lost_runs(self, run_ids: Sequence[str]) -> list[str]:
        """Which of these runs are no longer open, or no longer this worker's."""
        owner = self._owner
        lost: list[str] = await self._read(
            lambda session: reads.lost_runs(session, owner, run_ids)
        )
        return lost

    async def next_wake_at(self) -> int | None:
        """The earliest `wake_at` among this worker's open, unparked runs."""
        owner = self._owner
        wake_at: int | None = await self._read(
            lambda session: reads.next_wake_at(session, owner)
        )
        return wake_at

    async def count_unowned(self, workflow_types: Sequence[str]) -> int:
        """Open runs without an owner that this worker could claim."""
        worker = self._worker
        if worker is None:
            self._admission.check()
            return 0
        count: int = await self._read(
            lambda session: reads.count_unowned(session, worker, workflow_types)
        )
        return count

    async def unowned_runs(self, namespace: str, limit: int) -> list[UnownedRun]:
        """Open, unparked runs without an owner, of all types, oldest first."""
        found: list[UnownedRun] = await self._read(
            lambda session: reads.unowned_runs(session, namespace, limit)
        )
        return found

    async def list_namespaces(self) -> list[str]:
        """The namespaces that have runs, open or closed, sorted."""
        namespaces: list[str] = await self._read(reads.list_namespaces)
        return namespaces

    async def list_workers(self) -> list[WorkerRecord]:
        """All workers that have a row."""
        workers: list[WorkerRecord] = await self._read(reads.list_workers)
        now = self._clock.read()
        self._database.note_workers(
            [worker.pid for worker in workers if worker.lease_expires_at > now]
        )
        return workers

    async def check_integrity(self) -> list[str]:
        """What is wrong with the database itself; empty if nothing."""
        found: list[str] = await self._read(lambda session: session.check())
        return found

    async def find_blockers(self) -> list[str]:
        """The processes that have kept all others from writing for a while now."""
        found = self._database.find_blockers()
        for _ in range(_LOCK_SAMPLES):
            if not found:
                break
            # Whoever only commits is gone by then.
            await asyncio.sleep(_LOCK_SAMPLE_SECONDS)
            again = self._database.find_blockers()
            found = [blocker for blocker in found if blocker in again]
        return found

    @property
    def _owner(self) -> str:
        # No worker has the empty id, so without one nothing is found.
        return "" if self._worker is None else self._worker.worker_id


def _ignore(result: object, error: BaseException | None) -> None:
    """Receive an outcome that nobody waits for."""
