"""What programs say to others and hear from them: activities, messages, other runs.

A part of `durable.testing.programs.interpreter`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NoReturn, cast

from durable.api.activities.activity import Activity, activity
from durable.api.messages.handlers import (
    set_query_handler,
    set_signal_handler,
    set_update_handler,
)
from durable.api.messages.messages import Signal
from durable.api.workflows.children import external, start_child
from durable.api.workflows.operations import (
    all_handlers_finished,
    current_update,
    set_state,
    wait_condition,
)
from durable.api.workflows.workflow import workflow
from durable.errors import (
    ActivityError,
    ApplicationError,
    FailureError,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.options import (
    ActivityCancellationType,
    ChildCancellationType,
    ParentClosePolicy,
)
from durable.testing.programs import programs as p

CHANNELS: Final = tuple(Signal(f"channel-{index}", int) for index in range(3))
UPDATES: Final = ("update-0", "update-1", "update-2")
QUERIES: Final = ("query-0", "query-1", "query-2")
LEAVING: Final = 8
"""The value that makes a handler continue as new."""
FAILING: Final = 9
"""The value that makes a handler fail."""
_EXPECTED: Final = (
    TimeoutError,
    FailureError,
    ExceptionGroup,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)


# --- what programs call ---------------------------------------------------------------


@activity(name="durable.testing.try", retry=None)
async def step_try(value: int) -> int:
    """Return the value."""
    return value


@activity(
    name="durable.testing.wait",
    retry=None,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
async def step_wait(value: int) -> int:
    """Return the value."""
    return value


@activity(
    name="durable.testing.abandon",
    retry=None,
    cancellation_type=ActivityCancellationType.ABANDON,
)
async def step_abandon(value: int) -> int:
    """Return the value."""
    return value


ACTIVITIES: Final[tuple[Activity[[int], int], ...]] = (
    step_try,
    step_wait,
    step_abandon,
)


@workflow(name="durable.testing.child")
async def step_child(value: int) -> int:
    """Return the value."""
    return value


# --- the conversation -----------------------------------------------------------------


class Conversation:
    """What the tasks of one program share to speak with others."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.count: int = 0
        """How often anything was put in, or a signal taken."""

    def note(self, what: object) -> None:
        """Put something on record."""
        self.seen.append(str(what))

    async def catch(self, awaitable: Awaitable[Any]) -> Any:
        """Await, and note what was raised instead of raising it."""
        try:
            return await awaitable
        except _EXPECTED as error:
            self.note(f"caught {name_of(error)}")
            return -1

    def leave(self) -> NoReturn:
        """Continue as new."""
        raise NotImplementedError

    # --- messages ---------------------------------------------------------------------

    async def walk_receive(self, node: p.Receive) -> int:
        channel = CHANNELS[node.channel % 3]
        if not node.waits:
            try:
                self.note(f"here was {channel.receive_nowait()}")
            except asyncio.QueueEmpty:
                self.note("nothing was here")
        elif node.seconds is None:
            self.note(f"received {await channel.receive()}")
        else:
            waiting = asyncio.wait_for(channel.receive(), node.seconds)
            self.note(f"received {await self.catch(waiting)}")
        return 1

    async def walk_handle(self, node: p.Handle) -> int:
        index = None if node.channel is None else node.channel % 3
        setters = (self._handle_signals, self._handle_updates, self._handle_queries)
        setters[node.what % 3](index, node)
        self.note(f"handles {node.what % 3} {index} {not node.remove}")
        return 1

    def _taker(self, index: int | None, node: p.Handle) -> Callable[..., object]:
        async def take(value: int) -> int:
            await self._take_slowly(value)
            return value

        async def take_any(name: str, value: int) -> int:
            return await take(value)

        def take_at_once(value: int) -> int:
            self._take(value)
            return value

        def take_any_at_once(name: str, value: int) -> int:
            return take_at_once(value)

        if index is None:
            return take_any if node.is_async else take_any_at_once
        return take if node.is_async else take_at_once

    def _handle_signals(self, index: int | None, node: p.Handle) -> None:
        handler = None if node.remove else self._taker(index, node)
        set_signal_handler(None if index is None else CHANNELS[index], handler)

    def _handle_updates(self, index: int | None, node: p.Handle) -> None:
        def check(value: int) -> None:
            if value % 4 == 3:
                raise ApplicationError("not this one")

        def check_any(name: str, value: int) -> None:
            check(value)

        set_update_handler(
            None if index is None else UPDATES[index],
            None if node.remove else self._taker(index, node),
            validator=check_any if index is None else check,
        )

    def _handle_queries(self, index: int | None, node: p.Handle) -> None:
        def look() -> list[str]:
            return self.seen

        def look_any(name: str) -> list[str]:
            return self.seen

        handler = look_any if index is None else look
        name = None if index is None else QUERIES[index]
        set_query_handler(name, None if node.remove else handler)

    def _take(self, value: int) -> None:
        self.count += 1
        update = current_update()
        self.note(f"took {value}{'' if update is None else f' of {update.id}'}")
        if value == LEAVING:
            self.leave()
        if value == FAILING:
            raise ApplicationError("a handler's own failure", type="Handled")

    async def _take_slowly(self, value: int) -> None:
        if value % 2:
            await asyncio.sleep(1)
        else:
            self.note(await self.catch(ACTIVITIES[value % 3](value)))
        self._take(value)

    async def walk_finish(self, node: p.Finish) -> int:
        await self.catch(wait_condition(all_handlers_finished, timeout=node.seconds))
        self.note(f"finished {all_handlers_finished()}")
        return 1

    async def walk_show(self, node: p.Show) -> int:
        set_state(node.value)
        return 1

    # --- other runs -------------------------------------------------------------------

    async def walk_raise(self, node: p.Raise) -> int:
        kinds, policies = tuple(ChildCancellationType), tuple(ParentClosePolicy)
        call = step_child.options(
            id=None if node.name is None else f"child-{node.name}",
            cancellation_type=kinds[node.kind % len(kinds)],
            parent_close_policy=policies[node.policy % len(policies)],
        )(node.policy)
        if node.how % 3 == 0:
            self.note(f"child = {await (call if node.raises else self.catch(call))}")
            return 1
        child = await self.catch(start_child(call))
        if child != -1:
            self.note(f"child {child.workflow_id} has begun")
            if node.how % 3 == 2:
                ending = child if node.raises else self.catch(child)
                self.note(f"child = {await ending}")
        return 1

    async def walk_tell(self, node: p.Tell) -> int:
        other = external(f"run-{node.to}")
        sending: Coroutine[Any, Any, None]
        if node.what % 2:
            sending = other.cancel("a program says so")
        else:
            sending = other.signal(CHANNELS[0](node.to))
        await self.catch(sending)
        self.note(f"told {node.to}")
        return 1


def name_of(error: BaseException) -> str:
    """Name an exception; never its text, which differs between Python versions."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return f"{type(group).__name__}({', '.join(map(name_of, group.exceptions))})"
    if isinstance(error, ActivityError):
        return f"{type(error).__name__} of {error.activity_type}"
    if isinstance(error, ApplicationError):
        return f"ApplicationError {error.type}"
    return type(error).__name__
