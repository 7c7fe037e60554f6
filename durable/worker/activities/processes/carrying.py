"""How a function comes into another process: by its name, or by value.

What a module defines is imported there. What `__main__` defines is not: the program
would run again. So its functions are pickled with what they refer to, as are functions
within functions.
"""

from __future__ import annotations

# Functions and classes are taken apart here, whose parts have no static type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false
import io
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from typing import Any, Final

import cloudpickle  # type: ignore[import-untyped]  # it has no types
import msgspec

from durable.api.activities.activity import (
    DEFAULTS,
    Activity,
    find_activity,
    is_activity,
)
from durable.api.definitions import ACTIVITIES
from durable.converter.failures import CLASSES
from durable.worker.activities.processes.struct_classes import reduce_struct

# By these types of everything in it are unknown, and known to be so.
_cloudpickle: Final[Mapping[str, Any]] = vars(cloudpickle)
_CloudPickler: Any = _cloudpickle["Pickler"]
_loads: Final[Callable[[bytes], Any]] = _cloudpickle["loads"]
_MAIN: Final = "__main__"
_NAME: Final = re.compile(r"[^\W\d]\w*")


def home_of(activity: Activity[Any, Any]) -> str | None:
    """The module to import for an activity; None if it has to travel by value."""
    function = activity.function
    module = sys.modules.get(function.__module__)
    if (
        "<locals>" in function.__qualname__
        or function.__module__ == _MAIN
        or getattr(module, "__spec__", None) is None
        or ACTIVITIES.get(activity.name) is not activity
    ):
        return None
    return str(function.__module__)


def pack_function(activity: Activity[Any, Any]) -> bytes:
    """Pickle what an activity runs, by value, with its annotations.

    Raises:
        Exception: something that it refers to cannot be pickled.
    """
    function = activity.function
    hints = typing.get_type_hints(function)
    return _dumps((function, hints, [*_names_of_main()]))


def _dumps(value: object) -> bytes:
    file = io.BytesIO()
    pickler: Any = _Pickler(file)
    pickler.dump(value)
    return file.getvalue()


class _Pickler(_CloudPickler):  # type: ignore[misc]  # it has no types
    """Pickles by value what other processes would have to import `__main__` for."""

    def reducer_override(self, obj: Any) -> Any:
        if is_activity(obj) and home_of(obj) is None:
            return _made_again, (obj.function, obj.name, obj.given_options)
        if isinstance(obj, types.CodeType):
            # cloudpickle leaves the file out, which tracebacks name.
            reduced_code: Any = self.dispatch_table[types.CodeType](obj)
            return _code_again, (*reduced_code, obj.co_filename)
        is_struct = isinstance(obj, type) and issubclass(obj, msgspec.Struct)
        reduced: Any = super().reducer_override(obj)
        if is_struct and isinstance(reduced, tuple):
            return reduce_struct(obj)
        if isinstance(obj, type) and isinstance(reduced, tuple) and len(reduced) > 2:
            # What msgspec remembers of a class cannot be pickled, and is found again.
            reduced[2][0].pop("__msgspec_cache__", None)
        return reduced


def _code_again(
    make: Callable[..., types.CodeType], args: tuple[Any, ...], filename: str
) -> types.CodeType:
    return make(*args).replace(co_filename=filename)


def _made_again(
    function: Callable[..., Any], name: str, options: Any
) -> Activity[Any, Any]:
    return Activity(function, name, options)


def _names_of_main() -> Iterator[bytes]:
    """What the annotations of classes of `__main__` name, as far as it can travel.

    They are texts, or hold some, if they name what comes later, or `annotations` were
    imported from `__future__`; whoever uses the class reads them by what its module
    holds.
    """
    main = vars(sys.modules[_MAIN])
    # By these it is known what it is called when it is imported.
    spec, file = main.get("__spec__"), main.get("__file__")
    known_as = None if spec is None else ModuleSpec(spec.name, None)
    yield from map(_dumps, (("__spec__", known_as), ("__file__", file)))
    wanted: set[str] = set()
    for value in list(main.values()):
        if isinstance(value, type) and value.__module__ == _MAIN:
            for annotation in vars(value).get("__annotations__", {}).values():
                wanted.update(_NAME.findall(repr(annotation)))
    for name in sorted(wanted & main.keys()):
        try:
            yield _dumps((name, main[name]))
        except Exception:  # noqa: BLE001, S112 - what cannot travel is missed there, if at all
            continue


_loaded: dict[bytes, Activity[Any, Any]] = {}
_LOADED_MAX: Final = 100


def load(name: str, module: str | None, code: bytes | None) -> Activity[Any, Any]:
    """What an attempt runs, in the process that runs it.

    Raises:
        Exception: importing or unpickling it has raised.
    """
    if code is None:
        return find_activity(name, module or _MAIN)
    found = _loaded.get(code)
    if found is None:
        function, hints, named = _loads(code)
        main = vars(sys.modules[_MAIN])
        main.update(map(_loads, named))
        # By these names exceptions are recorded.
        scope = function.__globals__
        main.update(
            (key, value) for key, value in scope.items() if isinstance(value, type)
        )
        for known in (main, scope):
            CLASSES.add_scope(known)
        function.__annotations__ = hints
        if len(_loaded) >= _LOADED_MAX:
            _loaded.clear()
        found = _loaded[code] = Activity(function, name, DEFAULTS)
    return found
