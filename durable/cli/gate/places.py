"""Finds the line of a workflow's code that a replay ended at."""

from __future__ import annotations

import dis
import inspect
from types import CodeType
from typing import Any, Final

from durable.api.workflows.workflow import Workflow
from durable.core.loop.user_code import Owner, owner_of

_ENDS: Final = ("RETURN_VALUE", "RETURN_CONST")


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


def place_of_ending(code: Workflow[Any, Any]) -> str:
    """The `file:line` where a workflow's function ends.

    That of its first line if it may end in several. (To watch it end, by what Python
    has for profilers, has hung on CPython 3.11 beside other threads.)
    """
    body = _body_of(code)
    ends = {
        step.positions.lineno
        for step in dis.get_instructions(body)
        if step.opname in _ENDS and step.positions is not None
    }
    line = ends.pop() if len(ends) == 1 else None
    return f"{body.co_filename}:{line or body.co_firstlineno}"
