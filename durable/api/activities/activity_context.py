"""What a running activity may ask: which run and attempt it serves, whether to stop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, Final, TypeVar

import msgspec

from durable.api.activities.interruption import Interruption
from durable.api.activities.worker_stopping import WorkerStopping
from durable.converter import json
from durable.core.history.commands import ActivitySettings, RetrySettings
from durable.core.history.payload import Payloads, changed_headers
from durable.errors import InvalidCallError, NotInWorkflowError
from durable.observer import WorkerObserver
from durable.options import Duration, RetryPolicy, to_seconds

T = TypeVar("T")
# How long a function that waits may not see that it was asked to stop.
_LOOK_SECONDS: Final = 0.05


class ActivityCancellationReason(enum.Enum):
    """Why a running activity is asked to stop."""

    REQUESTED = "requested"
    """Its workflow has cancelled it."""
    TIMED_OUT = "timed_out"
    """Its time is up: another attempt may follow."""
    WORKER_STOPPING = "worker_stopping"
    """The worker closes, and its `drain_timeout` is over."""
    RUN_CLOSED = "run_closed"
    """Its run has ended, however that was."""
    RUN_LOST = "run_lost"
    """Its run is another worker's now, or was reset: what this attempt does counts for
    nothing."""


class ActivityInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one attempt. Instants are microseconds since 1970, spans microseconds.

    Attributes:
        attempt: counted from 1.
        scheduled_at: when the workflow asked for the activity.
        started_at: when this attempt began.
        task_queue: the queue that it was taken from.
        settings: everything that rules how it runs, as it is recorded; most of it can
            be had by the names below.
        heartbeats: what `heartbeat` said last in the attempt before, as it is kept.
        run_headers, own_headers: those that its run began with, and those of its call.
    """

    activity_type: str
    activity_id: str
    attempt: int
    workflow_type: str
    workflow_id: str
    run_id: str
    scheduled_at: int
    started_at: int
    task_queue: str
    settings: ActivitySettings
    heartbeats: Payloads | None = None
    run_headers: Mapping[str, str] = {}
    own_headers: Mapping[str, str] = {}

    @property
    def headers(self) -> dict[str, str]:
        """What travels with it: see `Interceptor`."""
        return changed_headers(self.run_headers, self.own_headers)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this activity, and for no other one.

        Hand it to services that drop repeated requests.
        """
        return f"{self.run_id}/{self.activity_id}"

    @property
    def start_to_close_timeout(self) -> int | None:
        """The longest that this attempt may take."""
        return self.settings.start_to_close_timeout

    @property
    def schedule_to_close_timeout(self) -> int | None:
        """The longest that the activity may take with all retries."""
        return self.settings.schedule_to_close_timeout

    @property
    def schedule_to_start_timeout(self) -> int | None:
        """The longest that an attempt may wait for a worker."""
        return self.settings.schedule_to_start_timeout

    @property
    def heartbeat_timeout(self) -> int | None:
        """The longest that it may be silent."""
        return self.settings.heartbeat_timeout

    @property
    def heartbeat_details(self) -> tuple[Any, ...]:
        """What `heartbeat` was called with last by an attempt before this one.

        As plain data, such as dicts and lists; empty if there was none.
        """
        kept = self.heartbeats or ()
        return tuple(json.decode(one, Any, "a heartbeat's detail") for one in kept)

    def heartbeat_detail(self, kind: type[T], number: int = 1) -> T | None:
        """One of these, as a value of a class; None if there was none.

        Raises:
            PayloadError, DefinitionError: it is no such value.
        """
        kept = self.heartbeats or ()
        if number > len(kept):
            return None
        found: T = json.decode(kept[number - 1], kind, "a heartbeat's detail")
        return found

    @property
    def deadline(self) -> int:
        """The instant at which this attempt is given up, unless it ends before."""
        settings = self.settings
        ends: list[int] = []
        if settings.start_to_close_timeout is not None:
            ends.append(self.started_at + settings.start_to_close_timeout)
        if settings.schedule_to_close_timeout is not None:
            ends.append(self.scheduled_at + settings.schedule_to_close_timeout)
        return min(ends)  # an activity has one of them at least

    @property
    def retry_policy(self) -> RetryPolicy:
        """When and how often it runs again; exception classes are names."""
        return policy_of(self.settings.retry_policy)


def policy_of(settings: RetrySettings) -> RetryPolicy:
    """A recorded retry policy, as it would be written."""
    return RetryPolicy(
        max_attempts=settings.max_attempts,
        initial_interval=settings.initial_interval / 1_000_000,
        max_interval=settings.max_interval / 1_000_000,
        backoff_coefficient=settings.backoff_coefficient,
        retryable_errors=settings.retryable_errors,
        non_retryable=settings.non_retryable,
        jitter=settings.jitter or 0.0,
    )


NO_RESOURCES: Final[Mapping[Any, object]] = MappingProxyType({})
_NEVER: Final = WorkerStopping()


class ActivityContext(msgspec.Struct, eq=False):
    """The attempt that the current task or thread runs."""

    info: ActivityInfo
    engine: object = None
    resources: Mapping[Any, object] = NO_RESOURCES
    watch: WorkerObserver | None = None
    worker_stopping: WorkerStopping = _NEVER
    is_cancelled: bool = False
    """A plain flag: threads read it, the loop's thread sets it, nobody waits."""
    reason: ActivityCancellationReason | None = None
    """Why; the first counts."""
    beat: Callable[[ActivityContext, Payloads], None] | None = None
    """Takes its heartbeats."""
    attempt: Any = None
    """What the worker knows it by; not its call, or both would await the collector."""
    hand_out: Callable[[ActivityContext], Future[str]] | None = None
    """Leaves its outcome to whoever has the token that this gives."""
    interruption: Interruption | None = None
    """How the thread of a plain function is interrupted, if it may be."""

    def cancel(self, reason: ActivityCancellationReason) -> None:
        """Ask the attempt to stop."""
        if not self.is_cancelled:
            self.reason = reason
            self.is_cancelled = True


CURRENT: Final[contextvars.ContextVar[ActivityContext | None]] = contextvars.ContextVar(
    "durable_activity", default=None
)


def activity_info() -> ActivityInfo:
    """Facts of the running attempt; works in async activities, threads and processes.

    Raises:
        NotInWorkflowError: no activity of an engine is running here.
    """
    return get_context("durable.activity_info()").info


def is_activity_cancelled() -> bool:
    """Whether the running activity was asked to stop, or has run out of time.

    Async activities get `CancelledError`, and so do plain functions, between two lines
    of theirs; a function with `cancel_thread=False` has to look.

    Raises:
        NotInWorkflowError: no activity of an engine is running here.
    """
    return get_context("durable.is_activity_cancelled()").is_cancelled


def activity_cancellation_reason() -> ActivityCancellationReason | None:
    """Why the running activity was asked to stop; None if it was not.

    Raises:
        NotInWorkflowError: no activity of an engine is running here.
    """
    return get_context("durable.activity_cancellation_reason()").reason


def is_worker_stopping() -> bool:
    """Whether the worker that runs the activity closes.

    It is true from the moment at which the worker begins to wait for what runs: there
    is its `drain_timeout` to come to an end, and only then the activity is cancelled.

    Raises:
        NotInWorkflowError: no activity of an engine is running here.
    """
    return get_context("durable.is_worker_stopping()").worker_stopping.has_begun


async def wait_for_worker_stopping() -> None:
    """Wait until the worker that runs the activity closes; for async activities.

    Raises:
        NotInWorkflowError: no activity of an engine is running here.
    """
    await get_context("durable.wait_for_worker_stopping()").worker_stopping.wait()


def wait_for_worker_stopping_sync(timeout: Duration | None = None) -> bool:
    """Wait until the worker closes; for plain functions, in threads and processes.

    Args:
        timeout: how long to wait; without end by default.

    Returns:
        Whether it closes.

    Raises:
        NotInWorkflowError: no activity of an engine is running here.
        CancelledError: the activity was asked to stop meanwhile.
    """
    context = get_context("durable.wait_for_worker_stopping_sync()")
    seconds = to_seconds(timeout, "timeout")
    ends_at = None if seconds is None else time.monotonic() + seconds
    while True:
        left = _LOOK_SECONDS
        if ends_at is not None:
            left = min(left, max(0.0, ends_at - time.monotonic()))
        if context.worker_stopping.wait_in_thread(left):
            return True
        if context.interruption is not None:
            context.interruption.check()
        if left == 0:
            return False


def shield_cancellation() -> AbstractContextManager[None]:
    """Keep cancellation away from a block of a plain function, until it is left.

        with shield_cancellation():
            os.replace(new, path)
            index.add(path)

    The `CancelledError` is raised when the outermost such block is left. Outside of
    activities the block simply runs, since nothing cancels it.

    Raises:
        InvalidCallError: it is an async activity: there `asyncio.shield` does it.
    """
    context = CURRENT.get()
    if context is None:
        return contextlib.nullcontext()
    if asyncio._get_running_loop() is not None:
        raise InvalidCallError(
            "durable.shield_cancellation() was called in an async activity.",
            hint="Use asyncio.shield(), or catch the CancelledError.",
        )
    return context.interruption or contextlib.nullcontext()


def activity_engine(operation: str) -> object:
    """The engine whose worker runs the activity.

    Raises:
        NotInWorkflowError: no async activity of an engine is running here.
    """
    engine = get_context(operation).engine
    if asyncio._get_running_loop() is None:
        raise NotInWorkflowError(
            f"{operation} was called in an activity that runs in a thread or process.",
            hint="Make the activity async: an engine belongs to its event loop.",
        )
    if engine is None:
        raise NotInWorkflowError(
            f"{operation} was called in an activity that an ActivityExecutor runs:"
            " there is no engine.",
            hint="Hand it what it needs as an argument or a resource.",
        )
    return engine


def in_activity() -> bool:
    """Whether an engine's activity is running here."""
    return CURRENT.get() is not None


def get_context(operation: str) -> ActivityContext:
    """The attempt that runs here.

    Raises:
        NotInWorkflowError: there is none.
    """
    context = CURRENT.get()
    if context is None:
        raise NotInWorkflowError(
            f"{operation} was called outside of an activity that an engine runs.",
            hint="Guard it with durable.in_activity() if the function is also called"
            " directly.",
        )
    return context
