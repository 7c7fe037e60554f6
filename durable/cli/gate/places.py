"""Finds the line of a workflow's code that a replay ended at."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from types import CodeType, FrameType
from typing import Any

from durable.api.workflows.workflow import Workflow
from durable.core.history.events import HistoryEvent
from durable.core.loop.user_code import Owner, owner_of
from durable.core.replay.catching_up import catch_up


def place_of_error(error: BaseException) -> str:
    """The innermost `file:line` of the user's code that raised; "" if none did."""
    found, trace = "", error.__traceback__
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if owner_of(filename) is Owner.USER:
            found = f"{filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def first_line(code: Workflow[Any, Any]) -> str:
    """The `file:line` where a workflow's function begins."""
    body = _body_of(code)
    return f"{body.co_filename}:{body.co_firstlineno}"


def _body_of(code: Workflow[Any, Any]) -> CodeType:
    body: CodeType = inspect.unwrap(code.function).__code__
    return body


def place_of_ending(code: Workflow[Any, Any], history: Sequence[HistoryEvent]) -> str:
    """The `file:line` where a workflow's function ends, by replaying it once more.

    That of its first line if it does not come to its end.
    """
    body = _body_of(code)
    line = body.co_firstlineno

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal line
        # Also where it only waits: the last time is the one that counts.
        if event == "return" and frame.f_code is body:
            line = frame.f_lineno

    outer = sys.getprofile()
    sys.setprofile(note)
    try:
        with catch_up(lambda _: code, history):
            sys.setprofile(outer)
    finally:
        sys.setprofile(outer)
    return f"{body.co_filename}:{line}"
