"""SIGINT and SIGTERM: the first asks to stop in order, the second stops at once.

What follows the first within a moment is taken for an echo of it: `timeout` and
`uv run` signal the process and its whole group, so that it hears everything twice. The
moment is shorter than what a person takes to press the same keys again.

Stopping at once is safe: whatever a worker was told to have done is in the database,
and another one takes over from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar

from durable.cli.reporting import Interrupted
from durable.errors import WorkflowBlockedError

T = TypeVar("T")
_log: Final = logging.getLogger("durable.cli")

ECHO_SECONDS: Final = 0.1
# For what is cancelled to end, and for the last line to be written.
_CANCEL_SECONDS: Final = 0.5
_TELL_SECONDS: Final = 0.2
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def on_first_signal(
    act: Callable[[int], None], at_end: Callable[[int], None] = lambda number: None
) -> Generator[None]:
    """Call `act` with the first signal's number; the second ends the process.

    Both `act` and `at_end`, which is called just before that end, with the number of
    the second, are called between two steps of whatever the main thread does, on the
    event loop's thread but outside of its callbacks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may receive signals
        return
    begun_at: float | None = None
    is_ending = False

    def handle(number: int, _: object) -> None:
        nonlocal begun_at, is_ending
        if is_ending:
            return  # further ones would interrupt the end again and again
        if begun_at is None:
            begun_at = time.monotonic()  # now: the next one may come within `act`
            try:
                act(number)
            except WorkflowBlockedError:  # meant for the code that was interrupted
                act(number)
                raise
            finally:
                begun_at = time.monotonic()
        elif time.monotonic() - begun_at > ECHO_SECONDS:
            is_ending = True
            at_end(number)
            # No exception would do: code that is being drained could catch it.
            os._exit(128 + number)

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; the first signal cancels it, so that it cleans up.

    Raises:
        Interrupted: it was cancelled so.
    """
    received = 0

    async def watched() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work)

        def stop(number: int) -> None:
            nonlocal received
            received = number
            loop.call_soon_threadsafe(task.cancel)

        with on_first_signal(stop):
            return await task

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received) from None
        raise


class Stop(asyncio.Event):
    """Set once the first signal was heard of on the event loop."""

    is_asked = False
    """Whether it was heard at all; any thread may ask."""


def run_until_signal(
    work: Callable[[Stop], Coroutine[Any, Any, None]],
    announce: Callable[[int], None],
    limit: float,
    left: Callable[[], str],
    at_end: Callable[[], None] = lambda: None,
) -> None:
    """Run a coroutine that ends in order once the event it is given is set.

    The process ends `limit` seconds after the first signal, whatever still runs in it:
    code that swallows its cancellation, a thread, a database that does not answer.

    Args:
        work: takes the event that the first signal sets.
        announce: called with that signal's number.
        limit: in seconds.
        left: says, on some thread, what a process that ends at once leaves to others.
        at_end: called, on some thread, just before the process is ended by force.
    """
    stop = Stop()
    loop: asyncio.AbstractEventLoop | None = None
    last_resort = _LastResort(limit, left, at_end)

    def begin(number: int) -> None:
        last_resort.arm(number)
        stop.is_asked = True
        if loop is not None:
            loop.call_soon_threadsafe(stop.set)
        announce(number)

    async def watched() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        if stop.is_asked:
            stop.set()
        await work(stop)
        await _end_tasks()

    # Around all of it: a signal that comes while the loop is closed counts as well.
    with on_first_signal(begin, last_resort.end_now), last_resort:
        asyncio.run(watched())
        last_resort.join_threads()


async def _end_tasks() -> None:
    """Cancel what is left; end the process if that does not help."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if not left:
        return
    _, stubborn = await asyncio.wait(left, timeout=_CANCEL_SECONDS)
    if stubborn:
        names = ", ".join(sorted(task.get_name() for task in stubborn))
        _end_process(
            0, f"left behind, as it does not end when it is cancelled: {names}"
        )


def _end_process(code: int, why: str) -> NoReturn:
    _tell(why)
    # No exception would do: neither threads nor code that is drained would heed it.
    os._exit(code)


def _tell(why: str) -> None:
    _log.warning(why)
    for handler in logging.getLogger().handlers:
        handler.flush()


class _LastResort:
    """Ends the process some time after a signal."""

    def __init__(
        self, limit: float, left: Callable[[], str], at_end: Callable[[], None]
    ) -> None:
        self._limit = limit
        self._left = left
        self._at_end = at_end
        self._is_armed = False
        # Of its own, and begun early: a handler of signals may interrupt workflow code,
        # which may not begin a thread. A simple queue may be used from such handlers.
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._over: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def arm(self, number: int) -> None:
        """Begin to count."""
        self._is_armed = True
        self._signals.put(number)

    def end_now(self, number: int) -> None:
        """Do what comes before an end at once, and say what that leaves.

        That thread says it, as what the signal has interrupted may hold a lock of the
        log; where nobody takes the line, it is not waited for.
        """
        self._at_end()
        self._over.put(number)
        with contextlib.suppress(queue.Empty):
            self._told.get(timeout=_TELL_SECONDS)

    def join_threads(self) -> None:
        """Wait for what would keep the interpreter from ending, while that counts."""
        for thread in threading.enumerate() if self._is_armed else ():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()

    def _count(self) -> None:
        number = self._signals.get()
        if number:
            try:
                second = self._over.get(timeout=self._limit)
            except queue.Empty:
                self._end(number)
            if second:
                name = signal.Signals(second).name
                _tell(f"{name} again: ended at once; {self._left()}")
                self._told.put(None)

    def _end(self, number: int) -> NoReturn:
        frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # the only way to other threads' lines
        running: list[str] = []
        for thread in threading.enumerate():
            frame = frames.get(thread.ident or 0)
            if frame is not None and thread is not threading.current_thread():
                line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                running.append(f"{thread.name} at {line}")
        self._at_end()
        _end_process(
            128 + number,
            f"ended {self._limit:g} s after {signal.Signals(number).name}, though it"
            f" was not done; still running: {', '.join(running)}. Nothing is lost:"
            " other workers take over what it had.",
        )

    def __enter__(self) -> None:
        threading.Thread(target=self._count, name="last-resort", daemon=True).start()

    def __exit__(self, *error: object) -> None:
        self._over.put(0)
        self._signals.put(0)
