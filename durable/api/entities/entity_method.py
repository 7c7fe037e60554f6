"""`@exclusive` and `@shared`: the methods of an entity.

On an object they are the plain methods. On a reference they make calls, as values:
`Cart["alice"].add("apple", n=2)`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import (
    Any,
    ClassVar,
    Final,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from durable.api.definitions import AsyncMethod, Method, decorate
from durable.api.entities.entity_call import EntityCall, EntityTarget
from durable.api.workflows.decorated import (
    CallMaker,
    DecoratedMethod,
    check_method,
    refuse_hidden,
)
from durable.errors import InvalidCallError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
H = TypeVar("H")

RESERVED: Final = "durable."
"""How the names of the library's own messages begin."""


class EntityMethod(DecoratedMethod):
    """A method that a reference calls."""

    noun = "method"
    decorator: ClassVar[str]
    is_exclusive: ClassVar[bool]

    def __init__(self, function: Callable[..., Any], *, name: str | None) -> None:
        check_method(function, self.decorator, "Put it into a class under @entity.")
        super().__init__(function, name)

    def _find_own_problems(self, what: str) -> list[str]:
        if self.name.startswith(RESERVED):
            return [f"The name of the {what} is the library's own."]
        return []

    def call_of(
        self, target: EntityTarget, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> EntityCall[Any]:
        """Make a call.

        Raises:
            InvalidCallError: the arguments do not fit the signature.
            PayloadError: an argument cannot be recorded as it is.
        """
        signature = self.call_signature
        return EntityCall(
            target,
            self.name,
            signature.encode(signature.bind(args, kwargs)),
            is_exclusive=self.is_exclusive,
            decode_result=signature.decode_result,
            differing_input=signature.differing_input,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: only a reference, which has a key, makes calls."""
        name = self.function.__name__
        refuse_hidden(self.decorator, name, args)
        owner = self.function.__qualname__.rpartition(".")[0].rpartition(".")[2]
        raise InvalidCallError(
            f"{owner}.{name}(...) does not say which {owner} is meant.",
            hint=f"Give the key: {owner}['...'].{name}(...).",
        )


class ExclusiveMethod(
    EntityMethod, CallMaker[S, P, EntityCall[R], H], Generic[S, P, R, H]
):
    """A method that runs alone; on a reference it makes an `EntityCall`."""

    decorator = "exclusive"
    label = "@exclusive method"
    is_exclusive = True


class SharedMethod(EntityMethod, CallMaker[S, P, EntityCall[R], R], Generic[S, P, R]):
    """A method that only reads; on a reference it makes an `EntityCall`."""

    decorator = "shared"
    label = "@shared method"
    is_exclusive = False
    only_reads = True


# --- decorators -----------------------------------------------------------------------


class ExclusiveDecorator(Protocol):
    """What `@exclusive(...)` with options returns."""

    @overload
    def __call__(
        self, function: AsyncMethod[S, P, R], /
    ) -> ExclusiveMethod[S, P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Method[S, P, R], /) -> ExclusiveMethod[S, P, R, R]: ...


class SharedDecorator(Protocol):
    """What `@shared(...)` with options returns."""

    def __call__(self, function: Method[S, P, R], /) -> SharedMethod[S, P, R]: ...


@overload
def exclusive(
    function: AsyncMethod[S, P, R], /
) -> ExclusiveMethod[S, P, R, Coroutine[Any, Any, R]]: ...
@overload
def exclusive(function: Method[S, P, R], /) -> ExclusiveMethod[S, P, R, R]: ...
@overload
def exclusive(*, name: str | None = None) -> ExclusiveDecorator: ...
def exclusive(function: Any = None, /, *, name: str | None = None) -> Any:
    """Make a method of an entity one that runs alone, and may change the state.

    At one key exclusive methods run one after the other, in order of arrival; at
    different keys they run side by side. They are workflow code: they may await
    activities, timers and other entities, and must be deterministic.

    A method that raises has changed nothing: the state is as it was before the call,
    and only the caller gets the exception. What activities did is not taken back.

    Args:
        function: the method, plain or async. What it returns is the answer.
        name: what histories call it; the method's name by default. Keep it when you
            rename the method while calls are under way.

    Raises:
        DefinitionError: it is no method.
    """
    return decorate(ExclusiveMethod, function, name=name)


@overload
def shared(function: Method[S, P, R], /) -> SharedMethod[S, P, R]: ...
@overload
def shared(*, name: str | None = None) -> SharedDecorator: ...
def shared(function: Any = None, /, *, name: str | None = None) -> Any:
    """Make a method of an entity one that reads the state, at any time.

    It sees the state as the last finished exclusive method has left it, and never waits
    for one that is under way. It may change nothing, and nothing of it is recorded. A
    key that nobody has called yet answers as a new object would.

    Args:
        function: the method, a plain def.
        name: what others call it by; the method's name by default.

    Raises:
        DefinitionError: it is no method.
    """
    return decorate(SharedMethod, function, name=name)
