"""What an attempt runs: an activity of the user's, or one of the library's own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, Protocol, TypeAlias

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
    retry_budget: Final = None

    def __init__(
        self, name: str, perform: Callable[[Payloads, ActivityInfo], Awaitable[Payload]]
    ) -> None:
        self.name = name
        self.perform = perform


class Transaction(Protocol):
    """A transaction that an activity writes in; see `durable.store.callers`."""

    given: Any
    is_committing: bool

    def check(self) -> None:
        """See that the activity has not ended it."""
        ...

    def finish(self, attempt: tuple[str, int, int, str], progress: str) -> None:
        """Commit it with how the attempt has ended."""
        ...


class Transactions(Protocol):
    """Begins transactions in the engine's own database."""

    def begin(
        self, kind: type[Any], source: object
    ) -> AbstractContextManager[Transaction]:
        """Begin one in this thread."""
        ...

    def begin_async(
        self, kind: type[Any], source: object
    ) -> AbstractAsyncContextManager[Transaction]:
        """Begin one for code that awaits."""
        ...


class EngineParts(msgspec.Struct, frozen=True):
    """What an engine hands to its activities.

    Attributes:
        built_in: activities of the library's own, by name.
        engine: the engine itself, for `durable.activity_client`.
        resources: what it was given for them, by class or name.
        transactions: gives the transactions of its database; any thread may ask.
        interceptors: surround those that are not built in.
    """

    built_in: Mapping[str, BuiltIn]
    engine: object
    resources: Mapping[Any, object] = NO_RESOURCES
    transactions: Callable[[], Transactions] | None = None
    interceptors: Interceptors = NO_INTERCEPTORS


Code: TypeAlias = Activity[Any, Any] | BuiltIn
"""What an attempt runs."""
