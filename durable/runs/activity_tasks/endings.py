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
from durable.core.machines.retry import OUTCOME_UNKNOWN
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
    not_before: int = 0,
) -> retry.Retry | retry.GiveUp:
    """Decide what follows an attempt that has failed; as `retry.decide`."""
    return decide_failure(
        data.scheduled.settings,
        failure,
        attempt=record.attempt,
        lost=progress.lost,
        scheduled_at=data.scheduled_at,
        now=now,
        key=key_of(record.run_id, record.scheduled_event_id, record.attempt),
        not_before=not_before,
    )


def key_of(run_id: str, number: int, attempt: int) -> str:
    """What names an attempt among all that there are; `number` is its activity's."""
    return f"{run_id}/{number}/{attempt}"


def decide_failure(
    settings: ActivitySettings,
    failure: Failure,
    *,
    attempt: int,
    lost: int,
    scheduled_at: int,
    now: int,
    key: str,
    not_before: int = 0,
) -> retry.Retry | retry.GiveUp:
    """Decide what follows an attempt that has failed; see `in_doubt`, too."""
    is_doubt = failure.kind == OUTCOME_UNKNOWN
    if is_doubt and failure.cause is not None and failure.cause.kind == "timeout":
        return decide_doubt(settings, attempt - 1, key)
    decision = retry.decide(
        settings,
        # The policy bounds failures, and a lost attempt has not failed.
        attempt=attempt - lost,
        failure=failure,
        scheduled_at=scheduled_at,
        now=now,
        key=key,
        not_before=not_before,
    )
    if is_doubt and isinstance(decision, retry.GiveUp):
        return _give_up(settings)
    return decision


def in_doubt(settings: ActivitySettings, failure: Failure, attempt: int) -> Failure:
    """What a failure is of an activity that is never run twice.

    Whose time is up may go on, or have had its effect: nobody knows.
    """
    begun = ("start_to_close", "heartbeat")
    if not settings.at_most_once or failure.timeout_type not in begun:
        return failure
    text = f"attempt {attempt} had begun when its {failure.message}"
    return unknown_outcome(text, failure)


def unknown_outcome(what: str, cause: Failure | None = None) -> Failure:
    """The failure of an attempt of which that is all there is to say."""
    return Failure(
        message=f"{what}; nobody knows whether it took effect",
        kind=OUTCOME_UNKNOWN,
        type="OutcomeUnknown",
        cause=cause,
    )


def may_repeat(settings: ActivitySettings) -> bool:
    """Whether an attempt in doubt may simply be followed by another."""
    return not settings.at_most_once and settings.retry_policy.max_attempts != 1


def decide_doubt(
    settings: ActivitySettings, lost: int, key: str
) -> retry.Retry | retry.GiveUp:
    """Decide what follows one of which nobody knows whether it took effect.

    `lost` attempts before it were lost, too; `key` names it among all that there are.
    """
    if lost + 1 < limits.LOST_ATTEMPTS_MAX and (
        may_repeat(settings)
        or settings.effect
        or settings.is_verified
        or settings.is_local
    ):
        return retry.Retry(retry.stagger(lost + 1, key))
    return _give_up(settings)


def _give_up(settings: ActivitySettings) -> retry.GiveUp:
    return retry.GiveUp(retry.IN_DOUBT if settings.waits_in_doubt else OUTCOME_UNKNOWN)


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
