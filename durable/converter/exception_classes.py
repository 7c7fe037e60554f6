"""Which classes a recorded failure may name: those that the program's names lead to.

Built-in classes, those of this library, those visible in the modules which define
workflows and activities, and those registered. A name is compared with what is loaded
already; nothing is ever imported for it.
"""

# Modules hold values of any type, so their parts have no static type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import builtins
import pathlib
import sys
import types
from collections.abc import Iterator
from typing import Any, Final, TypeGuard, TypeVar

from durable import errors

_E = TypeVar("_E", bound=BaseException)

# Public classes that have moved keep the name by which rows know them.
_RECORDED_HOMES: Final = {
    "durable.api.activities.activity_context": "durable.api.activity_context",
    "durable.api.messages.messages": "durable.api.messages",
    "durable.api.workflows.operations": "durable.api.operations",
    "durable.client.descriptions.activities": "durable.client.activities",
    "durable.client.descriptions.description": "durable.client.description",
    "durable.core.loop.stacks": "durable.core.stacks",
}
_HOMES_NOW: Final = {old: new for new, old in _RECORDED_HOMES.items()}


class ExceptionClasses:
    """The classes that a failure may name, by module and qualified name."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], type[BaseException]] = {}
        self._reached: dict[tuple[str, str], type[Any]] = {}
        self._scopes: list[dict[str, Any]] = []
        self._missed: dict[tuple[str, str], int] = {}
        for module in (builtins, errors, asyncio):
            self._scan(vars(module))

    def register(self, cls: type[_E]) -> type[_E]:
        """Make a class known; usable as a decorator."""
        self._known[home_of(cls), cls.__qualname__] = cls
        self._missed.clear()
        return cls

    def add_scope(self, scope: dict[str, Any]) -> None:
        """Make known what a module that defines a workflow or activity can see."""
        if not any(known is scope for known in self._scopes):
            self._scopes.append(scope)

    def find(self, module: str, name: str) -> type[BaseException] | None:
        """The exception that a scope, or a module named in one, holds itself.

        How failures were read that do not list their `classes`.
        """
        found = self._known.get((module, name))
        if found is None and self._scopes:
            # Definitions come before their module's later lines, so scan when asked.
            for scope in self._scopes:
                self._scan(scope)
                for value in list(scope.values()):
                    if _is_module(value) and value.__name__ == module:
                        self._scan(vars(value))
            found = self._known.get((module, name))
        return found

    def reach(self, home: str, name: str) -> type[Any] | None:
        """The class that the scopes' names lead to, by any package they name.

        `import json` leads to `json.decoder.JSONDecodeError`, and `import urllib.error`
        to all of `urllib`. The class may be nested in another. It need not be an
        exception: attributes may be members of an enum.
        """
        key = home, name
        found: type[Any] | None = self._known.get(key) or self._reached.get(key)
        if found is not None:
            return found
        # A miss costs a search of every scope; it is repeated once there is more.
        seen = len(sys.modules) + sum(map(len, self._scopes))
        if self._missed.get(key) == seen:
            return None
        for namespace in self._namespaces(home):
            value: Any = _walk(namespace, name)
            if value is not None and (home_of(value), value.__qualname__) == key:
                self._reached[key] = value
                return value  # type: ignore[no-any-return]  # a class, by _walk
        found = self._reexported(home, name)
        if found is None:
            self._missed[key] = seen
        else:
            self._reached[key] = found
        return found

    def _namespaces(self, home: str) -> Iterator[dict[str, Any]]:
        """Where classes of that module are named."""
        package = home.partition(".")[0]
        loaded = sys.modules.get(_HOMES_NOW.get(home, home))
        for scope in self._scopes:
            if _home_of_name(str(scope.get("__name__"))) == home:
                yield scope
            values = list(scope.values())
            # What was imported by name, also under another name.
            yield {
                value.__qualname__: value
                for value in values
                if _is_class(value) and home_of(value) == home
            }
            if loaded is not None and any(
                _is_module(value) and value.__name__.partition(".")[0] == package
                for value in values
            ):
                yield vars(loaded)

    def _reexported(self, home: str, name: str) -> type[BaseException] | None:
        """An exception that a named module holds, wherever it is from."""
        for scope in self._scopes:
            for module in filter(_is_module, list(scope.values())):
                for value in list(vars(module).values()):
                    if (
                        _is_class(value)
                        and issubclass(value, BaseException)
                        and (home_of(value), value.__qualname__) == (home, name)
                    ):
                        return value
        return None

    def _scan(self, scope: dict[str, Any]) -> None:
        for value in list(scope.values()):
            if _is_class(value) and issubclass(value, BaseException):
                self._known[home_of(value), value.__qualname__] = value


def _is_class(value: object) -> TypeGuard[type[Any]]:
    # By its type: `isinstance` asks the value, and a proxy may raise.
    return issubclass(type(value), type) and type(value) is not types.GenericAlias


def _is_module(value: object) -> TypeGuard[types.ModuleType]:
    return issubclass(type(value), types.ModuleType)


def _walk(namespace: dict[str, Any], name: str) -> Any:
    """The class of a qualified name; what only a module's code could give is None."""
    value: Any = None
    for part in name.split("."):
        value = namespace.get(part)
        if not _is_class(value):
            return None
        namespace = dict(vars(value))
    return value


def home_of(cls: type) -> str:
    """The module that defines a class, by the name it has when it is imported.

    A program that is run is called `__main__`; the same file, loaded by a worker or a
    test, has its own name. Both must find the same classes.
    """
    return _home_of_name(str(cls.__module__))


def recorded_home(module: str) -> str:
    """The name by which rows know a module."""
    return _RECORDED_HOMES.get(module, module)


def _home_of_name(module: str) -> str:
    if module != "__main__":
        return recorded_home(module)
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return "__main__" if file is None else pathlib.PurePath(file).stem


CLASSES: Final = ExceptionClasses()


def register_exception(cls: type[_E]) -> type[_E]:
    """Let an exception class be rebuilt when a failure names it.

    Needed only for classes that are visible neither in the module of a workflow nor in
    that of an activity. Usable as a decorator.
    """
    return CLASSES.register(cls)
