"""What becomes of an activity that nobody runs: it has expired, or its worker died.

Any worker may say so, whether or not it knows the activity: only the end of the attempt
has to be written.
"""

from __future__ import annotations

from typing import Final

import msgspec

from durable.core.history.payload import Failure, encode_details
from durable.core.machines import retry
from durable.runs.activity_tasks import endings
from durable.runs.activity_tasks.task_rows import (
    data_of,
    ends_by,
    progress_of,
    starts_by,
    timed_out,
)
from durable.store.activity_tasks import (
    ActivityTaskRecord,
    SettleActivityTask,
    TaskState,
)
from durable.store.records import AttemptState

_DIED: Final = (
    "attempt {} was under way when its worker died; nobody knows whether it took effect"
)


def judge(record: ActivityTaskRecord, now: int) -> SettleActivityTask:
    """Say what becomes of it.

    Raises:
        CorruptHistoryError: this release cannot read its row.
    """
    if record.state is TaskState.LOST:
        return _judge_lost(record, now)
    data, progress = data_of(record), progress_of(record)
    settings = data.scheduled.settings
    if record.state is TaskState.WAITING:
        since = progress.waits_since or record.due_at
        expires_at, kind = starts_by(settings, data.scheduled_at, since)
    else:
        started_at = record.started_at or data.scheduled_at
        expires_at, kind = ends_by(
            settings, data.scheduled_at, started_at, record.heartbeat_at or started_at
        )
    if expires_at is None or expires_at > now:
        later = msgspec.structs.replace(record, expires_at=expires_at, judge_id=None)
        return endings.put_back(record, later)
    failure = timed_out(settings, kind, progress)
    decision = endings.decide(record, data, progress, failure, now)
    details = encode_details(progress.details)
    rows = (endings.row_of(record, AttemptState.TIMED_OUT, failure, now, details),)
    if isinstance(decision, retry.Retry):
        following = endings.after_failure(
            record, data, progress, failure, decision, now
        )
        return endings.put_back(record, following, rows)
    outcome = endings.failed(record, failure, decision.retry_state, now)
    return endings.end(record, outcome, rows)


def _judge_lost(record: ActivityTaskRecord, now: int) -> SettleActivityTask:
    if record.cancel is not None:
        rows = (endings.row_of(record, AttemptState.LOST, None, now),)
        return endings.end(record, endings.cancelled(record), rows, record.cancel)
    data, progress = data_of(record), progress_of(record)
    failure = Failure(
        message=_DIED.format(record.attempt),
        kind="outcome_unknown",
        type="OutcomeUnknown",
    )
    details = encode_details(progress.details)
    rows = (endings.row_of(record, AttemptState.LOST, failure, now, details),)
    decision = endings.decide_doubt(data.scheduled.settings, progress.lost)
    if isinstance(decision, retry.GiveUp):
        outcome = endings.failed(record, failure, decision.retry_state, now)
        return endings.end(record, outcome, rows)
    following = endings.after_failure(
        record, data, progress, failure, decision, now, is_lost=True
    )
    return endings.put_back(record, following, rows)
