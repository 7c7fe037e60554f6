"""What workflow code may not call, refused while it runs, with advice.

One audit hook per process sees the calls; it acts only if the thread's running loop is
a workflow's. Python before 3.13 does not audit `time.sleep`, and before 3.12 not the
start of a thread: there these two functions are replaced by ones that look at the
running loop first and then do what they always did. Nothing is imported again, and no
value is wrapped.

Whatever waits for the outside or leaves the thread is refused, whoever calls it. Files
and the like are refused to the user's code alone: the standard library and other
packages read zone files, source lines and certificates, which does no harm. A run that
began before they were refused goes on, with a warning.

An audit hook cannot be removed, so all this happens when the first worker starts or a
test drives a run, not on import.
"""

from __future__ import annotations

import asyncio.events
import functools
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from durable.api.registry import Registry
from durable.core.loop.loop import DeterministicLoop, allowed
from durable.core.loop.user_code import (
    Owner,
    frames_in_turn,
    line_in,
    owner_of,
    users_place,
)

_log: Final = logging.getLogger("durable.worker")
_ACTIVITY: Final = "Do it in an activity and await that."
_THREAD: Final = "Threads cannot be replayed: use asyncio tasks, or an activity."
_INPUT: Final = "Ask before the run starts, or wait for a signal or an update."
_HOST: Final = "Another host may replay the run: pass it in, or ask an activity."
_ENVIRONMENT: Final = "It belongs to the process: set it before the engine opens."


def _advising(*rows: tuple[str, str]) -> dict[str, str]:
    """By the name of an audit event, what to do instead."""
    return {name: advice for names, advice in rows for name in names.split()}


_FORBIDDEN: Final = _advising(
    ("time.sleep", "Use `await durable.sleep(...)`: it survives a restart."),
    (
        "socket.connect socket.bind socket.getaddrinfo socket.gethostbyname"
        " subprocess.Popen os.system os.exec os.fork os.forkpty os.posix_spawn"
        " os.spawn",
        _ACTIVITY,
    ),
    ("_thread.start_new_thread _thread.start_joinable_thread", _THREAD),
    ("signal.pthread_kill", "Signals belong to the program, not to a run."),
)
_FORBIDDEN_TO_USERS_CODE: Final = _advising(
    ("builtins.input", _INPUT),
    ("os.chdir os.putenv os.unsetenv", _ENVIRONMENT),
    ("socket.gethostname", _HOST),
    (
        "glob.glob open os.chflags os.chmod os.chown os.fwalk os.kill os.killpg"
        " os.link os.listdir os.mkdir os.remove os.rename os.rmdir os.scandir"
        " os.startfile os.symlink os.truncate os.utime os.walk pathlib.Path.glob"
        " pathlib.Path.rglob shutil.chown shutil.copyfile shutil.copymode"
        " shutil.copystat shutil.copytree shutil.make_archive shutil.move"
        " shutil.rmtree shutil.unpack_archive socket.gethostbyaddr"
        " socket.getnameinfo sqlite3.connect tempfile.mkdtemp tempfile.mkstemp"
        " urllib.Request",
        _ACTIVITY,
    ),
)
_ADVICE: Final = {**_FORBIDDEN, **_FORBIDDEN_TO_USERS_CODE}
# Modules of the standard library that do what their caller wants done outside.
_DOOR_NAMES: Final = (
    "asyncio bz2 codecs concurrent configparser contextlib dbm fileinput functools"
    " genericpath glob gzip http io lzma ntpath os pathlib platform posixpath"
    " shelve shutil socket sqlite3 tarfile tempfile urllib zipfile"
)
_DOORS: Final = frozenset(_DOOR_NAMES.split())
_INNOCENT: Final = frozenset({"importlib", "logging", "warnings"})
"""What is done in their name is no doing of the workflow: an import, a log line."""
_DEBUGGERS: Final = ("_pydev", "debugpy", "pydev")
"""They look at sources while the code stands still, and need not be installed."""
_installed = False
_warned: set[tuple[str, str]] = set()


def _refuse(
    event: str,
    args: tuple[Any, ...],
    # The hook outlives the names of this module when the interpreter ends.
    find: Callable[[str], str | None] = _ADVICE.get,
    get_loop: Callable[[], object] = asyncio.events._get_running_loop,
) -> None:
    advice = find(event)
    if advice is None:
        return
    loop = get_loop()
    if isinstance(loop, DeterministicLoop) and not loop.is_torn_down:
        _judge(event, args, advice, loop)


def _judge(
    event: str, args: tuple[Any, ...], advice: str, loop: DeterministicLoop
) -> None:
    """Raise if it is a refusal; a run that is older than that may be warned only."""
    if allowed.get() is not None:
        return
    # The functions that are replaced stand between.
    frame: FrameType | None = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # there is no other way to who calls
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if event in _FORBIDDEN_TO_USERS_CODE:
        if not _is_users_doing(frame) or _is_harmless(event, args):
            return
        if not loop.is_guarded:
            _warn(event, users_place(frame, loop))
            return
    name = event.removeprefix("builtins.")
    shown = f"({args[0]!r})" if event == "time.sleep" else "()"
    raise loop.refuse_call(f"{name}{shown}", line_in(frame, loop), advice)


def _is_users_doing(frame: FrameType | None) -> bool:
    """Whether the user's code calls, itself or through one of the doors."""
    caller = None
    for each in frames_in_turn(frame):
        module = _module_of(each)
        if caller is None and module not in _DOORS:
            caller = owner_of(each.f_code.co_filename)
        is_stdlib = owner_of(each.f_code.co_filename) is Owner.STDLIB
        if (module in _INNOCENT and is_stdlib) or module.startswith(_DEBUGGERS):
            return False
    return caller is Owner.USER


def _module_of(frame: FrameType) -> str:
    name: str = frame.f_globals.get("__name__") or ""
    return name.partition(".")[0]


def _is_harmless(event: str, args: tuple[Any, ...]) -> bool:
    if event != "open":
        return False
    path = args[0]
    if not isinstance(path, str):  # a descriptor was opened before
        return isinstance(path, int)
    # The zone files are part of the program; they are opened by code in C.
    zones: Any = sys.modules.get("zoneinfo")
    return zones is not None and path.startswith(tuple(zones.TZPATH))


def _warn(event: str, place: str) -> None:
    if (event, place) not in _warned:
        _warned.add((event, place))
        _log.warning(
            "Workflow code called %s() at %s, which cannot be replayed. The run goes on"
            " since it began with an earlier release; in a new run this is refused. %s",
            event.removeprefix("builtins."),
            place,
            _ADVICE[event],
        )


def install_guards(registry: Registry | None = None) -> None:
    """Install the guards, once per process; look through workflows that are served."""
    global _installed
    if registry is not None:
        # Not at the top: a test that drives a run by hand has no use for it.
        from durable.worker.guards.code_check import check_workflows

        check_workflows(registry)
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
