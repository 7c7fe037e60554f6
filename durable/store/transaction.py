"""One transaction of the writer: every operation by itself, in the plain way.

`durable.store.batches` does the same for many operations at once. Whatever it cannot
do at once comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from durable.store import policies, statements
from durable.store.lease import LEASE_MICROSECONDS, RegisterWorker, ReleaseWorker
from durable.store.records import (
    Claimed,
    ClaimRuns,
    CommitTask,
    MailArrived,
    ParkRun,
    PutMessage,
    ReapWorkers,
    RecordAttempts,
    ReleaseRuns,
    RunRecord,
    RunStatus,
    Started,
    StartRun,
    TerminateRun,
)
from durable.store.submission import is_fenced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from durable.store.database import Session
    from durable.store.records import HistoryRow, Operation, WorkerRecord
    from durable.store.steady_clock import SteadyClock

# Lists of ids must stay below every database's limit on parameters.
_IDS_PER_STATEMENT: Final = 1_000


class Transaction:
    """An open transaction, and what it knows of this store's worker.

    Operations raise a `DurableError` only before they have written anything; the
    driver's errors may come at any point.

    Attributes:
        worker: this store's worker; after the commit, what the store goes on with.
        lost: called when the lease is gone; belongs to `worker`.
        is_lost: an operation has found the lease gone.
        is_careful: batches look who owns their runs before they write.
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
        self._header: tuple[int | None, bool] | None = None

    # --- the lease --------------------------------------------------------------------

    def _read_header(self) -> tuple[int | None, bool]:
        if self._header is None:
            worker_id = None if self.worker is None else self.worker.worker_id
            self._header = self.hot.read_header(worker_id)
        return self._header

    @property
    def has_messages(self) -> bool:
        """Whether any inbox holds anything."""
        return self._read_header()[1]

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

    def apply(self, operation: Operation | RegisterWorker | ReleaseWorker) -> Any:
        """Apply one operation and return its result.

        Raises:
            DurableError: it was refused; nothing was written.
        """
        if is_fenced(operation):
            self.require_lease(operation)
        match operation:
            case StartRun():
                return self.start(operation)
            case CommitTask():
                return self._commit(operation)
            case RecordAttempts():
                return self._record_attempts(operation)
            case ParkRun():
                return self._park(operation)
            case PutMessage():
                return self._put_message(operation)
            case TerminateRun():
                run = policies.get_open_target(operation, self._find_target(operation))
                self._terminate(run, operation.data)
                return run.run_id
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

    def start(self, operation: StartRun) -> Started:
        """Create the run, or answer with the one that is there."""
        record = operation.record
        holders = self.hot.find_holders([operation])
        open_run = next((h for h in holders if _holds_id(h, record)), None)
        answer = policies.find_start_answer(
            operation,
            same_request=next((h for h in holders if _same_request(h, record)), None),
            open_run=open_run,
            newest=self.find_newest(operation),
        )
        if answer is not None:
            return answer
        if open_run is not None:
            self._terminate(open_run, operation.terminated_data)
        fence = self.worker.fence if record.owner and self.worker else 0
        self.hot.insert_runs([record])
        self.hot.append_history([(operation.rows, fence)])
        return Started(
            run_id=record.run_id,
            created=True,
            terminated_run_id=None if open_run is None else open_run.run_id,
        )

    def find_newest(self, operation: StartRun) -> RunRecord | None:
        """Return the newest run of the workflow id, if the reuse policy asks for it."""
        if policies.allows_every_reuse(operation):
            return None
        return self._find(
            statements.FIND_NEWEST_RUN,
            namespace=operation.record.namespace,
            workflow_id=operation.record.workflow_id,
        )

    def _commit(self, operation: CommitTask) -> MailArrived | None:
        worker = self.require_lease(operation)
        self._require_owned(operation.run_id, worker)
        if operation.status is not None:
            messages = self.hot.find_messages([operation.run_id])
            unseen = [m for m in messages if m.sequence not in operation.consumed]
            if unseen:
                return MailArrived(messages=unseen)
        self.hot.append_history([(operation.rows, worker.fence)])
        self.hot.put_attempts(operation.attempts)
        self.hot.delete_messages([(operation.run_id, s) for s in operation.consumed])
        if operation.status is not None:
            closed_at = operation.closed_at
            if closed_at is None:
                closed_at = self.clock.now()
            closing = (operation.run_id, operation.status.value, closed_at)
            self.hot.close_runs([closing], worker.worker_id)
        elif operation.update_run:
            wake_up = (operation.run_id, operation.is_active, operation.wake_at)
            self.hot.update_runs([wake_up], worker.worker_id)
        return None

    def _record_attempts(self, operation: RecordAttempts) -> None:
        worker = self.require_lease(operation)
        self._require_owned(operation.run_id, worker)
        self.hot.put_attempts(operation.attempts)
        wake_up = (operation.run_id, operation.is_active, operation.wake_at)
        self.hot.wake_runs([wake_up], worker.worker_id)

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
        run = policies.get_open_target(operation, self._find_target(operation))
        key = {"run_id": run.run_id, "request_id": operation.request_id}
        if self._execute(statements.FIND_MESSAGE, **key).first() is None:
            self._execute(
                statements.INSERT_MESSAGE,
                **key,
                kind=operation.kind,
                data=operation.data,
                created_at=self.clock.now(),
            )
            if self._header is not None:
                self._header = (self._header[0], True)
        return run.run_id

    def _claim(self, operation: ClaimRuns) -> Claimed:
        worker = self.require_lease(operation)
        now = self.clock.now()
        free = self._find_claimable(operation, worker)
        if not free:
            return Claimed(ready=[], count=0)
        fence = self._next_fence()
        self._execute(statements.RAISE_FENCE, holder=worker.worker_id, raised=fence)
        for run_ids in _chunks([run_id for run_id, *_ in free]):
            self._execute(
                statements.OWN_RUNS, run_ids=run_ids, new_owner=worker.worker_id
            )
        self.worker = msgspec.structs.replace(worker, fence=fence)
        self._header = None
        ready = [
            run_id
            for run_id, is_active, wake_at, is_stuck, is_mailed in free
            if is_active
            or is_stuck
            or is_mailed
            or (wake_at is not None and wake_at <= now)
        ]
        return Claimed(ready=ready, count=len(free))

    def _find_claimable(self, operation: ClaimRuns, worker: WorkerRecord) -> list[Any]:
        found: list[Any] = []
        for active in (1, 0):
            for statement in (
                statements.FIND_CLAIMABLE_AWAITING,
                statements.FIND_CLAIMABLE_WAITING,
            ):
                if len(found) < operation.limit:
                    found += self._execute(
                        statement,
                        namespace=worker.namespace,
                        task_queue=worker.task_queue,
                        workflow_types=operation.workflow_types,
                        active=active,
                        page=operation.limit - len(found),
                    )
        return found

    def _release_runs(self, operation: ReleaseRuns) -> None:
        worker = self.require_lease(operation)
        for run_ids in _chunks(operation.run_ids):
            self._execute(
                statements.DISOWN_RUNS, myself=worker.worker_id, run_ids=run_ids
            )

    def _reap(self, operation: ReapWorkers) -> list[str]:
        dead = self._execute(
            statements.FIND_DEAD_WORKERS,
            myself="" if self.worker is None else self.worker.worker_id,
            now=self.clock.read(),
            presumed_dead=operation.presumed_dead,
        )
        worker_ids = [worker_id for (worker_id,) in dead]
        self._remove_workers(worker_ids)
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
        renewed = self._execute(
            statements.RENEW_LEASE,
            holder=self.worker.worker_id,
            held=self.worker.fence,
            until=self.clock.read() + LEASE_MICROSECONDS,
        )
        return bool(renewed.rowcount == 1)

    # --- parts ------------------------------------------------------------------------

    def _execute(self, statement: Any, **values: Any) -> Any:
        return self.session.connection.execute(statement, values)

    def _find(self, statement: Any, **values: Any) -> RunRecord | None:
        row = self._execute(statement, **values).first()
        return None if row is None else statements.to_run(row)

    def _find_target(self, operation: PutMessage | TerminateRun) -> RunRecord | None:
        key = {"namespace": operation.namespace, "workflow_id": operation.workflow_id}
        if operation.run_id is not None:
            return self._find(statements.FIND_RUN, **key, run_id=operation.run_id)
        return self._find(statements.FIND_OPEN_RUN, **key) or self._find(
            statements.FIND_NEWEST_RUN, **key
        )

    def _require_owned(self, run_id: str, worker: WorkerRecord) -> None:
        if not self.hot.find_owned([run_id], worker.worker_id):
            raise policies.not_owner(run_id)

    def _next_fence(self) -> int:
        self._execute(statements.COUNT_FENCE_UP)
        fence: int = self._execute(statements.READ_FENCE_COUNTER).scalar_one()
        return fence

    def _remove_workers(self, worker_ids: list[str]) -> None:
        if worker_ids:
            self._execute(statements.DISOWN_ALL_RUNS, owners=worker_ids)
            self._execute(statements.DELETE_WORKERS, worker_ids=worker_ids)

    def _terminate(self, run: RunRecord, data: str) -> None:
        end = self._execute(statements.FIND_HISTORY_END, run_id=run.run_id).one()
        event_id, task_number, latest = (value or 0 for value in end)
        # Times never fall along a run, even if the run's worker had a faster clock.
        now = max(self.clock.now(), latest)
        row: HistoryRow = (
            run.run_id,
            event_id + 1,
            task_number + 1,
            policies.TERMINATED_EVENT,
            now,
            data,
            0,
        )
        self.hot.append_history([([row], self._next_fence())])
        self._execute(statements.TERMINATE_RUN, terminated=run.run_id, ended_at=now)
        self._execute(statements.DELETE_MESSAGES, receiver=run.run_id)


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (
        ids[start : start + _IDS_PER_STATEMENT]
        for start in range(0, len(ids), _IDS_PER_STATEMENT)
    )


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
