"""The workflow runtime: the one protocol between workflow code and an engine.

`durable.api` knows only this. `durable.core.context` implements it by replay; another
engine may implement it on its own workers. A loop that drives workflow code carries
its runtime as the attribute `durable_runtime`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from types import CodeType
from typing import Any, Final, NoReturn, Protocol

import msgspec

from durable.core.commands import ActivitySettings
from durable.core.payload import Failure, Payload, Payloads
from durable.errors import NotInWorkflowError


class WorkflowInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a run knows about itself.

    Attributes:
        started_at: when the run was started, microseconds since 1970.
        history_length: events before the current workflow task; frozen within it.
        is_continue_as_new_suggested: the history has grown long.
    """

    namespace: str
    workflow_id: str
    run_id: str
    first_run_id: str
    workflow_type: str
    task_queue: str
    version: str | None
    attempt: int
    started_at: int
    execution_timeout: int | None
    run_timeout: int | None
    continued_from_run_id: str | None
    parent_workflow_id: str | None
    parent_run_id: str | None
    root_workflow_id: str | None
    root_run_id: str | None
    headers: dict[str, str]
    memo: dict[str, Payload]
    history_length: int
    is_continue_as_new_suggested: bool
    cancellation_reason: str | None


class ActivityTarget:
    """An activity as a workflow calls it: the same for all its calls.

    `same_input` decides on replay whether recorded arguments equal those of the code.
    It may decode both, so that the order of a set or a new field with a default is no
    mismatch.
    """

    __slots__ = ("activity_type", "same_input", "settings", "summary")

    def __init__(
        self,
        activity_type: str,
        settings: ActivitySettings,
        summary: str | None,
        same_input: Callable[[Payloads, Payloads], bool],
    ) -> None:
        self.activity_type = activity_type
        self.settings = settings
        self.summary = summary
        self.same_input = same_input


_source_lines: dict[tuple[int, int], tuple[CodeType, str]] = {}
_SOURCE_LINES_MAX: Final = 4_096


def source_line(code: CodeType | None, instruction: int) -> str:
    """Turn a code object and an instruction's offset into `file:line`."""
    if code is None:
        return ""
    # By identity, since code objects hash by their content; the value keeps it alive.
    known = _source_lines.get((id(code), instruction))
    if known is not None:
        return known[1]
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= instruction < end and number is not None:
            line = number
            break
    if len(_source_lines) >= _SOURCE_LINES_MAX:
        _source_lines.clear()
    text = f"{code.co_filename}:{line}"
    _source_lines[id(code), instruction] = code, text
    return text


class WorkflowRuntime(Protocol):
    """What workflow code may ask of whatever drives it."""

    @property
    def is_replaying(self) -> bool:
        """Whether this code ran before and is only being caught up."""
        ...

    def info(self) -> WorkflowInfo:
        """What the run knows about itself."""
        ...

    def now(self) -> int:
        """The workflow task's time, microseconds since 1970."""
        ...

    def random(self) -> random.Random:
        """The run's own generator."""
        ...

    async def execute_activity(
        self,
        target: ActivityTarget,
        input: Payloads,
        code: CodeType | None,
        instruction: int,
    ) -> Payload:
        """Schedule an activity and wait for its result; raise its failure.

        `code` and `instruction` say which line of workflow code asks.
        """
        ...

    async def sleep(
        self, microseconds: int, summary: str | None, source: Callable[[], str]
    ) -> None:
        """Wait for a durable timer; zero is a timer too."""
        ...

    async def wait_condition(
        self, predicate: Callable[[], bool], timeout: int | None
    ) -> None:
        """Wait until the predicate holds; raise TimeoutError after `timeout`."""
        ...

    def patched(self, patch_id: str, *, deprecated: bool) -> bool:
        """Whether this run goes the patched way; recorded at its first answer."""
        ...


class WorkflowCode(Protocol):
    """A workflow as the core sees it: payloads in, payload or exception out."""

    def call(self, input: Payloads) -> Coroutine[Any, Any, Payload]:
        """Decode the arguments, run the code, encode its result."""
        ...

    def failure_of(self, error: BaseException) -> Failure:
        """Turn an exception into data."""
        ...

    def exception_of(self, failure: Failure) -> BaseException:
        """Turn recorded data into the exception that workflow code sees."""
        ...

    def is_bug(self, error: BaseException) -> bool:
        """Whether an exception speaks of wrong code, so that the run should park."""
        ...


_ATTRIBUTE: Final = "durable_runtime"


def find_runtime() -> WorkflowRuntime | None:
    """The runtime of the workflow code that is running in this thread, if any."""
    return getattr(asyncio._get_running_loop(), _ATTRIBUTE, None)


def get_runtime(operation: str) -> WorkflowRuntime:
    """The runtime of the running workflow code.

    Raises:
        NotInWorkflowError: no workflow code is running in this thread.
    """
    runtime = find_runtime()
    if runtime is None:
        _refuse(operation)
    return runtime


def _refuse(operation: str) -> NoReturn:
    raise NotInWorkflowError(
        f"{operation} was called outside of a workflow.",
        hint="Call it from code that a @workflow function awaits.",
    )
