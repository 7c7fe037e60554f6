"""What telemetry may watch: two protocols, and by default nobody does.

The engine calls an observer only when one was given, so watching that is off costs a
comparison with `None`. Every call but `span_headers` is made live, never while a
history is replayed, and carries ids, names, counts and microseconds; of values only
what a program measures itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

Headers: TypeAlias = Mapping[str, str]
Attributes: TypeAlias = Mapping[str, str | bool | int | float]


class QueueState(msgspec.Struct, frozen=True):
    """What waits in one task queue of the database, as a worker has read it.

    Attributes:
        runs: they are due, and no worker has taken them.
        age: since when the oldest of them has been due, in microseconds.
        stuck: runs that are parked.
    """

    namespace: str
    task_queue: str
    runs: int
    age: int
    stuck: int


class WorkerState(msgspec.Struct, frozen=True, kw_only=True):
    """How busy a worker is right now.

    Attributes:
        cached_runs: runs in memory.
        cache_hits: how often a run that was to go on was in memory, in all.
        cache_misses: how often it had to be loaded, in all.
        slots: activities that may run at once.
        slots_used: activities that do run.
        threads: how many of them may be plain functions.
        threads_used: threads that such functions hold.
        processes: how many may be plain functions in processes.
        processes_used: processes that such functions hold.
        queues: what has been read of the database just now; empty if it cannot be read.
        waiting: runs being loaded, and activities without a slot.
        waiting_for: how long the longest waiting activity has waited, in microseconds.
        retention_lag: for how long the oldest closed run whose time is over should be
            gone, in microseconds; 0 once a sweep has come through.
    """

    cached_runs: int
    cache_hits: int
    cache_misses: int
    slots: int
    slots_used: int
    waiting: int
    waiting_for: int
    threads: int = 0
    threads_used: int = 0
    processes: int = 0
    processes_used: int = 0
    queues: Sequence[QueueState] = ()
    retention_lag: int = 0


class Instrument(msgspec.Struct, frozen=True):
    """What something is measured by.

    Attributes:
        kind: a counter only grows; a gauge is what was last set.
        bounds: upper bounds of a histogram's buckets; None leaves them to the observer.
    """

    kind: Literal["counter", "up_down_counter", "histogram", "gauge"]
    name: str
    unit: str = ""
    description: str = ""
    bounds: tuple[float, ...] | None = None


SCHEDULE_LAG: Final = Instrument(
    "histogram",
    "durable.schedule.lag",
    "s",
    "How late a schedule began something",
    (0.01, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 3_600, 86_400),
)
"""What schedules measure of themselves, as programs do."""


class Measurement(msgspec.Struct, frozen=True):
    """Something that a program has measured."""

    instrument: Instrument
    value: float
    attributes: Attributes


class Span(msgspec.Struct, eq=False, kw_only=True):
    """A span of workflow code; instants are those of its workflow tasks.

    Attributes:
        key: which one it is; the same on each replay, and no other span has it.
        parent: the headers of what it is below.
        headers: what travels with all that is begun in it.
    """

    name: str
    key: str
    parent: Headers
    headers: Headers
    attributes: Attributes
    started_at: int
    ended_at: int = 0
    error_type: str | None = None


Note: TypeAlias = Measurement | Span
"""What workflow code has for an observer, once its workflow task is committed."""


class Observer(Protocol):
    """Receives what an engine does, as it does it.

    An observer must not raise and must not wait: it is called on the paths it measures.
    """

    def starting_workflow(
        self, *, workflow_type: str, workflow_id: str
    ) -> AbstractContextManager[Mapping[str, str]]:
        """Surround a start; the mapping it yields travels as the run's headers."""
        ...

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
        """A run reached its terminal event; told once, by whoever committed it.

        `headers` are those of its start. `error_type` is set if it failed.
        """
        ...

    def committed(self, *, operations: int, rows: int, duration: int) -> None:
        """A group of operations was committed; called on the store's thread."""
        ...

    def worker_started(
        self, *, worker_id: str, task_queue: str, state: Callable[[], WorkerState]
    ) -> WorkerObserver:
        """A worker begins; what this returns receives what it does.

        `state` may be called at any time and from any thread.
        """
        ...


class WorkerObserver(Protocol):
    """Receives what one worker does; the same rules hold as for an `Observer`."""

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
        """Surround one live workflow task; yields the headers of its activities.

        `headers` are those of the run's start. `waited` says how long the task was
        due before it began.
        """
        ...

    def workflow_task_failed(self, *, error_type: str) -> None:
        """The workflow task that is running now could not be driven on."""
        ...

    def replayed(self, *, workflow_type: str, events: int, duration: int) -> None:
        """A cold history was replayed."""
        ...

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
        """Surround one attempt of an activity.

        `headers` are those of the workflow task that scheduled it; after a cold replay,
        those of the run's start, as `run_headers` are always.
        """
        ...

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
        """One attempt ended: `completed`, `failed`, `timed_out` or `cancelled`.

        `duration` is None if it never began. An attempt that ran out of time ends
        before its function does.
        """
        ...

    def span_headers(self, *, run_id: str, key: str, parent: Headers) -> Headers:
        """What travels with all that is begun in a span of workflow code.

        The answer is the same whenever and wherever it is asked: the span is told once
        it is over, and until then any process may begin what is below it.
        """
        ...

    def noted(
        self, note: Note, *, workflow_type: str, workflow_id: str, run_id: str
    ) -> None:
        """Workflow code has measured something, or a span of its is over."""
        ...

    def measured(
        self, measurement: Measurement, *, workflow_type: str, activity_type: str
    ) -> None:
        """An activity has measured something; called on its thread."""
        ...

    def activity_span(
        self, name: str, attributes: Attributes
    ) -> AbstractContextManager[None]:
        """Surround a part of an activity; called on its thread."""
        ...

    def worker_stopped(self) -> None:
        """The worker has ended, or goes on under another id."""
        ...
