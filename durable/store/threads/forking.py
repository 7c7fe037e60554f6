"""What a fork of this process may not copy: connections to a file of SQLite.

SQLite keeps in memory which locks this process holds on a file. A child inherits that
belief, but not the locks: it would work on the file as if it held them, and whoever
closes the file as the last one that does hold a lock deletes the log under the child.
No later call in the child can mend that. So all connections are let go of before a
fork, when no thread is within a call of SQLite, and the parent connects anew.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from typing import Final, Protocol

# Longer than any commit or read takes. Who waits for another process's lock takes
# longer; then the fork goes on, and a child is refused the file.
_REST_SECONDS: Final = 5.0

FileIdentity = tuple[int, int]
"""Device and inode."""


class Gate:
    """What a thread holds while it uses connections; shut while a process forks.

    Args:
        connections: lets go of the connections; the thread is at rest meanwhile.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._lock = threading.Lock()
        # A thread that opens the gate again at once would never let the fork in.
        self._turnstile = threading.Lock()
        with _gates_lock:
            _gates.add(self)

    def __enter__(self) -> None:
        with self._turnstile:
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def shut(self, deadline: float) -> bool:
        """Wait for the thread to rest, and disconnect; False if it took too long."""
        if not _acquire(self._turnstile, deadline):
            return False
        if not _acquire(self._lock, deadline):
            self._turnstile.release()
            return False
        self._connections.disconnect_for_fork()
        return True

    def open(self) -> None:
        """Let the thread go on."""
        self._lock.release()
        self._turnstile.release()


class Connections(Protocol):
    """What a thread has connected to a database."""

    def disconnect_for_fork(self) -> None:
        """Close what a child must not inherit; whoever needs it connects anew."""
        ...


def _acquire(lock: threading.Lock, deadline: float) -> bool:
    return lock.acquire(timeout=max(deadline - time.monotonic(), 0.0))


# A thread may fork in the middle of whatever it does.
_gates_lock = threading.RLock()
_gates: Final[weakref.WeakSet[Gate]] = weakref.WeakSet()
_shut: Final[list[Gate]] = []
_inherited: Final[set[FileIdentity]] = set()


def is_inherited(identity: FileIdentity) -> bool:
    """Whether this process was forked while its parent had that file open."""
    return identity in _inherited


def _before_fork() -> None:
    # Held until the fork is done, by the thread that forks: forks come one by one.
    _gates_lock.acquire()
    deadline = time.monotonic() + _REST_SECONDS
    _shut.extend(gate for gate in list(_gates) if gate.shut(deadline))


def _after_fork_in_parent() -> None:
    for gate in _shut:
        gate.open()
    _shut.clear()
    _gates_lock.release()


def _after_fork_in_child() -> None:
    global _gates_lock
    _gates_lock = threading.RLock()
    _shut.clear()
    _gates.clear()
    _inherited.clear()
    _inherited.update(_open_files())


def _open_files() -> set[FileIdentity]:
    """The files that this process has open; empty where that cannot be listed."""
    found: set[FileIdentity] = set()
    for folder in ("/proc/self/fd", "/dev/fd"):
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                with contextlib.suppress(OSError, ValueError):
                    status = os.fstat(int(name))
                    found.add((status.st_dev, status.st_ino))
            return found
    return found


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
