"""Tells the user's code from the standard library, other packages and this library.

By file, so that a module may have any name. A line that is shown to a user is one of
theirs wherever there is one.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, Final

_PACKAGE: Final = __file__[: -len("core/loop/user_code.py")]
_SEPARATOR: Final = __file__[-len("/user_code.py")]
_STDLIB: Final = asyncio.__file__[: -len("asyncio/__init__.py")]
_INSTALLED: Final = tuple(
    f"{_SEPARATOR}{name}{_SEPARATOR}" for name in ("site-packages", "dist-packages")
)
_DRIVING: Final = tuple(
    f"{_PACKAGE}core{_SEPARATOR}replay{_SEPARATOR}{name}.py"
    for name in ("driver", "replayer")
)
_CALLED: Final = tuple(
    f"{_PACKAGE}{name}{_SEPARATOR}" for name in ("api", "converter", "core")
)


_PLUMBING: Final = (
    _STDLIB + f"asyncio{_SEPARATOR}",
    _PACKAGE + "core",
    _PACKAGE + "api",
)


class Owner(enum.Enum):
    """Whose code it is."""

    USER = "user"
    DURABLE = "durable"
    STDLIB = "the standard library"
    INSTALLED = "another package"


_owners: dict[str, Owner] = {}
_adopted: list[str] = []


def owner_of(filename: str) -> Owner:
    """Whose the code of that file is; code without a file is the user's."""
    known = _owners.get(filename)
    if known is None:
        known = _owners[filename] = _find_owner(filename)
    return known


def _find_owner(filename: str) -> Owner:
    if filename.startswith(_PACKAGE):
        return Owner.DURABLE
    if filename.startswith(tuple(_adopted)):
        return Owner.USER
    if any(part in filename for part in _INSTALLED):
        return Owner.INSTALLED
    if filename.startswith((_STDLIB, "<frozen ")):
        return Owner.STDLIB
    return Owner.USER


def adopt(code: CodeType, module: str) -> None:
    """A package that defines a workflow is the user's, even if it is installed."""
    filename = code.co_filename
    if owner_of(filename) is not Owner.INSTALLED:
        return
    depth = module.count(".")
    if filename.endswith(f"{_SEPARATOR}__init__.py"):
        depth += 1
    parts = filename.split(_SEPARATOR)
    _adopted.append(_SEPARATOR.join([*parts[:-depth], ""]) if depth else filename)
    _owners.clear()


def is_plumbing(filename: str) -> bool:
    """Whether a line that asked for a wait is not to be found in that file."""
    return filename.startswith(_PLUMBING)


def frames_in_turn(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and its callers, from the innermost out, up to what drives the run."""
    while frame is not None and not _drives(frame.f_code):
        yield frame
        frame = frame.f_back


def _drives(code: CodeType) -> bool:
    filename = code.co_filename
    if not filename.startswith(_PACKAGE):
        return False
    return (
        filename.startswith(_DRIVING)
        or not filename.startswith(_CALLED)
        or code.co_qualname == "DeterministicLoop.drain"
    )


def place_of(frame: FrameType) -> str:
    """Its `file:line`."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def users_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of the user's code in the turn, in a file if there is one."""
    found = None
    for each in frames_in_turn(frame):
        filename = each.f_code.co_filename
        if owner_of(filename) is Owner.USER:
            if not filename.startswith("<"):
                return each
            found = found or each
    return found


def users_place(frame: FrameType | None, loop: Any = None) -> str:
    """The innermost line of the user's code in the turn; "" if there is none.

    A task that is none of the user's code was made or awaited somewhere: the line where
    the run's first task waits then serves.

    Args:
        frame: where the code is.
        loop: the run's loop, if it is known.
    """
    found = users_frame(frame)
    if found is not None:
        return place_of(found)
    # Copied, since a watchdog asks from another thread.
    for task in list(getattr(loop, "tasks", ())):
        for each in reversed(list(awaited_frames(task.get_coro()))):
            if owner_of(each.f_code.co_filename) is Owner.USER:
                return place_of(each)
    return ""


def line_in(frame: FrameType | None, loop: Any) -> str:
    """The user's line in words, to go behind what was called."""
    place = users_place(frame, loop)
    return f" at {place}" if place else ""


_FRAMES_MAX: Final = 100


def awaited_frames(awaited: Any) -> Iterator[FrameType]:
    """The frames of a coroutine and of what it awaits, from the outermost in."""
    for _ in range(_FRAMES_MAX):
        frame = None
        inner = None
        for prefix, link in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(awaited, f"{prefix}_frame", None)
            if frame is not None:
                inner = getattr(awaited, f"{prefix}_{link}", None)
                break
        if frame is None:
            return
        yield frame
        awaited = inner
