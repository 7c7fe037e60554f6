"""Attempts of activities that this worker does not know.

They wait for a worker that does: it is the deploy that is at fault, not the run. Only
the activity's own schedule timeouts can fail them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, Protocol

from durable.api.registry import Registry
from durable.core.payload import Failure
from durable.errors import NotRegisteredError
from durable.store.queries import ListWorkers
from durable.store.records import AttemptState
from durable.store.store import Store
from durable.worker.attempt_rows import AttemptRows
from durable.worker.live_run import Attempt, LiveRun

_log: Final = logging.getLogger("durable.worker")
# How often it is looked for a worker that knows an activity, and said that none does.
_AGAIN_MICROSECONDS: Final = 60_000_000
_NAMED_MAX: Final = 20


class Host(Protocol):
    """What waiting for a worker asks of the one at hand."""

    worker_id: str

    def release(self, run: LiveRun) -> None:
        """Leave a run to whichever worker takes it."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a step in the background; its errors are logged."""
        ...


class Activities(Protocol):
    """What it asks of those that run attempts."""

    is_draining: bool

    def find_code(self, attempt: Attempt) -> object | None:
        """What the attempt runs, if that is known here."""
        ...

    def begin_recorded(self, attempt: Attempt, recorded: bool) -> None:
        """Begin an attempt whose row says so."""
        ...

    def call_at(
        self, attempt: Attempt, instant: int, call: Callable[..., None], *args: Any
    ) -> None:
        """Set the attempt's timer."""
        ...

    def never_started(self, attempt: Attempt, timeout_type: str) -> None:
        """The attempt has not begun within its time."""
        ...


def starts_by(attempt: Attempt) -> tuple[int, str] | None:
    """The instant until which an attempt must begin, and the timeout that says so."""
    settings = attempt.scheduled.settings
    limits: list[tuple[int, str]] = []
    if settings.schedule_to_start_timeout is not None:
        since = attempt.due_at or attempt.scheduled_at
        limits.append((since + settings.schedule_to_start_timeout, "schedule_to_start"))
    if settings.schedule_to_close_timeout is not None:
        instant = attempt.scheduled_at + settings.schedule_to_close_timeout
        limits.append((instant, "schedule_to_close"))
    return min(limits, default=None)


class UnknownActivities:
    """The attempts of one worker that wait for another."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        host: Host,
        activities: Activities,
        rows: AttemptRows,
    ) -> None:
        self._store = store
        self._registry = registry
        self._host = host
        self._activities = activities
        self._rows = rows
        self._named: dict[str, int] = {}
        """When each activity was last named in the log."""

    def await_worker(self, attempt: Attempt) -> None:
        """Keep an attempt for a worker that knows its activity."""
        reason = Failure(
            message="no worker that has come by knows this activity",
            type=NotRegisteredError.__name__,
        )
        # Two that both do not know it must not throw it to each other.
        is_first = not attempt.has_waited
        attempt.has_waited = True
        attempt.due_at = attempt.due_at or attempt.scheduled_at
        self._rows.record(
            attempt,
            AttemptState.BACKOFF,
            partial(self._recorded, attempt, is_first),
            reason,
        )

    def _recorded(self, attempt: Attempt, is_first: bool, recorded: bool) -> None:
        if recorded:
            self._look(attempt, is_first)
        else:
            attempt.run.attempts.pop(attempt.scheduled_event_id, None)

    def _look(self, attempt: Attempt, may_offer: bool = True) -> None:
        if attempt.is_over or self._activities.is_draining:
            return
        if self._activities.find_code(attempt) is not None:  # imported meanwhile
            then = partial(self._activities.begin_recorded, attempt)
            self._rows.record(attempt, AttemptState.STARTED, then)
            return
        limit, now = starts_by(attempt), self._store.now()
        if limit is not None and limit[0] <= now:
            self._activities.never_started(attempt, limit[1])
            return
        self._name(attempt, now)
        again_at = now + _AGAIN_MICROSECONDS
        if limit is not None:
            again_at = min(again_at, limit[0])
        self._activities.call_at(attempt, again_at, self._look, attempt)
        if may_offer:
            self._host.spawn(self._offer(attempt.run))

    async def _offer(self, run: LiveRun) -> None:
        """Leave a run to another worker of its queue, if there is one."""
        places = {
            worker.worker_id: (worker.namespace, worker.task_queue)
            for worker in await self._store.read(ListWorkers())
        }
        own = places.pop(self._host.worker_id, None)
        if (
            own in places.values()
            and not (run.is_dropped or run.is_closed or run.is_committing or run.inputs)
            and all(attempt.has_waited for attempt in run.attempts.values())
        ):
            self._host.release(run)

    def _name(self, attempt: Attempt, now: int) -> None:
        """Say it once a minute for each activity, however many attempts wait."""
        name = attempt.scheduled.activity_type
        said_at = self._named.get(name)
        if said_at is not None and now < said_at + _AGAIN_MICROSECONDS:
            return
        self._named[name] = now
        known = sorted(self._registry.activities)
        named = ", ".join(known[:_NAMED_MAX]) or "none"
        if len(known) > _NAMED_MAX:
            named += f", and {len(known) - _NAMED_MAX} more"
        _log.warning(
            "No activity named %r is known here, so run %r (%s) waits for a worker that"
            " knows it; known are: %s. Import the module that defines it, or give it to"
            " the engine. If it was renamed, keep the old name with"
            " @activity(name=%r).",
            name,
            attempt.run.workflow_id,
            attempt.run.workflow_type,
            named,
            name,
        )
