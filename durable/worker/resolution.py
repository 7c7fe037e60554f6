"""What an operator decides of an activity whose result could not be recorded."""

from __future__ import annotations

import msgspec

from durable.core.payload import Payload


class ActivityResolution(msgspec.Struct, frozen=True):
    """Run the activity again, or take this as its result; a message's data.

    Attributes:
        activity_id: the activity's id within the run.
        attempt: the attempt that the operator has seen.
        result: what to take as its result; None runs it again.
        identity: who decided.
    """

    activity_id: str
    attempt: int
    result: Payload | None = None
    identity: str = ""
