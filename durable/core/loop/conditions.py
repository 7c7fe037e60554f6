"""Conditions on a run's own state, and the tasks that wait for them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, TypeAlias

from durable.core.history.flags import Flag
from durable.core.loop.loop import DeterministicLoop
from durable.errors import InvalidCallError

_Condition: TypeAlias = tuple[asyncio.Future[None], Callable[[], bool]]


class Conditions:
    """What the tasks of one run wait for, in the order in which they came."""

    __slots__ = ("_loop", "_waiting")

    def __init__(self, loop: DeterministicLoop) -> None:
        self._loop = loop
        self._waiting: tuple[_Condition, ...] = ()

    async def wait(self, predicate: Callable[[], bool], timeout: int | None) -> None:
        """Wait until the predicate holds; raise TimeoutError after `timeout`."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting += ((future, predicate),)
        if timeout is None:
            await future
            return
        if timeout == 0:
            if self._are_asked_one_by_one:
                self._holds(future, predicate)
            else:
                self._wake_all()
            if not future.done():
                future.cancel()
                raise TimeoutError("The condition did not hold, and the timeout was 0.")
            future.result()  # raises what the predicate raised
            return
        async with asyncio.timeout(timeout / 1_000_000):
            await future

    @property
    def is_awaited(self) -> bool:
        """Whether any task waits for one."""
        return any(not future.done() for future, _ in self._waiting)

    def settle(self) -> None:
        """Wake whose condition holds, until none does; the loop is at rest."""
        if self._are_asked_one_by_one:
            while self._wake_one_by_one():
                pass
        else:
            while self._waiting and self._wake_all():
                self._loop.drain()

    @property
    def _are_asked_one_by_one(self) -> bool:
        return bool(self._loop.flags & Flag.CONDITIONS_ONE_BY_ONE)

    def _wake_one_by_one(self) -> bool:
        """Let each that is woken come to rest: it may undo what the next waits for."""
        has_woken = False
        for future, predicate in self._waiting:
            if not future.done() and self._holds(future, predicate):
                has_woken = True
                self._loop.drain()
        self._waiting = tuple(one for one in self._waiting if not one[0].done())
        return has_woken

    def _wake_all(self) -> bool:
        """Wake all whose condition holds by now, as histories of old had it."""
        remaining: list[_Condition] = []
        has_woken = False
        for future, predicate in self._waiting:
            if future.done():
                continue
            if self._holds(future, predicate):
                has_woken = True
            else:
                remaining.append((future, predicate))
        self._waiting = tuple(remaining)
        return has_woken

    def _holds(
        self, future: asyncio.Future[None], predicate: Callable[[], bool]
    ) -> bool:
        try:
            held = predicate()
            if held is not True and inspect.isawaitable(held):
                self._refuse(held)
            if not held:
                return False
        except Exception as error:  # noqa: BLE001 - raised where the code waits
            future.set_exception(error)
            return True
        future.set_result(None)
        return True

    def _refuse(self, held: Any) -> None:
        """Refuse an async predicate: it would always hold."""
        if self._are_asked_one_by_one:
            if inspect.iscoroutine(held):
                held.close()  # or Python would warn that it was never awaited
            raise InvalidCallError(
                "The predicate of wait_condition() is async: it gives an awaitable,"
                " which is true whatever comes of it.",
                hint="Give a plain function of the workflow's own state; let a task or"
                " a handler await what changes that state.",
            )
