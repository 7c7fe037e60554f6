"""What driving runs asks of the worker around it."""

from __future__ import annotations

from typing import Protocol

from durable.core.events import HistoryEvent
from durable.core.payload import Failure
from durable.store.records import Committed
from durable.worker.live_run import LiveRun


class Host(Protocol):
    """What driving a run asks of the worker around it."""

    worker_id: str

    def start_activity(self, run: LiveRun, event: HistoryEvent) -> None:
        """A recorded activity may begin."""
        ...

    def cancel_activity(self, run: LiveRun, scheduled_event_id: int) -> None:
        """A recorded activity was asked to stop."""
        ...

    def start_child(self, run: LiveRun, event: HistoryEvent) -> None:
        """A recorded child may be started."""
        ...

    def find_parent(self, run: LiveRun) -> LiveRun | None:
        """The run's parent, if it is live here and waits for it."""
        ...

    def spread(self, committed: Committed, told: str | None) -> None:
        """A commit did something to other runs."""
        ...

    def can_run(self, task_queue: str, workflow_type: str) -> bool:
        """Whether this worker would take such a run itself."""
        ...

    def run_closed(self, run: LiveRun, event: HistoryEvent) -> None:
        """The run's terminal event is committed."""
        ...

    def run_stuck(self, run: LiveRun, failure: Failure) -> None:
        """The run is parked, durably."""
        ...

    def reload(self, run: LiveRun) -> None:
        """Read the run's history again; keep its inputs and attempts."""
        ...

    def drop(self, run: LiveRun) -> None:
        """Take the run out of memory."""
        ...

    def settle(self, run: LiveRun) -> None:
        """The run may have come to rest."""
        ...

    def lease_lost(self, worker_id: str) -> None:
        """A write was refused because that worker's lease is gone."""
        ...

    def wake_by(self, instant: int) -> None:
        """Look for due runs no later than this."""
        ...

    def look_around(self) -> None:
        """There may be runs that nobody owns, and mail."""
        ...

    def new_run_id(self) -> str:
        """An id for a run that is about to be started."""
        ...
