"""In which order runs are listed."""

from __future__ import annotations

from typing import Any

import msgspec

from durable.errors import InvalidOptionError


class Order(msgspec.Struct, frozen=True):
    """By an instant, then by run id, both in the same direction.

    In the order of CloseTime only closed runs are listed: others have none.
    """

    field: str = "StartTime"
    is_descending: bool = True

    def instant_of(self, record: Any) -> int | None:
        """Return what a run stands by; None if it is not listed."""
        instant: int | None = (
            record.started_at if self.field == "StartTime" else record.closed_at
        )
        return instant


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
