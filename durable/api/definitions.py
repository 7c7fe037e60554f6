"""What the decorators fill: names to definitions, and what may be decorated.

A name is data in every history that used it. Two different module-level functions may
not share one; decorating the same function again (a reload, a notebook cell) replaces
it, and functions local to another function replace each other. A file that is imported
under a second name, such as the program's own, defines nothing anew: its first copy is
kept.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Coroutine, Iterable
from types import CodeType, FrameType
from typing import (
    Any,
    ClassVar,
    Concatenate,
    Final,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    runtime_checkable,
)

from durable import limits
from durable.converter.failures import CLASSES
from durable.core.history.ids import OWN_TYPES
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


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
AsyncFunction: TypeAlias = Callable[P, Coroutine[Any, Any, R]]
Method: TypeAlias = Callable[Concatenate[S, P], R]
AsyncMethod: TypeAlias = Callable[Concatenate[S, P], Coroutine[Any, Any, R]]
"""What decorators take, as type checkers see it."""


class Unchanging:
    """A definition: copying it gives itself."""

    def __copy__(self) -> Self:
        """Itself: it never changes."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """Itself: it never changes."""
        return self


WORKFLOWS: Final[dict[str, Any]] = {}
"""Every decorated workflow of this program, by name."""
ACTIVITIES: Final[dict[str, Any]] = {}
"""Every decorated activity of this program, by name."""

METHOD: Final = "activity_method"
"""How errors name the decorator of methods that are activities."""

_log: Final = logging.getLogger("durable.definitions")
_told: Final[set[tuple[str, str]]] = set()


def is_own(name: str) -> bool:
    """Whether that is the name of a workflow of the library's own."""
    return name.startswith(OWN_TYPES)


def decorate(define: Callable[..., Any], decorated: object, **how: Any) -> Any:
    """Decorate at once, or give what does if only options were written yet."""
    if decorated is None:
        return functools.partial(define, **how)
    return define(decorated, **how)


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
    known = sorted(name for name in known if not is_own(name))
    names = ", ".join(map(repr, known)) or "none"
    return NotRegisteredError(
        f"No {kind} named {name!r} is known here; known are: {names}"
        f"{ending_with_closest(name, known)}",
        hint=(
            f"Import the module that defines it. If it was renamed, keep the old name"
            f" for running workflows with @{kind}(name={name!r})."
        ),
    )


def import_definition(known: dict[str, Any], name: str, module: str, kind: str) -> Any:
    """The definition of that name, from its module if nothing imported that yet.

    How a pickle is read in a new process.

    Raises:
        NotRegisteredError: there is none.
    """
    if name not in known and module != "__main__":
        try:
            importlib.import_module(module)
        except ImportError as error:
            unknown = _unknown(kind, name, known)
            unknown.add_note(f"its module {module!r} cannot be imported: {error}")
            raise unknown from error
    return get_definition(known, name, kind)


def register(known: dict[str, Any], definition: Definition, kind: str) -> None:
    """Enter a definition under its name.

    Raises:
        DefinitionError: another module-level function or class holds the name.
    """
    earlier = known.get(definition.name)
    if earlier is not None and _is_copy(earlier, definition):
        _tell_of_copy(earlier, definition)
        return
    if earlier is not None and _clash(earlier, definition):
        raise DefinitionError(
            f"Two definitions are registered as {kind} {definition.name!r}:"
            f" {_place(earlier)} and {_place(definition)}.",
            hint=f"Give one of them another name with @{kind}(name='...').",
        )
    if earlier is not None and _differ_in_what_they_wrap(earlier, definition):
        _log.warning(
            "Two functions are registered as %s %r, and only the later one is run: a"
            " decorator gives both that name. Put @functools.wraps on its wrapper, or"
            " give each a name with @%s(name='...').",
            kind,
            definition.name,
            kind,
        )
    # Also of what a decorator wraps: its module is the one that names exceptions.
    for function in (definition.function, _unwrap(definition.function)):
        CLASSES.add_scope(getattr(function, "__globals__", {}))
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
    # The same module name from two files is one module, imported again.
    return old.__module__ != new.__module__ and _file(earlier) != _file(later)


def _is_copy(earlier: Definition, later: Definition) -> bool:
    """Whether a module's file is there under two names, as in `python -m app.main`.

    Runs and their activities would be served by one copy and then by the other, each
    with globals of its own.
    """
    old, new = earlier.origin, later.origin
    return (
        old.__module__ != new.__module__
        and old.__qualname__ == new.__qualname__
        and "<locals>" not in old.__qualname__
        and old.__module__ in sys.modules
        and _file(earlier) == _file(later)
    )


def _differ_in_what_they_wrap(earlier: Definition, later: Definition) -> bool:
    """Whether one wrapper, without functools.wraps, stands around two functions."""
    old, new = earlier.function, later.function
    if old.__code__ is not new.__code__ or "<locals>" not in new.__qualname__:
        return False
    return _enclosed(old) != _enclosed(new)


def _enclosed(function: Any) -> list[tuple[str, str]]:
    """The module-level functions that a closure holds."""
    found: list[tuple[str, str]] = []
    for cell in function.__closure__ or ():
        try:
            held = cell.cell_contents
        except ValueError:  # not set yet
            continue
        if inspect.isfunction(held) and "<locals>" not in held.__qualname__:
            found.append((held.__module__, held.__qualname__))
    return found


def _tell_of_copy(earlier: Definition, later: Definition) -> None:
    modules = earlier.origin.__module__, later.origin.__module__
    if modules not in _told:
        _told.add(modules)
        _log.warning(
            "%s is imported twice, as %r and as %r. Workflows and activities of the"
            " first copy are kept; those of the second are never run. Import the file"
            " under one name only, and let the program's main file define none.",
            _file(earlier),
            *modules,
        )


def _file(definition: Definition) -> str:
    """The file of what was decorated; not of a decorator between."""
    if isinstance(definition.origin, type):
        module = sys.modules.get(definition.origin.__module__)
        return str(getattr(module, "__file__", definition.origin.__module__))
    return str(_code_of(definition.function).co_filename)


def _code_of(function: Any) -> CodeType:
    code: CodeType = getattr(_unwrap(function), "__code__", function.__code__)
    return code


def _unwrap(function: Any) -> Any:
    try:
        return inspect.unwrap(function)
    except ValueError:  # a circle
        return function


def _place(definition: Definition) -> str:
    origin, line = definition.origin, _code_of(definition.function).co_firstlineno
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
    is_method = bool(owner) and not owner.endswith("<locals>")
    if is_method and kind == "activity":
        raise refuse(
            f"the method {function.__qualname__}", "Put @activity_method on it."
        )
    if is_method and kind != METHOD:
        raise refuse(
            f"the method {function.__qualname__}",
            "Move the function to module level; pass what it needs as arguments.",
        )
    if kind == METHOD and not is_method:
        raise refuse(f"{function.__qualname__}, which is no method", "Use @activity.")


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


def class_of_place(name: str, frame: FrameType | None) -> type[Any]:
    """A class that stands for where something is defined that no function is.

    Args:
        name: the definition's name.
        frame: where it was made; frames of this library and of `typing` are left out.
    """
    while frame is not None and (
        (module := frame.f_globals.get("__name__", "")) == "typing"
        or module.startswith("durable.api.")
    ):
        frame = frame.f_back
    if frame is None:
        return type(name, (), {})
    place = frame.f_code.co_qualname
    names = {
        "__module__": frame.f_globals.get("__name__", ""),
        "__qualname__": name if place == "<module>" else f"{place}.<locals>.{name}",
    }
    return type(name, (), names)


def drop_call(call: object) -> None:
    """Throw a call away, which would warn that nobody awaited it."""
    if inspect.iscoroutine(call):
        call.close()
