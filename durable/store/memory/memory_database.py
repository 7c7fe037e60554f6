"""The tables of `MemoryStore`: plain dicts, and how they are looked at and written."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from durable import limits
from durable.store.deciding import policies
from durable.store.deciding import rows as bits
from durable.store.deciding.deleting import OpenParent, Tie
from durable.store.deciding.family import TERMINATE
from durable.store.deciding.rows import Name, Run, Seen
from durable.store.memory.memory_turns import MemoryTurns
from durable.store.records import (
    NEVER,
    RUNNING,
    AttemptRecord,
    MessageRecord,
    RunRecord,
    WorkerStatus,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from durable.store.deciding.rows import End, Rows
    from durable.store.deciding.wanted import Wanted
    from durable.store.records import (
        ClaimRuns,
        HistoryRow,
        NamespaceRecord,
        OutboxRecord,
        ReplyRecord,
        WorkerRecord,
    )
    from durable.store.steady_clock import SteadyClock

replace = msgspec.structs.replace


class MemoryDatabase(MemoryTurns):
    """Runs, histories, inboxes, attempts and workers of one in-process database.

    Implements `Tables`. Several stores may share one, from several threads: hold
    `lock` around every use.
    """

    def __init__(self, clock: SteadyClock) -> None:
        """Make an empty database that reads the time from `clock`."""
        super().__init__()
        self.lock = threading.RLock()
        self.clock = clock
        self.runs: dict[str, RunRecord] = {}
        self.run_ids_by_workflow: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.run_ids_by_request: dict[tuple[str, str], str] = {}
        self.open_run_ids: dict[tuple[str, str], str] = {}
        self.history: dict[str, dict[int, HistoryRow]] = defaultdict(dict)
        self.inbox: dict[int, MessageRecord] = {}
        self._waiting: dict[str, dict[str, int]] = defaultdict(dict)
        self.replies: dict[tuple[str, str], ReplyRecord] = {}
        self.attempts: dict[tuple[str, int, int], AttemptRecord] = {}
        self.kinds: dict[tuple[str, str], str] = {}
        self.namespaces: dict[str, NamespaceRecord] = {}
        self.outbox: dict[int, OutboxRecord] = {}
        self._latest_sequence = 0

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

    def _find_newest(self, run_ids: Iterable[str]) -> RunRecord | None:
        return max((self.runs[r] for r in run_ids), key=_age_key, default=None)

    def find_run(
        self, namespace: str, workflow_id: str, run_id: str | None
    ) -> RunRecord | None:
        """Return one run; without `run_id` the open or newest of that workflow id."""
        key = (namespace, workflow_id)
        if run_id is None:
            open_run_id = self.open_run_ids.get(key)
            if open_run_id is not None:
                return self.runs[open_run_id]
            return self._find_newest(self.run_ids_by_workflow.get(key, ()))
        run = self.runs.get(run_id)
        if run is None or (run.namespace, run.workflow_id) != key:
            return None
        return run

    # --- looking ----------------------------------------------------------------------

    def look(self, wanted: Wanted) -> Seen:
        """See `Tables`."""
        seen = Seen(
            has_worker=wanted.worker_id in self.workers,
            first_sequence=min(self.inbox, default=None),
            last_sequence=self._latest_sequence,
        )
        for run_id in itertools.chain(wanted.runs, wanted.requests.values()):
            self._see(seen, run_id)
        for name in wanted.names:
            run_ids = self.run_ids_by_workflow.get(name, ())
            newest = self._find_newest(run_ids)
            seen.names[name] = Name(
                self._see(seen, self.open_run_ids.get(name)),
                self._see(seen, None if newest is None else newest.run_id),
            )
        for request in wanted.requests:
            found = self.run_ids_by_request.get(request)
            seen.requests[request] = self._see(seen, found)
        if wanted.families or wanted.rare:
            self._look_further(seen, wanted)
        if self.inbox:
            self._look_for_mail(seen)
        return seen

    def _look_further(self, seen: Seen, wanted: Wanted) -> None:
        rare = wanted.rare
        seen.chains = chains = {}
        for chain in rare.get("chains", ()):
            *key, first_run_id = chain
            run_ids = self.run_ids_by_workflow.get((key[0], key[1]), ())
            newest = self._find_newest(
                r for r in run_ids if self.runs[r].first_run_id == first_run_id
            )
            found = None if newest is None else newest.run_id
            chains[chain] = self._see(seen, found)
        children: dict[str, list[Run]] = {}
        for run_id in wanted.families:
            self._look_for_family(seen, children, run_id, limits.CHILD_DEPTH_MAX)
        records = rare.get("records", ())
        ends = [run.run_id for family in children.values() for run in family]
        seen.children = children
        seen.ends = {r: self._end_of(r) for r in itertools.chain(ends, records)}
        seen.records = {run_id: self.runs[run_id] for run_id in records}
        seen.messages = {r: self.messages_of(r) for r in rare.get("messages", ())}
        firsts = {r: self.history[r].get(1) for r in rare.get("first_data", ())}
        seen.first_data = {r: None if e is None else e[5] for r, e in firsts.items()}
        if kinds := rare.get("kinds"):
            seen.kinds = {key: self.kinds.get(key) for key in kinds}
        if outbox := rare.get("outbox"):
            rows = {n: self.outbox.get(n) for n in outbox}
            seen.outbox = {n: None if r is None else r.tries for n, r in rows.items()}

    def _see(self, seen: Seen, run_id: str | None) -> Run | None:
        if run_id is None:
            return None
        if run_id not in seen.runs:
            record = self.runs.get(run_id)
            seen.runs[run_id] = None if record is None else self._to_run(record)
        return seen.runs[run_id]

    def _to_run(self, record: RunRecord) -> Run:
        return Run(
            record.run_id,
            record.namespace,
            record.workflow_id,
            record.first_run_id,
            record.status,
            record.closed_at,
            record.owner,
            record.started_at,
            record.parent_run_id,
            record.parent_close_policy,
            max(self.history.get(record.run_id, {}), default=0),
            record.wake_at,
            record.epoch,
        )

    def _end_of(self, run_id: str) -> End:
        rows = self.history.get(run_id)
        if not rows:
            return 0, 0, 0
        _, event_id, number, _, time, *_ = rows[max(rows)]
        if not number:  # of inputs that no task has taken
            number = max(row[2] for row in rows.values())
        return event_id, number, time

    def _look_for_mail(self, seen: Seen) -> None:
        seen.all_mail = seen.runs.keys()
        seen.mail = {
            run_id: {
                request_id: (sequence, self.inbox[sequence].kind)
                for request_id, sequence in self._waiting.get(run_id, {}).items()
            }
            for run_id in seen.runs
        }

    def _look_for_family(
        self,
        seen: Seen,
        children: dict[str, list[Run]],
        parent_run_id: str,
        depth: int,
    ) -> None:
        if parent_run_id in children:
            return
        family: list[Run] = []
        children[parent_run_id] = family
        for record in self.open_runs():
            if record.parent_run_id != parent_run_id:
                continue
            run = self._see(seen, record.run_id)
            assert run is not None  # noqa: S101 - its record is there
            family.append(run)
            if record.parent_close_policy == TERMINATE and depth:
                self._look_for_family(seen, children, run.run_id, depth - 1)

    # --- writing ----------------------------------------------------------------------

    def write(self, rows: Rows) -> None:
        """See `Tables`."""
        for run in rows.changed:
            self._update(run)
        for record in rows.created:
            key = (record.namespace, record.workflow_id)
            self.runs[record.run_id] = record
            self.run_ids_by_workflow[key].append(record.run_id)
            request = (record.namespace, record.request_id)
            self.run_ids_by_request[request] = record.run_id
            if record.status is RUNNING:
                self.open_run_ids[key] = record.run_id
        for row in rows.history:
            self.history[row[0]][row[1]] = row
        self.attempts.update(rows.attempts)
        self.kinds.update(rows.kinds)
        for reply_key, reply in rows.replies.items():
            if reply is None:
                self.replies.pop(reply_key, None)
            else:
                self.replies[reply_key] = reply
        self._write_mail(rows)
        for sequence in rows.delivered:
            del self.outbox[sequence]
        for sequence, how in rows.settled.items():
            self.outbox[sequence] = replace(
                self.outbox[sequence],
                due_at=how.due_at,
                tries=how.tries,
                failure=how.failure,
            )

    def _update(self, run: Run) -> None:
        record, changes = self.runs[run.run_id], run.changes
        fields: dict[str, Any] = {}
        if changes & bits.CLOSED:
            fields = {"status": run.status, "closed_at": run.closed_at, "owner": None}
            fields |= {"wake_at": None, "stuck": None}
            del self.open_run_ids[record.namespace, record.workflow_id]
        elif changes & bits.MOVED:
            fields = {"owner": run.owner, "wake_at": run.wake_at, "epoch": run.epoch}
            if changes & bits.PARKED:
                fields["stuck"] = run.stuck
        if run.state is not None:
            fields["state"] = run.state
        if run.checkpoint_event_id is not None:
            fields["checkpoint_event_id"] = run.checkpoint_event_id
        if run.properties is not None:
            fields["attributes"] = run.properties.attributes
            fields["memo"] = run.properties.memo
        self.runs[run.run_id] = replace(record, **fields)

    def _write_mail(self, rows: Rows) -> None:
        for run_id, sequence in rows.consumed:
            message = self.inbox.get(sequence)
            if message is not None and message.run_id == run_id:
                self._delete_message(message)
        for run_id, request_id in rows.consumed_requests:
            waiting = self._waiting[run_id].get(request_id)
            if waiting is not None:
                self._delete_message(self.inbox[waiting])
        for run_id in rows.emptied:
            for message in self.messages_of(run_id):
                self._delete_message(message)
        for message in rows.letters:
            self.inbox[message.sequence] = message
            self._waiting[message.run_id][message.request_id] = message.sequence
        if rows.last_sequence is not None:
            self._latest_sequence = rows.last_sequence

    def _delete_message(self, message: MessageRecord) -> None:
        del self.inbox[message.sequence]
        del self._waiting[message.run_id][message.request_id]

    def _change(self, run_id: str, **fields: Any) -> None:
        self.runs[run_id] = replace(self.runs[run_id], **fields)

    def _set_free(self, run_id: str, due: int) -> None:
        epoch = self.runs[run_id].epoch + 1
        self._change(run_id, owner=None, wake_at=due, epoch=epoch)

    def adopt(self, parents: dict[str, str]) -> None:
        """See `Tables`."""
        for run_id, parent_run_id in parents.items():
            self._change(run_id, parent_run_id=parent_run_id)

    # --- what is done by itself -------------------------------------------------------

    def put_namespace(self, record: NamespaceRecord, *, is_new: bool) -> bool:
        """See `Tables`."""
        known = self.namespaces.get(record.namespace)
        if is_new is (known is not None):
            return False
        if known is not None:
            record = replace(record, created_at=known.created_at)
        self.namespaces[record.namespace] = record
        return True

    def find_ties(self, run_ids: Sequence[str]) -> dict[str, Tie]:
        """See `Tables`."""
        found = [self.runs[run_id] for run_id in run_ids if run_id in self.runs]
        return {record.run_id: self._tie_of(record, run_ids) for record in found}

    def _tie_of(self, record: RunRecord, run_ids: Sequence[str]) -> Tie:
        key = (record.namespace, record.workflow_id)
        chain = (self.runs[run_id] for run_id in self.run_ids_by_workflow[key])
        before = record.continued_from_run_id
        parent = self.runs.get(record.parent_run_id or "")
        is_bound = parent is not None and parent.status is RUNNING
        return Tie(
            is_open=record.status is RUNNING,
            first_run_id=record.first_run_id,
            predecessor=before if before in self.runs else None,
            has_successors=any(
                other.first_run_id == record.run_id and other.run_id not in run_ids
                for other in chain
            ),
            has_open_child=any(
                run.parent_run_id == record.run_id for run in self.open_runs()
            ),
            parent=OpenParent(
                owner=parent.owner,
                wake_at=parent.wake_at,
                is_stuck=parent.stuck is not None,
                has_mail=bool(self._waiting.get(parent.run_id)),
            )
            if parent is not None and is_bound
            else None,
            has_reply=any(run_id == record.run_id for run_id, _ in self.replies),
        )

    def count_events(self, run_ids: Sequence[str]) -> dict[str, int]:
        """See `Tables`."""
        there = [run_id for run_id in run_ids if run_id in self.runs]
        return {run_id: len(self.history.get(run_id, ())) for run_id in there}

    def delete_runs(self, run_ids: Sequence[str]) -> None:
        """See `Tables`."""
        for run_id in run_ids:
            record = self.runs.pop(run_id)
            self.run_ids_by_workflow[record.namespace, record.workflow_id].remove(
                run_id
            )
            del self.run_ids_by_request[record.namespace, record.request_id]
            self.history.pop(run_id, None)
            for message in self.messages_of(run_id):
                self._delete_message(message)
        gone = frozenset(run_ids)
        for reply in [key for key in self.replies if key[0] in gone]:
            del self.replies[reply]
        for attempt in [key for key in self.attempts if key[0] in gone]:
            del self.attempts[attempt]
        self.delete_tasks(run_ids)

    def has_worker(self, worker_id: str) -> bool:
        """See `Tables`."""
        return worker_id in self.workers

    def insert_worker(self, worker: WorkerRecord) -> None:
        """See `Tables`."""
        self.workers[worker.worker_id] = worker

    def renew_worker(self, worker_id: str, until: int, places: str | None) -> bool:
        """See `Tables`."""
        worker = self.workers.get(worker_id)
        if worker is None:
            return False
        self.workers[worker_id] = replace(
            worker, lease_expires_at=until, places=places or worker.places
        )
        return True

    def drain_worker(self, worker_id: str) -> None:
        """See `Tables`."""
        row = self.workers[worker_id]
        self.workers[worker_id] = replace(row, status=WorkerStatus.DRAINING)

    def remove_workers(self, worker_ids: Sequence[str], due: int) -> None:
        """See `Tables`."""
        for worker_id in worker_ids:
            self.workers.pop(worker_id, None)
        self.disown_strays(due)

    def find_dead_workers(
        self, myself: str, now: int, presumed_dead: Sequence[str]
    ) -> list[str]:
        """See `Tables`."""
        return sorted(
            worker_id
            for worker_id, row in self.workers.items()
            if worker_id != myself
            and (row.lease_expires_at <= now or worker_id in presumed_dead)
        )

    def disown_strays(self, due: int) -> None:
        """See `Tables`."""
        for run in list(self.open_runs()):
            if run.owner is not None and run.owner not in self.workers:
                self._set_free(run.run_id, due)

    def delete_replies(self, before: int) -> None:
        """See `Tables`."""
        for key, reply in list(self.replies.items()):
            if reply.created_at < before:
                del self.replies[key]

    def at_rest(
        self,
        worker: WorkerRecord,
        workflow_types: Iterable[str],
        versions: Iterable[tuple[str, str]] | None,
    ) -> list[RunRecord]:
        """Return the open runs at rest that a worker could claim, due or not.

        Those that have a version only if that is among `versions`; None for all.
        """
        types = frozenset(workflow_types)
        served = None if versions is None else frozenset(versions)
        return [
            run
            for run in self.owned_runs(None)
            if run.namespace == worker.namespace
            and run.task_queue == worker.task_queue
            and run.workflow_type in types
            and (
                served is None
                or run.version is None
                or (run.workflow_type, run.version) in served
            )
        ]

    def find_claimable(
        self, worker: WorkerRecord, claim: ClaimRuns, now: int
    ) -> dict[str, int]:
        """See `Tables`."""
        free = self.at_rest(worker, claim.workflow_types, claim.versions)
        after = claim.stuck_after
        if after is None:
            due = [(r.wake_at or 0, r) for r in free if policies.is_due(r.wake_at, now)]
        else:
            due = [(0, r) for r in free if _is_tried(r) and r.run_id > after]
        due.sort(key=lambda found: (found[0], found[1].run_id))
        return {run.run_id: run.epoch for _, run in due[: max(claim.limit, 0)]}

    def own_runs(self, run_ids: Sequence[str], owner: str) -> None:
        """See `Tables`."""
        for run_id in run_ids:
            epoch = self.runs[run_id].epoch + 1
            self._change(run_id, owner=owner, epoch=epoch, stuck=None)

    def disown_runs(self, run_ids: Sequence[str], owner: str, due: int) -> None:
        """See `Tables`."""
        for run_id in run_ids:
            run = self.runs.get(run_id)
            if run is not None and run.owner == owner:
                self._set_free(run_id, due)

    def find_positions(self, run_id: str) -> tuple[int, ...] | None:
        """See `Tables`."""
        run = self.runs.get(run_id)
        if run is None or run.status is not RUNNING:
            return None
        return tuple(sorted(self.history.get(run_id, {})))

    def repair_run(
        self,
        run_id: str,
        keep: int,
        rows: Sequence[HistoryRow],
        due: int,
        version: str | None,
    ) -> None:
        """See `Tables`."""
        history = self.history[run_id]
        for event_id in [e for e in history if e > keep]:
            del history[event_id]
        self.delete_tasks([run_id], after=keep)
        history.update((row[1], row) for row in rows)
        self._set_free(run_id, due)
        self._change(run_id, stuck=None)
        if version is not None:
            self._change(run_id, version=version)


def _age_key(run: RunRecord) -> tuple[int, str]:
    return run.started_at, run.run_id


def _is_tried(run: RunRecord) -> bool:
    """Whether a run is parked, and not paused."""
    return run.stuck is not None and run.wake_at != NEVER
