"""A workflow made of a flow, in steps of which none can come too early."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast, overload

from typing_extensions import Unpack

from durable.api.definitions import check_name, class_of_place
from durable.api.flows.flow import seq
from durable.api.workflows.workflow_definition import (
    Workflow,
    WorkflowOptions,
    register_workflow,
)
from durable.errors import InvalidCallError
from durable.options import check_option_names

S = TypeVar("S")
A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
U = TypeVar("U")

Initial: TypeAlias = Literal["initial"]
Configured: TypeAlias = Literal["configured"]
Ready: TypeAlias = Literal["ready"]


class WorkflowBuilder(Generic[S, A, B]):
    """Makes a workflow of a flow, an activity or an async function.

        inventory = (
            WorkflowBuilder("inventory")
            .configure(takes=str, gives=int, version="1.0.0")
            .run(seq(par(price, stock), worth))
            .build()
        )
        await engine.execute(inventory("tea"))

    Type checkers reject steps in another order, a flow that does not fit, and the call
    of a workflow that was not built; so does the program itself. Each step gives a new
    builder and leaves the one before as it was.

    Args:
        name: the name of the workflow; data in every history.

    Raises:
        DefinitionError: the name is no id.
    """

    def __init__(self: WorkflowBuilder[Initial, Any, Any], name: str) -> None:
        """See the class."""
        self._name = check_name(name, "workflow")
        self._stage = "initial"
        self._types: dict[str, Any] = {}
        self._options: WorkflowOptions = {}
        self._code: Any = None

    @overload
    def configure(
        self: WorkflowBuilder[Initial, Any, Any],
        *,
        takes: type[T],
        gives: type[U],
        **options: Unpack[WorkflowOptions],
    ) -> WorkflowBuilder[Configured, T, U]: ...
    @overload
    def configure(
        self: WorkflowBuilder[Initial, Any, Any],
        *,
        takes: Any,
        gives: Any,
        **options: Unpack[WorkflowOptions],
    ) -> WorkflowBuilder[Configured, Any, Any]: ...
    def configure(
        self: WorkflowBuilder[Any, Any, Any],
        *,
        takes: Any,
        gives: Any,
        **options: Unpack[WorkflowOptions],
    ) -> Any:
        """First: say what the workflow takes and gives, and its options.

        Args:
            takes: the type of its one argument.
            gives: the type of its result.
            **options: as for `@workflow`.

        Raises:
            InvalidOptionError: an option does not exist.
            InvalidCallError: the builder is configured already.
        """
        check_option_names(options, WorkflowOptions.__annotations__, "workflow option")
        made = self._next("initial", "configure", "configured")
        made._types = {"value": takes, "return": gives}
        made._options = options
        return made

    def run(
        self: WorkflowBuilder[Configured, A, B], code: Callable[[A], Awaitable[B]], /
    ) -> WorkflowBuilder[Ready, A, B]:
        """Second: say what it does: a flow, an activity, or an async function.

        Raises:
            DefinitionError: the flow as a whole cannot work.
            InvalidCallError: it cannot be called; or this step is not the next one.
        """
        made = self._next("configured", "run", "ready")
        seq(code).check()
        made._code = code
        return cast("WorkflowBuilder[Ready, A, B]", made)

    def build(self: WorkflowBuilder[Ready, A, B]) -> Workflow[[A], B]:
        """Third: make the workflow, and register it by its name.

        Raises:
            DefinitionError: the name is taken.
            InvalidOptionError, InvalidDurationError: an option has a wrong value.
            InvalidCallError: this step is not the next one.
        """
        made = self._next("ready", "build", "built")
        built: Workflow[[A], B] = Workflow(
            _function(made._name, made._types, made._code), made._name, made._options
        )
        built.origin = class_of_place(made._name, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]  # as dataclasses do
        register_workflow(built)
        return built

    def _next(
        self, stage: str, step: str, following: str
    ) -> WorkflowBuilder[Any, Any, Any]:
        if self._stage != stage:
            raise InvalidCallError(
                f"{step}() was called on {self!r}, which is {self._stage} and not"
                f" {stage}.",
                hint="Write WorkflowBuilder(name).configure(...).run(...).build().",
            )
        made: WorkflowBuilder[Any, Any, Any] = WorkflowBuilder(self._name)
        vars(made).update(vars(self), _stage=following)
        return made

    def __repr__(self) -> str:
        return f"<builder of workflow {self._name!r}>"


def _function(name: str, types: dict[str, Any], code: Any) -> Callable[..., Any]:
    """A function with these types that runs the code."""

    async def run(value: Any) -> Any:
        return await code(value)

    run.__annotations__ = types
    run.__name__ = run.__qualname__ = name
    return run
