"""An activity whose outcome comes later, and from somebody else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from durable.api.activities.activity_context import get_context
from durable.errors import InvalidCallError

if TYPE_CHECKING:
    from concurrent.futures import Future


class Later(msgspec.Struct, frozen=True):
    """That the running activity is completed by whoever has its token.

    Attributes:
        token: what `engine.activities.complete(token, ...)` takes, in any process. It
            is of this attempt alone: when that is over, it is refused.
    """

    token: str

    @property
    def outcome(self) -> Any:
        """What the activity returns now: it stands for what comes later."""
        return None


async def complete_later() -> Later:
    """Leave the outcome of the running activity to whoever has its token.

        later = await complete_later()
        await gateway.charge(order, callback=later.token)
        return later.outcome

    That is recorded before the token is here. From then on the worker may close, and
    what the function returns counts for nothing; what it raises is the attempt's
    failure as ever, and the token is void then. Its timeouts count on.

    Raises:
        NotInWorkflowError: no activity of an engine is running here.
        InvalidCallError: the activity runs in a process, or is a step or a transaction.
        AttemptOverError: the attempt is over, or its activity was asked to stop.
    """
    return Later(await asyncio.wrap_future(_hand_out("durable.complete_later()")))


def complete_later_sync() -> Later:
    """The same for a plain function, whose thread waits until it is recorded.

    Raises: as `complete_later`.
    """
    operation = "durable.complete_later_sync()"
    if asyncio._get_running_loop() is not None:
        raise InvalidCallError(
            f"{operation} was called in an async activity, which must not wait so.",
            hint="Write `await complete_later()`.",
        )
    return Later(_hand_out(operation).result())


def _hand_out(operation: str) -> Future[str]:
    context = get_context(operation)
    if context.hand_out is None:
        raise InvalidCallError(
            f"{operation} was called in an activity that runs in a process.",
            hint="Make it async, or let it run in a thread: it has little to compute.",
        )
    if context.info.settings.is_step:
        raise InvalidCallError(
            f"{operation} was called in step {context.info.activity_type!r}, whose"
            " closure ends with its process.",
            hint="Await an external_promise() beside it, and hand its token out.",
        )
    if context.info.settings.effect == "transaction":
        raise InvalidCallError(
            f"{operation} was called in activity {context.info.activity_type!r}, which"
            " is a transaction: its result is committed with what it writes, when its"
            " function returns.",
            hint="Hand a token out in another activity, or await an"
            " external_promise().",
        )
    if context.info.settings.is_local:
        raise InvalidCallError(
            f"{operation} was called in local activity {context.info.activity_type!r},"
            " which may not even be recorded.",
            hint="Leave out local: what others are to complete takes its time.",
        )
    return context.hand_out(context)
