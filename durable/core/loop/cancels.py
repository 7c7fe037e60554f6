"""What a wait does that goes through cancels, because the true outcome is wanted.

The code of a run sees one CancelledError for each request to stop. A wait that takes
one and then ends as cancelled shows it. One that ends with a result or a failure leaves
it owed: the task's next wait raises it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from durable.core.history.flags import Flag
from durable.core.loop.loop import DeterministicLoop
from durable.core.loop.tasks import WorkflowTaskHandle

DEFAULT_REASON: Final = "Its parent asked it to stop."
_SCOPES: Final = ("Cancelled via cancel scope ", "Cancelled by cancel scope ")


class Outlasting:
    """The cancels that one wait of the current task has gone through.

    Attributes:
        cancels: they, in order.
    """

    __slots__ = ("_owes", "_task", "cancels")

    def __init__(self) -> None:
        self.cancels: list[asyncio.CancelledError] = []
        self._task = asyncio.current_task()
        self._owes = sees_every_cancel()

    def take(self, cancel: asyncio.CancelledError) -> None:
        """Go through a cancel."""
        self.cancels.append(cancel)
        task = self._task
        if self._owes and isinstance(task, WorkflowTaskHandle):
            task.owe(task.cancel_base, cancel)

    def shown(self) -> asyncio.CancelledError:
        """The wait ends as cancelled: what it raises."""
        if isinstance(self._task, WorkflowTaskHandle):
            self._task.owed = None
        latest = self.cancels[-1:]
        return asyncio.CancelledError(*(latest[0].args if latest else ()))

    def hidden(self) -> None:
        """The wait ends otherwise: its cancels are still to be seen."""
        task = self._task
        if task is None or not self.cancels:
            return
        if self._owes and isinstance(task, WorkflowTaskHandle):
            task.pay()
            return
        for _ in self.cancels:
            task.uncancel()


def sees_every_cancel() -> bool:
    """Whether the turn that is driven may lose no cancel."""
    loop = asyncio.get_running_loop()
    return isinstance(loop, DeterministicLoop) and bool(
        loop.flags & Flag.EVERY_CANCEL_IS_SEEN
    )


def raise_owed() -> None:
    """Raise a cancel that the code has not seen, where no wait may follow.

    Raises:
        CancelledError: there is one.
    """
    task = asyncio.current_task()
    if not isinstance(task, WorkflowTaskHandle) or task.owed is None:
        return
    is_due = task.cancelling() > task.owed
    task.owed = None
    if is_due:
        raise asyncio.CancelledError(*task.owed_message)


def reason_of(cancel: asyncio.CancelledError) -> str:
    """The text that `task.cancel` was given, as a child's reason to stop."""
    reason = cancel.args[0] if cancel.args else None
    # What anyio says there names addresses.
    if not isinstance(reason, str) or not reason or reason.startswith(_SCOPES):
        return DEFAULT_REASON
    return reason.encode("utf-8", "backslashreplace").decode()
