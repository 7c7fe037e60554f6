# As `durable/__init__.pyi`.

from durable.telemetry.json_logs import JsonFormatter as JsonFormatter
from durable.telemetry.opentelemetry_observer import (
    OpenTelemetryObserver as OpenTelemetryObserver,
)
from durable.telemetry.prometheus import PrometheusReader as PrometheusReader
from durable.telemetry.tracing import TraceContextFilter as TraceContextFilter
from durable.telling.prometheus_text import CONTENT_TYPE as CONTENT_TYPE
