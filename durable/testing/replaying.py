"""Replays recorded histories with today's code: the test to run before a deploy.

`replay` says whether the code still does what a history holds. `replay_at_every_prefix`
says more: wherever the run could have been interrupted, a fresh process would have gone
on with exactly the commands that were recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from durable.api.endings import check_ending
from durable.api.interceptors.chains import Interceptors
from durable.api.interceptors.interceptor import Interceptor
from durable.api.registry import REGISTRY, Registry
from durable.core.folding.fold import fold
from durable.core.folding.run_state import RunState
from durable.core.history import flags
from durable.core.history.events import (
    TERMINAL_EVENTS,
    UNPROCESSED,
    Attributes,
    CheckpointRecorded,
    HistoryEvent,
    TimerFired,
    WorkflowExecutionCompleted,
    WorkflowExecutionStarted,
    WorkflowExecutionUpdateAccepted,
    WorkflowTaskStarted,
)
from durable.core.replay.catching_up import catch_up, since_checkpoint
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import (
    TaskInput,
    UpdateRequest,
    WorkflowTask,
    WorkflowTaskCompletion,
)
from durable.errors import CorruptHistoryError, NondeterminismError
from durable.testing.comparing import first_difference
from durable.testing.histories import load_history
from durable.worker.guards.guards import install_guards

History = Iterable[HistoryEvent] | str | bytes | Path
"""Events, the JSON text of `dump_history`, or the path of a file that holds it."""


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A history that today's code agrees with.

    Attributes:
        result: the run's decoded result if it completed, else None.
        terminal: the event that ended it, or None if it was open.
        task_count: its workflow tasks.
        pending_activities: types of the activities without an outcome, in order.
        next_timer_at: when the next timer is due, microseconds since 1970.
    """

    workflow_type: str
    workflow_id: str
    run_id: str
    event_count: int
    task_count: int
    result: Any
    terminal: Attributes | None
    pending_activities: tuple[str, ...]
    next_timer_at: int | None


def rebuild_state(history: History) -> RunState:
    """Tell what a history says of its run; none of the run's code is needed or run.

    Cut a history off, and it tells how the run stood then.

    Args:
        history: what was recorded.

    Raises:
        CorruptHistoryError: it is no history. What merely breaks a rule is told by
            `violations`.
    """
    return fold(read_history(history))


def replay(
    history: History,
    definitions: Iterable[object] | None = None,
    *,
    interceptors: Iterable[Interceptor] = (),
) -> Replayed:
    """Replay a history with today's code.

    Args:
        history: what was recorded.
        definitions: the workflows that may be asked for, or modules that hold them;
            everything that was decorated by default.
        interceptors: those of the engine; needed if what they do is compared, such as
            arguments that they change.

    Raises:
        NondeterminismError: the code asks for something else than was recorded, or
            ends with another result or failure.
        CorruptHistoryError: it is no history.
        NotRegisteredError: its workflow is not known.
        Exception: whatever bug of the code would park the run.
    """
    events = read_history(history)
    registry = _registry(definitions, interceptors)
    install_guards()
    with catch_up(registry.code_of, events) as (replayer, problem):
        if problem is not None:
            error: BaseException = problem.error
            raise error
        check_ending(registry, _started(events), events[-1], replayer.closing)
        return _describe(events, replayer, registry)


def replay_at_every_prefix(
    history: History,
    definitions: Iterable[object] | None = None,
    *,
    interceptors: Iterable[Interceptor] = (),
) -> Replayed:
    """Cut a history before each of its workflow tasks, replay, and drive on.

    Driven with the inputs that the next task really had, the code must issue the very
    commands that were recorded, byte for byte (but for source lines and tracebacks, and
    for the order of a set).
    After a checkpoint, so must code that knows no more than what that carries on.

    Returns and raises as `replay`.
    """
    events = read_history(history)
    started = _started(events)
    registry = _registry(definitions, interceptors)
    for before, after in _cuts(events):
        for known in _readings(before):
            _drive_on(registry, started.workflow_type, known, after)
    return replay(events, definitions, interceptors=interceptors)


def _drive_on(
    registry: Registry,
    workflow_type: str,
    known: list[HistoryEvent],
    after: list[HistoryEvent],
) -> None:
    """Replay what is known, give the code what came then, compare what it does."""
    now = after[0].time
    install_guards()
    replayer = Replayer(registry.code_of)
    replayer.flags = after[0].flags  # of a run that may have begun long ago
    try:
        if known:
            _process(replayer, WorkflowTask(now, (), known, is_replay_only=True))
        completion = _process(replayer, WorkflowTask(now, _inputs(after)))
        if flags.drives_alike(after[0].flags):  # else live code rightly differs
            _compare(registry, workflow_type, completion, after)
    finally:
        replayer.tear_down()


def read_history(history: History) -> list[HistoryEvent]:
    """Read a history from events, JSON text or a file.

    Raises:
        CorruptHistoryError: it is no history, or an empty one.
    """
    if isinstance(history, Path):
        history = history.read_bytes()
    if isinstance(history, str | bytes):
        history = load_history(history)
    events = list(history)
    if not events:
        raise CorruptHistoryError("The history is empty.")
    return events


def _registry(
    definitions: Iterable[object] | None, interceptors: Iterable[Interceptor]
) -> Registry:
    known = REGISTRY if definitions is None else REGISTRY.limited_to(definitions)
    return known.within(Interceptors(interceptors))


def _process(replayer: Replayer, task: WorkflowTask) -> WorkflowTaskCompletion:
    completion = replayer.process(task)
    if completion.failure is not None:
        error: BaseException = completion.failure.error
        raise error
    return completion


def _started(events: Sequence[HistoryEvent]) -> WorkflowExecutionStarted:
    started = events[0].attributes
    if not isinstance(started, WorkflowExecutionStarted):
        raise CorruptHistoryError(
            "A history must begin with WorkflowExecutionStarted, not"
            f" {type(started).__name__}."
        )
    return started


def _describe(
    events: Sequence[HistoryEvent], replayer: Replayer, registry: Registry
) -> Replayed:
    started, last = _started(events), events[-1].attributes
    result = None
    if isinstance(last, WorkflowExecutionCompleted):
        signature = registry.get_workflow(started.workflow_type).call_signature
        result = signature.decode_result(last.result)
    is_closed = isinstance(last, TERMINAL_EVENTS)
    return Replayed(
        workflow_type=started.workflow_type,
        workflow_id=started.workflow_id,
        run_id=started.run_id,
        event_count=len(events),
        task_count=replayer.task_count,
        result=result,
        terminal=last if is_closed else None,
        pending_activities=()
        if is_closed
        else tuple(
            machine.target.activity_type for machine in replayer.pending_activities()
        ),
        next_timer_at=None if is_closed else replayer.next_timer_at(),
    )


# --- cuts -----------------------------------------------------------------------------


def _cuts(
    events: list[HistoryEvent],
) -> Iterable[tuple[list[HistoryEvent], list[HistoryEvent]]]:
    """Every way to cut between what was there before a task and what it recorded.

    Inputs that were recorded before any task took them belong to the part before. A
    task that takes a checkpoint goes on with the next one at once: they are one part.
    """
    first = 0
    while first < len(events):
        last = _end_of_task(events, first)
        while last < len(events) and _is_checkpoint(events[last]):
            last = _end_of_task(events, last)
        if events[first].task_number != UNPROCESSED:
            yield events[:first], events[first:last]
        first = last


def _end_of_task(events: list[HistoryEvent], first: int) -> int:
    number = events[first].task_number
    last = first
    while last < len(events) and events[last].task_number == number:
        last += 1
    return last


def _is_checkpoint(event: HistoryEvent) -> bool:
    return isinstance(event.attributes, CheckpointRecorded)


def _readings(events: list[HistoryEvent]) -> list[list[HistoryEvent]]:
    """A history as it is, and as a store reads it: from its newest checkpoint on."""
    known = since_checkpoint(events)
    return [events] if len(known) == len(events) else [events, known]


def _inputs(part: Sequence[HistoryEvent]) -> tuple[TaskInput, ...]:
    """What the first task of a part was given, without what the core makes itself."""
    number = part[0].task_number
    return tuple(
        _as_it_came(event.attributes)
        for event in part
        if event.task_number == number
        and event.attributes.is_input
        and not isinstance(
            event.attributes, CheckpointRecorded | TimerFired | WorkflowTaskStarted
        )
    )


def _as_it_came(event: Attributes) -> TaskInput:
    """An accepted update was a request, for its validator to judge."""
    if not isinstance(event, WorkflowExecutionUpdateAccepted):
        return event
    return UpdateRequest(
        event.update_id, event.update_name, event.input, event.identity, event.headers
    )


def _compare(
    registry: Registry,
    workflow_type: str,
    completion: WorkflowTaskCompletion,
    task: Sequence[HistoryEvent],
) -> None:
    difference = first_difference(registry, workflow_type, completion.events, task)
    if difference is None:
        return
    index, left, right = difference
    if any(
        _is_checkpoint(event)
        for event in (*completion.events[index:][:1], *task[index:][:1])
    ):
        # Live code decides by more than its history holds, such as updates that it
        # refuses. What it decided is recorded, and a replay goes by that.
        return
    raise NondeterminismError(
        f"Driven from the history before workflow task {task[0].task_number}, the code"
        f" gives {left} where {right} was recorded.",
        hint="The code reads something that is not recorded.",
        event_id=task[0].event_id + index,
        recorded=right,
        found=left,
    )
