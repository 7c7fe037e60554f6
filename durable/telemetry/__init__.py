"""OpenTelemetry spans, metrics and log correlation for engines.

engine = Engine("sqlite:///orders.db", observer=OpenTelemetryObserver())
"""

from __future__ import annotations

from durable.lazy_names import attach

# The names of metrics take no OpenTelemetry.
__getattr__, __dir__, __all__ = attach(__name__)
