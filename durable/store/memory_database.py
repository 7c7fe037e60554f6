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

from durable import limits
from durable.errors import DurableError
from durable.store import family, policies
from durable.store.lease import LEASE_MICROSECONDS, RegisterWorker, ReleaseWorker
from durable.store.records import (
    AttemptRecord,
    Claimed,
    ClaimRuns,
    CommitTask,
    Committed,
    DropReplies,
    FoundRun,
    HistoryRow,
    MailArrived,
    MessageRecord,
    Operation,
    ParkRun,
    PutMessage,
    ReapWorkers,
    RecordAttempts,
    ReleaseRuns,
    RepairRun,
    ReplyRecord,
    RunRecord,
    RunStatus,
    Started,
    StartRun,
    Terminated,
    TerminateRun,
    WorkerRecord,
)
from durable.store.submission import is_fenced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from durable.store.family import Letter
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
        self._waiting: dict[str, dict[str, int]] = defaultdict(dict)
        self.replies: dict[tuple[str, str], ReplyRecord] = {}
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
        sequences = self._waiting.get(run_id, {}).values()
        return [self.inbox[sequence] for sequence in sorted(sequences)]

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
        """Return one run; without `run_id` the open or newest of that workflow id."""
        if run_id is None:
            found = self.find_open(namespace, workflow_id)
            return found or self.find_newest(namespace, workflow_id)
        run = self.runs.get(run_id)
        if run is None or (run.namespace, run.workflow_id) != (namespace, workflow_id):
            return None
        return run

    # --- operations, each for the worker that holds the lease -------------------------

    def apply(
        self,
        operation: Operation | ReleaseWorker,
        worker: WorkerRecord | None,
        admit: Callable[[object], None],
    ) -> Any:
        """Apply an operation as `worker`.

        Args:
            operation: the operation; if it is fenced, the lease is known to stand.
            worker: the worker of the store that it comes from.
            admit: raises if a fenced operation within this one may not be applied.

        Raises:
            DurableError: the operation was refused, and nothing changed.
        """
        match operation:
            case StartRun():
                return self._start(operation, worker, admit)
            case CommitTask():
                return self._commit(operation, _required(worker), admit)
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
                committed = self._terminate(doomed, operation.data)
                return Terminated(run_id=doomed.run_id, committed=committed)
            case RepairRun():
                return self._repair(operation)
            case DropReplies():
                for key in operation.keys:
                    self.replies.pop(key, None)
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

    def _start(
        self,
        operation: StartRun,
        worker: WorkerRecord | None,
        admit: Callable[[object], None],
    ) -> Started:
        record = operation.record
        policies.check_beginning(operation)
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
            if operation.wants_found:
                answer = self._show(answer)
            return self._remind(operation, answer)
        guardian = policies.guardian_of(operation)
        if guardian is not None:
            policies.get_open_target(guardian, self._find_target(guardian))
        self._require_free(record.run_id, operation.rows, is_new=True)
        committed = Committed()
        if open_run is not None:
            committed = self._terminate(open_run, operation.terminated_data)
        fence = 0 if record.owner is None else _required(worker).fence
        self.runs[record.run_id] = record
        self.run_ids_by_workflow[key].append(record.run_id)
        self.run_ids_by_request[record.namespace, record.request_id] = record.run_id
        if record.status is RunStatus.RUNNING:
            self.open_run_ids[key] = record.run_id
        self._append(operation.rows, fence)
        committed = replace(
            committed,
            deliveries=self._put_each(operation.messages),
            started=self._start_each(operation.starts, worker, admit),
        )
        return Started(
            run_id=record.run_id,
            created=True,
            terminated_run_id=None if open_run is None else open_run.run_id,
            committed=committed if committed != Committed() else None,
        )

    def _show(self, answer: Started) -> Started:
        existing = self.runs[answer.run_id]
        first = self.history[existing.first_run_id].get(1)
        return replace(
            answer, found=FoundRun(existing, None if first is None else first[5])
        )

    def _remind(self, operation: StartRun, answer: Started) -> Started:
        message = operation.message_if_open
        run_id = answer.run_id
        if message is None or self.runs[run_id].status is not RunStatus.RUNNING:
            return answer
        self._put_if_room(run_id, message)
        return replace(answer, committed=Committed(deliveries=(run_id,)))

    def _start_each(
        self,
        starts: Iterable[StartRun],
        worker: WorkerRecord | None,
        admit: Callable[[object], None],
    ) -> tuple[Started | DurableError, ...]:
        outcomes: list[Started | DurableError] = []
        for start in starts:
            try:
                if is_fenced(start):
                    admit(start)
                outcomes.append(self._start(start, worker, admit))
            except DurableError as error:
                outcomes.append(error)
        return tuple(outcomes)

    def _commit(
        self,
        operation: CommitTask,
        worker: WorkerRecord,
        admit: Callable[[object], None],
    ) -> MailArrived | Committed | None:
        run_id = operation.run_id
        self._require_owned(run_id, worker)
        follows = policies.find_predecessor(operation.rows)
        if follows and follows not in self.history.get(run_id, {}):
            raise policies.position_missing(run_id)
        if policies.must_see_mail(operation):
            unseen = policies.find_unseen(operation, self.messages_of(run_id))
            if unseen:
                return MailArrived(messages=unseen)
        self._require_free(run_id, operation.rows)
        self._append(operation.rows, worker.fence)
        self._put_attempts(operation.attempts)
        for reply in operation.replies:
            self.replies[reply.run_id, reply.request_id] = reply
        if operation.state is not None:
            self._change(run_id, state=operation.state)
        if operation.checkpoint_event_id is not None:
            self._change(run_id, checkpoint_event_id=operation.checkpoint_event_id)
        if operation.status is not None:
            self._close(self.runs[run_id], operation.status, operation.closed_at)
        else:
            self._consume(operation)
            if operation.update_run:
                self._change(
                    run_id,
                    is_active=operation.is_active,
                    wake_at=operation.wake_at,
                    stuck=None,
                )
        if not policies.has_committed(operation):
            return None
        committed = Committed(deliveries=self._put_each(operation.messages))
        if policies.parts_from_children(operation):
            ended, cancelled = self._part_from_children(run_id)
            committed = replace(committed, ended=ended, cancelled=cancelled)
        started = self._start_each(operation.starts, worker, admit)
        return replace(committed, started=started)

    def _consume(self, operation: CommitTask) -> None:
        sequences = frozenset(operation.consumed)
        requests = frozenset(operation.consumed_requests)
        for message in self.messages_of(operation.run_id):
            if message.sequence in sequences or message.request_id in requests:
                self._delete_message(message)

    def _put_message(self, operation: PutMessage) -> str:
        run = policies.get_open_target(operation, self._find_target(operation))
        self._put_if_room(run.run_id, operation)
        return run.run_id

    def _put_if_room(self, run_id: str, message: PutMessage) -> None:
        waiting = self._waiting[run_id]
        if (
            len(waiting) >= limits.INBOX_MESSAGES_MAX
            and message.request_id not in waiting
            and policies.is_bounded(message)
        ):
            raise policies.inbox_full(message)
        self._put((run_id, message.request_id, message.kind, message.data))

    def _put_each(
        self, messages: Iterable[PutMessage]
    ) -> tuple[str | DurableError, ...]:
        deliveries: list[str | DurableError] = []
        for message in messages:
            try:
                deliveries.append(self._put_message(message))
            except DurableError as error:
                deliveries.append(error)
        return tuple(deliveries)

    def _put(self, letter: Letter) -> None:
        run_id, request_id, kind, data = letter
        if request_id in self._waiting[run_id]:
            return
        self._latest_sequence += 1
        self._waiting[run_id][request_id] = self._latest_sequence
        self.inbox[self._latest_sequence] = MessageRecord(
            run_id=run_id,
            kind=kind,
            request_id=request_id,
            data=data,
            created_at=self.clock.now(),
            sequence=self._latest_sequence,
        )

    def _delete_message(self, message: MessageRecord) -> None:
        del self.inbox[message.sequence]
        del self._waiting[message.run_id][message.request_id]

    def _repair(self, operation: RepairRun) -> bool:
        rows = self.history.get(operation.run_id, {})
        if (
            not self._is_open(operation.run_id)
            or tuple(sorted(rows)) != operation.expected
        ):
            return False
        for event_id in operation.expected:
            if event_id > operation.keep:
                del rows[event_id]
        if operation.rows:
            self._append(operation.rows, self.next_fence())
        self._change(
            operation.run_id, owner=None, is_active=True, wake_at=None, stuck=None
        )
        return True

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
        oldest = self.clock.now() - policies.REPLY_MICROSECONDS_MAX
        for key, reply in list(self.replies.items()):
            if reply.created_at < oldest:
                del self.replies[key]
        return dead

    def _remove_worker(self, worker_id: str) -> None:
        self.workers.pop(worker_id, None)
        for run in list(self.owned_runs(worker_id)):
            self._change(run.run_id, owner=None)

    # --- parts ------------------------------------------------------------------------

    def _find_target(self, operation: PutMessage | TerminateRun) -> RunRecord | None:
        key = (operation.namespace, operation.workflow_id)
        open_run = self.find_open(*key)
        if open_run is not None and policies.is_addressed(operation, open_run):
            return open_run
        run_ids = self.run_ids_by_workflow.get(key, ())
        addressed = (
            self.runs[run_id]
            for run_id in run_ids
            if policies.is_addressed(operation, self.runs[run_id])
        )
        return max(addressed, key=_age_key, default=None)

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
        for message in self.messages_of(run.run_id):
            self._delete_message(message)

    def _terminate(self, run: RunRecord, data: str) -> Committed:
        """Close an open run; tell its parent, and part it from its children."""
        self._end([run], data)
        notified: tuple[str, ...] = ()
        letter = family.tell_parent(run)
        if letter is not None and self._is_open(letter[0]):
            self._put(letter)
            notified = (letter[0],)
        ended, cancelled = self._part_from_children(run.run_id)
        return Committed(ended=ended, cancelled=cancelled, notified=notified)

    def _is_open(self, run_id: str) -> bool:
        run = self.runs.get(run_id)
        return run is not None and run.status is RunStatus.RUNNING

    def _part_from_children(
        self, run_id: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        ended: list[str] = []
        cancelled: list[str] = []
        parents = [run_id]
        for _ in range(limits.CHILD_DEPTH_MAX):
            children = sorted(
                (run for run in self.open_runs() if run.parent_run_id in parents),
                key=_age_key,
            )
            for child in children:
                if child.parent_close_policy == family.REQUEST_CANCEL:
                    parent = child.parent_run_id or ""
                    self._put(family.ask_to_stop(child.run_id, parent))
                    cancelled.append(child.run_id)
            doomed = [
                child
                for child in children
                if child.parent_close_policy == family.TERMINATE
            ]
            if not doomed:
                break
            self._end(doomed, family.TERMINATED_BY_POLICY)
            parents = [child.run_id for child in doomed]
            ended += parents
        return tuple(ended), tuple(cancelled)

    def _end(self, runs: list[RunRecord], data: str) -> None:
        fence = self.next_fence()
        for run in runs:
            rows = self.history[run.run_id]
            latest = max(rows, default=0)
            task_number, time = (rows[latest][2], rows[latest][4]) if rows else (0, 0)
            # Times never fall along a run, even if the run's worker had a faster clock.
            now = max(self.clock.now(), time)
            row: HistoryRow = (
                run.run_id,
                latest + 1,
                task_number + 1,
                policies.TERMINATED_EVENT,
                now,
                data,
                0,
            )
            self._append([row], fence)
            self._close(run, RunStatus.TERMINATED, now)


def _required(worker: WorkerRecord | None) -> WorkerRecord:
    if worker is None:
        raise policies.lease_lost(None)
    return worker


def _age_key(run: RunRecord) -> tuple[int, str]:
    return run.started_at, run.run_id


def _claim_key(run: RunRecord) -> tuple[bool, bool, int, str]:
    return not run.is_active, run.wake_at is None, run.wake_at or 0, run.run_id
