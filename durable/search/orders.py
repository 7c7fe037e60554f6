"""In which order runs are listed, and the cursors that a listing goes on from."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec

from durable.errors import InvalidOptionError

NOT_CLOSED: Final = 2**62
"""Where an open run stands among instants of closing: behind all of them."""


class Order(msgspec.Struct, frozen=True):
    """By an instant, then by run id, both in the same direction."""

    field: str = "StartTime"
    is_descending: bool = True

    @property
    def mark(self) -> str:
        """What tells its cursors from those of others."""
        return f"{'s' if self.field == 'StartTime' else 'c'}{int(self.is_descending)}"


def order_by(name: object, *, descending: bool = True) -> Order:
    """Return the order of a listing.

    Raises:
        InvalidOptionError: runs are not listed by that.
    """
    if name in ("StartTime", "ExecutionTime"):
        return Order("StartTime", descending)
    if name == "CloseTime":
        return Order("CloseTime", descending)
    raise InvalidOptionError(
        f"Runs are not listed in the order of {name!r}: give StartTime or CloseTime."
    )


class Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a run stands in a listing."""

    mark: str
    instant: int
    run_id: str


_decode: Final = msgspec.json.Decoder(Position).decode


def write_cursor(order: Order, instant: int, run_id: str) -> str:
    """Return the text that a listing goes on from."""
    text = msgspec.json.encode(Position(order.mark, instant, run_id))
    return urlsafe_b64encode(text).decode().rstrip("=")


def read_cursor(text: object, order: Order, name: str = "after") -> Position:
    """Return where a listing goes on.

    Raises:
        InvalidOptionError: it is no cursor, or that of a listing in another order.
    """
    try:
        if isinstance(text, str):
            found = _decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            if found.mark == order.mark and abs(found.instant) <= NOT_CLOSED:
                return found
    except (msgspec.MsgspecError, binascii.Error, ValueError):
        pass
    raise InvalidOptionError(
        f"{name} is {text!r}: give the cursor that the page before ended with, of a"
        " listing in the same order."
    )
