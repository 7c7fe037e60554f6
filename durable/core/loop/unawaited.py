"""Finds calls of activities and children that workflow code made and never awaited.

Nothing of such a call happens, so the code means something else than it says. It is
found in the turn that made the call, which is void then: mended code, which has a
command more there, replays what was recorded before.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from types import CodeType, CoroutineType
from typing import Any, Final, TypeAlias

from durable.core.loop.loop import DeterministicLoop
from durable.core.runtime import source_line
from durable.errors import WorkflowTaskError

Call: TypeAlias = tuple[Coroutine[Any, Any, Any], str, CodeType, int]
"""A call that somebody is to await, its name, and the line that made it."""

# A call that only we hold: by its note, by a variable, by the argument of getrefcount.
_OWN_REFERENCES: Final = 3


class CallNotes:
    """The part of a run's context that knows which calls have not begun."""

    __slots__ = ("calls",)
    loop: DeterministicLoop
    is_replaying: bool
    main: asyncio.Task[Any] | None
    calls: list[Call] | tuple[()]

    def note_call(
        self,
        call: Coroutine[Any, Any, Any],
        name: str,
        code: CodeType,
        instruction: int,
    ) -> None:
        """Workflow code has made a call. On replay nothing is refused that was not."""
        if not (self.is_replaying or self.loop.read_only):
            if not self.calls:
                self.calls = []
            self.calls.append((call, name, code, instruction))

    def check_calls(self) -> None:
        """See at the end of a turn that each call has begun, or still can.

        Raises:
            WorkflowTaskError: one never can.
        """
        if not self.calls:
            return
        lost = None
        waiting: list[Call] = []
        for item in self.calls:
            call, name, code, instruction = item
            if not _is_unbegun(call):
                continue
            if lost is None and (_is_let_go(call) or self._has_result()):
                lost = WorkflowTaskError(
                    f"The call of {name!r} at {source_line(code, instruction)} was"
                    " never awaited, so nothing of it happens.",
                    hint="Write `await` before it, or give it to asyncio.create_task,"
                    " asyncio.gather or a TaskGroup.",
                )
            waiting.append(item)
        self.calls = waiting
        if lost is not None:
            self.close_calls()
            raise lost

    def _has_result(self) -> bool:
        main = self.main
        if main is None or not main.done() or main.cancelled():
            return False
        return main.exception() is None

    def close_calls(self) -> None:
        """Give up the calls that have not begun, without a warning of Python's."""
        for call, *_ in self.calls:
            if _is_unbegun(call):
                call.close()
        self.calls = ()


def _is_unbegun(call: Any) -> bool:
    if type(call) is CoroutineType:
        return not (call.cr_suspended or call.cr_frame is None or call.cr_running)
    return not call.is_used  # a workflow call, which is no coroutine yet


def _is_let_go(call: object) -> bool:
    """Whether nobody else has the call any more; for interpreters that can tell."""
    # The argument of this function and that of its caller count as well.
    return sys.getrefcount(call) <= _OWN_REFERENCES + 1
