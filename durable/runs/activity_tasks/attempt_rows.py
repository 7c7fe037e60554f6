"""Rows of attempts that a run's owner runs, and what ends one that is in doubt."""

from __future__ import annotations

from typing import Final

import msgspec

from durable.core.history.payload import Failure, encode_details
from durable.runs.live_run import Attempt
from durable.store.records import AttemptRecord, AttemptState

_OPEN: Final = (AttemptState.BACKOFF, AttemptState.STARTED)


def row_of(
    attempt: Attempt, state: AttemptState, failure: Failure | None, now: int
) -> AttemptRecord:
    """The row of an attempt that now stands so."""
    return AttemptRecord(
        run_id=attempt.run.run_id,
        scheduled_event_id=attempt.scheduled_event_id,
        attempt=attempt.attempt,
        activity_type=attempt.scheduled.activity_type,
        state=state,
        due_at=attempt.due_at or now,
        started_at=(
            attempt.started_at or now if state is not AttemptState.BACKOFF else None
        ),
        closed_at=None if state in _OPEN else now,
        failure=None if failure is None else msgspec.json.encode(failure).decode(),
        worker_id=attempt.run.terms.worker_id,
        details=encode_details(attempt.details),
        heartbeat_at=attempt.heartbeat_at or None,
    )


def lost(attempt: Attempt, failure: Failure | None, now: int) -> AttemptRecord:
    """The row of an attempt whose worker died in the middle of it."""
    started_at = attempt.started_at or attempt.scheduled_at
    return AttemptRecord(
        run_id=attempt.run.run_id,
        scheduled_event_id=attempt.scheduled_event_id,
        attempt=attempt.attempt,
        activity_type=attempt.scheduled.activity_type,
        state=AttemptState.LOST,
        due_at=attempt.due_at or started_at,
        started_at=started_at,
        closed_at=now,
        failure=None if failure is None else msgspec.json.encode(failure).decode(),
        worker_id=attempt.worker_id,
        details=encode_details(attempt.details),
        heartbeat_at=attempt.heartbeat_at or None,
    )
