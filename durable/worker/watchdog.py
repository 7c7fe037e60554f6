"""Notices code that holds the event loop's thread: a workflow's or an activity's.

One daemon thread. A workflow task that goes on for too long is named with its line and
interrupted, since workflow code has nothing to wait for in Python; an activity that
blocks the loop is named with its line and left alone, since its effects are its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Final

from durable.errors import WorkflowBlockedError

_log: Final = logging.getLogger("durable.worker")


class Watchdog:
    """Watches one event loop's thread.

    Args:
        loop: the loop that workflow tasks and async activities run on.
        limit: how many seconds code may hold the thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float) -> None:
        self._loop = loop
        self._limit = limit
        self._thread_id = threading.get_ident()
        self._lock = threading.Lock()
        self._turn: str | None = None
        self._turn_number = 0
        self._warned_turn = -1
        self._interrupted = False
        self._beat = 0
        self._answered = 0
        self._is_blocked_reported = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, name="durable-watchdog", daemon=True
        )
        self._thread.start()

    def enter(self, run: str) -> None:
        """A workflow task of `run` begins in the watched thread."""
        self._turn_number += 1
        self._turn = run

    def leave(self) -> bool:
        """It has ended. True if it was interrupted, whatever it made of that."""
        with self._lock:
            self._turn = None
            interrupted, self._interrupted = self._interrupted, False
            if interrupted:
                # What was not delivered yet must not hit innocent code.
                _set_async_exception(self._thread_id, None)
        return interrupted

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()

    def _watch(self) -> None:
        seen, since = -1, 0.0
        step = max(self._limit / 8, 0.005)
        while not self._stopping.wait(step):
            turn, number = self._turn, self._turn_number
            if self._loop.is_closed():
                return
            if turn is None:
                seen = -1
                self._check_loop()
            elif number != seen:
                seen, since = number, time.monotonic()
            elif time.monotonic() - since >= self._limit:
                self._interrupt(turn, number)
                since = time.monotonic()

    def _interrupt(self, turn: str, number: int) -> None:
        with self._lock:
            if self._turn is None or self._turn_number != number:
                return
            frame = _frame_of(self._thread_id)
            _log.error(
                "Workflow task of run %s has held its thread for %.1f s at %s."
                " It is interrupted; the run will park if this goes on.\n%s",
                turn,
                self._limit,
                _place(frame),
                _stack(frame),
            )
            self._interrupted = True
            _set_async_exception(self._thread_id, WorkflowBlockedError)

    def _check_loop(self) -> None:
        """See whether the loop answers; if not, name what holds it."""
        if self._beat == self._answered:
            self._is_blocked_reported = False
            self._sent_at = time.monotonic()
            if asyncio.current_task(self._loop) is None:
                return  # asleep or between callbacks: do not wake it for nothing
            self._beat += 1
            beat = self._beat
            try:
                self._loop.call_soon_threadsafe(self._answer, beat)
            except RuntimeError:  # the loop is closed
                self._stopping.set()
        elif (
            not self._is_blocked_reported
            and time.monotonic() - self._sent_at >= self._limit
        ):
            self._is_blocked_reported = True
            frame = _frame_of(self._thread_id)
            task = asyncio.current_task(self._loop)
            _log.error(
                "%s has blocked the worker's event loop for %.1f s at %s. Nothing else"
                " runs meanwhile; make the activity a plain function, so that it runs"
                " in a thread, or await instead of blocking.\n%s",
                task.get_name() if task is not None else "A callback",
                self._limit,
                _place(frame),
                _stack(frame),
            )

    def _answer(self, beat: int) -> None:
        self._answered = beat


def _set_async_exception(thread_id: int, exception: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id),
        None if exception is None else ctypes.py_object(exception),
    )


def _frame_of(thread_id: int) -> FrameType | None:
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # there is no other way to another thread's line
    return frames.get(thread_id)


def _place(frame: FrameType | None) -> str:
    if frame is None:
        return "an unknown line"
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _stack(frame: FrameType | None) -> str:
    return "" if frame is None else "".join(traceback.format_stack(frame, limit=20))
