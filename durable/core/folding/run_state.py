"""What a history says about its run, as plain data: what `folding.fold` returns.

Instants are in microseconds.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from durable.core.history.events import (
    HistoryEvent,
    WorkflowExecutionPaused,
    WorkflowExecutionReset,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure, Payload
from durable.core.machines.fact import DeadLetter

Status: TypeAlias = Literal[
    "running",
    "completed",
    "failed",
    "cancelled",
    "terminated",
    "timed_out",
    "continued_as_new",
]
"""The values of the store's `RunStatus`."""

Rule: TypeAlias = Literal["V1", "V2", "V4", "V7", "V9", "V19"]
"""What a history of its own can break.

V1: positions are 1 to n, task numbers never fall. V2: the first event and only it
starts the run, at most one ends it, nothing follows. V4: each outcome belongs to
exactly one operation that was open. V7: times never fall, timers never fire early.
V9: each message was recorded once, dead letters are signals that came, and a cancelled
run was asked to stop. V19: a checkpoint leaves nothing open behind and carries on what
came before it.
"""


class Violation(msgspec.Struct, frozen=True):
    """One breach of a rule, and the event that shows it."""

    rule: Rule
    event_id: int | None
    message: str


class Violations:
    """The breaches of one history, as they are found."""

    def __init__(self) -> None:
        self.found: list[Violation] = []

    def note(self, rule: Rule, event: HistoryEvent | None, message: str) -> None:
        event_id = None if event is None else event.event_id
        self.found.append(Violation(rule, event_id, message))

    def blame(self, rule: Rule, event: HistoryEvent, what: str) -> None:
        """Note what an event does wrong."""
        self.note(rule, event, f"event {event.event_id} {what}")


class PendingActivity(msgspec.Struct, frozen=True, kw_only=True):
    """An activity without an outcome."""

    scheduled_event_id: int
    activity_id: str
    activity_type: str
    scheduled_at: int
    is_cancel_requested: bool = False
    waits_in_doubt: bool = False


class PendingTimer(msgspec.Struct, frozen=True, kw_only=True):
    """A timer that has neither fired nor been dropped."""

    started_event_id: int
    timer_id: str
    due_at: int
    summary: str | None = None


class PendingChild(msgspec.Struct, frozen=True, kw_only=True):
    """A child workflow without an outcome; `run_id` is None until it has started."""

    initiated_event_id: int
    workflow_id: str
    workflow_type: str
    initiated_at: int
    parent_close_policy: str
    run_id: str | None = None
    is_cancel_requested: bool = False


class PendingDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """A message to another run that has neither arrived nor been refused.

    `signal_name` is None if it asks that run to stop.
    """

    initiated_event_id: int
    workflow_id: str
    sent_at: int
    run_id: str | None = None
    signal_name: str | None = None


class PendingUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted update without an answer."""

    accepted_event_id: int
    update_id: str
    update_name: str
    accepted_at: int


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """What a history says about its run.

    Attributes:
        status: where the run stands.
        started: the first event's attributes, if it is the one it must be.
        started_at: the first event's time, or when it was reset last; likewise
            `closed_at`, of the terminal event.
        reset: its newest reset.
        paused: what holds it up, if it is paused.
        deadline_at: when the run's own timeout passes.
        result: the result, if the run has completed.
        failure: why it failed, or was cancelled, if that was recorded.
        continued_as_run_id: the next run of its chain, if it continued as new.
        cancel_requested_at: when it was first asked to stop.
        signals: how many signals of each name it has had.
        dead_letters: the signals that its code could not read.
        published: what it has shown of itself last.
        checkpoint_event_id: its newest checkpoint.
        unprocessed: how many inputs at the end no workflow task has taken yet.
        task_count: the number of its newest workflow task.
        counts: how many events there are of each type.
        violations: the rules that the history breaks, in order of events.
    """

    status: Status
    started: WorkflowExecutionStarted | None
    started_at: int | None
    reset: WorkflowExecutionReset | None
    paused: WorkflowExecutionPaused | None
    closed_at: int | None
    deadline_at: int | None
    result: Payload | None
    failure: Failure | None
    continued_as_run_id: str | None
    cancel_requested_at: int | None
    pending_activities: tuple[PendingActivity, ...]
    pending_timers: tuple[PendingTimer, ...]
    pending_children: tuple[PendingChild, ...]
    pending_deliveries: tuple[PendingDelivery, ...]
    pending_updates: tuple[PendingUpdate, ...]
    signals: dict[str, int]
    dead_letters: tuple[DeadLetter, ...]
    published: Payload | None
    checkpoint_event_id: int | None
    unprocessed: int
    task_count: int
    event_count: int
    counts: dict[str, int]
    last_event: HistoryEvent | None
    violations: tuple[Violation, ...]

    @property
    def is_closed(self) -> bool:
        """Whether the run has ended."""
        return self.status != "running"

    def next_due_at(self) -> int | None:
        """When the earliest of its timers and its deadline is due, while it runs."""
        if self.is_closed:
            return None
        due = [timer.due_at for timer in self.pending_timers]
        if self.deadline_at is not None:
            due.append(self.deadline_at)
        return min(due, default=None)
