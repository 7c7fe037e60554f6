"""Spans: one for a start, one for each live workflow task, one for each attempt.

The trace travels in the headers of a run's first event, so it is one trace from the
start to the last activity, whatever process runs it and after however many crashes.
Exceptions are named by their type only: their messages may hold payload values.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import Token
from types import TracebackType
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
)

from durable import __version__
from durable.api.workflows.operations import in_workflow
from durable.errors import ApplicationError
from durable.observer import Span as WorkflowSpan
from durable.telemetry import names

Attributes = dict[str, str | int]

_FAILED: Final = Status(StatusCode.ERROR)


class _WorkflowTaskSpan(threading.local):
    """The span of the workflow task that this thread drives.

    Workflow code runs in the contexts of its own tasks, which outlive a workflow task,
    so a context variable would show the span of an earlier one.
    """

    span: Span | None = None


_workflow_task: Final = _WorkflowTaskSpan()


class Tracing:
    """Makes the spans of an observer."""

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._tracer = trace.get_tracer(names.SCOPE, __version__, provider)

    def start_workflow(
        self, workflow_type: str, attributes: Attributes
    ) -> StartingWorkflow:
        """Begin the span of a start, below whatever span the caller is in."""
        span = self._tracer.start_span(
            f"{names.START_WORKFLOW} {workflow_type}", kind=SpanKind.PRODUCER
        )
        if span.is_recording():
            span.set_attributes(attributes)
        return StartingWorkflow(span)

    def run_workflow_task(
        self, workflow_type: str, headers: Mapping[str, str]
    ) -> tuple[Span, Context]:
        """Begin the span of a workflow task, below the span that started its run."""
        return self._begin(f"{names.RUN_WORKFLOW_TASK} {workflow_type}", headers)

    def _begin(self, name: str, headers: Mapping[str, str]) -> tuple[Span, Context]:
        parent, kind = propagate.extract(headers), SpanKind.CONSUMER
        return self._tracer.start_span(name, context=parent, kind=kind), parent

    def run_activity(
        self,
        activity_type: str,
        headers: Mapping[str, str],
        run_headers: Mapping[str, str],
    ) -> tuple[Span, Context]:
        """Begin the span of an attempt, below the task that scheduled its activity."""
        span, parent = self._begin(f"{names.RUN_ACTIVITY} {activity_type}", headers)
        if headers is not run_headers and span.is_recording():
            start = trace.get_current_span(propagate.extract(run_headers))
            span.add_link(start.get_span_context())
        return span, parent

    def run_workflow(
        self,
        workflow_type: str,
        *,
        started_at: int,
        closed_at: int,
        error_type: str | None,
        attributes: Attributes,
        headers: Mapping[str, str],
    ) -> None:
        """Emit the span of a whole run, once it is over; instants in microseconds."""
        span = self._tracer.start_span(
            f"{names.RUN_WORKFLOW} {workflow_type}",
            context=propagate.extract(headers),
            kind=SpanKind.INTERNAL,
            start_time=started_at * 1_000,
        )
        if span.is_recording():
            span.set_attributes(attributes)
            if error_type is not None:
                mark_failed(span, error_type)
        span.end(end_time=max(started_at, closed_at) * 1_000)

    def workflow_span(
        self, span: WorkflowSpan, run_id: str, attributes: Mapping[str, Any]
    ) -> None:
        """Emit a span of workflow code, under the ids that `span_headers` told."""
        # A tracer of its own: only what comes from it has ids that are given.
        tracer = trace.get_tracer(
            f"{names.SCOPE}.workflow", __version__, self._provider
        )
        if isinstance(tracer, SdkTracer):
            tracer.id_generator = _given_ids
        _given_ids.trace_id, _given_ids.span_id = _trace_id(run_id), _span_id(span.key)
        made = tracer.start_span(
            span.name,
            context=propagate.extract(span.parent),
            attributes=attributes,
            start_time=span.started_at * 1_000,
        )
        if span.error_type is not None:
            mark_failed(made, span.error_type)
        made.end(end_time=max(span.started_at, span.ended_at) * 1_000)

    @contextmanager
    def part_of_activity(
        self, name: str, attributes: Mapping[str, Any]
    ) -> Generator[None]:
        """Surround a part of an activity by a span."""
        with self._tracer.start_as_current_span(
            name,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                mark_failed(span, error_type_of(error))
                raise


class _GivenIds(threading.local, IdGenerator):
    """The ids of the span that this thread is about to make."""

    trace_id = 0
    span_id = 0

    def generate_span_id(self) -> int:
        return self.span_id

    def generate_trace_id(self) -> int:
        return self.trace_id


_given_ids: Final = _GivenIds()


def _digest(text: str, size: int) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=size).digest()
    return int.from_bytes(digest) or 1  # zero is no id


def _trace_id(run_id: str) -> int:
    """That of a run whose start was not traced."""
    return _digest(run_id, 16)


def _span_id(key: str) -> int:
    return _digest(key, 8)


def span_headers(run_id: str, key: str, parent: Mapping[str, str]) -> dict[str, str]:
    """The headers that a span of workflow code stands in; the same on each replay."""
    outer = propagate.extract(parent)
    above = trace.get_current_span(outer).get_span_context()
    is_known = above.is_valid
    context = SpanContext(
        above.trace_id if is_known else _trace_id(run_id),
        _span_id(key),
        is_remote=True,
        trace_flags=above.trace_flags if is_known else TraceFlags(TraceFlags.SAMPLED),
        trace_state=above.trace_state,
    )
    headers: dict[str, str] = {}
    propagate.inject(
        headers, trace.set_span_in_context(NonRecordingSpan(context), outer)
    )
    return headers


class StartingWorkflow:
    """Surrounds a start; yields the headers that carry its trace."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._token: Token[Context] | None = None

    def __enter__(self) -> Mapping[str, str]:
        context = trace.set_span_in_context(self._span)
        self._token = contexts.attach(context)
        headers: dict[str, str] = {}
        propagate.inject(headers, context)
        return headers

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            contexts.detach(self._token)
        if error is not None and self._span.is_recording():
            mark_failed(self._span, error_type_of(error))
        self._span.end()


def error_type_of(error: BaseException) -> str:
    """What an exception is called, as failures in histories call it."""
    if isinstance(error, ApplicationError):
        return str(error.type)
    return type(error).__name__


def mark_failed(span: Span, error_type: str) -> None:
    """Say that what a span stands for went wrong, and by which type of exception."""
    span.set_attribute(names.ERROR_TYPE, error_type)
    span.set_status(_FAILED)


def enter_workflow_task(span: Span) -> Span | None:
    """Let log records of workflow code carry this span; give the answer to `leave`."""
    outer, _workflow_task.span = _workflow_task.span, span
    return outer


def leave_workflow_task(outer: Span | None) -> None:
    """End what `enter_workflow_task` began."""
    _workflow_task.span = outer


class TraceContextFilter(logging.Filter):
    """Adds `trace_id` and `span_id` to log records; both are empty without a trace.

    `durable.logger` has one as soon as there is an `OpenTelemetryObserver`. Add one to
    a handler to have both in the records of your activities' own loggers.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add both, and let every record pass."""
        span = _workflow_task.span if in_workflow() else trace.get_current_span()
        found = trace.INVALID_SPAN_CONTEXT if span is None else span.get_span_context()
        record.trace_id = record.span_id = ""
        if found.is_valid:
            record.trace_id = trace.format_trace_id(found.trace_id)
            record.span_id = trace.format_span_id(found.span_id)
        return True


_log_filter: Final = TraceContextFilter()


def correlate_logs() -> None:
    """Let what `durable.logger` and `durable.activity_logger` say carry the trace.

    Again changes nothing.
    """
    for name in ("durable.workflow", "durable.activity"):
        logging.getLogger(name).addFilter(_log_filter)
