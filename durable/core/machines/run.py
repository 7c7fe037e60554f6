"""The run itself: how it ends."""

from __future__ import annotations

from durable.core.history.commands import (
    CancelWorkflowExecution,
    CompleteWorkflowExecution,
    ContinueAsNewWorkflowExecution,
    FailWorkflowExecution,
)
from durable.core.history.events import EVENT_OF, Attributes
from durable.core.machines.machine import Entry

ClosingCommand = (
    CompleteWorkflowExecution
    | FailWorkflowExecution
    | CancelWorkflowExecution
    | ContinueAsNewWorkflowExecution
)


class ClosingEntry(Entry):
    """The entry of the command that ends the run: always the last of its turn."""

    __slots__ = ("_command", "event_type", "is_withdrawn")

    def __init__(self, command: ClosingCommand) -> None:
        self.is_withdrawn = False
        self._command = command
        self.event_type = EVENT_OF[type(command)]

    def command(self) -> ClosingCommand:
        """The command as data."""
        return self._command

    def differs(self, event: Attributes) -> str | None:
        """Compare the kind of ending only; results and messages may change."""
        return None
