"""What the rows of activities say that anyone may take: all that an executor needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from durable.api.activities.promises import PROMISE
from durable.core.history.codec import UNREADABLE
from durable.core.history.events import (
    ActivityTaskCompleted,
    ActivityTaskScheduled,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure, Payloads
from durable.errors import CorruptHistoryError
from durable.store.activity_tasks import ActivityTaskRecord, TaskState
from durable.store.records import TASK_PRIORITY

if TYPE_CHECKING:
    from durable.core.history.commands import ActivitySettings
    from durable.runs.live_run import Attempt


class TaskData(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an activity is, and whose: the same for all its attempts.

    `is_run_paused` says that its run was paused when that was last looked at.
    """

    workflow_id: str
    workflow_type: str
    workflow_queue: str
    scheduled: ActivityTaskScheduled
    scheduled_at: int
    headers: Mapping[str, str] = {}
    run_headers: Mapping[str, str] = {}
    is_run_paused: bool = False


class TaskProgress(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of the attempts of an activity.

    Attributes:
        lost: how many were lost with their workers.
        last_failure: why the one before failed.
        has_row: a row of the attempts table speaks of the present one.
        details: what the last heartbeat said, of this attempt or one before.
        problem: the bug for which it could not begin.
        waits_since: when it was due, if it was put back since.
        in_doubt: an operator is to say what the attempt has done.
        outcome: how it has ended, by the commit of the transaction that it was.
    """

    lost: int = 0
    last_failure: Failure | None = None
    has_row: bool = False
    details: Payloads | None = None
    problem: Failure | None = None
    waits_since: int = 0
    in_doubt: bool = False
    outcome: ActivityTaskCompleted | None = None


_decode_data: Final = msgspec.json.Decoder(TaskData).decode
_decode_progress: Final = msgspec.json.Decoder(TaskProgress).decode


def encode(part: TaskData | TaskProgress) -> str:
    """Write a part of a row."""
    return msgspec.json.encode(part).decode()


def data_of(record: ActivityTaskRecord) -> TaskData:
    """Read what an activity is.

    Raises:
        CorruptHistoryError: this release cannot read it.
    """
    try:
        return _decode_data(record.data)
    except UNREADABLE as error:
        raise _unreadable(record, error) from None


def progress_of(record: ActivityTaskRecord) -> TaskProgress:
    """Read what is known of its attempts.

    Raises:
        CorruptHistoryError: this release cannot read it.
    """
    if record.progress is None:
        return TaskProgress()
    try:
        return _decode_progress(record.progress)
    except UNREADABLE as error:
        raise _unreadable(record, error) from None


def _unreadable(record: ActivityTaskRecord, error: Exception) -> CorruptHistoryError:
    return CorruptHistoryError(
        f"The row of activity {record.scheduled_event_id} of run {record.run_id!r}"
        f" cannot be read: {error}."
    )


# --- making rows ----------------------------------------------------------------------


def row_of_attempt(attempt: Attempt, due_at: int) -> ActivityTaskRecord:
    """The row of an attempt of a run's own that certainly has not begun."""
    run, scheduled = attempt.run, attempt.scheduled
    progress = TaskProgress(
        lost=attempt.lost,
        last_failure=attempt.last_failure,
        has_row=attempt.has_row,
        details=attempt.details,
    )
    return new_row(
        run.started,
        attempt.scheduled_event_id,
        TaskData(
            run.workflow_id,
            run.workflow_type,
            run.started.task_queue,
            scheduled,
            attempt.scheduled_at,
            attempt.headers,
            run.headers,
        ),
        attempt=attempt.attempt,
        due_at=due_at,
        progress=None if progress == TaskProgress() else encode(progress),
    )


def external_row_of(attempt: Attempt, now: int) -> ActivityTaskRecord:
    """The row of an attempt of a run's own that somebody outside completes."""
    record = row_of_attempt(attempt, attempt.due_at or attempt.scheduled_at)
    return for_outside(record, attempt.scheduled, attempt, now)


def operator_row_of(attempt: Attempt, failure: Failure) -> ActivityTaskRecord:
    """The row of an attempt of a run's own that is in doubt."""
    record = row_of_attempt(attempt, attempt.due_at or attempt.scheduled_at)
    data, progress = data_of(record), progress_of(record)
    return for_operator(record, data, progress, failure)


def for_outside(
    record: ActivityTaskRecord,
    scheduled: ActivityTaskScheduled,
    attempt: Attempt,
    now: int,
) -> ActivityTaskRecord:
    """The row of an attempt that somebody outside completes from now on."""
    started_at = attempt.started_at or now
    expires_at, _ = ends_by(scheduled.settings, attempt.scheduled_at, started_at, now)
    return msgspec.structs.replace(
        record,
        state=TaskState.EXTERNAL,
        expires_at=expires_at,
        started_at=started_at,
        heartbeat_at=now,
        worker_id=None,
        judge_id=None,
        cancel=None,
    )


def for_operator(
    record: ActivityTaskRecord, data: TaskData, progress: TaskProgress, failure: Failure
) -> ActivityTaskRecord:
    """The row of an attempt in doubt, of which an operator says what it has done."""
    expires_at, _ = gives_up_by(data.scheduled.settings, data.scheduled_at)
    after = msgspec.structs.replace(progress, last_failure=failure, in_doubt=True)
    return msgspec.structs.replace(
        record,
        state=TaskState.EXTERNAL,
        expires_at=expires_at,
        started_at=record.started_at or record.due_at,
        worker_id=None,
        judge_id=None,
        cancel=None,
        progress=encode(after),
    )


def new_row(
    started: WorkflowExecutionStarted,
    scheduled_event_id: int,
    data: TaskData,
    *,
    attempt: int = 1,
    due_at: int,
    progress: str | None = None,
) -> ActivityTaskRecord:
    """The row of an activity that waits."""
    settings = data.scheduled.settings
    if data.scheduled.activity_type == PROMISE:
        state = TaskState.EXTERNAL
        expires_at, _ = ends_by(settings, data.scheduled_at, due_at, due_at)
    else:
        state = TaskState.WAITING
        expires_at, _ = starts_by(settings, data.scheduled_at, due_at)
    return ActivityTaskRecord(
        run_id=started.run_id,
        scheduled_event_id=scheduled_event_id,
        namespace=started.namespace,
        task_queue=settings.task_queue or started.task_queue,
        activity_type=data.scheduled.activity_type,
        attempt=attempt,
        due_at=due_at,
        data=encode(data),
        state=state,
        expires_at=expires_at,
        progress=progress,
        priority=settings.priority or TASK_PRIORITY,
        fairness_key=settings.fairness_key,
        fairness_weight=settings.fairness_weight,
    )


# --- until when -----------------------------------------------------------------------


def starts_by(
    settings: ActivitySettings, scheduled_at: int, due_at: int
) -> tuple[int | None, str]:
    """The instant until which an attempt must begin, and the timeout that says so."""
    return _earliest(
        (due_at, settings.schedule_to_start_timeout, "schedule_to_start"),
        (scheduled_at, settings.schedule_to_close_timeout, "schedule_to_close"),
    )


def ends_by(
    settings: ActivitySettings, scheduled_at: int, started_at: int, heard_at: int
) -> tuple[int | None, str]:
    """The instant until which one must end or be heard of, and what says so."""
    return _earliest(
        (started_at, settings.start_to_close_timeout, "start_to_close"),
        (heard_at, settings.heartbeat_timeout, "heartbeat"),
        (scheduled_at, settings.schedule_to_close_timeout, "schedule_to_close"),
    )


def gives_up_by(
    settings: ActivitySettings, scheduled_at: int
) -> tuple[int | None, str]:
    """The instant until which an activity must have ended, whatever its attempts do."""
    return _earliest(
        (scheduled_at, settings.schedule_to_close_timeout, "schedule_to_close")
    )


def _earliest(*limits: tuple[int, int | None, str]) -> tuple[int | None, str]:
    found = [(since + span, kind) for since, span, kind in limits if span is not None]
    return min(found, default=(None, ""))


def timed_out(
    settings: ActivitySettings, timeout_type: str, progress: TaskProgress
) -> Failure:
    """What a timeout of an attempt says."""
    limit = getattr(settings, f"{timeout_type}_timeout") or 0
    return Failure(
        message=f"{timeout_type}_timeout of {limit / 1_000_000:g} s passed",
        kind="timeout",
        type="TimeoutError",
        timeout_type=timeout_type,
        details=progress.details or () if timeout_type == "heartbeat" else (),
        cause=progress.last_failure if timeout_type == "schedule_to_close" else None,
    )


def waiting_again(
    record: ActivityTaskRecord,
    data: TaskData,
    progress: TaskProgress,
    *,
    attempt: int,
    due_at: int,
) -> ActivityTaskRecord:
    """The same row, for an attempt that waits."""
    since = progress.waits_since or due_at
    expires_at, _ = starts_by(data.scheduled.settings, data.scheduled_at, since)
    return msgspec.structs.replace(
        record,
        state=TaskState.WAITING,
        attempt=attempt,
        due_at=due_at,
        expires_at=expires_at,
        worker_id=None,
        started_at=None,
        heartbeat_at=None,
        judge_id=None,
        cancel=None,
        progress=None if progress == TaskProgress() else encode(progress),
    )
