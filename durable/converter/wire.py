"""JSON of single values, typed by annotations that msgspec knows, and a few more types.

What an annotation needs beyond this is in `plans`.
"""

# Values of any type pass through here, so their parts have no static type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import ipaddress
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any, Final, LiteralString, Never, NoReturn
from zoneinfo import ZoneInfo

import msgspec
import typing_extensions

from durable.converter.refusals import HINT_OF_DATA, advice_for, misfit_of_pydantic
from durable.errors import DefinitionError

# Types whose text says all of them.
TEXTUAL: Final = (
    pathlib.PurePath,
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
    ZoneInfo,
)
# What msgspec refuses, though it means something here.
_STANDS_FOR: Final[dict[Any, Any]] = {
    Never: type(None),
    NoReturn: type(None),
    typing_extensions.Never: type(None),
    LiteralString: str,
}


class NotDataError(NotImplementedError):
    """A value is of a type that is no data; the text names the type."""


def is_model(kind: Any) -> bool:
    """Whether it is a model class of pydantic."""
    pydantic = sys.modules.get("pydantic")
    return (
        pydantic is not None
        and isinstance(kind, type)
        and issubclass(kind, pydantic.BaseModel)
    )


def _encode_extra(value: Any) -> Any:
    """Encode what msgspec does not know."""
    if is_model(type(value)):
        return msgspec.Raw(value.model_dump_json().encode())
    if isinstance(value, TEXTUAL) and (type(value) is not ZoneInfo or value.key):
        return str(value)
    if isinstance(value, complex):
        return [value.real, value.imag]
    raise NotDataError(type(value).__qualname__)


def _decode_extra(hint: Any, data: Any) -> Any:
    """Decode what `_encode_extra` wrote, by the annotated type."""
    if hint is object:
        return data
    if is_model(hint):
        try:
            return hint.model_validate_json(msgspec.json.encode(data))
        except Exception as error:  # a model's own code may raise anything
            misfit = misfit_of_pydantic(error, hint)
            if misfit is None:
                raise
            raise misfit from None
    if not isinstance(hint, type):
        raise NotImplementedError(str(hint))
    if issubclass(hint, TEXTUAL) and isinstance(data, str):
        return hint(data)
    if issubclass(hint, complex):
        return hint(*data)
    raise NotImplementedError(hint.__qualname__)


def is_textual(kind: Any) -> bool:
    """Whether its values are written as their text."""
    return isinstance(kind, type) and issubclass(kind, TEXTUAL)


def is_known(kind: Any) -> bool:
    """Whether a class that msgspec does not know is one that this module does."""
    return (
        kind in (object, Any) or is_model(kind) or issubclass(kind, (*TEXTUAL, complex))
    )


encode: Final = msgspec.json.Encoder(enc_hook=_encode_extra).encode
_decoders: Final[dict[Any, Callable[[Any], Any]]] = {}


def find_decoder(hint: Any) -> Callable[[Any], Any]:
    """The function that decodes raw JSON by an annotation, kept for each annotation.

    Raises:
        DefinitionError: msgspec does not decode by it.
    """
    try:
        decode = _decoders.get(hint)
    except TypeError:  # an unhashable annotation cannot be kept
        return _make_decoder(hint)
    if decode is None:
        decode = _decoders[hint] = _make_decoder(hint)
    return decode


def _make_decoder(hint: Any) -> Callable[[Any], Any]:
    with contextlib.suppress(TypeError):  # it may be unhashable
        hint = _STANDS_FOR.get(hint, hint)
    try:
        return msgspec.json.Decoder(hint, dec_hook=_decode_extra).decode
    except (TypeError, NameError, AttributeError, RecursionError) as error:
        is_endless = isinstance(error, RecursionError)
        why = "it refers to itself without end" if is_endless else error
        raise DefinitionError(
            f"The annotation {name_of(hint)} cannot be decoded: {why}.",
            hint=advice_for(hint) or HINT_OF_DATA,
        ) from None


def name_of(hint: Any) -> str:
    """How errors call an annotation."""
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return hint.__qualname__
    return str(hint)
