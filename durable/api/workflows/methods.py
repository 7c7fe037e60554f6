"""`@run`, `@signal`, `@query`, `@update`: the methods of a class workflow.

On an instance they are the plain methods. On the class they make calls, as values:
`Cart.run("alice")`, `Cart.add("apple", n=2)`, `Cart.count()`.
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
    Generic,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    overload,
)

from durable.api.definitions import AsyncMethod, Method, check_name, decorate
from durable.api.messages.handlers import (
    MESSAGE_NAME,
    Unfinished,
    make_handler,
    unfinished_policy,
)
from durable.api.messages.messages import QueryCall, SignalCall, UpdateCall
from durable.api.signature import CallSignature
from durable.api.workflows.decorated import (
    CallMaker,
    DecoratedMethod,
    check_method,
    refuse_hidden,
)
from durable.api.workflows.workflow_definition import Workflow, workflow_of
from durable.core.history.payload import Payloads
from durable.core.runtime import Handler, MessageKind
from durable.errors import DefinitionError
from durable.options import HandlerUnfinishedPolicy

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
H = TypeVar("H")
N = TypeVar("N", bound=Coroutine[Any, Any, None] | None)


class RunMethod(Generic[S, P, R]):
    """The method that is the workflow; on a decorated class its `Workflow`."""

    def __init__(self, function: AsyncMethod[S, P, R]) -> None:
        self.function = function
        functools.update_wrapper(self, function, updated=())

    @overload
    def __get__(
        self, instance: None, owner: type[Any] | None = None, /
    ) -> Workflow[P, R]: ...
    @overload
    def __get__(
        self, instance: S, owner: type[Any] | None = None, /
    ) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None, /) -> Any:
        if instance is not None:
            return MethodType(self.function, instance)
        return workflow_of(owner) or self

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: only a decorated class makes calls."""
        refuse_hidden("run", self.function.__name__, args)
        raise DefinitionError(
            f"{self.function.__qualname__} was called on a class that is no workflow.",
            hint="Put @workflow on the class itself; a subclass needs its own.",
        )

    @property
    def __isabstractmethod__(self) -> bool:
        return getattr(self.function, "__isabstractmethod__", False)


class HandlerMethod(DecoratedMethod):
    """A method that handles messages."""

    kind: ClassVar[MessageKind]

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        is_dynamic: bool = False,
        unfinished: Unfinished = HandlerUnfinishedPolicy.WARN,
    ) -> None:
        check_method(function, self.kind)
        super().__init__(function, name)
        self.is_dynamic = is_dynamic
        if is_dynamic:
            self.skip = ("self", MESSAGE_NAME)
        self.validator_name: str | None = None
        self._has_name = name is not None
        self._unfinished = unfinished_policy(unfinished)

    @property
    def handled_name(self) -> str | None:
        """The name of the messages it handles; None stands for all others."""
        return None if self.is_dynamic else self.name

    def _find_own_problems(self, what: str) -> list[str]:
        if self.is_dynamic and self._has_name:
            return [f"The {what} is dynamic, and has a name yet."]
        return []

    def check_annotations(self, cls: type[Any], owner: str) -> None:
        """See that values can be recorded by its annotations and by its validator's.

        Raises:
            DefinitionError: one cannot be resolved, or not be decoded by.
        """
        what = f"{self.kind} {self.name!r} of {owner}: "
        self.call_signature.check_annotations(what, has_result=self.kind != "signal")
        if self.validator_name is not None:
            function = inspect.getattr_static(cls, self.validator_name)
            CallSignature(
                function, self.validator_name, skip=self.skip
            ).check_annotations(f"the validator of {what}", has_result=False)

    def handler_of(self, instance: object) -> Handler:
        """The method of one instance as the core sees it."""
        validator = self.validator_name
        return make_handler(
            self.kind,
            MethodType(self.function, instance),
            self.call_signature,
            is_dynamic=self.is_dynamic,
            is_async=self.is_async,
            unfinished=self._unfinished,
            validator=None if validator is None else getattr(instance, validator),
        )

    def _bind(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, Payloads]:
        """The name and the arguments of a call."""
        refuse_hidden(self.kind, self.function.__name__, args)
        if not self.is_dynamic:
            signature = self.call_signature
            return self.name, signature.encode(signature.bind(args, kwargs))
        named = CallSignature(self.function, self.name, skip=("self",))
        name, *values = named.bind(args, kwargs)
        return check_name(name, self.kind), self.call_signature.encode(tuple(values))


class SignalMethod(HandlerMethod, CallMaker[S, P, SignalCall, H], Generic[S, P, H]):
    """A method that handles a signal; on the class it makes a `SignalCall`."""

    kind = noun = label = "signal"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> SignalCall:
        """Make a call value.

        Raises:
            InvalidCallError: the arguments do not fit the signature.
            PayloadError: an argument cannot be recorded as it is.
        """
        return SignalCall(*self._bind(args, kwargs))


class QueryMethod(HandlerMethod, CallMaker[S, P, QueryCall[R], R], Generic[S, P, R]):
    """A method that answers a query; on the class it makes a `QueryCall`."""

    kind = noun = label = "query"
    only_reads = True

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> QueryCall[R]:
        """Make a call value.

        Raises: as a signal.
        """
        name, input = self._bind(args, kwargs)
        return QueryCall(name, input, self.call_signature.decode_result)


class UpdateMethod(
    HandlerMethod, CallMaker[S, P, UpdateCall[R], H], Generic[S, P, R, H]
):
    """A method that handles an update; on the class it makes an `UpdateCall`."""

    kind = noun = label = "update"

    def validator(
        self, function: Callable[Concatenate[S, P], None], /
    ) -> Callable[Concatenate[S, P], None]:
        """Make a method the validator of this update.

        It gets the update's arguments, is a plain def and may change nothing. If it
        raises, the update is rejected and leaves no trace.

            @update
            def add(self, item: str) -> int: ...

            @add.validator
            def check_add(self, item: str) -> None: ...

        Raises:
            DefinitionError: it is no method, has the update's own name, or is one too
                many.
        """
        check_method(function, f"{self.name}.validator")
        if function.__name__ == self.function.__name__:
            raise DefinitionError(
                f"The validator of update {self.name!r} has the update's own name.",
                hint="Give it another one: in the class it would replace the update.",
            )
        if self.validator_name is not None:
            raise DefinitionError(
                f"Update {self.name!r} has two validators: {self.validator_name!r} and"
                f" {function.__name__!r}."
            )
        self.validator_name = function.__name__
        return function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> UpdateCall[R]:
        """Make a call value.

        Raises: as a signal.
        """
        name, input = self._bind(args, kwargs)
        return UpdateCall(name, input, self.call_signature.decode_result)


# --- decorators -----------------------------------------------------------------------


class SignalDecorator(Protocol):
    """What `@signal(...)` with options returns."""

    def __call__(
        self, function: Callable[Concatenate[S, P], N], /
    ) -> SignalMethod[S, P, N]: ...


class QueryDecorator(Protocol):
    """What `@query(...)` with options returns."""

    def __call__(self, function: Method[S, P, R], /) -> QueryMethod[S, P, R]: ...


class UpdateDecorator(Protocol):
    """What `@update(...)` with options returns."""

    @overload
    def __call__(
        self, function: AsyncMethod[S, P, R], /
    ) -> UpdateMethod[S, P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, function: Method[S, P, R], /) -> UpdateMethod[S, P, R, R]: ...


def run(function: AsyncMethod[S, P, R], /) -> RunMethod[S, P, R]:
    """Make a method the one that a class workflow runs.

    Raises:
        DefinitionError: it is no method.
    """
    check_method(function, "run")
    return RunMethod(function)


@overload
def signal(function: Callable[Concatenate[S, P], N], /) -> SignalMethod[S, P, N]: ...
@overload
def signal(
    *, name: str | None = None, dynamic: bool = False, unfinished: Unfinished = ...
) -> SignalDecorator: ...
def signal(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    dynamic: bool = False,
    unfinished: Unfinished = HandlerUnfinishedPolicy.WARN,
) -> Any:
    """Make a method of a class workflow the handler of a signal.

    Handlers of signals that came before the run's first line run before it, in order.
    Async handlers run beside `run` and each other.

    Args:
        function: the method, plain or async; it returns nothing.
        name: the signal's name; the method's by default.
        dynamic: True makes it handle all signals that have no handler; it gets the
            name before the arguments.
        unfinished: whether a run that ends before the handler has logs a warning.

    Raises:
        DefinitionError: it is no method.
        InvalidOptionError: an option has a wrong value.
    """
    options = {"name": name, "is_dynamic": dynamic, "unfinished": unfinished}
    return decorate(SignalMethod, function, **options)


@overload
def query(function: Method[S, P, R], /) -> QueryMethod[S, P, R]: ...
@overload
def query(*, name: str | None = None, dynamic: bool = False) -> QueryDecorator: ...
def query(
    function: Any = None, /, *, name: str | None = None, dynamic: bool = False
) -> Any:
    """Make a method of a class workflow the answer to a query.

    It reads the instance and changes nothing; nothing of it is recorded.

    Args:
        function: the method, a plain def.
        name: the query's name; the method's by default.
        dynamic: True makes it answer all queries that have no handler; it gets the
            name before the arguments.

    Raises:
        DefinitionError: it is no method.
    """
    return decorate(QueryMethod, function, name=name, is_dynamic=dynamic)


@overload
def update(
    function: AsyncMethod[S, P, R], /
) -> UpdateMethod[S, P, R, Coroutine[Any, Any, R]]: ...
@overload
def update(function: Method[S, P, R], /) -> UpdateMethod[S, P, R, R]: ...
@overload
def update(
    *, name: str | None = None, dynamic: bool = False, unfinished: Unfinished = ...
) -> UpdateDecorator: ...
def update(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    dynamic: bool = False,
    unfinished: Unfinished = HandlerUnfinishedPolicy.WARN,
) -> Any:
    """Make a method of a class workflow the handler of an update.

    What it returns is the answer to whoever sent the update. See
    `UpdateMethod.validator` for how to refuse one.

    Args:
        function: the method, plain or async.
        name: the update's name; the method's by default.
        dynamic: True makes it handle all updates that have no handler; it gets the
            name before the arguments.
        unfinished: whether a run that ends before the handler has logs a warning.

    Raises:
        DefinitionError: it is no method.
        InvalidOptionError: an option has a wrong value.
    """
    options = {"name": name, "is_dynamic": dynamic, "unfinished": unfinished}
    return decorate(UpdateMethod, function, **options)
