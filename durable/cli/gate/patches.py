"""Writes the patch that keeps old runs on their path: the code for one difference."""

from __future__ import annotations

import ast
import linecache
import re
import textwrap
from collections.abc import Sequence
from typing import Any, Final

from durable.api.registry import REGISTRY
from durable.core.history.events import (
    CLOSING,
    ActivityTaskScheduled,
    HistoryEvent,
    MarkerRecorded,
    StartChildWorkflowExecutionInitiated,
    StateTransitioned,
    TimerStarted,
)
from durable.core.machines.marker import find_patch
from durable.errors import NondeterminismError

_KIND_AND_NAME: Final = re.compile(r"(\w+?)(?:\('([^']*)'|\(|$| at )")
_JOINS: Final = re.compile(r"\b(?:gather|par|create_task|wait|as_completed)\(")


def patch_for(
    events: Sequence[HistoryEvent],
    workflow_type: str,
    error: NondeterminismError,
    code_at: str,
) -> str | None:
    """The code to write at `code_at`, where it differs from a history.

    It guards what is new there, keeps what is gone for the runs that have it, or both.
    None where no patch helps: the result of a closed run, or a lost patch.
    """
    recorded = _event_at(events, error)
    if recorded is not None:
        patch = find_patch(recorded.attributes)
        if patch is not None:
            return _bring_back(patch[0])
        if type(recorded.attributes) in CLOSING and not error.found_at:
            return None  # it ends in both, otherwise
    old = None if recorded is None else _old_call(recorded.attributes)
    new = _statement_at(code_at) if error.found_at else None
    if old is None and new is None:
        return None
    called = _named(error.found if new is not None else error.recorded)
    guard = f'patched("{workflow_type}-{called}")'
    origin = f"  # as at {error.recorded_at}" if error.recorded_at else ""
    if new is None:
        return f"if not {guard}:\n    {old}{origin}"
    body = textwrap.indent(new, "    ")
    both = f"if {guard}:\n{body}\nelse:\n    {old or '...  # as it was'}{origin}"
    if _JOINS.search(new):  # several calls: which of them differ is not for us to say
        return both
    stays = recorded is None or _is_asked_for_after(code_at, recorded.attributes)
    moved = recorded is not None and _comes_later(events, recorded, error.found)
    if stays and not moved:
        return f"if {guard}:\n{body}"
    if moved and not stays:
        return f"if not {guard}:\n    {old}{origin}"
    return both


def _event_at(
    events: Sequence[HistoryEvent], error: NondeterminismError
) -> HistoryEvent | None:
    found = [event for event in events if event.event_id == error.event_id]
    return found[0] if found else None


def _bring_back(patch_id: str) -> str:
    return (
        f'if patched("{patch_id}"):  # or deprecate_patch("{patch_id}")\n'
        "    ...  # what it guarded"
    )


# --- both sides as code ---------------------------------------------------------------


def _old_call(attributes: Any) -> str:
    """What workflow code wrote to get this event, as far as that is recorded."""
    callee = _callee(attributes)
    match attributes:
        case TimerStarted():
            return f"await {callee}({attributes.start_to_fire_timeout / 1_000_000:g})"
        case _ if callee is not None:
            return f"await {callee}(...)"
        case StateTransitioned():
            return "set_state(...)"
        case MarkerRecorded():
            return f"...  # marker {attributes.marker_name!r}"
        case _ if type(attributes) in CLOSING:
            return "return ...  # or raise"
        case _:
            return f"...  # {type(attributes).__name__}"


def _callee(attributes: Any) -> str | None:
    """The function that was called, by its name in the code if that is known."""
    known: Any
    match attributes:
        case ActivityTaskScheduled():
            name = attributes.activity_type
            known = REGISTRY.activities.get(name)
        case StartChildWorkflowExecutionInitiated():
            name = attributes.workflow_type
            known = REGISTRY.workflows.get(name)
        case TimerStarted():
            return "sleep"
        case _:
            return None
    return name if known is None else str(known.function.__name__)


def _statement_at(place: str) -> str | None:
    """The statement of that line; only the head of one that has a body."""
    found = _node_at(place)
    if found is None:
        return None
    node, lines = found
    body: list[ast.stmt] = getattr(node, "body", [])
    last = node.end_lineno if not body else body[0].lineno - 1
    text = textwrap.dedent("".join(lines[node.lineno - 1 : last])).rstrip()
    return f"{text}\n    ..." if body else text or None


def _node_at(place: str) -> tuple[ast.stmt, list[str]] | None:
    file, _, line = place.rpartition(":")
    lines = linecache.getlines(file)
    try:
        tree = ast.parse("".join(lines))
    except SyntaxError:
        return None
    number, best = int(line), None
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.stmt)
            and node.lineno <= number <= (node.end_lineno or node.lineno)
            and (best is None or node.lineno >= best.lineno)
        ):
            best = node
    return None if best is None else (best, lines)


# --- what became of the recorded call -------------------------------------------------


def _is_asked_for_after(place: str, attributes: Any) -> bool:
    """Whether the code still makes the recorded call below: then something came before.

    By its name, in the rest of the function.
    """
    called, found = _callee(attributes), _node_at(place)
    if called is None or found is None:
        return False
    node, lines = found
    rest = lines[node.end_lineno or 0 : _end_of_function(lines, node.lineno)]
    return any(re.search(rf"\b{re.escape(called)}\(", line) for line in rest)


def _end_of_function(lines: list[str], line: int) -> int:
    ends = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(ast.parse("".join(lines)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return max(ends)[1] if ends else len(lines)


def _comes_later(
    events: Sequence[HistoryEvent], recorded: HistoryEvent, found: str | None
) -> bool:
    """Whether what the code asks for now is recorded further down."""
    kind, name = _parts(found)
    return any(
        event.event_id > recorded.event_id
        and any(kind == base.__name__ for base in type(event.attributes).__mro__)
        and name == getattr(event.attributes, "activity_type", name)
        for event in events
    )


def _parts(described: str | None) -> tuple[str, str]:
    match = _KIND_AND_NAME.match(described or "")
    return (match[1], match[2] or "") if match else ("", "")


def _named(described: str | None) -> str:
    """A word for a patch id, from what a mismatch says was asked for."""
    kind, name = _parts(described)
    if name:
        return re.sub(r"\W+", "-", name).strip("-").lower() or "change"
    words = re.findall("[A-Z][a-z]+", kind)
    return "-".join(word.lower() for word in words) or "change"
