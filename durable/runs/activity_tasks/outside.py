"""What somebody outside says of an activity, by its token or by its ids."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from durable.core.history.events import ActivityOutcome, ActivityTaskCompleted
from durable.core.history.payload import Failure, Payload, Payloads, encode_details
from durable.core.machines import retry
from durable.core.messages import encode_message
from durable.errors import InvalidCallError, InvalidIdError
from durable.options import check_id
from durable.runs.activity_tasks import endings
from durable.runs.activity_tasks.task_rows import (
    data_of,
    encode,
    ends_by,
    progress_of,
    waiting_again,
)
from durable.store.activity_tasks import (
    ActivityTaskRecord,
    BeatActivityTask,
    CompleteActivity,
    TaskState,
)
from durable.store.records import AttemptRecord, AttemptState


class ActivityToken(NamedTuple):
    """One attempt; or the promise of an id, which has no other.

    Numbers of attempts come again when an activity is reset: `started_at` does not.
    """

    run_id: str
    scheduled_event_id: int
    attempt: int
    started_at: int | None = None
    promise_id: str = ""

    def __str__(self) -> str:
        """Write it as it is handed out."""
        if self.promise_id:
            return f"{self.run_id}:{self.promise_id}"
        numbers = self.scheduled_event_id, self.attempt, self.started_at
        return ".".join((self.run_id, *map(str, numbers)))


def parse_token(text: object) -> ActivityToken:
    """Read a token.

    Raises:
        InvalidIdError: it is none.
    """
    if isinstance(text, str):
        run_id, _, promise = text.rpartition(":")
        if _is_id(run_id) and _is_number(promise):
            return ActivityToken(run_id, 0, 1, None, promise)
        parts = text.rsplit(".", 3)
        if len(parts) == 4 and _is_id(parts[0]) and all(map(_is_number, parts[1:])):
            event_id, attempt, started_at = map(int, parts[1:])
            return ActivityToken(parts[0], event_id, attempt, started_at)
    raise InvalidIdError(
        f"{text!r:.200} is no token of an activity.",
        hint="Pass on what complete_later() or external_promise() gave, unchanged.",
    )


def _is_id(text: str) -> bool:
    try:
        return bool(check_id(text, ""))
    except InvalidIdError:
        return False


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 19


def complete(
    record: ActivityTaskRecord,
    result: Payload,
    *,
    attempt: int | None,
    request_id: str,
    identity: str,
    now: int,
) -> CompleteActivity:
    """It has ended with a result."""
    outcome = ActivityTaskCompleted(
        scheduled_event_id=record.scheduled_event_id,
        result=result,
        attempt=record.attempt,
        started_at=record.started_at or now,
        identity=identity,
        last_failure=progress_of(record).last_failure,
    )
    rows: tuple[AttemptRecord, ...] = ()
    if record.attempt > 1 or progress_of(record).has_row:
        rows = (_row_of(record, AttemptState.COMPLETED, None, now),)
    return _end(record, outcome, rows, attempt, request_id)


def cancel(
    record: ActivityTaskRecord,
    *,
    attempt: int | None,
    request_id: str,
    identity: str,
    now: int,
) -> CompleteActivity:
    """It has stopped, and has no result."""
    outcome = endings.cancelled(record, identity)
    rows = (_row_of(record, AttemptState.CANCELLED, None, now),)
    return _end(record, outcome, rows, attempt, request_id)


def fail(
    record: ActivityTaskRecord,
    failure: Failure,
    *,
    attempt: int | None,
    request_id: str,
    identity: str,
    now: int,
) -> CompleteActivity:
    """Its attempt has failed: another one follows, if its policy allows that."""
    data, progress = data_of(record), progress_of(record)
    decision = endings.decide(record, data, progress, failure, now)
    rows = (_row_of(record, AttemptState.FAILED, failure, now),)
    if isinstance(decision, retry.GiveUp):
        outcome = endings.failed(record, failure, decision.retry_state, now, identity)
        return _end(record, outcome, rows, attempt, request_id)
    following = endings.after_failure(record, data, progress, failure, decision, now)
    return msgspec.structs.replace(
        _end(record, endings.cancelled(record), rows, attempt, request_id),
        message=None,
        next=following,
    )


def give_up(
    record: ActivityTaskRecord,
    failure: Failure,
    *,
    attempt: int | None,
    request_id: str,
    identity: str,
    now: int,
) -> CompleteActivity:
    """It has failed for good, whatever its policy allows."""
    state = retry.NON_RETRYABLE
    outcome = endings.failed(record, failure, state, now, identity)
    rows = (_row_of(record, AttemptState.FAILED, failure, now),)
    return _end(record, outcome, rows, attempt, request_id)


def repeat(
    record: ActivityTaskRecord,
    *,
    attempt: int | None,
    request_id: str,
    identity: str,
    now: int,
) -> CompleteActivity:
    """Its attempt, which was in doubt, has done nothing: another one follows."""
    progress = msgspec.structs.replace(
        progress_of(record),
        lost=progress_of(record).lost + 1,
        last_failure=None,
        in_doubt=False,
        has_row=False,
    )
    following = waiting_again(
        record, data_of(record), progress, attempt=record.attempt + 1, due_at=now
    )
    rows = (_row_of(record, AttemptState.LOST, None, now),)
    return msgspec.structs.replace(
        _end(record, endings.cancelled(record), rows, attempt, request_id),
        message=None,
        next=following,
    )


def beat(record: ActivityTaskRecord, details: Payloads, now: int) -> BeatActivityTask:
    """It goes on outside."""
    data, progress = data_of(record), progress_of(record)
    progress = msgspec.structs.replace(progress, details=details)
    expires_at, _ = ends_by(
        data.scheduled.settings, data.scheduled_at, record.started_at or now, now
    )
    return BeatActivityTask(
        run_id=record.run_id,
        scheduled_event_id=record.scheduled_event_id,
        attempt=record.attempt,
        progress=encode(progress),
        expires_at=None if progress.in_doubt else expires_at,
        is_external=True,
    )


def _row_of(
    record: ActivityTaskRecord, state: AttemptState, failure: Failure | None, now: int
) -> AttemptRecord:
    details = encode_details(progress_of(record).details)
    return endings.row_of(record, state, failure, now, details)


def _end(
    record: ActivityTaskRecord,
    outcome: ActivityOutcome,
    rows: tuple[AttemptRecord, ...],
    attempt: int | None,
    request_id: str,
) -> CompleteActivity:
    state = TaskState.EXTERNAL
    if attempt is None and data_of(record).scheduled.settings.effect == "transaction":
        attempt, state = record.attempt, _unbegun(record)
    return CompleteActivity(
        namespace=record.namespace,
        workflow_id=None,
        run_id=record.run_id,
        scheduled_event_id=record.scheduled_event_id,
        attempt=attempt,
        request_id=request_id,
        state=state,
        message=encode_message(outcome),
        attempts=rows,
    )


def _unbegun(record: ActivityTaskRecord) -> TaskState:
    """The state of a transaction that has certainly not been committed.

    Raises:
        InvalidCallError: it has begun, and perhaps was.
    """
    if record.state is TaskState.WAITING:
        return record.state
    raise InvalidCallError(
        f"Attempt {record.attempt} of activity {record.activity_type!r} of run"
        f" {record.run_id!r} is {record.state.value}. It is a transaction: what it"
        " writes and its result are committed together, and nobody else gives one.",
        hint="Wait for it, or cancel its workflow.",
    )
