"""Two runs, call by call: where they part, and what each did there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, Literal, TypeAlias

import msgspec

from durable.core.history.events import (
    ACTIVITY_OUTCOMES,
    CHILD_OUTCOMES,
    CLOSING,
    DELIVERY_OUTCOMES,
    ActivityTaskScheduled,
    HistoryEvent,
    RequestCancelExternalWorkflowExecutionInitiated,
    SignalExternalWorkflowExecutionInitiated,
    StartChildWorkflowExecutionInitiated,
    TimerFired,
    TimerStarted,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure, Payload, Payloads, summary_of

What: TypeAlias = Literal["call", "input", "outcome", "number of calls"]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a run asked for, or its start or its end.

    Attributes:
        event_id: the event that says so.
        kind: "start", "activity", "child", "timer", "signal", "cancel" or "end".
        name: of the activity, the workflow, the signal, or the run that is asked to
            stop; the length of a timer; empty of an end.
        input: what it was given, as JSON texts.
        outcome: how it ended: "completed", "failed", "fired" and so on; None if it has
            not.
        value: what it returned, as JSON text, or what it raised, in words.
        source: the line of code that asked for it.
    """

    event_id: int
    kind: str
    name: str
    input: tuple[str, ...] = ()
    outcome: str | None = None
    value: str | None = None
    source: str = ""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The first call in which two runs differ.

    Attributes:
        what: another call, other input, another outcome, or one run has asked for more.
        left, right: the call of each; None for the run that has no more.
    """

    what: What
    left: Call | None
    right: Call | None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What two runs have in common.

    Attributes:
        alike: how many calls are alike, counted from the start, which is one.
        difference: the first that is not; None if the runs are alike.
    """

    alike: int
    difference: Difference | None

    @property
    def is_alike(self) -> bool:
        """Whether both did the same."""
        return self.difference is None


def compare_histories(
    left: Sequence[HistoryEvent], right: Sequence[HistoryEvent]
) -> Comparison:
    """Compare two histories, call by call in the order in which they were asked for."""
    alike = 0
    for one, other in zip_longest(calls_of(left), calls_of(right)):
        what = _difference(one, other)
        if what is not None:
            found = Difference(what=what, left=one, right=other)
            return Comparison(alike=alike, difference=found)
        alike += 1
    return Comparison(alike=alike, difference=None)


def _difference(left: Call | None, right: Call | None) -> What | None:
    if left is None or right is None:
        return "number of calls"
    if (left.kind, left.name) != (right.kind, right.name):
        return "call"
    if left.input != right.input:
        return "input"
    if (left.outcome, left.value) != (right.outcome, right.value):
        return "outcome"
    return None


def calls_of(events: Sequence[HistoryEvent]) -> Iterator[Call]:
    """What a run was asked, asked for, and how it ended."""
    outcomes = _outcomes_of(events)
    for event in events:
        what: Any = event.attributes
        call = _call(event)
        if call is not None:
            outcome, value = outcomes.get(event.event_id, (None, None))
            yield msgspec.structs.replace(call, outcome=outcome, value=value)
        elif type(what) in CLOSING:
            yield Call(
                event_id=event.event_id,
                kind="end",
                name="",
                outcome=_ending(what, "WorkflowExecution"),
                value=_value(what),
            )


def _call(event: HistoryEvent) -> Call | None:
    what: Any = event.attributes
    match what:
        case WorkflowExecutionStarted():
            kind, name = "start", what.workflow_type
        case ActivityTaskScheduled():
            kind, name = "activity", what.activity_type
        case StartChildWorkflowExecutionInitiated():
            kind, name = "child", what.workflow_type
        case TimerStarted():
            kind, name = "timer", f"{what.start_to_fire_timeout / 1_000_000:g} s"
        case SignalExternalWorkflowExecutionInitiated():
            kind, name = "signal", what.signal_name
        case RequestCancelExternalWorkflowExecutionInitiated():
            kind, name = "cancel", what.workflow_id
        case _:
            return None
    return Call(
        event_id=event.event_id,
        kind=kind,
        name=name,
        input=_texts(getattr(what, "input", ())),
        source=getattr(what, "source", ""),
    )


def _outcomes_of(
    events: Sequence[HistoryEvent],
) -> dict[int, tuple[str, str | None]]:
    """How what an event began has ended, by that event."""
    found: dict[int, tuple[str, str | None]] = {}
    for event in events:
        what: Any = event.attributes
        if isinstance(what, ACTIVITY_OUTCOMES):
            found[what.scheduled_event_id] = _ending(what, "ActivityTask"), _value(what)
        elif isinstance(what, CHILD_OUTCOMES):
            ending = _ending(what, "ChildWorkflowExecution")
            found[what.initiated_event_id] = ending, _value(what)
        elif isinstance(what, DELIVERY_OUTCOMES):
            is_there = not type(what).__name__.endswith("Failed")
            ending = "arrived" if is_there else "refused"
            found[what.initiated_event_id] = ending, None
        elif isinstance(what, TimerFired):
            found[what.started_event_id] = "fired", None
    return found


def _ending(what: object, prefix: str) -> str:
    """The last words of an event's name, as one."""
    name = type(what).__name__.removeprefix(prefix)
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


def _texts(payloads: Payloads) -> tuple[str, ...]:
    return tuple(map(_text, payloads))


def _text(payload: Payload) -> str:
    if payload.json:
        return bytes(payload.json).decode("utf-8", "backslashreplace")
    return msgspec.json.encode(payload).decode()


def _value(what: Any) -> str | None:
    failure: Failure | None = getattr(what, "failure", None)
    if failure is not None:
        return summary_of(failure)
    result: Payload | None = getattr(what, "result", None)
    return None if result is None else _text(result)
