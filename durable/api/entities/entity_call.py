"""Calls of entities, as values: an engine carries them out, or a workflow awaits them.

In a workflow a call is an activity that the library brings along, so that its answer
is recorded. Its update id comes from the activity, so that each further attempt is the
same update: the method runs once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator
from types import CodeType
from typing import Any, Final, Generic, TypeVar

from durable import limits
from durable.api.entities.entity_caller import Caller, current_caller
from durable.api.workflows.workflow_definition import Workflow
from durable.converter import json
from durable.converter.failures import register_exception
from durable.core.history.commands import ActivitySettings, RetrySettings
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import ActivityTarget, WorkflowRuntime, find_runtime
from durable.errors import (
    ActivityError,
    ActivityTimeoutError,
    ApplicationError,
    ChildWorkflowError,
    DurableError,
    EntityDeadlockError,
    InvalidCallError,
    InvalidIdError,
    OutcomeUnknown,
    UpdateFailedError,
    UpdateRejectedError,
)
from durable.options import check_id

R_co = TypeVar("R_co", covariant=True)

_RAISED: Final[tuple[type[DurableError], ...]] = (
    ActivityError,
    ActivityTimeoutError,
    ApplicationError,
    ChildWorkflowError,
    EntityDeadlockError,
    OutcomeUnknown,
    UpdateFailedError,
    UpdateRejectedError,
)
for _error in _RAISED:
    register_exception(_error)  # whoever calls an entity may catch them by class

CALL_ENTITY: Final = "durable.call_entity"
"""The activity that calls an entity."""
IS_RUN_OPEN: Final = "durable.is_run_open"
"""The activity that asks whether the holder of a key is still there."""
HOLD: Final = "durable.hold"
"""The update that lets a critical section hold a key; answers whether it does."""
LET_GO: Final = "durable.let_go"
"""The update that ends that."""
_CONTROL_NAMES: Final = ("the entity", "the key", "the method", "the caller")
CONTROL_COUNT: Final = len(_CONTROL_NAMES)
"""Arguments of `CALL_ENTITY` before those of the method: workflow type, key, method and
caller."""

# It only waits: for the entity's turn, however long that takes, and for a database or
# an entity whose code must be mended first. What a method raised is never tried again.
PATIENT: Final = ActivitySettings(
    task_queue="",
    start_to_close_timeout=None,
    schedule_to_close_timeout=None,
    schedule_to_start_timeout=None,
    heartbeat_timeout=None,
    retry_policy=RetrySettings(
        max_attempts=0,
        initial_interval=1_000_000,
        max_interval=60_000_000,
        backoff_coefficient=2.0,
        retryable_errors=(),
        non_retryable=(),
    ),
    cancellation_type="try_cancel",
    at_most_once=False,
)


class EntityTarget:
    """Which entity is meant.

    Attributes:
        definition: its workflow.
        key: its key.
        workflow_id: the id of its run.

    Raises:
        InvalidIdError: the key cannot be part of an id.
    """

    __slots__ = ("definition", "key", "workflow_id")

    def __init__(self, definition: Workflow[Any, Any], key: str) -> None:
        self.definition = definition
        self.key = check_id(key, f"the key of {definition.name!r}")
        self.workflow_id = f"{definition.name}:{key}"
        size = len(self.workflow_id.encode())
        if size > limits.ID_BYTES_MAX:
            raise InvalidIdError(
                f"The key {key[:40]!r}... makes an id of {size} bytes, such as"
                f" {definition.name}:<key>; the limit is {limits.ID_BYTES_MAX}.",
                hint="Shorten it, or use a digest of it.",
            )

    def __repr__(self) -> str:
        return f"{self.definition.origin.__name__}[{self.key!r}]"


class EntityCall(Coroutine[Any, Any, R_co], Generic[R_co]):
    """A call of an entity's method: a value.

    An engine carries it out: `await engine.call(Cart["alice"].add("apple"))`. Inside a
    workflow, or a method of another entity, awaiting it does.

    Attributes:
        target: the entity.
        method: the method's name.
        is_exclusive: it waits for its turn and may change the state.
        input: the arguments, as they will be recorded.
        decode_result: turns the recorded answer into the value that the method gave;
            raises UndecodableError.
    """

    def __init__(
        self,
        target: EntityTarget,
        method: str,
        input: Payloads,
        *,
        is_exclusive: bool,
        decode_result: Callable[[Payload], R_co],
        differing_input: Callable[[Payloads, Payloads], str | None],
    ) -> None:
        self.target = target
        self.method = method
        self.input = input
        self.is_exclusive = is_exclusive
        self.decode_result = decode_result
        self._differing_input = differing_input
        self._running: Coroutine[Any, Any, R_co] | None = None

    def __await__(self) -> Generator[Any, Any, R_co]:
        """Call the entity from the running workflow; each time anew.

        Raises what the method raised. Cancelling the wait does not take the call back.

        Raises:
            EntityDeadlockError: it would wait for itself: the entity waits for the code
                that calls it; or, in a critical section, its key is not held.
            InvalidCallError: no workflow is running here; an engine makes calls.
        """
        runtime = self._get_runtime()
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
        return self._run(runtime, frame.f_code, frame.f_lasti).__await__()

    def send(self, value: Any, /) -> Any:
        """Go on, as the coroutine of a task."""
        return self._get_running().send(value)

    def throw(self, *error: Any) -> Any:
        """Go on with an exception, as the coroutine of a task."""
        return self._get_running().throw(*error)

    def close(self) -> None:
        """Give up; a call that was never driven holds nothing."""
        if self._running is not None:
            self._running.close()

    def _get_running(self) -> Coroutine[Any, Any, R_co]:
        if self._running is None:
            self._running = self._run(self._get_runtime(), None, 0)
        return self._running

    def _get_runtime(self) -> WorkflowRuntime:
        runtime = find_runtime()
        if runtime is None:
            raise InvalidCallError(
                f"{self.target}.{self.method}(...) was awaited outside of a workflow.",
                hint="Give it to an engine: await engine.call(...); in an activity to"
                " durable.activity_client().",
            )
        return runtime

    async def _run(
        self, runtime: WorkflowRuntime, code: CodeType | None, instruction: int
    ) -> R_co:
        caller = current_caller()
        if self.is_exclusive:
            self._refuse_deadlock(caller)
        payload = await self.schedule(runtime, caller, code, instruction)
        return self.decode_result(payload)

    def _refuse_deadlock(self, caller: Caller) -> None:
        workflow_id = self.target.workflow_id
        if workflow_id in caller.chain:
            chain = " -> ".join([*caller.chain, workflow_id])
            raise EntityDeadlockError(
                f"{self.target}.{self.method}(...) would wait for itself for ever:"
                f" {chain}.",
                hint="Within one entity call the method of the object: await"
                f" self.{self.method}(...).",
            )
        if caller.sections and workflow_id not in caller.sections:
            held = ", ".join(sorted(caller.sections))
            raise EntityDeadlockError(
                f"{self.target}.{self.method}(...) was called in a critical section"
                f" that holds only {held}.",
                hint="Name every entity in locked(...) that is called exclusively"
                " within it.",
            )

    async def schedule(
        self,
        runtime: WorkflowRuntime,
        caller: Caller,
        code: CodeType | None = None,
        instruction: int = 0,
    ) -> Payload:
        """Have the activity make the call; unchecked, and not decoded."""
        summary = f"{self.target}.{self.method}"
        return await runtime.execute_activity(
            ActivityTarget(CALL_ENTITY, PATIENT, summary, self._differing),
            self._control(caller) + self.input,
            code,
            instruction,
        )

    def _control(self, caller: Caller) -> Payloads:
        return (
            json.encode(self.target.definition.name, str, _CONTROL_NAMES[0]),
            json.encode(self.target.key, str, _CONTROL_NAMES[1]),
            json.encode(self.method, str, _CONTROL_NAMES[2]),
            json.encode(caller, Caller, _CONTROL_NAMES[3]),
        )

    def _differing(self, recorded: Payloads, found: Payloads) -> str | None:
        for name, left, right in zip(_CONTROL_NAMES, recorded, found, strict=False):
            if left != right:
                return name
        return self._differing_input(recorded[CONTROL_COUNT:], found[CONTROL_COUNT:])

    def __repr__(self) -> str:
        return f"<call of {self.target}.{self.method}>"
