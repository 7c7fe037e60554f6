"""Raises an exception in another thread, between two lines of what runs there."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from types import FrameType
from typing import Final

_UNSAFE: Final = frozenset({"importlib", "logging", "queue", "threading"})
"""Packages that would leave a lock or a half-made module behind for other threads."""

_GUARDS: Final = "durable.worker.guards.guards"


def raise_in(thread_id: int, exception: type[BaseException]) -> None:
    """Raise a class in a thread; what waits in C meets it when it returns."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id), ctypes.py_object(exception)
    )


class _Withdrawn(BaseException):
    pass


def withdraw(thread_id: int) -> None:
    """Take back what this thread was sent and has not got yet.

    Something else in its place, which is caught: of nothing in its place CPython 3.11
    would remember for ever that something is on its way, and then each function hangs
    that is traced (by a debugger, or for coverage).
    """
    with contextlib.suppress(_Withdrawn):
        raise_in(thread_id, _Withdrawn)
        while True:
            pass


def frame_of(thread_id: int) -> FrameType | None:
    """What a thread runs now; None if it has ended."""
    frames = sys._current_frames()  # pyright: ignore[reportPrivateUsage]  # there is no other way to another thread's line
    return frames.get(thread_id)


def may_interrupt(frame: FrameType | None) -> bool:
    """Whether the user's code runs, or what it has called, and not this library.

    An exception may be raised a little later than where the thread is seen. But it must
    not hit what other threads rely on.
    """
    if frame is not None and frame.f_globals.get("__name__") == _GUARDS:
        frame = frame.f_back  # it sleeps: on old Pythons a guard stands around that
    package = _package_of(frame)
    if frame is None or package == "durable":
        return False
    while frame is not None and package != "durable":
        if package in _UNSAFE:
            return False
        frame = frame.f_back
        package = _package_of(frame)
    return True


def _package_of(frame: FrameType | None) -> str:
    if frame is None:
        return ""
    name: str = frame.f_globals.get("__name__") or ""
    return name.partition(".")[0]
