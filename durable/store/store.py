"""The store's contract: what the rest of the library may ask of a database.

One store object serves one engine in one process. Writes are operations
(`durable.store.records`), committed in groups by a thread of the store's own: whatever
was submitted while the last commit was on its way shares the next transaction. Reads
see every operation whose outcome was delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

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
        self, worker: WorkerRecord, lost: Callable[[], None]
    ) -> WorkerRecord:
        """Enter this process as a worker; give it a lease and a fencing number.

        The lease is renewed by the store's own thread, whatever the event loop does.
        `lost` is called on the loop once, when the lease turns out to be taken over;
        all fenced operations end with `LeaseLostError` from then on, until
        `register_worker` is called again with a new worker id.

        Raises:
            InternalError: a worker is registered whose lease is not known to be lost.
            LeaseLostError: the worker id has a row already.
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

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` on the loop whenever another store object has committed.

        Calls are coalesced; one may come for nothing. The latest callback counts.
        """
        ...

    # --- reads ------------------------------------------------------------------------
    #
    # Where they speak of "this worker" and none is registered, the answer is empty.

    async def load_runs(self, run_ids: Sequence[str]) -> list[LoadedRun]:
        """Everything of these runs, in the order asked; unknown ids are left out."""
        ...

    async def read_messages(self, run_id: str) -> list[MessageRecord]:
        """The messages that wait for this run, in commit order."""
        ...

    async def read_reply(self, run_id: str, request_id: str) -> str | None:
        """What the owner answered to a message, or None while it has not."""
        ...

    async def read_news(self, run_ids: Sequence[str]) -> list[RunNews]:
        """What is new of these runs, at one instant; unknown ids are left out.

        However long their histories are, it costs the same.
        """
        ...

    async def read_history(
        self, run_id: str, after_event_id: int = 0
    ) -> list[HistoryRow]:
        """The run's rows after a position, in order; empty for an unknown run."""
        ...

    async def read_attempts(self, run_id: str) -> list[AttemptRecord]:
        """The run's attempts, by scheduled event and attempt number."""
        ...

    async def find_run(
        self, namespace: str, workflow_id: str, run_id: str | None = None
    ) -> RunRecord | None:
        """One run; without `run_id` the open one of that workflow id, or the newest.

        Where a clock was set back, the open one need not be the newest.
        """
        ...

    async def list_runs(self, namespace: str, where: RunFilter) -> list[RunRecord]:
        """A page of runs, newest first; at most `limits.LIST_PAGE_MAX`."""
        ...

    async def due_runs(self, until: int, limit: int) -> list[str]:
        """This worker's open, unparked runs with `wake_at` <= `until`, oldest first."""
        ...

    async def mailed_runs(self, limit: int) -> list[str]:
        """This worker's open runs that have messages, oldest message first."""
        ...

    async def lost_runs(self, run_ids: Sequence[str]) -> list[str]:
        """Which of these runs are no longer open, or no longer this worker's.

        In the order asked; unknown ids are among them.
        """
        ...

    async def next_wake_at(self) -> int | None:
        """The earliest `wake_at` among this worker's open, unparked runs."""
        ...

    async def count_unowned(self, workflow_types: Sequence[str]) -> int:
        """Open runs without an owner that this worker could claim."""
        ...

    async def unowned_runs(self, namespace: str, limit: int) -> list[UnownedRun]:
        """Open, unparked runs without an owner, of all types, oldest first."""
        ...

    async def list_namespaces(self) -> list[str]:
        """The namespaces that have runs, open or closed, sorted."""
        ...

    async def list_workers(self) -> list[WorkerRecord]:
        """All workers that have a row, by worker id."""
        ...
