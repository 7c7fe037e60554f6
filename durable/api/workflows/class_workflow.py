"""Class workflows: one `@run` method, and handlers of messages beside it.

Everything that is wrong with a class is said at once, when it is decorated.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypeGuard, TypeVar

from durable.api.activities.activity_method import find_misplaced_activities
from durable.api.definitions import check_name
from durable.api.sagas.ledger import closing_blocks
from durable.api.signature import CallSignature, gives_coroutine, same_parameters, shown
from durable.api.workflows.decorated import attributes_of, refuse_problems, refuse_twice
from durable.api.workflows.methods import HandlerMethod, RunMethod
from durable.api.workflows.workflow_definition import (
    WORKFLOW_ATTRIBUTE,
    Workflow,
    WorkflowOptions,
    register_workflow,
)
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import MessageKind, WorkflowRuntime, get_runtime
from durable.errors import DefinitionError

P = ParamSpec("P")
R = TypeVar("R")


class ClassWorkflow(Workflow[P, R]):
    """The workflow of a decorated class.

    Args:
        cls: the class.
        function: its run method.
        name: the workflow's name.
        options: the options of the decorator.
        methods: its handlers.
        init: how the constructor takes the input; None if it takes nothing.
    """

    def __init__(
        self,
        cls: type[Any],
        function: Callable[..., Any],
        name: str,
        options: WorkflowOptions,
        *,
        methods: tuple[HandlerMethod, ...],
        init: CallSignature | None,
    ) -> None:
        super().__init__(function, name, options, origin=cls)
        self.methods = methods
        self._class = cls
        self._init = init

    def prepare(self, runtime: WorkflowRuntime, input: Payloads) -> None:
        """Make the object and set its handlers."""
        init = self._init
        if init is None:
            instance = self._class()
        else:
            args, kwargs = init.unbind(init.decode(input))
            instance = self._class(*args, **kwargs)
        runtime.instance = instance
        for method in self.methods:
            runtime.set_handler(
                method.kind, method.handled_name, method.handler_of(instance)
            )

    def message_signatures(
        self, kind: MessageKind
    ) -> dict[str | None, CallSignature] | None:
        """The messages that its methods handle, by name."""
        return {
            method.handled_name: method.call_signature
            for method in self.methods
            if method.kind == kind
        }

    def check_annotations(self) -> None:
        """See that values can be recorded by the annotations of all that is called.

        Raises:
            DefinitionError: one cannot be resolved, or not be decoded by.
        """
        super().check_annotations()
        if self._init is not None:
            self._init.check_annotations(has_result=False)
        for method in self.methods:
            method.check_annotations(self._class, f"workflow {self.name!r}")

    async def call(self, input: Payloads) -> Payload:
        """Decode the arguments, run the method of the object, encode its result."""
        instance = get_runtime("A class workflow").instance
        signature = self.call_signature
        args, kwargs = signature.unbind(signature.decode(input))
        run = self.function(instance, *args, **kwargs)
        return signature.encode_result(await closing_blocks(run))


def define_class(
    cls: type[Any], *, name: str | None, options: WorkflowOptions
) -> ClassWorkflow[..., Any]:
    """Make a class a workflow, and register it.

    Raises:
        DefinitionError: it cannot be one, for all the reasons that the message gives;
            or its name is taken.
        InvalidOptionError, InvalidDurationError: an option has a wrong value.
    """
    refuse_twice(cls, "workflow")
    checked = check_name(cls.__name__ if name is None else name, "workflow")
    runs, methods, problems = _find_methods(cls)
    problems += find_misplaced_activities(cls)
    problems += _find_problems_of_run(runs)
    problems += _find_problems_of_handlers(cls, methods)
    init: CallSignature | None = None
    if len(runs) == 1:
        init, more = _find_init(cls, runs[0].function)
        problems += more
    if inspect.isabstract(cls):
        problems.append("It is abstract: no object of it can be made.")
    refuse_problems(
        cls,
        "workflow",
        problems,
        "A workflow class has one async @run method, and decorated handlers of signals,"
        " queries and updates.",
    )
    definition: ClassWorkflow[..., Any] = ClassWorkflow(
        cls, runs[0].function, checked, options, methods=methods, init=init
    )
    register_workflow(definition)
    setattr(cls, WORKFLOW_ATTRIBUTE, definition)
    return definition


_Runs: TypeAlias = list[RunMethod[Any, ..., Any]]


def _find_methods(cls: type[Any]) -> tuple[_Runs, tuple[HandlerMethod, ...], list[str]]:
    """The run methods and the handlers of a class, and overrides that are wrong."""
    runs: _Runs = []
    handlers: list[HandlerMethod] = []
    problems: list[str] = []
    for name, own, inherited in attributes_of(cls):
        kind = _kind_of(own)
        for base, value in inherited:
            overridden = _kind_of(value)
            if overridden is not None and overridden != kind:
                problems.append(
                    f"{name!r} overrides the @{overridden} method of"
                    f" {base.__qualname__} and is"
                    f" {'not decorated' if kind is None else f'a @{kind} method'};"
                    f" put @{overridden} on it."
                )
                break
        if _is_run(own):
            runs.append(own)
        elif isinstance(own, HandlerMethod):
            handlers.append(own)
    return runs, tuple(handlers), problems


def _is_run(value: object) -> TypeGuard[RunMethod[Any, ..., Any]]:
    return isinstance(value, RunMethod)


def _kind_of(value: object) -> str | None:
    if isinstance(value, RunMethod):
        return "run"
    return value.kind if isinstance(value, HandlerMethod) else None


def _find_problems_of_run(runs: _Runs) -> list[str]:
    if not runs:
        return ["It has no @run method."]
    if len(runs) > 1:
        names = ", ".join(repr(run.function.__name__) for run in runs)
        return [f"It has {len(runs)} @run methods: {names}."]
    function: Callable[..., Any] = runs[0].function
    problems: list[str] = []
    if not inspect.iscoroutinefunction(function):
        problems.append(f"The @run method {function.__name__!r} is not async.")
    try:
        CallSignature(function, function.__name__, skip=("self",))
    except DefinitionError as error:
        problems.append(error.message)
    return problems


def _find_problems_of_handlers(
    cls: type[Any], methods: tuple[HandlerMethod, ...]
) -> list[str]:
    problems: list[str] = []
    seen: dict[tuple[str, str | None], HandlerMethod] = {}
    for method in methods:
        problems += method.find_problems()
        key = method.kind, method.handled_name
        other = seen.setdefault(key, method)
        if other is not method:
            what = "is dynamic" if key[1] is None else f"is named {key[1]!r}"
            problems.append(
                f"More than one {method.kind} {what}: {other.function.__name__!r} and"
                f" {method.function.__name__!r}."
            )
        problems += _find_problems_of_validator(cls, method)
    return problems


def _find_problems_of_validator(cls: type[Any], method: HandlerMethod) -> list[str]:
    name = method.validator_name
    if name is None:
        return []
    what = f"The validator {name!r} of update {method.name!r}"
    function = inspect.getattr_static(cls, name, None)
    if not inspect.isfunction(function):
        return [f"{what} is no plain method."]
    problems: list[str] = []
    if gives_coroutine(function):
        problems.append(f"{what} is async; write a plain def.")
    if not same_parameters(function, method.function):
        problems.append(
            f"{what} takes {shown(inspect.signature(function))}, but the update"
            f" {shown(inspect.signature(method.function))}: give it the same"
            " parameters."
        )
    return problems


def _find_init(
    cls: type[Any], function: Callable[..., Any]
) -> tuple[CallSignature | None, list[str]]:
    """How the constructor takes the run's input, if it does; and what is wrong."""
    init: Callable[..., Any] = cls.__init__
    if not inspect.isfunction(init):
        return None, []  # that of object, or of an exception or other built-in
    own = list(inspect.signature(init).parameters.values())[1:]
    names = set(inspect.signature(function).parameters)
    if all(p.default is not p.empty and p.name not in names for p in own):
        return None, []  # such as fields of a dataclass
    if same_parameters(init, function):
        return CallSignature(init, cls.__name__, skip=("self",)), []
    return None, [
        f"Its __init__ takes {shown(inspect.signature(init))}, but"
        f" {function.__name__!r} takes {shown(inspect.signature(function))}: give it"
        " the same parameters, and it receives the input too; or none."
    ]
