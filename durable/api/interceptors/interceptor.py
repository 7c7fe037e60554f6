"""An interceptor: what surrounds calls of clients, of workflow code and of activities.

Each method gets what is about to be done as data, and `next`, which does it. Headers
are texts that travel with it and are kept in histories.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import msgspec

from durable.api.activities.activity_context import ActivityInfo
from durable.converter import json
from durable.core.history.commands import ActivitySettings
from durable.core.history.payload import Payloads
from durable.core.runtime import WorkflowInfo

In = TypeVar("In")
Next: TypeAlias = Callable[[In], Awaitable[Any]]
"""Goes on: to the next interceptor, or to the call itself."""
NextPlain: TypeAlias = Callable[[In], Any]
"""The same where nothing is awaited."""


class Intercepted(msgspec.Struct, kw_only=True):
    """Anything that is about to be done. Change it, and hand it to `next`.

    Attributes:
        headers: what travels with it, to be changed. Of what is received: all that
            came, after which a change has no effect.
    """

    headers: dict[str, str] = {}


class _Recorded(Intercepted, kw_only=True):
    input: Payloads = ()
    """The arguments as they will be recorded."""

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments as plain data, such as dicts and lists; to be looked at."""
        return tuple(json.decode(one, Any, "an argument") for one in self.input)


class _Decoded(Intercepted, kw_only=True):
    args: list[Any]
    """The arguments by position, of the types that the function takes."""
    kwargs: dict[str, Any]
    """Those by name."""


# --- the client -----------------------------------------------------------------------


class StartWorkflowInput(_Recorded, kw_only=True):
    """A run is to be started. A message that comes with it gets the same headers."""

    workflow_type: str
    workflow_id: str | None
    """None if it is to be a random one."""


class SignalWorkflowInput(_Recorded, kw_only=True):
    """A run is to get a signal."""

    workflow_id: str
    signal_name: str


class QueryWorkflowInput(_Recorded, kw_only=True):
    """A run is to be asked."""

    workflow_id: str
    query_name: str


class StartUpdateInput(_Recorded, kw_only=True):
    """A run is to get an update."""

    workflow_id: str
    update_name: str
    update_id: str


class CancelWorkflowInput(Intercepted, kw_only=True):
    """A run is to be asked to stop. Headers travel with nothing here."""

    workflow_id: str
    reason: str


class TerminateWorkflowInput(Intercepted, kw_only=True):
    """A run is to be closed. Headers travel with nothing here."""

    workflow_id: str
    reason: str


# --- workflow code --------------------------------------------------------------------


class ExecuteWorkflowInput(_Decoded, kw_only=True):
    """The main code of a run begins, at its start or at a checkpoint."""

    info: WorkflowInfo


class HandleSignalInput(_Recorded, kw_only=True):
    """The handler of a signal begins."""

    signal_name: str


class HandleQueryInput(_Recorded, kw_only=True):
    """The handler of a query is asked."""

    query_name: str


class HandleUpdateInput(_Recorded, kw_only=True):
    """The handler of an update begins, which was accepted."""

    update_name: str


class StartActivityInput(_Recorded, kw_only=True):
    """Workflow code calls an activity, with headers beside those of the run."""

    activity_type: str
    settings: ActivitySettings


class StartChildWorkflowInput(_Recorded, kw_only=True):
    """Workflow code starts a child, with headers beside those of the run."""

    workflow_type: str
    workflow_id: str | None
    """None if it is to be a random one."""


class SignalExternalWorkflowInput(_Recorded, kw_only=True):
    """Workflow code sends a signal to a child, or to a run that it knows by its id."""

    workflow_id: str
    signal_name: str


class ContinueAsNewInput(_Recorded, kw_only=True):
    """The run is to go on as a new one, with headers beside those that it has."""

    workflow_type: str


# --- activities -----------------------------------------------------------------------


class ExecuteActivityInput(_Decoded, kw_only=True):
    """An attempt of an activity begins."""

    info: ActivityInfo


class Interceptor:
    """Surrounds calls: override what you want, and leave the rest.

        class Audit(Interceptor):
            async def execute_activity(self, input, next):
                try:
                    return await next(input)
                finally:
                    audit.append(input.info.activity_type)

        Engine(url, interceptors=[Audit()])

    The first of several is the outermost. A method that does not call `next` answers
    in its place; what it raises is what the call raises. One object serves all calls,
    side by side.

    Those of workflow code run within the run, and again at each replay: they must be as
    deterministic as that is, and what they wait for is the run's. Headers, and options
    of an activity, are not compared on replay and may change; arguments are.
    """

    # In the program that asks; `next` gives what the caller gets.

    async def start_workflow(
        self, input: StartWorkflowInput, next: Next[StartWorkflowInput]
    ) -> Any:
        """Start a run; `next` gives its handle, or None in a caller's transaction."""
        return await next(input)

    async def signal_workflow(
        self, input: SignalWorkflowInput, next: Next[SignalWorkflowInput]
    ) -> None:
        """Send a signal."""
        await next(input)

    async def query_workflow(
        self, input: QueryWorkflowInput, next: Next[QueryWorkflowInput]
    ) -> Any:
        """Ask a run; `next` gives the answer."""
        return await next(input)

    async def start_update(
        self, input: StartUpdateInput, next: Next[StartUpdateInput]
    ) -> Any:
        """Send an update; `next` gives its handle once it is accepted."""
        return await next(input)

    async def cancel_workflow(
        self, input: CancelWorkflowInput, next: Next[CancelWorkflowInput]
    ) -> None:
        """Ask a run to stop."""
        await next(input)

    async def terminate_workflow(
        self, input: TerminateWorkflowInput, next: Next[TerminateWorkflowInput]
    ) -> None:
        """Close a run."""
        await next(input)

    # In the workflow: what comes in, then what goes out.

    async def execute_workflow(
        self, input: ExecuteWorkflowInput, next: Next[ExecuteWorkflowInput]
    ) -> Any:
        """Run a workflow; `next` gives its result."""
        return await next(input)

    async def handle_signal(
        self, input: HandleSignalInput, next: Next[HandleSignalInput]
    ) -> None:
        """Run the handler of a signal. What `Signal.receive()` takes passes none."""
        await next(input)

    def handle_query(
        self, input: HandleQueryInput, next: NextPlain[HandleQueryInput]
    ) -> Any:
        """Run the handler of a query; `next` gives its answer. It changes nothing."""
        return next(input)

    async def handle_update(
        self, input: HandleUpdateInput, next: Next[HandleUpdateInput]
    ) -> Any:
        """Run the handler of an update; `next` gives its answer."""
        return await next(input)

    async def start_activity(
        self, input: StartActivityInput, next: Next[StartActivityInput]
    ) -> Any:
        """Call an activity; `next` gives its result, as it is recorded."""
        return await next(input)

    def start_child_workflow(
        self, input: StartChildWorkflowInput, next: NextPlain[StartChildWorkflowInput]
    ) -> Any:
        """Start a child; `next` gives what waits for it."""
        return next(input)

    async def signal_external_workflow(
        self,
        input: SignalExternalWorkflowInput,
        next: Next[SignalExternalWorkflowInput],
    ) -> None:
        """Send a signal from a workflow."""
        await next(input)

    def continue_as_new(
        self, input: ContinueAsNewInput, next: NextPlain[ContinueAsNewInput]
    ) -> Any:
        """Go on as a new run; `next` does not return."""
        return next(input)

    # Around an activity.

    async def execute_activity(
        self, input: ExecuteActivityInput, next: Next[ExecuteActivityInput]
    ) -> Any:
        """Run an attempt, on the event loop; `next` gives its function's result."""
        return await next(input)
