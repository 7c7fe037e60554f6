"""What `@workflow` makes: a definition to call, and the call as a value.

Calling a workflow makes a `WorkflowCall`, a value that says what to run and with which
arguments. An engine starts it; a workflow that awaits it runs it as its child.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable, Coroutine, Generator, Iterable
from types import CodeType, FrameType
from typing import (
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeGuard,
    TypeVar,
    cast,
    overload,
)

from typing_extensions import Unpack

from durable import limits
from durable.api.definitions import (
    WORKFLOWS,
    Unchanging,
    import_definition,
    register,
)
from durable.api.messages.messages import channels_of
from durable.api.sagas.ledger import closing_blocks
from durable.api.signature import CallSignature
from durable.api.workflows.child_options import (
    ChildOptions,
    SharedOptions,
    child_target,
    merge,
    timeout_of,
    within_parent,
)
from durable.api.workflows.versioning import (
    VERSIONS,
    Release,
    Rule,
    VersionOptions,
    Versions,
    add_rule,
    enter,
    find_chain,
)
from durable.api.workflows.versioning import WorkflowOptions as WorkflowOptions
from durable.converter import failures
from durable.core.history.flags import Flag
from durable.core.history.payload import Failure, Payload, Payloads
from durable.core.runtime import (
    Child,
    ChildTarget,
    MessageKind,
    WorkflowRuntime,
    find_runtime,
)
from durable.errors import DefinitionError, InvalidCallError, InvalidOptionError
from durable.options import check_id, check_option_names

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class WorkflowDecorator(Protocol):
    """What `@workflow(...)` with options returns."""

    @overload
    def __call__(self, decorated: type[T], /) -> type[T]: ...  # type: ignore[overload-overlap]  # no class of a workflow makes coroutines
    @overload
    def __call__(
        self, decorated: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Workflow[P, R]: ...


class _Rules(Protocol):
    """What decorates a rule, and leaves it as it is."""

    def __call__(
        self, function: Callable[Q, WorkflowCall[Any]], /
    ) -> Callable[Q, WorkflowCall[Any]]: ...


class WorkflowCall(Coroutine[Any, Any, R_co], Generic[R_co]):
    """What to run, with which arguments: a value.

    An engine starts it. Inside a workflow, awaiting it runs it as a child and gives
    the child's result; `asyncio.gather`, `create_task`, TaskGroup, `wait_for` and
    `shield` take it as they take any coroutine.

    Attributes:
        definition: the workflow.
        input: the arguments, as they will be recorded.
        child_options: the options that `Workflow.options` gave it.
    """

    __slots__ = (
        "_code",
        "_instruction",
        "_running",
        "child_options",
        "definition",
        "input",
        "is_used",
    )

    def __init__(
        self,
        definition: Workflow[Any, Any],
        input: Payloads,
        code: CodeType | None = None,
        instruction: int = 0,
    ) -> None:
        self.definition = definition
        self.input = input
        self.child_options: ChildOptions = definition.child_options
        self._code = code
        self._instruction = instruction
        self._running: Coroutine[Any, Any, R_co] | None = None
        # Workflow code that makes a call and lets go of it meant to await it.
        self.is_used = False

    # --- as a child -------------------------------------------------------------------

    def begin(
        self,
        runtime: WorkflowRuntime,
        workflow_id: str | None,
        code: CodeType | None,
        instruction: int,
    ) -> Child:
        """Ask for a child workflow; an id given here wins over that of the options.

        `code` and `instruction` say which line asks, should the call itself have been
        made outside of workflow code.
        """
        self.is_used = True
        if self._code is not None:
            code, instruction = self._code, self._instruction
        return runtime.start_child(
            within_parent(self.definition.child_target, runtime),
            workflow_id or self.child_options.get("id"),
            self.input,
            code,
            instruction,
        )

    async def result_of(self, child: Child) -> R_co:
        """Wait for a child that this call began; decode its result or raise."""
        try:
            payload = await child.wait_result()
        except Exception as error:
            propagates = self.child_options.get("propagate_failures", True)
            if propagates or not failures.is_of_child(error):
                raise
            nothing: Any = None  # which R_co includes: see `options`
            return cast("R_co", nothing)
        result: R_co = self.definition.call_signature.decode_result(payload)
        return result

    async def _run(
        self, runtime: WorkflowRuntime, code: CodeType | None, instruction: int
    ) -> R_co:
        return await self.result_of(self.begin(runtime, None, code, instruction))

    def _get_runtime(self) -> WorkflowRuntime:
        runtime = find_runtime()
        if runtime is None:
            name = self.definition.name
            raise InvalidCallError(
                f"The workflow call {name}(...) was awaited outside of a workflow.",
                hint=f"Give it to an engine: await engine.execute({name}(...)).",
            )
        return runtime

    def __await__(self) -> Generator[Any, Any, R_co]:
        """Run it as a child of the running workflow; each time as a new one.

        Raises what the child raised, once it has failed for good; `ChildWorkflowError`
        if that exception's class is not known here.

        Raises:
            InvalidCallError: no workflow is running here; an engine runs workflows.
            WorkflowTimedOutError, WorkflowTerminatedError: the child ended so.
            WorkflowAlreadyStartedError: the child's id is taken.
        """
        self.is_used = True
        runtime = self._get_runtime()
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
        return self._run(runtime, frame.f_code, frame.f_lasti).__await__()

    def send(self, value: Any, /) -> Any:
        """Go on, as the coroutine of a task."""
        return self._get_running().send(value)

    def throw(self, *error: Any) -> Any:
        """Go on with an exception, as the coroutine of a task."""
        return self._get_running().throw(*error)

    def close(self) -> None:
        """Give up; a call that was never driven holds nothing."""
        self.is_used = True
        if self._running is not None:
            self._running.close()

    @property
    def cr_frame(self) -> FrameType | None:
        """The frame of the wait, as a coroutine has it; None before its first step."""
        return getattr(self._running, "cr_frame", None)

    @property
    def cr_await(self) -> Any:
        """What the wait awaits, as a coroutine has it."""
        return getattr(self._running, "cr_await", None)

    def _get_running(self) -> Coroutine[Any, Any, R_co]:
        self.is_used = True
        if self._running is None:
            self._running = self._run(self._get_runtime(), None, 0)
        return self._running

    def __repr__(self) -> str:
        return f"<call of workflow {self.definition.name!r}>"

    def __reduce__(self) -> Any:
        """Copy and pickle as a call that nobody has made yet."""
        return WorkflowCall, (self.definition, self.input)


class Workflow(Unchanging, Generic[P, R]):
    """A decorated workflow: call it to get a value that an engine starts."""

    kind: ClassVar[str] = "workflow"
    # Beside which versions it stands: all that were decorated, or those of an engine.
    _beside: Versions = VERSIONS

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        options: WorkflowOptions,
        *,
        origin: Any = None,
    ) -> None:
        """Take a function, or a method of the class `origin`."""
        self.function = function
        self.origin = function if origin is None else origin
        self.name = name
        skip = () if origin is None else ("self",)
        self.call_signature = CallSignature(function, name, skip=skip)
        where = f"of workflow {name!r}"
        self.release = Release(
            options.get("version"),
            options.get("compatible_with"),
            options.get("deprecated"),
            where,
        )
        self.run_timeout = timeout_of(
            options.get("run_timeout"), f"run_timeout {where}"
        )
        self.execution_timeout = timeout_of(
            options.get("execution_timeout"), f"execution_timeout {where}"
        )
        self.task_queue = options.get("task_queue")
        if self.task_queue is not None:
            check_id(self.task_queue, f"task_queue {where}")
        self.fail_on = exception_classes(options.get("fail_on", ()), f"fail_on {where}")
        self.park_on = exception_classes(options.get("park_on", ()), f"park_on {where}")
        self.checkpoint_every = _events(
            options.get("checkpoint_every", limits.CHECKPOINT_EVENTS), where
        )
        self.child_options: ChildOptions = {}
        self._child_target: ChildTarget | None = None
        functools.update_wrapper(self, function, updated=())

    @property
    def own_version(self) -> str | None:
        """Its version, as it is kept with runs."""
        version = self.release.version
        return None if version is None else version.text

    def version(
        self, version: str, **options: Unpack[VersionOptions]
    ) -> WorkflowDecorator:
        """Decorate the code of another version of this workflow, beside this one.

            @order.version("1.4.0")
            async def order_1_4(number: int) -> str: ...

        Args:
            version: which; runs of it go to the decorated function or class.
            **options: as for `@workflow`.

        Raises:
            DefinitionError: this workflow has no version itself.
            InvalidOptionError: the version is malformed, or there already.
        """
        if self.own_version is None:
            raise DefinitionError(
                f"The workflow {self.name!r} has no version itself, so that none can"
                " stand beside it.",
                hint="Give it one: @workflow(version='2.0.0').",
            )
        if version == self.own_version:
            raise InvalidOptionError(
                f"version of workflow {self.name!r} is {version!r}, which it is itself."
            )
        check_option_names(options, VersionOptions.__annotations__, "workflow option")
        chosen: WorkflowOptions = {**options, "version": version}
        decorator: Any = functools.partial(
            self._decorate, name=self.name, options=chosen
        )
        return cast("WorkflowDecorator", decorator)

    def migrates_from(self, versions: str) -> _Rules:
        """Decorate how runs of older versions move to this one.

            @order.migrates_from("<2")
            def in_cents(euros: int) -> WorkflowCall[str]:
                return order(Money(euros * 100))

        The function takes what an older run would go on with, and returns the call of
        this version that it goes on with, always the same. A run moves where its old
        code calls `continue_as_new()` of itself, or `checkpoint()` while nothing else
        is under way: a run of this version takes its place. Rules chain. `versions` are
        those whose runs move, such as "<2"; newer ones never do.

        Raises:
            DefinitionError: this workflow has no version.
            InvalidOptionError: the range is malformed.
        """
        decorator: Any = functools.partial(add_rule, self, versions)
        return cast("_Rules", decorator)

    # What `@workflow` does with a function or a class; set where that is.
    _decorate: ClassVar[Callable[..., Any]]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> WorkflowCall[R]:
        """Make a call value: nothing runs until an engine or a workflow takes it.

        Raises:
            InvalidCallError: the arguments do not fit the signature.
            PayloadError: an argument cannot be recorded as it is.
        """
        signature = self.call_signature
        payloads = signature.encode(signature.bind(args, kwargs))
        runtime = find_runtime()
        if runtime is None:
            return WorkflowCall(self, payloads)
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
        code, instruction = frame.f_code, frame.f_lasti
        call: WorkflowCall[R] = WorkflowCall(self, payloads, code, instruction)
        runtime.note_call(call, self.name, code, instruction)
        return call

    @overload
    def options(
        self,
        *,
        propagate_failures: Literal[True] = True,
        **options: Unpack[SharedOptions],
    ) -> Workflow[P, R]: ...
    @overload
    def options(
        self, *, propagate_failures: bool, **options: Unpack[SharedOptions]
    ) -> Workflow[P, R | None]: ...
    def options(self, **options: Any) -> Any:
        """The same workflow under other options, for the calls made of it.

        They say how a call runs as a child; see `SharedOptions`. An engine that starts
        such a call heeds `id`, `task_queue`, `run_timeout`, `execution_timeout`,
        `id_reuse` and `memo`, and refuses a call with others.

        Args:
            **options: see `SharedOptions`; and `propagate_failures`: False makes
                awaiting give None when the child fails, is terminated or times out.

        Raises:
            InvalidOptionError, InvalidDurationError, InvalidIdError: an option has a
                wrong value, or two contradict each other.
            PayloadError: a memo's value is no plain data.
        """
        return self.with_child_options(merge(self.child_options, options))

    def with_child_options(self, options: ChildOptions) -> Workflow[P, R]:
        """The same workflow, with these options and no others."""
        copy = self._copy()
        copy.child_options = options
        copy._child_target = copy._make_child_target()
        return copy

    def failing_on(self, classes: tuple[type[BaseException], ...]) -> Workflow[P, R]:
        """The same workflow, whose runs fail with these exceptions, too."""
        copy = self._copy()
        copy.fail_on = (*self.fail_on, *classes)
        return copy

    def beside(self, versions: Versions) -> Workflow[P, R]:
        """The same workflow, whose runs move to none but these versions."""
        copy = self._copy()
        copy._beside = versions
        return copy

    def _copy(self) -> Workflow[P, R]:
        # Not copy.copy(), which gives the workflow itself.
        copy: Workflow[P, R] = object.__new__(type(self))
        vars(copy).update(vars(self))
        return copy

    @property
    def child_target(self) -> ChildTarget:
        """The workflow as a parent calls it."""
        if self._child_target is None:
            self._child_target = self._make_child_target()
        return self._child_target

    def _make_child_target(self) -> ChildTarget:
        return child_target(
            self.name,
            self.call_signature.differing_input,
            self.child_options,
            version=self.own_version,
            task_queue=self.task_queue,
            run_timeout=self.run_timeout,
            execution_timeout=self.execution_timeout,
        )

    def __repr__(self) -> str:
        return f"<workflow {self.name!r}>"

    def __reduce__(self) -> Any:
        """Pickle by registered name and module, with the options of `options()`."""
        module, version = self.origin.__module__, self.own_version
        return find_workflow, (self.name, module, self.child_options, version)

    # --- as the core sees it ----------------------------------------------------------

    def _rules(self) -> list[Rule]:
        version = self.release.version
        beside = self._beside.get(self.name, {})
        return [] if version is None else find_chain(beside, version)

    def migrates_to(self) -> str | None:
        """The newer version that rules lead to from this one, if some do."""
        rules = self._rules()
        return rules[-1].to.text if rules else None

    def migrate_input(self, input: Payloads) -> Payloads:
        """What this version would go on with, as that newer one's.

        Raises:
            MigrationError: a rule cannot make it that.
        """
        for rule in self._rules():
            input = rule.apply(self.name, input)
        return input

    def prepare(self, runtime: WorkflowRuntime, input: Payloads) -> None:
        """Do nothing: a function sets its handlers as it runs."""

    def message_signatures(
        self, kind: MessageKind
    ) -> dict[str | None, CallSignature] | None:
        """The messages that it declares, by name; that of None takes all others.

        None if only its own calls know what it takes.
        """
        return {}

    def code_parts(self) -> Iterable[Callable[..., Any]]:
        """What a run may call that neither its function nor its class names."""
        return ()

    def check_annotations(self) -> None:
        """See that values can be recorded by all annotations.

        Raises:
            DefinitionError: one cannot be resolved, or not be decoded by.
        """
        self.call_signature.check_annotations()
        for part in (self.origin, *self.code_parts()):
            for channel in channels_of(part):
                channel.check_type()

    async def call(self, input: Payloads) -> Payload:
        """Decode the arguments, run the function, encode its result."""
        signature = self.call_signature
        args, kwargs = signature.unbind(signature.decode(input))
        run = self.function(*args, **kwargs)
        return signature.encode_result(await closing_blocks(run))

    def failure_of(self, error: BaseException) -> Failure:
        """Turn an exception into data."""
        return failures.failure_of(error)

    def exception_of(self, failure: Failure) -> BaseException:
        """Turn recorded data into the exception that workflow code sees."""
        error = failures.exception_of(failure)
        loop: Any = asyncio.get_running_loop()
        if loop.flags & Flag.REMOTE_TRACEBACKS:
            failures.show_remote(error)
        return error

    def is_bug(self, error: BaseException) -> bool:
        """Whether an exception speaks of wrong code, so that the run should park."""
        runtime = find_runtime()
        return failures.is_bug(
            error,
            fail_on=self.fail_on,
            park_on=self.park_on,
            is_replaying=runtime is not None and runtime.is_replaying,
        )


def register_workflow(definition: Workflow[Any, Any], kind: str = "workflow") -> None:
    """Enter a workflow under its name, and under its version if it has one.

    Raises:
        DefinitionError: another module-level function or class holds both.
    """
    name, version = definition.name, definition.own_version
    earlier = WORKFLOWS.get(name)
    if version is not None and earlier is not None and earlier.own_version is not None:
        earlier = VERSIONS.get(name, {}).get(version)
    place = {name: earlier}
    register(place, definition, kind)
    if place[name] is definition:
        enter(WORKFLOWS, VERSIONS, definition)


def find_workflow(
    name: str,
    module: str = "__main__",
    options: ChildOptions | None = None,
    version: str | None = None,
) -> Workflow[Any, Any]:
    """The workflow of that name; how a pickled one is found again.

    Args:
        name: its name.
        module: the module that defines it, imported if the name is not known.
        options: those that `Workflow.options` gave it; None for none.
        version: which of several; the newest by default, and if it is not there.

    Raises:
        NotRegisteredError: there is none.
    """
    found: Workflow[Any, Any] = import_definition(WORKFLOWS, name, module, "workflow")
    found = VERSIONS.get(name, {}).get(version or "", found)
    return found.with_child_options(options) if options else found


WORKFLOW_ATTRIBUTE: Final = "__durable_workflow__"
"""Where a decorated class keeps its workflow."""


def workflow_of(value: object) -> Workflow[Any, Any] | None:
    """The workflow that a value is, or is the class of; None if it is neither."""
    # Not by getattr: a subclass has to be decorated itself.
    found = vars(value).get(WORKFLOW_ATTRIBUTE) if isinstance(value, type) else value
    return found if _is_workflow(found) else None


def _is_workflow(value: object) -> TypeGuard[Workflow[Any, Any]]:
    return isinstance(value, Workflow)


def exception_classes(value: Any, name: str) -> tuple[type[BaseException], ...]:
    """Check an option that names exceptions.

    Raises:
        InvalidOptionError: it is no tuple of exception classes.
    """
    items: list[Any] = [*value] if type(value) is tuple else [None]
    if not all(isinstance(i, type) and issubclass(i, BaseException) for i in items):
        raise InvalidOptionError(f"{name} is {value!r}: give exception classes.")
    return tuple(items)


def _events(value: object, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidOptionError(
            f"checkpoint_every {where} is {value!r}: give a number of events, at"
            " least 1."
        )
    return value
