"""Queues that somebody has configured: their rows, and the operations that change them.

What a queue allows is heeded where its tasks, or its runs, are claimed, see
docs/design/flow-control.md.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

import msgspec

from durable.store.records import TASK_PRIORITY, HistoryRow, Instant, Position


class QueueRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One task queue's row: what may run of it at once, and how fast it begins.

    None stands for no limit.

    Attributes:
        concurrency: how many of its activities run at once.
        worker_concurrency: likewise, on one worker.
        key_concurrency: likewise, of one fairness key.
        rate_count: so many begin within `rate_per` microseconds.
        rate_burst: so many of them may begin at one instant; None for all.
        paused_at: since when nothing of it begins; None if it is not paused.
        note: what people say of it.
        version: grows by one with each change of the above.
        rate_log: JSON of how many began when, as far as that counts still.
        rate_at: with a burst, the instant by which all would have begun that have, each
            as soon as the rate allows after the one before.
        last_key: whose turn it was last.
        key_credit: how many more may begin in that turn.
    """

    namespace: str
    name: str
    concurrency: Position | None = None
    worker_concurrency: Position | None = None
    key_concurrency: Position | None = None
    rate_count: Position | None = None
    rate_per: Instant | None = None
    rate_burst: Position | None = None
    paused_at: Instant | None = None
    note: str | None = None
    version: Position = 1
    rate_log: str | None = None
    rate_at: Instant = 0
    last_key: str = ""
    key_credit: Position = 0

    @property
    def has_slots(self) -> bool:
        """Whether what runs of it counts."""
        slots = (self.concurrency, self.worker_concurrency, self.key_concurrency)
        return any(most is not None for most in slots)


class HeldCount(NamedTuple):
    """How many tasks of a queue and a fairness key a worker has claimed."""

    fairness_key: str
    worker_id: str | None
    tasks: int


class TurnState(enum.StrEnum):
    """Where a run of a queue stands whose runs are limited."""

    WAITING = "waiting"
    ADMITTED = "admitted"
    """It has begun, and has a slot until its chain of runs has no open one."""


class RunTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A run's place in a queue whose runs are limited, or the slot of its chain.

    Attributes:
        run_id: the run that waits; later ones of its chain take its slot over.
        due_at: since when it waits; of one key who waits longer comes first.
        expires_at: from then on it is to be told that its time is up; or None.
    """

    first_run_id: str
    run_id: str
    namespace: str
    task_queue: str
    workflow_id: str
    due_at: Instant
    state: TurnState = TurnState.WAITING
    priority: Position = TASK_PRIORITY
    fairness_key: str = ""
    fairness_weight: Position = 1
    expires_at: Instant | None = None


class TurnCount(NamedTuple):
    """How many runs of a queue wait for their turn, or have a slot."""

    task_queue: str
    state: TurnState
    runs: int


class PutQueue(msgspec.Struct, frozen=True, kw_only=True):
    """Configure a queue; not fenced, anyone may. Result: whether it was done.

    Not if its row is not of that version. What claims have left in it stays, but for a
    rate whose time changes: it begins anew.
    """

    record: QueueRecord
    version: int | None
    """That of the row which is replaced; None for one that is new."""


class DeleteQueue(msgspec.Struct, frozen=True, kw_only=True):
    """Let a queue be as if nobody had configured it. Result: whether it was."""

    namespace: str
    name: str


class PutOffRun(msgspec.Struct, frozen=True, kw_only=True):
    """Let an open run begin otherwise, and at another time; not fenced, anyone may.

    Only if no task of it was committed: its history is its first event still, which
    `row` replaces. Whoever has begun it is refused. Result: whether it was done.
    """

    run_id: str
    row: HistoryRow
    due_at: Instant


QueueOperation: TypeAlias = PutQueue | DeleteQueue | PutOffRun
