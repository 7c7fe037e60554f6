"""What becomes of an activity that nobody runs: it has expired, or its worker died.

Any worker may say so, whether or not it knows the activity: only the end of the attempt
has to be written.
"""

from __future__ import annotations

from typing import Final

import msgspec

from durable.core.history.payload import encode_details
from durable.core.machines import retry
from durable.runs.activity_tasks import endings
from durable.runs.activity_tasks.task_rows import (
    data_of,
    ends_by,
    for_operator,
    gives_up_by,
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

_DIED: Final = "attempt {} was under way when its worker died"


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
    elif progress.in_doubt:
        expires_at, kind = gives_up_by(settings, data.scheduled_at)
    else:
        started_at = record.started_at or data.scheduled_at
        expires_at, kind = ends_by(
            settings, data.scheduled_at, started_at, record.heartbeat_at or started_at
        )
    if expires_at is None or expires_at > now:
        later = msgspec.structs.replace(record, expires_at=expires_at, judge_id=None)
        return endings.put_back(record, later)
    failure = timed_out(settings, kind, progress)
    if record.state is not TaskState.WAITING:
        failure = endings.in_doubt(settings, failure, record.attempt)
    decision = endings.decide(record, data, progress, failure, now)
    details = encode_details(progress.details)
    rows = (endings.row_of(record, AttemptState.TIMED_OUT, failure, now, details),)
    if isinstance(decision, retry.Retry):
        following = endings.after_failure(
            record, data, progress, failure, decision, now
        )
        return endings.put_back(record, following, rows)
    if decision.retry_state == retry.IN_DOUBT:
        return endings.put_back(
            record, for_operator(record, data, progress, failure), rows
        )
    outcome = endings.failed(record, failure, decision.retry_state, now)
    return endings.end(record, outcome, rows)


def _judge_lost(record: ActivityTaskRecord, now: int) -> SettleActivityTask:
    data, progress = data_of(record), progress_of(record)
    if progress.outcome is not None:
        # Its worker died between the commit of its transaction and the word of it.
        return endings.end(record, progress.outcome, (), record.cancel)
    if record.cancel is not None:
        rows = (endings.row_of(record, AttemptState.LOST, None, now),)
        return endings.end(record, endings.cancelled(record), rows, record.cancel)
    failure = endings.unknown_outcome(_DIED.format(record.attempt))
    details = encode_details(progress.details)
    rows = (endings.row_of(record, AttemptState.LOST, failure, now, details),)
    key = endings.key_of(record.run_id, record.scheduled_event_id, record.attempt)
    decision = endings.decide_doubt(data.scheduled.settings, progress.lost, key)
    if isinstance(decision, retry.GiveUp):
        if decision.retry_state == retry.IN_DOUBT:
            return endings.put_back(
                record, for_operator(record, data, progress, failure), rows
            )
        outcome = endings.failed(record, failure, decision.retry_state, now)
        return endings.end(record, outcome, rows)
    following = endings.after_failure(
        record, data, progress, failure, decision, now, is_lost=True
    )
    return endings.put_back(record, following, rows)
