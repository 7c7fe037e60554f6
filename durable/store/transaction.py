"""One transaction: a group of operations, carried out upon rows of any store.

What runs do is looked at, decided and written, all operations together. What workers
do now and then (claim, reap, register) is done by itself, in its turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from durable import limits
from durable.errors import DurableError, InternalError
from durable.store.activity_tasks import ClaimActivityTasks, TakeExpiredTasks
from durable.store.deciding import policies, queue_turns
from durable.store.deciding.decide import DECIDED, Decided, decide
from durable.store.deciding.deleting import cut, find_needed
from durable.store.deciding.run_turns import line_up
from durable.store.deciding.wanted import want
from durable.store.lease import (
    LEASE_MICROSECONDS,
    DrainWorker,
    RegisterWorker,
    ReleaseWorker,
)
from durable.store.queues import DeleteQueue, PutOffRun, PutQueue
from durable.store.records import (
    OF_RUNS,
    ClaimRuns,
    Deleted,
    DeleteRuns,
    PutNamespace,
    ReapWorkers,
    ReleaseRuns,
    RepairRun,
    WorkerStatus,
    at_once,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durable.store.activity_tasks import ActivityTaskRecord
    from durable.store.database import Tables
    from durable.store.deciding.decide import Outcomes
    from durable.store.deciding.rows import Seen
    from durable.store.records import WorkerRecord
    from durable.store.steady_clock import SteadyClock


def split(operations: list[Any]) -> Iterator[list[Any]]:
    """Cut a group into what one transaction may take: such as are decided, or one.

    A look begins its transaction, so what is not looked at has one of its own.
    """
    if DECIDED.issuperset(map(type, operations)):  # nearly always
        yield operations
        return
    for is_decided, part in itertools.groupby(operations, lambda o: type(o) in DECIDED):
        if is_decided:
            yield list(part)
        else:
            yield from ([one] for one in part)


class Transaction:
    """An open transaction, and what it knows of this store's worker.

    Attributes:
        worker: this store's worker; after the commit, what the store goes on with.
        lost: called when the lease is gone; belongs to `worker`.
        is_lost: an operation has found the lease gone.
    """

    def __init__(
        self,
        tables: Tables,
        clock: SteadyClock,
        worker: WorkerRecord | None,
        lost: Callable[[], None] | None,
    ) -> None:
        """Work on the rows of a transaction that has begun."""
        self._tables = tables
        self._clock = clock
        self.worker = worker
        self.lost = lost
        self.is_lost = False

    def apply(self, operations: list[Any]) -> Outcomes:
        """Carry out what `split` has left together, in order.

        Raises:
            Exception: the driver's; nothing counts then.
        """
        if not operations or type(operations[0]) in DECIDED:
            return self._apply_together(operations)
        return [self._apply_alone(operation) for operation in operations]

    def _apply_together(self, operations: list[Any]) -> Outcomes:
        if not operations:
            return []
        worker = self.worker
        wanted = want(operations, None if worker is None else worker.worker_id)
        while True:
            seen = self._tables.look(wanted)
            if wanted.rare:
                self._look_for_tasks(wanted.rare, seen)
            now = self._clock.now() if wanted.has_time else None
            decided = decide(operations, seen, now, worker)
            if isinstance(decided, Decided):
                break
            if not wanted.add(decided):
                raise InternalError(f"A look did not bring what was wanted: {decided}.")
        self.is_lost = self.is_lost or decided.is_lost
        self._tables.write(decided.rows)
        if decided.rows.adopted:
            self._tables.adopt(decided.rows.adopted)
        if decided.rows.tasks is not None:
            self._tables.write_tasks(decided.rows.tasks)
        return decided.outcomes

    def _look_for_tasks(self, rare: dict[str, dict[Any, None]], seen: Seen) -> None:
        keys, run_ids = rare.get("tasks", {}), rare.get("all_tasks", {})
        if keys or run_ids:
            seen.looked_tasks, seen.all_tasks = keys, run_ids
            seen.tasks = self._tables.look_for_tasks(keys, run_ids)
            seen.is_again = "again" in rare

    # --- what workers do --------------------------------------------------------------

    def _apply_alone(self, operation: Any) -> tuple[Any, DurableError | None]:
        try:
            return self._ALONE[type(operation)](self, operation), None
        except DurableError as error:
            return None, error

    def _holds_lease(self) -> bool:
        worker = self.worker
        return worker is not None and self._tables.has_worker(worker.worker_id)

    def _require_lease(self) -> WorkerRecord:
        if self.worker is None or not self._holds_lease():
            self.is_lost = self.worker is not None
            raise policies.lease_lost(self.worker)
        return self.worker

    def _claim(self, operation: ClaimRuns) -> dict[str, int]:
        worker, now = self._require_lease(), self._clock.now()
        if operation.in_turn:
            free = self._claim_in_turns(worker, operation, now)
        else:
            free = self._tables.find_claimable(worker, operation, now)
        if free:
            self._tables.own_runs(list(free), worker.worker_id)
        return {run_id: epoch + 1 for run_id, epoch in free.items()}

    def _claim_in_turns(
        self, worker: WorkerRecord, claim: ClaimRuns, now: int
    ) -> dict[str, int]:
        """What has begun goes on; of the others as many as their queue allows."""
        tables, namespace, queue = self._tables, worker.namespace, worker.task_queue
        record = tables.lock_queue(namespace, queue + OF_RUNS)
        if record is None or claim.limit <= 0:
            return tables.find_claimable(worker, claim, now)
        page = msgspec.structs.replace(claim, limit=limits.CLAIM_RUNS_MAX)
        due = tables.find_claimable(worker, page, now)
        beginnings = tables.find_beginnings(list(due)) if due else ()
        new, held_back = line_up(worker, beginnings)
        if new:
            tables.put_turns(new)
        if held_back:
            tables.hold_back(held_back)
        waits = frozenset(held_back)
        free = [run_id for run_id in due if run_id not in waits]
        taken = {run_id: due[run_id] for run_id in free[: claim.limit]}
        tables.end_turns(namespace, queue)
        left = msgspec.structs.replace(claim, limit=claim.limit - len(taken))
        taken |= tables.call_out(worker, left, now)
        held = tables.count_turns(namespace, queue) if record.has_slots else ()
        wanted = claim.limit - len(taken)
        turn = queue_turns.begin_turn(record, held, worker.worker_id, wanted, now)
        if turn.room > 0:
            admitted = tables.admit_in_turn(worker, claim, turn)
            after = queue_turns.end_turn(turn, len(admitted), now)
            if after != record:
                tables.put_queue(after, is_new=False)
            taken |= admitted
        return taken

    def _claim_tasks(
        self, operation: ClaimActivityTasks
    ) -> tuple[ActivityTaskRecord, ...]:
        worker, now = self._require_lease(), self._clock.now()
        claimed: list[ActivityTaskRecord] = []
        for queue, types in operation.queues:
            room = operation.limit - len(claimed)
            if room > 0:
                claimed += self._claim_of_queue(worker, queue, types, room, now)
        return tuple(claimed)

    def _claim_of_queue(
        self,
        worker: WorkerRecord,
        queue: str,
        types: Sequence[str] | None,
        limit: int,
        now: int,
    ) -> list[ActivityTaskRecord]:
        tables, namespace = self._tables, worker.namespace
        record = tables.lock_queue(namespace, queue)
        if record is None:
            return tables.claim_tasks(worker, queue, types, limit, now)
        held = tables.count_held(namespace, queue) if record.has_slots else ()
        turn = queue_turns.begin_turn(record, held, worker.worker_id, limit, now)
        if not turn.room:
            return []
        taken = tables.claim_in_turn(worker, queue, types, turn, now)
        after = queue_turns.end_turn(turn, len(taken), now)
        if after != record:
            tables.put_queue(after, is_new=False)
        return taken

    def _put_queue(self, operation: PutQueue) -> bool:
        record = operation.record
        before = self._tables.lock_queue(record.namespace, record.name)
        if operation.version != (None if before is None else before.version):
            return False
        record = queue_turns.configure(record, before, self._clock.now())
        self._tables.put_queue(record, is_new=before is None)
        return True

    def _delete_queue(self, operation: DeleteQueue) -> bool:
        namespace, name = operation.namespace, operation.name
        if name.endswith(OF_RUNS):
            self._tables.lock_queue(namespace, name)
            due = at_once(self._clock.now())
            self._tables.let_go(namespace, name.removesuffix(OF_RUNS), due)
        return self._tables.delete_queue(namespace, name)

    def _put_off(self, operation: PutOffRun) -> bool:
        run_id = operation.run_id
        if self._tables.find_positions(run_id) != (1,):
            return False
        self._tables.drop_turn(run_id)
        rows = [operation.row]
        self._tables.repair_run(run_id, 0, rows, operation.due_at, None)
        return True

    def _take_tasks(
        self, operation: TakeExpiredTasks
    ) -> tuple[ActivityTaskRecord, ...]:
        worker, now = self._require_lease(), self._clock.now()
        if operation.limit <= 0:
            return ()
        return tuple(self._tables.take_tasks(worker, operation.limit, now))

    def _release_runs(self, operation: ReleaseRuns) -> None:
        worker = self._require_lease()
        due = at_once(self._clock.now())
        self._tables.disown_runs(operation.run_ids, worker.worker_id, due)

    def _reap(self, operation: ReapWorkers) -> list[str]:
        dead = self._tables.find_dead_workers(
            "" if self.worker is None else self.worker.worker_id,
            self._clock.read(),
            operation.presumed_dead,
        )
        now = self._clock.now()
        if dead:
            self._tables.remove_workers(dead, at_once(now))
        self._tables.disown_strays(at_once(now))
        self._tables.lose_tasks()
        oldest = now - policies.REPLY_MICROSECONDS_MAX
        self._tables.delete_replies(oldest)
        return dead

    def _repair(self, operation: RepairRun) -> bool:
        run_id = operation.run_id
        if self._tables.find_positions(run_id) != operation.expected:
            return False
        due = at_once(self._clock.now())
        self._tables.repair_run(
            run_id, operation.keep, operation.rows, due, operation.version
        )
        return True

    def _put_namespace(self, operation: PutNamespace) -> bool:
        return self._tables.put_namespace(operation.record, is_new=operation.is_new)

    def _delete(self, operation: DeleteRuns) -> Deleted:
        run_ids = list(dict.fromkeys(operation.run_ids))
        left: list[str] = []
        if operation.events_max is not None:
            counts = self._tables.count_events(run_ids)
            run_ids, left = cut(run_ids, counts, operation.events_max)
        ties = self._tables.find_ties(run_ids)
        kept = find_needed(
            ties, self._clock.now(), heeds_replies=operation.heeds_replies
        )
        if kept and operation.is_whole:
            return Deleted(kept=kept, left=tuple(left))
        gone = [one for one in run_ids if one in ties and one not in kept]
        if gone and not operation.is_dry:
            self._tables.delete_runs(gone)
        return Deleted(tuple(gone), kept, tuple(left))

    def _register(self, operation: RegisterWorker) -> WorkerRecord:
        if self.worker is not None and self._holds_lease():
            raise policies.worker_registered(self.worker)
        worker_id = operation.worker.worker_id
        if self._tables.has_worker(worker_id):
            raise policies.worker_taken(worker_id)
        registered = msgspec.structs.replace(
            operation.worker,
            lease_expires_at=self._clock.read() + LEASE_MICROSECONDS,
        )
        self._tables.insert_worker(registered)
        self.worker = registered
        self.lost = operation.lost
        return registered

    def _drain_worker(self, _: DrainWorker) -> None:
        worker = self._require_lease()
        self._tables.drain_worker(worker.worker_id)
        self.worker = msgspec.structs.replace(worker, status=WorkerStatus.DRAINING)

    def _release_worker(self, _: ReleaseWorker) -> None:
        if self.worker is not None:
            due = at_once(self._clock.now())
            self._tables.remove_workers([self.worker.worker_id], due)
            self._tables.lose_tasks()
        self.worker = None
        self.lost = None

    def renew(self, places: str | None) -> None:
        """Move the end of the lease, and tell what else is new; or find it lost."""
        if self.worker is None:
            return
        until = self._clock.read() + LEASE_MICROSECONDS
        if self._tables.renew_worker(self.worker.worker_id, until, places):
            self.worker = msgspec.structs.replace(self.worker, lease_expires_at=until)
        else:
            self.is_lost = True

    _ALONE: ClassVar[dict[type[Any], Callable[[Transaction, Any], Any]]] = {
        ClaimRuns: _claim,
        ClaimActivityTasks: _claim_tasks,
        TakeExpiredTasks: _take_tasks,
        ReleaseRuns: _release_runs,
        ReapWorkers: _reap,
        RepairRun: _repair,
        PutNamespace: _put_namespace,
        PutQueue: _put_queue,
        DeleteQueue: _delete_queue,
        PutOffRun: _put_off,
        DeleteRuns: _delete,
        RegisterWorker: _register,
        DrainWorker: _drain_worker,
        ReleaseWorker: _release_worker,
    }
