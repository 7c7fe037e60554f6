"""Timers that workflow code holds: to wait for, to look at, to cancel."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable

from durable.core.runtime import WorkflowRuntime, get_runtime, source_line
from durable.options import Duration, to_microseconds


class Timer:
    """A durable timer that runs whether or not somebody waits for it.

    `start_timer` makes it.

    Attributes:
        seconds: how long it was set for.
    """

    def __init__(
        self,
        runtime: WorkflowRuntime,
        microseconds: int,
        summary: str | None,
        source: Callable[[], str],
    ) -> None:
        self.seconds = microseconds / 1_000_000
        self._is_triggered = self._is_cancelled = False
        self._waiting: list[asyncio.Future[None]] = []
        self._withdraw = runtime.start_timer(microseconds, self._fire, summary, source)

    @property
    def is_triggered(self) -> bool:
        """Whether it has fired."""
        return self._is_triggered

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled before it could fire."""
        return self._is_cancelled

    async def wait(self) -> bool:
        """Wait until it fires or is cancelled. Any number of tasks may wait.

        Cancelling the wait, by a timeout around it too, leaves the timer alone.

        Returns:
            True if it has fired, False if it was cancelled.
        """
        if not (self._is_triggered or self._is_cancelled):
            get_runtime("Timer.wait()")
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        return self._is_triggered

    def cancel(self) -> bool:
        """Make it never fire, which is recorded. Whoever waits goes on.

        Returns:
            False if it has fired, or was cancelled before.

        Raises:
            ReadOnlyError: a query or a validator called it.
        """
        if self._is_triggered or self._is_cancelled:
            return False
        self._withdraw()
        self._is_cancelled = True
        self._release()
        return True

    def _fire(self) -> None:
        self._is_triggered = True
        self._release()

    def _release(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    def __repr__(self) -> str:
        state = "triggered" if self._is_triggered else "running"
        state = "cancelled" if self._is_cancelled else state
        return f"<timer of {self.seconds:g} s, {state}>"


def start_timer(duration: Duration, *, summary: str | None = None) -> Timer:
    """Start a durable timer, and go on at once.

        reminder = start_timer("3d")
        await paid.receive()
        if not reminder.is_triggered:
            reminder.cancel()

    To do nothing but wait, `sleep` is shorter. A timer lives as long as its run; while
    one is running, no checkpoint is taken.

    Args:
        duration: `timedelta`, seconds, or text like "3d".
        summary: a label for timelines.

    Raises:
        InvalidDurationError: negative, not finite, or no duration.
        ReadOnlyError: a query or a validator called it.
        NotInWorkflowError: called outside of a workflow.
    """
    runtime = get_runtime("durable.start_timer()")
    microseconds = to_microseconds(duration, "the duration of durable.start_timer()")
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
    source = functools.partial(source_line, frame.f_code, frame.f_lasti)
    return Timer(runtime, microseconds, summary, source)
