"""Which runs of a queue begin, if the queue says how many may: pure.

A run that has not begun waits as a row beside it, and at `NEVER`, so that it costs
nothing. Its slot is the same row, for as long as its chain has an open run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from durable.core.history.events import WorkflowExecutionReset
from durable.core.history.ids import OWN_TYPES
from durable.store.queues import RunTurn, TurnState
from durable.store.records import TASK_PRIORITY, due_since

if TYPE_CHECKING:
    from durable.store.records import WorkerRecord

RESET: Final = WorkflowExecutionReset.__name__
"""The last event of a run that is to go on from what another has done."""
_ADMITTED: Final = TurnState.ADMITTED
_WAITING: Final = TurnState.WAITING


class Beginning(NamedTuple):
    """A run that is due, as far as it tells whether it has begun.

    Attributes:
        first_data: JSON of its first event.
        has_begun: a task of it was committed; of what it has kept of another run, as
            one that was reset, retried or forked, that is none of its own.
        parent_queue: the task queue of its parent; None without one.
        turn_state: of its chain's row; likewise `turn_run_id` and `turn_queue`.
    """

    run_id: str
    first_run_id: str
    workflow_id: str
    workflow_type: str
    started_at: int
    wake_at: int
    has_begun: bool
    first_data: str | None
    parent_queue: str | None
    turn_state: str | None
    turn_run_id: str | None
    turn_queue: str | None


class _Said(msgspec.Struct):
    """What a run's first event says of how it waits."""

    start_delay: int = 0
    run_timeout: int | None = None
    execution_timeout: int | None = None
    priority: int = TASK_PRIORITY
    fairness_key: str = ""
    fairness_weight: int = 1


_decoder: Final = msgspec.json.Decoder(_Said)


def line_up(
    worker: WorkerRecord, due: Iterable[Beginning]
) -> tuple[list[RunTurn], list[str]]:
    """Say which rows runs of a worker's queue get, and which runs must wait.

    What has begun goes on, and has a slot from now on.
    """
    new: list[RunTurn] = []
    held_back: list[str] = []
    for one in due:
        is_of_parent = one.parent_queue == worker.task_queue
        if is_of_parent or one.workflow_type.startswith(OWN_TYPES):
            continue  # it has its parent's slot, or is not counted
        has_row = one.turn_state is not None and one.turn_queue == worker.task_queue
        if has_row and one.turn_state == _ADMITTED:
            continue
        if not one.has_begun:
            held_back.append(one.run_id)
        if one.has_begun or not has_row or one.turn_run_id != one.run_id:
            new.append(_turn_of(worker, one))
    return new, held_back


def _turn_of(worker: WorkerRecord, one: Beginning) -> RunTurn:
    try:
        said = _decoder.decode(one.first_data or "{}")
    except msgspec.DecodeError:
        said = _Said()  # whoever takes the run tells
    timeouts = [said.run_timeout, said.execution_timeout]
    begins_at = one.started_at + said.start_delay
    ends = [begins_at + timeout for timeout in timeouts if timeout is not None]
    return RunTurn(
        first_run_id=one.first_run_id,
        run_id=one.run_id,
        namespace=worker.namespace,
        task_queue=worker.task_queue,
        workflow_id=one.workflow_id,
        due_at=max(0, due_since(one.wake_at)),
        state=_ADMITTED if one.has_begun else _WAITING,
        priority=said.priority,
        fairness_key=said.fairness_key,
        fairness_weight=said.fairness_weight,
        expires_at=min(ends, default=None),
    )
