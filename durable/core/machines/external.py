"""Signals and requests to stop that a run sends to others: sent, then answered."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

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


class DeliveryMachine(Machine, Entry, msgspec.Struct, eq=False):
    """One message to another run; also the entry of its own command."""

    sent: ExternalCommand
    outcome: Outcome[Attributes]
    state: State = CREATED
    is_withdrawn: bool = False
    initiated_event_id: int = 0
    initiated: Attributes | None = None
    event_type: Any = None
    table: ClassVar[Table] = {
        (State.CREATED, Move.RECORD): State.PENDING,
        (State.CREATED, Move.CANCEL): State.CLOSED,
        (State.PENDING, Move.RESOLVE): State.CLOSED,
    }

    def __post_init__(self) -> None:
        self.event_type = EVENT_OF[type(self.sent)]

    def command(self) -> ExternalCommand:
        """The command as data."""
        return self.sent

    def differs(self, event: Any) -> str | None:
        """Compare the receiver, and a signal's name."""
        if event.workflow_id != self.sent.workflow_id:
            return "the workflow id"
        if not isinstance(event, SignalExternalWorkflowExecutionInitiated):
            return None
        name = getattr(self.sent, "signal_name", None)
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
