"""From stored rows back to a live run: its events, messages and activities.

An activity without an outcome is in one of three states: its next attempt waits for its
time (a row says so), it was asked to stop, or an attempt was under way when its worker
died. The last is in doubt: it is run again as a further attempt, or reported as
`OutcomeUnknown` where running it again is not allowed: where one attempt was asked
for, or so many were lost that it must be the activity that kills its workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec

from durable.core.history.codec import UNREADABLE, at_version, decode_rows
from durable.core.history.events import (
    CHILD_OUTCOMES,
    DELIVERY_OUTCOMES,
    ActivityTaskCanceled,
    ActivityTaskFailed,
    ActivityTaskScheduled,
    ChildWorkflowExecutionStarted,
    HistoryEvent,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure, decode_details
from durable.core.machines import retry
from durable.core.machines.activity import ActivityMachine
from durable.core.machines.machine import State
from durable.core.messages import (
    ActivityResolution,
    ActivityReturned,
    decode_message,
)
from durable.core.workflow_task import TaskInput
from durable.errors import CorruptHistoryError
from durable.runs import attempts, inputs
from durable.runs.activity_tasks import attempt_rows, endings
from durable.runs.activity_tasks.offering import is_elsewhere
from durable.runs.effects import AttemptEnd, Effects, also
from durable.runs.incoming import Item
from durable.runs.live_run import Attempt, LiveRun
from durable.runs.states import BACKOFF, CANCELLING, HELD, OVER
from durable.runs.unrecorded.held_attempts import is_meant
from durable.store.records import (
    AttemptRecord,
    AttemptState,
    LoadedRun,
    MessageKind,
    MessageRecord,
)

_failure_decoder: Final = msgspec.json.Decoder(Failure)


# --- what was read --------------------------------------------------------------------


def decode_loaded(
    loaded: LoadedRun,
) -> tuple[WorkflowExecutionStarted, list[HistoryEvent]]:
    """The first event of a run, and its events as they are to be replayed.

    Raises:
        CorruptHistoryError: something of it cannot be read, messages included.
    """
    record, rows = loaded.record, loaded.rows
    if record.damage is not None:
        raise CorruptHistoryError(record.damage)
    # Without the row at which its replay begins it would begin all over again.
    if record.checkpoint_event_id > 1 and (
        len(rows) < 2 or rows[1][1] != record.checkpoint_event_id
    ):
        raise CorruptHistoryError(
            f"The row of run {record.run_id!r} names event"
            f" {record.checkpoint_event_id} as its newest checkpoint, and its history"
            " holds no such event."
        )
    history = at_version(decode_rows(rows), record.version)
    first = history[0].attributes if history else None
    if not isinstance(first, WorkflowExecutionStarted):
        raise CorruptHistoryError(
            f"The history of run {record.workflow_id!r} does not begin with"
            " WorkflowExecutionStarted."
        )
    for message in loaded.messages:
        event_of_message(message)
    return first, history


def event_of_message(
    message: MessageRecord,
) -> TaskInput | ActivityResolution | ActivityReturned | None:
    """What a message brings to its run; None for a query, which brings nothing.

    Raises:
        CorruptHistoryError: this release cannot read it.
    """
    if message.kind == MessageKind.QUERY.value:
        return None
    try:
        event: TaskInput | ActivityResolution | ActivityReturned = decode_message(
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


# --- what was under way ---------------------------------------------------------------


def restore_others(run: LiveRun, effects: Effects) -> None:
    """Ask again for children whose start, and messages whose answer, is nowhere."""
    heard = set(run.asked)
    for said in _heard(run):
        if isinstance(
            said, (*CHILD_OUTCOMES, *DELIVERY_OUTCOMES, ChildWorkflowExecutionStarted)
        ):
            number: int = said.initiated_event_id  # type: ignore[union-attr]  # by its kind
            heard.add(number)
    for child in run.replayer.pending_children():
        number = child.initiated_event_id
        if child.run_id is None and number not in heard:
            assert child.initiated is not None  # noqa: S101 - it is recorded
            event = HistoryEvent(number, 0, child.initiated_at, child.initiated)
            run.asked |= {number}
            effects.rare.start = also(effects.rare.start, event)
    for sent in run.replayer.pending_deliveries():
        number = sent.initiated_event_id
        if number not in heard:
            assert sent.initiated is not None  # noqa: S101 - it is recorded
            run.asked |= {number}
            event = HistoryEvent(number, 0, 0, sent.initiated)
            effects.rare.deliver = also(effects.rare.deliver, event)


def restore_activities(
    run: LiveRun, loaded: LoadedRun, effects: Effects, now: int
) -> None:
    """Take up the activities of a run that was just caught up.

    Those that this process runs already, and those whose outcome waits in the run's
    inputs, are left alone: only the code was driven again. So are those that anyone may
    take.
    """
    pending, rows = run.replayer.pending_activities(), loaded.attempts
    latest = {row.scheduled_event_id: row for row in rows}  # by attempt, ascending
    decided = {getattr(event, "scheduled_event_id", None) for event in _heard(run)}
    decided |= loaded.tasks.keys() | run.leaving.keys()
    run.forget_left()
    _drop_stale_backoffs(run, latest, decided)
    if not pending:
        return
    failed = {row.scheduled_event_id: row for row in rows if row.failure is not None}
    lost = Counter(
        row.scheduled_event_id for row in rows if row.state is AttemptState.LOST
    )
    for machine in pending:
        event_id = machine.scheduled_event_id
        if event_id in run.backoffs:
            run.backoffs[event_id].body = machine.target.body
        if event_id in decided or event_id in run.attempts or event_id in run.backoffs:
            continue
        row = latest.get(event_id)
        attempt = _attempt_of(run, machine, row, lost[event_id])
        if event_id in failed and attempt.scheduled.settings.is_verified:
            # Whether the code asks first what the attempt before has done.
            attempt.last_failure = _failure_of(failed[event_id])
        if machine.state is State.CANCEL_REQUESTED:
            run.incoming.add(Item(_cancelled(attempt)))
            run.ended += (attempt_rows.lost(attempt, None, now),)
        elif row is not None and row.state is AttemptState.BACKOFF:
            attempt.has_waited = row.failure is not None
            attempt.phase = BACKOFF
            run.backoffs[event_id] = attempt
        elif row is not None and row.state is AttemptState.RETURNED:
            _hold(run, attempt, _failure_of(row), effects)
        elif is_elsewhere(run, attempt.scheduled):
            # It was copied here without its task: it begins anew.
            attempt.attempt += row is not None
            attempt.phase, attempt.due_at = BACKOFF, now
            run.backoffs[event_id] = attempt
        else:
            _resolve_doubt(run, attempt, row, effects, now)


def _drop_stale_backoffs(
    run: LiveRun, latest: dict[int, AttemptRecord], decided: set[int | None]
) -> None:
    """Drop attempts that others have begun since, while the run was at rest."""
    for event_id, attempt in list(run.backoffs.items()):
        row = latest.get(event_id)
        is_ahead = row is not None and (
            row.attempt > attempt.attempt
            or (
                row.attempt == attempt.attempt and row.state is not AttemptState.BACKOFF
            )
        )
        is_over = run.replayer.find_activity(event_id) is None
        if is_ahead or is_over or event_id in decided:
            attempt.phase = OVER
            del run.backoffs[event_id]


def _heard(run: LiveRun) -> Iterator[TaskInput]:
    """What the run is about to see, or has recorded and not seen."""
    for item in run.incoming.waiting:
        yield item.event
    yield from run.replayer.unprocessed


def _failure_of(row: AttemptRecord) -> Failure:
    return _failure_decoder.decode(row.failure or "{}")


def _hold(run: LiveRun, attempt: Attempt, failure: Failure, effects: Effects) -> None:
    """Take up one whose function has returned; it ends if the code is mended.

    What an operator has decided meanwhile counts for more than what was kept.
    """
    attempt.phase, attempt.problem = HELD, failure
    run.attempts[attempt.scheduled_event_id] = attempt
    if not any(is_meant(r, attempt) for r in run.resolutions):
        effects.rare.mend = also(effects.rare.mend, attempt)


def _resolve_doubt(
    run: LiveRun,
    attempt: Attempt,
    row: AttemptRecord | None,
    effects: Effects,
    now: int,
) -> None:
    failure = endings.unknown_outcome(
        f"attempt {attempt.attempt} was under way when its worker died"
    )
    if row is not None and row.failure is not None:
        failure = _failure_of(row)  # its worker could still say why
    decision = _decide(attempt)
    end = AttemptEnd(attempt, AttemptState.LOST, failure, decision, was_here=False)
    effects.rare.attempt_ends = also(effects.rare.attempt_ends, end)
    if isinstance(decision, retry.GiveUp):
        if decision.retry_state == retry.IN_DOUBT:
            state = AttemptState.LOST
            attempts.ask_operator(attempt, failure, state, effects, now)
            return
        run.incoming.add(Item(_outcome_of_doubt(attempt, failure)))
        run.ended += (attempt_rows.lost(attempt, failure, now),)
    else:
        attempts.begin_after_doubt(attempt, failure, decision, effects, now)


def _decide(attempt: Attempt) -> retry.Retry | retry.GiveUp:
    run_id, number = attempt.run.run_id, attempt.scheduled_event_id
    key = endings.key_of(run_id, number, attempt.attempt)
    return endings.decide_doubt(attempt.scheduled.settings, attempt.lost, key)


def _outcome_of_doubt(attempt: Attempt, failure: Failure) -> ActivityTaskFailed:
    """How an activity ends that is not run again, as nobody knows what it did."""
    return ActivityTaskFailed(
        scheduled_event_id=attempt.scheduled_event_id,
        failure=failure,
        attempt=attempt.attempt,
        started_at=attempt.started_at or attempt.scheduled_at,
        retry_state="outcome_unknown",
    )


def lost_here(
    run: LiveRun, given: inputs.AttemptLost, effects: Effects, now: int
) -> None:
    """The process of an attempt has died, and its worker has not."""
    attempt, failure = given.attempt, given.failure
    if attempt.phase is OVER:
        return
    attempt.started_at, attempt.worker_id = given.started_at, run.terms.worker_id
    if attempt.phase is CANCELLING:
        attempts.close_cancelled(attempt, effects, now)
        return
    decision = _decide(attempt)
    state = AttemptState.LOST
    if isinstance(decision, retry.GiveUp) and decision.retry_state != retry.IN_DOUBT:
        outcome = _outcome_of_doubt(attempt, failure)
        attempts.close(attempt, outcome, state, effects, now, failure, decision)
        return
    attempts.end(attempt, state, effects, failure, decision)
    if isinstance(decision, retry.GiveUp):
        attempts.ask_operator(attempt, failure, state, effects, now)
        return
    run.attempts.pop(attempt.scheduled_event_id, None)
    attempts.begin_after_doubt(attempt, failure, decision, effects, now)


def _attempt_of(
    run: LiveRun, machine: ActivityMachine, row: AttemptRecord | None, lost: int
) -> Attempt:
    assert isinstance(machine.scheduled, ActivityTaskScheduled)  # noqa: S101 - it is recorded
    attempt = Attempt(
        run,
        machine.scheduled_event_id,
        machine.scheduled,
        # A reset has begun it anew.
        max(machine.scheduled_at, run.started_at),
        machine.headers or run.task_headers,
        attempt=1 if row is None else row.attempt,
        lost=lost,
        body=machine.target.body,
    )
    if row is not None:
        attempt.has_row = True
        attempt.worker_id = row.worker_id
        attempt.due_at = row.due_at
        attempt.started_at = row.started_at or 0
        attempt.details = decode_details(row.details)
        attempt.heartbeat_at = row.heartbeat_at or 0
    return attempt


def _cancelled(attempt: Attempt) -> ActivityTaskCanceled:
    return ActivityTaskCanceled(
        scheduled_event_id=attempt.scheduled_event_id,
        attempt=attempt.attempt,
        started_at=attempt.started_at,
    )
