"""From annotations to plans: which parts of an annotation are ours, which msgspec's."""

# Annotations of any type pass through here:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import contextlib
import enum
import types
import typing
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec
import typing_extensions

from durable.converter import hints, wire
from durable.converter.plans import (
    ALL_KINDS,
    Dictionary,
    Items,
    Kinds,
    Later,
    Leaf,
    LiteralLeaf,
    Member,
    NamedEnum,
    Plan,
    RecordPlan,
    UnionPlan,
    Zoned,
    kind_of,
    runtimes_of,
    with_meta,
)
from durable.converter.refusals import HINT_OF_DATA, advice_for
from durable.errors import DefinitionError

_SCALARS: Final[dict[Any, str]] = {
    **dict.fromkeys((str, bytes, bytearray, date, timedelta, Decimal, UUID), "text"),
    **dict.fromkeys((int, float, int | float), "number"),
    bool: "bool",
    type(None): "null",
    complex: "array",
}
_plans: Final[dict[Any, Plan]] = {}


def plan_of(hint: Any) -> Plan:
    """The plan of an annotation, made once.

    Raises:
        DefinitionError: nothing can be decoded by it.
    """
    try:
        found = _plans.get(hint)
    except TypeError:  # an unhashable annotation cannot be kept
        return _Builder().plan(hint)
    if found is None:
        found = _plans[hint] = _Builder().plan(hint)
    return found


class _Builder:
    """Makes one plan. What refers to itself is found by its annotation."""

    def __init__(self) -> None:
        self._made: dict[Any, Later] = {}
        self._needs_care = False

    def plan(self, hint: Any) -> Plan:
        try:
            made = self._make(hint)
        except (NameError, TypeError, AttributeError, RecursionError):
            # What cannot be looked into is msgspec's, which says why if it cannot, too.
            return Leaf(hint, ALL_KINDS, Any)
        if made.is_native or self._needs_care:
            return made
        # Only that it refers to itself has made it ours; msgspec knows that of classes,
        # and not of aliases.
        try:
            return Leaf(hint, made.kinds, Any)
        except DefinitionError:
            return made

    def _make(self, hint: Any) -> Plan:
        bare, meta = hints.bare(hint)
        later = Later(*_foresee(bare))
        with contextlib.suppress(TypeError):  # an unhashable one is made each time
            later = self._made.setdefault((bare, meta), later)
            if later.is_begun:
                return later.plan  # itself, within what is being made
        later.is_begun = True
        later.plan = self._make_new(bare, meta)
        return later.plan

    def _make_new(self, hint: Any, meta: tuple[Any, ...]) -> Plan:
        full = with_meta(hint, meta)
        origin = typing.get_origin(hint) or hint
        args = typing.get_args(hint)
        if origin in (typing.Union, types.UnionType):
            return self._union(hint, meta)
        if origin is typing.Literal:
            kinds = frozenset(kind_of(wire.encode(value)) for value in args)
            return LiteralLeaf(full, kinds, args)
        if origin in (datetime, time):
            self._needs_care = True
            return Zoned(full, origin)
        if isinstance(origin, type) and issubclass(origin, enum.Enum):
            return self._enum(full, origin)
        concrete = hints.CONCRETE.get(origin)
        if concrete is dict:
            return self._dict(full, args)
        if concrete is not None:
            return self._items(full, concrete, args, meta)
        record = hints.record_of(hint)
        if record is not None:
            return self._record(full, record)
        return self._scalar(full, origin)

    def _scalar(self, hint: Any, origin: Any) -> Plan:
        if origin in _SCALARS:
            return Leaf(hint, frozenset({_SCALARS[origin]}), origin)
        if wire.is_textual(origin):
            return Leaf(hint, frozenset({"text"}), origin)
        if wire.is_model(origin):
            is_root = "root" in origin.__pydantic_fields__
            return Leaf(hint, ALL_KINDS if is_root else frozenset({"object"}), origin)
        return Leaf(hint, ALL_KINDS, origin if isinstance(origin, type) else Any)

    def _enum(self, hint: Any, origin: type[enum.Enum]) -> Plan:
        values = {type(member.value) for member in origin}
        if issubclass(origin, int) or values <= {int}:
            return Leaf(hint, frozenset({"number"}), origin)
        if values <= {str}:
            return Leaf(hint, frozenset({"text"}), origin)
        self._needs_care = True
        return NamedEnum(origin)

    def _items(
        self, hint: Any, concrete: Any, args: tuple[Any, ...], meta: tuple[Any, ...]
    ) -> Plan:
        is_fixed = concrete is tuple and args[-1:] != (...,)
        inner = args if is_fixed else args[:1]
        plans = [self._make(arg) for arg in inner]
        if all(plan.is_native for plan in plans):
            return Leaf(hint, Items.kinds, concrete)
        return Items(concrete, plans, meta, is_fixed=is_fixed)

    def _dict(self, hint: Any, args: tuple[Any, ...]) -> Plan:
        if not args:
            return Leaf(hint, frozenset({"object"}), dict)
        key, value = map(self._make, args)
        is_any = key.kinds == ALL_KINDS and key.is_native
        is_odd = not is_any and not key.kinds <= {"text", "number"}
        is_mixed = not is_any and len(key.kinds) > 1
        if key.is_native and value.is_native and not is_mixed and not is_odd:
            return Leaf(hint, frozenset({"object"}), dict)
        self._needs_care |= is_odd or is_mixed
        return Dictionary(key, value, always_pairs=is_odd, may_pair=is_odd or is_mixed)

    def _record(self, hint: Any, record: hints.Record) -> Plan:
        plans = {name: self._make(part) for name, part in record.hints.items()}
        if all(plan.is_native for plan in plans.values()) and not record.has_private:
            kind = "array" if record.is_array else "object"
            return Leaf(hint, frozenset({kind}), record.runtime)
        self._needs_care |= record.has_private
        return RecordPlan(record, plans)

    def _union(self, hint: Any, meta: tuple[Any, ...]) -> Plan:
        name = wire.name_of(hint)
        parts = hints.members_of(hint)
        if int in parts and float in parts:  # as one: JSON tells them apart
            parts = [part for part in parts if part not in (int, float)]
            parts.append(int | float)
        members: list[Member] = []
        for part in parts:
            full = with_meta(part, meta)
            plan = (
                Leaf(full, frozenset({"number"}), (int, float))
                if part == int | float
                else self._make(full)
            )
            members.append(Member(part, plan))
        native = None
        try:
            native = wire.find_decoder(hint)
            if len({hints.bare(part)[0] for part in parts}) < len(parts):
                native = None  # of two constraints of one type it knows the last
                self._needs_care = True
        except DefinitionError:
            self._needs_care = True
            for part, member in zip(parts, members, strict=True):
                _refuse_no_data(part, member, name)
        else:
            if native and all(member.plan.is_native for member in members):
                kinds = frozenset[str]().union(*(m.plan.kinds for m in members))
                runtimes = [runtimes_of(member.plan) for member in members]
                return Leaf(hint, kinds, tuple(k for one in runtimes for k in one))
        return UnionPlan(name, members, native)


def _foresee(hint: Any) -> tuple[Kinds, Any]:
    """The JSON and the type of what may hold itself, before its plan is made."""
    origin = typing.get_origin(hint) or hint
    concrete = hints.CONCRETE.get(origin)
    if concrete is not None:
        return frozenset({"object" if concrete is dict else "array"}), concrete
    if isinstance(origin, type) and hints.is_record(origin):
        is_array = issubclass(origin, tuple) or (
            issubclass(origin, msgspec.Struct) and origin.__struct_config__.array_like
        )
        runtime = dict if typing_extensions.is_typeddict(origin) else origin
        return frozenset({"array" if is_array else "object"}), runtime
    return ALL_KINDS, Any


def _refuse_no_data(part: Any, member: Member, name: str) -> None:
    origin = typing.get_origin(part) or part
    if (
        isinstance(member.plan, Leaf)
        and member.plan.kinds == ALL_KINDS
        and isinstance(origin, type)
        and not wire.is_known(origin)
    ):
        raise DefinitionError(
            f"{origin.__qualname__}, a member of the union {name}, is no data.",
            hint=advice_for(origin) or HINT_OF_DATA,
        )
