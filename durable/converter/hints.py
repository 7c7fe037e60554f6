"""What annotations mean: aliases, members of unions, and fields of classes."""

# Annotations of any kind pass through here:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import operator
import re
import types
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec
import typing_extensions

from durable.converter.exception_classes import recorded_home
from durable.errors import DefinitionError

MISSING: Final = object()
CONCRETE: Final[dict[Any, Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    dict: dict,
    collections.abc.Collection: list,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Set: set,
    collections.abc.MutableSet: set,
    collections.abc.Mapping: dict,
    collections.abc.MutableMapping: dict,
}
"""The types that are read where an annotation names one of these."""

_WRAPPERS: Final = (
    typing.Final,
    typing.Required,
    typing.NotRequired,
    typing_extensions.Required,
    typing_extensions.NotRequired,
    typing_extensions.ReadOnly,
)
_ALIASES: Final = tuple(
    {
        typing_extensions.TypeAliasType,
        getattr(typing, "TypeAliasType", typing_extensions.TypeAliasType),
    }
)


def bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without what says nothing of its values, and its constraints."""
    meta: tuple[Any, ...] = ()
    while True:
        origin = typing.get_origin(hint)
        if hint is None:
            return type(None), meta
        if origin is typing.Annotated:
            meta += tuple(m for m in hint.__metadata__ if isinstance(m, msgspec.Meta))
            hint = hint.__origin__
        elif origin in _WRAPPERS:
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif isinstance(hint, _ALIASES):
            hint = hint.__value__
        elif isinstance(origin, _ALIASES):
            given = zip(origin.__type_params__, typing.get_args(hint), strict=False)
            hint = bind(origin.__value__, dict(given))
        elif isinstance(hint, typing.TypeVar):
            parts = hint.__constraints__ or (hint.__bound__ or Any,)
            hint = functools.reduce(operator.or_, parts)
        else:
            return hint, meta


def members_of(hint: Any) -> list[Any]:
    """The members of a union, of unions within it too, each once.

    Raises:
        DefinitionError: two of them are the same when the program runs.
    """
    found: dict[Any, Any] = {}
    for arg in typing.get_args(hint):
        plain, meta = bare(arg)
        if typing.get_origin(plain) in (typing.Union, types.UnionType):
            parts = members_of(plain)
        else:
            parts = [typing.Annotated[(plain, *meta)] if meta else plain]
        named = arg if isinstance(arg, typing.NewType) else None
        for part in parts:
            other = found.get(part)
            if named is not None and other is not None and other is not named:
                raise DefinitionError(
                    f"{other.__name__} and {named.__name__}, members of one union, are"
                    " the same type when the program runs; nothing tells their values"
                    " apart.",
                    hint="Make them classes with a field, or leave one out.",
                )
            found[part] = named if named is not None else other
    return list(found)


def bind(hint: Any, scope: dict[Any, Any]) -> Any:
    """An annotation with its type variables replaced."""
    if isinstance(hint, typing.TypeVar):
        return scope.get(hint, hint)
    generic: Any = hint
    parameters = () if isinstance(hint, type) else getattr(hint, "__parameters__", ())
    if not parameters:
        return hint
    return generic[tuple(scope.get(p, Any) for p in parameters)]


# --- names ----------------------------------------------------------------------------


def tag_of(hint: Any, *, is_full: bool = False) -> str:
    """How a member of a union is called in what is recorded."""
    if not isinstance(hint, _ALIASES):  # which may hold itself
        hint = bare(hint)[0]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, _ALIASES):
        return str(hint.__name__)
    if hint is type(None):
        return "None"
    if origin is typing.Literal:
        return str(hint).removeprefix("typing.")
    if origin in (typing.Union, types.UnionType):
        return " | ".join(sorted(tag_of(arg, is_full=is_full) for arg in args))
    if origin is not None and args:
        inner = ", ".join(
            "..." if arg is ... else tag_of(arg, is_full=is_full) for arg in args
        )
        return f"{tag_of(origin, is_full=is_full)}[{inner}]"
    if not isinstance(hint, type):
        return str(hint).removeprefix("typing.")
    name = hint.__qualname__.rpartition("<locals>.")[2]
    if is_full and hint.__module__ != "builtins":
        return f"{recorded_home(hint.__module__)}:{name}"
    return name


def is_tag(text: str) -> bool:
    """Whether a recorded tag is a name, and so may be said."""
    return re.fullmatch(r"[\w.:\[\], |]{1,200}", text) is not None


# --- fields ---------------------------------------------------------------------------


@dataclasses.dataclass
class Record:
    """A class with fields as msgspec sees it.

    Attributes:
        runtime: what its values are instances of.
        hints: the annotation of each field.
        encoded: the name of each field in JSON.
        required: the fields without a default.
        is_array: its JSON is an array, and fields go by their position.
        has_private: msgspec would leave a field out.
        config: what else msgspec knows of it.
        build: makes a value of the fields that are there.
    """

    runtime: Any
    hints: dict[str, Any]
    encoded: dict[str, str]
    required: frozenset[str]
    build: Callable[[dict[str, Any]], Any]
    is_array: bool = False
    has_private: bool = False
    config: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def shell(self, planned: Any) -> Any:
        """A struct of the same JSON, in which the planned fields are raw."""
        names = {name: f"f{index}" for index, name in enumerate(self.hints)}
        fields: list[Any] = []
        for name in self.hints:
            hint = msgspec.Raw if name in planned else self.hints[name]
            default = () if name in self.required else (msgspec.UNSET,)
            fields.append((names[name], _field_hint(hint), *default))
        return msgspec.defstruct(
            self.runtime.__name__,
            fields,
            rename={names[name]: self.encoded[name] for name in self.hints},
            kw_only=not self.is_array,
            array_like=self.is_array,
            **self.config,
        )

    def values_of(self, shell: Any) -> dict[str, Any]:
        """The fields that a decoded shell has."""
        found = {n: getattr(shell, f"f{i}") for i, n in enumerate(self.hints)}
        return {n: part for n, part in found.items() if part is not msgspec.UNSET}

    def get(self, value: Any, name: str) -> Any:
        """A field of a value, or MISSING."""
        if self.runtime is dict:
            return value.get(name, MISSING)
        return getattr(value, name, MISSING)

    def fields_of(self, value: Any) -> dict[str, Any]:
        """All fields that a value has, by their names in JSON."""
        if self.runtime is dict:
            return dict(value)
        found = {name: self.get(value, name) for name in self.hints}
        return {name: part for name, part in found.items() if part is not MISSING}


def _field_hint(hint: Any) -> Any:
    """The annotation of a field, without what only a class or TypedDict may say."""
    while typing.get_origin(hint) in _WRAPPERS:
        hint = typing.get_args(hint)[0]
    return hint


def is_record(cls: Any) -> bool:
    """Whether it is a class with fields that msgspec knows."""
    return typing_extensions.is_typeddict(cls) or (
        issubclass(cls, msgspec.Struct)
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
        or dataclasses.is_dataclass(cls)
        or hasattr(cls, "__attrs_attrs__")
    )


def record_of(hint: Any) -> Record | None:
    """The fields of a class; None if it has none that msgspec knows.

    Raises:
        NameError, TypeError, AttributeError: the annotations of its fields cannot be
            resolved.
    """
    cls: Any = typing.get_origin(hint) or hint
    if not isinstance(cls, type) or not is_record(cls):
        return None
    return _record_of(cls, hints_of(cls, typing.get_args(hint)))


def _record_of(cls: Any, hints: dict[str, Any]) -> Record:
    if typing_extensions.is_typeddict(cls):
        required = set(cls.__required_keys__)
        for name, part in hints.items():  # texts hide it from the class
            origin = typing.get_origin(part)
            if origin in (typing.Required, typing_extensions.Required):
                required.add(name)
            elif origin in (typing.NotRequired, typing_extensions.NotRequired):
                required.discard(name)
        names = {name: name for name in hints}
        return Record(dict, hints, names, frozenset(required), dict)
    if issubclass(cls, msgspec.Struct):
        return _of_struct(cls, hints)
    if issubclass(cls, tuple):
        named: Any = cls
        names = {name: name for name in named._fields}
        required = {name for name in names if name not in named._field_defaults}
        hints = {name: hints.get(name, Any) for name in names}
        return Record(
            cls, hints, names, frozenset(required), lambda v: named(**v), is_array=True
        )
    if dataclasses.is_dataclass(cls):
        return _of_dataclass(cls, hints)
    return _of_attrs(cls, hints)


def _of_struct(cls: Any, hints: dict[str, Any]) -> Record:
    config = cls.__struct_config__
    names = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    return Record(
        cls,
        {name: hints[name] for name in names},
        names,
        _required_of(cls),
        lambda values: cls(**values),
        is_array=config.array_like,
        config={
            "tag": config.tag,
            "tag_field": config.tag_field,
            "forbid_unknown_fields": config.forbid_unknown_fields,
        },
    )


def _required_of(cls: Any) -> frozenset[str]:
    """Fields of a struct without a default; defaults are listed from the last field."""
    names, defaults = cls.__struct_fields__, cls.__struct_defaults__
    padded = (msgspec.NODEFAULT,) * (len(names) - len(defaults)) + defaults
    return frozenset(
        name
        for name, default in zip(names, padded, strict=True)
        if default is msgspec.NODEFAULT
    )


def _of_dataclass(cls: Any, hints: dict[str, Any]) -> Record:
    fields = dataclasses.fields(cls)
    if any(isinstance(hint, dataclasses.InitVar) for hint in hints.values()):
        raise TypeError("dataclasses with `InitVar` fields are not supported")

    def build(values: dict[str, Any]) -> Any:
        made = cls.__new__(cls)
        for field in fields:
            if field.name in values:
                part = values[field.name]
            elif field.default_factory is not dataclasses.MISSING:
                part = field.default_factory()
            else:
                part = field.default
            object.__setattr__(made, field.name, part)
        if hasattr(made, "__post_init__"):
            made.__post_init__()
        return made

    missing = dataclasses.MISSING
    required = {
        f.name for f in fields if f.default is missing and f.default_factory is missing
    }
    names = {field.name: field.name for field in fields}
    parts = {field.name: hints[field.name] for field in fields}
    return Record(cls, parts, names, frozenset(required), build)


def _of_attrs(cls: Any, hints: dict[str, Any]) -> Record:
    fields: Any = cls.__attrs_attrs__

    def build(values: dict[str, Any]) -> Any:
        # As a call would: converters, validators and hooks run.
        made = cls(
            **{f.alias: values[f.name] for f in fields if f.init and f.name in values}
        )
        for field in fields:
            if not field.init and field.name in values:
                object.__setattr__(made, field.name, values[field.name])
        return made

    names = {field.name: field.name for field in fields}
    # attrs need not be installed: its mark of no default is an enum's member.
    required = {f.name for f in fields if getattr(f.default, "name", "") == "NOTHING"}
    return Record(
        cls,
        {name: hints.get(name, Any) for name in names},
        names,
        frozenset(required),
        build,
        has_private=any(name.startswith("_") for name in names),
    )


def hints_of(cls: Any, args: tuple[Any, ...]) -> dict[str, Any]:
    """The annotations of a class, with the type variables of generic bases replaced."""
    hints = typing_extensions.get_type_hints(cls, include_extras=True)
    scopes: dict[Any, dict[Any, Any]] = {}
    _gather_scopes(cls, args, scopes)
    owners: dict[str, Any] = {}
    for base in cls.__mro__:
        for name in inspect.get_annotations(base):
            owners.setdefault(name, base)
    return {
        name: bind(hint, scopes.get(owners.get(name, cls), {}))
        for name, hint in hints.items()
    }


def _gather_scopes(
    cls: Any, args: tuple[Any, ...], scopes: dict[Any, dict[Any, Any]]
) -> None:
    scope = dict(zip(getattr(cls, "__parameters__", ()), args, strict=False))
    scopes.setdefault(cls, scope)
    for base in getattr(cls, "__orig_bases__", ()):
        origin = typing.get_origin(base)
        if origin not in (None, typing.Generic, typing.Protocol):
            inner = tuple(bind(arg, scope) for arg in typing.get_args(base))
            _gather_scopes(origin, inner, scopes)
