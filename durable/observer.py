"""What telemetry may watch: one protocol, which by default does nothing.

The engine calls an observer only when one was given, so watching that is off costs a
comparison with `None`. Every call is made live, never while a history is replayed, and
carries ids, names, counts and microseconds, never payload values.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol


class Observer(Protocol):
    """Receives what the engine does, as it does it.

    An observer must not raise and must not wait: it is called on the paths it measures.
    """

    def starting_workflow(
        self, *, workflow_type: str, workflow_id: str
    ) -> AbstractContextManager[Mapping[str, str]]:
        """Surround a start; the mapping it yields travels as the run's headers."""
        ...

    def running_workflow_task(
        self,
        *,
        workflow_type: str,
        workflow_id: str,
        run_id: str,
        task_number: int,
        headers: Mapping[str, str],
    ) -> AbstractContextManager[Mapping[str, str]]:
        """Surround one live workflow task; yields the headers of its activities."""
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
        headers: Mapping[str, str],
    ) -> AbstractContextManager[None]:
        """Surround one attempt of an activity."""
        ...

    def activity_closed(
        self, *, activity_type: str, attempt: int, outcome: str, duration: int
    ) -> None:
        """One attempt ended: `completed`, `failed`, `timed_out` or `cancelled`."""
        ...

    def workflow_closed(
        self,
        *,
        workflow_type: str,
        workflow_id: str,
        run_id: str,
        outcome: str,
        duration: int,
        headers: Mapping[str, str],
    ) -> None:
        """A run reached its terminal event."""
        ...

    def replayed(self, *, workflow_type: str, events: int, duration: int) -> None:
        """A cold history was replayed."""
        ...

    def committed(self, *, operations: int, rows: int, duration: int) -> None:
        """A group of operations was committed."""
        ...

    def cache_changed(self, *, hits: int, misses: int, size: int) -> None:
        """The cache of live runs was asked; the counts are totals."""
        ...
