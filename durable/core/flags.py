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

    GUARDED = 512
    """The run began under guards: no refusal of theirs can be swallowed. A run keeps
    this bit as its first task had it, so that no upgrade parks a run."""


CURRENT: Final = int(Flag.DRAIN_ONCE | Flag.GUARDED)
KNOWN: Final = int(Flag.DRAIN_ONCE | Flag.GUARDED)
_OF_THE_RUN: Final = int(Flag.GUARDED)
_OF_THE_TASK: Final = CURRENT & ~_OF_THE_RUN


def of_next_task(bits: int) -> int:
    """What the next task runs under, after one with these bits."""
    return _OF_THE_TASK | bits & _OF_THE_RUN


def drives_alike(bits: int) -> bool:
    """Whether a task with these bits decided what one decides today."""
    return bits & ~_OF_THE_RUN == _OF_THE_TASK
