"""Many starts, task commits and attempts at once, in a few statements.

Each statement of a driver that holds the interpreter's lock may have to wait for it,
so what counts is how many there are. A batch holds operations that cannot see each
other: no two name the same run, workflow id or request id. That makes their order
irrelevant, and one by one they would have the same results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from durable.errors import DurableError
from durable.store import policies
from durable.store.records import (
    CommitTask,
    RecordAttempts,
    RunStatus,
    Started,
    StartRun,
)
from durable.store.submission import is_fenced

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable.store.database import Closing, HotPath, WakeUp
    from durable.store.records import (
        AttemptRecord,
        HistoryRow,
        MessageRecord,
        Operation,
        RunRecord,
        WorkerRecord,
    )
    from durable.store.transaction import Transaction

Hot: TypeAlias = StartRun | CommitTask | RecordAttempts
Outcomes: TypeAlias = list[tuple[Any, BaseException | None]]

_PENDING = (None, None)


class StaleViewError(Exception):
    """An operation of the batch was for a run that its worker does not own.

    Which one is found by looking before writing: see `Transaction.is_careful`.
    """


def apply_together(transaction: Transaction, operations: list[Any]) -> Outcomes:
    """Apply operations in order, neighbours at once where they cannot see each other.

    Raises:
        StaleViewError: some operation was for a run that this worker does not own.
        Exception: the driver's; some operation was refused by the database.
    """
    outcomes: Outcomes = [_PENDING] * len(operations)
    batch = Batch()
    for index, operation in enumerate(operations):
        keys = _keys(operation)
        if not keys:
            batch.apply(transaction, outcomes)
            batch = Batch()
            outcomes[index] = _attempt(transaction, operation)
        else:
            if not batch.keys.isdisjoint(keys):
                batch.apply(transaction, outcomes)
                batch = Batch()
            batch.keys.update(keys)
            batch.operations.append((index, operation))
    batch.apply(transaction, outcomes)
    return outcomes


def _keys(operation: Operation) -> tuple[object, ...]:
    if isinstance(operation, CommitTask | RecordAttempts):
        return (operation.run_id,)
    if isinstance(operation, StartRun):
        record = operation.record
        return (
            record.run_id,
            ("workflow", record.namespace, record.workflow_id),
            ("request", record.namespace, record.request_id),
        )
    return ()


def _attempt(
    transaction: Transaction, operation: Operation
) -> tuple[Any, BaseException | None]:
    try:
        return transaction.apply(operation), None
    except DurableError as error:
        return None, error


class Batch:
    """Operations of which no two share a key."""

    def __init__(self) -> None:
        """Begin empty."""
        self.keys: set[object] = set()
        self.operations: list[tuple[int, Hot]] = []

    def apply(self, transaction: Transaction, outcomes: Outcomes) -> None:
        """Apply all, filling in their outcomes.

        Raises:
            StaleViewError: as for `apply_together`.
        """
        if not self.operations:
            return
        admitted = self._admit(transaction, outcomes)
        apart = self._find_entangled(transaction, admitted)
        work = _Work(transaction)
        for index, operation in admitted:
            if index in apart:
                continue
            outcomes[index] = (work.add(operation), None)
        work.write()
        for index, operation in admitted:
            if index in apart:
                outcomes[index] = _attempt(transaction, operation)

    def _admit(
        self, transaction: Transaction, outcomes: Outcomes
    ) -> list[tuple[int, Hot]]:
        admitted: list[tuple[int, Hot]] = []
        for index, operation in self.operations:
            if is_fenced(operation):
                try:
                    transaction.require_lease(operation)
                except DurableError as error:
                    outcomes[index] = (None, error)
                    continue
            admitted.append((index, operation))
        return admitted

    def _find_entangled(
        self, transaction: Transaction, operations: list[tuple[int, Hot]]
    ) -> set[int]:
        """Return the operations that must be looked at one by one."""
        starts: list[tuple[int, StartRun]] = []
        closings: list[tuple[int, CommitTask]] = []
        for index, operation in operations:
            if isinstance(operation, StartRun):
                starts.append((index, operation))
            elif isinstance(operation, CommitTask) and operation.status is not None:
                closings.append((index, operation))
        apart: set[int] = set()
        if starts and (transaction.is_careful or not self._is_carefree(starts)):
            holders = transaction.hot.find_holders([start for _, start in starts])
            if any(holder.run_id in self.keys for holder in holders):
                # A start meets a run that another operation of this batch changes, so
                # their order matters after all.
                return {index for index, _ in operations}
            apart.update(_find_taken(starts, holders))
        if closings and transaction.has_messages:
            messages = transaction.hot.find_messages([c.run_id for _, c in closings])
            apart.update(_find_mailed(closings, messages))
        if transaction.is_careful and transaction.worker is not None:
            apart.update(_find_stale(transaction.hot, transaction.worker, operations))
        return apart

    def _is_carefree(self, starts: list[tuple[int, StartRun]]) -> bool:
        # A start by itself need not look first: if a unique key refuses it, it is done
        # again, and nothing else with it.
        return len(self.operations) == 1 and policies.allows_every_reuse(starts[0][1])


def _find_taken(
    starts: list[tuple[int, StartRun]], holders: list[RunRecord]
) -> Iterator[int]:
    requests = {(holder.namespace, holder.request_id) for holder in holders}
    used = {(holder.namespace, holder.workflow_id) for holder in holders}
    running = {
        (holder.namespace, holder.workflow_id)
        for holder in holders
        if holder.status is RunStatus.RUNNING
    }
    for index, start in starts:
        record = start.record
        workflow = (record.namespace, record.workflow_id)
        forbidden = running if policies.allows_every_reuse(start) else used
        if (record.namespace, record.request_id) in requests or workflow in forbidden:
            yield index


def _find_mailed(
    closings: list[tuple[int, CommitTask]], messages: list[MessageRecord]
) -> Iterator[int]:
    sequences: dict[str, set[int]] = {}
    for message in messages:
        sequences.setdefault(message.run_id, set()).add(message.sequence)
    for index, closing in closings:
        if not sequences.get(closing.run_id, set()) <= set(closing.consumed):
            yield index


def _find_stale(
    hot: HotPath, worker: WorkerRecord, operations: list[tuple[int, Hot]]
) -> Iterator[int]:
    changes = {
        operation.run_id: index
        for index, operation in operations
        if not isinstance(operation, StartRun)
    }
    owned = set(hot.find_owned(list(changes), worker.worker_id))
    return (index for run_id, index in changes.items() if run_id not in owned)


class _Work:
    """The rows of a batch, sorted by the statement that writes them."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        worker = transaction.worker
        self._fence = 0 if worker is None else worker.fence
        self._owner = "" if worker is None else worker.worker_id
        self._starts: list[StartRun] = []
        self._history: list[tuple[list[HistoryRow], int]] = []
        self._closings: list[Closing] = []
        self._updates: list[WakeUp] = []
        self._wake_ups: list[WakeUp] = []
        self._appended: list[str] = []
        self._attempts: list[AttemptRecord] = []
        self._consumed: list[tuple[str, int]] = []

    def add(self, operation: Hot) -> Started | None:
        """Take an operation in and return the result it will have."""
        if isinstance(operation, StartRun):
            record = operation.record
            self._starts.append(operation)
            fence = 0 if record.owner is None else self._fence
            self._history.append((operation.rows, fence))
            return Started(run_id=record.run_id, created=True)
        run_id = operation.run_id
        self._attempts += operation.attempts
        if isinstance(operation, RecordAttempts):
            self._wake_ups.append((run_id, operation.is_active, operation.wake_at))
            return None
        self._history.append((operation.rows, self._fence))
        if operation.consumed:
            self._consumed += [(run_id, s) for s in operation.consumed]
        if operation.status is not None:
            closed_at = operation.closed_at
            if closed_at is None:
                closed_at = self._transaction.clock.now()
            self._closings.append((run_id, operation.status.value, closed_at))
        elif operation.update_run:
            self._updates.append((run_id, operation.is_active, operation.wake_at))
        else:
            self._appended.append(run_id)
        return None

    def write(self) -> None:
        hot = self._transaction.hot
        if self._starts:
            hot.insert_runs([start.record for start in self._starts])
        if self._history:
            hot.append_history(self._history)
        owned = 0
        if self._closings:
            owned += hot.close_runs(self._closings, self._owner)
        if self._updates:
            owned += hot.update_runs(self._updates, self._owner)
        if self._wake_ups:
            owned += hot.wake_runs(self._wake_ups, self._owner)
        if self._appended:
            owned += len(hot.find_owned(self._appended, self._owner))
        expected = len(self._closings) + len(self._updates)
        expected += len(self._wake_ups) + len(self._appended)
        if owned != expected:
            raise StaleViewError
        if self._attempts:
            hot.put_attempts(self._attempts)
        if self._consumed:
            hot.delete_messages(self._consumed)
