"""The observer that turns what an engine does into OpenTelemetry spans and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import Token
from types import TracebackType

import msgspec
from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, TracerProvider

from durable.observer import Attributes, Headers, Measurement, Note, WorkerState
from durable.telemetry import names, tracing
from durable.telemetry.metrics import Metrics
from durable.telemetry.tracing import Tracing, error_type_of, mark_failed


class OpenTelemetryObserver:
    """Give one to an engine: `Engine(url, observer=OpenTelemetryObserver())`.

    It uses the OpenTelemetry API and sets up nothing: spans and metrics go where the
    program's own providers send them, and nowhere if it has none. Several engines may
    share one observer. Ids are on spans only; payload values are nowhere.

    Args:
        tracer_provider: makes the spans; the global provider by default.
        meter_provider: makes the metrics; the global provider by default.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        """See the class."""
        self._tracing = Tracing(tracer_provider)
        self._metrics = Metrics(meter_provider)
        tracing.correlate_logs()

    def starting_workflow(
        self, *, workflow_type: str, workflow_id: str
    ) -> AbstractContextManager[Mapping[str, str]]:
        """Surround a start; the mapping it yields travels as the run's headers."""
        return self._tracing.start_workflow(
            workflow_type,
            {names.WORKFLOW_TYPE: workflow_type, names.WORKFLOW_ID: workflow_id},
        )

    def workflow_closed(
        self,
        *,
        workflow_type: str,
        workflow_id: str,
        run_id: str,
        task_queue: str,
        outcome: str,
        error_type: str | None,
        started_at: int,
        closed_at: int,
        headers: Mapping[str, str],
    ) -> None:
        """A run reached its terminal event."""
        shared = {
            names.WORKFLOW_TYPE: workflow_type,
            names.QUEUE: task_queue,
            names.OUTCOME: outcome,
        }
        if error_type is not None:
            shared[names.ERROR_TYPE] = error_type
        seconds = max(0, closed_at - started_at) / 1_000_000
        self._metrics.workflow_completed.add(1, shared)
        self._metrics.workflow_duration.record(seconds, shared)
        self._tracing.run_workflow(
            workflow_type,
            started_at=started_at,
            closed_at=closed_at,
            error_type=error_type,
            attributes={**shared, names.WORKFLOW_ID: workflow_id, names.RUN_ID: run_id},
            headers=headers,
        )

    def committed(self, *, operations: int, rows: int, duration: int) -> None:
        """A group of operations was committed; any thread may tell."""
        self._metrics.commit_duration.record(duration / 1_000_000)
        self._metrics.commit_rows.record(rows)
        self._metrics.commit_operations.record(operations)

    def worker_started(
        self, *, worker_id: str, task_queue: str, state: Callable[[], WorkerState]
    ) -> OpenTelemetryWorkerObserver:
        """A worker begins; what this returns receives what it does."""
        self._metrics.workers.add(worker_id, task_queue, state)
        return OpenTelemetryWorkerObserver(
            self._tracing, self._metrics, worker_id, task_queue
        )


class OpenTelemetryWorkerObserver:
    """What one worker does, as spans and metrics."""

    def __init__(
        self, tracing: Tracing, metrics: Metrics, worker_id: str, task_queue: str
    ) -> None:
        self.metrics = metrics
        self._tracing = tracing
        self._worker_id = worker_id
        self._queue = task_queue
        self._task: RunningWorkflowTask | None = None
        # The attempts that run, so that one which has run out of time says so.
        self.attempts: dict[tuple[str, str, int], RunningActivity] = {}

    def _of_workflow(self, workflow_type: str) -> dict[str, str]:
        return {names.WORKFLOW_TYPE: workflow_type, names.QUEUE: self._queue}

    def _of_activity(self, activity_type: str, workflow_type: str) -> dict[str, str]:
        shared = self._of_workflow(workflow_type)
        return {names.ACTIVITY_TYPE: activity_type, **shared}

    def running_workflow_task(
        self,
        *,
        workflow_type: str,
        workflow_id: str,
        run_id: str,
        task_number: int,
        attempt: int,
        waited: int,
        headers: Mapping[str, str],
    ) -> AbstractContextManager[Mapping[str, str]]:
        """Surround one live workflow task; yields the headers of its activities."""
        shared = self._of_workflow(workflow_type)
        self.metrics.workflow_task_wait.record(waited / 1_000_000, shared)
        span, parent = self._tracing.run_workflow_task(workflow_type, headers)
        if span.is_recording():
            span.set_attributes(
                {
                    **shared,
                    names.WORKFLOW_ID: workflow_id,
                    names.RUN_ID: run_id,
                    names.WORKFLOW_TASK_NUMBER: task_number,
                    names.WORKFLOW_TASK_ATTEMPT: attempt,
                    names.WORKER_ID: self._worker_id,
                }
            )
        self._task = RunningWorkflowTask(self.metrics, shared, span, parent, headers)
        return self._task

    def workflow_task_failed(self, *, error_type: str) -> None:
        """The workflow task that is running now could not be driven on."""
        if self._task is not None:
            self._task.error_type = error_type

    def replayed(self, *, workflow_type: str, events: int, duration: int) -> None:
        """A cold history was replayed."""
        shared = self._of_workflow(workflow_type)
        self.metrics.replay_duration.record(duration / 1_000_000, shared)

    def running_activity(
        self,
        *,
        activity_type: str,
        activity_id: str,
        attempt: int,
        workflow_type: str,
        workflow_id: str,
        run_id: str,
        waited: int,
        headers: Mapping[str, str],
        run_headers: Mapping[str, str],
    ) -> AbstractContextManager[None]:
        """Surround one attempt of an activity."""
        shared = self._of_activity(activity_type, workflow_type)
        self.metrics.activity_wait.record(waited / 1_000_000, shared)
        span, parent = self._tracing.run_activity(activity_type, headers, run_headers)
        if span.is_recording():
            span.set_attributes(
                {
                    **shared,
                    names.WORKFLOW_ID: workflow_id,
                    names.RUN_ID: run_id,
                    names.ACTIVITY_ID: activity_id,
                    names.ACTIVITY_ATTEMPT: attempt,
                    names.WORKER_ID: self._worker_id,
                }
            )
        key = run_id, activity_id, attempt
        running = RunningActivity(self.attempts, key, span, parent)
        self.attempts[key] = running
        return running

    def activity_closed(
        self,
        *,
        activity_type: str,
        activity_id: str,
        attempt: int,
        workflow_type: str,
        run_id: str,
        outcome: str,
        error_type: str | None,
        duration: int | None,
    ) -> None:
        """One attempt ended."""
        running = self.attempts.get((run_id, activity_id, attempt))
        if running is not None:
            running.outcome, running.error_type = outcome, error_type
        shared = self._of_activity(activity_type, workflow_type)
        ended = {**shared, names.OUTCOME: outcome}
        if error_type is not None:
            ended[names.ERROR_TYPE] = error_type
            self.metrics.activity_failed.add(1, ended)
        if duration is not None:
            self.metrics.activity_duration.record(duration / 1_000_000, ended)

    def span_headers(self, *, run_id: str, key: str, parent: Headers) -> Headers:
        """What travels with all that is begun in a span of workflow code."""
        return tracing.span_headers(run_id, key, parent)

    def noted(
        self, note: Note, *, workflow_type: str, workflow_id: str, run_id: str
    ) -> None:
        """Workflow code has measured something, or a span of its is over."""
        shared = self._of_workflow(workflow_type)
        if isinstance(note, Measurement):
            self.metrics.measured(note, shared)
            return
        ids = {names.WORKFLOW_ID: workflow_id, names.RUN_ID: run_id}
        self._tracing.workflow_span(note, run_id, {**note.attributes, **shared, **ids})

    def measured(
        self, measurement: Measurement, *, workflow_type: str, activity_type: str
    ) -> None:
        """An activity has measured something."""
        self.metrics.measured(
            measurement, self._of_activity(activity_type, workflow_type)
        )

    def activity_span(
        self, name: str, attributes: Attributes
    ) -> AbstractContextManager[None]:
        """Surround a part of an activity."""
        return self._tracing.part_of_activity(name, attributes)

    def worker_stopped(self) -> None:
        """The worker has ended, or goes on under another id."""
        self.metrics.workers.remove(self._worker_id)


class RunningWorkflowTask(msgspec.Struct, eq=False):
    """Surrounds one workflow task.

    Attributes:
        error_type: set while it runs if it could not be driven on.
    """

    metrics: Metrics
    shared: dict[str, str]
    span: Span
    parent: Context
    headers: Mapping[str, str]
    outer: Span | None = None
    began: int = 0
    error_type: str | None = None

    def __enter__(self) -> Mapping[str, str]:
        headers = self.headers
        if self.span.is_recording():
            # A span that is not recorded must not become a parent that nobody finds.
            carried: dict[str, str] = {}
            propagate.inject(carried, trace.set_span_in_context(self.span, self.parent))
            headers = carried
        self.outer = tracing.enter_workflow_task(self.span)
        self.began = time.perf_counter_ns()
        return headers

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        seconds = (time.perf_counter_ns() - self.began) / 1_000_000_000
        tracing.leave_workflow_task(self.outer)
        failed = self.error_type if error is None else error_type_of(error)
        shared = self.shared
        if failed is not None:
            shared = {**shared, names.ERROR_TYPE: failed}
            if self.span.is_recording():
                mark_failed(self.span, failed)
        self.span.end()
        self.metrics.workflow_task_duration.record(seconds, shared)


class RunningActivity(msgspec.Struct, eq=False):
    """Surrounds one attempt; the activity's code runs within its span.

    Attributes:
        outcome: set if it was decided before the function came to its end.
        error_type: what it failed with, in that case.
    """

    attempts: dict[tuple[str, str, int], RunningActivity]
    key: tuple[str, str, int]
    span: Span
    parent: Context
    token: Token[Context] | None = None
    outcome: str | None = None
    error_type: str | None = None

    def __enter__(self) -> None:
        context = trace.set_span_in_context(self.span, self.parent)
        self.token = contexts.attach(context)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.token is not None:
            contexts.detach(self.token)
        self.attempts.pop(self.key, None)
        if self.span.is_recording():
            self._describe(error)
        self.span.end()

    def _describe(self, error: BaseException | None) -> None:
        outcome, failed = self.outcome, self.error_type
        if outcome is None:
            if error is None:
                outcome = "completed"
            elif isinstance(error, asyncio.CancelledError):
                outcome = "cancelled"
            else:
                outcome, failed = "failed", error_type_of(error)
        self.span.set_attribute(names.OUTCOME, outcome)
        if failed is not None:
            mark_failed(self.span, failed)
