"""Pairs each command of a replayed turn with the event that recorded it.

Kind, order, id, name and arguments must agree. Durations, retries and labels need not.
A deprecated patch marker may be missing from the code. Everything else that differs is
reported with its position, both sides and both source lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from durable.core.history.commands import (
    CancelTimer,
    Command,
    CompleteWorkflowExecutionUpdate,
    ContinueAsNewWorkflowExecution,
    RecordMarker,
    RequestCancelActivityTask,
    RequestCancelExternalWorkflowExecution,
    ScheduleActivityTask,
    SignalExternalWorkflowExecution,
    StartChildWorkflowExecution,
    StartTimer,
)
from durable.core.history.events import (
    Attributes,
    HistoryEvent,
    MarkerRecorded,
    TimerFired,
)
from durable.core.history.payload import Payloads
from durable.core.machines.fact import find_dead_letter
from durable.core.machines.machine import Entry
from durable.core.machines.marker import find_patch
from durable.core.replay.context import RunContext
from durable.errors import NondeterminismError

_ADVICE = (
    "The workflow's code was changed after this run began, or it reads something that"
    " is not recorded (clock, random, environment, a global). Guard the change with"
    " `if patched('...'):`, or restore the code; the run goes on by itself then."
)


def match(
    run: RunContext, entries: Sequence[Entry], events: Sequence[HistoryEvent]
) -> None:
    """Check a turn's commands against its recorded events, and bind them.

    Raises:
        NondeterminismError: at the first position where they differ.
    """
    position = 0
    count = len(events)
    for entry in entries:
        if position == count:
            raise _mismatch(run, None, entry, None)
        event = events[position]
        attributes = event.attributes
        while type(attributes) is MarkerRecorded and _may_be_missing(entry, event):
            position += 1
            if position == count:
                raise _mismatch(run, None, entry, None)
            event = events[position]
            attributes = event.attributes
        if type(attributes) is not entry.event_type:
            raise _mismatch(run, event, entry, None)
        difference = entry.differs(attributes)
        if difference is not None:
            raise _mismatch(run, event, entry, difference)
        entry.recorded(run, event.event_id, event.time, attributes)
        position += 1
    while position < count:
        if not _is_deprecated_marker(events[position]):
            raise _mismatch(run, events[position], None, None)
        position += 1


def _is_deprecated_marker(event: HistoryEvent) -> bool:
    patch = find_patch(event.attributes)
    return patch is not None and patch[1]


def _may_be_missing(entry: Entry, event: HistoryEvent) -> bool:
    patch = find_patch(event.attributes)
    if patch is None or not patch[1]:
        return False
    return getattr(entry, "patch_id", None) != patch[0]


def _mismatch(
    run: RunContext,
    event: HistoryEvent | None,
    entry: Entry | None,
    difference: str | None,
) -> NondeterminismError:
    recorded = None if event is None else describe(event.attributes)
    found = None if entry is None else describe(entry.command())
    if event is None:
        what = (
            f"history holds nothing more for this workflow task, but the code issues"
            f" {found}."
        )
    elif entry is None:
        what = (
            f"event {event.event_id} is {recorded}, but the code issues nothing there."
        )
    elif difference is None:
        what = f"event {event.event_id} is {recorded}, but the code issues {found}."
    else:
        what = (
            f"event {event.event_id} is {recorded}, but the code issues {found}:"
            f" {difference} differ{'' if _is_plural(difference) else 's'}."
        )
    return NondeterminismError(
        f"Run {run.name} cannot be replayed: {what}",
        hint=_ADVICE,
        event_id=None if event is None else event.event_id,
        recorded=recorded,
        found=found,
    )


def _is_plural(difference: str) -> bool:
    return difference.removeprefix("the ").startswith("arguments")


def describe(item: Attributes | Command) -> str:
    """Name a command or event in one line: kind, id, name, arguments' size, source."""
    source = getattr(item, "source", "")
    at = f" at {source}" if source else ""
    facts = _facts(item)
    return f"{type(item).__name__}{f'({facts})' if facts else ''}{at}"


_FACTS: Final[dict[type[Any], str]] = {
    ScheduleActivityTask: "{0.activity_type!r}, id {0.activity_id}, {size}",
    RequestCancelActivityTask: "id {0.activity_id}",
    StartTimer: "id {0.timer_id}, {seconds:g} s",
    TimerFired: "id {0.timer_id}",
    CancelTimer: "id {0.timer_id}",
    StartChildWorkflowExecution: "{0.workflow_type!r}, id {0.workflow_id!r}, {size}",
    SignalExternalWorkflowExecution: "{0.signal_name!r} to {0.workflow_id!r}, {size}",
    RequestCancelExternalWorkflowExecution: "to {0.workflow_id!r}",
    CompleteWorkflowExecutionUpdate: "id {0.update_id!r}",
    ContinueAsNewWorkflowExecution: "{0.workflow_type!r}, {size}",
}


def _facts(item: Attributes | Command) -> str:
    """What tells a command or event from others of its kind; never a value."""
    if isinstance(item, RecordMarker):
        return _marker(item)
    size = _size(getattr(item, "input", ()))
    seconds = getattr(item, "start_to_fire_timeout", 0) / 1_000_000
    texts = [text for kind, text in _FACTS.items() if isinstance(item, kind)]
    return texts[0].format(item, size=size, seconds=seconds) if texts else ""


def _size(input: Payloads) -> str:
    count = len(input)
    size = sum(payload.size for payload in input)
    return f"{count} argument{'' if count == 1 else 's'}, {size} bytes"


def _marker(marker: RecordMarker) -> str:
    patch = find_patch(marker)
    if patch is not None:
        return repr(patch[0])
    letter = find_dead_letter(marker)
    if letter is not None:
        return f"dead letter: signal {letter.number}, {letter.signal_name!r}"
    return repr(marker.marker_name)
