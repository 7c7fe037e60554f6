"""What becomes of attempts whose outcome cannot be recorded: it parks their run."""

from __future__ import annotations

from durable.core.history.events import ActivityTaskCompleted
from durable.core.messages import ActivityResolution
from durable.runs import attempts, inputs
from durable.runs.activity_tasks import attempt_rows as rows
from durable.runs.activity_tasks.offering import is_given_out
from durable.runs.effects import Effects, Then
from durable.runs.incoming import Item
from durable.runs.live_run import Attempt, LiveRun
from durable.runs.states import HELD, OVER, RECORDING
from durable.store.records import ATTEMPT_COMPLETED, AttemptState


def unrecorded(
    run: LiveRun, given: inputs.AttemptUnrecorded, effects: Effects, now: int
) -> None:
    """Keep an attempt whose outcome cannot be recorded; its run parks for it."""
    attempt = given.attempt
    if attempt.phase is OVER:
        return
    attempt.started_at = given.started_at
    attempts.end(attempt, given.row_state, effects, given.problem)
    attempt.phase, attempt.problem = HELD, given.problem
    attempt.held_as = given.row_state
    attempts.record(attempt, given.row_state, Then.HOLD, effects, now, given.problem)


def hold_again(
    run: LiveRun, given: inputs.HoldAgain, effects: Effects, now: int
) -> None:
    """Nobody else knows that its function has returned: say so once more."""
    attempt = given.attempt
    if attempt.phase is HELD:
        attempts.record(
            attempt, attempt.held_as, Then.HOLD, effects, now, attempt.problem
        )


def mended(
    run: LiveRun, given: inputs.AttemptMended, effects: Effects, now: int
) -> None:
    """What was held has a result after all."""
    attempt = given.attempt
    if attempt.phase is not HELD:
        return
    attempt.phase, attempt.problem = OVER, None
    run.attempts.pop(attempt.scheduled_event_id, None)
    outcome = ActivityTaskCompleted(
        scheduled_event_id=attempt.scheduled_event_id,
        result=given.result,
        attempt=attempt.attempt,
        started_at=attempt.started_at,
        last_failure=attempt.last_failure,
    )
    run.incoming.add(Item(outcome))
    run.ended += (rows.row_of(attempt, ATTEMPT_COMPLETED, None, now),)


def still_unrecorded(
    run: LiveRun, given: inputs.AttemptStillUnrecorded, effects: Effects, now: int
) -> None:
    """What was held cannot be recorded by today's code either."""
    if given.attempt.phase is HELD:
        given.attempt.problem = given.problem
        if given.is_refused:
            # Whoever takes the run up next must not say what was said before.
            row = rows.row_of(given.attempt, given.attempt.held_as, given.problem, now)
            run.ended += (row,)
        run.is_holding = True


def repeated(
    run: LiveRun, given: inputs.AttemptRepeated, effects: Effects, now: int
) -> None:
    """An operator wants what was held to run again."""
    attempt = given.attempt
    if attempt.phase is not HELD:
        return
    attempt.phase = OVER
    following = attempts.following_attempt(attempt, None, now)
    if is_given_out(run, attempt.scheduled):
        following.has_row = False
        attempts.offer(following, effects, now)
        return
    following.phase = RECORDING
    run.attempts[attempt.scheduled_event_id] = following
    attempts.record(following, AttemptState.STARTED, Then.BEGIN, effects, now)


def is_meant(resolution: ActivityResolution, attempt: Attempt) -> bool:
    """Whether an operator has decided of this attempt."""
    return (
        attempt.phase is HELD
        and attempt.scheduled_event_id == resolution.scheduled_event_id
        and attempt.attempt == resolution.attempt
    )


def resolve(run: LiveRun, effects: Effects) -> None:
    """Do what operators have decided of a run's attempts."""
    resolutions, run.resolutions = run.resolutions, ()
    effects.rare.resolve = [
        (attempt, resolution)
        for resolution in resolutions
        for attempt in run.attempts.values()
        if is_meant(resolution, attempt)
    ]
