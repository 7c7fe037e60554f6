"""The threads that plain activities run in, one for each place.

They are daemons: a function that never returns must not keep a program from ending.
What it did is in doubt then, as after any crash, and the next process sees to it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import queue
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, TypeAlias

from durable.api.activities.interruption import Interruption
from durable.api.activities.thread_exceptions import frame_of

_SHUTDOWN: Final = "interpreter shutdown"


class NotBegunError(Exception):
    """A function has certainly not begun, as there was no thread for it, say."""


class ThreadCall:
    """One call in a thread, and whether that thread is free again."""

    __slots__ = (
        "_call",
        "_interruption",
        "_loop",
        "_on_end",
        "has_ended",
        "thread_id",
    )

    def __init__(
        self,
        call: Callable[[], Any],
        on_end: Callable[[], None],
        interruption: Interruption | None,
    ) -> None:
        self._call = call
        self._on_end = on_end
        self._interruption = interruption
        self._loop = asyncio.get_running_loop()
        self.has_ended = False
        self.thread_id: int | None = None

    def run(self) -> Any:
        """Call the function, in this thread."""
        self.thread_id = threading.get_ident()
        try:
            return self._call()
        finally:
            self.thread_id = None
            self.leave()

    def leave(self) -> None:
        """The thread is free; said before anybody hears of the outcome."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self.has_ended = True
        self._on_end()
        del self._call, self._on_end  # which lead back here

    def interrupt(self, reason: object) -> None:
        """Raise in the function that it is to stop, unless it wants to look itself."""
        if self._interruption is not None:
            self._interruption.insist()

    def frame(self) -> FrameType | None:
        """Where the function is now."""
        return None if self.thread_id is None else frame_of(self.thread_id)


_Item: TypeAlias = "tuple[concurrent.futures.Future[Any], ThreadCall]"


class ActivityThreads(concurrent.futures.Executor):
    """Threads that are made when they are first needed, and kept."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._count = 0
        self._free = 0

    def call(
        self,
        function: Callable[[], Any],
        on_end: Callable[[], None],
        interruption: Interruption | None,
    ) -> tuple[ThreadCall, asyncio.Future[Any]]:
        """Call a function in a thread; `on_end` is called once that is free again.

        Raises:
            NotBegunError: no thread could be started.
        """

        def end() -> None:
            self._free += 1
            on_end()

        work = ThreadCall(function, end, interruption)
        future: asyncio.Future[Any]
        future = asyncio.get_running_loop().run_in_executor(self, work.run)
        return work, future

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        """Call a `ThreadCall.run` in a thread."""
        if self._free == 0:
            self._start_thread()
        else:
            self._free -= 1
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        work: ThreadCall = fn.__self__  # type: ignore[attr-defined]  # by `call`
        self._calls.put((future, work))
        return future

    def _start_thread(self) -> None:
        thread = threading.Thread(
            target=_serve,
            args=(self._calls,),
            name=f"durable-activity_{self._count}",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as error:
            raise NotBegunError(f"no thread could be started: {error}") from None
        self._count += 1

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let threads end; those whose function runs are left alone."""
        for _ in range(self._count):
            self._calls.put(None)


def _serve(calls: queue.SimpleQueue[_Item | None]) -> None:
    while (item := calls.get()) is not None:
        future, work = item
        del item
        if not future.set_running_or_notify_cancel():
            work.leave()
        else:
            _run(future, work)
        del future, work  # nothing of it is kept while there is nothing to do


def _run(future: concurrent.futures.Future[Any], work: ThreadCall) -> None:
    try:
        result = work.run()
    except BaseException as error:  # noqa: BLE001 - it belongs to who awaits it
        future.set_exception(error)
    else:
        future.set_result(result)


def is_process_ending() -> bool:
    """Whether this process ends: threads and executors can be had no more."""
    return (
        sys.is_finalizing()
        or not threading.main_thread().is_alive()
        # Set before executors are closed, when the main thread still counts as alive.
        or bool(getattr(threading, "_SHUTTING_DOWN", False))
    )


def speaks_of_shutdown(error: BaseException) -> bool:
    """Whether an error says only that this process ends: nothing is wrong with code."""
    return isinstance(error, RuntimeError) and (
        _SHUTDOWN in str(error) or (is_process_ending() and "shutdown" in str(error))
    )
