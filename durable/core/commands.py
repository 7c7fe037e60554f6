"""One struct per command: what a workflow asks for, before it is an event.

Names and meanings are Temporal's. Durations are microseconds. A command is plain data;
`source` is the line of workflow code that issued it and is never compared.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from durable.core.payload import Failure, Payload, Payloads

ACTIVITY_RETRY_UNBOUNDED = 0


class RetrySettings(msgspec.Struct, frozen=True, gc=False):
    """A retry policy written out, defaults included."""

    max_attempts: int
    initial_interval: int
    max_interval: int
    backoff_coefficient: float
    retryable_errors: tuple[str, ...]
    non_retryable: tuple[str, ...]


ONE_ATTEMPT = RetrySettings(
    max_attempts=1,
    initial_interval=1_000_000,
    max_interval=60_000_000,
    backoff_coefficient=2.0,
    retryable_errors=(),
    non_retryable=(),
)


class ActivitySettings(msgspec.Struct, frozen=True, gc=False):
    """Everything that rules how an activity runs, written out in its event."""

    task_queue: str
    start_to_close_timeout: int | None
    schedule_to_close_timeout: int | None
    schedule_to_start_timeout: int | None
    heartbeat_timeout: int | None
    retry_policy: RetrySettings
    cancellation_type: str
    at_most_once: bool


class ScheduleActivityTask(msgspec.Struct, frozen=True, gc=False):
    """Run an activity."""

    activity_id: str
    activity_type: str
    input: Payloads
    settings: ActivitySettings
    headers: dict[str, str]
    summary: str | None = None
    source: str = ""


class RequestCancelActivityTask(msgspec.Struct, frozen=True, gc=False):
    """Ask a running activity to stop."""

    activity_id: str
    scheduled_event_id: int
    source: str = ""


class StartTimer(msgspec.Struct, frozen=True, gc=False):
    """Wake the workflow after a while."""

    timer_id: str
    start_to_fire_timeout: int
    summary: str | None = None
    source: str = ""


class CancelTimer(msgspec.Struct, frozen=True, gc=False):
    """Drop a timer that has not fired."""

    timer_id: str
    started_event_id: int
    source: str = ""


class RecordMarker(msgspec.Struct, frozen=True, gc=False):
    """Keep a fact of the library itself: a patch, a side effect."""

    marker_name: str
    details: dict[str, Payload]
    source: str = ""


class CompleteWorkflowExecution(msgspec.Struct, frozen=True, gc=False):
    """End the run with a result."""

    result: Payload


class FailWorkflowExecution(msgspec.Struct, frozen=True, gc=False):
    """End the run with a failure."""

    failure: Failure


class CancelWorkflowExecution(msgspec.Struct, frozen=True, gc=False):
    """End the run as cancelled, after cancellation was requested."""

    failure: Failure | None = None


Command: TypeAlias = (
    ScheduleActivityTask
    | RequestCancelActivityTask
    | StartTimer
    | CancelTimer
    | RecordMarker
    | CompleteWorkflowExecution
    | FailWorkflowExecution
    | CancelWorkflowExecution
)

CLOSING_COMMANDS = (
    CompleteWorkflowExecution,
    FailWorkflowExecution,
    CancelWorkflowExecution,
)
