"""How a function in a thread is asked to stop: by an exception, raised where it is.

It is raised once, while the function runs and at no other time: the lock keeps it from
a function that has ended, and what was sent too late the thread itself takes back.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeVar

from durable.api.activities.thread_exceptions import (
    frame_of,
    may_interrupt,
    raise_in,
    withdraw,
)

T = TypeVar("T")
# How long to wait until a thread is looked at again, for a place to interrupt it.
_PAUSE_SECONDS: Final = 0.001
_PAUSE_SECONDS_MAX: Final = 0.05


class ActivityCancelledError(asyncio.CancelledError):
    """What is raised: as a CancelledError it passes by `except Exception`."""

    def __str__(self) -> str:
        """Say what it is; a thread is interrupted with the class, without arguments."""
        return "the activity was asked to stop"


class Interruption:
    """One function that may be interrupted, and whether it was."""

    __slots__ = ("_depth", "_is_requested", "_is_sent", "_lock", "_thread_id")

    def __init__(self) -> None:
        # Its own thread may come by again after an exception in the middle of it.
        self._lock = threading.RLock()
        self._thread_id: int | None = None
        self._depth = 0
        self._is_requested = False
        self._is_sent = False

    def run(self, function: Callable[[], T]) -> T:
        """Call a function in this thread.

        Raises:
            ActivityCancelledError: it was interrupted, or not called any more.
        """
        outcome: list[T] = []
        try:
            try:
                self._open()
                # Between a call's end and the keeping of its result Python looks for
                # exceptions of other threads; C code does not.
                outcome.extend(itertools.starmap(function, ((),)))
            finally:
                self._close()
        except ActivityCancelledError:
            self._close()  # perhaps it came while that was being done
            if not outcome:
                raise
        if not outcome:
            raise RuntimeError("activity raised StopIteration")
        return outcome[0]

    def _open(self) -> None:
        with self._lock:
            self._thread_id = threading.get_ident()
            if self._is_requested:
                self._is_sent = True
                raise ActivityCancelledError

    def _close(self) -> None:
        with self._lock:
            self._thread_id = None
        if self._is_sent:  # if it was not raised yet, it must not be later
            withdraw(threading.get_ident())

    def request(self) -> bool:
        """Interrupt it, once; any thread may ask.

        Returns:
            False if it is where nothing may be raised just now, and must be asked
            again. One that is shielded is interrupted when it leaves its shield.
        """
        if self._is_sent:
            return True
        with self._lock:
            self._is_requested = True
            thread_id = self._thread_id
            if self._is_sent or thread_id is None or self._depth > 0:
                return True
            if not may_interrupt(frame_of(thread_id)):
                return False
            self._is_sent = True
            raise_in(thread_id, ActivityCancelledError)
        return True

    def insist(self) -> None:
        """Interrupt it as soon as it may be; any thread may ask, and does not wait."""
        if not self.request():
            threading.Thread(target=self._keep_asking, daemon=True).start()

    def _keep_asking(self) -> None:
        pause = _PAUSE_SECONDS
        while not self.request():
            time.sleep(pause)
            pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    def check(self) -> None:
        """Raise what was requested, if it may be raised now; its own thread asks.

        Raises:
            ActivityCancelledError: it was asked to stop, and is not shielded.
        """
        with self._lock:
            if self._is_sent or not self._is_requested or self._depth > 0:
                return
            self._is_sent = True
        raise ActivityCancelledError

    def __enter__(self) -> None:
        """Begin to shield it; what was sent before is raised here, and not within."""
        if threading.get_ident() == self._thread_id:
            with self._lock:
                self._depth += 1
            _look()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raise what the outermost shield has kept away."""
        if threading.get_ident() == self._thread_id:
            self._depth -= 1
            self.check()


def _look() -> None:
    """Let Python look for exceptions of other threads, as it does at each call."""
