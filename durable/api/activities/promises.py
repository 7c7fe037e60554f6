"""`external_promise()`: a value that somebody outside of the workflow gives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final, Generic, TypeVar, overload

from durable.converter import json
from durable.core.history.commands import ONE_ATTEMPT, ActivitySettings
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import ActivityTarget, get_runtime
from durable.options import to_label

T = TypeVar("T")
PROMISE: Final = "durable.promise"
"""The type of activity that stands for it in histories; nothing runs."""


class ExternalPromise(Generic[T]):
    """A value that comes from outside; await it, once or more often.

    Attributes:
        token: what `engine.activities.complete(token, value)` takes, in any process;
            `fail` and `cancel` too. It is known at once, and worth something once the
            workflow has awaited anything: an activity that gets it may hand it out.
    """

    def __init__(
        self, token: str, wait: Callable[[], Coroutine[Any, Any, Payload]], kind: Any
    ) -> None:
        self.token = token
        self._wait = wait
        self._kind = kind

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the value; raise what `fail` was given.

        A cancel of who awaits it, as by `asyncio.timeout`, ends it: the token is void
        then. Shield it (`asyncio.shield`) to wait again.
        """
        return self._value().__await__()

    async def _value(self) -> T:
        payload = await self._wait()
        value: T = json.decode(payload, self._kind, "the value of a promise")
        return value

    def __repr__(self) -> str:
        return f"<external promise {self.token!r}>"


@overload
def external_promise(
    kind: type[T], *, summary: str | None = None
) -> ExternalPromise[T]: ...
@overload
def external_promise(*, summary: str | None = None) -> ExternalPromise[Any]: ...
def external_promise(kind: Any = Any, *, summary: str | None = None) -> Any:
    """Make a promise that is kept from outside of the workflow.

        approval = external_promise(bool)
        await ask_for_approval(order, approval.token)
        async with asyncio.timeout(3600):
            approved = await approval

    Args:
        kind: what the value is; anything by default.
        summary: a label for timelines.

    Raises:
        NotInWorkflowError: called outside of a workflow.
        DefinitionError: no value can be recorded by that annotation.
        InvalidOptionError: the summary is no text.
    """
    runtime = get_runtime("durable.external_promise()")
    json.check_annotation(kind)
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
    label = to_label(summary, "the summary of a promise")
    target = ActivityTarget(PROMISE, _SETTINGS, label, _same)
    activity_id, wait = runtime.open_promise(target, frame.f_code, frame.f_lasti)
    token = f"{runtime.info().run_id}:{activity_id}"
    promise: ExternalPromise[Any] = ExternalPromise(token, wait, kind)
    return promise


def _same(recorded: Payloads, found: Payloads) -> str | None:
    return None


_SETTINGS: Final = ActivitySettings(
    task_queue="",
    start_to_close_timeout=None,
    schedule_to_close_timeout=None,
    schedule_to_start_timeout=None,
    heartbeat_timeout=None,
    retry_policy=ONE_ATTEMPT,
    cancellation_type="try_cancel",
    at_most_once=False,
)
