"""What one kind of database does its own way, behind three protocols.

`Transaction` speaks to `Tables`, of every store. `SqlStore` and all it is made of speak
to the others. A further database implements them, and decides nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from durable import limits

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from contextlib import AbstractContextManager

    import sqlalchemy as sa

    from durable.errors import StoreError
    from durable.store.activity_tasks import ActivityTaskRecord, TaskKey
    from durable.store.deciding.deleting import Tie
    from durable.store.deciding.queue_turns import Turn
    from durable.store.deciding.rows import Rows, Seen, Task, TaskRows
    from durable.store.deciding.run_turns import Beginning
    from durable.store.deciding.wanted import Wanted
    from durable.store.looks import Looks
    from durable.store.queues import HeldCount, QueueRecord, RunTurn
    from durable.store.records import (
        ClaimRuns,
        HistoryRow,
        NamespaceRecord,
        WorkerRecord,
    )


LOCK_SECONDS: Final = limits.LEASE_SECONDS / 3
"""How long a statement waits for rows that others have locked, as a rule."""


class Blame(enum.Enum):
    """What an error of the database says of the group that met it."""

    WHOLE = "whole"
    """The database is at fault: the group ends with it."""
    AGAIN = "again"
    """Others were in the way: the same group may succeed when it is repeated."""
    LOCKED = "locked"
    """Likewise; others have locked a row, and not let it go for so long."""
    OPERATION = "operation"
    """Something of the group is at fault, if it meets it alone, too."""


class Tables(Protocol):
    """The rows, within one transaction; they raise the driver's own exceptions.

    `look` and `write` carry everything that runs do. Each costs a few statements
    however much is asked of it. What only workers do, now and then, comes after them.
    """

    def look(self, wanted: Wanted) -> Seen:
        """Bring what is wanted, and keep it from changing until the end.

        A database that locks rows locks all of them first, and reads inboxes and
        children after that.
        """
        ...

    def write(self, rows: Rows) -> None:
        """Write what was decided upon what was seen."""
        ...

    def adopt(self, parents: dict[str, str]) -> None:
        """Give open children, by run id, to other parents."""
        ...

    # --- activities that anyone may take ----------------------------------------------

    def look_for_tasks(
        self, keys: Collection[TaskKey], run_ids: Collection[str]
    ) -> dict[TaskKey, Task]:
        """Bring those tasks, and all of those runs, and keep them from changing.

        A database that locks rows has locked the runs by then.
        """
        ...

    def write_tasks(self, rows: TaskRows) -> None:
        """Write what was decided of tasks."""
        ...

    def claim_tasks(
        self,
        worker: WorkerRecord,
        task_queue: str,
        types: Sequence[str] | None,
        limit: int,
        now: int,
    ) -> list[ActivityTaskRecord]:
        """Give tasks of one queue to a worker; return them as they are then.

        Each statement looks at a bounded number of rows, whatever else waits.
        """
        ...

    def lock_queue(self, namespace: str, name: str) -> QueueRecord | None:
        """Return a configured queue, and keep others from claiming of it."""
        ...

    def put_queue(self, record: QueueRecord, *, is_new: bool) -> None:
        """Insert a queue, or replace one that is locked."""
        ...

    def delete_queue(self, namespace: str, name: str) -> bool:
        """Delete a queue; False if it has no row."""
        ...

    def count_held(self, namespace: str, task_queue: str) -> list[HeldCount]:
        """Return how many tasks of a queue are claimed."""
        ...

    def claim_in_turn(
        self,
        worker: WorkerRecord,
        task_queue: str,
        types: Sequence[str] | None,
        turn: Turn,
        now: int,
    ) -> list[ActivityTaskRecord]:
        """As `claim_tasks`, of a configured queue what a turn allows."""
        ...

    # --- runs that wait for their turn ------------------------------------------------

    def find_beginnings(self, run_ids: Sequence[str]) -> list[Beginning]:
        """Return how far runs are, and the rows of their chains."""
        ...

    def put_turns(self, turns: Sequence[RunTurn]) -> None:
        """Insert rows, each in place of that of its chain."""
        ...

    def hold_back(self, run_ids: Sequence[str]) -> None:
        """Let runs wait until somebody takes them."""
        ...

    def drop_turn(self, run_id: str) -> None:
        """Delete the row of a run, if it has one."""
        ...

    def end_turns(self, namespace: str, task_queue: str) -> None:
        """Free the slots of chains without an open run, and places of closed runs."""
        ...

    def count_turns(self, namespace: str, task_queue: str) -> list[HeldCount]:
        """Return how many runs of a queue have a slot."""
        ...

    def call_out(
        self, worker: WorkerRecord, claim: ClaimRuns, now: int
    ) -> dict[str, int]:
        """Return waiting runs whose time is up or that are cancelled: they end."""
        ...

    def admit_in_turn(
        self, worker: WorkerRecord, claim: ClaimRuns, turn: Turn
    ) -> dict[str, int]:
        """Give slots to waiting runs as far as a turn allows; return their epochs."""
        ...

    def let_go(self, namespace: str, task_queue: str, due: int) -> None:
        """Let all that waits in a queue begin, and forget its slots."""
        ...

    def take_tasks(
        self, worker: WorkerRecord, limit: int, now: int
    ) -> list[ActivityTaskRecord]:
        """Give tasks to a worker to judge; return them as they are then."""
        ...

    def lose_tasks(self) -> None:
        """Make claimed tasks lost whose workers have no row."""
        ...

    # --- what is done by itself -------------------------------------------------------

    def put_namespace(self, record: NamespaceRecord, *, is_new: bool) -> bool:
        """Insert a namespace, or change one; False if that cannot be."""
        ...

    def find_ties(self, run_ids: Sequence[str]) -> dict[str, Tie]:
        """Return what those of these runs that are there are tied to; lock them."""
        ...

    def count_events(self, run_ids: Sequence[str]) -> dict[str, int]:
        """Return how many events those of these runs have that are there."""
        ...

    def delete_runs(self, run_ids: Sequence[str]) -> None:
        """Delete runs with their rows of all tables."""
        ...

    def has_worker(self, worker_id: str) -> bool:
        """Tell whether a worker has a row."""
        ...

    def insert_worker(self, worker: WorkerRecord) -> None:
        """Insert a worker."""
        ...

    def renew_worker(self, worker_id: str, until: int, places: str | None) -> bool:
        """Move the end of a worker's lease; False if it has no row.

        What it tells of itself stays if `places` is None.
        """
        ...

    def drain_worker(self, worker_id: str) -> None:
        """Write that a worker drains."""
        ...

    def remove_workers(self, worker_ids: Sequence[str], due: int) -> None:
        """Delete workers, and leave their runs at rest and due."""
        ...

    def find_dead_workers(
        self, myself: str, now: int, presumed_dead: Sequence[str]
    ) -> list[str]:
        """Return other workers whose lease has ended or is presumed to, sorted."""
        ...

    def disown_strays(self, due: int) -> None:
        """Leave runs at rest and due whose owners have no row."""
        ...

    def delete_replies(self, before: int) -> None:
        """Delete replies that were made before an instant."""
        ...

    def find_claimable(
        self, worker: WorkerRecord, claim: ClaimRuns, now: int
    ) -> dict[str, int]:
        """Return the runs of a claim, in its order, and the epoch of each."""
        ...

    def own_runs(self, run_ids: Sequence[str], owner: str) -> None:
        """Give runs to a worker, in a new epoch; they are stuck no more."""
        ...

    def disown_runs(self, run_ids: Sequence[str], owner: str, due: int) -> None:
        """Leave those of these runs at rest and due that a worker has."""
        ...

    def find_positions(self, run_id: str) -> tuple[int, ...] | None:
        """Return the positions of an open run's history; None if it is not open."""
        ...

    def repair_run(
        self,
        run_id: str,
        keep: int,
        rows: Sequence[HistoryRow],
        due: int,
        version: str | None,
    ) -> None:
        """Replace what follows a position, and leave the run at rest and due."""
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
    def tables(self) -> Tables:
        """The rows, by the same connection."""
        ...

    @property
    def is_broken(self) -> bool:
        """Whether the connection is of no more use, after whatever has happened."""
        ...

    packs_rows: bool
    """Whether many rows had better come as one: the driver is slow with rows."""

    looks: Looks | None
    """Where to begin with what waits, if old snapshots keep what has been taken."""

    @property
    def fate(self) -> object:
        """What `Database.find_fate` must know of the transaction that began last."""
        ...

    @property
    def is_harmed_by_fork(self) -> bool:
        """Whether it must be closed before this process forks."""
        ...

    def begin(self, lock_seconds: float = LOCK_SECONDS) -> None:
        """Begin a writing transaction; wait for other writers.

        So long its statements wait for rows that others have locked.
        """
        ...

    def begin_migrating(self) -> None:
        """Begin one that changes the schema, when nobody else is doing that."""
        ...

    def begin_reading(self) -> None:
        """Begin a transaction that reads at one instant."""
        ...

    def commit(self, *, is_news: bool = True) -> None:
        """Commit; what is no news need not reach those who wait for changes."""
        ...

    def rollback(self) -> None:
        """Roll back if a transaction is open.

        Raises:
            Exception: the connection is of no more use.
        """
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

    @property
    def poll_seconds(self) -> tuple[float, float]:
        """How often to ask that: soon after others have committed, and else."""
        ...

    @property
    def news_descriptor(self) -> int | None:
        """What becomes readable when another has committed; None if nothing does."""
        ...

    @property
    def has_heard(self) -> bool:
        """Whether another is known to have committed, without asking."""
        ...

    def hear(self) -> None:
        """Take what has come by `news_descriptor`.

        Raises:
            Exception: the connection is of no more use.
        """
        ...

    def is_in_place(self) -> bool:
        """Tell whether others still find by name what this is connected to."""
        ...

    @property
    def idle_seconds(self) -> float:
        """How long nothing must have been committed until `maintain` is told so."""
        ...

    def maintain(self, *, is_idle: bool) -> bool:
        """Do what the database needs from time to time, if it needs it now.

        False if somebody else stands in the way: then it is to be tried again.
        """
        ...

    def close(self) -> None:
        """Disconnect; never raises."""
        ...

    # --- copies of the whole ----------------------------------------------------------

    def identify(self) -> str:
        """Return what tells this database from all others, by whatever URL it came."""
        ...

    def begin_alone(self) -> None:
        """Begin a transaction during which nobody else writes, however long it is."""
        ...

    def insert(self, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert many rows, with all columns in the table's order."""
        ...

    def find_last_sequence(self) -> int:
        """Return the greatest number that a message may have been given."""
        ...

    def raise_sequence(self, last: int) -> None:
        """Give messages greater numbers than this from now on."""
        ...


class SqlSession:
    """Those members of `Session` that only some databases have a use for.

    It hears nothing, and its commits leave no trace.
    """

    packs_rows: bool = False
    looks: Looks | None = None
    fate: Any = None  # of each kind its own
    has_heard: bool = False

    @property
    def news_descriptor(self) -> int | None:
        """See `Session`."""
        return None

    def hear(self) -> None:
        """See `Session`."""


Prepare: TypeAlias = Callable[[Session, str], None]
"""Makes a schema what it has to be, or raises; is told the database's name."""


class Database(Protocol):
    """How to reach one database, and what its errors mean."""

    @property
    def name(self) -> str:
        """The database as messages name it; holds no password."""
        ...

    def forget_file(self) -> None:
        """From now on another file may be behind the name: the store opens anew."""
        ...

    def open_writer(self, prepare: Prepare | None = None) -> Session:
        """Connect for writing, with the schema in place, or as `prepare` leaves it.

        Raises:
            StoreError: it cannot be reached, or is no database of this library.
        """
        ...

    def open_reader(self) -> Session | None:
        """Connect for reading; None if only the writer's connection sees the data."""
        ...

    def read_revision(self) -> str | None:
        """The revision of the schema, as `schema.read_revision` says it.

        Raises:
            StoreError: it cannot be read.
        """
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

    def judge(self, error: BaseException) -> Blame:
        """Tell who is at fault for an error within a transaction."""
        ...

    def explain(self, error: BaseException) -> StoreError | None:
        """Translate an error of the database as a whole; None for any other."""
        ...

    def is_in_doubt(self, error: BaseException) -> bool:
        """Tell whether a commit that raised this may have happened all the same."""
        ...

    def is_lost(self, error: BaseException) -> bool:
        """Tell whether a new connection may fare better."""
        ...

    def find_fate(self, fate: object) -> bool | None:
        """Tell whether a transaction was committed; None if the database cannot say."""
        ...
