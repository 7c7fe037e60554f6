"""Runs attempts of activities and records how they end.

The first attempt of a local activity is recorded by its scheduled event. Every other
one is a row before its first line runs. An attempt's outcome is decided once: by its
function, its timeout or its cancellation, whichever comes first; the rest is not heard.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import logging
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from durable.api.activity_context import CURRENT, ActivityContext, ActivityInfo
from durable.api.registry import Registry
from durable.converter.failures import failure_of
from durable.core import retry
from durable.core.events import (
    ActivityTaskCanceled,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskTimedOut,
    Attributes,
)
from durable.core.payload import Failure, Payload
from durable.errors import LeaseLostError, NotRegisteredError
from durable.observer import WorkerObserver, WorkerState
from durable.store.records import AttemptRecord, AttemptState, RecordAttempts
from durable.store.store import Store
from durable.worker import observing
from durable.worker.invoking import BuiltIn, Code, EngineParts, Invoker
from durable.worker.live_run import Attempt, LiveRun

_log: Final = logging.getLogger("durable.worker")


class Host(Protocol):
    """What running activities asks of the worker around it."""

    def advance(self, run: LiveRun) -> None:
        """The run has something new to see."""
        ...

    def lease_lost(self) -> None:
        """A write was refused because another worker has taken over."""
        ...

    def reload(self, run: LiveRun) -> None:
        """Read the run's history again; keep its inputs and attempts."""
        ...

    def wake_by(self, instant: int) -> None:
        """Look for due runs no later than this."""
        ...


class ActivityTasks:
    """The activities of one worker.

    Args:
        concurrency: how many run at once; more wait in order.
        threads: how many of them may be plain functions, each in a thread.
        parts: what the engine hands to its activities.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        host: Host,
        *,
        worker_id: str,
        concurrency: int,
        threads: int,
        observer: WorkerObserver | None,
        parts: EngineParts,
    ) -> None:
        self._store = store
        self._registry = registry
        self._host = host
        self._worker_id = worker_id
        self._slots = self._free = concurrency
        self._free_threads = threads
        self._observer = observer
        self._parts = parts
        self._invoker = Invoker(threads)
        # Attempts begin wherever their run was driven; they must not see that place.
        self._context = contextvars.copy_context()
        self._queue: collections.deque[Attempt] = collections.deque()
        self._thread_queue: collections.deque[Attempt] = collections.deque()
        self._running: set[Attempt] = set()
        self._patient: set[Attempt] = set()  # built-in ones that are under way
        self._starting = 0
        self._idle: asyncio.Event | None = None
        self.is_draining = False

    def state(self, cached: int, hits: int, misses: int, loading: int) -> WorkerState:
        """How busy the worker is; any thread may ask."""
        waiting = [*self._queue.copy(), *self._thread_queue.copy()]
        since = min((a.due_at or a.scheduled_at for a in waiting), default=0)
        return WorkerState(
            cached_runs=cached,
            cache_hits=hits,
            cache_misses=misses,
            slots=self._slots,
            slots_used=len(self._running),
            waiting=loading + len(waiting),
            waiting_for=max(0, self._store.now() - since) if since else 0,
        )

    # --- beginning --------------------------------------------------------------------

    def begin(self, attempt: Attempt) -> None:
        """Run an attempt that is recorded, now or when there is room."""
        if attempt.is_over:
            return
        if self.is_draining:
            # The next worker must know that it has certainly not begun.
            self._record(attempt, AttemptState.BACKOFF, None)
            return
        name = attempt.scheduled.activity_type
        if name in self._parts.built_in:
            self._start(attempt, self._parts.built_in[name])
            return
        try:
            activity = self._registry.get_activity(name)
        except NotRegisteredError as error:
            attempt.started_at = self._store.now()
            self._failed(attempt, failure_of(error))
            return
        needs_thread = not activity.is_async
        if self._free == 0 or (needs_thread and self._free_threads == 0):
            self._enqueue(attempt, needs_thread=needs_thread)
            return
        self._start(attempt, activity)

    def _enqueue(self, attempt: Attempt, *, needs_thread: bool) -> None:
        """Let an attempt wait; a row says that it has not begun."""
        (self._thread_queue if needs_thread else self._queue).append(attempt)
        if attempt.attempt == 1:
            self._record(attempt, AttemptState.BACKOFF, None)
        limit = attempt.scheduled.settings.schedule_to_start_timeout
        if limit is not None:
            loop = asyncio.get_running_loop()
            attempt.timer = loop.call_later(
                limit / 1_000_000, self._never_started, attempt
            )

    def _never_started(self, attempt: Attempt) -> None:
        if attempt.task is None and not attempt.is_over:
            attempt.started_at = self._store.now()
            self._timed_out(attempt, "schedule_to_start")

    def _start(self, attempt: Attempt, activity: Code) -> None:
        if isinstance(activity, BuiltIn):
            self._patient.add(attempt)
        else:
            self._running.add(attempt)
            self._free -= 1
            if not activity.is_async:
                self._free_threads -= 1
        if attempt.timer is not None:
            attempt.timer.cancel()
            attempt.timer = None
        now = attempt.started_at = self._store.now()
        loop = asyncio.get_running_loop()
        settings = attempt.scheduled.settings
        limit, kind = settings.start_to_close_timeout, "start_to_close"
        if settings.schedule_to_close_timeout is not None:
            left = attempt.scheduled_at + settings.schedule_to_close_timeout - now
            if limit is None or left < limit:
                limit, kind = max(left, 0), "schedule_to_close"
        if limit is not None:
            attempt.timer = loop.call_later(
                limit / 1_000_000, self._timed_out, attempt, kind
            )
        attempt.task = loop.create_task(
            self._run(attempt, activity),
            name=(
                f"Activity {activity.name!r} (id {attempt.scheduled.activity_id},"
                f" attempt {attempt.attempt}) of run {attempt.run.workflow_id!r}"
            ),
            context=self._context.copy(),
        )

    # --- running ----------------------------------------------------------------------

    async def _run(self, attempt: Attempt, activity: Code) -> None:
        run, scheduled = attempt.run, attempt.scheduled
        context = ActivityContext(
            ActivityInfo(
                activity_type=scheduled.activity_type,
                activity_id=scheduled.activity_id,
                attempt=attempt.attempt,
                workflow_type=run.workflow_type,
                workflow_id=run.workflow_id,
                run_id=run.run_id,
                scheduled_at=attempt.scheduled_at,
                started_at=attempt.started_at,
                start_to_close_timeout=scheduled.settings.start_to_close_timeout,
            ),
            self._parts.engine,
        )
        CURRENT.set(context)
        attempt.context = context
        try:
            result = await self._call(attempt, activity, context.info)
        except asyncio.CancelledError as error:
            self._stopped(attempt, error)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever an activity raises is its outcome
            self._failed(attempt, failure_of(error))
        else:
            self._completed(attempt, result)
        finally:
            self._leave(attempt, activity)

    async def _call(
        self, attempt: Attempt, activity: Code, info: ActivityInfo
    ) -> Payload:
        observer, input = self._observer, attempt.scheduled.input
        if observer is None:
            return await self._invoker.call(activity, input, info)
        with observer.running_activity(
            activity_type=info.activity_type,
            activity_id=info.activity_id,
            attempt=info.attempt,
            workflow_type=info.workflow_type,
            workflow_id=info.workflow_id,
            run_id=info.run_id,
            waited=observing.attempt_waited(attempt),
            headers=attempt.headers,
            run_headers=attempt.run.headers,
        ):
            return await self._invoker.call(activity, input, info)

    def _leave(self, attempt: Attempt, activity: Code) -> None:
        if isinstance(activity, BuiltIn):
            self._patient.discard(attempt)
            return
        self._running.discard(attempt)
        self._free += 1
        if not activity.is_async:
            self._free_threads += 1
        if self._idle is not None and not self._running:
            self._idle.set()
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Record that waiting attempts begin, one for each free place."""
        while self._free > self._starting and not self.is_draining:
            queue = self._queue
            if self._thread_queue and self._free_threads > self._starting:
                queue = self._thread_queue
            if not queue:
                return
            attempt = queue.popleft()
            if not attempt.is_over:
                self._starting += 1
                self._record(
                    attempt, AttemptState.STARTED, partial(self._begin_waiting, attempt)
                )

    def _begin_waiting(self, attempt: Attempt, recorded: bool) -> None:
        self._starting -= 1
        self._begin_recorded(attempt, recorded)

    def _begin_recorded(self, attempt: Attempt, recorded: bool) -> None:
        if recorded:
            self.begin(attempt)
        else:  # what the store says of it is taken up when its run is read again
            attempt.run.attempts.pop(attempt.scheduled_event_id, None)

    # --- outcomes ---------------------------------------------------------------------

    def _completed(self, attempt: Attempt, result: Payload) -> None:
        self._close(
            attempt,
            ActivityTaskCompleted(
                scheduled_event_id=attempt.scheduled_event_id,
                result=result,
                attempt=attempt.attempt,
                started_at=attempt.started_at,
                identity=self._worker_id,
                last_failure=attempt.last_failure,
            ),
            AttemptState.COMPLETED,
            None,
        )

    def _stopped(self, attempt: Attempt, error: asyncio.CancelledError) -> None:
        if attempt.is_cancel_requested:
            self._close(
                attempt,
                ActivityTaskCanceled(
                    scheduled_event_id=attempt.scheduled_event_id,
                    attempt=attempt.attempt,
                    started_at=attempt.started_at,
                    identity=self._worker_id,
                ),
                AttemptState.CANCELLED,
                None,
            )
        elif not attempt.is_over and not self.is_draining:
            failure = failure_of(error)
            self._failed(
                attempt,
                msgspec.structs.replace(
                    failure,
                    kind="application",
                    message=failure.message or "raised CancelledError, unasked",
                ),
            )

    def _timed_out(self, attempt: Attempt, timeout_type: str) -> None:
        """An attempt's time is up: decide so now, whatever its function does."""
        settings = attempt.scheduled.settings
        limit = getattr(settings, f"{timeout_type}_timeout") or 0
        failure = Failure(
            message=f"{timeout_type}_timeout of {limit / 1_000_000:g} s passed",
            kind="timeout",
            type="TimeoutError",
            timeout_type=timeout_type,
            cause=attempt.last_failure if timeout_type == "schedule_to_close" else None,
        )
        self._failed(attempt, failure)
        attempt.ask_to_stop()
        if attempt.task is not None:
            attempt.task.cancel()

    def _failed(self, attempt: Attempt, failure: Failure) -> None:
        if attempt.is_over:
            return
        now = self._store.now()
        scheduled = attempt.scheduled
        decision: retry.Retry | retry.GiveUp
        if attempt.is_cancel_requested:
            decision = retry.GiveUp(retry.CANCEL_REQUESTED)
        else:
            decision = retry.decide(
                scheduled.settings,
                # The policy bounds failures, and a lost attempt has not failed.
                attempt=attempt.attempt - attempt.lost,
                failure=failure,
                scheduled_at=attempt.scheduled_at,
                now=now,
            )
        if isinstance(decision, retry.Retry):
            self._try_again(attempt, failure, now + decision.delay)
            return
        event = (
            ActivityTaskTimedOut if failure.kind == "timeout" else ActivityTaskFailed
        )
        state = (
            AttemptState.TIMED_OUT if failure.kind == "timeout" else AttemptState.FAILED
        )
        self._close(
            attempt,
            event(
                scheduled_event_id=attempt.scheduled_event_id,
                failure=failure,
                attempt=attempt.attempt,
                started_at=attempt.started_at,
                retry_state=decision.retry_state,
                identity=self._worker_id,
            ),
            state,
            failure,
        )

    def _close(
        self,
        attempt: Attempt,
        outcome: Attributes,
        state: AttemptState,
        failure: Failure | None,
    ) -> None:
        """Hand the activity's outcome to its run, once."""
        if attempt.is_over:
            return
        self._end(attempt)
        self._observe(attempt, state, failure)
        run = attempt.run
        if run.is_dropped or run.is_closed:
            return
        run.attempts.pop(attempt.scheduled_event_id, None)
        run.inputs.append(outcome)
        if attempt.has_row or state is not AttemptState.COMPLETED:
            run.attempt_records += (self._row(attempt, state, failure),)
        self._host.advance(run)

    def _end(self, attempt: Attempt) -> None:
        attempt.is_over = True
        if attempt.timer is not None:
            attempt.timer.cancel()
            attempt.timer = None

    def _observe(
        self, attempt: Attempt, state: AttemptState, failure: Failure | None
    ) -> None:
        if self._observer is not None:
            now = self._store.now()
            observing.attempt_closed(self._observer, attempt, state, failure, now)

    # --- further attempts -------------------------------------------------------------

    def _try_again(self, attempt: Attempt, failure: Failure, due_at: int) -> None:
        """Record that this attempt failed and when the next one is due."""
        self._end(attempt)
        state = (
            AttemptState.TIMED_OUT if failure.kind == "timeout" else AttemptState.FAILED
        )
        self._observe(attempt, state, failure)
        run = attempt.run
        if run.is_dropped or run.is_closed:
            return
        following = self._following(attempt, failure, due_at)
        run.attempts.pop(attempt.scheduled_event_id, None)
        run.backoffs[attempt.scheduled_event_id] = following
        rows = (
            self._row(attempt, state, failure),
            self._row(following, AttemptState.BACKOFF, None),
        )
        self._submit(run, rows, partial(self._wake_by, due_at))

    def _wake_by(self, due_at: int, _: bool) -> None:
        self._host.wake_by(due_at)

    def _following(
        self, attempt: Attempt, failure: Failure | None, due_at: int
    ) -> Attempt:
        following = Attempt(
            attempt.run,
            attempt.scheduled_event_id,
            attempt.scheduled,
            attempt.scheduled_at,
            attempt=attempt.attempt + 1,
            lost=attempt.lost,
            last_failure=failure,
        )
        following.due_at = due_at
        following.headers = attempt.headers
        return following

    def begin_due(self, run: LiveRun, now: int) -> None:
        """Begin the attempts of a run whose time has come; each is recorded first."""
        for attempt in list(run.backoffs.values()):
            if attempt.due_at <= now and not self.is_draining:
                del run.backoffs[attempt.scheduled_event_id]
                run.attempts[attempt.scheduled_event_id] = attempt
                self._record(
                    attempt,
                    AttemptState.STARTED,
                    partial(self._begin_recorded, attempt),
                )

    def begin_after_doubt(
        self, attempt: Attempt, failure: Failure, lost: AttemptRecord
    ) -> None:
        """Begin the attempt after one whose worker died in the middle of it."""
        run = attempt.run
        following = self._following(attempt, failure, self._store.now())
        following.lost += 1
        run.attempts[attempt.scheduled_event_id] = following
        rows = (lost, self._row(following, AttemptState.STARTED, None))
        self._submit(run, rows, partial(self._begin_recorded, following))

    def cancel(self, run: LiveRun, scheduled_event_id: int) -> None:
        """Ask an activity to stop; one that has not begun is over at once."""
        waiting = run.backoffs.pop(scheduled_event_id, None)
        attempt = waiting or run.attempts.get(scheduled_event_id)
        if attempt is None or attempt.is_over:
            return
        attempt.is_cancel_requested = True
        if attempt.task is None:
            self._stopped(attempt, asyncio.CancelledError())
            return
        attempt.ask_to_stop()
        attempt.task.cancel()

    def forget(self, run: LiveRun) -> None:
        """Stop the activities of a run that is closed or no longer ours.

        Those that a closed run has abandoned go on, unheard.
        """
        for attempt in [*run.attempts.values(), *run.backoffs.values()]:
            self._end(attempt)
            if (
                run.is_closed
                and attempt.scheduled.settings.cancellation_type == "abandon"
            ):
                continue
            attempt.ask_to_stop()
            if attempt.task is not None:
                attempt.task.cancel()
        run.attempts.clear()
        run.backoffs.clear()

    # --- rows -------------------------------------------------------------------------

    def _record(self, attempt: Attempt, state: AttemptState, then: Any) -> None:
        attempt.has_row = True
        self._submit(attempt.run, (self._row(attempt, state, None),), then)

    def _submit(self, run: LiveRun, rows: tuple[AttemptRecord, ...], then: Any) -> None:
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
            self._host.lease_lost()
        elif error is not None:
            _log.error(
                "An attempt of run %r could not be recorded (%s); it is not begun.",
                run.workflow_id,
                error,
            )
            run.refusals += 1
            self._host.reload(run)
        if then is not None:
            then(error is None and not (run.is_dropped or run.is_closed))

    def _row(
        self, attempt: Attempt, state: AttemptState, failure: Failure | None
    ) -> AttemptRecord:
        has_ended = state not in (AttemptState.BACKOFF, AttemptState.STARTED)
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
            closed_at=self._store.now() if has_ended else None,
            failure=None if failure is None else msgspec.json.encode(failure).decode(),
            worker_id=self._worker_id,
        )

    # --- the end ----------------------------------------------------------------------

    async def drain(self, grace: float) -> None:
        """Begin nothing more; wait for what runs, then stop it.

        What only waits is not waited for.
        """
        await self._stop(self._patient, grace)
        if self._running:
            self._idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._idle.wait()
        self.is_draining = True
        await self._stop(self._running | self._patient, grace)
        self._invoker.close()

    async def _stop(self, attempts: set[Attempt], grace: float) -> None:
        tasks = [attempt.task for attempt in attempts if attempt.task is not None]
        for attempt in list(attempts):
            self._end(attempt)
            attempt.ask_to_stop()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
