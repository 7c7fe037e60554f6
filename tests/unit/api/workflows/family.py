"""A run with children, whose fate the test decides."""

from __future__ import annotations

from typing import Any

from durable.api.workflows.workflow import find_workflow
from durable.converter.failures import failure_of
from durable.core.history.events import (
    ChildWorkflowExecutionCompleted,
    ChildWorkflowExecutionFailed,
    ChildWorkflowExecutionStarted,
    StartChildWorkflowExecutionInitiated,
)
from tests.unit.api.one_run import OneRun


class Family(OneRun):
    def initiated(self) -> list[tuple[int, StartChildWorkflowExecutionInitiated]]:
        return [
            (e.event_id, e.attributes)
            for e in self.history
            if isinstance(e.attributes, StartChildWorkflowExecutionInitiated)
        ]

    def begun(self, number: int = 0) -> ChildWorkflowExecutionStarted:
        event_id, child = self.initiated()[number]
        return ChildWorkflowExecutionStarted(
            event_id, child.workflow_id, f"run-{number}", child.workflow_type
        )

    def completed(self, value: Any, number: int = 0) -> ChildWorkflowExecutionCompleted:
        definition = find_workflow(self.initiated()[number][1].workflow_type)
        result = definition.call_signature.encode_result(value)
        return ChildWorkflowExecutionCompleted(*self.ids(number), result)

    def failed(self, error: BaseException) -> ChildWorkflowExecutionFailed:
        return ChildWorkflowExecutionFailed(*self.ids(0), failure_of(error))

    def ids(self, number: int) -> tuple[int, str, str, str]:
        event_id, child = self.initiated()[number]
        return event_id, child.workflow_id, f"run-{number}", child.workflow_type
