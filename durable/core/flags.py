"""Behaviour of the library that a history depends on, as bits recorded per task.

A release that changes how recorded turns are driven adds a bit; old histories keep the
bits they were written with and so the behaviour they had.
"""

from __future__ import annotations

import enum
from typing import Final


class Flag(enum.IntFlag):
    """One recorded behaviour each; bits are never used again."""

    DRAIN_ONCE = 1
    """All events of a turn are applied before the loop is drained, once."""
    ARGUMENTS_REFUSED = 32
    """Only of turns in which an argument was refused: a replay checks them, too."""


CURRENT: Final = int(Flag.DRAIN_ONCE)
KNOWN: Final = int(Flag.DRAIN_ONCE | Flag.ARGUMENTS_REFUSED)
