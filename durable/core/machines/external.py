"""Signals and requests to stop that a run sends to others: sent, then answered."""

from __future__ import annotations

from typing import Any, ClassVar

from durable.core.history.commands import (
    RequestCancelExternalWorkflowExecution,
    SignalExternalWorkflowExecution,
)
from durable.core.history.events import (
    Attributes,
    ExternalWorkflowExecutionCancelRequested,
    ExternalWorkflowExecutionSignaled,
    RequestCancelExternalWorkflowExecutionInitiated,
    SignalExternalWorkflowExecutionInitiated,
)
from durable.core.history.payload import Payloads
from durable.core.machines.machine import (
    CREATED,
    RECORD,
    RESOLVE,
    Entry,
    Machine,
    Move,
    Operations,
    Outcome,
    State,
    Table,
)
from durable.errors import InboxFullError, WorkflowClosedError, WorkflowNotFoundError

_TABLE: Table = {
    (State.CREATED, Move.RECORD): State.PENDING,
    (State.CREATED, Move.CANCEL): State.CLOSED,
    (State.PENDING, Move.RESOLVE): State.CLOSED,
}


class DeliveryMachine(Machine, Entry):
    """One message to another run; also the entry of its own command."""

    __slots__ = (
        "initiated",
        "initiated_event_id",
        "is_child",
        "is_withdrawn",
        "outcome",
        "run_id",
        "state",
        "workflow_id",
    )
    table: ClassVar[Table] = _TABLE

    def __init__(
        self,
        workflow_id: str,
        run_id: str | None,
        outcome: Outcome[Attributes],
        *,
        is_child: bool,
    ) -> None:
        self.state = CREATED
        self.is_withdrawn = False
        self.workflow_id = workflow_id
        self.run_id = run_id
        self.outcome = outcome
        self.is_child = is_child
        self.initiated_event_id = 0
        self.initiated: Attributes | None = None

    def recorded(
        self, run: Operations, event_id: int, time: int, event: Attributes
    ) -> None:
        """Await the answer."""
        self.move(RECORD)
        run.deliveries[event_id] = self
        self.initiated_event_id = event_id
        self.initiated = event

    def cancel(self) -> None:
        """Take the message back if it was asked for in this very turn."""
        if self.state is CREATED:
            self.move(Move.CANCEL)
            self.is_withdrawn = True

    def resolve(self, event: Attributes) -> None:
        """Take the answer; whoever still waits is woken."""
        self.move(RESOLVE)
        self.outcome.set(event)

    async def wait(self) -> None:
        """Wait for the answer; raise what it says went wrong."""
        event: Any = await self.outcome.wait()
        if isinstance(
            event,
            ExternalWorkflowExecutionSignaled
            | ExternalWorkflowExecutionCancelRequested,
        ):
            return
        if event.cause == WorkflowClosedError.code:
            raise WorkflowClosedError(event.message)
        if event.cause == InboxFullError.code:
            raise InboxFullError(event.message)
        raise WorkflowNotFoundError(event.message)


class SignalExternalMachine(DeliveryMachine):
    """One signal to another run."""

    __slots__ = ("input", "name")
    event_type = SignalExternalWorkflowExecutionInitiated

    def __init__(
        self,
        workflow_id: str,
        run_id: str | None,
        name: str,
        input: Payloads,
        outcome: Outcome[Attributes],
        *,
        is_child: bool,
    ) -> None:
        super().__init__(workflow_id, run_id, outcome, is_child=is_child)
        self.name = name
        self.input = input

    def command(self) -> SignalExternalWorkflowExecution:
        """The command as data."""
        return SignalExternalWorkflowExecution(
            workflow_id=self.workflow_id,
            run_id=self.run_id,
            signal_name=self.name,
            input=self.input,
            headers={},
            child_workflow_only=self.is_child,
        )

    def differs(self, event: Attributes) -> str | None:
        """Compare the receiver and the signal's name."""
        assert isinstance(event, SignalExternalWorkflowExecutionInitiated)  # noqa: S101 - by `event_type`
        if event.workflow_id != self.workflow_id:
            return "the workflow id"
        return None if event.signal_name == self.name else "the signal"


class CancelExternalMachine(DeliveryMachine):
    """One request to stop to another run."""

    __slots__ = ("reason",)
    event_type = RequestCancelExternalWorkflowExecutionInitiated

    def __init__(
        self,
        workflow_id: str,
        run_id: str | None,
        reason: str,
        outcome: Outcome[Attributes],
        *,
        is_child: bool,
    ) -> None:
        super().__init__(workflow_id, run_id, outcome, is_child=is_child)
        self.reason = reason

    def command(self) -> RequestCancelExternalWorkflowExecution:
        """The command as data."""
        return RequestCancelExternalWorkflowExecution(
            workflow_id=self.workflow_id,
            run_id=self.run_id,
            reason=self.reason,
            child_workflow_only=self.is_child,
        )

    def differs(self, event: Attributes) -> str | None:
        """Compare the receiver."""
        assert isinstance(event, RequestCancelExternalWorkflowExecutionInitiated)  # noqa: S101 - by `event_type`
        return None if event.workflow_id == self.workflow_id else "the workflow id"
