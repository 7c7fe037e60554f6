"""The time of a database server, as known from what it said last."""

from __future__ import annotations

import time
from typing import Final

from durable.clock import SystemClock

_CLOCK: Final = SystemClock()


class ServerClock:
    """Tells a server's time between trips to it, by this machine's pace.

    Leases and timers of many machines are compared, so they go by one clock, which is
    the database's. What the server said lies between when it was asked and when the
    answer came: within that the clock goes on as it did.
    """

    def __init__(self) -> None:
        """Begin with this machine's time; the first answer corrects it."""
        self._offset = _CLOCK.now() * 1_000 - time.monotonic_ns()
        self._is_known = False

    def now(self) -> int:
        """Microseconds since 1970, UTC."""
        return (time.monotonic_ns() + self._offset) // 1_000

    @staticmethod
    def monotonic_ns() -> int:
        """The pace, in nanoseconds."""
        return time.monotonic_ns()

    def hear(self, instant: int, asked: int, answered: int) -> None:
        """Take the server's time, in microseconds; and between which paces it was."""
        latest, earliest = instant * 1_000 - asked, instant * 1_000 - answered
        if self._is_known:
            self._offset = min(max(self._offset, earliest), latest)
        else:
            self._offset = (earliest + latest) // 2
            self._is_known = True
