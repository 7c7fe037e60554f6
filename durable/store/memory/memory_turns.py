"""Runs that wait for their turn, in `MemoryStore`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from durable.core.history.events import UNPROCESSED
from durable.store.deciding.queue_turns import Head, begin_turn, take_by_turns
from durable.store.deciding.run_turns import RESET, Beginning
from durable.store.memory.memory_tasks import MemoryTasks
from durable.store.queries import NextRunTurnAt
from durable.store.queues import HeldCount, RunTurn, TurnCount, TurnState
from durable.store.records import NEVER, OF_RUNS, ClaimRuns, MessageKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from durable.store.deciding.queue_turns import Turn
    from durable.store.records import (
        HistoryRow,
        MessageRecord,
        RunRecord,
        WorkerRecord,
    )

replace = msgspec.structs.replace
_ADMITTED = TurnState.ADMITTED
_WAITING = TurnState.WAITING


def _has_begun(rows: dict[int, HistoryRow]) -> bool:
    has_task = any(row[2] > UNPROCESSED for row in rows.values())
    return has_task and rows[max(rows)][3] != RESET


class MemoryTurns(MemoryTasks):
    """The part of `Tables`, and of what is read, that concerns such runs."""

    runs: dict[str, RunRecord]
    history: dict[str, dict[int, HistoryRow]]
    open_run_ids: dict[tuple[str, str], str]

    def __init__(self) -> None:
        """Begin without any."""
        super().__init__()
        self.turns: dict[str, RunTurn] = {}

    def messages_of(self, run_id: str) -> list[MessageRecord]:
        """Return the run's waiting messages, oldest first."""
        raise NotImplementedError

    def find_beginnings(self, run_ids: Sequence[str]) -> list[Beginning]:
        """See `Tables`."""
        found: list[Beginning] = []
        for run_id in run_ids:
            run, rows = self.runs[run_id], self.history.get(run_id, {})
            parent = self.runs.get(run.parent_run_id or "")
            turn = self.turns.get(run.first_run_id)
            found.append(
                Beginning(
                    *(run_id, run.first_run_id, run.workflow_id, run.workflow_type),
                    *(run.started_at, run.wake_at or 0),
                    _has_begun(rows),
                    rows[1][5] if 1 in rows else None,
                    None if parent is None else parent.task_queue,
                    *(
                        (None, None, None)
                        if turn is None
                        else (turn.state.value, turn.run_id, turn.task_queue)
                    ),
                )
            )
        return found

    def put_turns(self, turns: Sequence[RunTurn]) -> None:
        """See `Tables`."""
        self.turns.update((one.first_run_id, one) for one in turns)

    def hold_back(self, run_ids: Sequence[str]) -> None:
        """See `Tables`."""
        self._wake_at(run_ids, NEVER)

    def _wake_at(self, run_ids: Sequence[str], wake_at: int) -> None:
        for run_id in run_ids:
            self.runs[run_id] = replace(self.runs[run_id], wake_at=wake_at)

    def drop_turn(self, run_id: str) -> None:
        """See `Tables`."""
        for chain in [c for c, one in self.turns.items() if one.run_id == run_id]:
            del self.turns[chain]

    def _turns_of(
        self, namespace: str, task_queue: str, state: TurnState
    ) -> Iterator[RunTurn]:
        for one in list(self.turns.values()):
            place = (one.namespace, one.task_queue, one.state)
            if place == (namespace, task_queue, state):
                yield one

    def _has_open(self, turn: RunTurn) -> bool:
        run_id = self.open_run_ids.get((turn.namespace, turn.workflow_id))
        return run_id is not None and (
            self.runs[run_id].first_run_id == turn.first_run_id
        )

    def _waits(self, turn: RunTurn) -> bool:
        run = self.runs.get(turn.run_id)
        if run is None or not self._has_open(turn):
            return False
        return (run.owner, run.wake_at, run.stuck) == (None, NEVER, None)

    def end_turns(self, namespace: str, task_queue: str) -> None:
        """See `Tables`."""
        for state in TurnState:
            for one in self._turns_of(namespace, task_queue, state):
                if not self._has_open(one):
                    del self.turns[one.first_run_id]

    def count_turns(self, namespace: str, task_queue: str) -> list[HeldCount]:
        """See `Tables`."""
        found = self._turns_of(namespace, task_queue, _ADMITTED)
        return [HeldCount(one.fairness_key, None, 1) for one in found]

    def _ready(
        self, worker: WorkerRecord, asked: ClaimRuns | NextRunTurnAt
    ) -> list[RunTurn]:
        """What waits and a worker could take, longest waiting first."""
        found: list[RunTurn] = []
        for one in self._turns_of(worker.namespace, worker.task_queue, _WAITING):
            if self._waits(one):
                run = self.runs[one.run_id]
                kind = (run.workflow_type, run.version)
                is_served = run.version is None or kind in asked.versions
                if is_served and run.workflow_type in asked.workflow_types:
                    found.append(one)
        return sorted(found, key=lambda one: (one.due_at, one.run_id))

    def _is_cancelled(self, run_id: str) -> bool:
        kinds = [message.kind for message in self.messages_of(run_id)]
        return MessageKind.CANCEL.value in kinds

    def call_out(
        self, worker: WorkerRecord, claim: ClaimRuns, now: int
    ) -> dict[str, int]:
        """See `Tables`."""
        taken: dict[str, int] = {}
        for one in self._ready(worker, claim):
            is_late = one.expires_at is not None and one.expires_at <= now
            if len(taken) < claim.limit and (is_late or self._is_cancelled(one.run_id)):
                taken[one.run_id] = self.runs[one.run_id].epoch
                del self.turns[one.first_run_id]
        return taken

    def admit_in_turn(
        self, worker: WorkerRecord, claim: ClaimRuns, turn: Turn
    ) -> dict[str, int]:
        """See `Tables`."""
        admitted: dict[str, int] = {}

        def find(of: dict[str, Any], _: Sequence[str]) -> list[Head]:
            first: dict[str, Head] = {}
            for one in self._ready(worker, claim):
                key = one.fairness_key
                if one.priority == of["of_priority"] and turn.room_of(key) > 0:
                    head = Head(key, "", one.due_at, one.fairness_weight)
                    first.setdefault(key, head)
            return list(first.values())

        def take(of: dict[str, Any]) -> int:
            place = (of["of_priority"], of["key"])
            ready = self._ready(worker, claim)
            found = [o for o in ready if (o.priority, o.fairness_key) == place]
            for one in found[: of["page"]]:
                admitted[one.run_id] = self.runs[one.run_id].epoch
                self.turns[one.first_run_id] = replace(one, state=_ADMITTED)
            return len(found[: of["page"]])

        priorities = {one.priority for one in self._ready(worker, claim)}
        take_by_turns([(one, 0, "") for one in priorities], turn, find, take)
        return admitted

    def let_go(self, namespace: str, task_queue: str, due: int) -> None:
        """See `Tables`."""
        waiting = self._turns_of(namespace, task_queue, _WAITING)
        self._wake_at([one.run_id for one in waiting if self._waits(one)], due)
        for state in TurnState:
            for one in self._turns_of(namespace, task_queue, state):
                del self.turns[one.first_run_id]

    # --- reads ------------------------------------------------------------------------

    def next_turn_at(
        self, query: NextRunTurnAt, worker: WorkerRecord | None
    ) -> int | None:
        """See `NextRunTurnAt`."""
        if worker is None:
            return None
        namespace, queue = worker.namespace, worker.task_queue
        record, ready = self.lock_queue(namespace, queue + OF_RUNS), []
        if record is not None:
            ready = self._ready(worker, query)
        instants = [one.expires_at for one in ready if one.expires_at is not None]
        if any(self._is_cancelled(one.run_id) for one in ready):
            instants.append(0)
        if record is not None:
            admitted = self._turns_of(namespace, queue, _ADMITTED)
            held = [
                HeldCount(one.fairness_key, None, 1)
                for one in admitted
                if self._has_open(one)
            ]
            turn = begin_turn(record, held, worker.worker_id, 1, query.now)
            if turn.room or turn.next_at is not None:
                at, turn.room = turn.next_at or 0, 1
                has_any = any(turn.room_of(one.fairness_key) > 0 for one in ready)
                instants += [at] if has_any else []
        return min(instants, default=None)

    def count_all_turns(self, namespace: str) -> list[TurnCount]:
        """See `CountRunTurns`."""
        counts = Counter(
            (one.task_queue, one.state)
            for one in self.turns.values()
            if one.namespace == namespace and self._has_open(one)
        )
        return [TurnCount(*place, runs) for place, runs in sorted(counts.items())]

    def find_turn(self, run_id: str) -> RunTurn | None:
        """See `FindRunTurn`."""
        found = (one for one in self.turns.values() if one.run_id == run_id)
        return next(found, None)
