"""Looks for calls that cannot be replayed in the code of workflows, without running it.

Guards see what leaves the process, but not a look at the clock or at a random number.
So when an engine opens, the code of its workflows is read once: each name is resolved
to the object that it stands for, whatever it is called there, and what that does is
looked up. The user's own functions are followed where they are named.

Each site is one warning. A `with durable.allow("why"):` around it says that it does no
harm.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import dis
import functools
import importlib.util
import inspect
import linecache
import logging
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final, NamedTuple, TypeAlias

from durable.api.activities.activity import is_activity
from durable.api.allowing import allow
from durable.api.registry import Registry
from durable.api.workflows.workflow_definition import Workflow, workflow_of
from durable.core.loop.user_code import Owner, adopt, owner_of
from durable.worker.guards.replacements import (
    MODULES,
    Replacement,
    replacement_of,
    replacement_of_method,
)

_log: Final = logging.getLogger("durable.worker")
_UNKNOWN: Final = object()
_NO_VALUES: Final = frozenset(
    {"CACHE", "COPY_FREE_VARS", "EXTENDED_ARG", "MAKE_CELL", "PRECALL", "PUSH_NULL"}
)
_CALLS: Final = frozenset({"CALL", "CALL_FUNCTION_EX", "CALL_KW"})
_STORES: Final = ("STORE_FAST", "STORE_DEREF", "STORE_NAME", "STORE_GLOBAL")
_checked: Final[dict[int, CodeType]] = {}
"""By identity, since equal code objects may be of different functions."""
Names: TypeAlias = Mapping[str, Any]


class Site(NamedTuple):
    """One line where a workflow does what cannot be replayed."""

    file: str
    line: int
    what: Replacement


def check_workflows(registry: Registry) -> None:
    """Log a warning for each site in workflows that were not looked at before."""
    for workflow in registry.workflows.values():
        try:
            sites = find_sites(workflow)
        except Exception:  # noqa: BLE001 - what warns must not keep all from running
            _log.debug("%r could not be looked through", workflow, exc_info=True)
            continue
        for site in sites:
            _log.warning(
                "%s:%d: workflow %r uses %s, which cannot be replayed: %s. If nothing"
                ' depends on it, put it into `with durable.allow("why"):`.',
                site.file,
                site.line,
                workflow.name,
                site.what.name,
                site.what.advice,
            )


def find_sites(workflow: Workflow[Any, Any]) -> list[Site]:
    """What a workflow's code leads to that no other workflow's has led to before."""
    reading = _Reading()
    function, origin = _function_of(workflow.function), workflow.origin
    if function is not None:
        if id(function.__code__) in _checked:
            return []
        adopt(function.__code__, origin.__module__)
        reading.follow(workflow.function)
    for part in workflow.code_parts():
        reading.follow(part)
    if isinstance(origin, type):
        for base in origin.__mro__[:-1]:
            for value in vars(base).values():
                reading.follow(getattr(value, "fget", value))
        reading.follow_making(origin, None)
    return reading.finish()


def _function_of(value: Any) -> FunctionType | None:
    """The function behind methods and wrappers; none behind our own definitions."""
    if is_activity(value) or workflow_of(value) is not None:
        return None
    value = getattr(value, "__func__", value)
    if isinstance(value, functools.partial):
        value = value.func
    try:
        value = inspect.unwrap(value)
    except ValueError:  # it wraps itself
        return None
    return value if isinstance(value, FunctionType) else None


class _Place(NamedTuple):
    """Where a name is read."""

    file: str
    line: int


class _Reading:
    """Reads code, and what that leads to."""

    def __init__(self) -> None:
        self._sites: dict[tuple[str, int, str], Site] = {}
        self._open: list[_Code] = []

    def finish(self) -> list[Site]:
        """Read all that is to be followed; return what was found, by line."""
        while self._open:
            self._open.pop().read(self)
        return sorted(self._sites.values(), key=lambda site: site[:2])

    def note(self, what: Replacement, place: _Place | None) -> None:
        """Keep what was found, if its line is known."""
        if place is not None:
            key = (place.file, place.line, what.name)
            self._sites.setdefault(key, Site(*place, what))

    def enter(self, code: CodeType, names: Names, cells: Names, quiet: range) -> None:
        """Read this code too."""
        self._open.append(_Code(code, names, cells, quiet))

    def follow(self, value: Any) -> None:
        """Read the user's function behind a value, too, if there is one."""
        while value is not None and _function_of(value) is not None:
            layer = getattr(value, "__func__", value)
            layer = layer.func if isinstance(layer, functools.partial) else layer
            if isinstance(layer, FunctionType):
                self._follow_layer(layer)
            value = getattr(layer, "__wrapped__", None)

    def _follow_layer(self, function: FunctionType) -> None:
        code = function.__code__
        if owner_of(code.co_filename) is not Owner.USER or id(code) in _checked:
            return
        _checked[id(code)] = code
        cells: dict[str, Any] = {}
        for name, cell in zip(
            code.co_freevars, function.__closure__ or (), strict=True
        ):
            try:
                cells[name] = cell.cell_contents
            except ValueError:  # nothing was put in yet
                continue
        self.enter(code, function.__globals__, cells, range(0))

    def follow_making(self, cls: type[Any], place: _Place | None) -> None:
        """Read what runs when an object of the user's class is made."""
        if not _is_users(sys.modules.get(cls.__module__)):
            return
        for name in ("__new__", "__init__", "__post_init__"):
            function = _function_of(inspect.getattr_static(cls, name, None))
            # What is made from text has no lines: its parts are looked at below.
            if function is not None and function.__code__.co_filename != "<string>":
                self.follow(function)
        for factory in _factories(cls):
            self.judge(factory, place, 0)

    def judge(self, value: Any, place: _Place | None, arguments: int | None) -> None:
        """Note or follow what a name stands for.

        Args:
            value: that.
            place: where it stands.
            arguments: with how many it is called there; None if it is not.
        """
        what = replacement_of(value) or _of_bound_method(value)
        if what is not None:
            if what.is_judged(arguments):
                self.note(what, place)
        elif not isinstance(value, type):
            self.follow(value)
        elif arguments is not None and workflow_of(value) is None:
            self.follow_making(value, place)


def _of_bound_method(value: Any) -> Replacement | None:
    """A method of a class that was bound before: `today = date.today`."""
    owner = getattr(value, "__self__", None)
    if isinstance(owner, type):
        return replacement_of_method(owner, getattr(value, "__name__", ""))
    return None


def _factories(cls: type[Any]) -> Iterator[Any]:
    """What makes the defaults of a class: of dataclasses, attrs and pydantic."""
    members = vars(cls)
    fields = [
        *members.get("__dataclass_fields__", {}).values(),
        *members.get("__attrs_attrs__", ()),
        *members.get("__pydantic_fields__", {}).values(),
    ]
    for field in fields:
        attrs_default = getattr(field, "default", None)
        factory = getattr(field, "default_factory", None) or getattr(
            attrs_default, "factory", None
        )
        if callable(factory) and factory is not dataclasses.MISSING:
            yield factory


class _Code:
    """One code object that is read.

    Args:
        code: the code.
        names: the globals of its module.
        cells: what is known of the variables of the functions around it.
        quiet: lines that a `durable.allow` around the whole of it covers.
    """

    def __init__(
        self, code: CodeType, names: Names, cells: Names, quiet: range
    ) -> None:
        self._code = code
        self._names = names
        self._local = dict(cells)
        self._quiet = [quiet]
        if any(n == "allow" or names.get(n) is allow for n in code.co_names):
            self._quiet += _allowed_lines(code.co_filename, names)
        self._instructions: list[dis.Instruction] = []

    def read(self, reading: _Reading) -> None:
        """Resolve each name that is read here, and read the functions within."""
        if any(map(self._leads_on, self._code.co_names)) or any(
            map(_leads_on, self._local.values())
        ):
            self._instructions = [
                each
                for each in dis.get_instructions(self._code)
                if each.opname not in _NO_VALUES
            ]
            self._read_instructions(reading)
        for constant in self._code.co_consts:
            if isinstance(constant, CodeType):
                start = constant.co_firstlineno
                around = [lines for lines in self._quiet if start in lines]
                quiet = around[0] if around else range(0)
                reading.enter(constant, self._names, self._local, quiet)

    def _leads_on(self, name: str) -> bool:
        """Whether a name may come to anything; most code is read no further."""
        value = self._names.get(name, getattr(builtins, name, _UNKNOWN))
        if value is _UNKNOWN:  # an attribute, or what is imported within
            package = self._names.get("__package__") or ""
            value = sys.modules.get(name) or sys.modules.get(f"{package}.{name}")
        return _leads_on(value)

    def _read_instructions(self, reading: _Reading) -> None:
        value: Any = _UNKNOWN
        module: Any = _UNKNOWN  # the one that is being imported
        line = self._code.co_firstlineno
        for index, each in enumerate(self._instructions):
            operation = each.opname
            if each.positions is not None:
                line = each.positions.lineno or line
            is_quiet = any(line in lines for lines in self._quiet)
            if operation == "IMPORT_NAME":
                value = module = self._import(index)
            elif operation == "IMPORT_FROM":
                value = _member(module, each.argval)
            elif operation.startswith("STORE_"):
                self._store(each, value)
                value = _UNKNOWN
                if "LOAD" in operation:  # both in one
                    value = self._local.get(each.argval[-1], _UNKNOWN)
            elif operation in ("LOAD_ATTR", "LOAD_METHOD"):
                if isinstance(value, type) and not is_quiet:
                    what = replacement_of_method(value, each.argval)
                    if what is not None:
                        reading.note(what, self._place(line))
                value = _attribute(value, each.argval)
            else:
                value = self._load(each)
            if operation.startswith("IMPORT_") or is_quiet:
                continue
            if _leads_on(value):
                reading.judge(value, self._place(line), self._arguments(index))

    def _place(self, line: int) -> _Place:
        return _Place(self._code.co_filename, line)

    def _load(self, each: dis.Instruction) -> Any:
        operation: str = each.opname
        name: Any = each.argval
        if operation in ("LOAD_GLOBAL", "LOAD_NAME"):
            return self._names.get(name, getattr(builtins, name, _UNKNOWN))
        if operation.startswith("LOAD_") and (
            "FAST" in operation or "DEREF" in operation
        ):
            # Python 3.13 loads two at once.
            return self._local.get(_last(name), _UNKNOWN)
        return _UNKNOWN

    def _store(self, each: dis.Instruction, value: Any) -> None:
        """Remember what is imported or bound to a name; forget what is computed."""
        if not each.opname.startswith(_STORES):  # into an object or a container
            return
        name: str = each.argval if isinstance(each.argval, str) else each.argval[0]
        if value is _UNKNOWN:
            self._local.pop(name, None)
        else:
            self._local[name] = value

    def _import(self, index: int) -> Any:
        """The module that an import within the function gives, if it is loaded."""
        name: str = self._instructions[index].argval
        wanted = self._instructions[index - 1].argval
        level = self._instructions[index - 2].argval
        if isinstance(level, int) and level > 0:
            package = self._names.get("__package__") or ""
            try:
                name = importlib.util.resolve_name("." * level + name, package)
            except ImportError:
                return _UNKNOWN
        elif wanted is None:
            name = name.partition(".")[0]
        return sys.modules.get(name, _UNKNOWN)

    def _arguments(self, index: int) -> int | None:
        """With how many arguments the value that is loaded there is called."""
        start = self._instructions[index].positions
        if start is None or start.col_offset is None:
            return None
        for each in self._instructions[index + 1 :]:
            if each.opname in _CALLS and each.positions is not None:
                found = each.positions
                if (found.lineno, found.col_offset) == (start.lineno, start.col_offset):
                    return each.arg if each.opname != "CALL_FUNCTION_EX" else 1
        return None


def _leads_on(value: Any) -> bool:
    """Whether this, or what is below it, may be something that cannot be replayed."""
    if isinstance(value, ModuleType):
        return value.__name__ in MODULES or _is_users(value)
    if value is _UNKNOWN or value is None:
        return False
    if replacement_of(value) is not None:
        return True
    if isinstance(value, type):
        module = value.__module__
        return module.partition(".")[0] in ("datetime", "pathlib") or _is_users(
            sys.modules.get(module)
        )
    function = _function_of(value)
    if function is not None:
        return owner_of(function.__code__.co_filename) is Owner.USER
    kind = type(value).__module__
    return _is_users(sys.modules.get(kind)) or _of_bound_method(value) is not None


def _is_users(module: ModuleType | None) -> bool:
    """Whether a module is the user's; without a file it is a program's, or built in."""
    if module is None:
        return False
    file = getattr(module, "__file__", None)
    return (
        module.__name__ == "__main__" if file is None else owner_of(file) is Owner.USER
    )


def _last(names: Any) -> str:
    return str(names if isinstance(names, str) else names[-1])


def _member(module: Any, name: str) -> Any:
    return (
        vars(module).get(name, _UNKNOWN) if isinstance(module, ModuleType) else _UNKNOWN
    )


def _attribute(value: Any, name: str) -> Any:
    """An attribute, as far as it can be had without running code of the user's."""
    if isinstance(value, ModuleType):
        return _member(value, name)
    if isinstance(value, type):
        return inspect.getattr_static(value, name, _UNKNOWN)
    if value is _UNKNOWN or type(value).__module__.partition(".")[0] == "durable":
        return _UNKNOWN
    # A service of the program, or the like: its method is the class's.
    method = inspect.getattr_static(value.__class__, name, _UNKNOWN)
    return method if isinstance(method, FunctionType) else _UNKNOWN


# --- what is allowed ------------------------------------------------------------------


def _allowed_lines(file: str, names: Names) -> list[range]:
    """The lines of each `with durable.allow(...)` in a file, as far as it is there."""
    module_names = dict(names) if "__loader__" in names else None
    text = "".join(linecache.getlines(file, module_names))
    return [
        range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for node in _withs(text)
        if any(_is_allow(item.context_expr, names) for item in node.items)
    ]


@functools.lru_cache(maxsize=4)
def _withs(text: str) -> tuple[ast.With, ...]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.With))


def _is_allow(node: ast.expr, names: Names) -> bool:
    """Whether an expression calls `durable.allow`, by whatever name."""
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    if isinstance(called, ast.Attribute):
        return called.attr == "allow"
    return isinstance(called, ast.Name) and (
        called.id == "allow" or names.get(called.id) is allow
    )
