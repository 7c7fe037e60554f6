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
_STEP: Final = 1_000_000


class SteadyClock:
    """A clock that goes on at its pace while the one it wraps is set back.

    Timers and leases compare instants that were read at different times, some of them
    before the machine's clock was corrected. Whoever begins to wait after that waits as
    long as he means to.
    """

    def __init__(self, clock: Clock) -> None:
        """Wrap a clock; its method `monotonic`, if it has one, gives the pace."""
        self._clock = clock
        pace = getattr(clock, "monotonic", None)
        # Without one, only a clock that has fallen is known to have been set back.
        self._has_pace = pace is not None
        self._pace: Callable[[], int] = pace or monotonic
        self._latest = 0
        self._latest_at = 0
        self._is_behind = self._has_warned = False
        # The event loop and the writer thread both ask.
        self._lock = threading.Lock()

    def now(self) -> int:
        """Microseconds since 1970, UTC; never less than an earlier answer."""
        with self._lock:
            # On both sides, as the process may be stopped in between.
            expected = self._latest + self._pace() - self._latest_at
            now, pace = self._clock.now(), self._pace()
            if self._is_behind or now < self._latest or now + _STEP < expected:
                now = self._go_on(now, expected)
            self._latest, self._latest_at = now, pace
            return now

    def _go_on(self, now: int, expected: int) -> int:
        """The time by the last answer and what has passed since, while it is more."""
        may_tell = self._is_behind or now < self._latest or self._has_pace
        self._is_behind = may_tell and now < expected
        if not self._is_behind:
            self._has_warned = False
            return now
        if expected - now >= _STEP and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "The machine's clock was set back by %.1f s. Until it has caught up,"
                " or this process ends, its time goes on from where it was.",
                (expected - now) / 1_000_000,
            )
        return expected

    def read(self) -> int:
        """Microseconds since 1970, UTC, as the wrapped clock has it, for leases.

        A process whose `now` stands still in the future would take every lease that
        others have renewed since for ended.
        """
        return self._clock.now()
