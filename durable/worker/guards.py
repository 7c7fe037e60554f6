"""What workflow code may not call, refused while it runs, with advice.

One audit hook per process sees the calls; it acts only if the thread's running loop is
a workflow's. Nothing is patched, proxied or imported again. An audit hook cannot be
removed, so it is installed when the first worker starts, not on import.
"""

from __future__ import annotations

import asyncio.events
import sys
from typing import Any, Final

from durable.core.loop import DeterministicLoop
from durable.errors import ForbiddenInWorkflowError

_ACTIVITY: Final = "Do it in an activity and await that."
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
    "_thread.start_new_thread": "Threads cannot be replayed: use asyncio tasks, or an"
    " activity.",
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
    """Install the hook, once per process."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_refuse)
