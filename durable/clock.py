"""The time of day, behind a protocol: the only module that reads it.

Instants are integers: microseconds since 1970 in UTC. That is what every database
keeps without loss, what compares fast, and what cannot be naive.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """Where instants come from.

    One with a method `monotonic_ns` says by that, in nanoseconds since whenever, how
    time passes when it is set back; the machine's monotonic clock does so otherwise.
    """

    def now(self) -> int:
        """Microseconds since 1970, UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> int:
        """Microseconds since 1970, UTC."""
        return time.time_ns() // 1_000

    monotonic_ns = staticmethod(time.monotonic_ns)


def to_datetime(instant: int) -> datetime:
    """Turn microseconds since 1970 into an aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=instant)


def from_datetime(moment: datetime) -> int:
    """Turn an aware datetime into microseconds since 1970.

    Raises:
        ValueError: the datetime is naive.
    """
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} is naive: give it a time zone")
    return (moment - _EPOCH) // _MICROSECOND
