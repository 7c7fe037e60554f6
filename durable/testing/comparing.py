"""Compares the events of a turn that was driven again with those that were recorded.

Byte for byte, but for where the code stood; and where only the order within arrays
differs, by the annotations: texts in a set come in another order in each process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from durable.api.endings import same_input, same_result
from durable.api.registry import Registry
from durable.core.history.events import (
    ActivityTaskScheduled,
    HistoryEvent,
    StartChildWorkflowExecutionInitiated,
    WorkflowExecutionCompleted,
    WorkflowExecutionContinuedAsNew,
)
from durable.testing.histories import comparable


def first_difference(
    registry: Registry,
    workflow_type: str,
    found: Sequence[HistoryEvent],
    recorded: Sequence[HistoryEvent],
) -> tuple[int, str, str] | None:
    """The first event that differs: its index, and both as text; None if all agree."""
    ours, theirs = comparable(found), comparable(recorded)
    if ours == theirs:
        return None
    for index in range(max(len(ours), len(theirs))):
        left = ours[index] if index < len(ours) else b"nothing"
        right = theirs[index] if index < len(theirs) else b"nothing"
        if left != right and not (
            index < min(len(ours), len(theirs))
            and _unordered(left) == _unordered(right)
            and _same_values(
                registry,
                workflow_type,
                recorded[index].attributes,
                found[index].attributes,
            )
        ):
            return index, left.decode(), right.decode()
    return None


def _unordered(event: bytes) -> Any:
    return _sorted(msgspec.json.decode(event))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {key: _sorted(item) for key, item in fields.items()}
    if isinstance(value, list):
        items: list[Any] = [*value]
        return sorted(map(_sorted, items), key=msgspec.json.encode)
    return value


def _same_values(
    registry: Registry, workflow_type: str, recorded: object, found: object
) -> bool:
    """Whether payloads hold the same values; True where no annotation is known."""
    match recorded, found:
        case ActivityTaskScheduled(), ActivityTaskScheduled():
            activity = registry.activities.get(recorded.activity_type)
            return activity is None or activity.call_signature.same_input(
                recorded.input, found.input
            )
        case (
            StartChildWorkflowExecutionInitiated() | WorkflowExecutionContinuedAsNew(),
            StartChildWorkflowExecutionInitiated() | WorkflowExecutionContinuedAsNew(),
        ):
            name = recorded.workflow_type
            return same_input(registry, name, recorded.input, found.input)
        case WorkflowExecutionCompleted(), WorkflowExecutionCompleted():
            hint = registry.get_workflow(workflow_type).call_signature.result_hint()
            return same_result(hint, recorded.result, found.result, "the result")
        case _:
            return True
