"""From stored rows back to a live run: its events, messages and activities.

An activity without an outcome is in one of three states: its next attempt waits for its
time (a row says so), it was asked to stop, or an attempt was under way when its worker
died. The last is in doubt: it is run again as a further attempt, or reported as
`OutcomeUnknown` where running it again is not allowed: where one attempt was asked
for, or so many were lost that it must be the activity that kills its workers.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, Protocol

import msgspec

from durable import limits
from durable.core import retry
from durable.core.codec import UNREADABLE
from durable.core.events import (
    ActivityTaskCanceled,
    ActivityTaskFailed,
    ActivityTaskScheduled,
    HistoryEvent,
    WorkflowExecutionStarted,
)
from durable.core.machines.activity import ActivityMachine
from durable.core.machines.machine import State
from durable.core.messages import ActivityResolution, decode_message
from durable.core.payload import Failure
from durable.core.workflow_task import TaskInput
from durable.errors import CorruptHistoryError
from durable.store.records import (
    AttemptRecord,
    AttemptState,
    MessageKind,
    MessageRecord,
)
from durable.worker.live_run import Attempt, LiveRun
from durable.worker.log_lines import log_failed_attempt

_failure_decoder: Final = msgspec.json.Decoder(Failure)


class Holder(Protocol):
    """Keeps attempts whose function has returned what could not be recorded."""

    def restore(self, attempt: Attempt, failure: Failure) -> None:
        """Take one up; end it if the code is mended."""
        ...


class Repeater(Protocol):
    """Begins the attempt after a lost one."""

    @property
    def held(self) -> Holder:
        """Keeps those that are not to be repeated."""
        ...

    def begin_after_doubt(
        self, attempt: Attempt, failure: Failure, lost: AttemptRecord
    ) -> None:
        """Record that an attempt was lost, then begin the next."""
        ...


def restore_activities(
    run: LiveRun, rows: list[AttemptRecord], repeater: Repeater, now: int
) -> None:
    """Take up the activities of a run that was just caught up.

    Those that this process runs already, and those whose outcome waits in the run's
    inputs, are left alone: only the code was driven again.
    """
    latest = {row.scheduled_event_id: row for row in rows}  # by attempt, ascending
    lost = Counter(
        row.scheduled_event_id for row in rows if row.state is AttemptState.LOST
    )
    decided = {
        getattr(event, "scheduled_event_id", None)
        for event in (*run.inputs, *run.replayer.unprocessed)
    }
    for machine in run.replayer.pending_activities():
        event_id = machine.scheduled_event_id
        if event_id in decided or event_id in run.attempts or event_id in run.backoffs:
            continue
        row = latest.get(event_id)
        attempt = _attempt_of(run, machine, row, lost[event_id])
        if machine.state is State.CANCEL_REQUESTED:
            run.inputs.append(_cancelled(attempt))
            run.attempt_records += (_lost(attempt, None, now),)
        elif row is not None and row.state is AttemptState.BACKOFF:
            attempt.has_waited = row.failure is not None
            run.backoffs[event_id] = attempt
        elif row is not None and row.state is AttemptState.RETURNED:
            repeater.held.restore(attempt, _failure_of(row))
        else:
            _resolve_doubt(run, attempt, row, repeater, now)


def _failure_of(row: AttemptRecord) -> Failure:
    return _failure_decoder.decode(row.failure or "{}")


def _resolve_doubt(
    run: LiveRun,
    attempt: Attempt,
    row: AttemptRecord | None,
    repeater: Repeater,
    now: int,
) -> None:
    settings = attempt.scheduled.settings
    failure = Failure(
        message=f"attempt {attempt.attempt} was under way when its worker died;"
        " nobody knows whether it took effect",
        kind="outcome_unknown",
        type="OutcomeUnknown",
    )
    if row is not None and row.failure is not None:
        failure = _failure_of(row)  # its worker could still say why
    if (
        settings.at_most_once
        or settings.retry_policy.max_attempts == 1
        or attempt.lost + 1 >= limits.LOST_ATTEMPTS_MAX
    ):
        log_failed_attempt(attempt, failure, retry.GiveUp("outcome_unknown"))
        run.inputs.append(_doubtful(attempt, failure))
        run.attempt_records += (_lost(attempt, failure, now),)
    else:
        log_failed_attempt(attempt, failure, retry.Retry(0))
        repeater.begin_after_doubt(attempt, failure, _lost(attempt, failure, now))


def first_event(history: list[HistoryEvent], run: LiveRun) -> WorkflowExecutionStarted:
    first = history[0].attributes if history else None
    if not isinstance(first, WorkflowExecutionStarted):
        raise CorruptHistoryError(
            f"The history of run {run.workflow_id!r} does not begin with"
            " WorkflowExecutionStarted."
        )
    return first


def event_of_message(
    message: MessageRecord,
) -> TaskInput | ActivityResolution | None:
    """What a message brings to its run; None for a query, which brings nothing.

    Raises:
        CorruptHistoryError: this release cannot read it.
    """
    if message.kind == MessageKind.QUERY.value:
        return None
    try:
        event: TaskInput | ActivityResolution = decode_message(
            message.kind, message.data
        )
        return event
    except KeyError:
        raise CorruptHistoryError(
            f"Message {message.sequence} of run {message.run_id} is of the kind"
            f" {message.kind!r}, which this release does not know."
        ) from None
    except UNREADABLE as error:
        raise CorruptHistoryError(
            f"Message {message.sequence} of run {message.run_id} cannot be read:"
            f" {error}."
        ) from None


def _attempt_of(
    run: LiveRun, machine: ActivityMachine, row: AttemptRecord | None, lost: int
) -> Attempt:
    assert isinstance(machine.scheduled, ActivityTaskScheduled)  # noqa: S101 - it is recorded
    attempt = Attempt(
        run,
        machine.scheduled_event_id,
        machine.scheduled,
        machine.scheduled_at,
        run.task_headers,
        attempt=1 if row is None else row.attempt,
        lost=lost,
    )
    if row is not None:
        attempt.has_row = True
        attempt.worker_id = row.worker_id
        attempt.due_at = row.due_at
        attempt.started_at = row.started_at or 0
    return attempt


def _cancelled(attempt: Attempt) -> ActivityTaskCanceled:
    return ActivityTaskCanceled(
        scheduled_event_id=attempt.scheduled_event_id,
        attempt=attempt.attempt,
        started_at=attempt.started_at,
    )


def _doubtful(attempt: Attempt, failure: Failure) -> ActivityTaskFailed:
    return ActivityTaskFailed(
        scheduled_event_id=attempt.scheduled_event_id,
        failure=failure,
        attempt=attempt.attempt,
        started_at=attempt.started_at or attempt.scheduled_at,
        retry_state="outcome_unknown",
    )


def _lost(attempt: Attempt, failure: Failure | None, now: int) -> AttemptRecord:
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
    )
