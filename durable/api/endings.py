"""Compares how a replayed run ends with how it ended.

A worker goes on with a run whose code ends it otherwise now: no run is left to harm.
Whoever tries code against a recorded history wants to know.
"""

from __future__ import annotations

import re
from typing import Any, Final

from durable.api.registry import Registry
from durable.converter import json
from durable.core.history.commands import (
    CancelWorkflowExecution,
    CompleteWorkflowExecution,
    ContinueAsNewWorkflowExecution,
    FailWorkflowExecution,
)
from durable.core.history.events import (
    HistoryEvent,
    WorkflowExecutionCanceled,
    WorkflowExecutionCompleted,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionFailed,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure, Payload
from durable.errors import NondeterminismError

# Where an object lay in memory, as `repr` writes it.
_ADDRESS: Final = re.compile(r"\b0x[0-9a-fA-F]+\b")


def check_ending(
    registry: Registry,
    started: WorkflowExecutionStarted,
    last: HistoryEvent,
    found: object,
) -> None:
    """Return if the code ends the run as the last event of its history says.

    `found` is the command that ended the replay; None if no code did.

    Raises:
        NondeterminismError: the result, the failure or what the run goes on with
            differs.
    """
    recorded = last.attributes
    match recorded, found:
        case WorkflowExecutionCompleted(), CompleteWorkflowExecution():
            hint = registry.get_workflow(started.workflow_type).call_signature
            is_same = same_result(
                hint.result_hint(), recorded.result, found.result, "the result"
            )
            what = "the result"
        case WorkflowExecutionFailed(), FailWorkflowExecution():
            is_same = _same_failure(recorded.failure, found.failure)
            what = "the failure"
        case WorkflowExecutionCanceled(), CancelWorkflowExecution():
            is_same = _same_failure(recorded.failure, found.failure)
            what = "the failure"
        case WorkflowExecutionContinuedAsNew(), ContinueAsNewWorkflowExecution():
            is_same = recorded.workflow_type == found.workflow_type and same_input(
                registry, recorded.workflow_type, recorded.input, found.input
            )
            what = "what the run goes on with"
        case _:  # no code ran then; other kinds were told apart in the replay
            return
    if is_same:
        return
    name = f"{started.workflow_id!r} ({started.workflow_type}, {started.run_id})"
    kind = type(recorded).__name__
    raise NondeterminismError(
        f"Run {name} ends otherwise: event {last.event_id} is {kind}, but {what}"
        f" differs.{_shown(recorded, found)}",
        hint="The code was changed, or it reads something that is not recorded.",
        event_id=last.event_id,
        recorded=kind,
        found=type(found).__name__,
    )


def same_result(hint: Any, recorded: Payload, found: Payload, what: str) -> bool:
    """Whether two results are the same value, read as of today."""
    return json.same_payloads((recorded,), (found,), (hint,), what)


def same_input(
    registry: Registry,
    workflow_type: str,
    recorded: tuple[Payload, ...],
    found: tuple[Payload, ...],
) -> bool:
    """Whether two lists of a workflow's arguments are the same values."""
    definition = registry.workflows.get(workflow_type)
    if definition is None:
        return recorded == found
    return definition.call_signature.same_input(recorded, found)


def _same_failure(recorded: Failure | None, found: Failure | None) -> bool:
    """Compare what failures say, but not where in the code they were raised."""
    if recorded is None or found is None:
        return recorded is found
    return (
        (recorded.kind, recorded.type) == (found.kind, found.type)
        and _said(recorded) == _said(found)
        and len(recorded.group) == len(found.group)
        and all(map(_same_failure, recorded.group, found.group))
        and _same_failure(recorded.cause, found.cause)
    )


def _said(failure: Failure) -> str:
    return _ADDRESS.sub("0x", failure.message)


def _shown(recorded: Any, found: Any) -> str:
    """The classes of two failures: their messages may hold values."""
    before: Failure | None = getattr(recorded, "failure", None)
    now: Failure | None = getattr(found, "failure", None)
    if before is None or now is None or before.type == now.type:
        return ""
    return f" It was {before.type}, and is {now.type} now."
