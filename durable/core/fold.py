"""A run's state from its history alone: a fold that runs no user code.

It is a second opinion on the replay machine: it shares none of its code, so that what
shows a run, what checks a database and what tests a worker do not repeat its mistakes.
A history that breaks a rule is folded all the same, and each breach is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec

from durable.core.events import (
    UNPROCESSED,
    ActivityTaskCanceled,
    ActivityTaskCancelRequested,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskScheduled,
    ActivityTaskTimedOut,
    HistoryEvent,
    TimerCanceled,
    TimerFired,
    TimerStarted,
    WorkflowExecutionCanceled,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from durable.core.payload import Failure, Payload

Status: TypeAlias = Literal[
    "running", "completed", "failed", "cancelled", "terminated", "timed_out"
]
"""The values of the store's `RunStatus` that a history can lead to."""

Rule: TypeAlias = Literal["V1", "V2", "V4", "V7", "V9"]
"""What a history of its own can break.

V1: positions are 1 to n, task numbers never fall. V2: the first event and only it
starts the run, at most one ends it, nothing follows. V4: each outcome belongs to
exactly one operation that was open. V7: times never fall, timers never fire early.
V9: a cancelled run was asked to stop, and each request was recorded once.
"""

STATUS_OF: Final[dict[type, Status]] = {
    WorkflowExecutionCompleted: "completed",
    WorkflowExecutionFailed: "failed",
    WorkflowExecutionCanceled: "cancelled",
    WorkflowExecutionTerminated: "terminated",
    WorkflowExecutionTimedOut: "timed_out",
}
"""The status that each terminal event leads to."""

_ActivityOutcome: TypeAlias = (
    ActivityTaskCompleted
    | ActivityTaskFailed
    | ActivityTaskTimedOut
    | ActivityTaskCanceled
)
_TimerOutcome: TypeAlias = TimerFired | TimerCanceled


class Violation(msgspec.Struct, frozen=True):
    """One breach of a rule, and the event that shows it."""

    rule: Rule
    event_id: int | None
    message: str


class PendingActivity(msgspec.Struct, frozen=True, kw_only=True):
    """An activity without an outcome; instants in microseconds."""

    scheduled_event_id: int
    activity_id: str
    activity_type: str
    scheduled_at: int
    is_cancel_requested: bool = False


class PendingTimer(msgspec.Struct, frozen=True, kw_only=True):
    """A timer that has neither fired nor been dropped; instants in microseconds."""

    started_event_id: int
    timer_id: str
    due_at: int
    summary: str | None = None


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """What a history says about its run.

    Attributes:
        status: where the run stands.
        started: the first event's attributes, if it is the one it must be.
        started_at: the first event's time; likewise `closed_at`, of the terminal one.
        deadline_at: when the run's own timeout passes.
        result: the result, if the run has completed.
        failure: why it failed, or was cancelled, if that was recorded.
        cancel_requested_at: when it was first asked to stop.
        unprocessed: how many inputs at the end no workflow task has taken yet.
        task_count: the number of its newest workflow task.
        counts: how many events there are of each type.
        violations: the rules that the history breaks, in order of events.
    """

    status: Status
    started: WorkflowExecutionStarted | None
    started_at: int | None
    closed_at: int | None
    deadline_at: int | None
    result: Payload | None
    failure: Failure | None
    cancel_requested_at: int | None
    pending_activities: tuple[PendingActivity, ...]
    pending_timers: tuple[PendingTimer, ...]
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


def fold(events: Iterable[HistoryEvent]) -> RunState:
    """Fold a history, in the order given, into the state of its run.

    Never raises for what the events say: `violations` holds what is wrong.
    """
    folding = _Fold()
    for event in events:
        folding.take(event)
    return folding.state()


class _Fold:
    """The state while it is being folded."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.activities: dict[int, PendingActivity] = {}
        self.timers: dict[int, PendingTimer] = {}
        # What has an outcome already, by the event that began it.
        self.closed: set[int] = set()
        self.open_activity_ids: set[str] = set()
        self.open_timer_ids: set[str] = set()
        self.request_ids: set[str] = set()
        self.started: WorkflowExecutionStarted | None = None
        self.first: HistoryEvent | None = None
        self.last: HistoryEvent | None = None
        self.terminal: HistoryEvent | None = None
        self.cancel_requested_at: int | None = None
        self.task_count = 0
        self.unprocessed = 0
        self.is_overrun_reported = False

    def violate(self, rule: Rule, event: HistoryEvent | None, message: str) -> None:
        event_id = None if event is None else event.event_id
        self.violations.append(Violation(rule, event_id, message))

    # --- one event --------------------------------------------------------------------

    def take(self, event: HistoryEvent) -> None:
        self._check_place(event)
        self._check_task(event)
        self.counts[type(event.attributes).__name__] += 1
        self.last = event
        if self.first is None:
            self.first = event
        self._apply(event)

    def _check_place(self, event: HistoryEvent) -> None:
        """V1, V2 and V7 as far as they need no more than the event before."""
        last = self.last
        expected = 1 if last is None else last.event_id + 1
        if event.event_id != expected:
            self.violate(
                "V1",
                event,
                f"event {event.event_id} stands where event {expected} must be",
            )
        if last is not None and event.time < last.time:
            back = (last.time - event.time) / 1_000_000
            self.violate(
                "V7",
                event,
                f"event {event.event_id} is {back:g} s older than event"
                f" {last.event_id} before it",
            )
        if self.terminal is not None and not self.is_overrun_reported:
            self.is_overrun_reported = True
            self.violate(
                "V2",
                event,
                f"event {event.event_id}, {type(event.attributes).__name__}, follows"
                f" the terminal event {self.terminal.event_id}",
            )

    def _check_task(self, event: HistoryEvent) -> None:
        if event.task_number == UNPROCESSED:
            self.unprocessed += 1
            return
        self.unprocessed = 0
        if event.task_number < self.task_count:
            self.violate(
                "V1",
                event,
                f"event {event.event_id} belongs to workflow task {event.task_number},"
                f" after events of task {self.task_count}",
            )
        self.task_count = max(self.task_count, event.task_number)

    def _apply(self, event: HistoryEvent) -> None:
        attributes = event.attributes
        is_first = event is self.first
        if is_first != isinstance(attributes, WorkflowExecutionStarted):
            name = type(attributes).__name__
            self.violate(
                "V2",
                event,
                f"the first event is {name}, not WorkflowExecutionStarted"
                if is_first
                else f"event {event.event_id} starts the run a second time",
            )
        match attributes:
            case WorkflowExecutionStarted():
                self.started = self.started or attributes
            case WorkflowExecutionCancelRequested():
                self._request_cancel(event, attributes)
            case ActivityTaskScheduled():
                self._schedule(event, attributes)
            case ActivityTaskCancelRequested():
                self._cancel_activity(event, attributes)
            case TimerStarted():
                self._start_timer(event, attributes)
            case TimerFired() | TimerCanceled():
                self._close_timer(event, attributes)
            case (
                ActivityTaskCompleted()
                | ActivityTaskFailed()
                | ActivityTaskTimedOut()
                | ActivityTaskCanceled()
            ):
                self._close_activity(event, attributes)
            case _:
                if type(attributes) in STATUS_OF:
                    self._end(event)

    # --- the run ----------------------------------------------------------------------

    def _request_cancel(
        self, event: HistoryEvent, request: WorkflowExecutionCancelRequested
    ) -> None:
        if self.cancel_requested_at is None:
            self.cancel_requested_at = event.time
        if request.request_id and request.request_id in self.request_ids:
            self.violate(
                "V9",
                event,
                f"event {event.event_id} records the cancel request"
                f" {request.request_id!r} a second time",
            )
        self.request_ids.add(request.request_id)

    def _end(self, event: HistoryEvent) -> None:
        self.terminal = self.terminal or event
        if (
            isinstance(event.attributes, WorkflowExecutionCanceled)
            and self.cancel_requested_at is None
        ):
            self.violate(
                "V9",
                event,
                f"event {event.event_id} ends the run as cancelled, but nobody asked",
            )

    # --- activities -------------------------------------------------------------------

    def _schedule(self, event: HistoryEvent, scheduled: ActivityTaskScheduled) -> None:
        if scheduled.activity_id in self.open_activity_ids:
            self.violate(
                "V4",
                event,
                f"event {event.event_id} schedules activity {scheduled.activity_id!r},"
                " which is open already",
            )
        self.open_activity_ids.add(scheduled.activity_id)
        self.activities[event.event_id] = PendingActivity(
            scheduled_event_id=event.event_id,
            activity_id=scheduled.activity_id,
            activity_type=scheduled.activity_type,
            scheduled_at=event.time,
        )

    def _cancel_activity(
        self, event: HistoryEvent, request: ActivityTaskCancelRequested
    ) -> None:
        activity = self.activities.get(request.scheduled_event_id)
        if activity is None:
            self._violate_outcome(event, "activity", request.scheduled_event_id)
            return
        self.activities[request.scheduled_event_id] = msgspec.structs.replace(
            activity, is_cancel_requested=True
        )

    def _close_activity(self, event: HistoryEvent, outcome: _ActivityOutcome) -> None:
        activity = self.activities.pop(outcome.scheduled_event_id, None)
        if activity is None:
            self._violate_outcome(event, "activity", outcome.scheduled_event_id)
            return
        self.closed.add(outcome.scheduled_event_id)
        self.open_activity_ids.discard(activity.activity_id)

    # --- timers -----------------------------------------------------------------------

    def _start_timer(self, event: HistoryEvent, started: TimerStarted) -> None:
        if started.timer_id in self.open_timer_ids:
            self.violate(
                "V4",
                event,
                f"event {event.event_id} starts timer {started.timer_id!r}, which is"
                " open already",
            )
        self.open_timer_ids.add(started.timer_id)
        self.timers[event.event_id] = PendingTimer(
            started_event_id=event.event_id,
            timer_id=started.timer_id,
            due_at=event.time + started.start_to_fire_timeout,
            summary=started.summary,
        )

    def _close_timer(self, event: HistoryEvent, outcome: _TimerOutcome) -> None:
        timer = self.timers.pop(outcome.started_event_id, None)
        if timer is None:
            self._violate_outcome(event, "timer", outcome.started_event_id)
            return
        self.closed.add(outcome.started_event_id)
        self.open_timer_ids.discard(timer.timer_id)
        if outcome.timer_id != timer.timer_id:
            self.violate(
                "V4",
                event,
                f"event {event.event_id} is about timer {outcome.timer_id!r}, but event"
                f" {outcome.started_event_id} started timer {timer.timer_id!r}",
            )
        if isinstance(outcome, TimerFired) and event.time < timer.due_at:
            early = (timer.due_at - event.time) / 1_000_000
            self.violate(
                "V7", event, f"event {event.event_id} fires {early:g} s before its time"
            )

    def _violate_outcome(self, event: HistoryEvent, what: str, begun_by: int) -> None:
        is_closed = begun_by in self.closed
        why = "has its outcome already" if is_closed else f"began no {what}"
        name = type(event.attributes).__name__
        self.violate(
            "V4",
            event,
            f"event {event.event_id}, {name}, names event {begun_by}, which {why}",
        )

    # --- the end ----------------------------------------------------------------------

    def state(self) -> RunState:
        if self.first is None:
            self.violate("V1", None, "the history is empty")
        terminal = None if self.terminal is None else self.terminal.attributes
        failure = None
        if isinstance(terminal, WorkflowExecutionFailed | WorkflowExecutionCanceled):
            failure = terminal.failure
        return RunState(
            status="running" if terminal is None else STATUS_OF[type(terminal)],
            started=self.started,
            started_at=None if self.first is None else self.first.time,
            closed_at=None if self.terminal is None else self.terminal.time,
            deadline_at=self._deadline(),
            result=(
                terminal.result
                if isinstance(terminal, WorkflowExecutionCompleted)
                else None
            ),
            failure=failure,
            cancel_requested_at=self.cancel_requested_at,
            pending_activities=tuple(self.activities.values()),
            pending_timers=tuple(self.timers.values()),
            unprocessed=self.unprocessed,
            task_count=self.task_count,
            event_count=self.counts.total(),
            counts=dict(self.counts),
            last_event=self.last,
            violations=tuple(self.violations),
        )

    def _deadline(self) -> int | None:
        if self.started is None or self.first is None:
            return None
        limits = (self.started.run_timeout, self.started.execution_timeout)
        return min(
            (self.first.time + limit for limit in limits if limit is not None),
            default=None,
        )
