"""The futures and tasks of a run: they iterate in one order, and lose no cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar

from durable import limits

T = TypeVar("T")


class WorkflowFuture(asyncio.Future[T]):
    """A future that hashes by its creation number in the run."""

    __slots__ = ("order",)
    order: int

    def __hash__(self) -> int:
        loop: Any = self.get_loop()
        return int(loop.hash_of(self.order)) if hasattr(loop, "hash_of") else 0


class WorkflowTaskHandle(asyncio.Task[T]):
    """A task that hashes by its creation number in the run, and loses no cancel.

    The number is taken when the hash is first asked for, and that is at once: the
    constructor of a task puts it into a set.

    A wait may outlast a cancel, and end with a result or a failure all the same. The
    task then owes its code that cancel: it is raised at the next wait. If the task ends
    before one, it is owed by the tasks that were cancelled while they awaited this one.

    Attributes:
        cancel_base: what `cancelling` gave before the latest cancels; several that come
            before the task goes on are one.
        owed: what it gave before those that the code has not seen, or None.
        owed_message: what those were given to say.
    """

    order_hash: int | None = None
    cancel_base: int = 0
    owed: int | None = None
    owed_message: tuple[Any, ...] = ()
    _cancelled_at: object = None
    _trusting: tuple[WorkflowTaskHandle[Any], ...] = ()
    _fut_waiter: Any  # asyncio's own, as is the next
    _must_cancel: bool

    def __hash__(self) -> int:
        known = self.order_hash
        if known is None:
            loop: Any = self.get_loop()
            if not hasattr(loop, "hash_of"):
                return 0
            number = loop.given_number or loop.next_number()
            known = self.order_hash = loop.hash_of(number)
        return known

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the task, and note what must be known if a wait outlasts this."""
        waiter = self._fut_waiter
        if not self._must_cancel and (
            waiter is None or waiter is not self._cancelled_at
        ):
            self.cancel_base, self._cancelled_at = self.cancelling(), waiter
            if self.owed is None:
                self._trusting = ()
        is_accepted = super().cancel(msg)
        if waiter is not None:
            for inner in _tasks_in(waiter):
                if not inner.done() and self not in inner._trusting:
                    inner._trusting += (self,)
        loop: Any = self.get_loop()
        if self.cancelling() > limits.CANCELS_IN_A_ROW and hasattr(loop, "hash_of"):
            loop.drain_with_care()
        return is_accepted

    def _make_cancelled_error(self) -> asyncio.CancelledError:
        """What `asyncio.gather` raises for a cancel that its tasks went through."""
        if self.cancelled() or not self.owed_message:
            own: Any = super()
            made: asyncio.CancelledError = own._make_cancelled_error()
            return made
        return asyncio.CancelledError(*self.owed_message)

    def owe(self, base: int, cancel: asyncio.CancelledError) -> None:
        """Note a cancel that the code has not seen; `cancelling` gave `base` before."""
        self.owed = base if self.owed is None else min(base, self.owed)
        self.owed_message = cancel.args[:1]

    def pay(self) -> None:
        """Let the next wait raise what is owed; the code goes on without it."""
        self.get_loop().call_soon(self._pay)

    def _pay(self) -> None:
        """Pay, now that the task has come to its next wait or to its end."""
        base, self.owed = self.owed, None
        if base is None:
            return
        if not self.done():
            # A scope that was left takes its cancel back; that is not raised.
            if self.cancelling() > base:
                self.uncancel()
                self.cancel(*self.owed_message)
                self.cancel_base = base
        elif not self.cancelled():
            for outer in self._trusting:
                outer._take_debt(self, asyncio.CancelledError(*self.owed_message))

    def _take_debt(
        self, inner: WorkflowTaskHandle[Any], cancel: asyncio.CancelledError
    ) -> None:
        """A task that was awaited has ended without showing its cancel to anybody."""
        waiter = self._fut_waiter
        if waiter is not None and not self._must_cancel and inner in _tasks_in(waiter):
            self.owe(self.cancel_base, cancel)
            waiter.add_done_callback(self._go_on_in_debt)

    def _go_on_in_debt(self, waiter: asyncio.Future[Any]) -> None:
        if waiter.cancelled() or isinstance(waiter.exception(), asyncio.CancelledError):
            self.owed = None  # the code has seen it
        else:
            self._pay()


def _tasks_in(waiter: Any) -> list[WorkflowTaskHandle[Any]]:
    """The tasks that a cancel reaches through what a task waits for."""
    if isinstance(waiter, WorkflowTaskHandle):
        return [waiter]
    gathered: Iterable[Any] = getattr(waiter, "_children", ())
    return [task for one in gathered for task in _tasks_in(one)]
