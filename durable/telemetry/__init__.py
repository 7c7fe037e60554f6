"""OpenTelemetry spans, metrics and log correlation for engines.

engine = Engine("sqlite:///orders.db", observer=OpenTelemetryObserver())
"""

from __future__ import annotations

from durable.telemetry.opentelemetry_observer import OpenTelemetryObserver
from durable.telemetry.tracing import TraceContextFilter

__all__ = ["OpenTelemetryObserver", "TraceContextFilter"]
