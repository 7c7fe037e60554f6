"""Where each task of a run waits: the lines of workflow code, and for what."""

from __future__ import annotations

import asyncio
import linecache
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Final

import msgspec

_PACKAGE: Final = __file__[: -len("core/stacks.py")]
_PLUMBING: Final = (
    asyncio.__file__.removesuffix("__init__.py"),
    _PACKAGE + "core",
    _PACKAGE + "api",
)
_FRAMES_MAX: Final = 100
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
    frames: list[StackFrame] = []
    waits_for = ""
    for frame in _frames(task.get_coro()):
        waits_for = _reason(frame) or waits_for
        code = frame.f_code
        if not code.co_filename.startswith(_PLUMBING):
            frames.append(
                StackFrame(
                    file=code.co_filename,
                    line=frame.f_lineno,
                    function=code.co_qualname,
                    code=linecache.getline(code.co_filename, frame.f_lineno).strip(),
                )
            )
    return TaskStack(task.get_name(), waits_for or "another task", tuple(frames))


def _reason(frame: FrameType) -> str:
    """What a frame of ours waits for, in words."""
    if not frame.f_code.co_filename.startswith(_PACKAGE):
        return ""
    name, names = frame.f_code.co_name, frame.f_locals
    if name == "execute_activity":
        return f"activity {names['target'].activity_type!r}"
    if name in ("wait_result", "wait_started"):
        child = names["self"]
        return f"child workflow {child.workflow_id!r} ({child.target.workflow_type})"
    if name == "sleep" and "microseconds" in names:
        return f"a timer of {names['microseconds'] / 1_000_000:g} s"
    if name == "wait_condition":
        return "a condition"
    if name == "receive" and "name" in names:
        return f"signal {names['name']!r}"
    if name == "_deliver":
        return f"delivery to run {names['machine'].workflow_id!r}"
    return ""
