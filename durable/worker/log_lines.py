"""What the worker's log lines say of a run: in their text, and as fields."""

from __future__ import annotations

import logging
import re
from typing import Any, Final, TypeAlias

from durable.core.history.events import (
    WorkflowExecutionFailed,
    WorkflowExecutionStarted,
    WorkflowExecutionTimedOut,
)
from durable.core.history.payload import PAUSED, Failure, innermost, summary_of
from durable.core.machines import retry
from durable.errors import HistoryTakenError, StoreError
from durable.loggers import revive_loggers
from durable.runs.effects import Left, RareEffects
from durable.runs.live_run import Attempt, LiveRun
from durable.worker.activities.places import line_of

_Run: TypeAlias = LiveRun | WorkflowExecutionStarted
_log: Final = logging.getLogger("durable.worker")
_TEXT_CHARS_MAX: Final = 1_000
_FRAME: Final = re.compile(r'^  File "(.*)", line (\d+), in (.*)$', re.MULTILINE)
_WHY_LAST: Final = {
    retry.MAXIMUM_ATTEMPTS_REACHED: "its retry policy allows no further attempt",
    retry.NON_RETRYABLE: "such a failure may not be tried again",
    retry.SCHEDULE_TO_CLOSE: "its schedule_to_close_timeout leaves no time for another",
    retry.CANCEL_REQUESTED: "it was asked to stop",
    retry.OUTCOME_UNKNOWN: "it must not be run again blindly",
    retry.IN_DOUBT: "an operator is to say what it has done (durable resolve)",
}
ENDS_BADLY: Final = frozenset((WorkflowExecutionFailed, WorkflowExecutionTimedOut))
"""How runs end that are worth a line."""


def name_of(run: _Run) -> str:
    """A run as texts name it: by its workflow id, its type and its run id."""
    return f"{run.workflow_id!r} ({run.workflow_type}, run id {run.run_id})"


def extra_of(run: _Run) -> dict[str, Any]:
    """The `extra` of a line about a run; as `durable.logger` writes it."""
    return {
        "workflow_id": run.workflow_id,
        "run_id": run.run_id,
        "workflow_type": run.workflow_type,
    }


def log_unhandled(context: dict[str, Any]) -> None:
    """Log what nobody handled in a workflow.

    Args:
        context: as an event loop's exception handler gets it, with the run's first
            event and, in its handler, the id and name of an update.
    """
    started, error = context["started"], context.get("exception")
    extra, update = extra_of(started), ""
    if context["update"] is not None:
        extra["update_id"], extra["update_name"] = context["update"]
        update = f", update {extra['update_name']!r} (id {extra['update_id']!r})"
    _log.warning(
        "In run %s%s: %s%s",
        name_of(started),
        update,
        context.get("message", "something was not handled"),
        "" if error is None else f" ({type(error).__name__}: {error})",
        extra=extra,
    )


def log_failed_attempt(
    attempt: Attempt, failure: Failure, decision: retry.Retry | retry.GiveUp
) -> None:
    """Say that an attempt failed, where, and what comes next."""
    revive_loggers()
    scheduled, run = attempt.scheduled, attempt.run
    if isinstance(decision, retry.Retry):
        what_next = f"attempt {attempt.attempt + 1} follows"
        what_next += f" in {decision.delay / 1_000_000:.3g} s" if decision.delay else ""
    else:
        why = _WHY_LAST.get(decision.retry_state, decision.retry_state)
        what_next = f"it was the last one: {why}"
    place = line_of(attempt.call) if failure.kind == "timeout" else ""
    _log.warning(
        "Activity %r (id %s) of run %s: attempt %d failed: %s%s; %s.",
        scheduled.activity_type,
        scheduled.activity_id,
        name_of(run),
        attempt.attempt,
        _one_line(summary_of(failure)),
        f" (at {place})" if place else _raised_at(failure),
        what_next,
        extra={
            **extra_of(run),
            "activity_type": scheduled.activity_type,
            "activity_id": scheduled.activity_id,
            "attempt": attempt.attempt,
            "error_type": failure.type,
        },
    )


def log_parked(run: LiveRun, failure: Failure) -> None:
    """Say that a run is set aside, and why."""
    revive_loggers()
    if failure.kind == PAUSED:
        extra = {**extra_of(run), "note": failure.notes[0]}
        _log.info("Run %s is paused.", name_of(run), extra=extra)
        return
    _log.error(
        "Run %s is stuck: %s%s. It goes on once a worker starts with right code.",
        name_of(run),
        _one_line(summary_of(failure)).rstrip("."),
        _raised_at(failure),
        extra={**extra_of(run), "error_type": failure.type},
    )


def log_failed_run(run: LiveRun, terminal: Any) -> None:
    """Say that a run ended as one of `ENDS_BADLY`."""
    revive_loggers()
    if isinstance(terminal, WorkflowExecutionFailed):
        failure = innermost(terminal.failure)
        what = f"failed: {_one_line(summary_of(failure))}{_raised_at(failure)}"
        error_type = failure.type
    else:
        what, error_type = f"passed its {terminal.timeout_type}_timeout", "TimeoutError"
    extra = {**extra_of(run), "error_type": error_type}
    _log.error("Run %s %s.", name_of(run), what.rstrip("."), extra=extra)


def _one_line(text: str) -> str:
    text = " ".join(line.strip() for line in text.splitlines())
    more = len(text) - _TEXT_CHARS_MAX
    return f"{text[:_TEXT_CHARS_MAX]}... ({more:,} more)" if more > 0 else text


def _raised_at(failure: Failure) -> str:
    """Where something was raised; of a group, where its first leaf was."""
    failure = innermost(failure)
    while failure.group:
        failure = innermost(failure.group[0])
    frames = _FRAME.findall(failure.stack_trace)
    return " (at {}:{}, in {})".format(*frames[-1]) if frames else ""


def is_told(error: BaseException) -> bool:
    """Whether the store has said so itself."""
    return isinstance(error, StoreError) and error.is_told


def log_refused(
    run: LiveRun, error: BaseException, rare: RareEffects, left: Left | None
) -> None:
    """A write was refused. That others were there first is no news."""
    is_late = isinstance(error, HistoryTakenError)
    if is_told(error) or (is_late and not rare.is_of_attempt):
        return
    if left is Left.PARKED:
        text = "Run %s could not be parked: %s"
    elif rare.is_of_attempt:
        text = "An attempt of run %s could not be recorded (%s); it is not begun."
    elif isinstance(error, StoreError):
        text = (
            "A workflow task of run %s was not committed (%s); it will be driven"
            " again from its history."
        )
    else:
        return
    _log.error(text, name_of(run), error, extra=extra_of(run))
