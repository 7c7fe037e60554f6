"""`@workflow`: an async function that survives the death of its process.

Calling a workflow makes a `WorkflowCall`, a value that says what to run and with which
arguments; an engine starts it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Generator
from typing import (
    Any,
    ClassVar,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from typing_extensions import TypedDict, Unpack

from durable.api.definitions import (
    WORKFLOWS,
    check_function,
    check_name,
    get_definition,
    register,
)
from durable.api.signature import CallSignature
from durable.converter import failures
from durable.core.payload import Failure, Payload, Payloads
from durable.errors import DefinitionError, InvalidCallError, InvalidOptionError
from durable.options import Duration, check_id, to_microseconds

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class WorkflowOptions(TypedDict, total=False):
    """Options of a workflow, on the decorator.

    Keys:
        version: a label that is kept with each run.
        run_timeout: the longest one run may take; no code runs when it passes.
        execution_timeout: the longest the whole chain of runs may take.
        task_queue: where it runs; the engine's own queue by default.
        fail_on: exception classes that fail the run although they look like bugs.
        park_on: exception classes that park the run although they look like failures.
    """

    version: str | None
    run_timeout: Duration | None
    execution_timeout: Duration | None
    task_queue: str | None
    fail_on: tuple[type[BaseException], ...]
    park_on: tuple[type[BaseException], ...]


class WorkflowCall(Coroutine[None, None, R_co], Generic[R_co]):
    """What to run, with which arguments: a value that an engine starts."""

    __slots__ = ("definition", "input")

    def __init__(self, definition: Workflow[Any, Any], input: Payloads) -> None:
        self.definition = definition
        self.input = input

    def _refuse(self) -> NoReturn:
        name = self.definition.name
        raise InvalidCallError(
            f"The workflow call {name}(...) was awaited.",
            hint=f"Give it to an engine: await engine.execute({name}(...)).",
        )

    def __await__(self) -> Generator[None, None, R_co]:
        """Refuse: an engine runs workflows."""
        self._refuse()

    def send(self, value: Any, /) -> Any:
        """Refuse: an engine runs workflows."""
        self._refuse()

    def throw(self, *error: Any) -> Any:
        """Refuse: an engine runs workflows."""
        self._refuse()

    def close(self) -> None:
        """Do nothing: a call that was never started holds nothing."""

    def __repr__(self) -> str:
        return f"<call of workflow {self.definition.name!r}>"


class Workflow(Generic[P, R]):
    """A decorated workflow: call it to get a value that an engine starts."""

    kind: ClassVar[str] = "workflow"

    def __init__(
        self, function: Callable[..., Any], name: str, options: WorkflowOptions
    ) -> None:
        self.function = function
        self.name = name
        self.call_signature = CallSignature(function, name)
        self.version = options.get("version")
        where = f"of workflow {name!r}"
        self.run_timeout = _timeout(options.get("run_timeout"), f"run_timeout {where}")
        self.execution_timeout = _timeout(
            options.get("execution_timeout"), f"execution_timeout {where}"
        )
        self.task_queue = options.get("task_queue")
        if self.task_queue is not None:
            check_id(self.task_queue, f"task_queue {where}")
        self.fail_on = _classes(options.get("fail_on", ()), f"fail_on {where}")
        self.park_on = _classes(options.get("park_on", ()), f"park_on {where}")
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> WorkflowCall[R]:
        """Make a call value: nothing runs until an engine starts it.

        Raises:
            InvalidCallError: the arguments do not fit the signature.
            PayloadError: an argument cannot be recorded as it is.
        """
        signature = self.call_signature
        return WorkflowCall(self, signature.encode(signature.bind(args, kwargs)))

    def __repr__(self) -> str:
        return f"<workflow {self.name!r}>"

    def __reduce__(self) -> Any:
        """Pickle by registered name."""
        return find_workflow, (self.name,)

    # --- as the core sees it ----------------------------------------------------------

    async def call(self, input: Payloads) -> Payload:
        """Decode the arguments, run the function, encode its result."""
        signature = self.call_signature
        args, kwargs = signature.unbind(signature.decode(input))
        return signature.encode_result(await self.function(*args, **kwargs))

    def failure_of(self, error: BaseException) -> Failure:
        """Turn an exception into data."""
        return failures.failure_of(error)

    def exception_of(self, failure: Failure) -> BaseException:
        """Turn recorded data into the exception that workflow code sees."""
        return failures.exception_of(failure)

    def is_bug(self, error: BaseException) -> bool:
        """Whether an exception speaks of wrong code, so that the run should park."""
        return failures.is_bug(error, fail_on=self.fail_on, park_on=self.park_on)


def find_workflow(name: str) -> Workflow[Any, Any]:
    """The registered workflow of that name; how a pickled one is found again."""
    found: Workflow[Any, Any] = get_definition(WORKFLOWS, name, "workflow")
    return found


def _timeout(value: Duration | None, name: str) -> int | None:
    if value is None:
        return None
    microseconds = to_microseconds(value, name)
    if microseconds == 0:
        raise InvalidOptionError(f"{name} is 0: give a positive duration, or None.")
    return microseconds


def _classes(value: Any, name: str) -> tuple[type[BaseException], ...]:
    items: list[Any] = [*value] if type(value) is tuple else [None]
    if not all(isinstance(i, type) and issubclass(i, BaseException) for i in items):
        raise InvalidOptionError(f"{name} is {value!r}: give exception classes.")
    return tuple(items)


class WorkflowDecorator(Protocol):
    """What `@workflow(...)` with options returns."""

    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Workflow[P, R]: ...


@overload
def workflow(function: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *, name: str | None = None, **options: Unpack[WorkflowOptions]
) -> WorkflowDecorator: ...
def workflow(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    **options: Unpack[WorkflowOptions],
) -> Any:
    """Make an async function a workflow: it goes on where it was after a crash.

    Its code must be deterministic: whatever it reads from outside goes through
    activities, and time, randomness and ids come from `durable.now`, `durable.random`
    and `durable.uuid4`. All of plain asyncio may be used.

    Args:
        function: the async function.
        name: what histories call it; the function's name by default. Keep it when you
            rename the function while workflows are running.
        **options: see `WorkflowOptions`. Durations are `timedelta`, seconds, or text
            like "30s".

    Raises:
        DefinitionError: the function cannot be a workflow, or its name is taken.
        InvalidOptionError, InvalidDurationError: an option has a wrong value.
    """
    unknown = sorted(set(options) - set(WorkflowOptions.__annotations__))
    if unknown:
        raise InvalidOptionError(
            f"No workflow option is called {unknown[0]!r}; there are"
            f" {', '.join(sorted(WorkflowOptions.__annotations__))}."
        )
    if function is None:
        return functools.partial(_define, name=name, options=options)
    return _define(function, name=name, options=options)


def _define(
    function: Any, /, *, name: str | None, options: WorkflowOptions
) -> Workflow[Any, Any]:
    check_function(function, "workflow")
    if not inspect.iscoroutinefunction(function):
        raise DefinitionError(
            f"@workflow was put on {function.__qualname__}, which is not async.",
            hint="Write `async def`; a plain function can be an @activity.",
        )
    checked = check_name(function.__name__ if name is None else name, "workflow")
    definition: Workflow[Any, Any] = Workflow(function, checked, options)
    register(WORKFLOWS, definition, "workflow")
    return definition
