"""Time as a store hands it out: one clock for leases and timers, never going back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from durable.clock import monotonic

if TYPE_CHECKING:
    from durable.clock import Clock

_log: Final = logging.getLogger("durable.store")
# Time servers correct clocks by less all the time.
_WARN_MICROSECONDS: Final = 1_000_000


class SteadyClock:
    """A clock that goes on at its pace while the one it wraps is set back.

    Timers and leases compare instants that were read at different times, some of them
    before the machine's clock was corrected. Whoever begins to wait after that waits as
    long as he means to.
    """

    def __init__(self, clock: Clock) -> None:
        """Wrap a clock; its method `monotonic`, if it has one, gives the pace."""
        self._clock = clock
        self._monotonic: Callable[[], int] = getattr(clock, "monotonic", monotonic)
        self._latest = 0
        self._latest_at = 0
        self._has_warned = False
        # The event loop and the writer thread both ask.
        self._lock = threading.Lock()

    def now(self) -> int:
        """Microseconds since 1970, UTC; never less than an earlier answer."""
        with self._lock:
            now, pace = self._clock.now(), self._monotonic()
            if now < self._latest:
                now = self._go_on(now, pace)
            else:
                self._has_warned = False
            self._latest, self._latest_at = now, pace
            return now

    def _go_on(self, now: int, pace: int) -> int:
        """The time by the last answer and what has passed since."""
        behind = self._latest - now
        if behind >= _WARN_MICROSECONDS and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "The machine's clock was set back by %.1f s. Until it has caught up,"
                " or this process ends, its time goes on from where it was.",
                behind / 1_000_000,
            )
        return max(now, self._latest + pace - self._latest_at)

    def read(self) -> int:
        """Microseconds since 1970, UTC, as the wrapped clock has it, for leases.

        A process whose `now` stands still in the future would take every lease that
        others have renewed since for ended.
        """
        return self._clock.now()
