"""A run's state from its history alone: a fold that runs no user code.

It is a second opinion on the replay machine: it shares none of its code, so that what
shows a run, what checks a database and what tests a worker do not repeat its mistakes.
A history that breaks a rule is folded all the same, and each breach is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final

from durable.core.folding.messages import Messages
from durable.core.folding.operations import Operations, Taker
from durable.core.folding.run_state import RunState, Status, Violations
from durable.core.history.events import (
    UNPROCESSED,
    ActivityTaskScheduled,
    CheckpointRecorded,
    HistoryEvent,
    StartChildWorkflowExecutionInitiated,
    TimerStarted,
    WorkflowExecutionCanceled,
    WorkflowExecutionCompleted,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionFailed,
    WorkflowExecutionPaused,
    WorkflowExecutionReset,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
    WorkflowExecutionUnpaused,
    WorkflowTaskStarted,
    next_run_id,
)

STATUS_OF: Final[dict[type[Any], Status]] = {
    WorkflowExecutionCompleted: "completed",
    WorkflowExecutionFailed: "failed",
    WorkflowExecutionCanceled: "cancelled",
    WorkflowExecutionTerminated: "terminated",
    WorkflowExecutionTimedOut: "timed_out",
    WorkflowExecutionContinuedAsNew: "continued_as_new",
}
"""The status that each terminal event leads to."""

# What a checkpoint counts besides signals. Code may ask for an operation and give it up
# within one turn, so that history holds fewer of them than were counted.
_COUNTED: Final[dict[str, type[Any]]] = {
    "activities": ActivityTaskScheduled,
    "timers": TimerStarted,
    "children": StartChildWorkflowExecutionInitiated,
}


def fold(events: Iterable[HistoryEvent]) -> RunState:
    """Fold a whole history, in the order given, into the state of its run.

    Never raises for what the events say: `violations` holds what is wrong.
    """
    folding = _Fold()
    for event in events:
        folding.take(event)
    return folding.state()


class _Fold:
    """The state while it is being folded."""

    def __init__(self) -> None:
        self._violations = Violations()
        self._blame = self._violations.blame
        self._operations = Operations(self._violations)
        self._messages = Messages(self._violations)
        self._takers: dict[type[Any], Taker] = {
            **self._operations.takers(),
            **self._messages.takers(),
            **dict.fromkeys(STATUS_OF, self._end),
            WorkflowExecutionStarted: self._start,
            WorkflowTaskStarted: self._begin_task,
            WorkflowExecutionReset: self._take_reset,
            WorkflowExecutionPaused: self._pause,
            WorkflowExecutionUnpaused: self._unpause,
            CheckpointRecorded: self._begin_anew,
        }
        self._counts: Counter[type[Any]] = Counter()
        self._started: WorkflowExecutionStarted | None = None
        self._first: HistoryEvent | None = None
        self._last: HistoryEvent | None = None
        self._terminal: HistoryEvent | None = None
        self._checkpoint: HistoryEvent | None = None
        self._checkpoint_counts: dict[str, int] = {}
        self._reset: WorkflowExecutionReset | None = None
        self._paused: WorkflowExecutionPaused | None = None
        self._task_count = 0
        self._unprocessed = 0
        self._is_overrun_reported = False

    # --- one event --------------------------------------------------------------------

    def take(self, event: HistoryEvent) -> None:
        kind = type(event.attributes)
        self._check_place(event)
        self._check_first(event, kind)
        # Before the event's own task is noted, to tell whether it begins that.
        if kind is CheckpointRecorded:
            self._check_checkpoint_task(event)
        self._check_task(event)
        self._counts[kind] += 1
        self._last = event
        if self._first is None:
            self._first = event
        self._takers[kind](event, event.attributes)

    def _check_place(self, event: HistoryEvent) -> None:
        """V1, V2 and V7 as far as they need no more than the event before."""
        last = self._last
        expected = 1 if last is None else last.event_id + 1
        if event.event_id != expected:
            self._blame("V1", event, f"stands where event {expected} must be")
        if last is not None and event.time < last.time:
            back = (last.time - event.time) / 1_000_000
            self._blame(
                "V7", event, f"is {back:g} s older than event {last.event_id} before it"
            )
        if self._terminal is not None and not self._is_overrun_reported:
            self._is_overrun_reported = True
            self._violations.note(
                "V2",
                event,
                f"event {event.event_id}, {type(event.attributes).__name__}, follows"
                f" the terminal event {self._terminal.event_id}",
            )

    def _check_first(self, event: HistoryEvent, kind: type[Any]) -> None:
        is_first = self._first is None
        if is_first == (kind is WorkflowExecutionStarted):
            return
        self._violations.note(
            "V2",
            event,
            f"the first event is {kind.__name__}, not WorkflowExecutionStarted"
            if is_first
            else f"event {event.event_id} starts the run a second time",
        )

    def _check_task(self, event: HistoryEvent) -> None:
        if event.task_number == UNPROCESSED:
            self._unprocessed += 1
            return
        self._unprocessed = 0
        if event.task_number < self._task_count:
            self._blame(
                "V1",
                event,
                f"belongs to workflow task {event.task_number}, after events of task"
                f" {self._task_count}",
            )
        self._task_count = max(self._task_count, event.task_number)

    # --- the run ----------------------------------------------------------------------

    def _start(self, event: HistoryEvent, started: WorkflowExecutionStarted) -> None:
        self._started = self._started or started

    def _begin_task(self, event: HistoryEvent, marker: WorkflowTaskStarted) -> None:
        """Take what `_check_task` has seen to."""

    def _take_reset(self, event: HistoryEvent, reset: WorkflowExecutionReset) -> None:
        self._reset = reset

    def _pause(self, event: HistoryEvent, paused: WorkflowExecutionPaused) -> None:
        self._paused = paused

    def _unpause(self, event: HistoryEvent, _: WorkflowExecutionUnpaused) -> None:
        self._paused = None

    def _end(self, event: HistoryEvent, ending: object) -> None:
        self._terminal = self._terminal or event
        if (
            isinstance(ending, WorkflowExecutionCanceled)
            and self._messages.cancel_requested_at is None
        ):
            self._blame("V9", event, "ends the run as cancelled, but nobody asked")

    # --- checkpoints ------------------------------------------------------------------

    def _check_checkpoint_task(self, event: HistoryEvent) -> None:
        """V19: replay looks for a checkpoint where a workflow task begins."""
        if event.task_number <= self._task_count or self._unprocessed:
            self._violations.note(
                "V19",
                event,
                f"the checkpoint {event.event_id} does not begin a workflow task",
            )

    def _begin_anew(self, event: HistoryEvent, checkpoint: CheckpointRecorded) -> None:
        for problem in self._problems_of(checkpoint):
            self._violations.note(
                "V19", event, f"the checkpoint {event.event_id} {problem}"
            )
        self._operations.give_up(event)
        self._messages.give_up()
        self._checkpoint = event
        self._checkpoint_counts = checkpoint.counts

    def _problems_of(self, checkpoint: CheckpointRecorded) -> Iterator[str]:
        left = [*self._operations.open(), *self._messages.open()]
        if left:
            yield f"leaves {', '.join(left)} open behind it"
        for name, kind in _COUNTED.items():
            count = checkpoint.counts.get(name, 0)
            least = max(self._counts[kind], self._checkpoint_counts.get(name, 0))
            if count < least:
                yield f"counts {count} {name} where there were {least}"
        yield from self._messages.problems_of(checkpoint)

    # --- the end ----------------------------------------------------------------------

    def state(self) -> RunState:
        if self._first is None:
            self._violations.note("V1", None, "the history is empty")
        operations, messages = self._operations, self._messages
        terminal: Any = None if self._terminal is None else self._terminal.attributes
        checkpoint = self._checkpoint
        return RunState(
            status="running" if terminal is None else STATUS_OF[type(terminal)],
            started=self._started,
            started_at=self._started_at(),
            reset=self._reset,
            paused=self._paused,
            closed_at=None if self._terminal is None else self._terminal.time,
            deadline_at=self._deadline(),
            # Each is a field of the terminal events that have such a thing.
            result=getattr(terminal, "result", None),
            failure=getattr(terminal, "failure", None),
            continued_as_run_id=next_run_id(terminal),
            cancel_requested_at=messages.cancel_requested_at,
            pending_activities=tuple(operations.activities.values()),
            pending_timers=tuple(operations.timers.values()),
            pending_children=tuple(operations.children.values()),
            pending_deliveries=tuple(operations.deliveries.values()),
            pending_updates=tuple(messages.updates.values()),
            signals=dict(messages.signals),
            dead_letters=tuple(messages.dead_letters),
            published=messages.published,
            checkpoint_event_id=None if checkpoint is None else checkpoint.event_id,
            unprocessed=self._unprocessed,
            task_count=self._task_count,
            event_count=self._counts.total(),
            counts={kind.__name__: count for kind, count in self._counts.items()},
            last_event=self._last,
            violations=tuple(self._violations.found),
        )

    def _started_at(self) -> int | None:
        if self._reset is not None:
            return self._reset.reset_at
        return None if self._first is None else self._first.time

    def _deadline(self) -> int | None:
        if self._started is None or self._first is None:
            return None
        begun_at = self._started.begins_at(self._started_at() or 0)
        limits = (self._started.run_timeout, self._started.execution_timeout)
        return min(
            (begun_at + limit for limit in limits if limit is not None),
            default=None,
        )
