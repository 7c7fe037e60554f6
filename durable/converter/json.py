"""Values to JSON payloads and back, typed by annotations.

The rule is that nothing changes silently: a value is recorded only if it would come
back equal and of the same type, under the type that the code itself declares. What
would not (NaN, a tuple under `Any`, a subclass of the annotated class) is refused at
the call, with the place and both types, never the value.

Class names in payloads are never looked at: types come from annotations only.
"""

# Values of any type pass through here, so their parts have no static type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import math
import pathlib
import sys
import types
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone
from typing import Any, Final
from uuid import UUID

import msgspec

from durable import limits
from durable.converter.refusals import why_refused
from durable.core.payload import BINARY_PLAIN, JSON_PLAIN, NULL, Payload, Payloads
from durable.errors import (
    DefinitionError,
    PayloadError,
    PayloadTooLargeError,
    UndecodableError,
)

_PLAIN_SCALARS: Final = frozenset({int, str, bool})
_ATOMS: Final = frozenset(
    {int, str, bool, float, bytes, type(None), UUID, date, timedelta}
)
_NOTHING: Final = (None, type(None), Any)
_FIELDS: Final = (
    "__struct_fields__",
    "__dataclass_fields__",
    "__attrs_attrs__",
    "__pydantic_fields__",
)
_NO_TWIN: Final = object()
# Up to here each int is a float too, and its sums are the same.
_EXACT: Final = 2**53


def _encode_extra(value: Any) -> Any:
    """Encode what msgspec does not know: pydantic models, paths, complex numbers."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return msgspec.Raw(value.model_dump_json().encode())
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if isinstance(value, complex):
        return [value.real, value.imag]
    raise _NotDataError(type(value).__qualname__)


class _NotDataError(NotImplementedError):
    """A value is of a type that is no data; the text names the type."""


def _decode_extra(hint: Any, data: Any) -> Any:
    """Decode what `_encode_extra` wrote, by the annotated type."""
    if hint is object:
        return data
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and issubclass(hint, pydantic.BaseModel):
        return hint.model_validate_json(msgspec.json.encode(data))
    if issubclass(hint, pathlib.PurePath):
        return hint(data)
    if issubclass(hint, complex):
        return hint(*data)
    raise NotImplementedError(hint.__qualname__)


_encode: Final = msgspec.json.Encoder(enc_hook=_encode_extra).encode


_decoders: Final[dict[Any, msgspec.json.Decoder[Any]]] = {}


def _make_decoder(hint: Any) -> msgspec.json.Decoder[Any]:
    try:
        return msgspec.json.Decoder(hint, dec_hook=_decode_extra)
    except (TypeError, NameError, AttributeError) as error:
        raise DefinitionError(
            f"The annotation {_name(hint)} cannot be decoded: {error}.",
            hint="Use a dataclass, a msgspec.Struct, a pydantic model or plain types;"
            " tag the members of a union.",
        ) from None


def _find_decoder(hint: Any) -> msgspec.json.Decoder[Any]:
    try:
        decoder = _decoders.get(hint)
    except TypeError:  # an unhashable annotation cannot be kept
        return _make_decoder(hint)
    if decoder is None:
        decoder = _decoders[hint] = _make_decoder(hint)
    return decoder


def encode(value: Any, hint: Any, what: str) -> Payload:
    """Turn a value into a payload.

    Args:
        value: what to record.
        hint: the annotation it will be decoded by; `Any` if there is none.
        what: how errors name it, such as "argument 'order' of 'charge'".

    Raises:
        PayloadError: it would come back changed, or cannot be encoded at all.
        PayloadTooLargeError: it is larger than `limits.PAYLOAD_BYTES_MAX`.
        DefinitionError: the annotation cannot be decoded by.
    """
    return encode_with_copy(value, hint, what)[0]


def encode_with_copy(value: Any, hint: Any, what: str) -> tuple[Payload, Any]:
    """Turn a value into a payload, and also give what decoding it yields.

    Raises: as `encode`.
    """
    kind: Any = type(value)
    if kind in _PLAIN_SCALARS and (hint is kind or hint is Any):
        return Payload(msgspec.Raw(_encode_json(value, what))), value
    if value is None and hint in _NOTHING:
        return NULL, None
    if type(value) is bytes and hint in (bytes, Any):
        _check_size(len(value), what)
        return Payload(encoding=BINARY_PLAIN, data=value), value
    data = _encode_json(value, what)
    if hint is Any:
        try:
            _check_plain(value, what, "")
        except RecursionError:
            raise _too_deep(what) from None
    decoder = _find_decoder(hint)
    try:
        copy = decoder.decode(data)
        difference = None if same(value, copy) else _difference(value, copy, "")
    except RecursionError:
        raise _too_deep(what) from None
    except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
        odd = _find_not_finite(value, "")
        if odd is not None:
            place, number = odd
            raise PayloadError(
                f"{_capital(what)}{' at ' + place if place else ''} is {number!r},"
                " which JSON does not have.",
                hint="Pass None, or a text, where there is no number.",
            ) from None
        raise PayloadError(
            f"{_capital(what)} does not fit its annotation {_name(hint)}:"
            f" {why_refused(error)}."
        ) from None
    if difference is not None:
        place, before, after = difference
        raise PayloadError(
            f"{_capital(what)}{' at ' + place if place else ''} would change from"
            f" {before} to {after} when it is recorded.",
            hint="Annotate it with its exact type, or pass plain data.",
        )
    return Payload(msgspec.Raw(data)), copy


def _too_deep(what: str) -> PayloadError:
    return PayloadError(
        f"{_capital(what)} cannot be recorded as JSON: it is nested too deep.",
        hint="Integers have at most 64 bits, nesting is bounded.",
    )


def _find_not_finite(value: Any, place: str) -> tuple[str, float] | None:
    """The first NaN or infinity and its place; msgspec writes null for them."""
    if isinstance(value, float):
        return None if math.isfinite(value) else (place, value)
    parts: list[tuple[str, Any]]
    if isinstance(value, dict):
        parts = [(f"[key {n}]", v) for n, v in enumerate(value.values(), start=1)]
    elif isinstance(value, list | tuple | set | frozenset):
        parts = [(f"[{n}]", v) for n, v in enumerate(value)]
    else:
        names = _fields(value) or ()
        parts = [(f".{name}", getattr(value, name, None)) for name in names]
    for where, part in parts:
        odd = _find_not_finite(part, place + where)
        if odd is not None:
            return odd
    return None


def encode_again(value: Any, hint: Any, what: str) -> Payload:
    """Turn a value into the payload that `encode` makes of it, unchecked.

    Raises:
        PayloadError: it cannot be encoded at all.
    """
    if type(value) is bytes and hint in (bytes, Any):
        return Payload(encoding=BINARY_PLAIN, data=value)
    return Payload(msgspec.Raw(_encode_json(value, what)))


def encode_all_again(values: tuple[Any, ...]) -> Payloads | None:
    """`encode_again` for many values at once; None if one of them needs care."""
    if bytes in map(type, values):
        return None
    try:
        return tuple([Payload(msgspec.Raw(_encode(value))) for value in values])
    except Exception:  # noqa: BLE001 - the careful way says what is wrong
        return None


def decoder_of(hint: Any) -> Callable[[msgspec.Raw], Any]:
    """The function that decodes raw JSON by an annotation.

    It raises msgspec's errors where `decode` raises UndecodableError.
    """
    return _find_decoder(hint).decode


def _encode_json(value: Any, what: str) -> bytes:
    try:
        data = _encode(value)
    except Exception as error:  # noqa: BLE001 - each kind is told apart below
        raise _refusal(error, value, what) from None
    if len(data) > limits.PAYLOAD_BYTES_MAX:
        _check_size(len(data), what)
    return data


def _refusal(problem: Exception, value: Any, what: str) -> Exception:
    """Say why a value cannot be encoded; what is no refusal passes through."""
    try:
        raise problem
    except UnicodeEncodeError:
        return PayloadError(
            f"{_capital(what)} holds a lone surrogate, which no database keeps."
        )
    except RecursionError:
        return _too_deep(what)
    except Exception as error:  # noqa: BLE001 - a value's own code may raise anything
        return PayloadError(
            f"{_capital(what)} cannot be recorded: {type(value).__qualname__}"
            f" holds something that is no data ({_why_unencodable(error)}).",
            hint="Pass dataclasses, msgspec Structs, pydantic models or plain data; an"
            " activity takes a pool or a client by resource().",
        )


def _why_unencodable(error: Exception) -> str:
    if type(error) is _NotDataError:
        return f"a {error}"
    return why_refused(error)


def _check_size(size: int, what: str) -> None:
    if size > limits.PAYLOAD_BYTES_MAX:
        raise PayloadTooLargeError(
            f"{_capital(what)} is {size:,} bytes once encoded; the limit is"
            f" {limits.PAYLOAD_BYTES_MAX:,}.",
            hint="Store it elsewhere and pass a reference.",
        )


def _check_plain(value: Any, what: str, place: str) -> None:
    """Refuse what has no exact JSON form, where no annotation could restore it."""
    kind: Any = type(value)
    if value is None or kind in _PLAIN_SCALARS:
        return
    if kind is float:
        if math.isfinite(value):
            return
        found = f"{value!r}, which JSON does not have"
    elif kind is list:
        for index, item in enumerate(value):
            _check_plain(item, what, f"{place}[{index}]")
        return
    elif kind is dict:
        for number, (key, item) in enumerate(value.items(), start=1):
            if type(key) is not str:
                found = f"a key of type {type(key).__qualname__}"
                break
            # Keys are counted, not spelt: they are values too.
            _check_plain(item, what, f"{place}[key {number}]")
        else:
            return
    else:
        found = f"a {kind.__qualname__}"
    raise PayloadError(
        f"{_capital(what)}{' at ' + place if place else ''} is {found}; without an"
        " annotation it would come back as something else.",
        hint="Annotate the parameter or result with its exact type.",
    )


def decode(payload: Payload, hint: Any, what: str) -> Any:
    """Turn a recorded payload into the value that the code asks for.

    Raises:
        UndecodableError: it does not fit the annotation, or its encoding is not one
            that this program allows.
    """
    encoding = payload.encoding
    if encoding == JSON_PLAIN:
        decoder = _find_decoder(hint)
        try:
            return decoder.decode(payload.json)
        except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
            raise UndecodableError(
                f"{_capital(what)} was recorded, but does not fit {_name(hint)} now:"
                f" {why_refused(error)}.",
                hint="Give new fields a default, and keep old ones readable.",
            ) from None
    if encoding == BINARY_PLAIN and hint in (bytes, Any):
        return payload.data
    raise UndecodableError(
        f"{_capital(what)} has the encoding {encoding!r}, which this program does not"
        " allow here.",
        hint="Which encodings may be read is decided by code, never by a row.",
    )


_REFUSED_AS: Final = "refused_as"


def keep(value: Any, hint: Any) -> Payload | None:
    """Encode a value that `encode` refuses, for an annotation that is still to come.

    None if it cannot be kept: it is no data, too large, or would be changed by JSON
    itself, whatever the annotation.
    """
    if type(value) is bytes:
        fits = len(value) <= limits.PAYLOAD_BYTES_MAX
        return Payload(encoding=BINARY_PLAIN, data=value) if fits else None
    try:
        data = _encode_json(value, "it")
    except PayloadError:
        return None
    if _find_not_finite(value, "") is not None:
        return None
    try:
        copy = _find_decoder(hint).decode(data)
    except Exception:  # noqa: BLE001 - it does not fit: any annotation that it fits is right
        return Payload(msgspec.Raw(data))
    return Payload(msgspec.Raw(data), metadata={_REFUSED_AS: _reading(copy, hint)})


def recover(kept: Payload, hint: Any, what: str) -> Payload:
    """Turn what `keep` gave into the payload that today's annotation makes of it.

    Raises:
        UndecodableError: it does not fit the annotation.
        PayloadError: it still would come back as what was refused then.
    """
    value = decode(kept, hint, what)
    if kept.metadata.get(_REFUSED_AS) == _reading(value, hint):
        raise PayloadError(
            f"{_capital(what)} would still change when it is read as {_name(hint)}.",
            hint="Annotate it with its exact type.",
        )
    return encode(value, hint, what)


def _reading(value: Any, hint: Any) -> str:
    """What an annotation makes of a value: types only, and nothing of the value."""
    kinds = hashlib.sha256(_kinds(value).encode()).hexdigest()
    return f"{_name(hint)} {kinds}"


def _kinds(value: Any) -> str:
    """The types of a value, all the way down."""
    kind: Any = type(value)
    parts: list[str] = []
    if isinstance(value, list | tuple):
        parts = [_kinds(item) for item in value]
    elif isinstance(value, set | frozenset):
        parts = sorted(_kinds(item) for item in value)
    elif isinstance(value, dict):
        parts = [f"{_kinds(key)}:{_kinds(item)}" for key, item in value.items()]
    elif isinstance(value, datetime | time):
        parts = [type(value.tzinfo).__qualname__]
    else:
        names = _fields(value) or ()
        parts = [f"{name}={_kinds(getattr(value, name, None))}" for name in names]
    return f"{kind.__module__}.{kind.__qualname__}({','.join(parts)})"


def same_payloads(
    recorded: Payloads, found: Payloads, hints: tuple[Any, ...], what: str
) -> bool:
    """Whether two lists of payloads hold the same values.

    Equal bytes decide at once. Otherwise both are decoded as the code reads them now,
    so that the order of a set or a new field with a default makes no difference.
    """
    if recorded == found:
        return True
    if len(recorded) != len(found):
        return False
    for index, (left, right) in enumerate(zip(recorded, found, strict=True)):
        if left == right:
            continue
        hint = hints[index] if index < len(hints) else Any
        try:
            if not same(decode(left, hint, what), decode(right, hint, what)):
                return False
        except (UndecodableError, RecursionError):
            return False
    return True


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal, and of the same types all the way down.

    `==` alone does not see that an enum member became its text, or that a zone became
    an offset. The one change that is allowed: an int where the annotation says float,
    if it is so small that floats count as ints do.
    """
    kind: Any = type(left)
    if kind is not type(right):
        return (
            kind is int
            and type(right) is float
            and left == right
            and abs(left) <= _EXACT
        )
    if kind in _ATOMS:
        return bool(left == right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return len(left) == len(right) and _same_items(left, right)
    if isinstance(left, set | frozenset):
        return len(left) == len(right) and _same_keys(left, right)
    if isinstance(left, datetime | time):
        return (
            left == right
            and left.fold == right.fold
            and _kind_of_zone(left) is _kind_of_zone(right)
            and left.utcoffset() == right.utcoffset()
        )
    fields = _fields(left)
    if fields is not None and not all(
        same(getattr(left, name, None), getattr(right, name, None)) for name in fields
    ):
        return False
    if fields is not None and not hasattr(kind, "__pydantic_fields__"):
        return True  # a model of pydantic may hold more than its fields
    try:
        return bool(left == right)
    except Exception:  # noqa: BLE001 - a value's own __eq__ may raise anything
        return False


def _kind_of_zone(moment: datetime | time) -> Any:
    """A zone with rules of its own is another kind than an offset, whatever it says."""
    kind = type(moment.tzinfo)
    return timezone if kind.__module__.startswith("pydantic") else kind


def _same_items(left: dict[Any, Any], right: dict[Any, Any]) -> bool:
    """Compare two dicts; keys are compared by type too, order does not matter."""
    return _same_keys(left, right) and all(
        same(value, right[key]) for key, value in left.items()
    )


def _same_keys(left: Iterable[Any], right: Iterable[Any]) -> bool:
    """Whether keys, or members of sets, are the same, and not merely equal."""
    twins = {key: key for key in right}
    for key in left:
        twin = twins.get(key, _NO_TWIN)
        if type(key) is not type(twin):
            return False
        if type(key) not in _ATOMS and not same(key, twin):
            return False
    return True


def _fields(value: Any) -> tuple[str, ...] | None:
    kind: Any = type(value)
    for attribute in _FIELDS:
        fields = getattr(kind, attribute, None)
        if fields is not None:
            return tuple(getattr(field, "name", field) for field in fields)
    return None


def _difference(left: Any, right: Any, place: str) -> tuple[str, str, str]:
    """Find the first place where two values differ; give both types there.

    Keys are counted, not spelt: they are values too.
    """
    if type(left) is type(right):
        if isinstance(left, list | tuple) and len(left) == len(right):
            for index, (a, b) in enumerate(zip(left, right, strict=True)):
                if not same(a, b):
                    return _difference(a, b, f"{place}[{index}]")
        elif isinstance(left, dict) and (
            len(left) == len(right) and _same_keys(left, right)
        ):
            for number, (key, value) in enumerate(left.items(), start=1):
                if not same(value, right[key]):
                    return _difference(value, right[key], f"{place}[key {number}]")
        else:
            for name in _fields(left) or ():
                a, b = getattr(left, name, None), getattr(right, name, None)
                if not same(a, b):
                    return _difference(a, b, f"{place}.{name}")
        if isinstance(left, set | frozenset | dict) and len(left) == len(right):
            twins = {key: key for key in right}
            for key in left:
                twin = twins.get(key, key)
                if type(key) is type(twin) and not same(key, twin):
                    what = "a key" if isinstance(left, dict) else "a member"
                    _, before, after = _difference(key, twin, "")
                    return f"{place}[{what}]", before, after
    before, after = _describe(left), _describe(right)
    if before == after:
        after = f"another {type(right).__name__}"
        if type(left) is not type(right):
            after += " (its class was defined again since: make the value anew)"
    return place, before, after


def _describe(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, datetime | time) and value.tzinfo is not None:
        return f"a {type(value).__name__} in a {type(value.tzinfo).__name__} zone"
    if isinstance(value, dict):
        kinds = sorted({type(key).__qualname__ for key in value})
        return f"a dict with {' and '.join(kinds) or 'no'} keys"
    if value is None:
        return "None"
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace(
        "builtins.", ""
    )


def _name(hint: Any) -> str:
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return hint.__qualname__
    return str(hint)


def _capital(what: str) -> str:
    return what[:1].upper() + what[1:]
