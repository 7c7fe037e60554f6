"""What a run in the hands of a test waits for, and the inputs that bring it."""

from __future__ import annotations

from typing import Any

import msgspec

from durable.api.registry import REGISTRY
from durable.converter import json
from durable.converter.failures import failure_of
from durable.core.history import events as of
from durable.core.history.events import Attributes
from durable.core.history.payload import Failure, Payload
from durable.errors import (
    NotRegisteredError,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)


class PendingActivity(msgspec.Struct, frozen=True):
    """An activity that is recorded and has no outcome."""

    scheduled_event_id: int
    activity_type: str
    activity_id: str
    arguments: tuple[Payload, ...]
    is_cancel_requested: bool


class PendingChild(msgspec.Struct, frozen=True):
    """A child workflow that is recorded and has no outcome.

    Its methods are the inputs that tell its parent of it, for `Driver.turn`.

    Attributes:
        run_id: None until its start was an input.
    """

    initiated_event_id: int
    workflow_type: str
    workflow_id: str
    run_id: str | None
    arguments: tuple[Payload, ...]
    is_cancel_requested: bool

    def started(self) -> of.ChildWorkflowExecutionStarted:
        """The input that the child exists."""
        return of.ChildWorkflowExecutionStarted(
            self.initiated_event_id, self.workflow_id, self._run, self.workflow_type
        )

    def refused(self) -> of.StartChildWorkflowExecutionFailed:
        """The input that the child could not be started: its id is taken."""
        return of.StartChildWorkflowExecutionFailed(
            self.initiated_event_id,
            self.workflow_id,
            self.workflow_type,
            WorkflowAlreadyStartedError.code,
            f"Workflow id {self.workflow_id!r} is taken.",
        )

    def completed(self, value: Any = None) -> of.ChildWorkflowExecutionCompleted:
        """The input that the child has returned.

        Raises:
            PayloadError: the value does not fit the child's annotation.
        """
        return of.ChildWorkflowExecutionCompleted(*self._about, self._encode(value))

    def failed(self, error: BaseException) -> of.ChildWorkflowExecutionFailed:
        """The input that the child has failed."""
        return of.ChildWorkflowExecutionFailed(*self._about, failure_of(error))

    def cancelled(self) -> of.ChildWorkflowExecutionCanceled:
        """The input that the child has ended as cancelled."""
        failure = Failure(message="", kind="cancelled", type="CancelledError")
        return of.ChildWorkflowExecutionCanceled(*self._about, failure)

    def timed_out(self, timeout_type: str = "run") -> of.ChildWorkflowExecutionTimedOut:
        """The input that the child has run out of time."""
        return of.ChildWorkflowExecutionTimedOut(*self._about, timeout_type)

    def terminated(self, reason: str = "") -> of.ChildWorkflowExecutionTerminated:
        """The input that the child was terminated."""
        return of.ChildWorkflowExecutionTerminated(*self._about, reason)

    @property
    def _run(self) -> str:
        return self.run_id or f"run of event {self.initiated_event_id}"

    @property
    def _about(self) -> tuple[int, str, str, str]:
        return (
            self.initiated_event_id,
            self.workflow_id,
            self._run,
            self.workflow_type,
        )

    def _encode(self, value: Any) -> Payload:
        try:
            signature = REGISTRY.get_workflow(self.workflow_type).call_signature
        except NotRegisteredError:
            return json.encode(value, Any, f"the result of {self.workflow_type!r}")
        return signature.encode_result(value)


class PendingDelivery(msgspec.Struct, frozen=True):
    """A message to another run that is recorded and has no answer.

    Its methods are the inputs that tell its sender of it, for `Driver.turn`.

    Attributes:
        signal_name: None if it asks that run to stop.
    """

    initiated_event_id: int
    workflow_id: str
    run_id: str | None
    signal_name: str | None
    arguments: tuple[Payload, ...] = ()

    def delivered(self) -> Attributes:
        """The input that the other run has it."""
        run_id = self.run_id or "the other run"
        about = self.initiated_event_id, self.workflow_id, run_id
        if self.signal_name is None:
            return of.ExternalWorkflowExecutionCancelRequested(*about)
        return of.ExternalWorkflowExecutionSignaled(*about)

    def refused(self, *, is_closed: bool = False) -> Attributes:
        """The input that the other run cannot take it: it has closed, or never was."""
        error = WorkflowClosedError if is_closed else WorkflowNotFoundError
        about = (
            self.initiated_event_id,
            self.workflow_id,
            error.code,
            f"Run {self.workflow_id!r} takes no messages.",
        )
        if self.signal_name is None:
            return of.RequestCancelExternalWorkflowExecutionFailed(*about)
        return of.SignalExternalWorkflowExecutionFailed(*about)
