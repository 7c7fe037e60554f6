"""Values to JSON payloads and back, typed by annotations.

The rule is that nothing changes silently: a value is recorded only if it would come
back equal and of the same type, under the type that the code itself declares. What
would not (NaN, a tuple under `Any`, a subclass of the annotated class) is refused at
the call, with the place and both types, never the value.

Types come from annotations only: the tag of a union's member is looked up among the
members that the annotation names, and no other name in a payload is looked at.
"""

# Values of any type pass through here, so their parts have no static type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import msgspec

from durable import limits
from durable.converter import wire
from durable.converter.comparing import (
    describe,
    difference,
    find_part,
    is_not_finite,
    kinds,
    same,
)
from durable.converter.planning import plan_of
from durable.converter.plans import Plan
from durable.converter.refusals import (
    HINT_OF_DATA,
    HINT_OF_EXACT_TYPE,
    MisfitError,
    advice_for,
    misfit_of,
)
from durable.converter.wire import NotDataError, name_of
from durable.core.history.payload import (
    BINARY_PLAIN,
    JSON_PLAIN,
    NULL,
    Payload,
    Payloads,
)
from durable.errors import (
    DefinitionError,
    PayloadError,
    PayloadTooLargeError,
    UndecodableError,
)

_PLAIN_SCALARS: Final = frozenset({int, str, bool})
_NOTHING: Final = (None, type(None), Any)
_ARGUMENT: Final = re.compile(r"argument '(\w+)' of ")
_NO_NUMBER: Final = "Pass None, or a text, where there is no number."
_encode: Final = wire.encode
_forms: Final[dict[Any, tuple[Callable[[Any], Any], Plan | None]]] = {}


def _find_form(hint: Any) -> tuple[Callable[[Any], Any], Plan | None]:
    """What reads by an annotation, and its plan if msgspec alone cannot read by it.

    Raises:
        DefinitionError: nothing can.
    """
    try:
        form = _forms.get(hint)
    except TypeError:  # an unhashable annotation cannot be kept
        return _make_form(hint)
    if form is None:
        form = _forms[hint] = _make_form(hint)
    return form


def _make_form(hint: Any) -> tuple[Callable[[Any], Any], Plan | None]:
    try:
        return wire.find_decoder(hint), None
    except DefinitionError:
        plan = plan_of(hint)
        return plan.read, plan


def _find_plan(hint: Any) -> Plan | None:
    """The plan for what msgspec alone would change; None if there is no such thing."""
    try:
        plan = plan_of(hint)
    except DefinitionError:  # msgspec may know better
        return None
    return None if plan.is_native else plan


def _read(raw: Any, hint: Any) -> Any:
    """Read raw JSON; what a plan has written is no JSON that msgspec would take."""
    read, plan = _find_form(hint)
    try:
        return read(raw)
    except Exception:  # a type's own code may raise anything
        plan = _find_plan(hint) if plan is None else None
        if plan is None:
            raise
    return plan.read(raw)


def needs_plan(hint: Any) -> bool:
    """Whether some values of an annotation are written in another way than alone."""
    return _find_plan(hint) is not None


def check_annotation(hint: Any) -> None:
    """See that values can be recorded by an annotation.

    Raises:
        DefinitionError: they cannot.
    """
    _find_form(hint)
    plan_of(hint)


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
    read, plan = _find_form(hint)
    if plan is None and hint is not Any:
        try:
            data = _encode(value)
            copy = read(data)
            if same(value, copy) and len(data) <= limits.PAYLOAD_BYTES_MAX:
                return Payload(msgspec.Raw(data)), copy
        except Exception:  # noqa: BLE001, S110 - said properly below
            pass
        plan = _find_plan(hint)
    if plan is None:
        return _encode_checked(value, value, hint, what)
    try:
        lowered = plan.lower(value)
    except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
        raise _misfit(error, value, hint, what) from None
    return _encode_checked(value, lowered, hint, what)


def _encode_checked(
    value: Any, lowered: Any, hint: Any, what: str
) -> tuple[Payload, Any]:
    data = _encode_json(lowered, what, value)
    if hint is Any:
        try:
            _check_plain(value, what, "")
        except RecursionError:
            raise _too_deep(what) from None
    try:
        copy = _read(data, hint)
        change = None if same(value, copy) else difference(value, copy, "")
    except RecursionError:
        raise _too_deep(what) from None
    except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
        raise _misfit(error, value, hint, what) from None
    if change is not None:
        place, before, after = change
        was, becomes = describe(before), describe(after)
        if was == becomes:
            becomes = f"another {type(after).__name__}"
            if type(before) is not type(after):
                becomes += " (its class was defined again since: make the value anew)"
        raise PayloadError(
            f"{_capital(what)}{_at(what, place)} would change from {was} to {becomes}"
            " when it is recorded.",
            hint=_advice_on_change(before, after),
        )
    return Payload(msgspec.Raw(data)), copy


def _misfit(error: Exception, value: Any, hint: Any, what: str) -> PayloadError:
    """Say why a value does not fit its annotation."""
    if isinstance(error, RecursionError):
        return _too_deep(what)
    odd = find_part(value, is_not_finite)
    if odd is not None:
        place, number = odd
        return PayloadError(
            f"{_capital(what)}{_at(what, place)} is {number!r}, which JSON does not"
            " have.",
            hint=_NO_NUMBER,
        )
    misfit = misfit_of(error)
    return PayloadError(
        f"{_capital(what)}{_at(what, misfit.place)} does not fit its annotation"
        f"{'' if misfit.place else ' ' + name_of(hint)}: {misfit.reason}.",
        hint=misfit.advice or advice_for(hint) or HINT_OF_EXACT_TYPE,
    )


def _advice_on_change(before: Any, after: Any) -> str:
    is_decimal = isinstance(before, Decimal)
    if is_not_finite(before) or (is_decimal and not before.is_finite()):
        return _NO_NUMBER
    special = advice_for(type(before))
    if special is not None and before is not None:
        return special
    if getattr(before, "tzinfo", None) and type(before) is type(after):
        return (
            "Use zoneinfo.ZoneInfo or datetime.timezone; in a model of pydantic, keep"
            " the zone's name in a field of its own."
        )
    return HINT_OF_EXACT_TYPE


def _at(what: str, place: str) -> str:
    """The path to a part of what is refused, such as ` at order.items[2].price`."""
    if not place:
        return ""
    found = _ARGUMENT.match(what)
    root = found[1] if found else ""
    return f" at {root}{place}" if root else f" at {place.removeprefix('.')}"


def _too_deep(what: str) -> PayloadError:
    return PayloadError(
        f"{_capital(what)} cannot be recorded as JSON: it is nested too deep.",
        hint="Integers have at most 64 bits, nesting is bounded.",
    )


def encode_again(value: Any, hint: Any, what: str) -> Payload:
    """Turn a value into the payload that `encode` makes of it, unchecked.

    Raises:
        PayloadError: it cannot be encoded at all.
    """
    if type(value) is bytes and hint in (bytes, Any):
        return Payload(encoding=BINARY_PLAIN, data=value)
    plan = _find_plan(hint)
    if plan is not None:
        try:
            value = plan.lower(value)
        except MisfitError as error:
            raise _misfit(error, value, hint, what) from None
    return Payload(msgspec.Raw(_encode_json(value, what)))


def encode_all_again(values: tuple[Any, ...]) -> Payloads | None:
    """`encode_again` for values whose annotations need no plan; None if one has to."""
    if bytes in map(type, values):
        return None
    try:
        if len(values) == 1:  # most calls
            return (Payload(msgspec.Raw(_encode(values[0]))),)
        return tuple([Payload(msgspec.Raw(_encode(value))) for value in values])
    except Exception:  # noqa: BLE001 - the careful way says what is wrong
        return None


def decoder_of(hint: Any) -> Callable[[msgspec.Raw], Any]:
    """The function that decodes most raw JSON by an annotation.

    It raises anything where `decode` has the last word.
    """
    return _find_form(hint)[0]


def _encode_json(value: Any, what: str, original: Any = None) -> bytes:
    try:
        data = _encode(value)
    except Exception as error:  # noqa: BLE001 - each kind is told apart below
        original = value if original is None else original
        raise _refusal(error, original, what) from None
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
        try:
            place, part = find_part(value, _is_no_data) or ("", value)
        except RecursionError:
            place, part = "", value
        why = "" if type(error) is NotDataError else f" ({misfit_of(error).reason})"
        return PayloadError(
            f"{_capital(what)}{_at(what, place)} cannot be recorded: {describe(part)}"
            f" is no data{why}.",
            hint=advice_for(type(part)) or HINT_OF_DATA,
        )


def _is_no_data(part: Any) -> bool:
    try:
        _encode(part)
    except Exception:  # noqa: BLE001 - a value's own code may raise anything
        return True
    return False


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
        f"{_capital(what)}{_at(what, place)} is {found}; without an annotation it would"
        f" come back as {_plain_form(value)}.",
        hint=advice_for(kind)
        or "Annotate the parameter or result with its exact type.",
    )


def _plain_form(value: Any) -> str:
    """What JSON makes of a value."""
    try:
        plain = msgspec.json.decode(_encode(value))
    except Exception:  # noqa: BLE001 - a value's own code may raise anything
        return "something else"
    return describe(plain)


def decode(payload: Payload, hint: Any, what: str) -> Any:
    """Turn a recorded payload into the value that the code asks for.

    Raises:
        UndecodableError: it does not fit the annotation, or its encoding is not one
            that this program allows.
    """
    encoding = payload.encoding
    if encoding == JSON_PLAIN:
        read = _find_form(hint)[0]
        try:
            return read(payload.json)
        except Exception:  # noqa: BLE001, S110 - a plan may know better
            pass
        try:
            return _read(payload.json, hint)
        except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
            misfit = misfit_of(error)
            raise UndecodableError(
                f"{_capital(what)} was recorded, but{_at(what, misfit.place)} does not"
                f" fit {name_of(hint)} now: {misfit.reason}.",
                hint=misfit.advice
                or "Give new fields a default, and keep old ones readable.",
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
    own = _find_plan(type(value))  # its zones and unions are in no way the annotation's
    try:
        data = _encode_json(value if own is None else own.lower(value), "it")
    except (PayloadError, MisfitError):
        return None
    if find_part(value, is_not_finite) is not None:
        return None
    try:
        copy = _read(data, hint)
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
            f"{_capital(what)} would still change when it is read as {name_of(hint)}.",
            hint="Annotate it with its exact type.",
        )
    return encode(value, hint, what)


def _reading(value: Any, hint: Any) -> str:
    """What an annotation makes of a value: types only, and nothing of the value."""
    return f"{name_of(hint)} {hashlib.sha256(kinds(value).encode()).hexdigest()}"


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


def _capital(what: str) -> str:
    return what[:1].upper() + what[1:]
