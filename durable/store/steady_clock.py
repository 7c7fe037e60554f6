"""Time as a store hands it out: one clock for leases and timers, never going back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic_ns
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from durable.clock import Clock

_log: Final = logging.getLogger("durable.store")
# Time servers correct clocks by less all the time.
_STEP: Final = 1_000_000_000


class SteadyClock:
    """A clock that goes on at its pace while the one it wraps is set back.

    Timers and leases compare instants that were read at different times, some of them
    before the machine's clock was corrected. Whoever begins to wait after that waits as
    long as he means to.
    """

    def __init__(self, clock: Clock) -> None:
        """Wrap a clock; its `monotonic_ns`, if it has one, gives the pace."""
        self._read = clock.now
        pace = getattr(clock, "monotonic_ns", None)
        # Without one, only a clock that has fallen is known to have been set back.
        self._has_pace = pace is not None
        self._pace: Callable[[], int] = pace or monotonic_ns
        self._latest = 0
        # How far, in nanoseconds, the time is ahead of the pace; and how far it must be
        # or the clock was set back, which is beyond all while that is so.
        self._offset = self._least = -1 << 80
        self._is_behind = self._has_warned = False
        # The event loop and the writer thread both ask. While all is well they may
        # overtake each other, by less than the time that one of them takes to ask.
        self._lock = threading.Lock()

    def now(self) -> int:
        """Microseconds since 1970, UTC; never less than an earlier answer."""
        now = self._read()
        offset = now * 1_000 - self._pace()
        if now < self._latest or offset < self._least:
            with self._lock:
                now, offset = self._go_on()
                self._latest, self._offset = now, offset
                self._least = 1 << 80 if self._is_behind else offset - _STEP
            return now
        self._latest = now
        self._offset = offset
        self._least = offset - _STEP
        return now

    def _go_on(self) -> tuple[int, int]:
        """The time by the pace, while that is more, and how far it is ahead."""
        # Read again: the process may have been stopped between the two.
        now, pace = self._read(), self._pace()
        expected = max(self._latest, (self._offset + pace) // 1_000)
        may_tell = self._is_behind or now < self._latest or self._has_pace
        self._is_behind = may_tell and now < expected
        if not self._is_behind:
            self._has_warned = False
            return now, now * 1_000 - pace
        behind = (expected - now) * 1_000
        if behind >= _STEP and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "The machine's clock was set back by %.1f s. Until it has caught up,"
                " or this process ends, its time goes on from where it was.",
                behind / 1e9,
            )
        return expected, self._offset

    def read(self) -> int:
        """Microseconds since 1970, UTC, as the wrapped clock has it, for leases.

        A process whose `now` stands still in the future would take every lease that
        others have renewed since for ended.
        """
        return self._read()
