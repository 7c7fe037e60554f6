"""What `durable doctor --fix` may do to a run, and why that is safe.

Two things are mended. A run that nothing will wake, or that belongs to a worker which
has no row, is set free and marked as active: whichever worker takes it reads its
history and finds out what it waits for, as after a crash.

A history with a hole was written by a worker that believed in a turn which was never
committed. Nothing of that turn reached the world, because effects follow the commit. So
the run stands where its unbroken beginning ends, if what was recorded after the hole
has not reached the world either: what came in is kept, in order, for the next workflow
task; timers and notes of the code are dropped, since that task decides them anew. If
anything after the hole asked for an activity, a child, a message or an answer, or
speaks of an event that is missing, going on from before it could do that twice, and the
run is left as it is. That rows were deleted by hand cannot be told from a hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from durable.core.folding.fold import fold
from durable.core.folding.run_state import RunState
from durable.core.history.codec import decode_rows, encode_events
from durable.core.history.events import (
    ACTIVITY_OUTCOMES,
    CHILD_OUTCOMES,
    DELIVERY_OUTCOMES,
    UNPROCESSED,
    ChildWorkflowExecutionStarted,
    HistoryEvent,
    MarkerRecorded,
    TimerCanceled,
    TimerFired,
    TimerStarted,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowTaskStarted,
)
from durable.doctor.findings import Check, RunKey
from durable.doctor.whole_histories import with_whole_history
from durable.errors import CorruptHistoryError
from durable.store.queries import LoadRuns
from durable.store.records import LoadedRun, RepairRun, RunStatus
from durable.store.store import Store

MENDABLE: Final = frozenset(
    {Check.POSITIONS, Check.WAITING, Check.LOST_WAKE_UP, Check.LEASES}
)
"""What a finding about an open run must be for a repair to be tried."""

_MESSAGES: Final = (WorkflowExecutionSignaled, WorkflowExecutionCancelRequested)
_ANSWERS: Final = (*CHILD_OUTCOMES, ChildWorkflowExecutionStarted, *DELIVERY_OUTCOMES)
# What the code's next turn, or the clock, decides anew.
_PRIVATE: Final = (
    MarkerRecorded,
    TimerCanceled,
    TimerFired,
    TimerStarted,
    WorkflowTaskStarted,
)


class Repaired(msgspec.Struct, frozen=True):
    """What became of a run that was to be mended.

    Attributes:
        is_mended: whether anything was done.
        message: what was done, or why it was not.
    """

    run: RunKey
    is_mended: bool
    message: str


class _Refused(Exception):
    """Nothing can be done safely; the text says why."""


async def mend(store: Store, run: RunKey) -> Repaired:
    """Mend a run, if that is safe, and say what was done.

    Raises:
        StoreError: the database cannot be read or written.
    """
    found = await store.read(LoadRuns([run.run_id]))
    try:
        if not found:
            raise _Refused("its row is gone")
        loaded = await with_whole_history(store, found[0])
        repair, done = plan(loaded)
    except _Refused as refusal:
        return Repaired(run, False, f"left as it is: {refusal}")
    if not await store.perform(repair):
        return Repaired(run, False, "left as it is: it has just gone on")
    return Repaired(run, True, done)


def plan(loaded: LoadedRun) -> tuple[RepairRun, str]:
    """Return what mends a run, and what that means in words.

    Raises:
        _Refused: nothing is safe.
    """
    record = loaded.record
    if record.damage is not None:
        raise _Refused("its row cannot be read")
    if record.status is not RunStatus.RUNNING:
        raise _Refused("it has closed")
    try:
        events = decode_rows(loaded.rows)
    except CorruptHistoryError:
        raise _Refused("its history cannot be read") from None
    if not events:
        raise _Refused("its history is empty")
    expected = tuple(event.event_id for event in events)
    kept = _unbroken(events)
    state = fold(kept)
    if kept and state.violations:
        raise _Refused("its history is broken in other ways as well")
    if len(kept) == len(events):
        freed = RepairRun(run_id=record.run_id, expected=expected, keep=len(kept))
        return freed, (
            "set free and marked as active: the next worker finds out what it waits for"
        )
    tail = events[len(kept) :]
    _check_attempts(loaded, len(kept))
    inputs, dropped = _sort_tail(tail, state, is_first=not kept)
    placed = _place(inputs, kept)
    if fold([*kept, *placed]).violations:
        raise _Refused("what came in after the hole does not fit what is before it")
    repair = RepairRun(
        run_id=record.run_id,
        expected=expected,
        keep=len(kept),
        rows=encode_events(record.run_id, placed),
    )
    return repair, _describe(len(kept), tail[0].event_id, inputs, dropped)


def _unbroken(events: Sequence[HistoryEvent]) -> list[HistoryEvent]:
    kept: list[HistoryEvent] = []
    for event in events:
        if event.event_id != len(kept) + 1:
            break
        kept.append(event)
    return kept


def _check_attempts(loaded: LoadedRun, last: int) -> None:
    for row in loaded.attempts:
        if row.scheduled_event_id > last:
            raise _Refused(
                f"attempts of activity {row.activity_type!r} were made for event"
                f" {row.scheduled_event_id}, which is missing or follows the hole"
            )


def _sort_tail(
    tail: Sequence[HistoryEvent], state: RunState, *, is_first: bool
) -> tuple[list[HistoryEvent], list[HistoryEvent]]:
    """Tell what came in after the hole from what the code decided there."""
    inputs: list[HistoryEvent] = []
    dropped: list[HistoryEvent] = []
    pending = _pending(state)
    for event in tail:
        what: Any = event.attributes
        if isinstance(what, _PRIVATE):
            dropped.append(event)
        elif isinstance(what, WorkflowExecutionStarted):
            if not is_first or event is not tail[0]:
                raise _Refused(f"event {event.event_id} starts the run a second time")
            inputs.append(event)
        elif isinstance(what, _MESSAGES):
            inputs.append(event)
        elif isinstance(what, (*ACTIVITY_OUTCOMES, *_ANSWERS)):
            number = _about(what)
            if (type(what) is ChildWorkflowExecutionStarted, number) not in pending:
                raise _Refused(
                    f"event {event.event_id}, {type(what).__name__}, speaks of event"
                    f" {number}, which is missing or has its outcome"
                )
            inputs.append(event)
        else:
            raise _Refused(
                f"event {event.event_id}, {type(what).__name__}, follows the hole and"
                " may have reached the world; going on from before it could repeat that"
            )
    return inputs, dropped


def _about(what: Any) -> int:
    if isinstance(what, ACTIVITY_OUTCOMES):
        return what.scheduled_event_id
    number: int = what.initiated_event_id
    return number


def _pending(state: RunState) -> set[tuple[bool, int]]:
    """What still may get an outcome: whether that is only its start, and its event."""
    pending = {(False, one.scheduled_event_id) for one in state.pending_activities}
    for child in state.pending_children:
        pending.add((False, child.initiated_event_id))
        if child.run_id is None:
            pending.add((True, child.initiated_event_id))
    pending |= {(False, one.initiated_event_id) for one in state.pending_deliveries}
    return pending


def _place(
    inputs: Iterable[HistoryEvent], kept: Sequence[HistoryEvent]
) -> list[HistoryEvent]:
    """Put inputs after the unbroken beginning, for the next workflow task to take."""
    first = len(kept) + 1
    earliest = kept[-1].time if kept else 0
    return [
        HistoryEvent(
            number,
            UNPROCESSED,
            max(event.time, earliest),
            event.attributes,
            event.flags,
        )
        for number, event in enumerate(inputs, start=first)
    ]


def _describe(
    last: int,
    after: int,
    inputs: Sequence[HistoryEvent],
    dropped: Sequence[HistoryEvent],
) -> str:
    if after == last + 2:
        parts = [f"event {last + 1} was never written"]
    else:
        parts = [f"events {last + 1} to {after - 1} were never written"]
    if inputs:
        names = ", ".join(_name(event) for event in inputs)
        place = f"now follows event {last}" if last else "now begins the history"
        parts.append(f"what came in after the hole {place}: {names}")
    if dropped:
        names = ", ".join(_name(event) for event in dropped)
        parts.append(f"dropped, to be decided anew: {names}")
    parts.append("the next worker goes on with it")
    return "; ".join(parts)


def _name(event: HistoryEvent) -> str:
    return f"{type(event.attributes).__name__} ({event.event_id})"
