"""Counters, histograms and gauges; seconds and counts, and never an id.

How busy the workers are is asked for when metrics are collected, so it costs nothing
in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from opentelemetry import metrics
from opentelemetry.metrics import (
    CallbackOptions,
    Histogram,
    Meter,
    MeterProvider,
    Observation,
)

from durable import __version__
from durable.observer import (
    SCHEDULE_LAG,
    Instrument,
    Measurement,
    QueueState,
    WorkerState,
)
from durable.telemetry import names

Attributes = dict[str, str]
Read = Callable[[WorkerState], float]
_Take = Callable[[float, Mapping[str, str | bool | int | float]], None]


def _bounds(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split()))


# The SDK's own buckets are made for milliseconds; each of these lists spans what its
# measure can be, with two or three buckets to a power of ten.
_TASK_SECONDS: Final = _bounds(
    "0.0001 0.00025 0.0005 0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 10"
)
_WAIT_SECONDS: Final = _bounds("0.001 0.005 0.01 0.05 0.1 0.5 1 5 10 60 300 3_600")
_ACTIVITY_SECONDS: Final = _bounds(
    "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 30 60 300 1_800 7_200"
)
_WORKFLOW_SECONDS: Final = _bounds(
    "0.01 0.1 0.5 1 5 10 30 60 300 1_800 3_600 21_600 86_400 604_800 2_592_000 "
    "31_536_000"
)
_ROWS: Final = tuple(2**power for power in range(14))


class Metrics:
    """The instruments of an observer."""

    def __init__(self, provider: MeterProvider | None) -> None:
        meter = metrics.get_meter(names.SCOPE, __version__, provider)
        self.workflow_completed = meter.create_counter(
            names.WORKFLOW_COMPLETED, "{run}", "Runs that have closed, by outcome"
        )
        self.activity_failed = meter.create_counter(
            names.ACTIVITY_FAILED,
            "{attempt}",
            "Attempts of activities that failed or ran out of time",
        )

        def histogram(
            name: str, bounds: tuple[float, ...], text: str, unit: str = "s"
        ) -> Histogram:
            return meter.create_histogram(
                name, unit, text, explicit_bucket_boundaries_advisory=bounds
            )

        self.workflow_duration = histogram(
            names.WORKFLOW_DURATION,
            _WORKFLOW_SECONDS,
            "Time from the start of a run to its end",
        )
        self.workflow_task_duration = histogram(
            names.WORKFLOW_TASK_DURATION,
            _TASK_SECONDS,
            "Time that one live workflow task drove its code",
        )
        self.replay_duration = histogram(
            names.REPLAY_DURATION,
            _TASK_SECONDS,
            "Time to bring a run back from its history",
        )
        self.workflow_task_wait = histogram(
            names.WORKFLOW_TASK_SCHEDULE_TO_START,
            _WAIT_SECONDS,
            "Time that a workflow task was due before it began",
        )
        self.activity_duration = histogram(
            names.ACTIVITY_DURATION,
            _ACTIVITY_SECONDS,
            "Time that one attempt of an activity took",
        )
        self.activity_wait = histogram(
            names.ACTIVITY_SCHEDULE_TO_START,
            _WAIT_SECONDS,
            "Time that an attempt of an activity was due before it began",
        )
        self.commit_duration = histogram(
            names.COMMIT_DURATION,
            _TASK_SECONDS,
            "Time that one transaction took, its commit included",
        )
        self.commit_rows = histogram(
            names.COMMIT_ROWS, _ROWS, "Events that one commit wrote", "{row}"
        )
        self.commit_operations = histogram(
            names.COMMIT_OPERATIONS,
            _ROWS,
            "Operations that were committed together",
            "{operation}",
        )
        self._meter = meter
        self._takers: dict[Instrument, _Take] = {}
        self._taker(SCHEDULE_LAG)
        self.workers = WorkerGauges(meter)

    def measured(self, measurement: Measurement, shared: Attributes) -> None:
        """Take what a program has measured; any thread may."""
        instrument = measurement.instrument
        take = self._takers.get(instrument) or self._taker(instrument)
        take(measurement.value, {**measurement.attributes, **shared})

    def _taker(self, of: Instrument) -> _Take:
        about = of.name, of.unit, of.description
        take: _Take
        if of.kind == "histogram":
            bounds = of.bounds or (_ACTIVITY_SECONDS if of.unit == "s" else None)
            take = self._meter.create_histogram(
                *about, explicit_bucket_boundaries_advisory=bounds
            ).record
        elif of.kind == "gauge":
            take = self._meter.create_gauge(*about).set
        elif of.kind == "counter":
            take = self._meter.create_counter(*about).add
        else:
            take = self._meter.create_up_down_counter(*about).add
        self._takers[of] = take
        return take


_SUMS: Final[tuple[tuple[str, str, str, Read], ...]] = (
    (names.CACHE_SIZE, "{run}", "Runs in memory", lambda s: s.cached_runs),
    (
        names.QUEUE_DEPTH,
        "{task}",
        "Runs and activities that wait",
        lambda s: s.waiting,
    ),
)
_POOLS: Final[tuple[tuple[str, str, str, Read, Read, Read], ...]] = (
    (
        names.SLOTS_AVAILABLE,
        "{slot}",
        "Activities that could begin now, of each pool",
        lambda s: max(0, s.slots - s.slots_used),
        lambda s: max(0, s.threads - s.threads_used),
        lambda s: max(0, s.processes - s.processes_used),
    ),
    (
        names.SLOTS_USED,
        "{slot}",
        "Activities that run, of each pool",
        lambda s: s.slots_used,
        lambda s: s.threads_used,
        lambda s: s.processes_used,
    ),
)
_OF_DATABASE: Final[tuple[tuple[str, str, str, Callable[[QueueState], float]], ...]] = (
    (
        names.BACKLOG_RUNS,
        "{run}",
        "Runs that are due and that no worker has taken",
        lambda q: q.runs,
    ),
    (
        names.BACKLOG_AGE,
        "s",
        "Time that the oldest of them has been due",
        lambda q: q.age / 1_000_000,
    ),
    (names.STUCK_RUNS, "{run}", "Runs that are parked", lambda q: q.stuck),
)


class WorkerGauges:
    """What is asked of the workers when metrics are collected, summed by task queue."""

    def __init__(self, meter: Meter) -> None:
        self._states: dict[str, tuple[str, Callable[[], WorkerState]]] = {}
        # What workers that have ended counted: a total must not fall.
        self._past: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        for name, unit, description, read in _SUMS:
            meter.create_observable_up_down_counter(
                name, [self._of_each(partial(_sum, read))], unit, description
            )
        for name, unit, description, slots, threads, processes in _POOLS:
            callbacks = [
                self._of_each(partial(_sum, slots), {names.POOL: "activities"}),
                self._of_each(partial(_sum, threads), {names.POOL: "threads"}),
                self._of_each(partial(_sum, processes), {names.POOL: "processes"}),
            ]
            meter.create_observable_up_down_counter(name, callbacks, unit, description)
        meter.create_observable_gauge(
            names.QUEUE_LAG,
            [self._of_each(_lag)],
            "s",
            "Age of what has waited longest",
        )
        meter.create_observable_gauge(
            names.RETENTION_LAG,
            [self._of_each(_retention_lag)],
            "s",
            "Time that the oldest closed run whose time is over should be gone",
        )
        for name, unit, description, of_queue in _OF_DATABASE:
            meter.create_observable_gauge(
                name, [self._of_database(of_queue)], unit, description
            )
        meter.create_observable_counter(
            names.CACHE_HITS, [self._total(0)], "{run}", "Runs that were in memory"
        )
        meter.create_observable_counter(
            names.CACHE_MISSES, [self._total(1)], "{run}", "Runs that were loaded"
        )

    def add(
        self, worker_id: str, task_queue: str, state: Callable[[], WorkerState]
    ) -> None:
        """Ask this worker too from now on."""
        with self._lock:
            self._states[worker_id] = task_queue, state

    def remove(self, worker_id: str) -> None:
        """Ask it no more."""
        with self._lock:
            task_queue, state = self._states.pop(worker_id, ("", None))
            if state is not None:
                last = state()
                hits, misses = self._past.get(task_queue, (0, 0))
                hits, misses = hits + last.cache_hits, misses + last.cache_misses
                self._past[task_queue] = hits, misses

    def _by_queue(self) -> dict[str, list[WorkerState]]:
        found: dict[str, list[WorkerState]] = {}
        for task_queue, state in self._states.values():
            found.setdefault(task_queue, []).append(state())
        return found

    def _of_each(
        self,
        read: Callable[[list[WorkerState]], float],
        shared: Mapping[str, str] = {},
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                return [
                    Observation(read(states), {names.QUEUE: task_queue, **shared})
                    for task_queue, states in self._by_queue().items()
                ]

        return observe

    def _of_database(
        self, read: Callable[[QueueState], float]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                states = [state() for _, state in self._states.values()]
            # Workers of one database tell the same, each as it has read it.
            found = {(q.namespace, q.task_queue): q for s in states for q in s.queues}
            return [
                Observation(
                    read(queue), {names.NAMESPACE: namespace, names.QUEUE: task_queue}
                )
                for (namespace, task_queue), queue in found.items()
            ]

        return observe

    def _total(self, index: int) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                totals = {
                    task_queue: counts[index]
                    for task_queue, counts in self._past.items()
                }
                for task_queue, states in self._by_queue().items():
                    for state in states:
                        counts = state.cache_hits, state.cache_misses
                        known = totals.get(task_queue, 0)
                        totals[task_queue] = known + counts[index]
            return [
                Observation(count, {names.QUEUE: task_queue})
                for task_queue, count in totals.items()
            ]

        return observe


def _sum(read: Read, states: list[WorkerState]) -> float:
    return sum(map(read, states))


def _retention_lag(states: list[WorkerState]) -> float:
    return max(state.retention_lag for state in states) / 1_000_000


def _lag(states: list[WorkerState]) -> float:
    return max(state.waiting_for for state in states) / 1_000_000
