"""What the decorators fill: names to definitions, and what may be decorated.

A name is data in every history that used it. Two different module-level functions may
not share one; decorating the same function again (a reload, a notebook cell) replaces
it, and functions local to another function replace each other.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from durable import limits
from durable.converter.failures import CLASSES
from durable.errors import DefinitionError, InvalidIdError, NotRegisteredError
from durable.options import check_id
from durable.suggestions import ending_with_closest


@runtime_checkable
class Definition(Protocol):
    """What a workflow and an activity have in common.

    Attributes:
        function: what runs.
        origin: what was decorated: the function, or the class that it is a method of.
    """

    kind: ClassVar[str]
    name: str
    function: Callable[..., Any]
    origin: Any


WORKFLOWS: Final[dict[str, Any]] = {}
"""Every decorated workflow of this program, by name."""
ACTIVITIES: Final[dict[str, Any]] = {}
"""Every decorated activity of this program, by name."""


def get_definition(known: dict[str, Any], name: str, kind: str) -> Any:
    """The definition of that name.

    Raises:
        NotRegisteredError: there is none.
    """
    try:
        return known[name]
    except KeyError:
        raise _unknown(kind, name, known) from None


def _unknown(kind: str, name: str, known: Iterable[str]) -> NotRegisteredError:
    known = sorted(known)
    names = ", ".join(map(repr, known)) or "none"
    return NotRegisteredError(
        f"No {kind} named {name!r} is known here; known are: {names}"
        f"{ending_with_closest(name, known)}",
        hint=(
            f"Import the module that defines it. If it was renamed, keep the old name"
            f" for running workflows with @{kind}(name={name!r})."
        ),
    )


def register(known: dict[str, Any], definition: Definition, kind: str) -> None:
    """Enter a definition under its name.

    Raises:
        DefinitionError: another module-level function or class holds the name.
    """
    earlier = known.get(definition.name)
    if earlier is not None and _clash(earlier, definition):
        raise DefinitionError(
            f"Two definitions are registered as {kind} {definition.name!r}:"
            f" {_place(earlier)} and {_place(definition)}.",
            hint=f"Give one of them another name with @{kind}(name='...').",
        )
    CLASSES.add_scope(definition.function.__globals__)
    module = sys.modules.get(definition.origin.__module__)
    if isinstance(definition.origin, type) and module is not None:
        # Its methods may all be inherited from other modules.
        CLASSES.add_scope(vars(module))
    known[definition.name] = definition


def _clash(earlier: Definition, later: Definition) -> bool:
    old, new = earlier.origin, later.origin
    if "<locals>" in old.__qualname__ or "<locals>" in new.__qualname__:
        return False
    if old.__qualname__ != new.__qualname__:
        return True
    # The same file under two module names is one program, run as __main__ as well; the
    # same module name from two files is one module, imported again.
    is_same_file = _file(earlier) == _file(later)
    return not is_same_file and old.__module__ != new.__module__


def _file(definition: Definition) -> str:
    if isinstance(definition.origin, type):
        module = sys.modules.get(definition.origin.__module__)
        return str(getattr(module, "__file__", definition.origin.__module__))
    return str(definition.function.__code__.co_filename)


def _place(definition: Definition) -> str:
    origin, line = definition.origin, definition.function.__code__.co_firstlineno
    return f"{origin.__module__}.{origin.__qualname__} (line {line})"


def check_function(function: object, kind: str) -> None:
    """Refuse what a decorator cannot serve, saying what to do instead.

    Raises:
        DefinitionError: it is no plain named function.
    """

    def refuse(what: str, hint: str) -> DefinitionError:
        return DefinitionError(f"@{kind} was put on {what}.", hint=hint)

    if isinstance(function, Definition):
        raise refuse(
            f"{function.name!r}, which is decorated already",
            "Use one decorator per function.",
        )
    if isinstance(function, type):
        raise refuse(f"the class {function.__qualname__}", "Decorate a function.")
    if isinstance(function, staticmethod | classmethod):
        raise refuse("a static or class method", "Move the function to module level.")
    if not inspect.isfunction(function):
        raise refuse(f"{function!r}, which is no function", f"Write: @{kind} then def.")
    if function.__name__ == "<lambda>":
        raise refuse("a lambda, which has no name to record", "Write a def.")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise refuse(
            f"the generator {function.__qualname__}", "Return a list instead of yield."
        )
    owner = function.__qualname__.rpartition(".")[0]
    if owner and not owner.endswith("<locals>"):
        raise refuse(
            f"the method {function.__qualname__}",
            "Move the function to module level; pass what it needs as arguments.",
        )


def check_name(name: object, kind: str) -> str:
    """Return a definition's name if it can be kept.

    Raises:
        DefinitionError: it is no id.
    """
    try:
        return check_id(name, f"the name of a {kind}")
    except InvalidIdError as error:
        raise DefinitionError(
            str(error), hint=f"At most {limits.NAME_BYTES_MAX} bytes."
        ) from None
