"""Metrics as the text that Prometheus scrapes, without a collector between.

    reader = PrometheusReader()
    provider = MeterProvider(metric_readers=[reader])
    engine = Engine(url, observer=OpenTelemetryObserver(meter_provider=provider))

Then let `/metrics` of your application answer with `reader.text()`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricReader,
    MetricsData,
    NumberDataPoint,
    Sum,
)

from durable.telling.prometheus_text import Family, Sample, number, render

_UNITS: Final = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "1": "ratio"}


class PrometheusReader(MetricReader):
    """Keeps what was measured, and writes it down for whoever asks.

    Give it to a `MeterProvider`, alone or beside readers that export elsewhere.

    Args:
        labels: for every sample, such as `{"region": "eu"}`.
    """

    def __init__(self, labels: Mapping[str, str] | None = None) -> None:
        """See the class."""
        super().__init__()
        self._labels = dict(labels or {})
        self._lock = threading.Lock()
        self._data: MetricsData | None = None

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any
    ) -> None:
        self._data = metrics_data

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        """Nothing is to be sent."""

    def families(self) -> list[Family]:
        """All numbers as they are now; any thread may ask."""
        with self._lock:
            self._data = None
            self.collect()
            data = self._data
        return [] if data is None else list(_families(data, self._labels))

    def text(self) -> str:
        """All numbers as they are now, in the text format 0.0.4; any thread may ask."""
        return render(self.families())


def metric_name(name: str, unit: str, *, is_total: bool) -> str:
    """What OpenTelemetry's name is called in Prometheus."""
    found = re.sub(r"[^a-zA-Z0-9_:]", "_", name)
    ending = "" if unit.startswith("{") else _UNITS.get(unit, unit)
    ending = re.sub(r"[^a-zA-Z0-9_]", "_", ending)
    if ending and not found.endswith(f"_{ending}"):
        found = f"{found}_{ending}"
    return f"{found.removesuffix('_total')}_total" if is_total else found


def _families(data: MetricsData, labels: Mapping[str, str]) -> Iterator[Family]:
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                family = _family(metric, labels)
                if family is not None:
                    yield family


def _family(metric: Metric, labels: Mapping[str, str]) -> Family | None:
    held, unit = metric.data, metric.unit or ""
    is_total = isinstance(held, Sum) and held.is_monotonic
    kind = "counter" if is_total else "gauge"
    samples: list[Sample] = []
    if isinstance(held, Sum | Gauge):
        samples.extend(
            Sample("", _labels(point, labels), point.value)
            for point in held.data_points
            if isinstance(point, NumberDataPoint)
        )
    elif isinstance(held, Histogram):
        kind = "histogram"
        for point in held.data_points:
            samples.extend(_buckets(point, _labels(point, labels)))
    else:  # an exponential histogram, which this format has nothing for
        return None
    name = metric_name(metric.name, unit, is_total=is_total)
    return Family(name, kind, metric.description or metric.name, samples)


def _labels(
    point: NumberDataPoint | HistogramDataPoint, shared: Mapping[str, str]
) -> dict[str, str]:
    given = (point.attributes or {}).items()
    return {**shared, **{_label(name): str(value) for name, value in given}}


def _label(name: str) -> str:
    found = re.sub(r"\W", "_", name, flags=re.ASCII)
    # Those that begin with two are Prometheus's own.
    is_free = found and not found[0].isdigit() and not found.startswith("__")
    return found if is_free else f"key_{found}"


def _buckets(point: HistogramDataPoint, labels: dict[str, str]) -> Iterator[Sample]:
    count = 0
    bounds = [*map(number, point.explicit_bounds), "+Inf"]
    for bound, more in zip(bounds, point.bucket_counts, strict=True):
        count += more
        yield Sample("_bucket", {**labels, "le": bound}, count)
    yield Sample("_sum", labels, point.sum)
    yield Sample("_count", labels, point.count)
