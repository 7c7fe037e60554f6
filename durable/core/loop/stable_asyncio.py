"""Parts of asyncio done alike in every process and on every Python, for runs only.

Two functions iterate sets of what hashes by its address, and so does anyio. Others
changed from one Python to the next in what a cancel does, or in how many steps
something takes: a history that one of them recorded would not replay on another. On a
workflow's loop each is done in one way, that of Python 3.13; on any other loop nothing
changes.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import asyncio.tasks
import collections
import functools
import importlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

from durable.core.history.flags import Flag


def install_stable_asyncio(loops: type[Any]) -> None:
    """Make these parts of asyncio ask whether one of these loops is running.

    Done once, when the first run is made. A function that was imported with `from
    asyncio import ...` before that keeps the original; classes never do.
    """
    if "anyio" in sys.modules and not hasattr(sys.modules["anyio"], "_durable"):
        _order_scopes_of_anyio(sys.modules["anyio"], loops)
    if getattr(asyncio.as_completed, "_durable", False):
        return

    def is_run() -> bool:
        return isinstance(asyncio.events._get_running_loop(), loops)

    def is_levelled() -> bool:
        loop: Any = asyncio.events._get_running_loop()
        return isinstance(loop, loops) and bool(loop.flags & Flag.SAME_ON_EVERY_PYTHON)

    functions = {"as_completed": _stable_as_completed(asyncio.as_completed, is_run)}
    if sys.version_info < (3, 12):
        functions["wait_for"] = _stable_wait_for(asyncio.wait_for, is_run, is_levelled)
        functions["gather"] = _stable_gather(asyncio.gather, is_levelled)
    for name, function in functions.items():
        function._durable = True  # type: ignore[attr-defined]  # marks ours
        setattr(asyncio, name, function)
        setattr(asyncio.tasks, name, function)
    tasks: Any = asyncio.tasks  # the name is private
    tasks._GatheringFuture = _stable_gathering(tasks._GatheringFuture, loops)
    for owner, name, replacement in (
        (asyncio.TaskGroup, "__aexit__", _leave_group),
        (asyncio.Condition, "wait", _wait_for_notice),
        (asyncio.Semaphore, "acquire", _acquire_place),
    ):
        original = getattr(owner, name)
        setattr(owner, name, _if_levelled(original, replacement, is_levelled))


def _if_levelled(
    original: Callable[..., Any],
    replacement: Callable[..., Any],
    is_levelled: Callable[[], bool],
) -> Callable[..., Any]:
    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return (replacement if is_levelled() else original)(*args, **kwargs)

    return method


# --- functions ------------------------------------------------------------------------


async def _wait_for(fut: Any, timeout: float | None, is_levelled: bool) -> Any:
    """`asyncio.wait_for` as Python 3.12 has it.

    3.11 wraps the awaitable in a task of its own, which begins one step later, so the
    commands of a run would come in another order there.
    """
    if timeout is not None and timeout <= 0:
        future = asyncio.ensure_future(fut)
        if future.done():
            return future.result()
        future.cancel()
        if is_levelled:  # else a cancel from outside is taken for the timeout
            await asyncio.wait([future])
        try:
            if not is_levelled:
                await asyncio.wait([future])
            return future.result()
        except asyncio.CancelledError as error:
            raise TimeoutError from error
    async with asyncio.timeout(timeout):
        return await fut


def _in_given_order(awaitables: Iterable[Any]) -> list[Any]:
    """Turn awaitables into tasks in the order given, each once.

    `asyncio.as_completed` puts bare coroutines into a set, which iterates by memory
    address. Tasks hash by creation number, so nothing else needs to change.
    """
    unique = dict.fromkeys(awaitables)
    return [asyncio.ensure_future(awaitable) for awaitable in unique]


def _stable_wait_for(
    original: Callable[..., Any],
    is_run: Callable[[], bool],
    is_levelled: Callable[[], bool],
) -> Callable[..., Any]:
    @functools.wraps(original)
    async def wait_for(fut: Any, timeout: float | None) -> Any:
        if is_run():
            return await _wait_for(fut, timeout, is_levelled())
        return await original(fut, timeout)

    return wait_for


def _stable_as_completed(
    original: Callable[..., Any], is_run: Callable[[], bool]
) -> Callable[..., Any]:
    @functools.wraps(original)
    def as_completed(fs: Any, *args: Any, **kwargs: Any) -> Any:
        if is_run() and not asyncio.isfuture(fs) and not asyncio.iscoroutine(fs):
            fs = _in_given_order(fs)
        return original(fs, *args, **kwargs)

    return as_completed


def _stable_gather(
    original: Callable[..., Any], is_levelled: Callable[[], bool]
) -> Callable[..., Any]:
    """`asyncio.gather` that looks at once at what is done, as from Python 3.12 on.

    3.11 does so one step later.
    """

    @functools.wraps(original)
    def gather(*awaitables: Any, **options: Any) -> Any:
        if not any(asyncio.isfuture(one) and one.done() for one in awaitables):
            return original(*awaitables, **options)
        if not is_levelled():
            return original(*awaitables, **options)
        loop: Any = asyncio.events._get_running_loop()
        before = set(map(id, loop.queued()))
        gathering = original(*awaitables, **options)
        for handle in loop.queued():
            name = getattr(handle.callback, "__qualname__", "")
            if id(handle) not in before and name == "gather.<locals>._done_callback":
                loop.call_now(handle)
        return gathering

    return gather


def _stable_gathering(original: type[Any], loops: type[Any]) -> type[Any]:
    """What `asyncio.gather` returns, hashed by its number in the run as well.

    `gather` makes it by its class and not by the loop's `create_future`.
    """

    class StableGather(original):  # type: ignore[misc]  # its base is private to asyncio
        def __hash__(self) -> int:
            loop = self.get_loop()
            if not isinstance(loop, loops):
                return object.__hash__(self)
            if not hasattr(self, "order"):
                self.order = loop.next_number()
            hashed: int = loop.hash_of(self.order)
            return hashed

    return StableGather


# --- methods --------------------------------------------------------------------------


async def _leave_group(
    group: Any,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: object,
) -> None:
    """Leave an `asyncio.TaskGroup`: a cancel and a failure that meet are both seen.

    The failures are raised. A cancel from outside of the group is then owed: before
    Python 3.13 it was lost, and 3.13 also raises again what the code has had already.
    """
    parent = group._parent_task
    group._exiting = True
    if error is not None and group._is_base_error(error):
        group._base_error = group._base_error or error
    is_asked = group._parent_cancel_requested  # by the group itself, to leave the block
    cancel = error if isinstance(error, asyncio.CancelledError) else None
    last = cancel
    from_outside = 0 if cancel is None else _fresh_cancels(parent) - is_asked
    if error is not None and not group._aborting:
        group._abort()
    while group._tasks:
        if group._on_completed_fut is None:
            group._on_completed_fut = group._loop.create_future()
        try:
            await group._on_completed_fut
        except asyncio.CancelledError as another:
            last = another
            is_new = group._parent_cancel_requested and not is_asked
            is_asked = group._parent_cancel_requested
            from_outside += _fresh_cancels(parent) - is_new
            if not group._aborting:
                cancel = another
                group._abort()
        group._on_completed_fut = None
    if group._base_error is not None:
        raise group._base_error
    if group._parent_cancel_requested:
        parent.uncancel()
        if from_outside <= 0:
            cancel = None
    if cancel is not None and not group._errors:
        raise cancel
    if error is not None and not isinstance(error, asyncio.CancelledError):
        group._errors.append(error)
    if not group._errors:
        return
    if last is not None and from_outside > 0 and hasattr(parent, "owe"):
        parent.owe(parent.cancelling() - from_outside, last)
        parent.pay()
    try:
        raise BaseExceptionGroup(
            "unhandled errors in a TaskGroup", group._errors
        ) from None
    finally:
        group._errors = None


def _fresh_cancels(task: Any) -> int:
    """How many cancels a CancelledError stands for that a task has just met."""
    before: int = getattr(task, "cancel_base", 0)
    return int(task.cancelling()) - before


async def _wait_for_notice(condition: Any) -> bool:
    """`asyncio.Condition.wait` that hands a notice on if it cannot return."""
    if not condition.locked():
        raise RuntimeError("cannot wait on un-acquired lock")
    notice = condition._get_loop().create_future()
    condition.release()
    try:
        try:
            condition._waiters.append(notice)
            try:
                await notice
            finally:
                condition._waiters.remove(notice)
        finally:
            cancel = None
            while True:
                try:
                    await condition.acquire()
                    break
                except asyncio.CancelledError as error:
                    cancel = error
            if cancel is not None:
                raise cancel
    except BaseException:
        for waiter in condition._waiters:
            if not waiter.done():
                waiter.set_result(False)
                break
        raise
    return True


async def _acquire_place(semaphore: Any) -> bool:
    """`asyncio.Semaphore.acquire` that wakes as many as there are places for."""
    if not semaphore.locked():
        semaphore._value -= 1
        return True
    waiters: Any = semaphore._waiters
    if waiters is None:
        waiters = semaphore._waiters = collections.deque[Any]()
    turn = semaphore._get_loop().create_future()
    waiters.append(turn)
    try:
        try:
            await turn
        finally:
            waiters.remove(turn)
    except asyncio.CancelledError:
        if turn.done() and not turn.cancelled():
            semaphore._value += 1
        raise
    finally:
        for waiter in waiters:
            if semaphore._value > 0 and not waiter.done():
                semaphore._value -= 1
                waiter.set_result(True)
    return True


# --- anyio ----------------------------------------------------------------------------


class _InOrder(dict[Any, None]):
    """A set, as far as anyio needs one, that iterates in the order of insertion."""

    def add(self, one: Any) -> None:
        """Add it, if it is not there."""
        self[one] = None

    def discard(self, one: Any) -> None:
        """Take it away, if it is there."""
        self.pop(one, None)

    def remove(self, one: Any) -> None:
        """Take it away; it is there."""
        del self[one]


def _order_scopes_of_anyio(anyio: Any, loops: type[Any]) -> None:
    """Let cancel scopes reach those within them in the order in which they came.

    anyio keeps them in a set, which iterates by memory address.
    """
    anyio._durable = True
    try:  # anyio itself does so no sooner than a loop uses it
        backend: Any = importlib.import_module("anyio._backends._asyncio")
    except ImportError:
        return
    original = backend.CancelScope.__init__

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if isinstance(asyncio.events._get_running_loop(), loops):
            self._child_scopes = _InOrder()

    backend.CancelScope.__init__ = init
