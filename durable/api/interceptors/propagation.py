"""The interceptor that lets a context variable travel."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from contextvars import ContextVar
from typing import Any

from durable.api.interceptors.interceptor import (
    ContinueAsNewInput,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    HandleQueryInput,
    HandleSignalInput,
    HandleUpdateInput,
    Intercepted,
    Interceptor,
    Next,
    NextPlain,
    QueryWorkflowInput,
    SignalExternalWorkflowInput,
    SignalWorkflowInput,
    StartActivityInput,
    StartChildWorkflowInput,
    StartUpdateInput,
    StartWorkflowInput,
)
from durable.core.runtime import get_runtime


class ContextPropagator(Interceptor):
    """Lets the text of a context variable travel with whatever is begun.

        tenant: ContextVar[str] = ContextVar("tenant")
        Engine(url, interceptors=[ContextPropagator(tenant, "tenant")])

    Whoever starts a run sets it: the run's code has it, as have its activities, its
    children and the runs that it goes on as. Code that sets it to something else hands
    that on. The handler of a message has what its sender had; if that had nothing, what
    the run began with. A function in another process asks `activity_info().headers`.

    Args:
        variable: of texts; an empty one counts as none.
        name: what the header is called.
    """

    def __init__(self, variable: ContextVar[str], name: str) -> None:
        """See the class."""
        self._variable = variable
        self._name = name

    def _send(self, input: Intercepted) -> None:
        text = self._variable.get(None)
        if text:
            input.headers[self._name] = text

    def _send_change(self, input: Intercepted) -> None:
        """Send what differs from what the run began with, which travels anyway."""
        text = self._variable.get(None) or ""
        if text != get_runtime("A propagator").info().headers.get(self._name, ""):
            input.headers[self._name] = text

    @contextlib.contextmanager
    def _having(self, headers: dict[str, str]) -> Generator[None, None, None]:
        text = headers.get(self._name, "")
        if text == (self._variable.get(None) or ""):
            yield
            return
        # Perhaps to nothing: an attempt begins with what is set where it was begun.
        token = self._variable.set(text)
        try:
            yield
        finally:
            # A run that leaves memory closes its code in another context.
            with contextlib.suppress(ValueError):
                self._variable.reset(token)

    def _having_message(self, input: Intercepted) -> Any:
        began_with = get_runtime("A propagator").info().headers
        return self._having({**began_with, **input.headers})

    async def start_workflow(
        self, input: StartWorkflowInput, next: Next[StartWorkflowInput]
    ) -> Any:
        """Send it."""
        self._send(input)
        return await next(input)

    async def signal_workflow(
        self, input: SignalWorkflowInput, next: Next[SignalWorkflowInput]
    ) -> None:
        """Send it."""
        self._send(input)
        await next(input)

    async def query_workflow(
        self, input: QueryWorkflowInput, next: Next[QueryWorkflowInput]
    ) -> Any:
        """Send it."""
        self._send(input)
        return await next(input)

    async def start_update(
        self, input: StartUpdateInput, next: Next[StartUpdateInput]
    ) -> Any:
        """Send it."""
        self._send(input)
        return await next(input)

    async def execute_workflow(
        self, input: ExecuteWorkflowInput, next: Next[ExecuteWorkflowInput]
    ) -> Any:
        """Take it."""
        with self._having(input.headers):
            return await next(input)

    async def handle_signal(
        self, input: HandleSignalInput, next: Next[HandleSignalInput]
    ) -> None:
        """Take it."""
        with self._having_message(input):
            await next(input)

    def handle_query(
        self, input: HandleQueryInput, next: NextPlain[HandleQueryInput]
    ) -> Any:
        """Take it."""
        with self._having_message(input):
            return next(input)

    async def handle_update(
        self, input: HandleUpdateInput, next: Next[HandleUpdateInput]
    ) -> Any:
        """Take it."""
        with self._having_message(input):
            return await next(input)

    async def start_activity(
        self, input: StartActivityInput, next: Next[StartActivityInput]
    ) -> Any:
        """Send a change."""
        self._send_change(input)
        return await next(input)

    def start_child_workflow(
        self, input: StartChildWorkflowInput, next: NextPlain[StartChildWorkflowInput]
    ) -> Any:
        """Send a change."""
        self._send_change(input)
        return next(input)

    async def signal_external_workflow(
        self,
        input: SignalExternalWorkflowInput,
        next: Next[SignalExternalWorkflowInput],
    ) -> None:
        """Send it."""
        self._send(input)
        await next(input)

    def continue_as_new(
        self, input: ContinueAsNewInput, next: NextPlain[ContinueAsNewInput]
    ) -> Any:
        """Send a change."""
        self._send_change(input)
        return next(input)

    async def execute_activity(
        self, input: ExecuteActivityInput, next: Next[ExecuteActivityInput]
    ) -> Any:
        """Take it."""
        with self._having(input.headers):
            return await next(input)
