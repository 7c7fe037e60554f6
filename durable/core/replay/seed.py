"""The seed of a run's randomness: SipHash-1-3 of its id.

The same function, key and suffix as Temporal's SDK, so that a history moved from one
to the other draws the same numbers.
"""

from __future__ import annotations

from typing import Final

_MASK: Final = (1 << 64) - 1


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & _MASK
    v1 = _rotate(v1, 13) ^ v0
    v0 = _rotate(v0, 32)
    v2 = (v2 + v3) & _MASK
    v3 = _rotate(v3, 16) ^ v2
    v0 = (v0 + v3) & _MASK
    v3 = _rotate(v3, 21) ^ v0
    v2 = (v2 + v1) & _MASK
    v1 = _rotate(v1, 17) ^ v2
    return v0, v1, _rotate(v2, 32), v3


def siphash13(data: bytes) -> int:
    """SipHash-1-3 with zero keys, as 64 bits.

    Source: Aumasson and Bernstein, "SipHash: a fast short-input PRF", with one
    compression round and three finalization rounds.
    """
    v0, v1 = 0x736F6D6570736575, 0x646F72616E646F6D
    v2, v3 = 0x6C7967656E657261, 0x7465646279746573
    end = len(data) - len(data) % 8
    for start in range(0, end, 8):
        word = int.from_bytes(data[start : start + 8], "little")
        v3 ^= word
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        v0 ^= word
    word = int.from_bytes(data[end:], "little") | (len(data) & 0xFF) << 56
    v3 ^= word
    v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    v0 ^= word
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3


def seed_of(run_id: str) -> int:
    """The seed of a run's `random.Random`."""
    return siphash13(run_id.encode() + b"\xff")
