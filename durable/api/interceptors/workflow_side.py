"""Workflow code as interceptors surround it: its own calls, and those that it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import CodeType
from typing import Any, Final, NoReturn, cast

import msgspec

from durable.api.interceptors.chains import Interceptors, checked_headers
from durable.api.interceptors.interceptor import (
    ContinueAsNewInput,
    ExecuteWorkflowInput,
    HandleQueryInput,
    HandleSignalInput,
    HandleUpdateInput,
    SignalExternalWorkflowInput,
    StartActivityInput,
    StartChildWorkflowInput,
)
from durable.api.workflows.workflow_definition import Workflow
from durable.core.history.commands import (
    ExternalCommand,
    SignalExternalWorkflowExecution,
)
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import (
    ActivityTarget,
    Child,
    ChildTarget,
    ContinueAsNew,
    Handler,
    MessageKind,
    WorkflowRuntime,
    get_runtime,
)
from durable.errors import WorkflowTaskError


class _Around:
    """Stands in the place of something, and is it for all that is not its own."""

    def __init__(self, inner: Any, interceptors: Interceptors) -> None:
        vars(self).update(_inner=inner, _interceptors=interceptors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._inner, name, value)


class InterceptedCode(_Around):
    """The code of a workflow, within interceptors."""

    _inner: Workflow[Any, Any]
    _interceptors: Interceptors

    def prepare(self, runtime: WorkflowRuntime, input: Payloads) -> None:
        """Prepare the run's code, whose calls pass the interceptors from now on."""
        around = cast("WorkflowRuntime", _Runtime(runtime, self._interceptors))
        loop: Any = asyncio.get_running_loop()
        loop.durable_runtime = around
        self._inner.prepare(around, input)

    async def call(self, input: Payloads) -> Payload:
        """Decode the arguments, run the code, encode its result."""
        if not self._interceptors.have("execute_workflow"):
            return await self._inner.call(input)
        signature = self._inner.call_signature

        async def run(given: ExecuteWorkflowInput) -> Any:
            values = signature.bind((*given.args,), given.kwargs)
            result = await self._inner.call(signature.encode(values))
            return signature.decode_result(result)

        info = get_runtime("A workflow").info()
        args, kwargs = signature.unbind(signature.decode(input))
        begun = ExecuteWorkflowInput(
            info=info, args=[*args], kwargs=kwargs, headers={**info.headers}
        )
        execute = self._interceptors.around("execute_workflow", run)
        return signature.encode_result(await execute(begun))


class _Runtime(_Around):
    """The runtime of a run, within interceptors."""

    _inner: WorkflowRuntime
    _interceptors: Interceptors

    @property
    def code(self) -> Workflow[Any, Any]:
        """The workflow itself: the library's own operations ask what it is."""
        within: Any = self._inner.code
        code: Workflow[Any, Any] = within._inner
        return code

    async def execute_activity(
        self,
        target: ActivityTarget,
        input: Payloads,
        code: CodeType | None,
        instruction: int,
    ) -> Payload:
        async def run(given: StartActivityInput) -> Payload:
            headers = checked_headers(given.headers, f"of activity {name!r}")
            sent = msgspec.structs.replace(
                target, settings=given.settings, headers=headers
            )
            return await self._inner.execute_activity(
                sent, given.input, code, instruction
            )

        name = target.activity_type
        asked = StartActivityInput(
            activity_type=name, settings=target.settings, input=input
        )
        result = await self._interceptors.around("start_activity", run)(asked)
        kept: Payload = _passed_on(result, Payload, "start_activity")
        return kept

    def start_child(
        self,
        target: ChildTarget,
        workflow_id: str | None,
        input: Payloads,
        code: CodeType | None,
        instruction: int,
    ) -> Child:
        def start(given: StartChildWorkflowInput) -> Child:
            headers = checked_headers(given.headers, f"of child {name!r}")
            sent = msgspec.structs.replace(target, headers=headers)
            return self._inner.start_child(
                sent, given.workflow_id, given.input, code, instruction
            )

        name = target.workflow_type
        asked = StartChildWorkflowInput(
            workflow_type=name, workflow_id=workflow_id, input=input
        )
        child = self._interceptors.around("start_child_workflow", start)(asked)
        return cast("Child", _passed_on(child, object, "start_child_workflow"))

    async def tell_external(self, command: ExternalCommand) -> None:
        if not isinstance(command, SignalExternalWorkflowExecution):
            await self._inner.tell_external(command)
            return

        async def tell(given: SignalExternalWorkflowInput) -> None:
            headers = checked_headers(given.headers, f"of signal {name!r}")
            sent = msgspec.structs.replace(command, input=given.input, headers=headers)
            await self._inner.tell_external(sent)

        name = command.signal_name
        asked = SignalExternalWorkflowInput(
            workflow_id=command.workflow_id, signal_name=name, input=command.input
        )
        await self._interceptors.around("signal_external_workflow", tell)(asked)

    def checkpoint(self, input: Payloads) -> None:
        try:
            self._inner.checkpoint(input)
        except ContinueAsNew as going:  # it moves to another version
            self.continue_as_new(going)

    def continue_as_new(self, going: ContinueAsNew) -> NoReturn:
        def go_on(given: ContinueAsNewInput) -> None:
            going.headers = checked_headers(given.headers, "of the next run")
            going.input = given.input
            self._inner.continue_as_new(going)

        asked = ContinueAsNewInput(workflow_type=going.workflow_type, input=going.input)
        self._interceptors.around("continue_as_new", go_on)(asked)
        raise WorkflowTaskError(
            "An interceptor's continue_as_new() returned, and the run cannot go on.",
            hint="Let it call next(input), which does not return.",
        )

    def set_handler(
        self, kind: MessageKind, name: str | None, handler: Handler | None
    ) -> None:
        if handler is not None and self._interceptors.have(f"handle_{kind}"):
            handler = _surrounded(kind, handler, self._interceptors)
        self._inner.set_handler(kind, name, handler)


def _passed_on(result: Any, kind: type[Any], method: str) -> Any:
    if result is None or not isinstance(result, kind):
        raise WorkflowTaskError(
            f"An interceptor's {method}() returned {result!r}.",
            hint="Let it return what next(input) gave.",
        )
    return result


# --- handlers -------------------------------------------------------------------------

_RECEIVED: Final[dict[MessageKind, Any]] = {
    "signal": HandleSignalInput,
    "query": HandleQueryInput,
    "update": HandleUpdateInput,
}


def _surrounded(
    kind: MessageKind, handler: Handler, interceptors: Interceptors
) -> Handler:
    """A handler within interceptors; all but those of queries may wait there."""

    def within(
        name: str, input: Payloads, headers: dict[str, str]
    ) -> Callable[[], Any]:
        call = handler.bind(name, input)

        def answer(given: Any) -> Any:
            same = given.input is input
            return call() if same else handler.bind(name, given.input)()

        async def run(given: Any) -> Any:
            result = answer(given)
            return await result if handler.is_async else result

        end = answer if kind == "query" else run
        handle = interceptors.around(f"handle_{kind}", end)
        received = {f"{kind}_name": name, "input": input, "headers": {**headers}}
        return lambda: handle(_RECEIVED[kind](**received))

    return msgspec.structs.replace(
        handler, bind=within, takes_headers=True, is_async=kind != "query"
    )
