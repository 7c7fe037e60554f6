"""Whose turn it is at one key: one call after the other, and critical sections.

Calls come in order of arrival. While a critical section holds the key, only its own
calls do; all others wait until it lets go.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable
from typing import Final

import msgspec

_FORGOTTEN_MAX: Final = 1_000


class Section(msgspec.Struct, frozen=True):
    """A critical section: its id, and the run whose code it is."""

    id: str
    workflow_id: str
    run_id: str


class _Waiter(msgspec.Struct, eq=False):
    """A call, or the request of a section, that waits for its turn."""

    section: str | None
    request: str | None
    future: asyncio.Future[None]


class Turns:
    """The turns at one key.

    Args:
        on_blocked: called when something waits for a section to let go.
        section: the section that holds the key.
    """

    def __init__(
        self, on_blocked: Callable[[], None], section: Section | None = None
    ) -> None:
        self.section = section
        self._on_blocked = on_blocked
        self._is_busy = False
        self._waiting: collections.deque[_Waiter] = collections.deque()
        # Let go before it was asked for: a request may be overtaken by its withdrawal.
        self._withdrawn: dict[str, None] = {}

    async def begin(self, section: str | None, *, request: str | None = None) -> None:
        """Wait for one's turn.

        Args:
            section: the critical section that the call is part of.
            request: the section that waits to hold the key.
        """
        if not self._is_busy and self._may_pass(section):
            self._is_busy = True
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(section, request, future)
        self._waiting.append(waiter)
        if not self._may_pass(section):
            self._on_blocked()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.end()
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    @property
    def is_taken(self) -> bool:
        """Whether a call that comes now has to wait."""
        return self._is_busy or self.section is not None

    def end(self) -> None:
        """Let the next have its turn."""
        self._is_busy = False
        self._wake_next()

    def _may_pass(self, section: str | None) -> bool:
        return self.section is None or self.section.id == section

    def _wake_next(self) -> None:
        if self._is_busy:
            return
        for waiter in self._waiting:
            if self._may_pass(waiter.section) and not waiter.future.done():
                self._waiting.remove(waiter)
                self._is_busy = True
                waiter.future.set_result(None)
                return

    # --- critical sections ------------------------------------------------------------

    async def hold(self, section: Section) -> bool:
        """Wait until a section holds the key; False if it was withdrawn meanwhile."""
        if section.id in self._withdrawn:
            return False
        if self.section is not None and self.section.id == section.id:
            return True
        try:
            await self.begin(None, request=section.id)
        except asyncio.CancelledError:
            if section.id in self._withdrawn:
                return False
            raise
        if section.id in self._withdrawn:  # in the moment in which it got its turn
            self.end()
            return False
        self.section = section
        self.end()
        if self._waiting:
            self._on_blocked()
        return True

    def let_go(self, section_id: str) -> None:
        """End a section, or withdraw its request."""
        if self.section is not None and self.section.id == section_id:
            self.section = None
            self._wake_next()
            return
        self._withdrawn[section_id] = None
        if len(self._withdrawn) > _FORGOTTEN_MAX:
            del self._withdrawn[next(iter(self._withdrawn))]
        for waiter in list(self._waiting):
            if waiter.request == section_id:
                waiter.future.cancel()
