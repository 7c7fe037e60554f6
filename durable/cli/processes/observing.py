"""What watches the workers of a command: OpenTelemetry, if there is anybody to tell."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from durable.observer import Observer
from durable.telling.prometheus_text import Family

Scrape: TypeAlias = Callable[[], Sequence[Family]]


def make_observer(*, is_scraped: bool) -> tuple[Observer | None, Scrape]:
    """Make the observer of this process, and what gives all its numbers.

    Once the program's modules are imported: spans and metrics also go where those have
    set up to send them. Where nobody listens there is none, and nothing is measured.
    """
    if not is_scraped and "opentelemetry.sdk" not in sys.modules:
        return None, tuple
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, MeterProvider

    from durable.telemetry import OpenTelemetryObserver, PrometheusReader

    if not is_scraped:
        return OpenTelemetryObserver(), tuple
    reader = PrometheusReader()
    provider = metrics.get_meter_provider()
    # Earlier releases of it take no reader once they are there.
    if isinstance(provider, MeterProvider) and hasattr(provider, "add_metric_reader"):
        provider.add_metric_reader(reader)
    else:
        # What activities measure without this library is scraped as well.
        provider = MeterProvider(
            [reader],
            exemplar_filter=AlwaysOffExemplarFilter(),  # no scraper of text reads any
            shutdown_on_exit=False,
        )
        metrics.set_meter_provider(provider)
    return OpenTelemetryObserver(meter_provider=provider), reader.families
