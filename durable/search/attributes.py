"""The attributes of one run: what is said, what is recorded, what is read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from durable import limits
from durable.core.history.payload import NULL, Payload
from durable.errors import InvalidOptionError
from durable.search.conditions import Attribute
from durable.search.kinds import from_payload, to_payload


def encode_attributes(
    values: object, where: str, *, unsets: bool = False
) -> dict[str, Payload]:
    """Turn attributes into data; None takes one away, or is left out.

    Args:
        values: values by `Attribute`.
        where: what messages call them.
        unsets: whether None is recorded.

    Raises:
        InvalidOptionError: a key is no attribute, or a value is none of its type.
    """
    if not isinstance(values, Mapping):
        raise InvalidOptionError(
            f"{where} is {values!r}: give a mapping such as {{customer: 'ann'}}."
        )
    found: dict[str, Payload] = {}
    for one, value in cast("Mapping[Attribute[Any], object]", values).items():
        if not isinstance(one, Attribute):
            raise InvalidOptionError(
                f"{where} has the key {one!r}: give an Attribute, such as"
                f" Attribute({one!r}, str)."
            )
        name = one.name
        if name in found:
            raise InvalidOptionError(f"{where} gives the attribute {name!r} twice.")
        if value is not None:
            found[name] = to_payload(one.kind, value, f"the attribute {name!r}")
        elif unsets:
            found[name] = NULL
    check_count(found, where)
    return found


def check_count(values: Mapping[str, Payload], where: str) -> None:
    """Return if one run may have so many attributes.

    Raises:
        InvalidOptionError: it may not.
    """
    if len(values) > limits.ATTRIBUTES_MAX:
        raise InvalidOptionError(
            f"{where} makes {len(values)} attributes, at most {limits.ATTRIBUTES_MAX}"
            " are kept of a run."
        )


def decode_attributes(values: Mapping[str, Payload]) -> dict[str, Any]:
    """Return the values of attributes, by name."""
    return {name: from_payload(value) for name, value in values.items()}
