"""`@workflow`: a function or class whose runs survive the death of their process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from typing_extensions import Unpack

from durable.api.definitions import (
    check_function,
    check_name,
    decorate,
)
from durable.api.workflows.class_workflow import define_class
from durable.api.workflows.workflow_definition import Workflow as Workflow
from durable.api.workflows.workflow_definition import WorkflowCall as WorkflowCall
from durable.api.workflows.workflow_definition import (
    WorkflowDecorator,
    register_workflow,
)
from durable.api.workflows.workflow_definition import WorkflowOptions as WorkflowOptions
from durable.api.workflows.workflow_definition import find_workflow as find_workflow
from durable.errors import DefinitionError
from durable.options import check_option_names

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


@overload
def workflow(decorated: type[T], /) -> type[T]: ...  # type: ignore[overload-overlap]  # no class of a workflow makes coroutines
@overload
def workflow(decorated: Callable[P, Coroutine[Any, Any, R]], /) -> Workflow[P, R]: ...
@overload
def workflow(
    *, name: str | None = None, **options: Unpack[WorkflowOptions]
) -> WorkflowDecorator: ...
def workflow(
    decorated: Any = None,
    /,
    *,
    name: str | None = None,
    **options: Unpack[WorkflowOptions],
) -> Any:
    """Make an async function, or a class, a workflow that goes on after a crash.

    Its code must be deterministic: whatever it reads from outside goes through
    activities, and time, randomness and ids come from `durable.now`, `durable.random`
    and `durable.uuid4`. All of plain asyncio may be used.

    A class has one async method under `@durable.run` and handlers of messages under
    `@durable.signal`, `@durable.query` and `@durable.update`. Each run is an object of
    it. Its `__init__` takes nothing, or the same parameters as the run method: then it
    gets the input too. Everything that is inherited counts.

    Args:
        decorated: the async function, or the class. A class stays what it is; its run
            method becomes the `Workflow` that is called, as in `Cart.run("alice")`.
        name: what histories call it; the function's or class's name by default. Keep
            it when you rename that while workflows are running.
        **options: see `WorkflowOptions`. Durations are `timedelta`, seconds, or text
            like "30s".

    Raises:
        DefinitionError: it cannot be a workflow, or its name is taken. All that is
            wrong with a class is said at once.
        InvalidOptionError, InvalidDurationError: an option has a wrong value.
    """
    check_option_names(options, WorkflowOptions.__annotations__, "workflow option")
    return decorate(_define, decorated, name=name, options=options)


def _define(decorated: Any, /, *, name: str | None, options: WorkflowOptions) -> Any:
    if isinstance(decorated, type):
        define_class(decorated, name=name, options=options)
        return decorated
    check_function(decorated, "workflow")
    if not inspect.iscoroutinefunction(decorated):
        raise DefinitionError(
            f"@workflow was put on {decorated.__qualname__}, which is not async.",
            hint="Write `async def`; a plain function can be an @activity.",
        )
    checked = check_name(decorated.__name__ if name is None else name, "workflow")
    definition: Workflow[Any, Any] = Workflow(decorated, checked, options)
    register_workflow(definition)
    return definition


Workflow._decorate = staticmethod(_define)  # pyright: ignore[reportPrivateUsage]  # it needs both modules
