"""Writes what becomes of attempts: rows beside a run's history."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from durable.core.payload import Failure
from durable.errors import LeaseLostError
from durable.store.records import AttemptRecord, AttemptState, RecordAttempts
from durable.store.store import Store
from durable.worker.live_run import Attempt, LiveRun
from durable.worker.log_lines import extra_of, name_of

_log: Final = logging.getLogger("durable.worker")
_OPEN: Final = (AttemptState.BACKOFF, AttemptState.STARTED)


class Host(Protocol):
    """What writing rows asks of the worker around it."""

    def lease_lost(self, worker_id: str) -> None:
        """A write was refused because that worker's lease is gone."""
        ...

    def drop(self, run: LiveRun) -> None:
        """Take the run out of memory."""
        ...

    def reload(self, run: LiveRun) -> None:
        """Read the run's history again; keep its inputs and attempts."""
        ...


class AttemptRows:
    """The rows of one worker's attempts."""

    def __init__(self, store: Store, host: Host, worker_id: str) -> None:
        self._store = store
        self._host = host
        self._worker_id = worker_id

    def now(self) -> int:
        """Microseconds since 1970, as rows have it."""
        return self._store.now()

    def record(
        self,
        attempt: Attempt,
        state: AttemptState,
        then: Any,
        failure: Failure | None = None,
    ) -> None:
        """Write where an attempt stands; then call `then` with whether that is so."""
        attempt.has_row = True
        self.submit(attempt.run, (self.row(attempt, state, failure),), then)

    def submit(self, run: LiveRun, rows: tuple[AttemptRecord, ...], then: Any) -> None:
        """Write rows of a run, and when it must be woken."""
        run.is_active, run.wake_at = run.wanted_row()
        self._store.submit(
            RecordAttempts(
                run_id=run.run_id,
                attempts=rows,
                is_active=run.is_active,
                wake_at=run.wake_at,
            ),
            partial(self._submitted, run, then),
        )

    def _submitted(
        self, run: LiveRun, then: Any, _: Any, error: BaseException | None
    ) -> None:
        if isinstance(error, LeaseLostError):
            self._host.drop(run)
            self._host.lease_lost(error.worker_id)
        elif error is not None:
            _log.error(
                "An attempt of run %s could not be recorded (%s); it is not begun.",
                name_of(run),
                error,
                extra=extra_of(run),
            )
            run.refusals += 1
            self._host.reload(run)
        if then is not None:
            then(error is None and not (run.is_dropped or run.is_closed))

    def row(
        self, attempt: Attempt, state: AttemptState, failure: Failure | None
    ) -> AttemptRecord:
        """The row of an attempt that now stands so."""
        return AttemptRecord(
            run_id=attempt.run.run_id,
            scheduled_event_id=attempt.scheduled_event_id,
            attempt=attempt.attempt,
            activity_type=attempt.scheduled.activity_type,
            state=state,
            due_at=attempt.due_at or self._store.now(),
            started_at=(
                attempt.started_at or self._store.now()
                if state is not AttemptState.BACKOFF
                else None
            ),
            closed_at=None if state in _OPEN else self._store.now(),
            failure=None if failure is None else msgspec.json.encode(failure).decode(),
            worker_id=self._worker_id,
        )
