"""Run ids: UUIDs of version 7, which sort by time, and within one process by order."""

from __future__ import annotations

from typing import Final

_ENTROPY_BITS: Final = 74
_STEP_BITS: Final = 32

OWN_TYPES: Final = "durable."
"""How the names of the library's own workflows begin: every worker runs those."""
ENTITY_TYPES: Final = "entity:"
"""How those of entities, and the ids of their runs, begin."""


class RunIds:
    """Makes run ids that grow, even within one millisecond."""

    def __init__(self) -> None:
        self._milliseconds = -1
        self._entropy = 0

    def make(self, now: int, entropy: int) -> str:
        """Make a version 7 UUID (RFC 9562, section 5.7 and method 2 of 6.2).

        Args:
            now: microseconds since 1970; the id keeps milliseconds.
            entropy: random bits, of which 74 are used.
        """
        milliseconds = now // 1_000 & 0xFFFFFFFFFFFF
        if milliseconds > self._milliseconds:
            # The top bit is kept free, so that steps within a millisecond have room.
            self._entropy = entropy & (1 << _ENTROPY_BITS - 1) - 1
            self._milliseconds = milliseconds
        else:
            self._entropy += 1 + (entropy & (1 << _STEP_BITS) - 1)
            milliseconds = self._milliseconds
        high, low = self._entropy >> 62, self._entropy & (1 << 62) - 1
        value = milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
        digits = f"{value:032x}"
        return (
            f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        )
