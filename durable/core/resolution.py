"""What an operator decides of an activity whose result could not be recorded."""

from __future__ import annotations

import msgspec

from durable.core.payload import Payload


class ActivityResolution(msgspec.Struct, frozen=True):
    """Run the activity again, or take this as its result; a message's data.

    Attributes:
        scheduled_event_id: the event that scheduled the activity.
        attempt: the attempt that the operator has seen.
        result: what to take as its result; None runs it again.
        identity: who decided.
    """

    scheduled_event_id: int
    attempt: int
    result: Payload | None = None
    identity: str = ""
