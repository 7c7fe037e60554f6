"""One struct per command: what a workflow asks for, before it is an event.

Names and meanings are Temporal's. Durations are microseconds. A command is plain data;
`source` is the line of workflow code that issued it and is never compared.
The event that records a command is derived from it.
"""

from __future__ import annotations

from typing import ClassVar, TypeAlias

import msgspec

from durable.core.history.payload import Failure, Payload, Payloads


class RetrySettings(msgspec.Struct, frozen=True, gc=False):
    """A retry policy written out, defaults included, but for `jitter`."""

    max_attempts: int
    initial_interval: int
    max_interval: int
    backoff_coefficient: float
    retryable_errors: tuple[str, ...]
    non_retryable: tuple[str, ...]
    jitter: float | msgspec.UnsetType = msgspec.UNSET


ONE_ATTEMPT = RetrySettings(
    max_attempts=1,
    initial_interval=1_000_000,
    max_interval=60_000_000,
    backoff_coefficient=2.0,
    retryable_errors=(),
    non_retryable=(),
)


class ActivitySettings(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Everything that rules how an activity runs, written out in its event.

    `is_step` says that its code is a closure, which only the run's owner has;
    `is_local` that it is written with a turn that comes later.
    """

    task_queue: str
    start_to_close_timeout: int | None
    schedule_to_close_timeout: int | None
    schedule_to_start_timeout: int | None
    heartbeat_timeout: int | None
    retry_policy: RetrySettings
    cancellation_type: str
    at_most_once: bool
    effect: str | msgspec.UnsetType = msgspec.UNSET
    """"read" or "transaction": what was cut short has had none, or none that counts."""
    in_doubt: str | msgspec.UnsetType = msgspec.UNSET
    """Of `at_most_once`: "verify", "wait" or both; else it raises."""
    is_step: bool | msgspec.UnsetType = msgspec.UNSET
    is_local: bool | msgspec.UnsetType = msgspec.UNSET
    priority: int | None = None
    fairness_key: str = ""
    fairness_weight: int = 1

    @property
    def is_verified(self) -> bool:
        """Whether its code finds out what an attempt in doubt has done."""
        return bool(self.in_doubt) and "verify" in str(self.in_doubt)

    @property
    def waits_in_doubt(self) -> bool:
        """Whether an operator says what becomes of one in doubt."""
        return bool(self.in_doubt) and "wait" in str(self.in_doubt)


class _Command(msgspec.Struct, frozen=True, gc=False):
    is_input: ClassVar[bool] = False
    """Of the event that records it: replay does not hand it to the code."""


class ScheduleActivityTask(_Command, frozen=True):
    """Run an activity."""

    activity_id: str
    activity_type: str
    input: Payloads
    settings: ActivitySettings
    headers: dict[str, str]
    summary: str | None = None
    source: str = ""


class RequestCancelActivityTask(_Command, frozen=True):
    """Ask a running activity to stop."""

    activity_id: str
    scheduled_event_id: int
    source: str = ""


class StartTimer(_Command, frozen=True):
    """Wake the workflow after a while."""

    timer_id: str
    start_to_fire_timeout: int
    summary: str | None = None
    source: str = ""


class CancelTimer(_Command, frozen=True):
    """Drop a timer that has not fired."""

    timer_id: str
    started_event_id: int
    source: str = ""


class RecordMarker(_Command, frozen=True):
    """Keep a fact of the library itself: a patch, a side effect."""

    marker_name: str
    details: dict[str, Payload]
    source: str = ""


class ChildSettings(msgspec.Struct, frozen=True, gc=False):
    """Everything that rules a child workflow, written out in its event.

    `inherit_parent_timeout`, `propagate_failures` and `wait_for_cancellation` are the
    code's business; they are recorded to be read.
    """

    task_queue: str
    run_timeout: int | None
    execution_timeout: int | None
    parent_close_policy: str
    cancellation_type: str
    id_reuse_policy: str
    version: str | None
    memo: dict[str, Payload]
    inherit_parent_timeout: bool
    propagate_failures: bool
    retry_policy: RetrySettings | msgspec.UnsetType = msgspec.UNSET
    last_result: Payload | msgspec.UnsetType = msgspec.UNSET
    last_failure: Failure | msgspec.UnsetType = msgspec.UNSET
    attributes: dict[str, Payload] = {}


class StartChildWorkflowExecution(_Command, frozen=True):
    """Start a run of another workflow as this run's child."""

    workflow_id: str
    workflow_type: str
    input: Payloads
    settings: ChildSettings
    headers: dict[str, str]
    summary: str | None = None
    source: str = ""


class SignalExternalWorkflowExecution(_Command, frozen=True):
    """Send a signal to another run."""

    workflow_id: str
    run_id: str | None
    signal_name: str
    input: Payloads
    headers: dict[str, str]
    child_workflow_only: bool = False
    source: str = ""


class RequestCancelExternalWorkflowExecution(_Command, frozen=True):
    """Ask another run to stop."""

    workflow_id: str
    run_id: str | None
    reason: str
    child_workflow_only: bool = False
    source: str = ""


ExternalCommand: TypeAlias = (
    SignalExternalWorkflowExecution | RequestCancelExternalWorkflowExecution
)


class CompleteWorkflowExecutionUpdate(_Command, frozen=True):
    """Answer an accepted update: with a result, or with a failure."""

    update_id: str
    result: Payload | None = None
    failure: Failure | None = None


class SetState(_Command, frozen=True):
    """Publish what the run shows of itself."""

    previous: Payload | None
    current: Payload


class UpsertWorkflowSearchAttributes(_Command, frozen=True):
    """Change what the run is found by; null takes an attribute away."""

    attributes: dict[str, Payload]
    source: str = ""


class ModifyWorkflowProperties(_Command, frozen=True):
    """Change the run's memo; null takes a value away."""

    memo: dict[str, Payload]
    source: str = ""


class ContinueAsNewWorkflowExecution(_Command, frozen=True):
    """End the run, and begin the next of its chain with a fresh history."""

    new_run_id: str
    workflow_type: str
    input: Payloads
    task_queue: str
    run_timeout: int | None
    memo: dict[str, Payload]
    headers: dict[str, str]
    attributes: dict[str, Payload] = {}
    version: str | msgspec.UnsetType = msgspec.UNSET
    """That of the next run, if it is none of what follows from this one."""
    migrated_from: str | msgspec.UnsetType = msgspec.UNSET
    """The version whose input the rules made that of `version`."""


class CompleteWorkflowExecution(_Command, frozen=True):
    """End the run with a result."""

    result: Payload


class FailWorkflowExecution(_Command, frozen=True):
    """End the run with a failure; its chain may go on with another try."""

    failure: Failure
    new_run_id: str | msgspec.UnsetType = msgspec.UNSET


class CancelWorkflowExecution(_Command, frozen=True):
    """End the run as cancelled, after cancellation was requested."""

    failure: Failure | None = None


Command: TypeAlias = (
    ScheduleActivityTask
    | RequestCancelActivityTask
    | StartTimer
    | CancelTimer
    | RecordMarker
    | StartChildWorkflowExecution
    | SignalExternalWorkflowExecution
    | RequestCancelExternalWorkflowExecution
    | CompleteWorkflowExecutionUpdate
    | SetState
    | UpsertWorkflowSearchAttributes
    | ModifyWorkflowProperties
    | ContinueAsNewWorkflowExecution
    | CompleteWorkflowExecution
    | FailWorkflowExecution
    | CancelWorkflowExecution
)
