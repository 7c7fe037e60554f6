"""Signals and requests to stop that a run sends to others: sent, then answered."""

from __future__ import annotations

from typing import Any, ClassVar

from durable.core.history.commands import ExternalCommand
from durable.core.history.events import (
    EVENT_OF,
    Attributes,
    ExternalWorkflowExecutionCancelRequested,
    ExternalWorkflowExecutionSignaled,
    SignalExternalWorkflowExecutionInitiated,
)
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


class DeliveryMachine(Machine, Entry):
    """One message to another run; also the entry of its own command."""

    __slots__ = (
        "_command",
        "event_type",
        "initiated",
        "initiated_event_id",
        "is_withdrawn",
        "outcome",
        "state",
    )
    table: ClassVar[Table] = {
        (State.CREATED, Move.RECORD): State.PENDING,
        (State.CREATED, Move.CANCEL): State.CLOSED,
        (State.PENDING, Move.RESOLVE): State.CLOSED,
    }

    def __init__(self, command: ExternalCommand, outcome: Outcome[Attributes]) -> None:
        self.state = CREATED
        self.is_withdrawn = False
        self.event_type = EVENT_OF[type(command)]
        self._command = command
        self.outcome = outcome
        self.initiated_event_id = 0
        self.initiated: Attributes | None = None

    def command(self) -> ExternalCommand:
        """The command as data."""
        return self._command

    def differs(self, event: Any) -> str | None:
        """Compare the receiver, and a signal's name."""
        if event.workflow_id != self._command.workflow_id:
            return "the workflow id"
        if not isinstance(event, SignalExternalWorkflowExecutionInitiated):
            return None
        name = getattr(self._command, "signal_name", None)
        return None if event.signal_name == name else "the signal"

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
