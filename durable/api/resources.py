"""What an engine gives to activities beside their arguments: pools, clients, objects.

A parameter with `resource(Pool)` as its default is no part of a call and of no history.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn, TypeVar, overload

from durable.core.runtime import find_runtime
from durable.errors import ForbiddenInWorkflowError, InvalidOptionError, ResourceError

T = TypeVar("T")

_MISSING: Final = object()


class Resource:
    """Stands for a value that only the engine has; what `resource` gives."""

    __slots__ = ("key",)

    def __init__(self, key: object) -> None:
        self.key = key

    def __repr__(self) -> str:
        return f"resource({name_of(self.key)})"

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"{self!r} has no {name!r}: it is no value. Write it as the default of a"
            " parameter of an activity; an engine puts the value there."
        )


@overload
def resource(key: type[T], /) -> T: ...
@overload
def resource(key: str, /) -> Any: ...
def resource(key: Any, /) -> Any:
    """The default of an activity's parameter that the engine fills in.

        @activity
        async def charge(order: Order, *, pool: Pool = resource(Pool)) -> str: ...

        Engine(url, resources={Pool: pool})

    Workflow code leaves the parameter out. Whoever calls the activity as a plain
    function passes a value.

    Args:
        key: a class, or a name: what the engine's `resources` call the value. A name
            suits what is known by a protocol, and two values of one class.

    Raises:
        InvalidOptionError: the key is neither.
        ForbiddenInWorkflowError: workflow code asks for it.
    """
    if find_runtime() is not None:
        raise ForbiddenInWorkflowError(
            "resource() was called in workflow code, which must not use what is"
            " outside of its history.",
            hint="Take it as a parameter of an activity, and call that.",
        )
    return Resource(check_key(key))


def resources_of(function: Callable[..., object]) -> dict[str, object]:
    """The keys of what a function takes as resources, by parameter.

    An activity fills in its own.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # one of C code does not say what it takes
        return {}
    return {
        p.name: p.default.key for p in parameters if isinstance(p.default, Resource)
    }


def check_key(key: object) -> object:
    """Return a key of a resource if it is one.

    Raises:
        InvalidOptionError: it is neither a class nor a name.
    """
    is_class = isinstance(key, type | types.GenericAlias) or typing.get_origin(key)
    if is_class or (isinstance(key, str) and key):
        return key
    raise InvalidOptionError(
        f"The key of a resource is of type {type(key).__name__}.",
        hint="Give a class such as Pool, or a name such as 'pool'.",
    )


def name_of(key: object) -> str:
    """A key as it is written in code."""
    return key.__qualname__ if isinstance(key, type) else repr(key)


def find_resource(
    resources: Mapping[Any, object], key: object, activity: str, parameter: str
) -> object:
    """The value of a resource that an activity takes.

    Raises:
        ResourceError: the engine was not given it.
    """
    value = resources.get(key, _MISSING)
    if value is _MISSING:
        raise missing([(activity, parameter, key)], resources)
    return value


def missing(
    wanted: list[tuple[str, str, object]], given: Mapping[Any, object]
) -> ResourceError:
    """The error for resources that activities take and an engine has not got."""
    named = "; ".join(
        f"activity {activity!r} takes {name_of(key)} as {parameter!r}"
        for activity, parameter, key in wanted
    )
    keys = dict.fromkeys(f"{name_of(key)}: ..." for _, _, key in wanted)
    return ResourceError(
        f"The engine lacks resources of its activities: {named}. It has"
        f" {', '.join(map(name_of, given)) or 'none'}. They are given by Engine(...,"
        f" resources={{{', '.join(keys)}}}).",
        hint="A function that opens them may be given, too, on the command line by"
        " --resources MODULE:FUNCTION; definitions= limits what an engine serves.",
    )
