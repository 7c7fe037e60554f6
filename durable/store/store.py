"""The store's contract: what the rest of the library may ask of a database.

One store object serves one engine in one process. Writes are operations
(`Operation`), committed in groups by a thread of the store's own: whatever
was submitted while the last commit was on its way shares the next transaction. Reads
are queries (`durable.store.queries`), answered in groups likewise; they see every
operation whose outcome was delivered.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, TypeVar

from durable.store.activity_tasks import TaskOperation
from durable.store.queries import Query
from durable.store.queues import QueueOperation
from durable.store.records import (
    ClaimRuns,
    CommitTask,
    DeleteRuns,
    DeliverOutbox,
    DropReplies,
    ImportRun,
    ParkRun,
    PutMessage,
    PutNamespace,
    ReapWorkers,
    RecordAttempts,
    ReleaseRuns,
    RepairRun,
    ResetRun,
    SettleOutbox,
    StartRun,
    TerminateRun,
    WorkerRecord,
)

T = TypeVar("T")
Operation: TypeAlias = (
    StartRun
    | CommitTask
    | RecordAttempts
    | ParkRun
    | PutMessage
    | TerminateRun
    | ResetRun
    | RepairRun
    | ClaimRuns
    | ReleaseRuns
    | ReapWorkers
    | DropReplies
    | PutNamespace
    | DeleteRuns
    | ImportRun
    | DeliverOutbox
    | SettleOutbox
    | TaskOperation
    | QueueOperation
)
"""Whatever a store carries out; runs' are told in `records`, tasks' apart."""
Outcome = Callable[[Any, BaseException | None], None]
"""Receives an operation's result, or the exception it ended with."""


class Store(Protocol):
    """A database that keeps runs, histories, inboxes, attempts and workers.

    Every method may raise a `StoreError`. All awaitable methods, `submit` and the
    callbacks belong to the event loop that `open` ran on.
    """

    async def open(self) -> None:
        """Connect and check the schema; start the writer.

        Raises:
            SchemaRevisionError: the schema is newer than this release, or older and
                this store was told not to migrate.
            NotADatabaseError, DatabaseUnavailableError, DatabaseReadOnlyError.
        """
        ...

    async def close(self) -> None:
        """Finish what was submitted, end the lease, disconnect. Twice is fine."""
        ...

    def now(self) -> int:
        """The database's time, in microseconds since 1970 UTC; never steps back."""
        ...

    def submit(self, operation: Operation, done: Outcome) -> None:
        """Queue an operation for the next commit.

        `done` is called on the loop after the commit: with the operation's result, or
        with the error it ended with. Operations take effect in the order of
        submission. Outcomes are delivered in that order too.

        Raises:
            EngineClosedError: the store is closed.
        """
        ...

    async def perform(self, operation: Operation) -> Any:
        """Submit an operation, wait for its commit, return its result or raise.

        Cancelling the wait does not take the operation back.
        """
        ...

    async def register_worker(
        self,
        worker: WorkerRecord,
        lost: Callable[[], None],
        report: Callable[[], str] | None = None,
    ) -> WorkerRecord:
        """Enter this process as a worker; give it a lease.

        The lease is renewed by the store's own thread, whatever the event loop does.
        `report` says, on that thread, what the worker's `places` are by then.
        `lost` is called on the loop once, when the lease turns out to be taken over;
        all fenced operations end with `LeaseLostError` from then on, until
        `register_worker` is called again with a new worker id.

        Raises:
            InternalError: a worker is registered whose lease is not known to be lost.
            LeaseLostError: the worker id has a row already.
        """
        ...

    async def drain_worker(self) -> None:
        """Say in this worker's row that it drains, for whoever lists the workers.

        Raises:
            LeaseLostError: this worker's lease is gone.
        """
        ...

    async def release_worker(self) -> None:
        """Give up the lease and every run of this worker, in one transaction.

        Without a lease there is nothing to do.
        """
        ...

    def holds_lease(self) -> bool:
        """Whether nobody can have taken this worker's runs, as far as is known here.

        False once the lease is over by the clock and its renewal was not heard of, as
        in a process that was stopped for a while. Any thread may ask.
        """
        ...

    def lease_seconds(self) -> float:
        """How many seconds this worker's lease still runs, as far as is known here.

        0 without one. Any thread may ask.
        """
        ...

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` on the loop whenever another store object has committed.

        Calls are coalesced; one may come for nothing. The latest callback counts.
        """
        ...

    async def read(self, query: Query[T]) -> T:
        """Answer a query (`durable.store.queries`).

        Queries that are asked while others are on their way go together in the next
        trip to the database. Each is answered by itself: what is wrong with the rows
        of one harms no other.
        """
        ...
