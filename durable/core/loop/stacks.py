"""Where each task of a run waits: the lines of workflow code, and for what."""

from __future__ import annotations

import asyncio
import linecache
from collections.abc import Iterable
from types import FrameType
from typing import Any, Final

import msgspec

from durable.core.loop.user_code import awaited_frames

_ASYNCIO: Final = asyncio.__file__.removesuffix("__init__.py")
_PACKAGE: Final = __file__[: -len("core/loop/stacks.py")]
_PLUMBING: Final = (_ASYNCIO, _PACKAGE + "core", _PACKAGE + "api")
_STANDING_IN: Final = {
    "_leave_group": "TaskGroup",
    "_wait_for_notice": "Condition.wait",
    "_acquire_place": "Semaphore.acquire",
}
"""What `durable.core.loop.stable_asyncio` does in place of asyncio."""
_CHILDREN_SHOWN: Final = 5
_DEPTH_MAX: Final = 3
STACK_QUERY: Final = "stack"
"""The built-in query that every run answers."""


class StackFrame(msgspec.Struct, frozen=True):
    """One line of workflow code on the way to where a task waits."""

    file: str
    line: int
    function: str
    code: str


class TaskStack(msgspec.Struct, frozen=True):
    """One task of a run: its name, its lines from the outermost in, what it awaits."""

    task: str
    waits_for: str
    frames: tuple[StackFrame, ...]


def stacks_of(tasks: Iterable[asyncio.Task[Any]]) -> list[TaskStack]:
    """Where each of these tasks waits; done ones are left out."""
    return [_stack_of(task) for task in tasks if not task.done()]


def _stack_of(task: asyncio.Task[Any]) -> TaskStack:
    frames = [
        StackFrame(
            file=frame.f_code.co_filename,
            line=frame.f_lineno,
            function=frame.f_code.co_qualname,
            code=linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip(),
        )
        for frame in awaited_frames(task.get_coro())
        if not frame.f_code.co_filename.startswith(_PLUMBING)
    ]
    return TaskStack(task.get_name(), _waits_for(task), tuple(frames))


def _waits_for(task: asyncio.Task[Any], depth: int = 0) -> str:
    """What a task waits for: by the innermost frame that says so, or by its future."""
    found = ""
    for frame in awaited_frames(task.get_coro()):
        found = _reason(frame) or found
        if found and _is_method_of_asyncio(frame):
            break  # what that does for it, its author did not write
    if found:
        return found
    future: Any = getattr(task, "_fut_waiter", None)
    children: list[Any] | None = getattr(future, "_children", None)
    if children is not None:
        return f"gather of {_in_words(children, depth)}"
    if isinstance(future, asyncio.Task):
        return _in_words([future], depth)
    return "a future" if future is not None else "its next step"


def _in_words(futures: list[Any], depth: int) -> str:
    """Futures by name, those that are open by what they wait for."""
    open_ones = [future for future in futures if not future.done()]
    words = [_named(future, depth) for future in open_ones[:_CHILDREN_SHOWN]]
    if len(open_ones) > _CHILDREN_SHOWN:
        words.append(f"{len(open_ones) - _CHILDREN_SHOWN} more")
    return ", ".join(words) or "what is done"


def _named(future: asyncio.Future[Any], depth: int) -> str:
    if not isinstance(future, asyncio.Task):
        return "a future"
    name = f"task {future.get_name()!r}"
    return name if depth >= _DEPTH_MAX else f"{name} ({_waits_for(future, depth + 1)})"


def _reason(frame: FrameType) -> str:
    """What a frame of ours or of asyncio waits for, in words."""
    filename = frame.f_code.co_filename
    if filename.startswith(_ASYNCIO):
        return _reason_of_asyncio(frame)
    if not filename.startswith(_PACKAGE):
        return ""
    name, names = frame.f_code.co_name, frame.f_locals
    if name in _STANDING_IN:
        return _STANDING_IN[name]
    if name == "execute_activity":
        return f"activity {names['target'].activity_type!r}"
    if name in ("wait_result", "wait_started"):
        child = names["self"]
        return f"child workflow {child.workflow_id!r} ({child.target.workflow_type})"
    if name == "sleep" and "microseconds" in names:
        return f"a timer of {names['microseconds'] / 1_000_000:g} s"
    if frame.f_code.co_qualname == "Timer.wait":
        return f"a timer of {names['self'].seconds:g} s"
    if name == "wait_condition":
        return "a condition"
    if name == "receive" and "name" in names:
        return f"signal {names['name']!r}"
    if name == "_deliver":
        return f"delivery to run {names['machine'].workflow_id!r}"
    return ""


def _is_method_of_asyncio(frame: FrameType) -> bool:
    code = frame.f_code
    if code.co_name in _STANDING_IN:
        return True
    is_public = "." in code.co_qualname and not code.co_qualname.startswith("_")
    return is_public and code.co_filename.startswith(_ASYNCIO)


def _reason_of_asyncio(frame: FrameType) -> str:
    """What a coroutine of asyncio waits for, as its caller wrote it."""
    name = frame.f_code.co_qualname
    if name == "sleep":
        return f"asyncio.sleep({frame.f_locals['delay']:g})"
    owner, _, method = name.partition(".")
    if not method or method.startswith("<locals>"):
        return f"asyncio.{owner.lstrip('_')}"
    if owner.startswith("_"):
        return ""  # how a public one of them works
    return owner if method.startswith("_") else name
