"""The tables of `MemoryStore`: plain dicts, and the operations upon them.

Each operation checks everything before it changes anything, which is all that
atomicity takes without a disk.
"""

from __future__ import annotations

import heapq
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from durable.store import policies
from durable.store.lease import LEASE_MICROSECONDS, RegisterWorker, ReleaseWorker
from durable.store.records import (
    AttemptRecord,
    Claimed,
    ClaimRuns,
    CommitTask,
    HistoryRow,
    MailArrived,
    MessageRecord,
    Operation,
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
    WorkerRecord,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from durable.store.steady_clock import SteadyClock

replace = msgspec.structs.replace


class MemoryDatabase:
    """Runs, histories, inboxes, attempts and workers of one in-process database.

    Several stores may share one, from several threads: hold `lock` around every use.
    """

    def __init__(self, clock: SteadyClock) -> None:
        """Make an empty database that reads the time from `clock`."""
        self.lock = threading.RLock()
        self.clock = clock
        self.runs: dict[str, RunRecord] = {}
        self.run_ids_by_workflow: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.run_ids_by_request: dict[tuple[str, str], str] = {}
        self.open_run_ids: dict[tuple[str, str], str] = {}
        self.history: dict[str, dict[int, HistoryRow]] = defaultdict(dict)
        self.fences: dict[tuple[str, int], int] = {}
        self.inbox: dict[int, MessageRecord] = {}
        self.attempts: dict[tuple[str, int, int], AttemptRecord] = {}
        self.workers: dict[str, WorkerRecord] = {}
        self._latest_fence = 0
        self._latest_sequence = 0

    def next_fence(self) -> int:
        """Return a fencing number above all earlier ones."""
        self._latest_fence += 1
        return self._latest_fence

    def open_runs(self) -> Iterator[RunRecord]:
        """Yield the records of all open runs."""
        return (self.runs[run_id] for run_id in self.open_run_ids.values())

    def owned_runs(self, owner: str | None) -> Iterator[RunRecord]:
        """Yield the open runs of one worker, or of none."""
        return (run for run in self.open_runs() if run.owner == owner)

    def messages_of(self, run_id: str) -> list[MessageRecord]:
        """Return the run's waiting messages, oldest first."""
        return [m for m in self.inbox.values() if m.run_id == run_id]

    def find_newest(self, namespace: str, workflow_id: str) -> RunRecord | None:
        """Return the newest run of a workflow id."""
        run_ids = self.run_ids_by_workflow.get((namespace, workflow_id), ())
        return max((self.runs[r] for r in run_ids), key=_age_key, default=None)

    def find_open(self, namespace: str, workflow_id: str) -> RunRecord | None:
        """Return the open run of a workflow id."""
        run_id = self.open_run_ids.get((namespace, workflow_id))
        return None if run_id is None else self.runs[run_id]

    def find_run(
        self, namespace: str, workflow_id: str, run_id: str | None
    ) -> RunRecord | None:
        """Return one run; without `run_id` the newest of that workflow id."""
        if run_id is None:
            return self.find_newest(namespace, workflow_id)
        run = self.runs.get(run_id)
        if run is None or (run.namespace, run.workflow_id) != (namespace, workflow_id):
            return None
        return run

    # --- operations, each for the worker that holds the lease -------------------------

    def apply(
        self, operation: Operation | ReleaseWorker, worker: WorkerRecord | None
    ) -> Any:
        """Apply an operation as `worker`, whose lease is known to stand.

        Raises:
            DurableError: the operation was refused, and nothing changed.
        """
        match operation:
            case StartRun():
                return self._start(operation, worker)
            case CommitTask():
                return self._commit(operation, _required(worker))
            case RecordAttempts():
                self._require_owned(operation.run_id, _required(worker))
                self._put_attempts(operation.attempts)
                self._change(
                    operation.run_id,
                    is_active=operation.is_active,
                    wake_at=operation.wake_at,
                )
            case ParkRun():
                self._require_owned(operation.run_id, _required(worker))
                self._change(
                    operation.run_id,
                    stuck=operation.stuck,
                    is_active=False,
                    wake_at=None,
                )
            case PutMessage():
                return self._put_message(operation)
            case TerminateRun():
                target = self._find_target(operation)
                doomed = policies.get_open_target(operation, target)
                self._terminate(doomed, operation.data)
                return doomed.run_id
            case ClaimRuns():
                return self._claim(operation, _required(worker))
            case ReleaseRuns():
                owner = _required(worker).worker_id
                for run_id in operation.run_ids:
                    run = self.runs.get(run_id)
                    if run is not None and run.owner == owner:
                        self._change(run_id, owner=None)
            case ReapWorkers():
                return self._reap(operation, worker)
            case ReleaseWorker():
                self._remove_worker(_required(worker).worker_id)
        return None

    def register(self, operation: RegisterWorker) -> WorkerRecord:
        """Give a worker its row, its lease and its fencing number."""
        worker_id = operation.worker.worker_id
        if worker_id in self.workers:
            raise policies.worker_taken(worker_id)
        registered = replace(
            operation.worker,
            fence=self.next_fence(),
            lease_expires_at=self.clock.read() + LEASE_MICROSECONDS,
        )
        self.workers[worker_id] = registered
        return registered

    def renew(self, worker: WorkerRecord) -> None:
        """Move the end of a standing lease."""
        self.workers[worker.worker_id] = replace(
            self.workers[worker.worker_id],
            lease_expires_at=self.clock.read() + LEASE_MICROSECONDS,
        )

    def _start(self, operation: StartRun, worker: WorkerRecord | None) -> Started:
        record = operation.record
        key = (record.namespace, record.workflow_id)
        same = self.run_ids_by_request.get((record.namespace, record.request_id))
        open_run = self.find_open(*key)
        answer = policies.find_start_answer(
            operation,
            same_request=None if same is None else self.runs[same],
            open_run=open_run,
            newest=self.find_newest(*key),
        )
        if answer is not None:
            return answer
        self._require_free(record.run_id, operation.rows, is_new=True)
        if open_run is not None:
            self._terminate(open_run, operation.terminated_data)
        fence = 0 if record.owner is None else _required(worker).fence
        self.runs[record.run_id] = record
        self.run_ids_by_workflow[key].append(record.run_id)
        self.run_ids_by_request[record.namespace, record.request_id] = record.run_id
        if record.status is RunStatus.RUNNING:
            self.open_run_ids[key] = record.run_id
        self._append(operation.rows, fence)
        return Started(
            run_id=record.run_id,
            created=True,
            terminated_run_id=None if open_run is None else open_run.run_id,
        )

    def _commit(self, operation: CommitTask, worker: WorkerRecord) -> object:
        run_id = operation.run_id
        self._require_owned(run_id, worker)
        if operation.status is not None:
            unseen = [
                message
                for message in self.messages_of(run_id)
                if message.sequence not in operation.consumed
            ]
            if unseen:
                return MailArrived(messages=unseen)
        self._require_free(run_id, operation.rows)
        self._append(operation.rows, worker.fence)
        self._put_attempts(operation.attempts)
        for sequence in operation.consumed:
            message = self.inbox.get(sequence)
            if message is not None and message.run_id == run_id:
                del self.inbox[sequence]
        if operation.status is not None:
            self._close(self.runs[run_id], operation.status, operation.closed_at)
        elif operation.update_run:
            self._change(
                run_id,
                is_active=operation.is_active,
                wake_at=operation.wake_at,
                stuck=None,
            )
        return None

    def _put_message(self, operation: PutMessage) -> str:
        run = policies.get_open_target(operation, self._find_target(operation))
        for message in self.messages_of(run.run_id):
            if message.request_id == operation.request_id:
                return run.run_id
        self._latest_sequence += 1
        self.inbox[self._latest_sequence] = MessageRecord(
            run_id=run.run_id,
            kind=operation.kind,
            request_id=operation.request_id,
            data=operation.data,
            created_at=self.clock.now(),
            sequence=self._latest_sequence,
        )
        return run.run_id

    def _claim(self, operation: ClaimRuns, worker: WorkerRecord) -> Claimed:
        now = self.clock.now()
        free = heapq.nsmallest(
            operation.limit,
            self.claimable(operation.workflow_types, worker),
            key=_claim_key,
        )
        if not free:
            return Claimed(ready=[], count=0)
        self.workers[worker.worker_id] = replace(
            self.workers[worker.worker_id], fence=self.next_fence()
        )
        mailed = {message.run_id for message in self.inbox.values()}
        for run in free:
            self._change(
                run.run_id,
                owner=worker.worker_id,
                is_active=run.is_active or run.stuck is not None,
                stuck=None,
            )
        ready = [
            run.run_id
            for run in free
            if run.is_active
            or run.stuck is not None
            or (run.wake_at is not None and run.wake_at <= now)
            or run.run_id in mailed
        ]
        return Claimed(ready=ready, count=len(free))

    def claimable(
        self, workflow_types: Iterable[str], worker: WorkerRecord
    ) -> list[RunRecord]:
        """Return the ownerless open runs that a worker could claim."""
        types = frozenset(workflow_types)
        return [
            run
            for run in self.owned_runs(None)
            if run.namespace == worker.namespace
            and run.task_queue == worker.task_queue
            and run.workflow_type in types
        ]

    def _reap(self, operation: ReapWorkers, worker: WorkerRecord | None) -> list[str]:
        now = self.clock.read()
        dead = sorted(
            row.worker_id
            for row in self.workers.values()
            if (worker is None or row.worker_id != worker.worker_id)
            and (
                row.lease_expires_at <= now or row.worker_id in operation.presumed_dead
            )
        )
        for worker_id in dead:
            self._remove_worker(worker_id)
        return dead

    def _remove_worker(self, worker_id: str) -> None:
        self.workers.pop(worker_id, None)
        for run in list(self.owned_runs(worker_id)):
            self._change(run.run_id, owner=None)

    # --- parts ------------------------------------------------------------------------

    def _find_target(self, operation: PutMessage | TerminateRun) -> RunRecord | None:
        key = (operation.namespace, operation.workflow_id)
        if operation.run_id is not None:
            return self.find_run(*key, operation.run_id)
        return self.find_open(*key) or self.find_newest(*key)

    def _require_owned(self, run_id: str, worker: WorkerRecord) -> None:
        run = self.runs.get(run_id)
        if run is None or run.owner != worker.worker_id:
            raise policies.not_owner(run_id)

    def _require_free(
        self, run_id: str, rows: list[HistoryRow], *, is_new: bool = False
    ) -> None:
        if is_new and run_id in self.runs:
            raise policies.run_id_taken(run_id)
        taken = self.history.get(run_id, {})
        event_ids = [row[1] for row in rows]
        if len(set(event_ids)) < len(event_ids) or any(e in taken for e in event_ids):
            raise policies.position_taken(run_id)

    def _append(self, rows: list[HistoryRow], fence: int) -> None:
        for row in rows:
            self.history[row[0]][row[1]] = row
            self.fences[row[0], row[1]] = fence

    def _put_attempts(self, attempts: Iterable[AttemptRecord]) -> None:
        for attempt in attempts:
            key = (attempt.run_id, attempt.scheduled_event_id, attempt.attempt)
            self.attempts[key] = attempt

    def _change(self, run_id: str, **fields: Any) -> None:
        self.runs[run_id] = replace(self.runs[run_id], **fields)

    def _close(self, run: RunRecord, status: RunStatus, closed_at: int | None) -> None:
        self._change(
            run.run_id,
            status=status,
            closed_at=self.clock.now() if closed_at is None else closed_at,
            owner=None,
            is_active=False,
            wake_at=None,
            stuck=None,
        )
        del self.open_run_ids[run.namespace, run.workflow_id]

    def _terminate(self, run: RunRecord, data: str) -> None:
        rows = self.history[run.run_id].values()
        latest = max((row[4] for row in rows), default=0)
        # Times never fall along a run, even if the run's worker had a faster clock.
        now = max(self.clock.now(), latest)
        row: HistoryRow = (
            run.run_id,
            max((row[1] for row in rows), default=0) + 1,
            max((row[2] for row in rows), default=0) + 1,
            policies.TERMINATED_EVENT,
            now,
            data,
            0,
        )
        self._append([row], self.next_fence())
        self._close(run, RunStatus.TERMINATED, now)
        for message in self.messages_of(run.run_id):
            del self.inbox[message.sequence]


def _required(worker: WorkerRecord | None) -> WorkerRecord:
    if worker is None:
        raise policies.lease_lost(None)
    return worker


def _age_key(run: RunRecord) -> tuple[int, str]:
    return run.started_at, run.run_id


def _claim_key(run: RunRecord) -> tuple[bool, bool, int, str]:
    return not run.is_active, run.wake_at is None, run.wake_at or 0, run.run_id
