"""SIGINT and SIGTERM: the first asks to stop in order, the second stops at once.

What follows the first within half a second is taken for an echo of it: `timeout` and
`uv run` signal the process and its whole group, so that it hears everything twice.

Stopping at once is safe: whatever a worker was told to have done is in the database,
and another one takes over from there.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from durable.cli.reporting import Interrupted

T = TypeVar("T")

ECHO_SECONDS: Final = 0.5
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_first_signal(act: Callable[[int], None]) -> Generator[None]:
    """Call `act` with the first signal's number; the second ends the process.

    `act` is called between two steps of whatever the main thread does, on the event
    loop's thread but outside of its callbacks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may receive signals
        return
    begun_at: float | None = None

    def handle(number: int, _: object) -> None:
        nonlocal begun_at
        if begun_at is None:
            begun_at = time.monotonic()
            act(number)
        elif time.monotonic() - begun_at > ECHO_SECONDS:
            # No exception would do: code that is being drained could catch it.
            os._exit(128 + number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; the first signal cancels it, so that it cleans up.

    Raises:
        Interrupted: it was cancelled so.
    """
    received = 0

    async def watched() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work)

        def stop(number: int) -> None:
            nonlocal received
            received = number
            loop.call_soon_threadsafe(task.cancel)

        with on_first_signal(stop):
            return await task

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received) from None
        raise


def run_until_signal(
    work: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    announce: Callable[[int], None],
) -> None:
    """Run a coroutine that ends in order once the event it is given is set.

    Args:
        work: takes the event that the first signal sets.
        announce: called with that signal's number.
    """

    async def watched() -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()

        def begin(number: int) -> None:
            announce(number)
            loop.call_soon_threadsafe(stop.set)

        with on_first_signal(begin):
            await work(stop)

    asyncio.run(watched())
