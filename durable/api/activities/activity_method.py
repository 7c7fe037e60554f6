"""`@activity_method`: methods that are activities, of an object that the engine has.

What the object needs, such as a pool, it got when it was made. Workflow code calls the
method on the class, or on any object of it: the object of the worker's engine runs it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeGuard, TypeVar, overload

from typing_extensions import Unpack

from durable.api.activities.activity import (
    DEFAULTS,
    Activity,
    check_fit,
    find_undoing,
    merge_options,
)
from durable.api.activities.kinds import USUAL, ActivityKind, Verify, check_kind
from durable.api.definitions import (
    ACTIVITIES,
    METHOD,
    AsyncMethod,
    Method,
    check_function,
    check_name,
    decorate,
    register,
)
from durable.api.resources import find_resource, name_of
from durable.errors import DefinitionError, ResourceError
from durable.options import ActivityOptions, RetryBudget

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class MethodActivity(Activity[P, R]):
    """An activity that is a method; the object is a resource, by its class.

    Attributes:
        owner: the class; its name until it is made.
        instance: the object, if it was called on one.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        options: ActivityOptions,
        compensate: Activity[..., Any] | None = None,
        kind: ActivityKind = USUAL,
    ) -> None:
        self.skipped = (next(iter(inspect.signature(function).parameters), "self"),)
        super().__init__(function, name, options, compensate, kind)
        self.instance: object = None
        self.belong_to(function.__qualname__.split(".")[-2])

    def belong_to(self, owner: object) -> None:
        """Take the object from the resources by this key."""
        self.owner = owner
        self.resources = {self.skipped[0]: owner, **self.call_signature.resources}

    def of(self, instance: object) -> Self:
        """The same, as it is called on an object."""
        bound = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound.instance = instance
        return bound

    def options(self, **options: Unpack[ActivityOptions]) -> Self:
        """The same activity under other options; see `Activity.options`."""
        made = super().options(**options)
        made.belong_to(self.owner)
        made.instance = self.instance
        return made

    def supply(
        self, kwargs: dict[str, Any], resources: Mapping[Any, object]
    ) -> Callable[..., Any]:
        """Put resources among the arguments; give the method of the object."""
        super().supply(kwargs, resources)
        return self._method_of(
            find_resource(resources, self.owner, self.name, self.skipped[0])
        )

    def verify_with(self, resources: Mapping[Any, object]) -> Verify:
        """See `Activity.verify_with`: a method's object comes first."""
        verify = super().verify_with(resources)
        given = find_resource(resources, self.owner, self.name, self.skipped[0])
        return functools.partial(verify, given)

    def _fill_in(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        instance = self.instance
        if instance is None:
            hint = f"Call it on an object: {name_of(self.owner)}(...)."
            instance = self._find_here(self.owner, self.skipped[0], hint)
        _, args, kwargs = super()._fill_in((instance, *args), kwargs)
        return self._method_of(instance), args[1:], kwargs

    def _method_of(self, instance: object) -> Callable[..., Any]:
        """What the object has under that name: a fake may have another one."""
        found: Any = getattr(instance, self.function.__name__, None)
        # By its type: a mock of an activity claims to be one.
        if issubclass(type(found), Activity):
            return functools.partial(found.function, instance)
        if not callable(found):
            raise ResourceError(
                f"The resource {name_of(self.owner)} is a {type(instance).__name__},"
                f" which has no method {self.function.__name__!r}."
            )
        made: Callable[..., Any] = found
        return made


class ActivityMethod(Generic[S, P, R]):
    """A decorated method: an activity, on the class as on its objects."""

    def __init__(self, definition: MethodActivity[P, R]) -> None:
        self.definition = definition
        self.__doc__ = definition.__doc__

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.definition.belong_to(owner)

    @overload
    def __get__(
        self, instance: None, owner: type[Any] | None = None, /
    ) -> Activity[P, R]: ...
    @overload
    def __get__(
        self, instance: S, owner: type[Any] | None = None, /
    ) -> Activity[P, R]: ...
    def __get__(
        self, instance: object, owner: type[Any] | None = None, /
    ) -> Activity[P, R]:
        if instance is None:
            return self.definition
        return self.definition.of(instance)

    @property
    def __isabstractmethod__(self) -> bool:
        return getattr(self.definition.function, "__isabstractmethod__", False)

    def __repr__(self) -> str:
        return repr(self.definition)


def _is_method(value: object) -> TypeGuard[ActivityMethod[Any, ..., Any]]:
    return isinstance(value, ActivityMethod)


def activity_methods_of(cls: type[Any]) -> list[MethodActivity[..., Any]]:
    """The activities among the methods of a class, inherited ones included."""
    found: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        found.update(vars(base))
    return [value.definition for value in found.values() if _is_method(value)]


def find_misplaced_activities(cls: type[Any]) -> list[str]:
    """What is wrong with activities in a class whose objects belong to one run."""
    return [
        f"{activity.function.__name__!r} is an @activity_method, and no worker has the"
        " object of a run; make it an @activity outside of the class."
        for activity in activity_methods_of(cls)
    ]


class ActivityMethodDecorator(Protocol):
    """What `@activity_method(...)` with options returns."""

    @overload
    def __call__(
        self, function: AsyncMethod[S, P, R], /
    ) -> ActivityMethod[S, P, R]: ...
    @overload
    def __call__(self, function: Method[S, P, R], /) -> ActivityMethod[S, P, R]: ...


@overload
def activity_method(function: AsyncMethod[S, P, R], /) -> ActivityMethod[S, P, R]: ...
@overload
def activity_method(function: Method[S, P, R], /) -> ActivityMethod[S, P, R]: ...
@overload
def activity_method(
    *,
    compensate: ActivityMethod[Any, ..., Any] | Activity[..., Any] | None = None,
    name: str | None = None,
    cancel_thread: bool = True,
    auto_heartbeat: bool = False,
    verify: Verify | ActivityMethod[Any, ..., Any] | None = None,
    retry_budget: RetryBudget | None = None,
    **options: Unpack[ActivityOptions],
) -> ActivityMethodDecorator: ...
def activity_method(
    function: Any = None,
    /,
    *,
    compensate: Any = None,
    name: str | None = None,
    cancel_thread: bool = True,
    auto_heartbeat: bool = False,
    verify: Any = None,
    retry_budget: RetryBudget | None = None,
    **options: Unpack[ActivityOptions],
) -> Any:
    """Make a method an activity, which an object runs that the engine was given.

        class Shop:
            def __init__(self, pool: Pool) -> None: ...

            @activity_method
            async def charge(self, order: Order) -> str: ...

        await Shop.charge(order)  # in workflow code
        Engine(url, resources={Shop: Shop(pool)})

    An engine has one object of a class. Called outside of a workflow on an object, the
    method simply runs.

    Args:
        function: the method, plain or async.
        compensate: as for `activity`; a method of the same class, say.
        name: what histories call it; by default the class and the method, as in
            "Shop.charge".
        cancel_thread: as for `activity`.
        auto_heartbeat: likewise.
        verify: likewise; a method of the same class, with or without a decorator.
        retry_budget: as for `activity`.
        **options: as for `activity`.

    Raises: as `activity`.
    """
    if _is_method(verify):
        verify = verify.definition.function
    return decorate(
        _define,
        function,
        name=name,
        compensate=compensate,
        options=_merge(options),
        kind=check_kind(
            *("thread", cancel_thread, False, auto_heartbeat, verify, retry_budget)
        ),
    )


def _merge(options: Mapping[str, Any]) -> ActivityOptions:
    if "run_in" in options:
        raise DefinitionError(
            "An @activity_method runs in the engine's process, which has its object.",
            hint="Make what computes an @activity(run_in='process') of its own, and"
            " give it what it needs as arguments.",
        )
    return merge_options(DEFAULTS, options)


def _define(
    function: Any,
    /,
    *,
    name: str | None,
    compensate: object,
    options: ActivityOptions,
    kind: ActivityKind,
) -> ActivityMethod[Any, Any, Any]:
    check_function(function, METHOD)
    own_name = function.__qualname__.rpartition("<locals>.")[2]
    checked = check_name(own_name if name is None else name, "activity")
    if _is_method(compensate):
        compensate = compensate.definition
    definition: MethodActivity[Any, Any] = MethodActivity(
        function, checked, options, find_undoing(compensate, checked), kind
    )
    check_fit(definition)
    register(ACTIVITIES, definition, "activity")
    return ActivityMethod(definition)
