"""Turns that are about local activities alone: what they ask for begins unwritten.

They are written with the next turn that is about anything else, and after a moment at
the latest. So whatever can be seen from outside, which is all that such a turn has not,
comes with what led to it. If that write is refused, or the run is read again, they have
never been: what they had begun is given up, and begun once more.
"""

from __future__ import annotations

from typing import Final

from durable import limits
from durable.core.history.codec import encode_events
from durable.core.history.events import (
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskScheduled,
    ActivityTaskTimedOut,
    MarkerRecorded,
)
from durable.core.workflow_task import WorkflowTaskCompletion
from durable.runs import attempts, inputs
from durable.runs.effects import Effects, also
from durable.runs.live_run import LiveRun, Unwritten
from durable.runs.outgoing import kinds_of
from durable.runs.states import CANCELLING, OVER, RUNNING

_KINDS: Final = {
    ActivityTaskScheduled,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskTimedOut,
    MarkerRecorded,
}
_DATA: Final = 5
"""Where a row has what its event holds."""
_NEED_ROWS: Final = (
    inputs.AttemptNotBegun,
    inputs.AttemptUnrecorded,
    inputs.AttemptDoubtful,
    inputs.AttemptBeat,
    inputs.AttemptQueued,
    inputs.AttemptUnknown,
    inputs.AttemptReady,
    inputs.AttemptLeft,
)
"""What calls for a row of its attempt, and so for the event that this hangs at."""


def begin_unwritten(
    run: LiveRun, completion: WorkflowTaskCompletion, effects: Effects, now: int
) -> bool:
    """Begin what a turn asks for; False if it must be written first."""
    events, items = completion.events, run.incoming.in_commit
    if (
        completion.failure is not None
        or run.terms.is_draining
        or run.paused is not None
        or run.must_read
        or not kinds_of(events) <= _KINDS
        or not all([item.is_local for item in items])
    ):
        return False
    calls = [e for e in events if type(e.attributes) is ActivityTaskScheduled]
    if not all([_is_local(call.attributes) for call in calls]):
        return False
    if not calls and not is_under_way(run):
        return False
    unwritten = run.unwritten
    if unwritten is None:
        by = now + int(limits.LOCAL_SECONDS * 1_000_000)
        unwritten = run.unwritten = Unwritten(events[0].event_id - 1, by)
        effects.rare.again = also(effects.rare.again, by)
    elif (
        unwritten.is_due
        or now >= unwritten.write_by
        or len(unwritten.rows) >= limits.LOCAL_EVENTS_MAX
        or unwritten.size >= limits.LOCAL_BYTES_MAX
    ):
        return False
    rows = encode_events(run.run_id, events)
    unwritten.rows += rows
    unwritten.size += sum([len(row[_DATA]) for row in rows])
    unwritten.items += items
    unwritten.notes += run.notes
    run.incoming.in_commit, run.notes = (), ()
    for call in calls:
        attempts.schedule(run, call, effects, now)
    return True


def _is_local(scheduled: object) -> bool:
    return type(scheduled) is ActivityTaskScheduled and bool(
        scheduled.settings.is_local
    )


def is_under_way(run: LiveRun) -> bool:
    """Whether a local activity runs, so that something is bound to come of it."""
    return any(
        attempt.scheduled.settings.is_local and attempt.phase in (RUNNING, CANCELLING)
        for attempt in run.attempts.values()
    ) or any(map(run.is_unwritten, run.backoffs))


def must_be_written(run: LiveRun, unwritten: Unwritten, now: int) -> bool:
    """Whether the turns that are not written must be, though nothing else is."""
    return (
        unwritten.is_due
        or bool(run.questions)
        or (
            not run.incoming.waiting
            and (now >= unwritten.write_by or not is_under_way(run))
        )
    )


def put_off(run: LiveRun, given: inputs.AnyInput) -> bool:
    """Whether an input has to wait until the activity that it is of is written."""
    unwritten = run.unwritten
    if (
        unwritten is None
        or not isinstance(given, _NEED_ROWS)
        or given.attempt.scheduled_event_id <= unwritten.after
    ):
        return False
    unwritten.hold(given)
    return True


def take_written(run: LiveRun, effects: Effects) -> tuple[inputs.AnyInput, ...]:
    """What had to wait until now that all turns are written."""
    unwritten, run.unwritten = run.unwritten, None
    if unwritten is None:
        return ()
    effects.rare.notes = unwritten.notes
    is_closed = run.completion is not None and run.completion.is_closed
    return () if is_closed else unwritten.held


def forget(run: LiveRun, effects: Effects) -> None:
    """The run is read again: what is not written has never been."""
    unwritten = run.unwritten
    if unwritten is None:
        return
    after = unwritten.after
    for waiting in (run.attempts, run.backoffs):
        for number in [number for number in waiting if number > after]:
            attempt = waiting.pop(number)
            attempt.phase = OVER
            effects.rare.stop = also(effects.rare.stop, attempt)
    run.ended = tuple([row for row in run.ended if row.scheduled_event_id <= after])
    incoming = run.incoming
    # By its number alone one would be taken for that of another activity.
    incoming.waiting = [
        item
        for item in (*unwritten.items, *incoming.waiting)
        if not item.is_local or item.event.scheduled_event_id <= after  # type: ignore[union-attr]  # of an activity
    ]
    incoming.keys = None
    run.unwritten = None
