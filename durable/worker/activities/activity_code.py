"""What an attempt runs: an activity of the user's, or one of the library's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from durable.api.activities.activity import Activity
from durable.api.activities.activity_context import NO_RESOURCES, ActivityInfo
from durable.api.interceptors.chains import NO_INTERCEPTORS, Interceptors
from durable.core.history.payload import Payload, Payloads


class BuiltIn:
    """An activity of the library's own.

    It does nothing but wait for others, so it takes no place that user code could need:
    whoever it waits for may need one.
    """

    is_async: Final = True
    lane: Final = "loop"
    is_heard: Final = False

    def __init__(
        self, name: str, perform: Callable[[Payloads, ActivityInfo], Awaitable[Payload]]
    ) -> None:
        self.name = name
        self.perform = perform


class EngineParts(msgspec.Struct, frozen=True):
    """What an engine hands to its activities.

    Attributes:
        built_in: activities of the library's own, by name.
        engine: the engine itself, for `durable.activity_client`.
        resources: what it was given for them, by class or name.
        interceptors: surround those that are not built in.
    """

    built_in: Mapping[str, BuiltIn]
    engine: object
    resources: Mapping[Any, object] = NO_RESOURCES
    interceptors: Interceptors = NO_INTERCEPTORS


Code: TypeAlias = Activity[Any, Any] | BuiltIn
"""What an attempt runs."""
