"""`@exclusive` and `@shared`: the methods of an entity.

On an object they are the plain methods. On a reference they make calls, as values:
`Cart["alice"].add("apple", n=2)`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from types import MethodType
from typing import (
    Any,
    ClassVar,
    Concatenate,
    Final,
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from durable.api.definitions import check_name
from durable.api.entity_call import EntityCall, EntityTarget
from durable.api.signature import CallSignature, gives_coroutine
from durable.errors import DefinitionError, InvalidCallError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
H = TypeVar("H")

RESERVED: Final = "durable."
"""How the names of the library's own messages begin."""


class EntityMethod:
    """A method that a reference calls."""

    decorator: ClassVar[str]
    is_exclusive: ClassVar[bool]

    def __init__(self, function: Callable[..., Any], *, name: str | None) -> None:
        _check_method(function, self.decorator)
        self.function = function
        self.name = function.__name__ if name is None else name
        self.is_async = gives_coroutine(function)
        self._signature: CallSignature | None = None
        wrapper: Any = self
        functools.update_wrapper(wrapper, function, updated=())

    @property
    def call_signature(self) -> CallSignature:
        """The arguments of a call, and the result.

        Raises:
            DefinitionError: they cannot be recorded as a list of values.
        """
        if self._signature is None:
            self._signature = CallSignature(self.function, self.name, skip=("self",))
        return self._signature

    def find_problems(self) -> list[str]:
        """What is wrong with it, each as a sentence."""
        what = f"@{self.decorator} method {self.name!r}"
        problems: list[str] = []
        try:
            check_name(self.name, "method")
            self.call_signature  # noqa: B018 - it raises
        except DefinitionError as error:
            problems.append(error.message)
        if self.name.startswith(RESERVED):
            problems.append(f"The name of the {what} is the library's own.")
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(
            self.function
        ):
            problems.append(f"The {what} is a generator; write a plain def.")
        if self.is_async and not self.is_exclusive:
            problems.append(
                f"The {what} is async; it reads what is there, so write a plain def."
            )
        return problems

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
        if name == self.decorator and args and inspect.isfunction(args[0]):
            raise DefinitionError(
                f"The method {name!r} hides the decorator @{name} in the rest of its"
                " class.",
                hint=f"Write @durable.{name}, or call the method otherwise.",
            )
        owner = self.function.__qualname__.rpartition(".")[0].rpartition(".")[2]
        raise InvalidCallError(
            f"{owner}.{name}(...) does not say which {owner} is meant.",
            hint=f"Give the key: {owner}['...'].{name}(...).",
        )

    @property
    def __isabstractmethod__(self) -> bool:
        return getattr(self.function, "__isabstractmethod__", False)

    def __repr__(self) -> str:
        return f"<{self.decorator} method {self.name!r}>"


class ExclusiveMethod(EntityMethod, Generic[S, P, R, H]):
    """A method that runs alone; on a reference it makes an `EntityCall`."""

    decorator = "exclusive"
    is_exclusive = True

    @overload
    def __get__(
        self, instance: None, owner: type[Any] | None = None, /
    ) -> Callable[P, EntityCall[R]]: ...
    @overload
    def __get__(
        self, instance: S, owner: type[Any] | None = None, /
    ) -> Callable[P, H]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None, /) -> Any:
        return self if instance is None else MethodType(self.function, instance)


class SharedMethod(EntityMethod, Generic[S, P, R]):
    """A method that only reads; on a reference it makes an `EntityCall`."""

    decorator = "shared"
    is_exclusive = False

    @overload
    def __get__(
        self, instance: None, owner: type[Any] | None = None, /
    ) -> Callable[P, EntityCall[R]]: ...
    @overload
    def __get__(
        self, instance: S, owner: type[Any] | None = None, /
    ) -> Callable[P, R]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None, /) -> Any:
        return self if instance is None else MethodType(self.function, instance)


def _check_method(function: object, decorator: str) -> None:
    if not inspect.isfunction(function):
        raise DefinitionError(
            f"@{decorator} was put on {function!r}, which is no method.",
            hint=f"Write: @{decorator}, then def, inside of a class; no other"
            " decorator between them.",
        )
    owner = function.__qualname__.rpartition(".")[0]
    if not owner or owner.endswith("<locals>"):
        raise DefinitionError(
            f"@{decorator} was put on the function {function.__qualname__}, which is"
            " in no class.",
            hint="Put it into a class under @entity.",
        )


# --- decorators -----------------------------------------------------------------------


class ExclusiveDecorator(Protocol):
    """What `@exclusive(...)` with options returns."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[S, P], Coroutine[Any, Any, R]], /
    ) -> ExclusiveMethod[S, P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[S, P], R], /
    ) -> ExclusiveMethod[S, P, R, R]: ...


class SharedDecorator(Protocol):
    """What `@shared(...)` with options returns."""

    def __call__(
        self, function: Callable[Concatenate[S, P], R], /
    ) -> SharedMethod[S, P, R]: ...


@overload
def exclusive(
    function: Callable[Concatenate[S, P], Coroutine[Any, Any, R]], /
) -> ExclusiveMethod[S, P, R, Coroutine[Any, Any, R]]: ...
@overload
def exclusive(
    function: Callable[Concatenate[S, P], R], /
) -> ExclusiveMethod[S, P, R, R]: ...
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
    return _decorate(ExclusiveMethod, function, name)


@overload
def shared(function: Callable[Concatenate[S, P], R], /) -> SharedMethod[S, P, R]: ...
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
    return _decorate(SharedMethod, function, name)


def _decorate(
    kind: Callable[..., EntityMethod], function: Any, name: str | None
) -> Any:
    if function is None:
        return functools.partial(kind, name=name)
    return kind(function, name=name)
