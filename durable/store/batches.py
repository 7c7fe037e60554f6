"""Many starts, task commits, attempts and messages at once, in a few statements.

Each statement of a driver that holds the interpreter's lock may have to wait for it,
so what counts is how many there are. A batch holds operations that cannot see each
other: no two change the same run, workflow id or request id, and none changes a run
that another one puts a message to. That makes their order irrelevant, but for that of
the messages, and one by one they would have the same results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from durable.errors import DurableError
from durable.options import IdConflictPolicy
from durable.store import policies
from durable.store.records import (
    RUNNING,
    CommitTask,
    Committed,
    DropReplies,
    PutMessage,
    RecordAttempts,
    Started,
    StartRun,
)
from durable.store.submission import is_fenced
from durable.store.work import Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable.store.database import HotPath, Mail, Place
    from durable.store.family import Letter
    from durable.store.records import Operation, RunRecord, WorkerRecord
    from durable.store.transaction import Transaction

Hot: TypeAlias = StartRun | CommitTask | RecordAttempts | PutMessage | DropReplies
Outcomes: TypeAlias = list[tuple[Any, BaseException | None]]
_Deliveries: TypeAlias = tuple[str | DurableError, ...]
_Entry: TypeAlias = tuple[int, Hot, _Deliveries]
"""place in the group, operation, where each of its messages goes."""

_PENDING = (None, None)


def apply_together(transaction: Transaction, operations: list[Any]) -> Outcomes:
    """Apply operations in order, neighbours at once where they cannot see each other.

    Raises:
        StaleViewError: some operation was for a run that this worker does not own.
        Exception: the driver's; some operation was refused by the database.
    """
    transaction.mail.expect(lambda: _all_messages(operations))
    outcomes: Outcomes = [_PENDING] * len(operations)
    batch = Batch(transaction)
    for index, operation in enumerate(operations):
        if batch.take(index, operation):
            continue
        batch.apply(outcomes)
        batch = Batch(transaction)
        if not batch.take(index, operation):
            outcomes[index] = transaction.attempt(operation)
    batch.apply(outcomes)
    return outcomes


def _all_messages(operations: list[Any]) -> Iterator[PutMessage]:
    for operation in operations:
        yield from _messages_of(operation)
        if isinstance(operation, StartRun):
            guardian = policies.guardian_of(operation)
            if guardian is not None:
                yield guardian


def _messages_of(operation: Operation) -> tuple[PutMessage, ...]:
    if isinstance(operation, CommitTask | StartRun):
        return operation.messages
    return (operation,) if isinstance(operation, PutMessage) else ()


def _find_changes(operation: Operation) -> tuple[object, ...] | None:
    """Return the keys of what an operation changes; None if nobody can tell."""
    if isinstance(operation, CommitTask):
        if operation.starts or policies.parts_from_children(operation):
            return None
        if operation.replies:
            return (
                operation.run_id,
                *(("reply", r.run_id, r.request_id) for r in operation.replies),
            )
        return (operation.run_id,)
    if isinstance(operation, StartRun):
        rows = operation.rows
        if operation.starts or policies.find_predecessor(rows):
            return None  # the second would be refused
        record = operation.record
        return (
            record.run_id,
            ("workflow", record.namespace, record.workflow_id),
            ("request", record.namespace, record.request_id),
        )
    if isinstance(operation, RecordAttempts):
        return (operation.run_id,)
    if isinstance(operation, DropReplies):
        return tuple(("reply", *key) for key in operation.keys)
    return () if isinstance(operation, PutMessage) else None


class Batch:
    """Operations of which none changes what another one changes or addresses."""

    def __init__(self, transaction: Transaction) -> None:
        """Begin empty."""
        self._transaction = transaction
        self._changed: set[object] = set()
        self._addressed: set[object] = set()
        self.entries: list[_Entry] = []

    def take(self, place: int, operation: Any) -> bool:
        """Take an operation in; False if it must wait for a later batch, or be alone.

        An empty batch refuses only operations that must be alone.
        """
        changes = _find_changes(operation)
        if (
            changes is None
            or not self._changed.isdisjoint(changes)
            or (self._addressed and not self._addressed.isdisjoint(changes))
        ):
            return False
        deliveries: _Deliveries = ()
        if isinstance(operation, StartRun):
            guardian = policies.guardian_of(operation)
            if guardian is not None:
                addressed = self._address((guardian,), changes)
                if addressed is None or isinstance(addressed[0][0], DurableError):
                    return False
                self._addressed.update(addressed[1])
        if messages := _messages_of(operation):
            addressed = self._address(messages, changes)
            if addressed is None:
                return False
            deliveries, keys = addressed
            self._addressed.update(keys)
        self._changed.update(changes)
        self.entries.append((place, operation, deliveries))
        return True

    def _address(
        self, messages: tuple[PutMessage, ...], changes: tuple[object, ...]
    ) -> tuple[_Deliveries, list[object]] | None:
        """Find the runs of messages; None if one is to be changed before or with them.

        Until the batch is applied, the database shows those runs as they will be when
        the messages are put.
        """
        find = self._transaction.mail.find
        changed = self._changed
        deliveries: list[str | DurableError] = []
        keys: list[object] = []
        for message in messages:
            key: object = message.run_id
            if key is None:
                key = ("workflow", message.namespace, message.workflow_id)
            if key in changed or key in changes:
                return None
            keys.append(key)
            try:
                run_id = find(message).run_id
            except DurableError as error:
                deliveries.append(error)
                continue
            if run_id in changed or run_id in changes:
                return None
            keys.append(run_id)
            deliveries.append(run_id)
        return tuple(deliveries), keys

    def apply(self, outcomes: Outcomes) -> None:
        """Apply all, filling in their outcomes.

        Raises:
            StaleViewError: as for `apply_together`.
        """
        if not self.entries:
            return
        transaction = self._transaction
        admitted = self._admit(outcomes)
        apart = self._find_entangled(admitted)
        work = Work(
            transaction.hot, transaction.mail, transaction.clock, transaction.worker
        )
        for place, operation, deliveries in admitted:
            if place not in apart:
                outcomes[place] = _add(work, operation, deliveries)
        work.write()
        if apart:
            for place, operation, _ in admitted:
                if place in apart:
                    outcomes[place] = transaction.attempt(operation)

    def _admit(self, outcomes: Outcomes) -> list[_Entry]:
        transaction = self._transaction
        if not any(is_fenced(operation) for _, operation, _ in self.entries):
            return self.entries
        worker = transaction.worker if transaction.holds_lease() else None
        admitted: list[_Entry] = []
        for entry in self.entries:
            place, operation, _ = entry
            is_ours = worker is not None and (
                not isinstance(operation, StartRun)
                or operation.driver == worker.worker_id
            )
            if not is_ours and is_fenced(operation):
                try:
                    transaction.require_lease(operation)
                except DurableError as error:
                    outcomes[place] = (None, error)
                    continue
            admitted.append(entry)
        return admitted

    def _find_entangled(self, entries: list[_Entry]) -> set[int]:
        """Return the operations that must be looked at one by one."""
        transaction = self._transaction
        starts: list[tuple[int, StartRun]] = []
        closings: list[tuple[int, CommitTask]] = []
        for index, operation, _ in entries:
            if isinstance(operation, StartRun):
                starts.append((index, operation))
            elif isinstance(operation, CommitTask) and policies.must_see_mail(
                operation
            ):
                closings.append((index, operation))
        apart: set[int] = set()
        if starts and (transaction.is_careful or not self._is_carefree(starts)):
            holders = transaction.hot.find_holders([start for _, start in starts])
            apart.update(_find_taken(starts, holders))
            if any(holder.run_id in self._changed for holder in holders) or (
                apart
                and any(
                    place in apart and _reaches_others(start) for place, start in starts
                )
            ):
                # A start meets a run that another operation of this batch changes, or
                # changes one itself, so their order matters after all.
                return {place for place, _, _ in entries}
        if closings and transaction.mail.has_any:
            mail = transaction.hot.find_mail([c.run_id for _, c in closings])
            apart.update(_find_mailed(closings, mail))
        if transaction.is_careful and transaction.worker is not None:
            apart.update(_find_stale(transaction.hot, transaction.worker, entries))
        return apart

    def _is_carefree(self, starts: list[tuple[int, StartRun]]) -> bool:
        # A start by itself need not look first: if a unique key refuses it, it is done
        # again, and nothing else with it. A run that begins closed has no such key, nor
        # has a closed one that keeps its id.
        _, start = starts[0]
        return (
            len(self.entries) == 1
            and start.record.status is RUNNING
            and start.message_if_open is None
            and (
                policies.allows_every_reuse(start)
                or not self._transaction.hot.is_used(
                    start.record.namespace, start.record.workflow_id
                )
            )
        )


def _add(
    work: Work, operation: Hot, deliveries: _Deliveries
) -> tuple[Any, BaseException | None]:
    """Take an operation into the work and return the outcome it will have."""
    if isinstance(operation, PutMessage):
        (delivery,) = deliveries
        if isinstance(delivery, DurableError):
            return None, delivery
        work.add_letters([_to_letter(delivery, operation)])
        return delivery, None
    work.add(operation)
    committed: Committed | None = None
    if deliveries:
        committed = Committed(deliveries=deliveries)
        work.add_letters(
            _to_letter(delivery, message)
            for delivery, message in zip(
                deliveries, _messages_of(operation), strict=True
            )
            if not isinstance(delivery, DurableError)
        )
    if isinstance(operation, StartRun):
        return Started(operation.record.run_id, True, None, committed), None
    return (committed, None) if committed else _PENDING


def _to_letter(run_id: str, message: PutMessage) -> Letter:
    return run_id, message.request_id, message.kind, message.data


def _reaches_others(start: StartRun) -> bool:
    """Tell whether a start that is not plain may change anything but its own run."""
    return (
        start.conflict_policy is IdConflictPolicy.TERMINATE_EXISTING
        or start.message_if_open is not None
        or bool(start.messages)
    )


def _find_taken(
    starts: list[tuple[int, StartRun]], holders: list[RunRecord]
) -> Iterator[int]:
    requests = {(holder.namespace, holder.request_id) for holder in holders}
    used = {(holder.namespace, holder.workflow_id) for holder in holders}
    running = {
        (holder.namespace, holder.workflow_id)
        for holder in holders
        if holder.status is RUNNING
    }
    for index, start in starts:
        record = start.record
        workflow = (record.namespace, record.workflow_id)
        forbidden = running if policies.allows_every_reuse(start) else used
        if (record.namespace, record.request_id) in requests or workflow in forbidden:
            yield index


def _find_mailed(
    closings: list[tuple[int, CommitTask]], mail: list[Mail]
) -> Iterator[int]:
    waiting: dict[str, list[Mail]] = {}
    for message in mail:
        waiting.setdefault(message[0], []).append(message)
    for index, closing in closings:
        messages = waiting.get(closing.run_id)
        if messages and policies.has_unseen(closing, messages):
            yield index


def _find_stale(
    hot: HotPath, worker: WorkerRecord, entries: list[_Entry]
) -> Iterator[int]:
    changes: dict[str, int] = {}
    places: list[Place] = []
    for index, operation, _ in entries:
        if isinstance(operation, CommitTask | RecordAttempts):
            changes[operation.run_id] = index
            rows = operation.rows if isinstance(operation, CommitTask) else []
            places.append((operation.run_id, policies.find_predecessor(rows)))
    writable = set(hot.find_writable(places, worker.worker_id))
    return (index for run_id, index in changes.items() if run_id not in writable)
