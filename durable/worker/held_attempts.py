"""Attempts whose outcome cannot be recorded, for a bug that no further attempt mends.

Their run parks once nothing else of it is under way. It goes on when the code is
mended, or when an operator says what the activity's result is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol, TypeAlias

from durable.api.registry import Registry
from durable.core.events import ActivityTaskCompleted
from durable.core.messages import ActivityResolution
from durable.core.payload import Failure, Payload
from durable.errors import DurableError
from durable.store.records import AttemptState
from durable.worker import unrecorded
from durable.worker.attempt_rows import AttemptRows
from durable.worker.live_run import Attempt, LiveRun

_log: Final = logging.getLogger("durable.worker")
# A write that was refused is tried again after this long.
_AGAIN_SECONDS: Final = 1.0

Park: TypeAlias = Callable[[LiveRun, Failure], None]
"""Sets a run aside with its reason."""


class Activities(Protocol):
    """What it asks of those that run attempts."""

    is_draining: bool

    def begin_recorded(self, attempt: Attempt, recorded: bool) -> None:
        """Begin an attempt whose row says so."""
        ...

    def following(
        self, attempt: Attempt, failure: Failure | None, due_at: int
    ) -> Attempt:
        """The attempt after this one."""
        ...

    def end(self, attempt: Attempt) -> None:
        """Nothing more is heard of an attempt."""
        ...

    def observe(
        self, attempt: Attempt, state: AttemptState, failure: Failure | None
    ) -> None:
        """Tell how an attempt ended."""
        ...


class HeldAttempts:
    """Those of one worker."""

    def __init__(
        self, registry: Registry, activities: Activities, rows: AttemptRows, park: Park
    ) -> None:
        self._registry = registry
        self._park = park
        self._activities = activities
        self._rows = rows

    def hold(self, attempt: Attempt, failure: Failure, state: AttemptState) -> None:
        """Keep an attempt that has come to this; its run parks for it."""
        if attempt.is_over:
            return
        self._activities.end(attempt)
        self._activities.observe(attempt, state, failure)
        if not (attempt.run.is_dropped or attempt.run.is_closed):
            attempt.problem = failure
            self._write(attempt, state)

    def _write(self, attempt: Attempt, state: AttemptState) -> None:
        run = attempt.run
        if run.is_dropped or run.is_closed or attempt.problem is None:
            return
        then = partial(self._written, attempt, state)
        self._rows.record(attempt, state, then, attempt.problem)

    def _written(self, attempt: Attempt, state: AttemptState, recorded: bool) -> None:
        if recorded:
            attempt.run.is_holding = True
            self.park_if_held(attempt.run)
        else:  # nobody else knows that the function has returned
            loop = asyncio.get_running_loop()
            loop.call_later(_AGAIN_SECONDS, self._write, attempt, state)

    def restore(self, attempt: Attempt, failure: Failure) -> None:
        """Take up one whose function has returned; end it if the code is mended."""
        activity = self._registry.find_activity(attempt.scheduled.activity_type)
        problem = attempt.problem = failure
        decided = [unrecorded.is_meant(r, attempt) for r in attempt.run.resolutions]
        # What an operator has decided meanwhile counts for more than what was kept.
        if activity is not None and not any(decided):
            try:
                result = unrecorded.recover_result(activity, failure)
            except DurableError as error:
                problem = unrecorded.still_unfit(failure, error)
            else:
                self._resolve(attempt, result)
                return
        self._activities.end(attempt)
        attempt.problem = problem
        attempt.run.attempts[attempt.scheduled_event_id] = attempt
        attempt.run.is_holding = True

    def park_if_held(self, run: LiveRun) -> None:
        """Park a run for such attempts, once its others have ended."""
        if run.is_committing or run.is_dropped or self._activities.is_draining:
            return
        problems = [a.problem for a in run.attempts.values() if a.problem is not None]
        run.is_holding = bool(problems)
        if problems and len(problems) == len(run.attempts) and not run.inputs:
            self._park(run, unrecorded.parking(problems[0]))

    # --- what operators decide --------------------------------------------------------

    def resolve(self, run: LiveRun) -> None:
        """Do what operators have decided of a run's attempts."""
        resolutions, run.resolutions = run.resolutions, []
        for resolution in resolutions:
            for attempt in list(run.attempts.values()):
                if unrecorded.is_meant(resolution, attempt):
                    self._obey(attempt, resolution)

    def _obey(self, attempt: Attempt, resolution: ActivityResolution) -> None:
        run, name = attempt.run, attempt.scheduled.activity_type
        _log.info(
            "%s has decided of activity %r (id %s) of run %r: %s",
            resolution.identity or "an operator",
            name,
            attempt.scheduled.activity_id,
            run.workflow_id,
            "run again" if resolution.result is None else "result taken",
        )
        if resolution.result is not None:
            self._take(attempt, resolution.result)
            return
        due_at = self._rows.now()
        following = self._activities.following(attempt, None, due_at)
        run.attempts[attempt.scheduled_event_id] = following
        then = partial(self._activities.begin_recorded, following)
        self._rows.record(following, AttemptState.STARTED, then)

    def _take(self, attempt: Attempt, result: Payload) -> None:
        """Take a result that was given, if it is one."""
        activity = self._registry.find_activity(attempt.scheduled.activity_type)
        if activity is not None:
            try:
                activity.call_signature.decode_result(result)
            except DurableError as error:
                _log.warning(
                    "A result that was given for activity %r (id %s) of run %r is not"
                    " taken: %s",
                    activity.name,
                    attempt.scheduled.activity_id,
                    attempt.run.workflow_id,
                    error,
                )
                if attempt.problem is not None:
                    attempt.problem = unrecorded.refused(attempt.problem, error)
                return
        self._resolve(attempt, result)

    def _resolve(self, attempt: Attempt, result: Payload) -> None:
        """The result of such an attempt is known now."""
        run = attempt.run
        attempt.is_over, attempt.problem = True, None
        run.attempts.pop(attempt.scheduled_event_id, None)
        run.inputs.append(
            ActivityTaskCompleted(
                scheduled_event_id=attempt.scheduled_event_id,
                result=result,
                attempt=attempt.attempt,
                started_at=attempt.started_at,
                last_failure=attempt.last_failure,
            )
        )
        run.attempt_records += (self._rows.row(attempt, AttemptState.COMPLETED, None),)
