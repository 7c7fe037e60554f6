"""Annotations that JSON alone cannot serve: unions, zones, keys that are no texts.

msgspec decodes by most annotations, and then nothing here runs. Where it cannot, the
annotation is turned, once, into a plan: a tree in which only the nodes that need it are
ours. A plan lowers a value to one that msgspec encodes, and reads it back.

- A union whose members are the same kind of JSON (two dataclasses, a text and a UUID)
  gets a tag: `{"$type": "Paid", "$value": ...}`. The tag is looked up among the members
  that the annotation names, and nowhere else. What was recorded without a tag, before
  the annotation was a union, is read by the one member that explains all of it.
- A moment in a `ZoneInfo` is written as RFC 9557 has it, `...+02:00[Europe/Berlin]`.
- Dicts whose keys JSON cannot have are lists of pairs.

All of these are JSON that the bare annotation would refuse, so a reader may try msgspec
first and the plan second.
"""

# Annotations and values of any type pass through here:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import contextlib
import copy
import enum
import re
import types
import typing
from collections.abc import Callable, Iterable
from datetime import datetime, time
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from durable.converter import hints, wire
from durable.converter.comparing import same
from durable.converter.refusals import MisfitError, at
from durable.errors import DefinitionError

Kinds = frozenset[str]
"""Kinds of JSON: text, number, bool, null, array, object."""

ALL_KINDS: Final = frozenset({"text", "number", "bool", "null", "array", "object"})
_FIRST: Final = {
    '"': "text",
    "t": "bool",
    "f": "bool",
    "n": "null",
    "[": "array",
    "{": "object",
}
# How sure a member of a union is of a value.
_EXACT: Final = 2
_LOOSE: Final = 1


class Plan:
    """How values of one annotation become JSON and come back.

    Attributes:
        kinds: what their JSON may be.
        is_native: msgspec does all of it.
        runtime: the type of its values, or a tuple of types; Any if it is not known.
    """

    kinds: Kinds = ALL_KINDS
    is_native = False
    runtime: Any = Any

    def lower(self, value: Any) -> Any:
        """A value that msgspec encodes; the same object where nothing is to be done.

        Raises:
            MisfitError: it is of no member of a union.
        """
        return value

    def read(self, raw: Any, /) -> Any:
        """The value of raw JSON; raises MisfitError or whatever msgspec does."""
        raise NotImplementedError

    def fit(self, value: Any) -> int:
        """How surely this is the value's annotation, by its runtime type: 0 to 2."""
        runtimes = runtimes_of(self)
        if type(value) in runtimes:
            return _EXACT
        if Any in runtimes or isinstance(value, runtimes):
            return _LOOSE
        return _LOOSE * (float in runtimes and type(value) is int)


class Leaf(Plan):
    """What msgspec does alone."""

    is_native = True

    def __init__(self, hint: Any, kinds: Kinds, runtime: Any) -> None:
        self._read = wire.find_decoder(hint)
        self.kinds = kinds
        self.runtime = runtime

    def read(self, raw: Any, /) -> Any:
        return self._read(raw)


class LiteralLeaf(Leaf):
    """One of some values; they are told apart by type, too."""

    def __init__(self, hint: Any, kinds: Kinds, values: tuple[Any, ...]) -> None:
        super().__init__(hint, kinds, tuple({type(value) for value in values}))
        self._values = {(type(value), value) for value in values}

    def fit(self, value: Any) -> int:
        is_scalar = type(value) in self.runtime
        return _EXACT * (is_scalar and (type(value), value) in self._values)


class Zoned(Plan):
    """A datetime or time, whose zone is kept by name."""

    kinds = frozenset({"text"})
    _NAMED = re.compile(r'"([^"\\\[]+)\[([\w+\-/.]+)\]"')

    def __init__(self, hint: Any, runtime: type[datetime | time]) -> None:
        self._read = wire.find_decoder(hint)
        self.runtime = runtime

    def lower(self, value: Any) -> Any:
        zone = getattr(value, "tzinfo", None)
        if type(zone) is not ZoneInfo or not zone.key:
            return value
        return f"{value.isoformat()}[{zone.key}]"

    def read(self, raw: Any) -> Any:
        found = self._NAMED.fullmatch(bytes(raw).decode(errors="replace").strip())
        if found is None:
            return self._read(raw)
        moment = self.runtime.fromisoformat(found[1])
        try:
            zone = ZoneInfo(found[2])
        except (KeyError, ValueError, OSError):
            raise MisfitError(
                "its time zone is unknown on this machine",
                advice="Install the time zones: `pip install tzdata`.",
            ) from None
        if isinstance(moment, time):
            return moment.replace(tzinfo=zone)
        for fold in (0, 1):
            there = moment.replace(tzinfo=zone, fold=fold)
            if there.utcoffset() == moment.utcoffset():
                return there
        return moment.astimezone(zone)  # the zone's rules were changed meanwhile


class NamedEnum(Plan):
    """An enum whose values JSON cannot have: its members go by their names."""

    kinds = frozenset({"text"})

    def __init__(self, runtime: type[enum.Enum]) -> None:
        self.runtime = runtime
        self._read = wire.find_decoder(str)

    def lower(self, value: Any) -> Any:
        return value.name if type(value) is self.runtime else value

    def read(self, raw: Any) -> Any:
        member = self.runtime.__members__.get(self._read(raw))
        if member is None:
            raise MisfitError("Invalid enum value")
        return member


class Items(Plan):
    """Lists, sets, frozensets and tuples, with a plan for all items or one for each."""

    kinds = frozenset({"array"})

    def __init__(
        self, runtime: Any, items: list[Plan], meta: tuple[Any, ...], *, is_fixed: bool
    ) -> None:
        shell: Any = list[msgspec.Raw]
        if is_fixed:
            shell = types.GenericAlias(tuple, (msgspec.Raw,) * len(items))
        self._is_fixed = is_fixed
        self._read = wire.find_decoder(with_meta(shell, meta))
        self.runtime = runtime
        self._items = items

    def _with_plans(self, values: Iterable[Any]) -> Iterable[tuple[Any, Plan]]:
        if self._is_fixed:
            return zip(values, self._items, strict=False)
        return ((value, self._items[0]) for value in values)

    def lower(self, value: Any) -> Any:
        if type(value) is not self.runtime:
            return value
        lowered = [
            at(f"[{index}]", plan.lower, item)
            for index, (item, plan) in enumerate(self._with_plans(value))
        ]
        if all(map(_is, lowered, value)) and len(lowered) == len(value):
            return value
        return lowered

    def read(self, raw: Any) -> Any:
        return self.runtime(
            [
                at(f"[{index}]", plan.read, item)
                for index, (item, plan) in enumerate(self._with_plans(self._read(raw)))
            ]
        )


def _is(left: Any, right: Any) -> bool:
    return left is right


class Dictionary(Plan):
    """A dict; as a list of pairs where JSON cannot have its keys."""

    runtime = dict

    def __init__(
        self, key: Plan, value: Plan, *, always_pairs: bool, may_pair: bool
    ) -> None:
        self._key, self._value = key, value
        self._always_pairs, self._may_pair = always_pairs, may_pair
        self._read_pairs = wire.find_decoder(list[tuple[msgspec.Raw, msgspec.Raw]])
        self.kinds = frozenset({"array", "object"} if may_pair else {"object"})

    def lower(self, value: Any) -> Any:
        if type(value) is not dict or not value:
            return value
        keys = [at("[a key]", self._key.lower, key) for key in value]
        values = [
            at(f"[key {number}]", self._value.lower, item)
            for number, item in enumerate(value.values(), start=1)
        ]
        if self._always_pairs or (
            self._may_pair and not all(type(key) is str for key in keys)
        ):
            return list(zip(keys, values, strict=True))
        if all(map(_is, keys, value)) and all(map(_is, values, value.values())):
            return value
        return dict(zip(keys, values, strict=True))

    def read(self, raw: Any) -> Any:
        if self._may_pair and kind_of(raw) == "array":
            pairs = [
                (at("[a key]", self._key.read, key), item)
                for key, item in self._read_pairs(raw)
            ]
        else:
            pairs = [
                (at("[a key]", self._read_key, key), item)
                for key, item in _read_dict(raw).items()
            ]
        return {
            key: at(f"[key {number}]", self._value.read, item)
            for number, (key, item) in enumerate(pairs, start=1)
        }

    def _read_key(self, text: str) -> Any:
        raw = wire.encode(text)
        if "number" in self._key.kinds:  # JSON has them as texts
            with contextlib.suppress(Exception):
                return self._key.read(text.encode())
        return self._key.read(raw)


_read_dict: Final = wire.find_decoder(dict[str, msgspec.Raw])


class RecordPlan(Plan):
    """A class with fields, or a TypedDict."""

    def __init__(self, record: hints.Record, plans: dict[str, Plan]) -> None:
        self._record = record
        self.runtime = record.runtime
        self._plans = {n: plan for n, plan in plans.items() if not plan.is_native}
        self._shell = record.shell(self._plans)
        self._read = wire.find_decoder(self._shell)
        self.kinds = frozenset({"array" if record.is_array else "object"})

    def lower(self, value: Any) -> Any:
        record = self._record
        if type(value) is not record.runtime:
            return value
        changed: dict[str, Any] = {}
        for name, plan in self._plans.items():
            part = record.get(value, name)
            if part is not hints.MISSING:
                lowered = at(f".{name}", plan.lower, part)
                if lowered is not part:
                    changed[name] = lowered
        if not changed and not record.has_private:
            return value
        if isinstance(value, msgspec.Struct):
            twin = copy.copy(value)
            for name, part in changed.items():
                msgspec.structs.force_setattr(twin, name, part)
            return twin
        fields = record.fields_of(value) | changed
        return list(fields.values()) if record.is_array else fields

    def read(self, raw: Any) -> Any:
        values = self._record.values_of(self._read(raw))
        for name, plan in self._plans.items():
            if name in values:
                values[name] = at(f".{name}", plan.read, values[name])
        if self.runtime is dict:  # with its keys in their order
            values = {name: values[name] for name in _read_dict(raw) if name in values}
        return self._record.build(values)


class Later(Plan):
    """A plan within itself, which is still being made."""

    def __init__(self, kinds: Kinds, runtime: Any) -> None:
        self.plan: Plan = self
        self.is_begun = False
        self.kinds = kinds
        self.runtime = runtime

    def lower(self, value: Any) -> Any:
        return self.plan.lower(value)

    def read(self, raw: Any) -> Any:
        return self.plan.read(raw)

    def fit(self, value: Any) -> int:
        return self.plan.fit(value)


class _Tagged(
    msgspec.Struct,
    forbid_unknown_fields=True,
    rename={"type": "$type", "value": "$value"},
):
    type: str
    value: msgspec.Raw


_read_tagged: Final = msgspec.json.Decoder(_Tagged).decode


class Member:
    """A member of a union, its names, and whether it needs a tag."""

    def __init__(self, hint: Any, plan: Plan) -> None:
        self.plan = plan
        self.short = hints.tag_of(hint)
        self.full = hints.tag_of(hint, is_full=True)
        self.tag: str | None = None

    def gives_back(self, value: Any) -> bool:
        try:
            return same(value, self.plan.read(wire.encode(self.plan.lower(value))))
        except Exception:  # noqa: BLE001 - another member's value
            return False

    def explains(self, raw: Any, value: Any) -> bool:
        """Whether the value has all that the JSON says; defaults may be added."""
        again = wire.encode(self.plan.lower(value))
        return _is_within(msgspec.json.decode(raw), msgspec.json.decode(again))


def _is_within(part: Any, whole: Any) -> bool:
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(k in whole and _is_within(v, whole[k]) for k, v in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(map(_is_within, part, whole))
    return bool(part == whole)


class UnionPlan(Plan):
    """One of several; with a tag where JSON cannot tell which."""

    def __init__(self, name: str, members: list[Member], native: Any = None) -> None:
        self.runtime = tuple(kind for m in members for kind in runtimes_of(m.plan))
        self._name = name
        self._members = members
        self._native: Callable[[Any], Any] | None = native
        if native is None:
            self._set_tags()
        kinds: Kinds = frozenset()
        for member in members:
            kinds |= {"object"} if member.tag else member.plan.kinds
        self.kinds = kinds
        self.has_tags = any(member.tag for member in members)

    def _set_tags(self) -> None:
        members = self._members
        alike = [m for m in members if any(_clash(m, other) for other in members)]
        if alike:  # a tagged one is an object, and no other object may look like it
            alike = [m for m in members if m in alike or "object" in m.plan.kinds]
        shorts = [member.short for member in members]
        fulls = [member.full for member in members]
        for member in alike:
            is_alone = shorts.count(member.short) == 1
            member.tag = member.short if is_alone else member.full
            if fulls.count(member.full) > 1:
                raise DefinitionError(
                    f"Two members of the union {self._name} are both called"
                    f" {member.full}, so that nothing tells what is recorded apart.",
                    hint="Give one of the classes another name.",
                )

    def lower(self, value: Any) -> Any:
        member = self._member_for(value)
        lowered = member.plan.lower(value)
        return lowered if member.tag is None else _tag(member.tag, lowered)

    def _member_for(self, value: Any) -> Member:
        fits = [member.plan.fit(value) for member in self._members]
        best = max(fits)
        found = [m for m, fit in zip(self._members, fits, strict=True) if fit == best]
        if best and len(found) > 1:
            found = [member for member in found if member.gives_back(value)] or found
        if not best:
            raise MisfitError(f"a {type(value).__qualname__} is none of {self._name}")
        return found[0]

    def read(self, raw: Any) -> Any:
        kind = kind_of(raw)
        if self.has_tags and kind == "object":
            try:
                tagged = _read_tagged(raw)
            except msgspec.MsgspecError:
                pass  # from before there was a tag
            else:
                return self._read_tagged(tagged)
        found = [m for m in self._members if kind in m.plan.kinds]
        if self._native is not None:
            try:
                return self._native(raw)
            except Exception:  # a type's own code may raise anything
                found = [member for member in found if not member.plan.is_native]
                if not found:
                    raise
        if len(found) == 1:
            return found[0].plan.read(raw)
        if not found:
            raise MisfitError(f"Expected {self._name}, got {kind}")
        return self._read_untagged(found, raw)

    def _read_tagged(self, tagged: _Tagged) -> Any:
        found = [m for m in self._members if tagged.type in (m.full, m.short)]
        if not found:
            was = tagged.type if hints.is_tag(tagged.type) else "something else"
            raise MisfitError(
                f"it was recorded as {was}, which is none of {self._name}",
                advice="Keep a class of that name among the union's members.",
            )
        if len(found) == 1:
            return found[0].plan.read(tagged.value)
        return self._read_untagged(found, tagged.value)

    def _read_untagged(self, members: list[Member], raw: Any) -> Any:
        """Read what JSON alone says. The order of a union means nothing to Python."""
        fitting: list[Any] = []
        whole: list[Any] = []
        for member in members:
            try:
                value = member.plan.read(raw)
                fitting.append(value)
                if member.explains(raw, value):
                    whole.append(value)
            except Exception:  # noqa: BLE001, S112 - it is another member's
                continue
        found = whole or fitting
        if not found:
            raise MisfitError(f"it fits none of {self._name}")
        if not all(same(found[0], other) for other in found[1:]):
            raise MisfitError(
                f"it was recorded without saying which of {self._name} it is, and fits"
                " several",
                advice="Keep the annotation that it was recorded under, and take the"
                " union in a new parameter, field or definition.",
            )
        return found[0]


def _tag(name: str, lowered: Any) -> dict[str, Any]:
    return {"$type": name, "$value": lowered}


def _clash(member: Member, other: Member) -> bool:
    """Whether JSON cannot tell two members apart, and it makes a difference."""
    if member is other or not member.plan.kinds & other.plan.kinds:
        return False
    runtimes = {*runtimes_of(member.plan), *runtimes_of(other.plan)}
    if runtimes <= {int, str, bool, type(None)}:  # a Literal, beside what it is
        return False
    return not all(_has_own_tag(kind) for kind in runtimes)


def _has_own_tag(kind: Any) -> bool:
    config = getattr(kind, "__struct_config__", None)
    return config is not None and config.tag is not None and not config.array_like


def with_meta(hint: Any, meta: tuple[Any, ...]) -> Any:
    """An annotation with its constraints."""
    return typing.Annotated[(hint, *meta)] if meta else hint


def kind_of(raw: Any) -> str:
    """Of which kind raw JSON is."""
    start = bytes(raw).lstrip()[:1].decode(errors="replace")
    return _FIRST.get(start, "number")


def runtimes_of(plan: Plan) -> tuple[Any, ...]:
    """The types of a plan's values."""
    return plan.runtime if isinstance(plan.runtime, tuple) else (plan.runtime,)
