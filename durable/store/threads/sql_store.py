"""SqlStore: the store upon a SQL database, whichever it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from durable.store.lease import DrainWorker, RegisterWorker, ReleaseWorker
from durable.store.queries import ListWorkers
from durable.store.sql.reads import Question
from durable.store.steady_clock import SteadyClock
from durable.store.submission import Admission, is_asked_for, wait_for_outcome
from durable.store.threads.groups import GroupExecutor
from durable.store.threads.patience import Outage
from durable.store.threads.reader import NO_READER, Reader
from durable.store.threads.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable.clock import Clock
    from durable.observer import Observer
    from durable.store.database import Database
    from durable.store.queries import Query
    from durable.store.records import WorkerRecord
    from durable.store.store import Operation, Outcome

T = TypeVar("T")
_Operation: TypeAlias = (
    "Operation | RegisterWorker | DrainWorker | ReleaseWorker | Question"
)
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
        self.now = self._clock.now
        """Microseconds since 1970 by the injected clock; never steps back."""
        self._observer = observer
        self._outage = Outage(database.name)
        self._admission = Admission(database.name)
        self._writer: Writer | None = None
        self._executor: GroupExecutor | None = None
        self._reader: Reader | None = None
        self._reads_by_writer = False
        self._worker: WorkerRecord | None = None
        self._changed: Callable[[], None] | None = None
        self._closing: asyncio.Future[None] | None = None

    @property
    def database(self) -> Database:
        """How its database is reached, for what is done without a store."""
        return self._database

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
        reader = Reader(self._database, loop=loop, outage=self._outage)
        executor = GroupExecutor(self._database, self._clock, self._outage)
        writer = Writer(
            executor,
            loop=loop,
            database=self._database,
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

    # --- writes -----------------------------------------------------------------------

    def submit(self, operation: _Operation, done: Outcome) -> None:
        """Queue an operation for the next commit."""
        self._admission.check()
        assert self._writer is not None  # noqa: S101 - open sets both
        self._writer.submit(operation, done)

    async def perform(self, operation: Operation) -> Any:
        """Submit an operation, wait for its commit, return its result or raise.

        A start or message whose call is cancelled is not done, unless it has begun.
        """
        self._admission.check()
        return await wait_for_outcome(
            lambda done: self.submit(operation, done),
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
        if self._executor is not None:
            self._executor.report = report

        def submit(done: Outcome) -> None:
            def receive(result: Any, error: BaseException | None) -> None:
                # Even if nobody waits any more: `close` must end the lease.
                if error is None:
                    self._worker = result
                done(result, error)

            self.submit(operation, receive)

        registered: WorkerRecord = await wait_for_outcome(submit)
        return registered

    async def drain_worker(self) -> None:
        """Say in this worker's row that it drains."""
        await wait_for_outcome(lambda done: self.submit(DrainWorker(), done))

    async def release_worker(self) -> None:
        """Give up the lease and every run of this worker, in one transaction."""
        await wait_for_outcome(lambda done: self.submit(ReleaseWorker(), done))
        self._worker = None

    def holds_lease(self) -> bool:
        """Whether nobody can have taken this worker's runs, as far as is known."""
        return self.lease_seconds() > 0

    def lease_seconds(self) -> float:
        """How long the lease still runs, as far as is known; 0 without one."""
        executor = self._executor
        ends = 0 if executor is None else executor.lease_expires_at
        return max(0, ends - self._clock.read()) / 1_000_000

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` on the loop whenever another store object has committed."""
        self._changed = changed
        if self._writer is not None:
            self._writer.watch(changed)

    def read_revision(self) -> str | None:
        """The revision of the schema; None if there is none. It need not be open.

        Raises:
            StoreError: it cannot be read.
        """
        return self._database.read_revision()

    # --- reads ------------------------------------------------------------------------

    async def read(self, query: Query[T]) -> T:
        """Answer a query; those that are asked meanwhile go together in the next."""
        self._admission.check()
        reader = self._reader
        assert reader is not None  # noqa: S101 - open sets both
        question = Question(query, self._worker)
        answer: Any = NO_READER
        if not self._reads_by_writer:
            answer = await wait_for_outcome(lambda done: reader.submit(question, done))
        if answer is NO_READER:
            self._reads_by_writer = True
            answer = await wait_for_outcome(lambda done: self.submit(question, done))
        if type(query) is ListWorkers:
            self._note_workers(answer)
        found: T = answer
        return found

    def _note_workers(self, workers: list[WorkerRecord]) -> None:
        now = self._clock.read()
        self._database.note_workers(
            [worker.pid for worker in workers if worker.lease_expires_at > now]
        )

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


def _ignore(result: object, error: BaseException | None) -> None:
    """Receive an outcome that nobody waits for."""
