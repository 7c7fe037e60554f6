"""What one kind of SQL database does its own way, behind three protocols.

`SqlStore` and everything it is made of speak to these. A further database adds one
module that implements them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    import sqlalchemy as sa

    from durable.errors import StoreError
    from durable.store.family import Letter
    from durable.store.policies import Target
    from durable.store.records import (
        AttemptRecord,
        HistoryRow,
        MessageRecord,
        ReplyRecord,
        RunRecord,
        StartRun,
    )

Closing: TypeAlias = tuple[str, str, int, int]
"""run id, status, closed at, and the event that its rows follow (see `Place`)."""
WakeUp: TypeAlias = tuple[str, bool, int | None, int]
"""run id, is active, wake at, and the event that its rows follow (see `Place`)."""
Place: TypeAlias = tuple[str, int]
"""run id, and the event that must be there because rows follow it; 0 if none do."""
Published: TypeAlias = tuple[str, str | None, int | None]
"""run id, state, checkpoint event id; None leaves what is there."""
Mail: TypeAlias = tuple[str, int, str, str]
"""run id, sequence, request id, kind: a waiting message without its data."""
RequestKey: TypeAlias = tuple[str, str]
"""run id, request id."""


class HotPath(Protocol):
    """The statements of starts, commits, attempts and messages, for many rows at once.

    Each method costs a few statements however many rows it is given. They raise the
    driver's own exceptions.
    """

    def read_header(self, worker_id: str | None) -> tuple[int | None, bool]:
        """Return the worker's fencing number, and whether any inbox holds anything."""
        ...

    def find_holders(self, starts: Sequence[StartRun]) -> list[RunRecord]:
        """Return the runs that hold a request id, or as open runs a workflow id.

        And of each workflow id whose closed runs matter any one run.
        """
        ...

    def is_used(self, namespace: str, workflow_id: str) -> bool:
        """Tell whether any run, open or closed, has that workflow id."""
        ...

    def find_writable(self, places: Sequence[Place], owner: str) -> list[str]:
        """Return which of these runs that worker owns, with no gap before its rows."""
        ...

    def find_messages(self, run_id: str) -> list[MessageRecord]:
        """Return the waiting messages of one run, oldest first."""
        ...

    def find_mail(self, run_ids: Sequence[str]) -> list[Mail]:
        """Return what waits for these runs, in no order."""
        ...

    def find_targets(self, run_ids: Sequence[str]) -> list[Target]:
        """Return these runs, open or closed, in no order."""
        ...

    def find_open_targets(
        self, namespace: str, workflow_ids: Sequence[str]
    ) -> list[Target]:
        """Return the open runs of these workflow ids, in no order."""
        ...

    def find_requests(self, keys: Sequence[RequestKey]) -> list[RequestKey]:
        """Return which of these messages wait."""
        ...

    def insert_runs(self, records: Sequence[RunRecord]) -> None:
        """Insert runs."""
        ...

    def append_history(self, parts: Iterable[tuple[Sequence[HistoryRow], int]]) -> None:
        """Insert history rows, each part under its fencing number."""
        ...

    def close_runs(self, closings: Sequence[Closing], owner: str) -> int:
        """Close runs of that worker; return how many `find_writable` would find."""
        ...

    def update_runs(self, wake_ups: Sequence[WakeUp], owner: str) -> int:
        """Set wake-ups and unpark; return how many `find_writable` would find."""
        ...

    def wake_runs(self, wake_ups: Sequence[WakeUp], owner: str) -> int:
        """Set wake-ups of that worker's runs; return how many it owned."""
        ...

    def put_attempts(self, attempts: Sequence[AttemptRecord]) -> None:
        """Insert attempts, or replace those of the same key."""
        ...

    def publish(self, published: Sequence[Published]) -> None:
        """Set states and checkpoints, whoever owns the runs; each run once."""
        ...

    def insert_messages(self, letters: Sequence[Letter], created_at: int) -> None:
        """Insert messages, in this order of sequences."""
        ...

    def delete_messages(self, consumed: Sequence[tuple[str, int]]) -> None:
        """Delete messages by run id and sequence."""
        ...

    def delete_requests(self, keys: Sequence[RequestKey]) -> None:
        """Delete messages by run id and request id."""
        ...

    def delete_inboxes(self, run_ids: Sequence[str]) -> None:
        """Delete all messages of these runs."""
        ...

    def put_replies(self, replies: Sequence[ReplyRecord]) -> None:
        """Insert replies, or replace those of the same key."""
        ...

    def delete_replies(self, keys: Sequence[RequestKey]) -> None:
        """Delete replies."""
        ...


class Session(Protocol):
    """One connection, held by one thread for as long as it works.

    Transactions are begun and ended here and nowhere else.
    """

    @property
    def connection(self) -> sa.Connection:
        """The SQLAlchemy connection, for statements that need not be fast."""
        ...

    @property
    def hot(self) -> HotPath:
        """The prebuilt statements, on the same connection."""
        ...

    @property
    def is_harmed_by_fork(self) -> bool:
        """Whether it must be closed before this process forks."""
        ...

    def begin(self) -> None:
        """Begin a writing transaction; wait for other writers."""
        ...

    def begin_reading(self) -> None:
        """Begin a transaction that reads at one instant."""
        ...

    def commit(self) -> None:
        """Commit."""
        ...

    def rollback(self) -> None:
        """Roll back if a transaction is open."""
        ...

    def savepoint(self, name: str) -> None:
        """Mark a place to roll back to; the name is unlike those of all that stand."""
        ...

    def release_savepoint(self, name: str) -> None:
        """Keep what was done since the mark."""
        ...

    def rollback_to_savepoint(self, name: str) -> None:
        """Undo what was done since the mark, and take it away."""
        ...

    def tolerate(self, error: BaseException) -> AbstractContextManager[None] | None:
        """Return what to read in again if text was refused that is not UTF-8.

        Within it such text comes as bytes. None if `error` is something else.
        """
        ...

    def check(self) -> list[str]:
        """Return what is wrong with the database, beyond what each run would show."""
        ...

    def has_changed(self) -> bool:
        """Tell whether another connection has committed since the last call."""
        ...

    def is_in_place(self) -> bool:
        """Tell whether others still find by name what this is connected to."""
        ...

    def maintain(self, *, is_idle: bool) -> bool:
        """Do what the database needs from time to time, if it needs it now.

        False if somebody else stands in the way: then it is to be tried again.
        """
        ...

    def close(self) -> None:
        """Disconnect; never raises."""
        ...


class Database(Protocol):
    """How to reach one database, and what its errors mean."""

    @property
    def name(self) -> str:
        """The database as messages name it; holds no password."""
        ...

    def forget_file(self) -> None:
        """From now on another file may be behind the name: the store opens anew."""
        ...

    def open_writer(self) -> Session:
        """Connect for writing, with the schema in place.

        Raises:
            StoreError: it cannot be reached, or is no database of this library.
        """
        ...

    def open_reader(self) -> Session | None:
        """Connect for reading; None if only the writer's connection sees the data."""
        ...

    def note_workers(self, process_ids: list[int]) -> None:
        """Hear which workers hold a lease; say so once if sharing is not safe."""
        ...

    def find_blockers(self) -> list[str]:
        """Name the processes that keep all others from writing, as far as is known."""
        ...

    def not_in_place(self) -> StoreError:
        """Return the error of a session that is not in place any more."""
        ...

    def is_conflict(self, error: BaseException) -> bool:
        """Tell whether a unique key refused a row."""
        ...

    def explain(self, error: BaseException) -> StoreError | None:
        """Translate an error of the database as a whole.

        None means that the operation itself is at fault: its neighbours may succeed.
        """
        ...

    def is_in_doubt(self, error: BaseException) -> bool:
        """Tell whether a commit that raised this may have happened all the same."""
        ...
