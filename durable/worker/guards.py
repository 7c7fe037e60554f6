"""What workflow code may not call, refused while it runs, with advice.

One audit hook per process sees the calls; it acts only if the thread's running loop is
a workflow's. Python before 3.13 does not audit `time.sleep`, and before 3.12 not the
start of a thread: there these two functions are replaced by ones that look at the
running loop first and then do what they always did. Nothing is imported again, and no
value is wrapped.

An audit hook cannot be removed, so all this happens when the first worker starts, not
on import.
"""

from __future__ import annotations

import asyncio.events
import functools
import sys
import threading
import time
from typing import Any, Final

from durable.core.loop import DeterministicLoop
from durable.errors import ForbiddenInWorkflowError

_ACTIVITY: Final = "Do it in an activity and await that."
_THREAD: Final = "Threads cannot be replayed: use asyncio tasks, or an activity."
_FORBIDDEN: Final = {
    "time.sleep": "Use `await durable.sleep(...)`: it survives a restart.",
    "socket.connect": _ACTIVITY,
    "socket.bind": _ACTIVITY,
    "socket.getaddrinfo": _ACTIVITY,
    "socket.gethostbyname": _ACTIVITY,
    "subprocess.Popen": _ACTIVITY,
    "os.system": _ACTIVITY,
    "os.exec": _ACTIVITY,
    "os.fork": _ACTIVITY,
    "os.forkpty": _ACTIVITY,
    "os.posix_spawn": _ACTIVITY,
    "os.spawn": _ACTIVITY,
    "_thread.start_new_thread": _THREAD,
    "_thread.start_joinable_thread": _THREAD,
    "signal.pthread_kill": "Signals belong to the program, not to a run.",
}
_installed = False


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    advice = _FORBIDDEN.get(event)
    if advice is None:
        return
    loop = asyncio.events._get_running_loop()
    if isinstance(loop, DeterministicLoop) and not loop.is_torn_down:
        shown = f"({args[0]!r})" if event == "time.sleep" else "()"
        raise ForbiddenInWorkflowError(
            f"Workflow code called {event}{shown}, which cannot be replayed.",
            hint=advice,
        )


def install_guards() -> None:
    """Install the guards, once per process."""
    global _installed
    if _installed:
        return
    _installed = True
    sys.addaudithook(_refuse)
    if sys.version_info < (3, 13):
        _guard_sleep()
    if sys.version_info < (3, 12):
        _guard_thread_start()


def _guard_sleep() -> None:
    original = time.sleep

    @functools.wraps(original)
    def sleep(seconds: Any, /) -> None:
        _refuse("time.sleep", (seconds,))
        original(seconds)

    time.sleep = sleep


def _guard_thread_start() -> None:
    original = threading.Thread.start

    @functools.wraps(original)
    def start(self: threading.Thread) -> None:
        _refuse("_thread.start_new_thread", ())
        original(self)

    threading.Thread.start = start  # type: ignore[method-assign]  # see the module
