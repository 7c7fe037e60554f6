"""How a run ended, as what `result()` returns or raises."""

from __future__ import annotations

from typing import Any

from durable.api.workflows.workflow import Workflow
from durable.converter import json
from durable.converter.failures import exception_of, show_remote
from durable.core.history.events import (
    Attributes,
    WorkflowExecutionCanceled,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from durable.core.history.payload import summary_of
from durable.errors import (
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
)


def result_of(
    terminal: Attributes,
    definition: Workflow[Any, Any] | None,
    workflow_id: str,
    run_id: str,
    *,
    hint: str | None = None,
) -> Any:
    """Decode a run's result, or raise how else it ended; `hint` says what to do then.

    Raises:
        WorkflowFailedError: it failed, was cancelled, was terminated or timed out.
    """
    if type(terminal) is not WorkflowExecutionCompleted:
        raise _error_of(terminal, workflow_id, run_id, hint)
    if definition is not None:
        return definition.call_signature.decode_result(terminal.result)
    return json.decode(terminal.result, Any, f"the result of run {workflow_id!r}")


def _error_of(
    terminal: Attributes, workflow_id: str, run_id: str, hint: str | None
) -> WorkflowFailedError:
    ids: dict[str, Any] = {"workflow_id": workflow_id, "run_id": run_id, "hint": hint}
    name = f"Run {workflow_id!r}"
    error: WorkflowFailedError
    if isinstance(terminal, WorkflowExecutionFailed):
        text = f"{name} failed: {summary_of(terminal.failure)}"
        error = WorkflowFailedError(text, **ids)
        error.__cause__ = show_remote(exception_of(terminal.failure))
    elif isinstance(terminal, WorkflowExecutionCanceled):
        error = WorkflowCancelledError(f"{name} was cancelled.", **ids)
        if terminal.failure is not None:
            error.__cause__ = show_remote(exception_of(terminal.failure))
    elif isinstance(terminal, WorkflowExecutionTerminated):
        error = WorkflowTerminatedError(
            f"{name} was terminated: {terminal.reason or 'no reason given'}.", **ids
        )
    elif isinstance(terminal, WorkflowExecutionTimedOut):
        error = WorkflowTimedOutError(
            f"{name} passed its {terminal.timeout_type}_timeout.", **ids
        )
    else:
        error = WorkflowFailedError(f"{name} ended without a result.", **ids)
    return error
