"""Makes a run's loop the running one for a turn, and puts everything back.

During a turn the cyclic collector is off: it could finalize coroutines of the program
or of another run, whose `finally` blocks would then find this run's loop. Async
generators are held by the run's loop until it is torn down, since their finalizers
would run when the collector pleases; the thread's own hooks go on to serve all other
loops.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import asyncio.tasks
import gc
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, TypeAlias

from durable.core.loop.loop import DeterministicLoop

_Hook: TypeAlias = Callable[[AsyncGenerator[Any, Any]], None] | None
_get_loop: Final = asyncio.events._get_running_loop
_set_loop: Final = asyncio.events._set_running_loop
_needs_task_swap: Final = sys.version_info >= (3, 14)

Outer: TypeAlias = tuple[Any, Any, bool]
"""The loop and task that were running, and whether the collector was on."""


def outside() -> Outer:
    """What `restore` puts back if an interruption hits the end of a turn itself."""
    loop = _get_loop()
    task = asyncio.current_task(loop) if _needs_task_swap and loop is not None else None
    return loop, task, gc.isenabled()


def restore(outer: Outer) -> None:
    """Put back what `outside` saw; no matter how much of that was done already."""
    loop, task, was_collecting = outer
    _set_loop(loop)
    if task is not None and asyncio.current_task(loop) is None:
        asyncio.tasks._enter_task(loop, task)
    if was_collecting:
        gc.enable()


def enter(loop: DeterministicLoop) -> Outer:
    """Begin a turn in this thread; give the answer to `leave`."""
    outer = _get_loop()
    task = _leave_task(outer) if _needs_task_swap and outer is not None else None
    if type(sys.get_asyncgen_hooks().firstiter) is not _Hooks:
        _Hooks.install()
    was_collecting = gc.isenabled()
    gc.disable()
    handled = sys.exception()  # it outlives the turn, and nothing holds it
    # Audit hooks hear of each id that is taken.
    loop.outside = 0 if handled is None else id(handled)
    _set_loop(loop)
    return outer, task, was_collecting


def leave(outer: Outer) -> None:
    """End the turn."""
    loop, task, was_collecting = outer
    _set_loop(loop)
    if task is not None:
        asyncio.tasks._enter_task(loop, task)
    if was_collecting:
        gc.enable()


class _Hooks:
    """This thread's async generator hooks: ours for runs, the former ones for others.

    Installed once per loop rather than per turn: setting hooks raises an audit event.
    """

    def __init__(self, firstiter: _Hook) -> None:
        self._firstiter = firstiter

    @classmethod
    def install(cls) -> None:
        former = sys.get_asyncgen_hooks()
        finalizer: _Hook = former.finalizer

        def finalize(generator: AsyncGenerator[Any, Any]) -> None:
            # A run's loop holds its generators, so this one belongs to another loop.
            if finalizer is not None and not isinstance(_get_loop(), DeterministicLoop):
                finalizer(generator)

        sys.set_asyncgen_hooks(
            cls(former.firstiter), None if finalizer is None else finalize
        )

    def __call__(self, generator: AsyncGenerator[Any, Any]) -> None:
        loop = _get_loop()
        if isinstance(loop, DeterministicLoop):
            loop.keep_generator(generator)
        elif self._firstiter is not None:
            self._firstiter(generator)


def _leave_task(loop: Any) -> asyncio.Task[Any] | None:
    """Leave the task that drives the turn, if any.

    From Python 3.14 the current task belongs to the thread, not to the loop, and a
    task of another loop may not begin inside of it.
    """
    task = asyncio.current_task(loop)
    if task is not None:
        asyncio.tasks._leave_task(loop, task)
    return task
