"""Calls what an attempt runs: decodes its arguments, runs it, encodes its result.

Async functions run on the loop, plain ones in threads; a coroutine that a plain one
gives, because it wraps an async one, runs on the loop. What the library brings along
itself takes payloads and gives a payload.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from durable.api.activity import Activity
from durable.api.activity_context import ActivityInfo
from durable.core.payload import Payload, Payloads
from durable.worker.daemon_executor import DaemonExecutor


class BuiltIn:
    """An activity of the library's own.

    It does nothing but wait for others, so it takes no place that user code could need:
    whoever it waits for may need one.
    """

    is_async: Final = True

    def __init__(
        self,
        name: str,
        perform: Callable[[Payloads, ActivityInfo], Awaitable[Payload]],
    ) -> None:
        self.name = name
        self.perform = perform


class EngineParts(msgspec.Struct, frozen=True):
    """What an engine hands to its activities.

    Attributes:
        built_in: activities of the library's own, by name.
        engine: the engine itself, for `durable.activity_client`.
    """

    built_in: Mapping[str, BuiltIn]
    engine: object


Code: TypeAlias = Activity[Any, Any] | BuiltIn
"""What an attempt runs."""


class Invoker:
    """Calls the code of attempts.

    Args:
        threads: how many plain functions run at once.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: DaemonExecutor | None = None

    async def call(self, code: Code, input: Payloads, info: ActivityInfo) -> Payload:
        """Run an attempt; raise what its code raises."""
        if isinstance(code, BuiltIn):
            return await code.perform(input, info)
        signature = code.call_signature
        args, kwargs = signature.unbind(signature.decode(input))
        if code.is_async:
            return signature.encode_result(await code.function(*args, **kwargs))
        if self._pool is None:
            self._pool = DaemonExecutor(self._threads, "durable-activity")
        context = contextvars.copy_context()

        def call() -> Any:
            return context.run(_call_plain, code, args, kwargs)

        result = await asyncio.get_running_loop().run_in_executor(self._pool, call)
        if inspect.isawaitable(result):  # a plain function around an async one
            result = await result
        return signature.encode_result(result)

    def close(self) -> None:
        """Begin no function any more; those that run are left alone."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def _call_plain(
    activity: Activity[Any, Any], args: list[Any], kwargs: dict[str, Any]
) -> Any:
    try:
        return activity.function(*args, **kwargs)
    except StopIteration as error:
        # A future cannot carry StopIteration; neither can a coroutine (PEP 479).
        raise RuntimeError("activity raised StopIteration") from error
