"""What a running activity may ask: which run and attempt it serves, whether to stop."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from durable.errors import NotInWorkflowError
from durable.observer import WorkerObserver


class ActivityInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one attempt.

    Attributes:
        attempt: counted from 1.
        scheduled_at: when the workflow asked for the activity, microseconds since 1970.
        started_at: when this attempt began, likewise.
        idempotency_key: the same for every attempt of this activity, and for no other
            one: hand it to services that drop repeated requests.
    """

    activity_type: str
    activity_id: str
    attempt: int
    workflow_type: str
    workflow_id: str
    run_id: str
    scheduled_at: int
    started_at: int
    start_to_close_timeout: int | None

    @property
    def idempotency_key(self) -> str:
        """See the class."""
        return f"{self.run_id}/{self.activity_id}"


NO_RESOURCES: Final[Mapping[Any, object]] = MappingProxyType({})


class ActivityContext(msgspec.Struct, eq=False):
    """The attempt that the current task or thread runs."""

    info: ActivityInfo
    engine: object = None
    resources: Mapping[Any, object] = NO_RESOURCES
    watch: WorkerObserver | None = None
    is_cancelled: bool = False
    """A plain flag: threads read it, the loop's thread sets it, nobody waits."""

    def cancel(self) -> None:
        """Ask the attempt to stop."""
        self.is_cancelled = True


CURRENT: Final[contextvars.ContextVar[ActivityContext | None]] = contextvars.ContextVar(
    "durable_activity", default=None
)


def activity_info() -> ActivityInfo:
    """Facts of the running attempt; works in async activities and in threads.

    Raises:
        NotInWorkflowError: no activity of an engine is running here.
    """
    return _get("durable.activity_info()").info


def is_activity_cancelled() -> bool:
    """Whether the running activity was asked to stop, or has run out of time.

    Async activities get `CancelledError`; a function in a thread has to look.

    Raises:
        NotInWorkflowError: no activity of an engine is running here.
    """
    return _get("durable.is_activity_cancelled()").is_cancelled


def activity_engine(operation: str) -> object:
    """The engine whose worker runs the activity.

    Raises:
        NotInWorkflowError: no async activity of an engine is running here.
    """
    engine = _get(operation).engine
    if asyncio._get_running_loop() is None:
        raise NotInWorkflowError(
            f"{operation} was called in an activity that runs in a thread.",
            hint="Make the activity async: an engine belongs to its event loop.",
        )
    return engine


def in_activity() -> bool:
    """Whether an engine's activity is running here."""
    return CURRENT.get() is not None


def _get(operation: str) -> ActivityContext:
    context = CURRENT.get()
    if context is None:
        raise NotInWorkflowError(
            f"{operation} was called outside of an activity that an engine runs.",
            hint="Guard it with durable.in_activity() if the function is also called"
            " directly.",
        )
    return context
