"""Behaviour of the library that a history depends on, as bits recorded per task.

A release that changes how recorded turns are driven adds a bit; old histories keep the
bits they were written with and so the behaviour they had.
"""

from __future__ import annotations

from typing import Final


class Flag:
    """One recorded behaviour each; bits are never used again.

    Plain numbers: each turn asks, and to take a bit of a number by a member of an enum
    costs a hundred times as much.
    """

    DRAIN_ONCE: Final = 1
    """All events of a turn are applied before the loop is drained, once."""
    EVERY_CANCEL_IS_SEEN: Final = 2
    """A cancel that a wait outlasts is raised at the task's next wait."""
    SAME_ON_EVERY_PYTHON: Final = 4
    """What asyncio does in another way from Python to Python is done in one."""
    CONDITIONS_ONE_BY_ONE: Final = 8
    """Whoever waits for a condition is woken alone; the next one is asked after it."""
    ARGUMENTS_REFUSED: Final = 32
    """Only of turns in which an argument was refused: a replay checks them, too."""

    GUARDED: Final = 512
    """The run began under guards: no refusal of theirs can be swallowed. A run keeps
    this bit as its first task had it, so that no upgrade parks a run."""
    REMOTE_TRACEBACKS: Final = 1024
    """Code sees the recorded traceback of what it awaited at the end of its causes."""
    HANDLERS_CHECKED: Final = 16384
    """Annotations of handlers and channels are checked where the code uses them."""


CURRENT: Final = (
    Flag.DRAIN_ONCE
    | Flag.EVERY_CANCEL_IS_SEEN
    | Flag.SAME_ON_EVERY_PYTHON
    | Flag.CONDITIONS_ONE_BY_ONE
    | Flag.GUARDED
    | Flag.REMOTE_TRACEBACKS
    | Flag.HANDLERS_CHECKED
)
KNOWN: Final = CURRENT | Flag.ARGUMENTS_REFUSED
_OF_THE_RUN: Final = Flag.GUARDED
_OF_ONE_TASK: Final = Flag.ARGUMENTS_REFUSED


def of_next_task(bits: int) -> int:
    """What the next task runs under, after one with these bits."""
    return CURRENT & ~_OF_THE_RUN | bits & _OF_THE_RUN


def drives_alike(bits: int) -> bool:
    """Whether a task with these bits decided what one decides today."""
    return (bits ^ CURRENT) & ~(_OF_THE_RUN | _OF_ONE_TASK) == 0
