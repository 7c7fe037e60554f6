"""One transaction of the writer: every operation by itself, in the plain way.

`durable.store.batches` does the same for many operations at once. Whatever it cannot
do at once comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from durable.errors import DurableError
from durable.store import policies, reads, salvage, statements
from durable.store.endings import Endings, chunks
from durable.store.lease import LEASE_MICROSECONDS, RegisterWorker, ReleaseWorker
from durable.store.mail import Mail
from durable.store.records import (
    Claimed,
    ClaimRuns,
    CommitTask,
    Committed,
    DropReplies,
    FoundRun,
    MailArrived,
    ParkRun,
    PutMessage,
    ReapWorkers,
    RecordAttempts,
    ReleaseRuns,
    RepairRun,
    RunRecord,
    RunStatus,
    Started,
    StartRun,
    Terminated,
    TerminateRun,
)
from durable.store.submission import is_fenced
from durable.store.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from durable.store.database import Session
    from durable.store.isolation import Isolation
    from durable.store.records import Operation, WorkerRecord
    from durable.store.steady_clock import SteadyClock
    from durable.store.work import Writing


class Transaction:
    """An open transaction, and what it knows of this store's worker.

    Operations raise a `DurableError` only before they have written anything; the
    driver's errors may come at any point.

    Attributes:
        worker: this store's worker; after the commit, what the store goes on with.
        lost: called when the lease is gone; belongs to `worker`.
        is_lost: an operation has found the lease gone.
        is_careful: batches look who owns their runs before they write.
        isolation: applies each operation, and each part of one that has an outcome of
            its own, within a savepoint; without it the driver's errors pass through.
    """

    def __init__(
        self,
        session: Session,
        clock: SteadyClock,
        worker: WorkerRecord | None,
        lost: Callable[[], None] | None,
    ) -> None:
        """Work in the transaction that `session` has begun."""
        self.session = session
        self.hot = session.hot
        self.clock = clock
        self.worker = worker
        self.lost = lost
        self.is_lost = False
        self.is_careful = False
        self.isolation: Isolation | None = None
        self.mail = Mail(session, clock, lambda: self._read_header()[1])
        self.endings = Endings(session, clock, self.mail, self._next_fence)
        self._header: tuple[int | None, bool] | None = None

    # --- the lease --------------------------------------------------------------------

    def _read_header(self) -> tuple[int | None, bool]:
        if self._header is None:
            worker_id = None if self.worker is None else self.worker.worker_id
            self._header = self.hot.read_header(worker_id)
        return self._header

    def holds_lease(self) -> bool:
        """Tell whether the worker's row still carries its fencing number."""
        return self.worker is not None and self._read_header()[0] == self.worker.fence

    def require_lease(self, operation: object) -> WorkerRecord:
        """Return the worker if it may write.

        Raises:
            LeaseLostError: it may not.
        """
        if self.worker is None or not self.holds_lease():
            self.is_lost = self.worker is not None
            raise policies.lease_lost(self.worker)
        if isinstance(operation, StartRun):
            policies.check_owner(operation, self.worker)
        return self.worker

    # --- operations -------------------------------------------------------------------

    def attempt(
        self,
        operation: Operation | RegisterWorker | ReleaseWorker,
        apply: Callable[[Any], Any] | None = None,
    ) -> tuple[Any, DurableError | None]:
        """Apply an operation, and return its outcome.

        Args:
            operation: the operation.
            apply: what applies it, if not the method of that name.

        Raises:
            Exception: the driver's.
        """
        apply = apply or self.apply
        if self.isolation is None:
            try:
                return apply(operation), None
            except DurableError as error:
                return None, error
        outcome = self.isolation.attempt(operation, apply)
        if outcome[1] is not None:
            self.mail.forget()
        return outcome

    def _attempt_each(
        self, operations: Iterable[Any], apply: Callable[[Any], Any]
    ) -> tuple[Any, ...]:
        outcomes = (self.attempt(operation, apply) for operation in operations)
        return tuple(result if error is None else error for result, error in outcomes)

    def apply(self, operation: Operation | RegisterWorker | ReleaseWorker) -> Any:
        """Apply one operation and return its result.

        Raises:
            DurableError: it was refused; nothing was written.
        """
        if is_fenced(operation):
            self.require_lease(operation)
        match operation:
            case StartRun():
                return self._start(operation)
            case CommitTask():
                return self._commit(operation)
            case RecordAttempts():
                worker = self.require_lease(operation)
                self._require_owned(operation.run_id, worker)
                return self._write(operation)
            case ParkRun():
                return self._park(operation)
            case PutMessage():
                return self._put_message(operation)
            case TerminateRun():
                return self._terminate(operation)
            case RepairRun():
                return self._repair(operation)
            case DropReplies():
                return self._write(operation)
            case ClaimRuns():
                return self._claim(operation)
            case ReleaseRuns():
                return self._release_runs(operation)
            case ReapWorkers():
                return self._reap(operation)
            case RegisterWorker():
                return self._register(operation)
            case ReleaseWorker():
                return self._release_worker()

    def _start(self, operation: StartRun) -> Started:
        """Create the run, or answer with the one that is there."""
        record = operation.record
        policies.check_beginning(operation)
        holders = self.hot.find_holders([operation])
        open_run = next((h for h in holders if _holds_id(h, record)), None)
        newest = self.find_newest(operation)
        answer = policies.find_start_answer(
            operation,
            same_request=next((h for h in holders if _same_request(h, record)), None),
            open_run=open_run,
            newest=newest,
        )
        if answer is not None:
            known = holders if newest is None else [*holders, newest]
            existing = next(h for h in known if h.run_id == answer.run_id)
            if operation.wants_found:
                answer = self._show(existing, answer)
            return self._remind(operation, existing, answer)
        guardian = policies.guardian_of(operation)
        if guardian is not None:
            self.mail.find(guardian)
        committed = Committed()
        if open_run is not None:
            committed = self.endings.terminate(open_run, operation.terminated_data)
        self._write(operation)
        committed = msgspec.structs.replace(
            committed,
            deliveries=self._attempt_each(operation.messages, self._put_message),
            started=self._attempt_each(operation.starts, self.apply),
        )
        return Started(
            run_id=record.run_id,
            created=True,
            terminated_run_id=None if open_run is None else open_run.run_id,
            committed=committed if committed != Committed() else None,
        )

    def _show(self, existing: RunRecord, answer: Started) -> Started:
        first = self._execute(
            statements.FIND_EVENT_DATA, run_id=existing.first_run_id, event_id=1
        )
        found = FoundRun(existing, first.scalar())
        return msgspec.structs.replace(answer, found=found)

    def _remind(
        self, operation: StartRun, existing: RunRecord, answer: Started
    ) -> Started:
        message = operation.message_if_open
        if message is None or existing.status is not RunStatus.RUNNING:
            return answer
        self.mail.check_room(existing.run_id, message)
        self._put(existing.run_id, message)
        committed = Committed(deliveries=(existing.run_id,))
        return msgspec.structs.replace(answer, committed=committed)

    def find_newest(self, operation: StartRun) -> RunRecord | None:
        """Return the newest run of the workflow id, if the reuse policy asks for it."""
        if policies.allows_every_reuse(operation):
            return None
        return self._find(
            statements.FIND_NEWEST_RUN,
            namespace=operation.record.namespace,
            workflow_id=operation.record.workflow_id,
        )

    def _commit(self, operation: CommitTask) -> MailArrived | Committed | None:
        worker = self.require_lease(operation)
        run_id = operation.run_id
        self._require_owned(run_id, worker, policies.find_predecessor(operation.rows))
        if (
            policies.must_see_mail(operation)
            and self.mail.has_any
            and policies.has_unseen(operation, self.hot.find_mail([run_id]))
        ):
            messages = self.hot.find_messages(run_id)
            return MailArrived(messages=policies.find_unseen(operation, messages))
        self._write(operation)
        if not policies.has_committed(operation):
            return None
        deliveries = self._attempt_each(operation.messages, self._put_message)
        ended: tuple[str, ...] = ()
        cancelled: tuple[str, ...] = ()
        if policies.parts_from_children(operation):
            ended, cancelled = self.endings.part_from_children(run_id)
        return Committed(
            deliveries=deliveries,
            started=self._attempt_each(operation.starts, self.apply),
            ended=ended,
            cancelled=cancelled,
        )

    def _write(self, operation: Writing) -> None:
        work = Work(self.hot, self.mail, self.clock, self.worker)
        work.add(operation)
        work.write()

    def _park(self, operation: ParkRun) -> None:
        worker = self.require_lease(operation)
        self._require_owned(operation.run_id, worker)
        self._execute(
            statements.PARK_RUN,
            myself=worker.worker_id,
            parked=operation.run_id,
            reason=operation.stuck,
        )

    def _put_message(self, operation: PutMessage) -> str:
        run_id = self.mail.find(operation).run_id
        self._put(run_id, operation)
        return run_id

    def _put(self, run_id: str, message: PutMessage) -> None:
        letter = (run_id, message.request_id, message.kind, message.data)
        self.mail.put([letter])

    def _terminate(self, operation: TerminateRun) -> Terminated:
        target = self.mail.find(operation)
        # Ending it is a way out, whatever else of its row cannot be read.
        run_ids = [target.run_id]
        (row,) = reads.fetch(self.session, statements.LOAD_RUNS, run_ids=run_ids)
        run = salvage.salvage_run(row)
        committed = self.endings.terminate(run, operation.data)
        return Terminated(run_id=run.run_id, committed=committed)

    def _repair(self, operation: RepairRun) -> bool:
        run_id = operation.run_id
        is_open = self._execute(statements.IS_OPEN, run_id=run_id).first() is not None
        rows = reads.read_rows(self.session, run_id)
        if not is_open or operation.expected != tuple(row[1] for row in rows):
            return False
        self._execute(
            statements.DELETE_EVENTS_AFTER, repaired=run_id, kept=operation.keep
        )
        if operation.rows:
            self.hot.append_history([(operation.rows, self._next_fence())])
        self._execute(statements.FREE_RUN, freed=run_id)
        return True

    def _claim(self, operation: ClaimRuns) -> Claimed:
        worker = self.require_lease(operation)
        now = self.clock.now()
        free = self._find_claimable(operation, worker)
        if not free:
            return Claimed(ready=[], count=0)
        fence = self._next_fence()
        self._execute(statements.RAISE_FENCE, holder=worker.worker_id, raised=fence)
        for run_ids in chunks([run_id for run_id, *_ in free]):
            self._execute(
                statements.OWN_RUNS, run_ids=run_ids, new_owner=worker.worker_id
            )
        self.worker = msgspec.structs.replace(worker, fence=fence)
        self._header = None
        ready = [
            run_id
            for run_id, is_active, wake_at, is_stuck, is_mailed in free
            if is_active != 0 or is_stuck or is_mailed or policies.is_due(wake_at, now)
        ]
        return Claimed(ready=ready, count=len(free))

    def _find_claimable(self, operation: ClaimRuns, worker: WorkerRecord) -> list[Any]:
        found: list[Any] = []
        where: dict[str, Any] = {
            "namespace": worker.namespace,
            "task_queue": worker.task_queue,
            "workflow_types": operation.workflow_types,
        }
        for statement, active in (
            (statements.FIND_CLAIMABLE_AWAITING, {"active": 1}),
            (statements.FIND_CLAIMABLE_WAITING, {"active": 1}),
            (statements.FIND_CLAIMABLE_AWAITING, {"active": 0}),
            (statements.FIND_CLAIMABLE_WAITING, {"active": 0}),
            (statements.FIND_CLAIMABLE_ODD, {}),
        ):
            page = operation.limit - len(found)
            if page > 0:
                values = where | active | {"page": page}
                rows = reads.fetch(self.session, statement, **values)
                found += [row for row in rows if isinstance(row[0], str)]
        return found

    def _release_runs(self, operation: ReleaseRuns) -> None:
        worker = self.require_lease(operation)
        for run_ids in chunks(operation.run_ids):
            self._execute(
                statements.DISOWN_RUNS, myself=worker.worker_id, run_ids=run_ids
            )

    def _reap(self, operation: ReapWorkers) -> list[str]:
        dead = reads.fetch(
            self.session,
            statements.FIND_DEAD_WORKERS,
            myself="" if self.worker is None else self.worker.worker_id,
            now=self.clock.read(),
            presumed_dead=operation.presumed_dead,
        )
        worker_ids = [worker_id for (worker_id,) in dead if isinstance(worker_id, str)]
        self._remove_workers(worker_ids)
        self._execute(statements.DISOWN_STRAYS)
        oldest = self.clock.now() - policies.REPLY_MICROSECONDS_MAX
        self._execute(statements.DELETE_OLD_REPLIES, until=oldest)
        return worker_ids

    def _register(self, operation: RegisterWorker) -> WorkerRecord:
        if self.worker is not None and self.holds_lease():
            raise policies.worker_registered(self.worker)
        registered = msgspec.structs.replace(
            operation.worker,
            fence=self._next_fence(),
            lease_expires_at=self.clock.read() + LEASE_MICROSECONDS,
        )
        self._execute(statements.INSERT_WORKER, **msgspec.structs.asdict(registered))
        self.worker = registered
        self.lost = operation.lost
        self._header = None
        return registered

    def _release_worker(self) -> None:
        if self.worker is not None and self.holds_lease():
            self._remove_workers([self.worker.worker_id])
        self.worker = None
        self.lost = None
        self._header = None

    def renew(self) -> bool:
        """Move the end of the lease; False if it is gone."""
        if self.worker is None:
            return False
        until = self.clock.read() + LEASE_MICROSECONDS
        renewed = self._execute(
            statements.RENEW_LEASE,
            holder=self.worker.worker_id,
            held=self.worker.fence,
            until=until,
        )
        if renewed.rowcount != 1:
            return False
        self.worker = msgspec.structs.replace(self.worker, lease_expires_at=until)
        return True

    # --- parts ------------------------------------------------------------------------

    def _execute(self, statement: Any, **values: Any) -> Any:
        return self.session.connection.execute(statement, values)

    def _find(self, statement: Any, **values: Any) -> RunRecord | None:
        row = self._execute(statement, **values).first()
        return None if row is None else salvage.to_run(row)

    def _require_owned(
        self, run_id: str, worker: WorkerRecord, follows: int = 0
    ) -> None:
        find, owner = self.hot.find_writable, worker.worker_id
        if find([(run_id, follows)], owner):
            return
        if follows and find([(run_id, 0)], owner):
            raise policies.position_missing(run_id)
        raise policies.not_owner(run_id)

    def _next_fence(self) -> int:
        self._execute(statements.COUNT_FENCE_UP)
        fence = self._execute(statements.READ_FENCE_COUNTER).scalar()
        if not isinstance(fence, int) or fence < 1:
            fence = self._restore_counter()
        return fence

    def _restore_counter(self) -> int:
        """Count on from the highest number that is written anywhere."""
        highest = [
            self._execute(statement).scalar() or 0
            for statement in (
                statements.HIGHEST_FENCE,
                statements.HIGHEST_WORKER_FENCE,
            )
        ]
        fence: int = max(highest) + 1
        self._execute(statements.DELETE_FENCE_COUNTER)
        self._execute(statements.INSERT_FENCE_COUNTER, counted=fence)
        return fence

    def _remove_workers(self, worker_ids: list[str]) -> None:
        if worker_ids:
            self._execute(statements.DISOWN_ALL_RUNS, owners=worker_ids)
            self._execute(statements.DELETE_WORKERS, worker_ids=worker_ids)


def _same_request(holder: RunRecord, record: RunRecord) -> bool:
    return (holder.namespace, holder.request_id) == (
        record.namespace,
        record.request_id,
    )


def _holds_id(holder: RunRecord, record: RunRecord) -> bool:
    return holder.status is RunStatus.RUNNING and (
        holder.namespace,
        holder.workflow_id,
    ) == (
        record.namespace,
        record.workflow_id,
    )
