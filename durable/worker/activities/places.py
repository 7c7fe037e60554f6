"""How many activities run at once, and who waits for a place.

An attempt leaves its place when it ends. The thread of a plain function is a place of
its own, and is free when the function has returned, however long ago its attempt timed
out: whoever was given it before would be charged for time in which nothing of it runs.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import os
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Final

from durable.worker.activities.activity_code import Code
from durable.worker.activities.calls import Call

_log: Final = logging.getLogger("durable.worker")
_NAMED_MAX: Final = 5
_PACKAGE: Final = __file__[: -len("worker/activities/places.py")]
_NOT_THE_USERS: Final = (
    _PACKAGE,
    os.path.dirname(asyncio.__file__),
    threading.__file__,
)
_THREADS: Final = "threads for plain activities"
_SLOTS: Final = "places for activities"


class Places:
    """The places of one worker.

    Args:
        slots: how many activities run at once.
        threads: how many of them may be plain functions.
    """

    def __init__(self, slots: int, threads: int) -> None:
        self.slots = slots
        self.threads = threads
        self._free = slots
        self._free_threads = threads
        self._starting = 0
        self._queue: collections.deque[Call] = collections.deque()
        self._thread_queue: collections.deque[Call] = collections.deque()
        self._hung: dict[Call, None] = {}
        """Attempts that are over, whose function still holds its thread."""
        self._warned: set[str] = set()
        self.running: set[Call] = set()

    def has_room(self, code: Code) -> bool:
        """Whether there is a free place."""
        return self._free > 0 and (code.is_async or self._free_threads > 0)

    def take(self, call: Call, code: Code) -> None:
        """An attempt begins."""
        self.running.add(call)
        self._free -= 1
        if not code.is_async:
            self._free_threads -= 1

    def leave(self, call: Call, code: Code) -> None:
        """An attempt has ended; its thread perhaps has not."""
        if call not in self.running:
            return
        self.running.remove(call)
        self._free += 1
        if code.is_async:
            if call.attempt.is_over and self._warned:
                self._warned.discard(_SLOTS)
        elif call.work is None or call.work.has_ended:
            self._free_threads += 1
        else:
            self._hung[call] = None
            self.warn_if_exhausted()

    def thread_ended(self, call: Call) -> None:
        """The function of an attempt has returned."""
        if call in self._hung:  # else its attempt gives the thread back
            del self._hung[call]
            self._free_threads += 1
            self._warned.discard(_THREADS)

    @property
    def threads_used(self) -> int:
        """How many threads functions hold, some of them perhaps past their time."""
        return self.threads - self._free_threads

    # --- waiting ----------------------------------------------------------------------

    def waiting(self) -> list[Call]:
        """Those that wait for a place; any thread may ask."""
        return [*self._queue.copy(), *self._thread_queue.copy()]

    def enqueue(self, call: Call, code: Code) -> None:
        """Let an attempt wait for a place, in order."""
        (self._queue if code.is_async else self._thread_queue).append(call)
        self.warn_if_exhausted()

    def next_waiting(self) -> Call | None:
        """Take out the next that waits and for which a place is kept, if there is one.

        The place is kept until `forget_promise`.
        """
        if not (self._queue or self._thread_queue):
            return None
        while self._free > self._starting:
            queue = self._queue
            if self._thread_queue and self._free_threads > self._starting:
                queue = self._thread_queue
            if not queue:
                return None
            call = queue.popleft()
            if not call.attempt.is_over:
                self._starting += 1
                call.is_promised = True
                return call
        return None

    def forget_promise(self, call: Call) -> None:
        """One that was taken out begins now, or never; its place is not kept longer."""
        if call.is_promised:
            call.is_promised = False
            self._starting -= 1

    # --- what hangs -------------------------------------------------------------------

    def warn_if_exhausted(self) -> None:
        """Say once who holds all places though their time is up."""
        if self._thread_queue and len(self._hung) >= self.threads:
            self._warn(_THREADS, [*self._hung], self._thread_queue)
        if self._queue or self._thread_queue:
            over = [call for call in self.running if call.attempt.is_over]
            if len(over) >= self.slots:
                self._warn(_SLOTS, over, self.waiting())

    def _warn(self, kind: str, hung: list[Call], waiting: Iterable[Call]) -> None:
        if kind in self._warned or all(call.attempt.is_over for call in waiting):
            return
        self._warned.add(kind)
        named = [describe_running(call) for call in hung[:_NAMED_MAX]]
        if len(hung) > _NAMED_MAX:
            named.append(f"and {len(hung) - _NAMED_MAX} more")
        _log.warning(
            "All %d %s are held by functions that do not return though their attempts"
            " are over: %s. Other activities wait until one returns. Give such calls"
            " timeouts of their own, or restart the worker.",
            len(hung),
            kind,
            "; ".join(named),
        )


def describe_running(call: Call) -> str:
    """Name an attempt, and the line that its function is at, if that can be told."""
    attempt, line = call.attempt, line_of(call)
    scheduled = attempt.scheduled
    name = (
        f"{scheduled.activity_type!r} (id {scheduled.activity_id}, attempt"
        f" {attempt.attempt}) of run {attempt.run.workflow_id!r}"
    )
    return f"{name} at {line}" if line else name


def line_of(call: Call | None) -> str:
    """The file and line that an attempt's function is at; empty if nobody can tell."""
    frame: FrameType | None = None
    if call is None:
        return ""
    if call.work is not None:
        frame = _users(_frames_of_thread(call.work.frame()))
    elif call.task is not None:
        frame = _users(_frames_of_task(call.task))
    return "" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _frames_of_thread(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _frames_of_task(task: asyncio.Task[None]) -> Iterator[FrameType]:
    frames: list[FrameType] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None)
        if frame is not None:
            frames.append(frame)
        awaited = getattr(awaited, "cr_await", None)
    return reversed(frames)


def _users(frames: Iterator[FrameType]) -> FrameType | None:
    """The innermost frame that is neither ours nor the standard library's."""
    innermost = None
    for frame in frames:
        innermost = innermost or frame
        if not frame.f_code.co_filename.startswith(_NOT_THE_USERS):
            return frame
    return innermost
