"""What is written once an attempt has ended that its run's owner does not run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from durable import limits
from durable.core.history.events import (
    ActivityOutcome,
    ActivityTaskCanceled,
    ActivityTaskFailed,
    ActivityTaskTimedOut,
)
from durable.core.history.payload import Failure
from durable.core.machines import retry
from durable.core.messages import ActivityReturned, encode_message
from durable.runs.activity_tasks.task_rows import TaskData, TaskProgress, waiting_again
from durable.store.activity_tasks import ActivityTaskRecord, SettleActivityTask
from durable.store.records import AttemptRecord, AttemptState

if TYPE_CHECKING:
    from durable.core.history.commands import ActivitySettings


def end(
    record: ActivityTaskRecord,
    outcome: ActivityOutcome | ActivityReturned,
    attempts: tuple[AttemptRecord, ...] = (),
    cancel: str | None = None,
) -> SettleActivityTask:
    """The activity has ended; its run is told."""
    return SettleActivityTask(
        run_id=record.run_id,
        scheduled_event_id=record.scheduled_event_id,
        attempt=record.attempt,
        request_id=request_id_of(record),
        message=encode_message(outcome),
        attempts=attempts,
        cancel=cancel,
    )


def put_back(
    record: ActivityTaskRecord,
    following: ActivityTaskRecord,
    attempts: tuple[AttemptRecord, ...] = (),
    cancel: str | None = None,
) -> SettleActivityTask:
    """It waits, for another attempt or for the same one."""
    return SettleActivityTask(
        run_id=record.run_id,
        scheduled_event_id=record.scheduled_event_id,
        attempt=record.attempt,
        next=following,
        attempts=attempts,
        cancel=cancel,
    )


def request_id_of(record: ActivityTaskRecord) -> str:
    """The request id of the message about how an activity ended."""
    return f"activity:{record.scheduled_event_id}:{record.attempt}"


# --- decisions ------------------------------------------------------------------------


def decide(
    record: ActivityTaskRecord,
    data: TaskData,
    progress: TaskProgress,
    failure: Failure,
    now: int,
) -> retry.Retry | retry.GiveUp:
    """Decide what follows an attempt that has failed."""
    return retry.decide(
        data.scheduled.settings,
        # The policy bounds failures, and a lost attempt has not failed.
        attempt=record.attempt - progress.lost,
        failure=failure,
        scheduled_at=data.scheduled_at,
        now=now,
        key=f"{record.run_id}/{record.scheduled_event_id}/{record.attempt}",
    )


def decide_doubt(settings: ActivitySettings, lost: int) -> retry.Retry | retry.GiveUp:
    """Decide what follows one of which nobody knows whether it took effect."""
    if (
        settings.at_most_once
        or settings.retry_policy.max_attempts == 1
        or lost + 1 >= limits.LOST_ATTEMPTS_MAX
    ):
        return retry.GiveUp("outcome_unknown")
    return retry.Retry(0)


def after_failure(
    record: ActivityTaskRecord,
    data: TaskData,
    progress: TaskProgress,
    failure: Failure,
    decision: retry.Retry,
    now: int,
    *,
    is_lost: bool = False,
) -> ActivityTaskRecord:
    """The row for the attempt after one that has failed, or is in doubt."""
    after = msgspec.structs.replace(
        progress,
        last_failure=failure,
        lost=progress.lost + is_lost,
        has_row=False,
        problem=None,
        waits_since=0,
    )
    return waiting_again(
        record,
        data,
        after,
        attempt=record.attempt + 1,
        due_at=now + decision.delay,
    )


def failed(
    record: ActivityTaskRecord,
    failure: Failure,
    retry_state: str,
    now: int,
    identity: str = "",
) -> ActivityTaskFailed | ActivityTaskTimedOut:
    """How an activity has failed for good."""
    event = ActivityTaskTimedOut if failure.kind == "timeout" else ActivityTaskFailed
    return event(
        scheduled_event_id=record.scheduled_event_id,
        failure=failure,
        attempt=record.attempt,
        started_at=record.started_at or now,
        retry_state=retry_state,
        identity=identity,
    )


def cancelled(record: ActivityTaskRecord, identity: str = "") -> ActivityTaskCanceled:
    """How it has stopped, as it was asked to."""
    return ActivityTaskCanceled(
        scheduled_event_id=record.scheduled_event_id,
        attempt=record.attempt,
        started_at=record.started_at or 0,
        identity=identity,
    )


def row_of(
    record: ActivityTaskRecord,
    state: AttemptState,
    failure: Failure | None,
    now: int,
    details: str | None = None,
) -> AttemptRecord:
    """The row of an attempt that stands so now."""
    is_open = state in (AttemptState.BACKOFF, AttemptState.STARTED)
    return AttemptRecord(
        run_id=record.run_id,
        scheduled_event_id=record.scheduled_event_id,
        attempt=record.attempt,
        activity_type=record.activity_type,
        state=state,
        due_at=record.due_at,
        started_at=record.started_at,
        closed_at=None if is_open else now,
        failure=None if failure is None else msgspec.json.encode(failure).decode(),
        worker_id=record.worker_id,
        details=details,
        heartbeat_at=record.heartbeat_at,
    )
