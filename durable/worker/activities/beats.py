"""Heartbeats of one attempt: what it said last, when that is written, and its silence.

An attempt may say so as often as it likes, from any thread. Of what it says within one
interval the last is written, and what is not written yet goes with the attempt's end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import msgspec

from durable.core.history.payload import Payloads
from durable.runs.live_run import Attempt
from durable.runs.states import OVER

_SHARE: Final = 0.8
"""Of its heartbeat timeout an attempt may be silent for so much, as far as it shows."""
_SECONDS_UNLIMITED: Final = 30.0
_SECONDS_MAX: Final = 60.0


class Beats(msgspec.Struct, eq=False):
    """The heartbeats of one attempt.

    Attributes:
        write: has what was said last written.
        give_up: ends an attempt that has been silent for too long.
        timeout: for how long it may be, in seconds; None if it may for ever.
    """

    attempt: Attempt
    loop: asyncio.AbstractEventLoop
    write: Callable[[], None]
    give_up: Callable[[], None]
    timeout: float | None
    is_told: bool = False
    heard_at: float = 0.0
    next_at: float = 0.0
    timer: asyncio.TimerHandle | None = None
    silence: asyncio.TimerHandle | None = None

    @property
    def interval(self) -> float:
        """How long it is until more is written, in seconds."""
        if self.timeout is None:
            return _SECONDS_UNLIMITED
        return min(_SHARE * self.timeout, _SECONDS_MAX)

    def watch(self, *, is_auto: bool) -> None:
        """Begin to wait for the first; or, if the worker says so itself, to say so."""
        self.heard_at = self.loop.time()
        if is_auto:
            self._say_so()
        elif self.timeout is not None:
            self.silence = self.loop.call_later(self.timeout, self._look)

    def beat(self, details: Payloads) -> None:
        """The attempt goes on; any thread may say so."""
        attempt = self.attempt
        if attempt.phase is OVER:
            return
        # At once: its end may come before the loop does anything else.
        attempt.details = details
        self.heard_at = self.loop.time()
        if not self.is_told:
            self.is_told = True
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self.loop.call_soon_threadsafe(self._heard)

    def _heard(self) -> None:
        self.is_told = False
        if self.timer is None and self.attempt.phase is not OVER:
            if self.loop.time() >= self.next_at:
                self._write()
            else:
                self.timer = self.loop.call_at(self.next_at, self._write)

    def _write(self) -> None:
        self.timer = None
        self.next_at = self.loop.time() + self.interval
        if self.attempt.phase is not OVER:
            self.write()

    def _look(self) -> None:
        self.silence = None
        assert self.timeout is not None  # noqa: S101 - then nobody looks
        left = self.heard_at + self.timeout - self.loop.time()
        if left > 0:
            self.silence = self.loop.call_later(left, self._look)
        else:
            self.give_up()

    def _say_so(self) -> None:
        self.heard_at = self.loop.time()
        self._write()
        self.silence = self.loop.call_later(self.interval, self._say_so)

    def stop(self) -> None:
        """The attempt has ended."""
        for timer in (self.timer, self.silence):
            if timer is not None:
                timer.cancel()
        self.timer = self.silence = None
