"""Where a history is cut for a run that goes on from there, and what it keeps: pure.

A workflow task is undone as a whole: what had come in by then is kept, and what the
code decided is decided anew. So a cut lies before the decisions of one task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from durable.core.folding.fold import fold
from durable.core.folding.run_state import PendingActivity, PendingChild, RunState
from durable.core.history.events import (
    ACTIVITY_OUTCOMES,
    CHILD_OUTCOMES,
    CLOSING,
    UNPROCESSED,
    ActivityTaskCompleted,
    ActivityTaskScheduled,
    CheckpointRecorded,
    ChildWorkflowExecutionStarted,
    ExternalWorkflowExecutionCancelRequested,
    ExternalWorkflowExecutionSignaled,
    HistoryEvent,
    StartChildWorkflowExecutionFailed,
    StartChildWorkflowExecutionInitiated,
    TimerFired,
    UpsertWorkflowSearchAttributes,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionFailed,
    WorkflowExecutionPaused,
    WorkflowExecutionReset,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
    WorkflowExecutionUnpaused,
    WorkflowExecutionUpdateAccepted,
    WorkflowPropertiesModified,
    WorkflowTaskStarted,
)
from durable.core.history.payload import Failure, Payload, changed
from durable.core.machines.marker import find_patch
from durable.errors import InvalidResetError
from durable.suggestions import ending_with_closest


class Before(msgspec.Struct, frozen=True):
    """The place before an activity or a child workflow was asked for; see `before`."""

    name: str
    occurrence: int = 1


Point: TypeAlias = int | Literal["first_task", "last_task"] | Before
"""Where a run goes on from: an event, the first or the last task, or before a step."""

Message: TypeAlias = WorkflowExecutionSignaled | WorkflowExecutionUpdateAccepted

# Of a child that could not start, and of a message that did not arrive, neither: both
# are asked for again.
_OF_CHILDREN: Final[frozenset[type[Any]]] = frozenset(
    {ChildWorkflowExecutionStarted, *CHILD_OUTCOMES}
) - {StartChildWorkflowExecutionFailed}
_REACHED: Final[frozenset[type[Any]]] = frozenset(
    {ExternalWorkflowExecutionSignaled, ExternalWorkflowExecutionCancelRequested}
)
# They mark where a task begins, or are void with what follows them. A timer that was
# due fires by itself.
_DROPPED: Final = frozenset(
    {
        TimerFired,
        WorkflowTaskStarted,
        WorkflowExecutionPaused,
        WorkflowExecutionUnpaused,
        WorkflowExecutionReset,
        *CLOSING,
    }
)


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """A history, cut.

    Attributes:
        kept: the events of whole workflow tasks, as they are.
        inputs: what the next workflow task takes, in order: what had come in by then,
            and what has become of children and messages to others that are kept.
        messages: what had come in as well, but has to be judged anew, and what came
            later and may be applied again; `came_before` of them belong to the former.
        undone: all that is not kept, in order.
        state: the state of the run with what is kept.
    """

    kept: list[HistoryEvent]
    inputs: list[HistoryEvent]
    messages: list[HistoryEvent]
    came_before: int
    undone: list[HistoryEvent]
    state: RunState

    @property
    def is_from_start(self) -> bool:
        """Whether none of the code's decisions is kept."""
        return not self.kept

    @property
    def activities(self) -> tuple[PendingActivity, ...]:
        """What is begun anew."""
        return self.state.pending_activities

    @property
    def children(self) -> tuple[PendingChild, ...]:
        """The children that the run goes on to wait for."""
        return self.state.pending_children

    def undone_steps(self) -> tuple[str, ...]:
        """The names of the activities and children that were asked for since."""
        names = map(_step_name, self.undone)
        return tuple(name for name in names if name is not None)

    def with_inputs(self, facts: Sequence[HistoryEvent]) -> Cut:
        """The same cut with further inputs."""
        inputs = [*self.inputs, *facts]
        state = fold([*self.kept, *_renumbered(inputs, len(self.kept))])
        return msgspec.structs.replace(self, inputs=inputs, state=state)


def cut_at(events: Sequence[HistoryEvent], point: Point) -> Cut:
    """Cut a whole history where a point says.

    Raises:
        InvalidResetError: there is no such place in it.
    """
    tasks = _tasks_of(events)
    if point == "first_task":
        return _cut(events, tasks, tasks[0], 1)
    if point == "last_task":
        return _cut(events, tasks, _last_task(events, tasks))
    if isinstance(point, Before):
        event_id = _find_step(events, point)
        return _cut(events, tasks, tasks[event_id - 1])
    if not 1 <= point <= len(events):
        raise InvalidResetError(
            f"There is no event {point}: the history has the events 1 to"
            f" {len(events)}.",
            hint="`durable history` prints them.",
        )
    last = point if events[point - 1].attributes.is_input else None
    return _cut(events, tasks, tasks[point - 1], last)


def cut_before_failure(events: Sequence[HistoryEvent]) -> Cut:
    """Cut the history of a run that has ended before what ended it.

    What has succeeded is kept: an activity that failed runs again, a child that failed
    is started again. What timed out, or was terminated, goes on where it was; what was
    cancelled, as if nobody had asked.

    Raises:
        InvalidResetError: it has not ended, or with a result.
    """
    tasks = _tasks_of(events)
    ending = events[-1].attributes
    if isinstance(ending, WorkflowExecutionTimedOut | WorkflowExecutionTerminated):
        return _cut(events, tasks, None, keeps_results=True)
    if isinstance(ending, WorkflowExecutionFailed):
        event = _find_culprit(events, ending.failure)
    else:
        event = _find_request(events) if type(ending) in CLOSING else None
        if event is None:
            raise InvalidResetError(
                "The run has not failed: it"
                f" {_said(ending) if type(ending) in CLOSING else 'is open'}.",
                hint="Choose where it is to go on: reset it to that.",
            )
    if event is None:  # the code itself has raised
        task = _last_task(events, tasks)
        return _cut(events, tasks, task, keeps_results=True)
    without = event.event_id if event.attributes.is_input else None
    task = tasks[event.event_id - 1]
    return _cut(events, tasks, task, without=without, keeps_results=True)


def _said(ending: object) -> str:
    name = type(ending).__name__.removeprefix("WorkflowExecution")
    return {
        "Completed": "has completed",
        "ContinuedAsNew": "goes on as the next run of its chain",
    }.get(name, f"ended ({name})")


# --- places ---------------------------------------------------------------------------


def _tasks_of(events: Sequence[HistoryEvent]) -> list[int | None]:
    """The task that each event belongs to, or that took it; None if none has."""
    if not events or not isinstance(events[0].attributes, WorkflowExecutionStarted):
        raise InvalidResetError("The run has no history that could be kept.")
    tasks: list[int | None] = []
    following: int | None = None
    for event in reversed(events):
        if event.task_number != UNPROCESSED:
            following = event.task_number
        tasks.append(following)
    tasks.reverse()
    return tasks


def _last_task(
    events: Sequence[HistoryEvent], tasks: Sequence[int | None]
) -> int | None:
    """The newest task in which code ran."""
    for event, task in zip(reversed(events), reversed(tasks), strict=True):
        what = event.attributes
        if task is not None and not (what.is_input and type(what) in CLOSING):
            return task
    return tasks[0]


def _step_name(event: HistoryEvent) -> str | None:
    what = event.attributes
    if isinstance(what, ActivityTaskScheduled):
        return what.activity_type
    if isinstance(what, StartChildWorkflowExecutionInitiated):
        return what.workflow_type
    return None


def _find_step(events: Sequence[HistoryEvent], point: Before) -> int:
    """The event that asked for an activity or a child workflow."""
    names = {event.event_id: name for event in events if (name := _step_name(event))}
    found = [event_id for event_id, name in names.items() if name == point.name]
    try:
        if point.occurrence == 0:
            raise IndexError
        number = point.occurrence
        return found[number - 1 if number > 0 else number]
    except IndexError:
        pass
    if found:
        raise InvalidResetError(
            f"The run has asked for {point.name!r} {len(found)} times, and call"
            f" {point.occurrence} was named.",
            hint=f"Give 1 to {len(found)}, or -1 for the last.",
        )
    raise InvalidResetError(
        f"The run has asked for no activity or child workflow {point.name!r}"
        f"{ending_with_closest(point.name, names.values())}"
    )


def _find_request(events: Sequence[HistoryEvent]) -> HistoryEvent | None:
    """The first request to stop."""
    asked = (
        event
        for event in events
        if isinstance(event.attributes, WorkflowExecutionCancelRequested)
    )
    return next(asked, None)


def _find_culprit(
    events: Sequence[HistoryEvent], failure: Failure
) -> HistoryEvent | None:
    """The outcome of the activity that a run failed of, or the request of the child."""
    for reason in _reasons(failure):
        for event in events:
            what: Any = event.attributes
            if (
                isinstance(what, StartChildWorkflowExecutionInitiated)
                and reason.kind == "child_workflow"
                and what.workflow_id == reason.workflow_id
            ):
                return event
            if (
                isinstance(what, ActivityTaskScheduled)
                and reason.kind == "activity"
                and what.activity_id == reason.activity_id
            ):
                return _find_outcome(events, event.event_id)
    return None


def _find_outcome(
    events: Sequence[HistoryEvent], scheduled_event_id: int
) -> HistoryEvent | None:
    for event in events:
        what = event.attributes
        if (
            isinstance(what, ACTIVITY_OUTCOMES)
            and what.scheduled_event_id == scheduled_event_id
        ):
            return event
    return None


def _reasons(failure: Failure) -> Iterator[Failure]:
    """A failure, what caused it, and what is in its groups."""
    yield failure
    for member in failure.group:
        yield from _reasons(member)
    if failure.cause is not None:
        yield from _reasons(failure.cause)


# --- the cut --------------------------------------------------------------------------


def _cut(
    events: Sequence[HistoryEvent],
    tasks: Sequence[int | None],
    task: int | None,
    last: int | None = None,
    *,
    without: int | None = None,
    keeps_results: bool = False,
) -> Cut:
    """Cut before the decisions of a task; None keeps all of them.

    Args:
        events: the whole history.
        tasks: the task of each of them.
        task: the first that is undone.
        last: of its inputs only those up to this event are kept; None for all.
        without: an input that is not kept either.
        keeps_results: what activities have returned later is kept, if it was asked for
            before.
    """
    place = tasks.index(task) if task in tasks else len(events)
    # A checkpoint is taken in the task before, and written with it.
    while place < len(events) and isinstance(
        events[place].attributes, CheckpointRecorded
    ):
        task, last = tasks[place - 1], None
        place = tasks.index(task)
    kept = list(events[:place])
    inputs: list[HistoryEvent] = []
    messages: list[HistoryEvent] = []
    undone: list[HistoryEvent] = []
    for event, its_task in zip(events[place:], tasks[place:], strict=True):
        what = event.attributes
        is_there = (
            what.is_input
            and its_task == task
            and type(what) not in _DROPPED
            and (last is None or event.event_id <= last)
            and event.event_id != without
        )
        if not is_there:
            undone.append(event)
        elif isinstance(what, WorkflowExecutionUpdateAccepted) or (
            messages and isinstance(what, WorkflowExecutionSignaled)
        ):
            messages.append(event)
        else:
            inputs.append(event)
    if place == len(events) and kept and type(kept[-1].attributes) in CLOSING:
        undone.append(kept.pop())
    came_before = len(messages)
    messages += [e for e in undone if isinstance(e.attributes, Message)]
    state = fold([*kept, *_renumbered(inputs, len(kept))])
    facts = _facts(undone, state, keeps_results=keeps_results)
    return Cut(
        kept=kept,
        inputs=inputs + facts,
        messages=messages,
        came_before=came_before,
        undone=[event for event in undone if event not in facts],
        state=fold([*kept, *_renumbered(inputs + facts, len(kept))]),
    )


def _facts(
    undone: Sequence[HistoryEvent], state: RunState, *, keeps_results: bool
) -> list[HistoryEvent]:
    """What is undone and yet has happened to what is kept."""
    activities = {one.scheduled_event_id for one in state.pending_activities}
    children = {one.initiated_event_id for one in state.pending_children}
    deliveries = {one.initiated_event_id for one in state.pending_deliveries}
    facts: list[HistoryEvent] = []
    for event in undone:
        what: Any = event.attributes
        kind: type[Any] = event.attributes.__class__
        if kind in _OF_CHILDREN:
            is_kept = what.initiated_event_id in children
        elif kind in _REACHED:
            is_kept = what.initiated_event_id in deliveries
        elif kind is ActivityTaskCompleted:
            is_kept = keeps_results and what.scheduled_event_id in activities
        else:
            is_kept = False
        if is_kept:
            facts.append(event)
    return facts


def _renumbered(inputs: Sequence[HistoryEvent], after: int) -> list[HistoryEvent]:
    """Inputs that no task has taken, behind an event."""
    return [
        msgspec.structs.replace(event, event_id=number, task_number=UNPROCESSED)
        for number, event in enumerate(inputs, after + 1)
    ]


# --- the history of the new run -------------------------------------------------------


def history_of(
    cut: Cut, started: WorkflowExecutionStarted, reset: WorkflowExecutionReset
) -> list[HistoryEvent]:
    """The events that a run begins with which goes on from a cut.

    Args:
        cut: what is kept.
        started: the run's first event, in the place of the other's.
        reset: what says that it goes on.
    """
    events = [*cut.kept, *_renumbered(cut.inputs, len(cut.kept))]
    events[0] = msgspec.structs.replace(events[0], attributes=started)
    latest = max(event.time for event in events)
    flags = events[-1].flags
    place = HistoryEvent(len(events) + 1, UNPROCESSED, latest, reset, flags)
    return [*events, msgspec.structs.replace(place, time=max(latest, reset.reset_at))]


def said_of(
    events: Sequence[HistoryEvent], started: WorkflowExecutionStarted
) -> tuple[dict[str, Payload], dict[str, Payload], set[str]]:
    """The attributes, the memo and the patches of a run after these events."""
    attributes, memo = started.attributes, started.memo
    patches: set[str] = set()
    for event in events:
        what = event.attributes
        if isinstance(what, UpsertWorkflowSearchAttributes):
            attributes = changed(attributes, what.attributes)
        elif isinstance(what, WorkflowPropertiesModified):
            memo = changed(memo, what.memo)
        elif (patch := find_patch(what)) is not None:
            patches.add(patch[0])
    return attributes, memo, patches
