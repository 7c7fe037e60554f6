"""Waiting through cancellations, and passing them on afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

from durable.core.loop.cancels import sees_every_cancel
from durable.core.loop.tasks import WorkflowTaskHandle


class Cancels(list[asyncio.CancelledError]):
    """The cancellations that a wait went through."""

    base = 0
    """What the task's `cancelling` gave before the first of them."""

    def join(self, later: Cancels) -> None:
        """Add those of a later wait."""
        if not self:
            self.base = later.base
        self += later


async def outlast(task: asyncio.Task[Any], *, stop: bool = False) -> Cancels:
    """Wait until a task is done, whatever it ends with, through any cancellation.

    Args:
        task: the task.
        stop: cancel it for each cancellation of the wait.

    Returns the cancellations that the wait went through.
    """
    cancels = Cancels()
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as cancel:
            if not cancels:
                cancels.base = getattr(asyncio.current_task(), "cancel_base", 0)
            cancels.append(cancel)
            if stop:
                task.cancel(*cancel.args[:1])
    return cancels


def pass_on(cancels: Cancels) -> bool:
    """Let the next wait of this task raise cancellations that it went through, as one.

    The count of cancellations stays the same. Returns False, and does nothing, in a
    history of a release that forgot them.
    """
    if not sees_every_cancel():
        return False
    task = asyncio.current_task()
    if cancels and isinstance(task, WorkflowTaskHandle):
        task.owe(cancels.base, cancels[-1])
        task.pay()
    return True


def uncancel(times: int) -> None:
    """Take back cancellations of the current task that were caught for good."""
    task = asyncio.current_task()
    if task is not None:
        for _ in range(times):
            task.uncancel()


def cancel_again() -> None:
    """Let the next wait of this task hear of a cancellation that was passed over.

    The count of cancellations stays the same. Only for histories that `pass_on` leaves.
    """
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
        task.cancel()
