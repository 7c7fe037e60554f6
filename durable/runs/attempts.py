"""What becomes of the attempts of a run's activities.

The first attempt of a local activity is recorded by its scheduled event. Every other
one is a row before its first line runs. An attempt's outcome is decided once: by its
function, its timeout or its cancellation, whichever comes first; the rest is not heard.
"""

from __future__ import annotations

from typing import Final

import msgspec

from durable import limits
from durable.core.history.events import (
    ActivityTaskCanceled,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskScheduled,
    ActivityTaskTimedOut,
    Attributes,
    HistoryEvent,
)
from durable.core.history.payload import Failure
from durable.core.machines import retry
from durable.errors import NotRegisteredError
from durable.runs import inputs
from durable.runs.activity_tasks import attempt_rows as rows_of
from durable.runs.activity_tasks import endings
from durable.runs.activity_tasks.offering import is_given_out
from durable.runs.activity_tasks.offering import row_of as task_row_of
from durable.runs.activity_tasks.task_rows import (
    external_row_of,
    operator_row_of,
)
from durable.runs.effects import AttemptEnd, Effects, Recording, Then, also
from durable.runs.incoming import Item
from durable.runs.live_run import Attempt, LiveRun
from durable.runs.states import (
    AT_REST,
    BACKOFF,
    CANCELLING,
    COMMITTING,
    HELD,
    OVER,
    QUEUED,
    RECORDING,
    REPLAYING,
    RUNNING,
    UNREAD,
)
from durable.store.activity_tasks import ActivityTaskRecord
from durable.store.records import (
    ATTEMPT_COMPLETED,
    AttemptRecord,
    AttemptState,
    RecordAttempts,
)

_RUNS: Final = (RUNNING, CANCELLING)
_READS: Final = (UNREAD, REPLAYING)
"""Others may have begun meanwhile what it remembers as waiting."""
_SHORT_WAIT: Final = int(limits.LOCAL_SECONDS * 1_000_000)

# --- beginning ------------------------------------------------------------------------


def schedule(run: LiveRun, event: HistoryEvent, effects: Effects, now: int) -> None:
    """A recorded activity may begin."""
    scheduled = event.attributes
    assert isinstance(scheduled, ActivityTaskScheduled)  # noqa: S101 - by the caller
    headers = run.task_headers
    if run.terms.is_observed:
        machine = run.replayer.find_activity(event.event_id)
        headers = (machine and machine.headers) or headers
    attempt = Attempt(run, event.event_id, scheduled, event.time, headers)
    if scheduled.settings.is_step:
        step = run.replayer.find_activity(event.event_id)
        attempt.body = step and step.target.body
    run.attempts[event.event_id] = attempt
    order(attempt, effects, now)


def order(attempt: Attempt, effects: Effects, now: int) -> None:
    """Let an attempt begin that is recorded."""
    if attempt.phase is OVER:
        return
    if attempt.run.terms.is_draining:
        # The next worker must know that it has certainly not begun.
        record(attempt, AttemptState.BACKOFF, Then.REMEMBER, effects, now)
        return
    if attempt.run.paused is not None:
        _put_off(attempt, effects, now)
        return
    attempt.phase = RUNNING
    effects.begin = also(effects.begin, attempt)


def begin_due(run: LiveRun, effects: Effects, now: int) -> None:
    """Begin the attempts whose time has come; each is recorded first."""
    if not run.backoffs or run.terms.is_draining or run.state in _READS:
        return
    if run.paused is not None:
        return
    for attempt in list(run.backoffs.values()):
        is_unwritten = run.is_unwritten(attempt.scheduled_event_id)
        if attempt.due_at > now or (is_unwritten and run.state is COMMITTING):
            continue  # what is being written says when it is due
        if is_given_out(run, attempt.scheduled):
            offer(attempt, effects, now)
            continue
        del run.backoffs[attempt.scheduled_event_id]
        run.attempts[attempt.scheduled_event_id] = attempt
        if is_unwritten:
            order(attempt, effects, now)
        elif attempt.body or run.terms.knows_activity(attempt.scheduled.activity_type):
            attempt.phase = RECORDING
            record(attempt, AttemptState.STARTED, Then.BEGIN, effects, now)
        else:
            _await_worker(attempt, effects, now)


def offer(attempt: Attempt, effects: Effects, now: int) -> None:
    """Leave an attempt that has not begun to whoever takes it."""
    run, number = attempt.run, attempt.scheduled_event_id
    run.backoffs.pop(number, None)
    run.attempts.pop(number, None)
    run.note_leaving(number)
    attempt.phase = OVER
    tasks = (task_row_of(attempt, now),)
    _submit(attempt, (), Then.OFFER, effects, tasks)


def _put_off(attempt: Attempt, effects: Effects, now: int) -> None:
    """Let an attempt wait until its run, which is paused, goes on."""
    run, number = attempt.run, attempt.scheduled_event_id
    run.attempts.pop(number, None)
    run.backoffs[number] = attempt
    attempt.phase, attempt.due_at = BACKOFF, now
    record(attempt, AttemptState.BACKOFF, Then.REMEMBER, effects, now)


def _await_worker(attempt: Attempt, effects: Effects, now: int) -> None:
    """Keep an attempt for a worker that knows its activity."""
    reason = Failure(
        message="no worker that has come by knows this activity",
        type=NotRegisteredError.__name__,
    )
    # Two that both do not know it must not throw it to each other.
    is_first, attempt.has_waited = not attempt.has_waited, True
    attempt.phase = QUEUED
    attempt.due_at = attempt.due_at or attempt.scheduled_at
    recording = record(attempt, AttemptState.BACKOFF, Then.SEEK, effects, now, reason)
    recording.is_first = is_first


def begin_after_doubt(
    attempt: Attempt,
    failure: Failure,
    decision: retry.Retry,
    effects: Effects,
    now: int,
) -> None:
    """Let the attempt follow on one whose worker died in the middle of it."""
    following = following_attempt(attempt, failure, now + decision.delay)
    following.lost += 1
    run, number = attempt.run, attempt.scheduled_event_id
    is_now = not decision.delay and not is_given_out(run, attempt.scheduled)
    if run.paused is None and is_now:
        following.phase, state, then = RECORDING, AttemptState.STARTED, Then.BEGIN
        run.attempts[number] = following
    elif run.paused is None:
        following.phase, state, then = BACKOFF, AttemptState.BACKOFF, Then.WAIT
        run.backoffs[number] = following
    else:
        following.phase, state, then = BACKOFF, AttemptState.BACKOFF, Then.REMEMBER
        run.backoffs[number] = following
    rows = (
        rows_of.lost(attempt, failure, now),
        rows_of.row_of(following, state, None, now),
    )
    _submit(following, rows, then, effects)


def following_attempt(
    attempt: Attempt, failure: Failure | None, due_at: int
) -> Attempt:
    """The attempt after this one."""
    return Attempt(
        attempt.run,
        attempt.scheduled_event_id,
        attempt.scheduled,
        attempt.scheduled_at,
        attempt.headers,
        attempt=attempt.attempt + 1,
        lost=attempt.lost,
        last_failure=failure,
        has_row=True,
        due_at=due_at,
        details=attempt.details,
        body=attempt.body,
    )


# --- what the pool says ---------------------------------------------------------------


def completed(
    run: LiveRun, given: inputs.AttemptCompleted, effects: Effects, now: int
) -> None:
    """The function of an attempt has returned."""
    attempt = given.attempt
    if attempt.phase is OVER:
        return
    attempt.started_at = given.started_at
    outcome = ActivityTaskCompleted(
        scheduled_event_id=attempt.scheduled_event_id,
        result=given.result,
        attempt=attempt.attempt,
        started_at=given.started_at,
        identity=run.terms.worker_id,
        last_failure=attempt.last_failure,
    )
    close(attempt, outcome, ATTEMPT_COMPLETED, effects, now)


def stopped(
    run: LiveRun, given: inputs.AttemptStopped, effects: Effects, now: int
) -> None:
    """An attempt has ended as it was asked to."""
    if given.attempt.phase is CANCELLING:
        given.attempt.started_at = given.started_at
        close_cancelled(given.attempt, effects, now)


def failed(
    run: LiveRun, given: inputs.AttemptFailed, effects: Effects, now: int
) -> None:
    """An attempt has failed, or its time is up: decide what follows."""
    attempt, failure = given.attempt, given.failure
    if attempt.phase is OVER:
        return
    attempt.started_at = given.started_at
    is_late = failure.kind == "timeout"
    decision: retry.Retry | retry.GiveUp
    if attempt.phase is CANCELLING:
        decision = retry.GiveUp(retry.CANCEL_REQUESTED)
    else:
        settings = attempt.scheduled.settings
        failure = endings.in_doubt(settings, failure, attempt.attempt)
        decision = endings.decide_failure(
            settings,
            failure,
            attempt=attempt.attempt,
            lost=attempt.lost,
            scheduled_at=attempt.scheduled_at,
            now=now,
            key=endings.key_of(run.run_id, attempt.scheduled_event_id, attempt.attempt),
            not_before=given.not_before,
        )
    state = AttemptState.TIMED_OUT if is_late else AttemptState.FAILED
    if isinstance(decision, retry.Retry):
        if run.unwritten and run.is_unwritten(attempt.scheduled_event_id):
            # What is being written says already when the run is due.
            if decision.delay > _SHORT_WAIT or run.state is COMMITTING:
                run.unwritten.hold(given)
                return
            end(attempt, state, effects, failure, decision)
            _wait_here(attempt, failure, now + decision.delay, effects)
            return
        _try_again(attempt, failure, decision, state, effects, now)
        return
    if decision.retry_state == retry.IN_DOUBT:
        end(attempt, state, effects, failure, decision)
        ask_operator(attempt, failure, state, effects, now)
        return
    is_late = failure.kind == "timeout"
    event = ActivityTaskTimedOut if is_late else ActivityTaskFailed
    outcome = event(
        scheduled_event_id=attempt.scheduled_event_id,
        failure=failure,
        attempt=attempt.attempt,
        started_at=attempt.started_at,
        retry_state=decision.retry_state,
        identity=run.terms.worker_id,
    )
    close(attempt, outcome, state, effects, now, failure, decision)


def _try_again(
    attempt: Attempt,
    failure: Failure,
    decision: retry.Retry,
    state: AttemptState,
    effects: Effects,
    now: int,
) -> None:
    """Record that this attempt failed and when the next one is due."""
    end(attempt, state, effects, failure, decision)
    run = attempt.run
    following = following_attempt(attempt, failure, now + decision.delay)
    following.phase = BACKOFF
    run.attempts.pop(attempt.scheduled_event_id, None)
    run.backoffs[attempt.scheduled_event_id] = following
    rows = (
        rows_of.row_of(attempt, state, failure, now),
        rows_of.row_of(following, AttemptState.BACKOFF, None, now),
    )
    recording = _submit(following, rows, Then.FOLLOW, effects)
    recording.ended = rows[0]


def _wait_here(
    attempt: Attempt, failure: Failure, due_at: int, effects: Effects
) -> None:
    """Let the next attempt of an activity wait that is not written, as that is not."""
    run, number = attempt.run, attempt.scheduled_event_id
    following = following_attempt(attempt, failure, due_at)
    following.phase, following.has_row = BACKOFF, False
    run.attempts.pop(number, None)
    run.backoffs[number] = following
    effects.rare.again = also(effects.rare.again, due_at)


def ask_operator(
    attempt: Attempt,
    failure: Failure,
    state: AttemptState,
    effects: Effects,
    now: int,
) -> None:
    """Leave an attempt in doubt to an operator, who says what it has done."""
    run, number = attempt.run, attempt.scheduled_event_id
    attempt.phase = OVER
    run.attempts.pop(number, None)
    run.note_leaving(number)
    row = rows_of.lost(attempt, failure, now)
    rows = (msgspec.structs.replace(row, state=state),)
    tasks = (operator_row_of(attempt, failure),)
    _submit(attempt, rows, Then.OFFER, effects, tasks)


def not_begun(
    run: LiveRun, given: inputs.AttemptNotBegun, effects: Effects, now: int
) -> None:
    """An attempt could not begin: it is tried again soon, unless it is to stop."""
    attempt = given.attempt
    if attempt.phase is OVER:
        return
    if attempt.phase is CANCELLING:
        close_cancelled(attempt, effects, now)
        return
    attempt.phase, attempt.due_at = BACKOFF, given.again_at
    run.attempts.pop(attempt.scheduled_event_id, None)
    run.backoffs[attempt.scheduled_event_id] = attempt
    record(attempt, AttemptState.BACKOFF, Then.WAIT, effects, now)


def beat(run: LiveRun, given: inputs.AttemptBeat, effects: Effects, now: int) -> None:
    """A running attempt goes on: write what it said, for the attempt after it."""
    attempt = given.attempt
    if attempt.phase in _RUNS and run.state not in _READS:
        attempt.started_at, attempt.heartbeat_at = given.started_at, now
        record(attempt, AttemptState.STARTED, Then.REMEMBER, effects, now)


def external(
    run: LiveRun, given: inputs.AttemptExternal, effects: Effects, now: int
) -> None:
    """Leave a running attempt to somebody outside, who has its token then."""
    attempt = given.attempt
    if attempt.phase is not RUNNING or run.state in _READS:
        effects.tell = also(effects.tell, (given.token, False))
        return
    attempt.started_at = given.started_at
    run.attempts.pop(attempt.scheduled_event_id, None)
    run.note_leaving(attempt.scheduled_event_id)
    attempt.phase = OVER
    tasks = (external_row_of(attempt, now),)
    recording = _submit(attempt, (), Then.EXTERNAL, effects, tasks)
    recording.token = given.token


def queued(
    run: LiveRun, given: inputs.AttemptQueued, effects: Effects, now: int
) -> None:
    """The pool has no room for an attempt: a row says that it has not begun."""
    attempt = given.attempt
    if attempt.phase is OVER:
        return
    is_ours = attempt.body or attempt.scheduled.settings.is_local
    may_offer = run.terms.has_others and not is_ours
    may_offer = may_offer or is_given_out(run, attempt.scheduled)
    if may_offer and run.paused is None:
        offer(attempt, effects, now)
        return
    attempt.phase = QUEUED
    may_wait = not attempt.has_row and endings.may_repeat(attempt.scheduled.settings)
    if given.is_one_of_many and may_wait and run.paused is None:
        return
    record(attempt, AttemptState.BACKOFF, Then.REMEMBER, effects, now)


def unknown(
    run: LiveRun, given: inputs.AttemptUnknown, effects: Effects, now: int
) -> None:
    """The pool does not know an activity."""
    _await_worker(given.attempt, effects, now)


def ready(run: LiveRun, given: inputs.AttemptReady, effects: Effects, now: int) -> None:
    """The pool has room for an attempt that waited: record that it begins."""
    if given.attempt.phase is not OVER and run.paused is not None:
        _put_off(given.attempt, effects, now)
    elif given.attempt.phase is not OVER and not given.attempt.has_row:
        order(given.attempt, effects, now)
    elif given.attempt.phase is not OVER:
        given.attempt.phase = RECORDING
        record(given.attempt, AttemptState.STARTED, Then.BEGIN, effects, now)


def left(run: LiveRun, given: inputs.AttemptLeft, effects: Effects, now: int) -> None:
    """The pool drains and has not begun an attempt."""
    if given.attempt.phase is not OVER:
        given.attempt.phase = OVER
        record(given.attempt, AttemptState.BACKOFF, Then.REMEMBER, effects, now)


def unheard(
    run: LiveRun, given: inputs.AttemptUnheard, effects: Effects, now: int
) -> None:
    """The pool drains and does not wait for an attempt that may be run again."""
    given.attempt.phase = OVER


def doubtful(
    run: LiveRun, given: inputs.AttemptDoubtful, effects: Effects, now: int
) -> None:
    """Record why the outcome of an attempt is not known, for who comes next."""
    attempt = given.attempt
    if attempt.phase is not OVER:
        attempt.phase, attempt.started_at = OVER, given.started_at
        state = AttemptState.STARTED
        record(attempt, state, Then.REMEMBER, effects, now, given.failure)


# --- the end --------------------------------------------------------------------------


def cancel(run: LiveRun, scheduled_event_id: int, effects: Effects, now: int) -> None:
    """Ask an activity to stop; one that has not begun is over at once."""
    waiting = run.backoffs.pop(scheduled_event_id, None)
    attempt = waiting or run.attempts.get(scheduled_event_id)
    if attempt is None or attempt.phase is OVER:
        return
    effects.rare.stop = also(effects.rare.stop, attempt)
    if attempt.phase in _RUNS:
        attempt.phase = CANCELLING
    else:  # of one that is held, nobody waits for what it returned
        attempt.problem = None
        close_cancelled(attempt, effects, now)


def forget(run: LiveRun, effects: Effects, *, is_closed: bool) -> None:
    """Stop the activities of a run that is closed or no longer this worker's.

    Those that a closed run has abandoned go on, unheard.
    """
    if not (run.attempts or run.backoffs):
        return
    stop: list[Attempt] = []
    unheard: list[Attempt] = []
    for attempt in (*run.attempts.values(), *run.backoffs.values()):
        attempt.phase = OVER
        kind = attempt.scheduled.settings.cancellation_type
        (unheard if is_closed and kind == "abandon" else stop).append(attempt)
    effects.rare.stop, effects.rare.unheard = [*effects.rare.stop, *stop], unheard
    run.attempts, run.backoffs = {}, {}


def close_cancelled(attempt: Attempt, effects: Effects, now: int) -> None:
    outcome = ActivityTaskCanceled(
        scheduled_event_id=attempt.scheduled_event_id,
        attempt=attempt.attempt,
        started_at=attempt.started_at,
        identity=attempt.run.terms.worker_id,
    )
    close(attempt, outcome, AttemptState.CANCELLED, effects, now)


def close(
    attempt: Attempt,
    outcome: Attributes,
    state: AttemptState,
    effects: Effects,
    now: int,
    failure: Failure | None = None,
    decision: retry.GiveUp | None = None,
) -> None:
    """Hand the activity's outcome to its run."""
    run = attempt.run
    if decision is not None or run.terms.is_observed:
        end(attempt, state, effects, failure, decision)
    attempt.phase = OVER
    run.attempts.pop(attempt.scheduled_event_id, None)
    item = Item(outcome)
    if attempt.scheduled.settings.is_local:
        item.is_local = True
    run.incoming.add(item)
    if attempt.has_row or state is not ATTEMPT_COMPLETED:
        run.ended += (rows_of.row_of(attempt, state, failure, now),)


def end(
    attempt: Attempt,
    state: AttemptState,
    effects: Effects,
    failure: Failure | None,
    decision: retry.Retry | retry.GiveUp | None = None,
) -> None:
    """Nothing more is heard of an attempt; say how it ended."""
    has_run = attempt.phase in _RUNS
    end = AttemptEnd(attempt, state, failure, decision, has_run=has_run)
    effects.rare.attempt_ends = also(effects.rare.attempt_ends, end)
    attempt.phase = OVER


# --- rows -----------------------------------------------------------------------------


def record(
    attempt: Attempt,
    state: AttemptState,
    then: Then,
    effects: Effects,
    now: int,
    failure: Failure | None = None,
) -> Recording:
    """Write where an attempt stands, and when its run must be woken."""
    attempt.has_row = True
    rows = (rows_of.row_of(attempt, state, failure, now),)
    return _submit(attempt, rows, then, effects)


def _submit(
    attempt: Attempt,
    rows: tuple[AttemptRecord, ...],
    then: Then,
    effects: Effects,
    tasks: tuple[ActivityTaskRecord, ...] = (),
) -> Recording:
    run = attempt.run
    row = run.wanted_row(is_busy=run.state is not AT_REST or run.unwritten is not None)
    epoch = run.spend_epoch(stays=row[0])
    run.row = row
    operation = RecordAttempts(
        run_id=run.run_id,
        attempts=rows,
        is_active=run.row[0],
        wake_at=run.row[1],
        epoch=epoch,
        known=run.incoming.known(),
        tasks=tasks,
    )
    recording = Recording(operation, attempt, then)
    effects.rare.record = also(effects.rare.record, recording)
    return recording


def recorded(
    run: LiveRun, recording: Recording, effects: Effects, now: int, *, is_done: bool
) -> None:
    """What a row was written for may follow, or not.

    What the store says of an attempt that was not recorded is taken up when its run is
    read again.
    """
    attempt, then = recording.attempt, recording.then
    if then is Then.OFFER or then is Then.EXTERNAL:
        run.has_left(attempt.scheduled_event_id, is_reading=run.state in _READS)
    if then is Then.BEGIN or then is Then.SEEK:
        if not is_done:
            if run.attempts.get(attempt.scheduled_event_id) is attempt:
                del run.attempts[attempt.scheduled_event_id]
            attempt.phase = OVER
            effects.rare.stop = also(effects.rare.stop, attempt)
        elif then is Then.BEGIN:
            order(attempt, effects, now)
        elif attempt.phase is not OVER:
            effects.rare.seek = also(effects.rare.seek, (attempt, recording.is_first))
    elif then is Then.WAIT or then is Then.FOLLOW:
        if recording.ended is not None and not is_done:
            run.ended += (recording.ended,)
        effects.wake_by(attempt.due_at)
    elif then is Then.HOLD and is_done and attempt.phase is HELD:
        run.is_holding = True
    elif then is Then.EXTERNAL:
        effects.tell = also(effects.tell, (recording.token, is_done))
    elif then is Then.OFFER and is_done:
        effects.rare.look_around = True
