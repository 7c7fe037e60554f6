"""How many activities run at once, and who waits for a place.

An attempt leaves its place when it ends. The thread or process of a plain function is a
place of its own, and is free when the function has returned, however long ago its
attempt timed out: whoever was given it before would be charged for time in which
nothing of it runs.
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
_PROCESSES: Final = "processes for activities"
_SLOTS: Final = "places for activities"


class Lane:
    """The threads, or the processes, that plain functions need beside a place.

    Attributes:
        queue: who waits for one, in order.
        hung: attempts that are over, whose function still holds its own.
    """

    def __init__(self, size: int, what: str) -> None:
        self.size = size
        self.free = size
        self.what = what
        self.queue: collections.deque[Call] = collections.deque()
        self.hung: dict[Call, None] = {}

    @property
    def used(self) -> int:
        """How many functions hold, some of them perhaps past their time."""
        return self.size - self.free


class Places:
    """The places of one worker.

    Args:
        slots: how many activities run at once.
        threads: how many of them may be plain functions in threads.
        processes: how many may be plain functions in processes.
    """

    def __init__(self, slots: int, threads: int, processes: int) -> None:
        self.slots = slots
        self.threads = Lane(threads, _THREADS)
        self.processes = Lane(processes, _PROCESSES)
        self._lanes = {"thread": self.threads, "process": self.processes}
        self._free = slots
        self._starting = 0
        self._queue: collections.deque[Call] = collections.deque()
        self._warned: set[str] = set()
        self.running: set[Call] = set()

    def has_room(self, code: Code) -> bool:
        """Whether there is a free place."""
        return self._free > 0 and (code.is_async or self._lanes[code.lane].free > 0)

    def take(self, call: Call, code: Code) -> None:
        """An attempt begins."""
        self.running.add(call)
        self._free -= 1
        if not code.is_async:
            self._lanes[code.lane].free -= 1

    def leave(self, call: Call, code: Code) -> None:
        """An attempt has ended; its thread or process perhaps has not."""
        if call not in self.running:
            return
        self.running.remove(call)
        self._free += 1
        if code.is_async:
            if call.attempt.is_over and self._warned:
                self._warned.discard(_SLOTS)
        elif call.work is None or call.work.has_ended:
            self._lanes[code.lane].free += 1
        else:
            self._lanes[code.lane].hung[call] = None
            self.warn_if_exhausted()

    def work_ended(self, call: Call) -> None:
        """The function of an attempt has returned, or its process is gone."""
        for lane in self._lanes.values():
            if call in lane.hung:  # else its attempt gives the thread back
                del lane.hung[call]
                lane.free += 1
                self._warned.discard(lane.what)

    def room(self) -> dict[str, int]:
        """Count the free places of each lane that nobody waits for.

        Those of "loop" are all; what needs a lane needs one of them, too.
        """
        free = self._free - self._starting - len(self._queue)
        room = {"loop": max(0, free)}
        for name, lane in self._lanes.items():
            left = lane.free - self._starting - len(lane.queue)
            room[name] = max(0, min(left, room["loop"]))
        return room

    # --- waiting ----------------------------------------------------------------------

    def waiting(self) -> list[Call]:
        """Those that wait for a place; any thread may ask."""
        lanes = self._lanes.values()
        return [*self._queue.copy(), *(c for lane in lanes for c in lane.queue.copy())]

    @property
    def waiting_count(self) -> int:
        """How many wait for a place."""
        return len(self._queue) + sum(len(x.queue) for x in self._lanes.values())

    def enqueue(self, call: Call, code: Code) -> None:
        """Let an attempt wait for a place, in order."""
        (self._queue if code.is_async else self._lanes[code.lane].queue).append(call)
        self.warn_if_exhausted()

    def next_waiting(self) -> Call | None:
        """Take out the next that waits and for which a place is kept, if there is one.

        The place is kept until `forget_promise`.
        """
        while self._free > self._starting:
            queue = self._queue
            for lane in (self.processes, self.threads):
                if lane.queue and lane.free > self._starting:
                    queue = lane.queue
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
        has_waiting = bool(self._queue)
        for lane in (self.threads, self.processes):
            has_waiting = has_waiting or bool(lane.queue)
            if lane.queue and len(lane.hung) >= lane.size:
                self._warn(lane.what, [*lane.hung], lane.queue)
        if not has_waiting or self._free:
            return
        # As a rule the first that is looked at goes on.
        if all(call.attempt.is_over for call in self.running):
            self._warn(_SLOTS, [*self.running], self.waiting())

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
