"""Values of the library's own as payloads: they need none of the care that users' do.

What a user's value may lose on its way is found out by reading it back; these types are
known to lose nothing, and a schedule writes some for each of its runs.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar

import msgspec

from durable.core.history.payload import Payload
from durable.errors import UndecodableError

T = TypeVar("T")


def pack(value: Any) -> Payload:
    """Turn a struct, or plain data, into a payload."""
    return Payload(json=msgspec.Raw(msgspec.json.encode(value)))


def unpack(payload: Payload, type: type[T]) -> T:
    """Turn a payload back.

    Raises:
        UndecodableError: it is of no type that this release knows.
    """
    kind: Any = type
    try:
        value: T = _decoder(kind).decode(payload.json)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UndecodableError(
            f"A {type.__name__} of a schedule cannot be read: {error}",
            hint="A newer release may have written it: use that.",
        ) from error
    return value


@functools.cache
def _decoder(type: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(type)
