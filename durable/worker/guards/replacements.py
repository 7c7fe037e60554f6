"""What cannot be replayed, by the object that a name stands for, and what to write.

The rows are those of docs/explanation/determinism.md.
"""

from __future__ import annotations

import builtins
import datetime
import functools
import glob
import os
import pathlib
import platform
import random
import secrets
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

import msgspec

_NOW: Final = "write durable.now()"
_RANDOM: Final = "write durable.random()"
_UUID: Final = "write durable.uuid4()"
_ACTIVITY: Final = "do it in an activity"
_THREAD: Final = "use asyncio tasks, or an activity"
_GIVEN: Final = "pass it to the workflow, or ask an activity"
_EACH_PROCESS: Final = "it differs in each process; use a value that is recorded"

_FUNCTIONS: Final[tuple[tuple[Any, str, str], ...]] = (
    (
        time,
        "time time_ns monotonic monotonic_ns perf_counter perf_counter_ns process_time"
        " process_time_ns thread_time thread_time_ns",
        _NOW,
    ),
    (time, "sleep", "write `await durable.sleep(...)`"),
    (random, "SystemRandom", _RANDOM),
    (
        secrets,
        "choice randbelow randbits token_bytes token_hex token_urlsafe SystemRandom",
        _RANDOM,
    ),
    (os, "urandom getrandom", _RANDOM),
    (uuid, "uuid1 uuid4 uuid6 uuid7 uuid8 getnode", _UUID),
    (
        os,
        "environ environb getenv getenvb getpid getppid getcwd getcwdb getlogin"
        " cpu_count getloadavg uname",
        _GIVEN,
    ),
    (socket, "gethostname getfqdn", _GIVEN),
    (platform, "node uname", _GIVEN),
    (
        os,
        "listdir scandir walk fwalk stat lstat access mkdir makedirs remove unlink"
        " rmdir removedirs rename renames replace link symlink truncate"
        " chmod chown open read write system popen fork kill execv",
        _ACTIVITY,
    ),
    (
        os.path,
        "exists lexists isfile isdir islink getmtime getatime getctime getsize",
        _ACTIVITY,
    ),
    (
        subprocess,
        "Popen run call check_call check_output getoutput getstatusoutput",
        _ACTIVITY,
    ),
    (socket, "socket create_connection getaddrinfo gethostbyname", _ACTIVITY),
    (threading, "Thread Timer", _THREAD),
    (
        shutil,
        "copy copy2 copyfile copytree disk_usage make_archive move rmtree which",
        _ACTIVITY,
    ),
    (
        tempfile,
        "NamedTemporaryFile TemporaryDirectory TemporaryFile gettempdir mkdtemp"
        " mkstemp",
        _ACTIVITY,
    ),
    (glob, "glob iglob", _ACTIVITY),
    (sqlite3, "connect", _ACTIVITY),
    (builtins, "open", _ACTIVITY),
    (builtins, "input", "wait for a signal or an update"),
)
_CALLED_WITHOUT_ARGUMENTS: Final[tuple[tuple[Any, str, str], ...]] = (
    (time, "localtime gmtime ctime asctime", _NOW),
    (random, "Random", _RANDOM),
)
_CALLED: Final[tuple[tuple[Any, str, str], ...]] = (
    (builtins, "hash id", _EACH_PROCESS),
)
_CLASS_METHODS: Final[tuple[tuple[type[Any], str, str], ...]] = (
    (datetime.datetime, "now utcnow today", _NOW),
    (datetime.date, "today", _NOW),
    (pathlib.Path, "cwd home", _GIVEN),
)


MODULES: Final = frozenset(
    {os.path.__name__, "datetime", "pathlib"}
    | {module.__name__ for module, _, _ in _FUNCTIONS}
)
"""Where all that is found."""


class Replacement(msgspec.Struct, eq=False):
    """What to write instead, and when.

    Args:
        name: the callable as its module has it.
        advice: what to write.
        is_judged: whether a call counts: given how many arguments it has, or None if it
            is not called there.
    """

    name: str
    advice: str
    is_judged: Callable[[int | None], bool] = lambda _: True


def _original(value: object) -> object:
    """Guards replace some functions on some Pythons, and a name may hold either."""
    is_replaced = isinstance(value, FunctionType) and value.__module__ == "time"
    return getattr(value, "__wrapped__", value) if is_replaced else value


@functools.cache
def _table() -> dict[int, Replacement]:
    """By identity; modules keep their objects alive."""
    table: dict[int, Replacement] = {}
    rules: tuple[tuple[Any, Callable[[int | None], bool]], ...] = (
        (_FUNCTIONS, lambda _: True),
        (_CALLED_WITHOUT_ARGUMENTS, lambda count: count == 0),
        (_CALLED, lambda count: count is not None),
    )
    for rows, is_judged in rules:
        for module, names, advice in rows:
            for name in names.split():
                found = getattr(module, name, None)
                if found is not None:
                    owner = "os.path" if module is os.path else module.__name__
                    shown = name if module is builtins else f"{owner}.{name}"
                    what = Replacement(shown, advice, is_judged)
                    table.setdefault(id(_original(found)), what)
    return table


def replacement_of(value: object) -> Replacement | None:
    """What stands instead of this object in a workflow; None if it may stay."""
    found = _table().get(id(_original(value)))
    if found is not None:
        return found
    owner = getattr(value, "__self__", value)
    if isinstance(owner, random.Random):
        name = getattr(value, "__name__", "Random")
        return Replacement(f"random.{name}", _RANDOM)
    return None


def replacement_of_method(cls: type[Any], name: str) -> Replacement | None:
    """The same for a method that is called on a class."""
    for base, names, advice in _CLASS_METHODS:
        if issubclass(cls, base) and name in names.split():
            return Replacement(f"{cls.__name__}.{name}", advice)
    return None
