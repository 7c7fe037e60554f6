"""Other runs, as workflow code holds them: its children, and runs it knows by id."""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any, Generic, TypeVar, overload

from durable.api.messages.messages import SignalCall, signal_call
from durable.api.workflows.workflow_definition import WorkflowCall
from durable.core.history.commands import (
    ExternalCommand,
    RequestCancelExternalWorkflowExecution,
    SignalExternalWorkflowExecution,
)
from durable.core.runtime import Child, get_runtime
from durable.errors import InvalidCallError
from durable.options import check_id, to_label

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class _Receiver:
    """A run that workflow code sends messages to."""

    def __init__(self, workflow_id: str, run_id: str | None, *, is_child: bool) -> None:
        self._whom = workflow_id, run_id
        self._is_child = is_child

    @overload
    async def signal(self, call: SignalCall, /) -> None: ...
    @overload
    async def signal(self, call: str, /, *args: Any) -> None: ...
    async def signal(self, call: SignalCall | str, /, *args: Any) -> None:
        """Send the run a signal. When this returns, the run has it, durably.

        Args:
            call: a call of a signal, such as `approved(True)`; or a signal's name.
            *args: arguments, only with a name.

        Raises:
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has ended.
            InboxFullError: too many messages wait for it.
            InvalidInputError: an argument breaks its rule.
            NotInWorkflowError: called outside of a workflow.
        """
        message = signal_call(call, args)
        await self._tell(
            "signal",
            SignalExternalWorkflowExecution(
                *self._whom, message.name, message.input, {}, self._is_child
            ),
        )

    async def cancel(self, reason: str = "") -> None:
        """Ask the run to stop. When this returns, the run has the request, durably.

        Raises:
            InvalidOptionError: the reason is no text.
            WorkflowNotFoundError: there is no such run.
            WorkflowClosedError: it has ended.
            NotInWorkflowError: called outside of a workflow.
        """
        await self._tell(
            "cancel",
            RequestCancelExternalWorkflowExecution(
                *self._whom, to_label(reason, "the reason") or "", self._is_child
            ),
        )

    async def _tell(self, method: str, command: ExternalCommand) -> None:
        operation = f"{type(self).__name__}.{method}()"
        await get_runtime(operation).tell_external(command)


class ChildHandle(_Receiver, Generic[R_co]):
    """A child workflow that has started. Await it for its result."""

    def __init__(self, call: WorkflowCall[R_co], child: Child) -> None:
        super().__init__(child.workflow_id, None, is_child=True)
        self._call = call
        self._child = child

    @property
    def workflow_id(self) -> str:
        """The child's workflow id."""
        return self._child.workflow_id

    @property
    def run_id(self) -> str:
        """The run id that the child started with."""
        return self._child.run_id or ""

    async def result(self) -> R_co:
        """Wait for the child's result.

        If the wait is cancelled, the child's `cancellation_type` says what becomes of
        it.

        Raises what the child raised, or as awaiting its call does.
        """
        return await self._call.result_of(self._child)

    def __await__(self) -> Generator[Any, Any, R_co]:
        """Wait for the child's result; the same as `result`."""
        return self.result().__await__()

    def __repr__(self) -> str:
        return f"<child workflow {self.workflow_id!r}>"


async def start_child(
    call: WorkflowCall[R], /, *, id: str | None = None
) -> ChildHandle[R]:
    """Start a child workflow, and go on as soon as it exists.

        payment = await start_child(pay(order), id=f"pay-{order.id}")
        ...
        receipt = await payment

    To start a child and wait for its result, simply await its call. Cancelling this
    leaves the child alone.

    Args:
        call: a call of a workflow, such as `pay(order)`; its options say how it runs.
        id: the workflow id; that of the call's options by default, else a random one,
            the same on replay.

    Raises:
        WorkflowAlreadyStartedError: the id is taken.
        InvalidCallError: it is no call of a workflow.
        InvalidIdError: the id breaks the rule for ids.
        NotInWorkflowError: called outside of a workflow.
    """
    runtime = get_runtime("durable.start_child()")
    if not isinstance(call, WorkflowCall):
        raise InvalidCallError(
            f"{call!r} is no workflow call.",
            hint="Give a call of a workflow, such as place_order(order).",
        )
    call.is_used = True  # even if the rest is refused
    if id is not None:
        check_id(id, "the child's workflow id")
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
    child = call.begin(runtime, id, frame.f_code, frame.f_lasti)
    await child.wait_started()
    return ChildHandle(call, child)


class ExternalHandle(_Receiver):
    """A run that workflow code knows by its id."""

    def __init__(self, workflow_id: str, run_id: str | None) -> None:
        super().__init__(workflow_id, run_id, is_child=False)
        self.workflow_id = workflow_id
        self.run_id = run_id

    def __repr__(self) -> str:
        return f"<external workflow {self.workflow_id!r}>"


def external(workflow_id: str, /, *, run_id: str | None = None) -> ExternalHandle:
    """A run of the same namespace, to send signals to or to ask to stop.

    Args:
        workflow_id: its workflow id; whether there is such a run shows when it is
            asked.
        run_id: which run of that id; the open one by default.

    Raises:
        InvalidIdError: an id breaks the rule for ids.
        NotInWorkflowError: called outside of a workflow.
    """
    get_runtime("durable.external()")
    check_id(workflow_id, "the workflow id")
    if run_id is not None:
        check_id(run_id, "the run id")
    return ExternalHandle(workflow_id, run_id)
