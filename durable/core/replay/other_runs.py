"""What a run asks of other runs: children, signals and requests to stop."""

from __future__ import annotations

import asyncio
import random
import uuid
from types import CodeType
from typing import NoReturn

from durable.core.history.commands import ExternalCommand
from durable.core.history.events import Attributes, WorkflowExecutionStarted
from durable.core.history.payload import Payloads
from durable.core.loop.unawaited import CallNotes
from durable.core.machines.child import ChildMachine
from durable.core.machines.external import DeliveryMachine
from durable.core.machines.machine import Entry, Outcome
from durable.core.notes import Notes
from durable.core.runtime import Child, ChildTarget, ContinueAsNew, WorkflowCode


class OtherRuns(CallNotes):
    """The part of a run's context that speaks with other runs."""

    __slots__ = ("_child_count", "has_had_children")
    started: WorkflowExecutionStarted
    code: WorkflowCode
    has_had_children: bool
    notes: Notes | None
    _child_count: int

    @property
    def is_torn_down(self) -> bool:
        """Nothing may come of the run any more."""
        return self.loop.is_torn_down

    def random(self) -> random.Random:
        """The run's own generator."""
        raise NotImplementedError

    def send(self, entry: Entry) -> None:
        """Take a command."""
        raise NotImplementedError

    def refuse_if_read_only(self, what: str) -> None:
        """Raise if a query or a validator runs."""
        if self.loop.read_only:
            self.loop.refuse_change(what)

    def start_child(
        self,
        target: ChildTarget,
        workflow_id: str | None,
        input: Payloads,
        code: CodeType | None,
        instruction: int,
    ) -> Child:
        """Ask for a child workflow."""
        self.refuse_if_read_only("A child workflow")
        self._child_count += 1
        self.has_had_children = True
        if workflow_id is None:
            workflow_id = str(uuid.UUID(int=self.random().getrandbits(128), version=4))
        outcomes = Outcome[Attributes](self.loop), Outcome[Attributes](self.loop)
        child = ChildMachine(
            workflow_id, target, input, self, code, instruction, *outcomes
        )
        if self.notes is not None:
            child.headers = self.notes.headers_now()
        self.send(child)
        return child

    def continue_as_new(self, going: ContinueAsNew) -> NoReturn:
        """Leave the code, for the run to go on as a new one."""
        raise going

    async def tell_external(self, command: ExternalCommand) -> None:
        """Send a signal, or a request to stop, to another run."""
        if self.loop.is_torn_down:
            await self.loop.create_future()  # see durable.core.loop.teardown
        machine = DeliveryMachine(command, Outcome(self.loop))
        self.send(machine)
        try:
            await machine.wait()
        except asyncio.CancelledError:
            if not self.loop.is_torn_down:
                machine.cancel()
            raise
