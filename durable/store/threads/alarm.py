"""What a thread sleeps by: it is woken by others, and by what a connection hears."""

from __future__ import annotations

import contextlib
import math
import select
import socket
import threading
from typing import Final

_WOKEN: Final = b"\1"


class Alarm:
    """Lets one thread sleep until others ring, or something can be read.

    While there is nothing to be read it is a lock, which is rung in a tenth of the
    time that a socket takes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._bell: socket.socket | None = None
        self._ear: socket.socket | None = None

    def ring(self) -> None:
        """Wake the thread, or keep it from sleeping next time. Any thread may."""
        bell = self._bell
        if bell is not None:
            with contextlib.suppress(OSError):  # it rings already, or nobody is there
                bell.send(_WOKEN)
        # The thread may have woken up by itself in between, so it may be set.
        elif self._lock.locked():
            with contextlib.suppress(RuntimeError):  # another was faster
                self._lock.release()

    def sleep(self, seconds: float | None, descriptor: int | None) -> bool:
        """Sleep; return whether something can be read from a descriptor."""
        if descriptor is None and self._ear is None:
            self._lock.acquire(timeout=-1 if seconds is None else seconds)
            return False
        if self._ear is None:
            self._ear, bell = socket.socketpair()
            self._ear.setblocking(False)
            bell.setblocking(False)
            self._bell = bell
            return False  # somebody may have rung the lock just now
        ear = self._ear.fileno()
        ready = _wait([ear] if descriptor is None else [ear, descriptor], seconds)
        if ear in ready:
            with contextlib.suppress(OSError):
                self._ear.recv(4096)
        return descriptor is not None and descriptor in ready

    def close(self) -> None:
        """Let go of what a fork or the end of the thread leaves behind."""
        for one in (self._ear, self._bell):
            if one is not None:
                one.close()


def _wait(descriptors: list[int], seconds: float | None) -> list[int]:
    """Return those that can be read. A selector would take ten times as long."""
    if not hasattr(select, "poll"):  # as on Windows
        return select.select(descriptors, [], [], seconds)[0]
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    found = poll.poll(None if seconds is None else math.ceil(seconds * 1_000))
    return [descriptor for descriptor, _ in found]
