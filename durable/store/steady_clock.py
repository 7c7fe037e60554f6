"""Time as a store hands it out: one clock for leases and timers, never going back."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from durable.clock import Clock


class SteadyClock:
    """A clock that stands still while the one it wraps is set back.

    Timers and leases compare instants that were read at different times, some of them
    before the machine's clock was corrected.
    """

    def __init__(self, clock: Clock) -> None:
        """Wrap a clock."""
        self._clock = clock
        self._latest = 0
        # The event loop and the writer thread both ask.
        self._lock = threading.Lock()

    def now(self) -> int:
        """Microseconds since 1970, UTC; never less than an earlier answer."""
        with self._lock:
            self._latest = max(self._latest, self._clock.now())
            return self._latest

    def read(self) -> int:
        """Microseconds since 1970, UTC, as the wrapped clock has it, for leases.

        A process whose `now` stands still in the future would take every lease that
        others have renewed since for ended.
        """
        return self._clock.now()
