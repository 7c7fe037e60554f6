"""Steps that a worker runs beside everything else, such as reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from durable.errors import DurableError


class Background:
    """The steps of one worker.

    Args:
        failed: told of a step that ended with an error of the library.
    """

    def __init__(self, failed: Callable[[DurableError], None]) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a step."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(
            self._guarded(work)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A step that is cancelled before it begins would warn that nobody awaited it.
        task.add_done_callback(lambda _: work.close())

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except DurableError as error:
            self._failed(error)

    async def end(self) -> None:
        """Cancel all steps, and wait for their end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def call_at(now: Callable[[], int], instant: int, then: Callable[[], Any]) -> None:
    """Call something once a clock, which `now` reads, has come to an instant."""
    left = (instant - now()) / 1_000_000
    if left > 0:
        loop = asyncio.get_running_loop()
        loop.call_later(left, call_at, now, instant, then)
    else:
        then()
