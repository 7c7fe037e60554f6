"""Child workflows: asked for, started, perhaps asked to stop, closed by one outcome."""

from __future__ import annotations

import asyncio
from types import CodeType
from typing import Any, ClassVar, Protocol

import msgspec

from durable.core.history.commands import (
    ChildSettings,
    RequestCancelExternalWorkflowExecution,
    StartChildWorkflowExecution,
)
from durable.core.history.events import (
    Attributes,
    ChildWorkflowExecutionCanceled,
    ChildWorkflowExecutionCompleted,
    ChildWorkflowExecutionFailed,
    ChildWorkflowExecutionStarted,
    ChildWorkflowExecutionTerminated,
    ChildWorkflowExecutionTimedOut,
    StartChildWorkflowExecutionFailed,
    StartChildWorkflowExecutionInitiated,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure, Payload, Payloads
from durable.core.loop.cancels import (
    DEFAULT_REASON,
    Outlasting,
    reason_of,
    sees_every_cancel,
)
from durable.core.machines.external import DeliveryMachine
from durable.core.machines.machine import (
    CREATED,
    PENDING,
    RECORD,
    RESOLVE,
    STOPPABLE,
    Entry,
    Machine,
    Move,
    Operations,
    Outcome,
    State,
    Table,
)
from durable.core.runtime import ChildTarget, WorkflowCode, source_line
from durable.errors import WorkflowAlreadyStartedError, WorkflowNotFoundError
from durable.observer import Headers


class Parent(Protocol):
    """The run that a child belongs to."""

    started: WorkflowExecutionStarted
    code: WorkflowCode

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The run's loop."""
        ...

    @property
    def is_torn_down(self) -> bool:
        """Nothing may come of the run any more."""
        ...

    def send(self, entry: Entry) -> None:
        """Take a command that the child issues."""
        ...


class ChildMachine(Machine, Entry, msgspec.Struct, eq=False):
    """One child of a run; also the entry of its own StartChildWorkflowExecution."""

    workflow_id: str
    target: ChildTarget
    input: Payloads
    parent: Parent
    code: CodeType | None
    instruction: int
    start: Outcome[Attributes]
    outcome: Outcome[Attributes]
    state: State = CREATED
    is_withdrawn: bool = False
    run_id: str | None = None
    initiated_event_id: int = 0
    initiated_at: int = 0
    initiated: StartChildWorkflowExecutionInitiated | None = None
    stop: DeliveryMachine | None = None
    headers: Headers | None = None
    """What travels with it, if it was asked for within a span."""
    event_type = StartChildWorkflowExecutionInitiated
    table: ClassVar[Table] = STOPPABLE

    # --- the entry --------------------------------------------------------------------

    def command(self) -> StartChildWorkflowExecution:
        """The command as data."""
        target = self.target
        return StartChildWorkflowExecution(
            self.workflow_id,
            target.workflow_type,
            self.input,
            self._settings(),
            target.headers or {},
            target.summary,
            source_line(self.code, self.instruction),
        )

    def _settings(self) -> ChildSettings:
        """Write out the parent's queue, which settings leave empty."""
        settings = self.target.settings
        if settings.task_queue:
            return settings
        queue = self.parent.started.task_queue
        return msgspec.structs.replace(settings, task_queue=queue)

    def differs(self, event: Attributes) -> str | None:
        """Compare id, type and arguments; never timeouts, policies or labels."""
        assert type(event) is StartChildWorkflowExecutionInitiated  # noqa: S101 - by `event_type`
        target = self.target
        if event.workflow_type != target.workflow_type:
            return "the workflow"
        if event.workflow_id != self.workflow_id:
            return "the workflow id"
        if event.input == self.input:
            return None
        return target.differing_input(event.input, self.input)

    def recorded(
        self, run: Operations, event_id: int, time: int, event: Attributes
    ) -> None:
        """Await the start."""
        assert type(event) is StartChildWorkflowExecutionInitiated  # noqa: S101 - by `event_type`
        self.move(RECORD)
        run.children[event_id] = self
        self.initiated_event_id = event_id
        self.initiated_at = time
        self.initiated = event

    # --- what happens to it -----------------------------------------------------------

    def begun(self, event: ChildWorkflowExecutionStarted) -> None:
        """The child exists."""
        self.run_id = event.run_id
        self.start.set(event)

    def resolve(self, event: Attributes) -> None:
        """Take the outcome; whoever still waits is woken."""
        self.move(RESOLVE)
        if not isinstance(event, StartChildWorkflowExecutionFailed):
            self.run_id = getattr(event, "run_id", self.run_id)
        self.start.set(event)
        self.outcome.set(event)

    def cancel(self, reason: str = DEFAULT_REASON) -> None:
        """Give the child up; ask it to stop if it may be running."""
        if self.state is CREATED:
            self.move(Move.CANCEL)
            self.is_withdrawn = True
        elif self.state is PENDING:
            self.move(Move.CANCEL)
            command = RequestCancelExternalWorkflowExecution(
                self.workflow_id, None, reason, child_workflow_only=True
            )
            self.stop = DeliveryMachine(command, Outcome(self.parent.loop))
            self.parent.send(self.stop)

    # --- what the parent's code holds -------------------------------------------------

    async def wait_started(self) -> str:
        """Wait until the child exists; return its run id."""
        if self.parent.is_torn_down:
            await self.parent.loop.create_future()  # see durable.core.loop.teardown
        try:
            event = await self.start.wait()
        except asyncio.CancelledError:
            if self.state is CREATED and not self.parent.is_torn_down:
                self.cancel()  # asked for and given up within one turn
            raise
        if isinstance(event, StartChildWorkflowExecutionFailed):
            raise _start_error(event)
        assert self.run_id is not None  # noqa: S101 - every other event brings it
        return self.run_id

    async def wait_result(self) -> Payload:
        """Wait for the child's result; raise its failure."""
        if self.parent.is_torn_down:
            await self.parent.loop.create_future()  # see durable.core.loop.teardown
        kind = self.target.settings.cancellation_type
        try:
            return self._result(await self.outcome.wait())
        except asyncio.CancelledError as cancel:
            if self.parent.is_torn_down:
                raise
            was_created = self.state is CREATED
            if kind != "abandon" or was_created:
                self.cancel(reason_of(cancel))
            if was_created or kind in ("abandon", "try_cancel"):
                raise
            if self.outcome.value is not None and sees_every_cancel():
                raise  # it did not answer this cancel: it had ended before
            return await self._outlast(kind, cancel)

    async def _outlast(self, kind: str, cancel: asyncio.CancelledError) -> Payload:
        """Wait on after a cancel; raise it again unless the child went on."""
        outlasting = Outlasting()
        outlasting.take(cancel)
        event: Attributes | None = None
        while event is None:
            try:
                if kind == "wait_cancellation_requested" and self.stop is not None:
                    await self.stop.outcome.wait()
                    if self.outcome.value is None:
                        break
                event = await self.outcome.wait()
            except asyncio.CancelledError as another:
                if self.parent.is_torn_down:
                    raise
                outlasting.take(another)
        if event is None or isinstance(event, ChildWorkflowExecutionCanceled):
            raise outlasting.shown()
        outlasting.hidden()
        return self._result(event)

    def _result(self, event: Any) -> Payload:
        if isinstance(event, ChildWorkflowExecutionCompleted):
            return event.result
        if isinstance(event, StartChildWorkflowExecutionFailed):
            raise _start_error(event)
        if isinstance(event, ChildWorkflowExecutionCanceled):
            raise asyncio.CancelledError
        raise self.parent.code.exception_of(
            Failure(
                message=f"Child workflow {event.workflow_id!r}"
                f" ({event.workflow_type}) failed.",
                kind="child_workflow",
                cause=_cause_of(event),
                workflow_type=event.workflow_type,
                workflow_id=event.workflow_id,
                run_id=event.run_id,
            )
        )


def _cause_of(event: Attributes) -> Failure:
    if isinstance(event, ChildWorkflowExecutionFailed):
        return event.failure
    if isinstance(event, ChildWorkflowExecutionTimedOut):
        return Failure(
            message=f"It passed its {event.timeout_type}_timeout.",
            kind="timeout",
            type="WorkflowTimedOutError",
            timeout_type=event.timeout_type,
            workflow_id=event.workflow_id,
            run_id=event.run_id,
        )
    assert isinstance(event, ChildWorkflowExecutionTerminated)  # noqa: S101 - the last kind left
    return Failure(
        message=f"It was terminated: {event.reason or 'no reason given'}.",
        kind="terminated",
        type="WorkflowTerminatedError",
        workflow_id=event.workflow_id,
        run_id=event.run_id,
    )


def _start_error(event: StartChildWorkflowExecutionFailed) -> Exception:
    if event.cause == WorkflowAlreadyStartedError.code:
        return WorkflowAlreadyStartedError(
            event.message, workflow_id=event.workflow_id, run_id=""
        )
    return WorkflowNotFoundError(event.message)
