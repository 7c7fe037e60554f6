"""What the worker's log lines say of a run: in their text, and as fields."""

from __future__ import annotations

import logging
from typing import Any, Final, TypeAlias

from durable.core.events import WorkflowExecutionStarted
from durable.worker.live_run import LiveRun

_Run: TypeAlias = LiveRun | WorkflowExecutionStarted
_log: Final = logging.getLogger("durable.worker")


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
