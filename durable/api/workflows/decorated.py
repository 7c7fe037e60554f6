"""What the methods of workflow classes and of entities have in common.

On an object they are the plain methods; on the class, or on a reference, they make
calls.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, ClassVar, Final, Generic, ParamSpec, TypeVar, overload

from durable.api.definitions import check_name
from durable.api.signature import CallSignature, gives_coroutine
from durable.api.workflows.workflow_definition import WORKFLOW_ATTRIBUTE
from durable.errors import DefinitionError

P = ParamSpec("P")
S = TypeVar("S")
C = TypeVar("C")
H = TypeVar("H")

_IN_A_WORKFLOW: Final = (
    "Put it into a class under @workflow. A workflow that is a function receives from a"
    " Signal, or sets handlers as it runs."
)


def check_method(function: object, decorator: str, hint: str = _IN_A_WORKFLOW) -> None:
    """Refuse what is no method; `hint` says where it belongs.

    Raises:
        DefinitionError: it is no function that a class holds.
    """
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
            hint=hint,
        )


def refuse_hidden(decorator: str, method: str, args: tuple[Any, ...]) -> None:
    """Refuse a call that was meant for a decorator.

    Raises:
        DefinitionError: within its class, a method has taken the decorator's name.
    """
    if method == decorator and args and inspect.isfunction(args[0]):
        raise DefinitionError(
            f"The method {method!r} hides the decorator @{decorator} in the rest of its"
            " class.",
            hint=f"Write @durable.{decorator}, or call the method otherwise.",
        )


class DecoratedMethod:
    """A method that is called by name.

    Attributes:
        label: what errors call it.
        noun: what errors call its name.
        only_reads: it changes nothing, so it is no coroutine.
    """

    label: ClassVar[str]
    noun: ClassVar[str]
    only_reads: ClassVar[bool] = False
    skip: tuple[str, ...] = ("self",)

    def __init__(self, function: Callable[..., Any], name: str | None) -> None:
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
            self._signature = CallSignature(self.function, self.name, skip=self.skip)
        return self._signature

    def find_problems(self) -> list[str]:
        """What is wrong with it, each as a sentence."""
        what = f"{self.label} {self.name!r}"
        problems: list[str] = []
        try:
            check_name(self.name, self.noun)
            self.call_signature  # noqa: B018 - it raises
        except DefinitionError as error:
            problems.append(error.message)
        problems += self._find_own_problems(what)
        if inspect.isgeneratorfunction(self.function) or inspect.isasyncgenfunction(
            self.function
        ):
            problems.append(f"The {what} is a generator; write a plain def.")
        if self.is_async and self.only_reads:
            problems.append(
                f"The {what} is async; it reads what is there, so write a plain def."
            )
        return problems

    def _find_own_problems(self, what: str) -> list[str]:
        return []

    @property
    def __isabstractmethod__(self) -> bool:
        return getattr(self.function, "__isabstractmethod__", False)

    def __repr__(self) -> str:
        return f"<{self.label.removeprefix('@')} {self.name!r}>"


class CallMaker(Generic[S, P, C, H]):
    """A method that gives H on an object, and a call C elsewhere."""

    function: Callable[..., Any]

    @overload
    def __get__(
        self, instance: None, owner: type[Any] | None = None, /
    ) -> Callable[P, C]: ...
    @overload
    def __get__(
        self, instance: S, owner: type[Any] | None = None, /
    ) -> Callable[P, H]: ...
    def __get__(self, instance: Any, owner: type[Any] | None = None, /) -> Any:
        return self if instance is None else MethodType(self.function, instance)


# --- classes --------------------------------------------------------------------------


def refuse_twice(cls: type[Any], decorator: str) -> None:
    """Refuse a class that is a workflow or an entity already.

    Raises:
        DefinitionError: it is.
    """
    if WORKFLOW_ATTRIBUTE in vars(cls):
        raise DefinitionError(
            f"@{decorator} was put on the class {cls.__qualname__}, which is decorated"
            " already.",
            hint="Use one decorator per class.",
        )


def refuse_problems(
    cls: type[Any], decorator: str, problems: list[str], hint: str
) -> None:
    """Refuse a class for all that is wrong with it at once.

    Raises:
        DefinitionError: there are problems.
    """
    if problems:
        what = f"@{decorator} cannot serve the class {cls.__qualname__}:"
        raise DefinitionError("\n- ".join([what, *problems]), hint=f"\n{hint}")


def attributes_of(
    cls: type[Any],
) -> Iterator[tuple[str, object, list[tuple[type[Any], object]]]]:
    """Each attribute: its name, its value, and those that it hides in base classes."""
    places: dict[str, list[tuple[type[Any], object]]] = {}
    for base in cls.__mro__[:-1]:
        for name, value in vars(base).items():
            places.setdefault(name, []).append((base, value))
    for name, found in places.items():
        yield name, found[0][1], found[1:]
