"""What users see of a run's activities that have no outcome yet."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

import msgspec

from durable.client.descriptions.description import decode_stuck
from durable.clock import to_datetime
from durable.core.folding.fold import fold
from durable.core.folding.run_state import PendingActivity
from durable.core.history.events import HistoryEvent
from durable.core.history.payload import Failure
from durable.runs.activity_tasks.task_rows import progress_of
from durable.store.activity_tasks import ActivityTaskRecord, TaskState
from durable.store.records import NEVER, AttemptRecord, AttemptState, RunRecord


class ActivityState(enum.StrEnum):
    """Where an activity without an outcome stands."""

    QUEUED = "queued"
    """Not begun: all places are taken, or no worker knows it."""
    RUNNING = "running"
    BACKING_OFF = "backing_off"
    """An attempt has failed; the next one waits for its time."""
    INTERRUPTED = "interrupted"
    """Its worker died or gave the run up; the next one sees to it."""
    RETURNED = "returned"
    """Its function has returned what cannot be recorded: the run is stuck."""
    EXTERNAL = "external"
    """Somebody outside completes it; `engine.activities.describe` has its token."""
    IN_DOUBT = "in_doubt"
    """Nobody knows what its attempt has done: an operator is to `resolve` it."""


class ActivityDescription(msgspec.Struct, frozen=True, kw_only=True):
    """An activity that a run waits for.

    Attributes:
        attempt: the number of the attempt that runs, or comes next, from 1.
        since: when that attempt began, or began to wait.
        due_at: when the next attempt begins, while it is backing off.
        worker: the id of the worker that runs it, while one does.
        last_failure: why the attempt before it failed, if one has.
    """

    activity_id: str
    activity_type: str
    state: ActivityState
    attempt: int
    since: datetime
    due_at: datetime | None = None
    worker: str | None = None
    is_cancel_requested: bool = False
    last_failure: Failure | None = None


def describe_activities(
    record: RunRecord,
    events: Iterable[HistoryEvent],
    rows: Iterable[AttemptRecord],
    now: int,
    tasks: Iterable[ActivityTaskRecord] = (),
    *,
    is_owner_alive: bool,
) -> Iterator[ActivityDescription]:
    """Say how a run's open activities stand, in the order of their schedule.

    A first attempt has no row until it fails or has to wait: its scheduled event says
    that the owner of its run began it.
    """
    attempts: dict[int, list[AttemptRecord]] = {}
    for row in rows:
        attempts.setdefault(row.scheduled_event_id, []).append(row)
    elsewhere = {task.scheduled_event_id: task for task in tasks}
    for activity in fold(events).pending_activities:
        task = elsewhere.get(activity.scheduled_event_id)
        if task is not None:
            yield _describe_task(activity, task, now)
            continue
        of_it = attempts.get(activity.scheduled_event_id, [])
        # One that has closed has an outcome, recorded after the events were read.
        if not of_it or of_it[-1].state in _OPEN:
            owner = record.owner if is_owner_alive else None
            yield _describe(activity, of_it, now, owner)


_OPEN: Final = (AttemptState.BACKOFF, AttemptState.STARTED, AttemptState.RETURNED)


_STATES: Final = {
    TaskState.WAITING: ActivityState.QUEUED,
    TaskState.CLAIMED: ActivityState.RUNNING,
    TaskState.LOST: ActivityState.INTERRUPTED,
    TaskState.EXTERNAL: ActivityState.EXTERNAL,
}


def _describe_task(
    activity: PendingActivity, task: ActivityTaskRecord, now: int
) -> ActivityDescription:
    """Say how one stands that its run's owner does not run."""
    state, due_at = _STATES[task.state], None
    since = task.started_at or task.due_at
    progress = progress_of(task)
    if progress.in_doubt:
        state = ActivityState.IN_DOUBT
    if state is ActivityState.QUEUED and task.due_at > now:
        state, since = ActivityState.BACKING_OFF, activity.scheduled_at
        due_at = None if task.due_at == NEVER else to_datetime(task.due_at)
    is_running = state is ActivityState.RUNNING
    return ActivityDescription(
        activity_id=activity.activity_id,
        activity_type=activity.activity_type,
        state=state,
        attempt=task.attempt,
        since=to_datetime(since),
        due_at=due_at,
        worker=task.worker_id if is_running else None,
        is_cancel_requested=activity.is_cancel_requested,
        last_failure=progress.last_failure,
    )


def _describe(
    activity: PendingActivity, rows: list[AttemptRecord], now: int, owner: str | None
) -> ActivityDescription:
    row = rows[-1] if rows else None
    failed = next((r for r in reversed(rows) if r.failure is not None), None)
    since, due_at = activity.scheduled_at, None
    if row is not None and row.state is AttemptState.BACKOFF:
        state, since = ActivityState.QUEUED, row.due_at
        if row.due_at > now:
            state, due_at = ActivityState.BACKING_OFF, to_datetime(row.due_at)
            since = (len(rows) > 1 and rows[-2].closed_at) or activity.scheduled_at
    elif row is not None and row.state is AttemptState.RETURNED:
        state, since = ActivityState.RETURNED, row.closed_at or since
    else:
        state = ActivityState.RUNNING if owner else ActivityState.INTERRUPTED
        since = (row is not None and row.started_at) or since
    return ActivityDescription(
        activity_id=activity.activity_id,
        activity_type=activity.activity_type,
        state=state,
        attempt=1 if row is None else row.attempt,
        since=to_datetime(since),
        due_at=due_at,
        worker=owner if state is ActivityState.RUNNING else None,
        is_cancel_requested=activity.is_cancel_requested,
        last_failure=(
            None
            if failed is None or failed.failure is None
            else decode_stuck(failed.failure)
        ),
    )
