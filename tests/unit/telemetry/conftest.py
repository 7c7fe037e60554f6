"""Collects what an observer makes, in memory."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from durable.telemetry import OpenTelemetryObserver

_numbers = count()


class Recording:
    """One program's telemetry: its providers, its observer, and what came out."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider(sampler=sampler)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader])
        self.observer = OpenTelemetryObserver(self.tracer_provider, self.meter_provider)

    def spans(self, name: str = "") -> list[ReadableSpan]:
        """Finished spans whose name begins so, in order of their start."""
        found = [s for s in self._exporter.get_finished_spans() if _begins(s, name)]
        return sorted(found, key=lambda span: span.start_time or 0)

    def span(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span

    def tree(self) -> list[tuple[str, str | None]]:
        """Each span's name with that of its parent."""
        names = {s.context.span_id: s.name for s in self.spans() if s.context}
        return [
            (s.name, names.get(s.parent.span_id, "?") if s.parent else None)
            for s in self.spans()
        ]

    def traces(self) -> set[int]:
        return {span.context.trace_id for span in self.spans() if span.context}

    def points(self, name: str) -> list[Any]:
        """The data points of one metric; none if nothing was measured."""
        return [point for metric in self.metrics(name) for point in metric.data_points]

    def metrics(self, name: str = "") -> list[Any]:
        data = self._reader.get_metrics_data()
        return [
            metric.data if name else metric
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if name in ("", metric.name)
        ]

    def values(self, name: str) -> dict[str, float]:
        """One metric's value, or count, by outcome, or by queue."""
        return {
            str(point.attributes.get("durable.outcome", "")): getattr(
                point, "value", getattr(point, "count", 0)
            )
            for point in self.points(name)
        }

    def shutdown(self) -> None:
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def _begins(span: ReadableSpan, name: str) -> bool:
    return not name or span.name == name or span.name.startswith(f"{name} ")


@pytest.fixture
def recording() -> Iterator[Recording]:
    recording = Recording()
    yield recording
    recording.shutdown()


@pytest.fixture
def make_recording() -> Iterator[Any]:
    """Makes recordings, as programs of their own would."""
    made: list[Recording] = []

    def make(sampler: Sampler | None = None) -> Recording:
        made.append(Recording(sampler))
        return made[-1]

    yield make
    for recording in made:
        recording.shutdown()


@pytest.fixture
def url() -> str:
    """A store in memory that outlives its engines, for this test only."""
    return f"memory://telemetry-{next(_numbers)}"
