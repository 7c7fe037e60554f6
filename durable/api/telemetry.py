"""Metrics and spans of a user's own, in workflows and activities.

In workflow code both are replay-safe: what is measured, and a span that is over, is
told once the workflow task is committed, and never again.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Final

from durable.api.activities.activity_context import CURRENT
from durable.core.notes import CURRENT_SPAN
from durable.core.runtime import WorkflowRuntime, find_runtime
from durable.errors import ApplicationError, InvalidOptionError
from durable.observer import Attributes, Instrument, Measurement, Span

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,254}")
_OURS: Final = "durable."


def _tell(instrument: Instrument, value: float, attributes: Attributes | None) -> None:
    given: object = value  # whoever calls without a type checker passes anything
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if not is_number or not math.isfinite(value):
        raise InvalidOptionError(
            f"{instrument.name!r} was given {value!r}: measure finite numbers."
        )
    if value < 0 and instrument.kind in ("counter", "histogram"):
        raise InvalidOptionError(
            f"{instrument.name!r} was given {value!r}, but a {instrument.kind} takes"
            " nothing below zero.",
            hint="An up-down counter and a gauge do.",
        )
    kept = _check(attributes, f"metric {instrument.name!r}")
    runtime = find_runtime()
    if runtime is not None:
        runtime.note(Measurement(instrument, value, kept))
        return
    attempt = CURRENT.get()
    if attempt is not None and attempt.watch is not None:
        attempt.watch.measured(
            Measurement(instrument, value, kept),
            workflow_type=attempt.info.workflow_type,
            activity_type=attempt.info.activity_type,
        )


def _check(attributes: Attributes | None, what: str) -> Attributes:
    kept = dict(attributes or {})
    for name, value in kept.items():
        if not isinstance(name, str) or not isinstance(value, str | bool | int | float):
            raise InvalidOptionError(
                f"The attribute {name!r} of {what} is {value!r}: names are texts, and"
                " values are texts, booleans or numbers."
            )
    return kept


class Counter:
    """A total that only grows, such as orders placed."""

    def __init__(self, instrument: Instrument) -> None:
        """Made by `Meter.create_counter`."""
        self._instrument = instrument

    def add(self, amount: float, attributes: Attributes | None = None) -> None:
        """Add to the total of these attributes.

        Raises:
            InvalidOptionError: below zero or not finite, or an attribute is no text,
                boolean or number.
        """
        _tell(self._instrument, amount, attributes)


class UpDownCounter(Counter):
    """A total that may fall, such as orders that are open."""


class Histogram:
    """How values are spread, such as seconds."""

    def __init__(self, instrument: Instrument) -> None:
        """Made by `Meter.create_histogram`."""
        self._instrument = instrument

    def record(self, amount: float, attributes: Attributes | None = None) -> None:
        """Count a value.

        Raises:
            InvalidOptionError: see `Counter.add`.
        """
        _tell(self._instrument, amount, attributes)


class Gauge:
    """A value as it was when it was last looked at, such as a balance."""

    def __init__(self, instrument: Instrument) -> None:
        """Made by `Meter.create_gauge`."""
        self._instrument = instrument

    def set(self, amount: float, attributes: Attributes | None = None) -> None:
        """Set the value.

        Raises:
            InvalidOptionError: not finite, or see `Counter.add`.
        """
        _tell(self._instrument, amount, attributes)


class Meter:
    """Makes instruments, with OpenTelemetry's names; make them once, in your module.

    Names are up to 255 letters, digits and `_ . - /`, begin with a letter, and not with
    `durable.`; else `InvalidOptionError` is raised. The observer adds the workflow's
    type, the activity's, and the task queue.
    """

    def create_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> Counter:
        """Make a counter."""
        return Counter(_instrument("counter", name, unit, description))

    def create_up_down_counter(
        self, name: str, unit: str = "", description: str = ""
    ) -> UpDownCounter:
        """Make a counter that also falls."""
        return UpDownCounter(_instrument("up_down_counter", name, unit, description))

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Iterable[float] | None = None,
    ) -> Histogram:
        """Make a histogram; the boundaries are the upper bounds of its buckets."""
        given = explicit_bucket_boundaries_advisory
        bounds = None if given is None else tuple(given)
        return Histogram(_instrument("histogram", name, unit, description, bounds))

    def create_gauge(self, name: str, unit: str = "", description: str = "") -> Gauge:
        """Make a gauge."""
        return Gauge(_instrument("gauge", name, unit, description))


def _instrument(kind: Any, name: str, *rest: Any) -> Instrument:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidOptionError(
            f"The metric's name is {name!r}: give up to 255 letters, digits and"
            " '_', '.', '-' or '/', the first of them a letter."
        )
    if name.startswith(_OURS):
        raise InvalidOptionError(
            f"The metric's name is {name!r}: those of the library begin so.",
            hint="Begin it with the name of your program.",
        )
    return Instrument(kind, name, *rest)


_METER: Final = Meter()


def meter() -> Meter:
    """What makes your own metrics, for workflows and activities.

        placed = durable.meter().create_counter("orders_placed")

    In workflow code a measurement counts once its workflow task is committed, once
    however often the code is replayed; in an activity at once, so that each attempt
    counts. It goes where the engine's observer sends its own; without an observer, in
    queries, in validators, and outside of runs it goes nowhere. Never use ids as
    attributes: each value is a time series of its own.
    """
    return _METER


class _WorkflowSpan:
    def __init__(
        self, runtime: WorkflowRuntime, name: str, attributes: Attributes
    ) -> None:
        self._runtime, self._name, self._attributes = runtime, name, attributes
        self._span: Span | None = None
        self._outer: Span | None = None

    def __enter__(self) -> None:
        self._span = self._runtime.open_span(self._name, self._attributes)
        if self._span is not None:
            self._outer = CURRENT_SPAN.get()
            CURRENT_SPAN.set(self._span)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        span = self._span
        if span is None:
            return
        CURRENT_SPAN.set(self._outer)
        span.ended_at = self._runtime.now()
        # Whatever else leaves the block only goes on elsewhere: as a new run, say.
        if isinstance(error, Exception | asyncio.CancelledError):
            span.error_type = type(error).__name__
        if isinstance(error, ApplicationError):
            span.error_type = str(error.type)
        self._runtime.note(span)


def span(
    name: str, attributes: Mapping[str, str | bool | int | float] | None = None
) -> AbstractContextManager[None]:
    """Surround a part of a workflow or an activity by a span of its trace.

        with durable.span("reserve", {"warehouse": "north"}):
            await asyncio.gather(*map(reserve, parts))

    In workflow code it is told once it is over and committed, and never again on
    replay; its id is the same on each replay, so that activities, children and spans
    within the block are below it whichever process begins them. It lasts from the
    workflow task in which it begins to the one in which it ends. Without an observer,
    in queries, in validators, and outside of runs there is none.

    Raises:
        InvalidOptionError: the name is empty, or an attribute is no text, boolean or
            number.
    """
    if not isinstance(name, str) or not name:
        raise InvalidOptionError(f"The name of a span is {name!r}: give a text.")
    kept = _check(attributes, f"span {name!r}")
    runtime = find_runtime()
    if runtime is not None:
        return _WorkflowSpan(runtime, name, kept)
    attempt = CURRENT.get()
    if attempt is None or attempt.watch is None:
        return nullcontext()
    return attempt.watch.activity_span(name, kept)
