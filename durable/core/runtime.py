"""The workflow runtime: the one protocol between workflow code and an engine.

`durable.api` knows only this. `durable.core.replay.context` implements it by replay;
another engine may implement it on its own workers. A loop that drives workflow code
carries its runtime as the attribute `durable_runtime`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from types import CodeType
from typing import Any, Final, Literal, NoReturn, Protocol, TypeAlias, TypeVar, cast

import msgspec

from durable.core.history.commands import (
    ActivitySettings,
    ChildSettings,
    ExternalCommand,
)
from durable.core.history.payload import Failure, Payload, Payloads
from durable.errors import NotInWorkflowError
from durable.observer import Attributes, Note, Span

T = TypeVar("T")
MessageKind: TypeAlias = Literal["signal", "update", "query"]


class WorkflowInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a run knows about itself.

    Attributes:
        started_at: when the run was started, microseconds since 1970.
        attributes, memo: as they are now, once the code has changed them.
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
    attributes: dict[str, Payload]
    history_length: int
    is_continue_as_new_suggested: bool
    cancellation_reason: str | None


class ActivityTarget(msgspec.Struct, eq=False):
    """An activity as a workflow calls it: the same for all its calls.

    `differing_input` says on replay which recorded arguments differ from those of the
    code, if any. It may decode both, so that the order of a set or a new field with a
    default is no mismatch. `is_outcome_kept` says that whoever waits for its outcome,
    through any cancellation, wants one too that comes together with the cancellation.
    `body` is what runs it if that is a closure: a step.
    """

    activity_type: str
    settings: ActivitySettings
    summary: str | None
    differing_input: Callable[[Payloads, Payloads], str | None]
    is_outcome_kept: bool = False
    body: Any = None
    headers: dict[str, str] | None = None
    """What travels with it beside the headers of the run."""


class ChildTarget(msgspec.Struct, eq=False):
    """A workflow as its parent calls it: the same for all its calls."""

    workflow_type: str
    settings: ChildSettings
    summary: str | None
    differing_input: Callable[[Payloads, Payloads], str | None]
    headers: dict[str, str] | None = None
    """As those of an activity."""


class Child(Protocol):
    """A child workflow as its parent's code holds it."""

    workflow_id: str
    run_id: str | None
    """None until the child has started."""

    async def wait_started(self) -> str:
        """Wait until the child exists; return its run id.

        Cancelling the wait leaves the child alone.

        Raises:
            WorkflowAlreadyStartedError: its id is taken.
        """
        ...

    async def wait_result(self) -> Payload:
        """Wait for the child's result; raise its failure.

        Cancelling the wait does to the child what its cancellation type says.
        """
        ...


class Handler(msgspec.Struct, eq=False):
    """A handler of signals, updates or queries as the core sees it: payloads in.

    Args:
        bind: given a message's name and arguments, decodes them and returns the call
            that handles it.
        is_async: that call gives a coroutine.
        validate: given the same, raises if an update is to be rejected.
        encode: turns what the call gives into a payload.
        warns_unfinished: a run that ends before this handler has is worth a warning.
        takes_headers: `bind` is given the message's headers, too.
    """

    bind: Callable[..., Callable[[], Any]]
    is_async: bool
    encode: Callable[[Any], Payload]
    validate: Callable[[str, Payloads], None] | None = None
    warns_unfinished: bool = True
    takes_headers: bool = False

    def bound(
        self, name: str, input: Payloads, headers: dict[str, str] | None
    ) -> Callable[[], Any]:
        """The call that handles a message."""
        if self.takes_headers:
            return self.bind(name, input, headers or {})
        return self.bind(name, input)


class ContinueAsNew(BaseException):
    """Leaves workflow code to end the run and begin the next of its chain.

    No Exception, so that code which catches those does not stop it.
    """

    def __init__(
        self,
        workflow_type: str,
        input: Payloads,
        *,
        task_queue: str | None = None,
        run_timeout: int | None = None,
        memo: dict[str, Payload] | None = None,
        attributes: dict[str, Payload] | None = None,
        version: str | None = None,
    ) -> None:
        super().__init__(f"continues as a new run of {workflow_type!r}")
        self.workflow_type = workflow_type
        self.input = input
        self.task_queue = task_queue
        self.run_timeout = run_timeout
        self.memo = memo
        self.attributes = attributes
        self.version = version
        self.headers: dict[str, str] = {}
        """What travels with the next run beside the headers of this one."""


def find_continuation(error: BaseException) -> ContinueAsNew | None:
    """What a run goes on with, if that is all that an exception says.

    A task group wraps it; whatever else is in a group makes that a failure.
    """
    if isinstance(error, ContinueAsNew):
        return error
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        found = [find_continuation(one) for one in group.exceptions]
        return found[0] if all(found) else None
    return None


_source_lines: dict[tuple[int, int], tuple[CodeType, str]] = {}
_SOURCE_LINES_MAX: Final = 4_096


def source_line(code: CodeType | None, instruction: int) -> str:
    """Turn a code object and an instruction's offset into `file:line`."""
    if code is None:
        return ""
    # By identity, since code objects hash by their content; the value keeps it alive.
    # Not by `id`: audit hooks hear of each.
    key = object.__hash__(code), instruction
    known = _source_lines.get(key)
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
    _source_lines[key] = code, text
    return text


class WorkflowRuntime(Protocol):
    """What workflow code may ask of whatever drives it."""

    @property
    def is_torn_down(self) -> bool:
        """Whether the run is leaving memory: what its code still does is void."""
        ...

    @property
    def is_replaying(self) -> bool:
        """Whether this code ran before and is only being caught up."""
        ...

    trusts_arguments: bool
    """Arguments need no check: this code is caught up, and none was refused then."""
    has_refused: bool
    """To be set when an argument is refused, so that a replay refuses it, too."""

    def info(self) -> WorkflowInfo:
        """What the run knows about itself."""
        ...

    def time_left(self) -> int | None:
        """Microseconds until the run's own end, at least 1; None without a timeout."""
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

    def open_promise(
        self, target: ActivityTarget, code: CodeType | None, instruction: int
    ) -> tuple[str, Callable[[], Coroutine[Any, Any, Payload]]]:
        """Ask for what somebody outside is to give; its id, and what waits for it."""
        ...

    async def sleep(
        self, microseconds: int, summary: str | None, source: Callable[[], str]
    ) -> None:
        """Wait for a durable timer; zero is a timer too."""
        ...

    def start_timer(
        self,
        microseconds: int,
        fire: Callable[[], None],
        summary: str | None,
        source: Callable[[], str],
    ) -> Callable[[], None]:
        """Start a durable timer that calls `fire` once; what this returns drops it."""
        ...

    async def wait_condition(
        self, predicate: Callable[[], bool], timeout: int | None
    ) -> None:
        """Wait until the predicate holds; raise TimeoutError after `timeout`."""
        ...

    def patched(self, patch_id: str, *, deprecated: bool) -> bool:
        """Whether this run goes the patched way; recorded at its first answer."""
        ...

    # --- messages ---------------------------------------------------------------------

    instance: Any
    """The object of a class workflow; None for a function."""

    @property
    def code(self) -> WorkflowCode:
        """The workflow that is running."""
        ...

    def set_handler(
        self, kind: MessageKind, name: str | None, handler: Handler | None
    ) -> None:
        """Set or, with None, take away a handler; the name None stands for all others.

        Signals that were kept for it are handed to it at once, in order.
        """
        ...

    def all_handlers_finished(self) -> bool:
        """Whether no handler of a signal or update is under way."""
        ...

    async def receive(self, name: str, decode: Callable[[Payloads], T]) -> T:
        """Wait for the next signal of that name that no handler takes.

        One that `decode` refuses with an `UndecodableError` is set aside.
        """
        ...

    def receive_nowait(self, name: str, decode: Callable[[Payloads], T]) -> T:
        """The next such signal; raises asyncio.QueueEmpty if there is none."""
        ...

    def update_info(self) -> tuple[str, str] | None:
        """Id and name of the update whose handler this code belongs to."""
        ...

    def carried(self) -> tuple[Payload | None, Failure | None]:
        """The last result, and the last failure, of the runs before this one."""
        ...

    def set_state(self, state: Payload) -> None:
        """Publish what the run shows of itself."""
        ...

    def upsert_attributes(self, changes: dict[str, Payload], source: str) -> None:
        """Change what the run is found by; null takes an attribute away."""
        ...

    def upsert_memo(self, changes: dict[str, Payload], source: str) -> None:
        """Change the run's memo; null takes a value away."""
        ...

    def note_call(
        self,
        call: Coroutine[Any, Any, Any],
        name: str,
        code: CodeType,
        instruction: int,
    ) -> None:
        """A call was made that somebody is to await."""
        ...

    # --- telemetry --------------------------------------------------------------------

    def note(self, note: Note) -> None:
        """Have the observer told something once this workflow task is committed.

        Nothing comes of it while replaying, in queries and in validators.
        """
        ...

    def open_span(self, name: str, attributes: Attributes) -> Span | None:
        """Begin a span, also while replaying; None if nobody observes."""
        ...

    # --- other runs -------------------------------------------------------------------

    def start_child(
        self,
        target: ChildTarget,
        workflow_id: str | None,
        input: Payloads,
        code: CodeType | None,
        instruction: int,
    ) -> Child:
        """Ask for a child workflow; without an id it gets one of the run's randomness.

        `code` and `instruction` say which line of workflow code asks.
        """
        ...

    async def tell_external(self, command: ExternalCommand) -> None:
        """Send a signal, or a request to stop, to another run.

        It returns once that has it, durably.

        Raises:
            WorkflowNotFoundError, WorkflowClosedError, InboxFullError: it cannot take
                it.
        """
        ...

    # --- bounded histories ------------------------------------------------------------

    def continue_as_new(self, going: ContinueAsNew) -> NoReturn:
        """Leave the code, for the run to go on as a new one."""
        ...

    def checkpoint(self, input: Payloads) -> None:
        """Begin anew with `input` if it is time and nothing else is under way."""
        ...


class WorkflowCode(Protocol):
    """A workflow as the core sees it: payloads in, payload or exception out."""

    checkpoint_every: int
    """Events after which `checkpoint` is heeded."""

    @property
    def own_version(self) -> str | None:
        """Its version, if it has one."""
        ...

    def migrates_to(self) -> str | None:
        """The newer version that rules lead to from this one, if some do."""
        ...

    def migrate_input(self, input: Payloads) -> Payloads:
        """What this version would go on with, as that newer one's.

        Raises:
            MigrationError: a rule cannot make it that.
        """
        ...

    def prepare(self, runtime: WorkflowRuntime, input: Payloads) -> None:
        """Make the object of a class workflow and set its handlers.

        Runs in the loop, before the first message and the first line of the code.
        """
        ...

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
