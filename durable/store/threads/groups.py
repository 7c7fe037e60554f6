"""Executes groups of operations: one transaction each, yet each operation by itself.

What an operation may be refused for is known before anything is written, so a group is
written as a whole. If the database refuses it all the same, the group is cut in two,
and so on: an operation is found guilty only if it fails alone. Errors of the database
as a whole end the group, and where others were in the way it is repeated as it is.
What waits while others keep a row locked is decided elsewhere (`HeldUp`).
"""

from __future__ import annotations

import contextlib
import copy
import time
from typing import TYPE_CHECKING, Any, Final

from durable.errors import CommitUnknownError, DurableError, LeaseLostError, StoreError
from durable.store.activity_tasks import (
    BeatActivityTask,
    ClaimActivityTasks,
    TakeExpiredTasks,
)
from durable.store.database import LOCK_SECONDS, Blame
from durable.store.deciding import policies
from durable.store.lease import RENEWAL_SECONDS, RETRY_SECONDS, RegisterWorker
from durable.store.records import (
    ClaimRuns,
    CommitTask,
    Committed,
    Started,
    StartRun,
)
from durable.store.sql.reads import has_row
from durable.store.threads.patience import Outage, Patience
from durable.store.transaction import Transaction, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from durable.store.database import Database, Session
    from durable.store.deciding.decide import Outcomes
    from durable.store.records import WorkerRecord
    from durable.store.steady_clock import SteadyClock

_Calls = list["Callable[[], None]"]

# Nobody waits for others to take something, or to go on with it.
_NO_NEWS: Final[frozenset[type]] = frozenset(
    {ClaimRuns, ClaimActivityTasks, TakeExpiredTasks, BeatActivityTask}
)
# Others were faster; what is still there then is no race.
_CONFLICTS: Final = 2


class GroupExecutor:
    """Owns the writing session and this store's lease; belongs to one thread."""

    def __init__(
        self, database: Database, clock: SteadyClock, outage: Outage | None = None
    ) -> None:
        """Work on a database that is not opened yet; tell `outage` if it is away."""
        self._database = database
        self._outage = outage or Outage(database.name)
        self._clock = clock
        self._session: Session | None = None
        self._worker: WorkerRecord | None = None
        self._lost: Callable[[], None] | None = None
        self.lease_expires_at = 0
        """When the lease ends that was heard of last; 0 without. Any thread asks."""
        self.report: Callable[[], str] | None = None
        """Says what the worker's row is to tell; see `Store.register_worker`."""
        self._calls_meanwhile: _Calls = []
        self.renew_at: float | None = None
        """When to renew the lease, by the monotonic clock; None without a lease."""

    def open(self) -> Session:
        """Return the session; connect if there is none.

        Raises:
            StoreError: the database cannot be reached.
        """
        if self._session is None:
            try:
                self._session = self._database.open_writer()
            except StoreError as error:
                if self._database.is_lost(error):
                    self._outage.met(error, may_pass=True)
                raise
            self._outage.over()
        return self._session

    @property
    def session(self) -> Session | None:
        """The session, if there is one."""
        return self._session

    def close(self) -> None:
        """Disconnect."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def disconnect_for_fork(self) -> None:
        """Disconnect if a forked child must not inherit the session."""
        if self._session is not None and self._session.is_harmed_by_fork:
            self.close()

    def execute(
        self, operations: list[Any], lock_seconds: float | None = None
    ) -> tuple[Outcomes, _Calls]:
        """Apply and commit a group.

        Args:
            operations: what to carry out, in order.
            lock_seconds: how long to wait for a lock of others. What that was too short
                for, and whatever comes after it, gets an error that `is_held_up`. None
                waits for as long as anybody ought to.

        Returns:
            Each operation's result or error, in order; and what else to call.
        """
        outcomes, calls = self._execute_each(split(operations), lock_seconds)
        calls += self._calls_meanwhile
        self._calls_meanwhile = []
        return outcomes, calls

    def is_held_up(self, error: BaseException | None) -> bool:
        """Whether an operation has only waited for a lock of others."""
        if not isinstance(error, StoreError):
            return False
        return self._database.judge(error) is Blame.LOCKED

    def _execute_each(
        self, parts: Iterable[list[Any]], lock_seconds: float | None
    ) -> tuple[Outcomes, _Calls]:
        outcomes: Outcomes = []
        calls: _Calls = []
        lock: StoreError | None = None
        for part in parts:
            if lock is not None:
                outcomes += _all_failed(part, lock)
                continue
            answers, others = self._execute(part, lock_seconds)
            outcomes += answers
            calls += others
            error = answers[-1][1] if answers else None
            if isinstance(error, StoreError) and self.is_held_up(error):
                lock = error
        return outcomes, calls

    def _execute(
        self, operations: list[Any], lock_seconds: float | None
    ) -> tuple[Outcomes, _Calls]:
        patience = Patience()
        conflicts = 0
        while True:
            session: Session | None = None
            decided: tuple[Transaction, Outcomes] | None = None
            try:
                session = self.open()
                session.begin(LOCK_SECONDS if lock_seconds is None else lock_seconds)
                transaction = self._begin(session)
                decided = transaction, transaction.apply(operations)
                is_news = not _NO_NEWS.issuperset(map(type, operations))
                self._commit(session, is_news=is_news)
            except Exception as error:  # noqa: BLE001 - any error ends the group, typed
                fate = None if session is None else session.fate
                self._abandon(session)
                blame = self._judge(error)
                if blame is Blame.LOCKED and lock_seconds is None:
                    blame = Blame.AGAIN
                if decided is not None and self._database.is_in_doubt(error):
                    is_committed = self._find_fate(fate, operations, decided[1])
                    if is_committed is None:
                        return _in_doubt(operations, decided[1], error), []
                    if is_committed:
                        return decided[1], self._take_over(decided[0])
                    blame = Blame.AGAIN
                elif blame is Blame.AGAIN and self._database.is_conflict(error):
                    conflicts += 1
                    if conflicts > _CONFLICTS:
                        blame = Blame.OPERATION
                is_lost = self._database.is_lost(error)
                is_again = blame is Blame.AGAIN or is_lost
                if is_again and patience.waits(is_lost=is_lost):
                    self._renew_meanwhile()
                    continue
                if blame is Blame.OPERATION:
                    return self._find_guilty(operations, error, lock_seconds)
                explained = self._explain(error)
                if is_lost:
                    self._outage.met(explained)
                return _all_failed(operations, explained), []
            return decided[1], self._take_over(decided[0])

    def _judge(self, error: Exception) -> Blame:
        if isinstance(error, StoreError):
            return Blame.WHOLE
        if isinstance(error, DurableError):
            return Blame.OPERATION
        return self._database.judge(error)

    def _find_guilty(
        self, operations: list[Any], error: Exception, lock_seconds: float | None
    ) -> tuple[Outcomes, _Calls]:
        if len(operations) == 1:
            return [(None, self._refuse(operations[0], error))], []
        middle = len(operations) // 2
        halves = (operations[:middle], operations[middle:])
        return self._execute_each(halves, lock_seconds)

    def _refuse(self, operation: Any, error: Exception) -> DurableError:
        if isinstance(error, DurableError):
            return error
        refusal: DurableError
        if not self._database.is_conflict(error):
            refusal = StoreError(
                f"{type(operation).__name__} cannot be stored:"
                f" {type(error).__name__} of the database driver.",
            )
        elif isinstance(operation, StartRun):
            refusal = policies.run_id_taken(operation.record.run_id)
        elif isinstance(operation, RegisterWorker):
            refusal = policies.worker_taken(operation.worker.worker_id)
        else:
            refusal = policies.position_taken(getattr(operation, "run_id", ""))
        refusal.__cause__ = error
        return refusal

    def renew(self) -> _Calls:
        """Renew the lease; return what to call if it turns out to be lost.

        Raises:
            StoreError: the database cannot be reached now.
        """
        # If this attempt fails, the next one comes soon.
        self.renew_at = time.monotonic() + RETRY_SECONDS
        session = self.open()
        try:
            session.begin()
            transaction = self._begin(session)
            transaction.renew(None if self.report is None else self.report())
            self._commit(session, is_news=False)
        except Exception as error:
            self._abandon(session)
            raise self._explain(error) from error
        self.renew_at = time.monotonic() + RENEWAL_SECONDS
        return self._take_over(transaction)

    def _renew_meanwhile(self) -> None:
        """A group that others keep waiting must not cost the lease."""
        if self.renew_at is not None and time.monotonic() >= self.renew_at:
            with contextlib.suppress(StoreError):
                self._calls_meanwhile += self.renew()

    def check_place(self, session: Session) -> None:
        """Return if others still find what this session has written.

        Raises:
            StoreError: the database was moved or deleted under it.
        """
        if not session.is_in_place():
            raise self._database.not_in_place()

    def _commit(self, session: Session, *, is_news: bool) -> None:
        session.commit(is_news=is_news)
        # After it, so that nothing is acknowledged that nobody can find again.
        self.check_place(session)

    def _begin(self, session: Session) -> Transaction:
        return Transaction(session.tables, self._clock, self._worker, self._lost)

    def _take_over(self, transaction: Transaction) -> _Calls:
        worker, lost = transaction.worker, transaction.lost
        if worker is self._worker and lost is self._lost and not transaction.is_lost:
            return []
        if worker is not None and worker.worker_id != self._worker_id:
            self.renew_at = time.monotonic() + RENEWAL_SECONDS
        self._worker, self._lost = worker, lost
        self.lease_expires_at = 0 if worker is None else worker.lease_expires_at
        if lost is None or not transaction.is_lost:
            if worker is None:
                self.renew_at = None
            return []
        self._lost = self.renew_at = None
        return [lost]

    @property
    def _worker_id(self) -> str | None:
        return None if self._worker is None else self._worker.worker_id

    def _abandon(self, session: Session | None) -> None:
        if session is None:
            return
        try:
            session.rollback()
        except Exception:  # noqa: BLE001 - the connection is of no more use
            self.close()
        else:
            if session.is_broken:
                self.close()

    def _explain(self, error: Exception) -> StoreError:
        if isinstance(error, StoreError):
            return error
        explained = self._database.explain(error)
        if explained is None:
            explained = StoreError(
                f"{self._database.name}: {type(error).__name__} of the database driver."
            )
        explained.__cause__ = error
        return explained

    def _find_fate(
        self, fate: object, operations: list[Any], outcomes: Outcomes
    ) -> bool | None:
        """Find out whether a group was committed; None if nothing tells."""
        self.close()
        if fate is not None:
            is_committed = self._database.find_fate(fate)
            if is_committed is not None:
                return is_committed
        patience = Patience()
        while True:
            try:
                return self._has_row_of(operations, outcomes) or None
            except Exception as error:  # noqa: BLE001 - then it stays unknown
                self.close()
                # What has cut the commit off may cut this off, too.
                is_lost = self._database.is_lost(error)
                if not is_lost or not patience.waits(is_lost=True):
                    return None

    def _has_row_of(self, operations: list[Any], outcomes: Outcomes) -> bool:
        """Look for one row of the group: it was committed as a whole or not at all.

        Raises:
            Exception: it cannot be read.
        """
        for operation, (result, error) in zip(operations, outcomes, strict=True):
            rows = getattr(operation, "rows", ())
            is_kept = error is None and (
                (isinstance(operation, StartRun) and _is_new(result))
                or (isinstance(operation, CommitTask) and _is_kept(result))
            )
            if not is_kept or not rows:
                continue
            return has_row(self.open(), rows[-1])
        return False


def _is_new(result: Any) -> bool:
    return isinstance(result, Started) and result.created


def _is_kept(result: Any) -> bool:
    return result is None or isinstance(result, Committed)


def _all_failed(operations: list[Any], error: StoreError) -> Outcomes:
    # One exception object raised in many tasks would gather all their tracebacks.
    return [(None, _copy(error)) for _ in operations]


def _copy(error: StoreError) -> StoreError:
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied


def _in_doubt(
    operations: list[Any], outcomes: Outcomes, cause: BaseException
) -> Outcomes:
    answers: Outcomes = []
    for operation, (result, error) in zip(operations, outcomes, strict=True):
        if isinstance(error, LeaseLostError):
            # True whatever became of the others; other refusals may rest on them.
            answers.append((result, error))
            continue
        key = _idempotency_key(operation)
        unknown = CommitUnknownError(
            f"The database failed while it committed {type(operation).__name__} of"
            f" {key}, and re-reading did not show it.",
            hint="It may still have been written: look before you repeat it.",
        )
        unknown.__cause__ = cause
        answers.append((None, unknown))
    return answers


def _idempotency_key(operation: Any) -> str:
    if isinstance(operation, StartRun):
        return f"request {operation.record.request_id!r}"
    for name in ("request_id", "run_id", "workflow_id"):
        value = getattr(operation, name, None)
        if value is not None:
            return f"{name.replace('_', ' ')} {value!r}"
    return "this worker"
