"""`heartbeat()`: an activity says that it goes on, and how far it has come."""

from __future__ import annotations

from typing import Any

from durable.api.activities.activity_context import get_context
from durable.converter import json


def heartbeat(*details: Any) -> None:
    """Say that the running activity goes on, and how far it has come.

    It never waits: what is said is written soon, and of many times in a row only the
    last. The next attempt finds it in `activity_info().heartbeat_details`, whatever
    ended this one. With a `heartbeat_timeout` an attempt that is silent for so long is
    given up. It can be called anywhere in the activity, from its threads too.

    Args:
        *details: what the next attempt is to know, as any values that can be recorded.

    Raises:
        NotInWorkflowError: no activity of an engine is running here.
        PayloadError: a detail cannot be recorded as it is.
    """
    context = get_context("durable.heartbeat()")
    payloads = tuple(
        json.encode(value, type(value), f"detail {number} of a heartbeat")
        for number, value in enumerate(details, 1)
    )
    if context.beat is not None:
        context.beat(context, payloads)
