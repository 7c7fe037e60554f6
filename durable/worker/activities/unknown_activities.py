"""Attempts of activities that this worker does not know.

They wait for a worker that does: it is the deploy that is at fault, not the run. Only
the activity's own schedule timeouts can fail them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from durable.api.registry import Registry
from durable.runs.inputs import AttemptReady
from durable.runs.live_run import Attempt, LiveRun
from durable.runs.states import AT_REST
from durable.store.queries import ListWorkers
from durable.store.store import Store
from durable.worker.activities.activity_pool import ActivityPool, Feed
from durable.worker.activities.calls import Call, starts_by

_log: Final = logging.getLogger("durable.worker")
# How often it is looked for a worker that knows an activity, and said that none does.
_AGAIN_MICROSECONDS: Final = 60_000_000
_NAMED_MAX: Final = 20


@dataclass(eq=False)
class UnknownActivities:
    """The attempts of one worker that wait for another.

    Args:
        feed: tells runs what became of their attempts.
        release: leaves a run to whichever worker takes it.
        spawn: runs a step in the background; its errors are logged.
    """

    _store: Store
    _registry: Registry
    _worker_id: str
    _pool: ActivityPool
    _feed: Feed
    _release: Callable[[LiveRun], None]
    _spawn: Callable[[Coroutine[Any, Any, None]], None]
    _named: dict[str, int] = field(default_factory=dict[str, int])
    """When each activity was last named in the log."""

    def seek(self, attempt: Attempt, *, may_offer: bool) -> None:
        """Wait for a worker that knows the activity of an attempt; its row says so."""
        call = attempt.call
        if call is None:
            call = attempt.call = Call(attempt)
        self._look(call, may_offer)

    def _look(self, call: Call, may_offer: bool = True) -> None:
        attempt = call.attempt
        if attempt.is_over or self._pool.is_draining:
            return
        if self._pool.knows(attempt.scheduled.activity_type):  # imported meanwhile
            self._feed(attempt.run, AttemptReady(attempt))
            return
        limit, now = starts_by(attempt), self._store.now()
        if limit is not None and limit[0] <= now:
            self._pool.never_started(call, limit[1])
            return
        self._name(attempt, now)
        again_at = now + _AGAIN_MICROSECONDS
        if limit is not None:
            again_at = min(again_at, limit[0])
        self._pool.call_at(call, again_at, self._look, call)
        if may_offer:
            self._spawn(self._offer(attempt.run))

    async def _offer(self, run: LiveRun) -> None:
        """Leave a run to another worker of its queue, if there is one."""
        places = {
            worker.worker_id: (worker.namespace, worker.task_queue)
            for worker in await self._store.read(ListWorkers())
        }
        own = places.pop(self._worker_id, None)
        if (
            own in places.values()
            and run.state is AT_REST
            and not run.incoming.waiting
            and all(attempt.has_waited for attempt in run.attempts.values())
        ):
            self._release(run)

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
