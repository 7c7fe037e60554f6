"""Waiting through cancellations, and passing them on afterwards."""

from __future__ import annotations

import asyncio
from typing import Any


async def outlast(
    task: asyncio.Task[Any], *, stop: bool = False
) -> list[asyncio.CancelledError]:
    """Wait until a task is done, whatever it ends with, through any cancellation.

    Args:
        task: the task.
        stop: cancel it for each cancellation of the wait.

    Returns the cancellations that the wait went through.
    """
    cancels: list[asyncio.CancelledError] = []
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as cancel:
            cancels.append(cancel)
            if stop:
                task.cancel()
    return cancels


def uncancel(times: int) -> None:
    """Take back cancellations of the current task that were caught for good."""
    task = asyncio.current_task()
    if task is not None:
        for _ in range(times):
            task.uncancel()


def cancel_again() -> None:
    """Let the next wait of this task hear of a cancellation that was passed over.

    As asyncio.TaskGroup does; the count of cancellations stays the same.
    """
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
        task.cancel()
