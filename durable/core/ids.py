"""Run ids: UUIDs of version 7, which sort by time."""

from __future__ import annotations

_ENTROPY_BITS = 74


def uuid7(now: int, entropy: int) -> str:
    """Make a version 7 UUID (RFC 9562, section 5.7).

    Args:
        now: microseconds since 1970; the id keeps milliseconds.
        entropy: random bits, of which 74 are used.
    """
    milliseconds = now // 1_000 & 0xFFFFFFFFFFFF
    entropy &= (1 << _ENTROPY_BITS) - 1
    high, low = entropy >> 62, entropy & ((1 << 62) - 1)
    value = milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
