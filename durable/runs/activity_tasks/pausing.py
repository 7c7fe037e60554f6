"""Activities of a run that somebody has paused: none of them begins.

What waits is marked, and due later: whoever takes it then asks whether the run is
paused still. So nothing is lost if whoever resumes it dies before the marks are gone.
"""

from __future__ import annotations

from typing import Final

import msgspec

from durable.core.history.payload import is_paused
from durable.runs.activity_tasks.task_rows import data_of, encode
from durable.store.activity_tasks import (
    ActivityTaskRecord,
    TaskState,
    UpdateActivityTask,
)
from durable.store.records import RunRecord

PAUSED: Final = "paused"
"""What a claimed task is told whose run is paused: it goes on, and is not retried."""
AGAIN_MICROSECONDS: Final = 300_000_000


def pause_task(record: ActivityTaskRecord, now: int) -> UpdateActivityTask | None:
    """Keep an activity from beginning, or its next attempt.

    Raises:
        CorruptHistoryError: its row cannot be read.
    """
    if record.state is TaskState.CLAIMED:
        return None if record.cancel else _update(record, cancel=PAUSED)
    if record.state is not TaskState.WAITING or data_of(record).is_run_paused:
        return None
    due_at = max(record.due_at, now + AGAIN_MICROSECONDS)
    return _update(record, data=_marked(record, is_run_paused=True), due_at=due_at)


def resume_task(record: ActivityTaskRecord, now: int) -> UpdateActivityTask | None:
    """Let it begin.

    Raises:
        CorruptHistoryError: its row cannot be read.
    """
    if record.state is TaskState.CLAIMED:
        return _update(record, cancel="") if record.cancel == PAUSED else None
    if record.state is not TaskState.WAITING or not data_of(record).is_run_paused:
        return None
    return _update(record, data=_marked(record, is_run_paused=False), due_at=now)


def mark(record: ActivityTaskRecord, now: int) -> ActivityTaskRecord:
    """The same row, of an attempt that is not to begin before its run is resumed."""
    due_at = max(record.due_at, now + AGAIN_MICROSECONDS)
    marked = _marked(record, is_run_paused=True)
    return msgspec.structs.replace(record, data=marked, due_at=due_at)


def goes_on(run: RunRecord | None) -> bool:
    """Whether an activity that is marked may begin after all."""
    return run is None or not is_paused(run.stuck)


def _marked(record: ActivityTaskRecord, *, is_run_paused: bool) -> str:
    data = msgspec.structs.replace(data_of(record), is_run_paused=is_run_paused)
    return encode(data)


def _update(
    record: ActivityTaskRecord,
    *,
    data: str | None = None,
    due_at: int | None = None,
    cancel: str | None = None,
) -> UpdateActivityTask:
    return UpdateActivityTask(
        run_id=record.run_id,
        scheduled_event_id=record.scheduled_event_id,
        attempt=record.attempt,
        state=record.state,
        data=data,
        due_at=due_at,
        cancel=cancel,
    )
