"""Ending the coroutines of a run that leaves memory.

A suspended coroutine that is dropped gets `GeneratorExit`, and Python runs its
`finally` blocks then and there, perhaps from the garbage collector in the middle of
another run. So a run is always ended on purpose: its own loop is the running loop,
`RunTornDown` is thrown into each coroutine, whatever cleanup code awaits never comes,
and what refuses to end is kept for ever rather than left to the collector.

Not `close()`: that throws `GeneratorExit`, and one frame that awaits on top of it
breaks the whole chain of awaiting frames with a RuntimeError. And operations of such a
run wait instead of raising, because a loop that catches everything (`except
BaseException`) would meet a raising one again and again without ever giving the thread
back. At a wait, the next `RunTornDown` reaches it.
"""

from __future__ import annotations

from typing import Any, Final

_immortal: Final[list[Any]] = []


class RunTornDown(BaseException):
    """Thrown into the coroutines of a run that is being torn down.

    Never seen by code that still counts: no command can come of catching it.
    """


def close_coroutine(coroutine: Any, rounds: int) -> bool:
    """End a coroutine, or the step of an async generator, however it resists.

    Returns False if it still refuses after `rounds` tries; it is then kept alive for
    the life of the process, since dropping it would run its code at random.
    """
    for _ in range(rounds):
        try:
            coroutine.throw(RunTornDown)  # returns where cleanup code awaits
        except BaseException:  # noqa: BLE001 - whatever a dying coroutine raises is void
            return True
    _immortal.append(coroutine)
    return False


def close_async_generator(generator: Any, rounds: int) -> bool:
    """End an async generator that nobody iterates any more; as `close_coroutine`."""
    for _ in range(rounds):
        if generator.ag_frame is None:
            return True
        # Not aclose(), which does nothing for one that yielded after an aclose().
        if not close_coroutine(generator.asend(None), rounds):
            break
    _immortal.append(generator)
    return False
