"""msgspec's classes by value: they are made in C, and cloudpickle cannot copy them."""

from __future__ import annotations

# Classes are taken apart here, whose parts have no static type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false
import inspect
import uuid
import weakref
from types import MemberDescriptorType
from typing import Any, Final

import msgspec

_MADE: Final = frozenset(
    (
        "__annotations__",
        "__dict__",
        "__match_args__",
        "__post_init__",
        "__slots__",
        "__weakref__",
    )
)
"""What comes by itself when the class is made again."""
_POST_INIT: Final = "_durable_post_init"
# A class that comes twice is one class: its objects are told by it.
_keys: Final[weakref.WeakKeyDictionary[Any, str]] = weakref.WeakKeyDictionary()
_made: Final[dict[str, type]] = {}


def reduce_struct(cls: Any) -> tuple[Any, ...]:
    """How to pickle a class of Structs.

    It is made without its methods first: they may speak of it.
    """
    namespace: dict[str, Any] = dict(vars(cls))
    own = {
        name: value
        for name, value in namespace.items()
        if name not in _MADE
        and not name.startswith(("__struct", "__msgspec"))
        and not isinstance(value, MemberDescriptorType)
    }
    post_init = namespace.get("__post_init__")
    if post_init is not None:
        own[_POST_INIT] = post_init
    config = {name: getattr(cls.__struct_config__, name) for name in _options(cls)}
    parameters = inspect.signature(cls).parameters
    fields = _own_fields(cls)
    config["kw_only"] = bool(fields) and all(
        parameters[name].kind is inspect.Parameter.KEYWORD_ONLY for name, *_ in fields
    )
    key = _keys.setdefault(cls, uuid.uuid4().hex)
    made = key, cls.__name__, fields, cls.__bases__, post_init is not None, config
    return _make, made, own, None, None, _add


def _options(cls: Any) -> list[str]:
    return [name for name in dir(cls.__struct_config__) if not name.startswith("_")]


def _own_fields(cls: Any) -> list[tuple[str, Any, str, str, Any]]:
    """Name, annotation and encoded name of each, and what kind of default it has."""
    names: tuple[str, ...] = cls.__struct_fields__
    annotations: dict[str, Any] = dict(vars(cls)).get("__annotations__", {})
    defaults = dict(
        zip(names[::-1], cls.__struct_defaults__[::-1], strict=False),
    )
    encoded = dict(zip(names, cls.__struct_encode_fields__, strict=True))
    found: list[tuple[str, Any, str, str, Any]] = []
    for name in names:
        if name not in annotations:
            continue
        kind, default = "value", defaults.get(name, msgspec.NODEFAULT)
        if default is msgspec.NODEFAULT:
            kind, default = "none", None
        elif hasattr(default, "factory"):
            kind, default = "factory", default.factory
        found.append((name, annotations[name], encoded[name], kind, default))
    return found


def _make(
    key: str,
    name: str,
    fields: list[tuple[str, Any, str, str, Any]],
    bases: tuple[type, ...],
    has_post_init: bool,
    config: dict[str, Any],
) -> type:
    found = _made.get(key)
    if found is not None:
        return found
    defined: list[Any] = []
    for field, annotation, encoded, kind, default in fields:
        how: dict[str, Any] = {} if encoded == field else {"name": encoded}
        if kind != "none":
            how["default" if kind == "value" else "default_factory"] = default
        defined.append((field, annotation, msgspec.field(**how)))
    namespace = {"__post_init__": _post_init} if has_post_init else {}
    made = msgspec.defstruct(name, defined, bases=bases, namespace=namespace, **config)
    _made[key] = made
    return made


def _post_init(self: Any) -> None:
    getattr(self, _POST_INIT)()


def _add(cls: Any, own: dict[str, Any]) -> None:
    for name, value in own.items():
        setattr(cls, name, value)
