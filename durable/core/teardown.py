"""Closing the coroutines of a run that leaves memory.

A suspended coroutine that is dropped gets `GeneratorExit`, and Python runs its
`finally` blocks then and there, perhaps from the garbage collector in the middle of
another run. So a run is always closed on purpose: its own loop is the running loop,
every operation it tries raises `RunTornDown`, and what refuses to end is kept for ever
rather than left to the collector.
"""

from __future__ import annotations

from typing import Any, Final

_immortal: Final[list[Any]] = []


class RunTornDown(BaseException):
    """Raised by every operation of a run that is being closed.

    Never seen by code that still counts: no command can come of catching it.
    """


def close_coroutine(coroutine: Any, rounds: int) -> bool:
    """Close a coroutine or async generator step, however it resists.

    Returns False if it still refuses after `rounds` tries; it is then kept alive for
    the life of the process, since dropping it would run its code at random.
    """
    for _ in range(rounds):
        try:
            coroutine.close()
        except RuntimeError as error:
            if "ignored GeneratorExit" in str(error):
                continue
            return True
        except BaseException:  # noqa: BLE001 - whatever a dying coroutine raises is void
            return True
        return True
    _immortal.append(coroutine)
    return False


def close_async_generator(generator: Any, rounds: int) -> bool:
    """Close a suspended async generator; as `close_coroutine`."""
    for _ in range(rounds):
        if generator.ag_frame is None:
            return True
        if generator.ag_running:
            break
        try:
            generator.aclose().send(None)
        except (StopIteration, StopAsyncIteration):
            return True
        except RuntimeError as error:
            if "ignored GeneratorExit" not in str(error):
                return True
        except BaseException:  # noqa: BLE001 - as above
            return True
    _immortal.append(generator)
    return False
