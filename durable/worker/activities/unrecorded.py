"""What to say of attempts that cannot end for a bug, and how they end once mended.

A function that has returned is never called again because its result does not fit the
annotation: it has had its effect. What it returned is kept in the attempt's row, as it
is without the annotation, for code that declares it rightly.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec

from durable.api.activities.activity import Activity
from durable.api.registry import Registry
from durable.converter.failures import failure_of
from durable.core.history.payload import Failure, Payload, summary_of
from durable.core.messages import ActivityResolution
from durable.errors import DurableError, PayloadError
from durable.runs import inputs
from durable.runs.activity_tasks.endings import unknown_outcome
from durable.runs.live_run import Attempt
from durable.worker.activities.calls import Call
from durable.worker.activities.invoking import (
    UnfitArgumentsError,
    UnfitResultError,
    UnverifiedError,
    is_to_verify,
)

_log: Final = logging.getLogger("durable.worker")

KIND: Final = "unrecorded"
"""The kind of a failure that says why a result could not be recorded."""

_UNVERIFIED: Final = ", and verify could not tell what it did"
_UNKNOWN: Final = "; nobody knows"
_SUMMARY_CHARS: Final = 300
_RESOLVE: Final = (
    " or say what to do: `durable resolve WORKFLOW_ID {id} --result JSON` (or"
    " Handle.complete_activity) takes a result, `--again` (or Handle.retry_activity)"
    " runs the activity again."
)


def _failure(
    text: str, problem: BaseException, details: tuple[Payload, ...]
) -> Failure:
    return Failure(
        message=text, kind=KIND, type=type(problem).__name__, details=details
    )


def _said(problem: BaseException) -> str:
    return problem.message if isinstance(problem, DurableError) else str(problem)


def _name(attempt: Attempt, activity: Activity[Any, Any]) -> str:
    return (
        f"Activity {activity.name!r} (id {attempt.scheduled.activity_id}, attempt"
        f" {attempt.attempt})"
    )


def unfit_result(attempt: Attempt, error: UnfitResultError) -> Failure:
    """What is recorded of an attempt whose result cannot be."""
    activity = error.activity
    kept = error.kept
    resolve = _RESOLVE.format(id=attempt.scheduled.activity_id)
    if kept is None:
        mend = f" The value could not be kept; mend the code and{resolve[3:]}"
    else:
        mend = f" What it returned is kept: mend the annotation,{resolve}"
    text = (
        f"{_name(attempt, activity)} has returned, but: {_said(error.problem)}"
        f" It is not run again.{mend}"
    )
    return _failure(text, error.problem, () if kept is None else (kept,))


def unverified(error: UnverifiedError) -> Failure:
    """What is recorded of an attempt that could not tell what the one before did."""
    cause = error.__cause__
    text = str(error).partition(_UNVERIFIED)[0].partition(_UNKNOWN)[0] + _UNVERIFIED
    if cause is None:
        return unknown_outcome(text)
    why = failure_of(cause)
    return unknown_outcome(f"{text} ({summary_of(why)[:_SUMMARY_CHARS]})", why)


def timed_out(call: Call, timeout_type: str) -> Failure:
    """What is recorded of an attempt whose time is up.

    If it was still asking what the one before did, that counts as an answer like others
    that do not tell: nothing new is in doubt.
    """
    attempt = call.attempt
    limit = getattr(attempt.scheduled.settings, f"{timeout_type}_timeout") or 0
    message = f"{timeout_type}_timeout of {limit / 1_000_000:g} s passed"
    doubt = attempt.last_failure
    is_of_attempt = timeout_type in ("start_to_close", "heartbeat")
    if doubt and is_of_attempt and is_to_verify(attempt) and not call.is_verified:
        error = UnverifiedError(doubt.message)
        error.__cause__ = TimeoutError(f"it has not answered when its {message}")
        return unverified(error)
    return Failure(
        message=message,
        kind="timeout",
        type="TimeoutError",
        timeout_type=timeout_type,
        details=attempt.details or () if timeout_type == "heartbeat" else (),
        cause=doubt if timeout_type == "schedule_to_close" else None,
    )


def unfit_arguments(attempt: Attempt, error: UnfitArgumentsError) -> Failure:
    """What is recorded of an attempt that could not be called with its arguments."""
    did = "was not called"
    if error.activity.transaction is not None:
        did = "was rolled back, or not called"
    text = f"{_name(attempt, error.activity)} {did}: {_said(error.problem)} It is"
    text += f" defined at {error.activity.call_signature.defined_at()}."
    return _failure(text, error.problem, ())


def recover_result(activity: Activity[Any, Any], failure: Failure) -> Payload:
    """The result that was kept, as today's annotation records it.

    Raises:
        PayloadError: nothing was kept, or it still would change.
        DurableError: it does not fit today's annotation.
    """
    if not failure.details:
        raise PayloadError("The value was not kept.")
    return activity.call_signature.recover_result(failure.details[0])


def still_unfit(failure: Failure, problem: DurableError) -> Failure:
    """What is said of a kept result that today's code cannot read either."""
    if not failure.details:
        return failure
    text = f"{failure.message} With the present code: {problem.message}"
    if problem.message in failure.message:
        text = failure.message
    return msgspec.structs.replace(failure, message=text)


def refused(failure: Failure, problem: DurableError) -> Failure:
    """What is said of an attempt after a result that was given for it is not one."""
    return msgspec.structs.replace(
        failure,
        message=f"{failure.message} A result that was given is not taken:"
        f" {problem.message}",
    )


# --- what an operator or mended code makes of it --------------------------------------


def _activity_of(registry: Registry, attempt: Attempt) -> Activity[Any, Any] | None:
    body: Activity[Any, Any] | None = attempt.body
    return body or registry.find_activity(attempt.scheduled.activity_type)


def mend(registry: Registry, attempt: Attempt) -> inputs.AnyInput:
    """What becomes of an attempt that has returned, by the code of today."""
    activity = _activity_of(registry, attempt)
    problem = attempt.problem or Failure()
    if activity is not None:
        try:
            return inputs.AttemptMended(attempt, recover_result(activity, problem))
        except DurableError as error:
            problem = still_unfit(problem, error)
    return inputs.AttemptStillUnrecorded(attempt, problem)


def resolve(
    registry: Registry, attempt: Attempt, resolution: ActivityResolution
) -> inputs.AnyInput:
    """What becomes of an attempt by what an operator has decided."""
    scheduled, result = attempt.scheduled, resolution.result
    _log.info(
        "%s has decided of activity %r (id %s) of run %r: %s",
        resolution.identity or "an operator",
        scheduled.activity_type,
        scheduled.activity_id,
        attempt.run.workflow_id,
        "run again" if result is None else "result taken",
    )
    if result is None:
        return inputs.AttemptRepeated(attempt)
    activity = _activity_of(registry, attempt)
    if activity is not None:
        try:
            activity.call_signature.decode_result(result)
        except DurableError as error:
            _log.warning(
                "A result that was given for activity %r (id %s) of run %r is not"
                " taken: %s",
                activity.name,
                scheduled.activity_id,
                attempt.run.workflow_id,
                error,
            )
            problem = refused(attempt.problem or Failure(), error)
            return inputs.AttemptStillUnrecorded(attempt, problem, is_refused=True)
    return inputs.AttemptMended(attempt, result)
