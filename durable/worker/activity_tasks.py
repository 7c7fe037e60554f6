"""Runs attempts of activities and records how they end.

The first attempt of a local activity is recorded by its scheduled event. Every other
one is a row before its first line runs. An attempt's outcome is decided once: by its
function, its timeout or its cancellation, whichever comes first; the rest is not heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Collection
from functools import partial
from typing import Any, Final, Protocol

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
from durable.observer import WorkerObserver, WorkerState
from durable.store.records import ATTEMPT_COMPLETED, AttemptRecord, AttemptState
from durable.store.store import Store
from durable.worker import log_lines, observing, unrecorded
from durable.worker.activity_code import BuiltIn, Code, EngineParts
from durable.worker.activity_threads import NotBegunError, speaks_of_shutdown
from durable.worker.attempt_rows import AttemptRows
from durable.worker.attempt_rows import Host as RowsHost
from durable.worker.held_attempts import HeldAttempts, Park
from durable.worker.invoking import (
    Invoker,
    UnfitArgumentsError,
    UnfitResultError,
    exit_error,
)
from durable.worker.live_run import Attempt, LiveRun
from durable.worker.places import Places, describe_running
from durable.worker.unknown_activities import Host as UnknownHost
from durable.worker.unknown_activities import UnknownActivities, starts_by

_log: Final = logging.getLogger("durable.worker")
# What could not begin, for want of a thread say, is tried again after this long.
_AGAIN_SECONDS: Final = 1.0
# A loop that ends cancels what runs on it, and is gone by then.
_LOOP_END_SECONDS: Final = 1.0
# How long what is cut short by a drain may take to clean up.
_UNWIND_SECONDS: Final = 1.0


class Host(RowsHost, UnknownHost, Protocol):
    """What running activities asks of the worker around it."""

    def advance(self, run: LiveRun) -> None:
        """The run has something new to see."""
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
        park: sets a run aside with its reason.
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
        park: Park,
    ) -> None:
        self._store = store
        self._registry = registry
        self._host = host
        self._worker_id = worker_id
        self._observer = observer
        self._parts = parts
        self._invoker = Invoker(store, parts, observer)
        self._rows = AttemptRows(store, host, worker_id)
        self._places = Places(concurrency, threads)
        # Attempts begin wherever their run was driven; they must not see that place.
        self._context = contextvars.copy_context()
        self._unknown = UnknownActivities(store, registry, host, self, self._rows)
        self.held = HeldAttempts(registry, self, self._rows, park)
        self._patient: set[Attempt] = set()  # built-in ones that are under way
        self._idle: asyncio.Event | None = None
        self.is_draining = False

    def state(self, cached: int, hits: int, misses: int, loading: int) -> WorkerState:
        """How busy the worker is; any thread may ask."""
        waiting = self._places.waiting()
        since = min((a.due_at or a.scheduled_at for a in waiting), default=0)
        return WorkerState(
            cached_runs=cached,
            cache_hits=hits,
            cache_misses=misses,
            slots=self._places.slots,
            slots_used=len(self._places.running),
            waiting=loading + len(waiting),
            waiting_for=max(0, self._store.now() - since) if since else 0,
        )

    def running(self) -> list[str]:
        """What runs, and at which line; any thread may ask."""
        return sorted(map(describe_running, self._places.running.copy()))

    # --- beginning --------------------------------------------------------------------

    def begin(self, attempt: Attempt) -> None:
        """Run an attempt that is recorded, now or when there is room."""
        if attempt.is_over:
            return
        if self.is_draining:
            # The next worker must know that it has certainly not begun.
            self._rows.record(attempt, AttemptState.BACKOFF, None)
            return
        code = self.find_code(attempt)
        if code is None:
            self._unknown.await_worker(attempt)
        elif isinstance(code, BuiltIn) or self._places.has_room(code):
            self._start(attempt, code)
        else:
            self._enqueue(attempt, code)

    def find_code(self, attempt: Attempt) -> Code | None:
        """What the attempt runs; None if this worker does not know it."""
        name = attempt.scheduled.activity_type
        built_in = self._parts.built_in.get(name)
        return built_in or self._registry.find_activity(name)

    def _enqueue(self, attempt: Attempt, code: Code) -> None:
        """Let an attempt wait; a row says that it has not begun."""
        self._places.enqueue(attempt, code)
        self._rows.record(attempt, AttemptState.BACKOFF, None)
        self._limit_wait(attempt)

    def _limit_wait(self, attempt: Attempt) -> None:
        """End an attempt that does not begin in time; no other limit counts yet."""
        limit = starts_by(attempt)
        if limit is not None:
            instant, timeout_type = limit
            self.call_at(attempt, instant, self.never_started, attempt, timeout_type)

    def call_at(self, attempt: Attempt, instant: int, call: Any, *args: Any) -> None:
        """Set the attempt's timer."""
        if attempt.timer is not None:
            attempt.timer.cancel()
        delay = max(0, instant - self._store.now()) / 1_000_000
        attempt.timer = asyncio.get_running_loop().call_later(delay, call, *args)

    def never_started(self, attempt: Attempt, timeout_type: str) -> None:
        """An attempt has not begun within its time."""
        if attempt.task is None and not attempt.is_over:
            attempt.started_at = self._store.now()
            self._timed_out(attempt, timeout_type)

    def _start(self, attempt: Attempt, activity: Code) -> None:
        attempt.code = activity
        if isinstance(activity, BuiltIn):
            self._patient.add(attempt)
        else:
            self._places.take(attempt, activity)
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
                f" (run id {attempt.run.run_id})"
            ),
            context=self._context.copy(),
        )

    # --- running ----------------------------------------------------------------------

    async def _run(self, attempt: Attempt, activity: Code) -> None:
        try:
            result = await self._invoker.call(attempt, activity, self._thread_ended)
        except asyncio.CancelledError as error:
            self._stopped(attempt, error)
        except (KeyboardInterrupt, GeneratorExit):
            raise  # the program ends: the next one sees to the attempt
        except NotBegunError as error:
            self._not_begun(attempt, error)
        except UnfitArgumentsError as error:
            failure = unrecorded.unfit_arguments(attempt, error)
            self.held.hold(attempt, failure, AttemptState.BACKOFF)
        except UnfitResultError as error:
            failure = unrecorded.unfit_result(attempt, error)
            self.held.hold(attempt, failure, AttemptState.RETURNED)
        except BaseException as error:  # noqa: BLE001 - whatever an activity raises is its outcome
            if speaks_of_shutdown(error):
                self._process_ends(attempt)
            else:
                self._failed(attempt, failure_of(error))
        else:
            self._completed(attempt, result)
        finally:
            self._leave(attempt, activity)

    def _leave(self, attempt: Attempt, activity: Code) -> None:
        if isinstance(activity, BuiltIn):
            self._patient.discard(attempt)
            return
        self._places.leave(attempt, activity)
        if self._idle is not None and not self._places.running:
            self._idle.set()
        self._start_waiting()

    def _thread_ended(self, attempt: Attempt) -> None:
        self._places.thread_ended(attempt)
        self._start_waiting()

    def _interrupt(self, attempt: Attempt) -> None:
        """Ask an attempt that has a task to stop."""
        attempt.ask_to_stop()
        task, code = attempt.task, attempt.code
        if task is None or code is None:
            return
        task.cancel()
        if attempt.context is None:
            # Cancelled before its first step it takes none, and would hold its place.
            self._leave(attempt, code)
            if attempt.is_cancel_requested:
                self._stopped(attempt, asyncio.CancelledError())

    def _start_waiting(self) -> None:
        """Record that waiting attempts begin, one for each free place."""
        while not self.is_draining:
            attempt = self._places.next_waiting()
            if attempt is None:
                return
            self._rows.record(
                attempt, AttemptState.STARTED, partial(self._begin_waiting, attempt)
            )

    def _begin_waiting(self, attempt: Attempt, recorded: bool) -> None:
        self._places.started()
        self.begin_recorded(attempt, recorded)

    def begin_recorded(self, attempt: Attempt, recorded: bool) -> None:
        """Begin an attempt whose row says so, or leave it to the row."""
        if recorded:
            self.begin(attempt)
        else:  # what the store says of it is taken up when its run is read again
            attempt.run.attempts.pop(attempt.scheduled_event_id, None)

    def _not_begun(self, attempt: Attempt, error: NotBegunError) -> None:
        """Try again soon, unless the process ends or the run is another worker's."""
        if attempt.is_over or attempt.run.is_dropped:
            return
        attempt.task = attempt.context = None
        if attempt.timer is not None:
            attempt.timer.cancel()
            attempt.timer = None
        run, event_id = attempt.run, attempt.scheduled_event_id
        attempt.due_at = self._store.now() + round(_AGAIN_SECONDS * 1_000_000)
        run.attempts.pop(event_id, None)
        run.backoffs[event_id] = attempt
        _log.warning(
            "%s has not begun (%s); it is tried again.",
            describe_running(attempt),
            error,
        )
        self._rows.record(
            attempt, AttemptState.BACKOFF, partial(self._wake_by, attempt.due_at)
        )

    def _process_ends(self, attempt: Attempt) -> None:
        """The attempt failed only because this process ends: leave it to the next."""
        if not attempt.is_over:
            self._doubt(attempt, "was cut short because its process ended")

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
            ATTEMPT_COMPLETED,
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
        elif not attempt.is_over and not attempt.is_cut_short:
            # As a CancelledError a task group of the workflow would swallow it.
            failure = failure_of(exit_error(error))
            if attempt.task is not None and attempt.task.cancelling():
                # Somebody else has cancelled its task: perhaps the loop that ends.
                again_at = self._store.now() + round(_LOOP_END_SECONDS * 1_000_000)
                self.call_at(attempt, again_at, self._failed, attempt, failure)
            else:
                self._failed(attempt, failure)

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
        self._interrupt(attempt)
        self._places.warn_if_exhausted()

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
        log_lines.log_failed_attempt(attempt, failure, decision)
        if isinstance(decision, retry.Retry):
            self._try_again(attempt, failure, now + decision.delay)
            return
        is_late = failure.kind == "timeout"
        event = ActivityTaskTimedOut if is_late else ActivityTaskFailed
        state = AttemptState.TIMED_OUT if is_late else AttemptState.FAILED
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
        self.end(attempt)
        self.observe(attempt, state, failure)
        run = attempt.run
        if run.is_dropped or run.is_closed:
            return
        run.attempts.pop(attempt.scheduled_event_id, None)
        run.inputs.append(outcome)
        if attempt.has_row or state is not ATTEMPT_COMPLETED:
            run.attempt_records += (self._rows.row(attempt, state, failure),)
        self._host.advance(run)

    def end(self, attempt: Attempt) -> None:
        """Decide that nothing more is heard of an attempt."""
        attempt.is_over = True
        if attempt.timer is not None:
            attempt.timer.cancel()
            attempt.timer = None

    def observe(
        self, attempt: Attempt, state: AttemptState, failure: Failure | None
    ) -> None:
        """Tell how an attempt ended."""
        if self._observer is not None:
            now = self._store.now()
            observing.attempt_closed(self._observer, attempt, state, failure, now)

    # --- further attempts -------------------------------------------------------------

    def _try_again(self, attempt: Attempt, failure: Failure, due_at: int) -> None:
        """Record that this attempt failed and when the next one is due."""
        self.end(attempt)
        state = (
            AttemptState.TIMED_OUT if failure.kind == "timeout" else AttemptState.FAILED
        )
        self.observe(attempt, state, failure)
        run = attempt.run
        if run.is_dropped or run.is_closed:
            return
        following = self.following(attempt, failure, due_at)
        run.attempts.pop(attempt.scheduled_event_id, None)
        run.backoffs[attempt.scheduled_event_id] = following
        rows = (
            self._rows.row(attempt, state, failure),
            self._rows.row(following, AttemptState.BACKOFF, None),
        )
        self._rows.submit(run, rows, partial(self._ended, run, rows[0], due_at))

    def _ended(
        self, run: LiveRun, row: AttemptRecord, due_at: int, recorded: bool
    ) -> None:
        """An attempt has ended and is to be followed; that may not be recorded yet."""
        if not recorded:
            run.attempt_records += (row,)
        self._host.wake_by(due_at)

    def _wake_by(self, due_at: int, _: bool) -> None:
        self._host.wake_by(due_at)

    def following(
        self, attempt: Attempt, failure: Failure | None, due_at: int
    ) -> Attempt:
        """The attempt after this one."""
        return Attempt(
            attempt.run,
            attempt.scheduled_event_id,
            attempt.scheduled,
            attempt.scheduled_at,
            attempt.headers,
            attempt=attempt.attempt + 1,
            lost=attempt.lost,
            last_failure=failure,
            has_row=True,
            due_at=due_at,
        )

    def begin_due(self, run: LiveRun, now: int) -> None:
        """Begin the attempts of a run whose time has come; each is recorded first."""
        for attempt in list(run.backoffs.values()):
            if attempt.due_at > now or self.is_draining:
                continue
            del run.backoffs[attempt.scheduled_event_id]
            run.attempts[attempt.scheduled_event_id] = attempt
            if self.find_code(attempt) is None:
                self._unknown.await_worker(attempt)
                continue
            self._rows.record(
                attempt, AttemptState.STARTED, partial(self.begin_recorded, attempt)
            )

    def begin_after_doubt(
        self, attempt: Attempt, failure: Failure, lost: AttemptRecord
    ) -> None:
        """Begin the attempt after one whose worker died in the middle of it."""
        run = attempt.run
        following = self.following(attempt, failure, self._store.now())
        following.lost += 1
        run.attempts[attempt.scheduled_event_id] = following
        rows = (lost, self._rows.row(following, AttemptState.STARTED, None))
        self._rows.submit(run, rows, partial(self.begin_recorded, following))

    def cancel(self, run: LiveRun, scheduled_event_id: int) -> None:
        """Ask an activity to stop; one that has not begun is over at once."""
        waiting = run.backoffs.pop(scheduled_event_id, None)
        attempt = waiting or run.attempts.get(scheduled_event_id)
        if attempt is None or (attempt.is_over and attempt.problem is None):
            return
        attempt.is_cancel_requested = True
        if attempt.problem is not None:  # nobody waits for what it returned
            attempt.problem, attempt.is_over = None, False
            self._stopped(attempt, asyncio.CancelledError())
        elif attempt.task is None:
            self._stopped(attempt, asyncio.CancelledError())
        else:
            self._interrupt(attempt)

    def forget(self, run: LiveRun) -> None:
        """Stop the activities of a run that is closed or no longer ours.

        Those that a closed run has abandoned go on, unheard.
        """
        for attempt in [*run.attempts.values(), *run.backoffs.values()]:
            self.end(attempt)
            if (
                run.is_closed
                and attempt.scheduled.settings.cancellation_type == "abandon"
            ):
                continue
            self._interrupt(attempt)
        run.attempts.clear()
        run.backoffs.clear()

    # --- the end ----------------------------------------------------------------------

    async def drain(self, grace: float) -> None:
        """Begin nothing more; wait for what runs, then ask it to stop.

        What only waits is not waited for. What answers by then is recorded as ever;
        of all else the rows say that this worker could not wait for it.
        """
        self.is_draining = True
        for attempt in self._patient:
            self.end(attempt)
        await self._cut_short([*self._patient])
        running = self._places.running
        if running:
            self._idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._idle.wait()
        left = [*running]
        await self._cut_short(left)
        for attempt in left:
            if not attempt.is_over:
                _log.warning(
                    "The drain waited %g s for %s and leaves it to the next worker.",
                    grace,
                    describe_running(attempt),
                )
                why = (
                    f"was cut short when its worker closed, after {grace:g} s of grace"
                )
                self._doubt(attempt, why)
        self._invoker.close()

    async def _cut_short(self, attempts: Collection[Attempt]) -> None:
        """Ask attempts to stop, and give them a moment for it."""
        tasks: list[asyncio.Task[None]] = []
        for attempt in attempts:
            attempt.is_cut_short = True
            if attempt.context is None and not attempt.is_over:
                # Its first line has not run, and will not.
                self.end(attempt)
                self._rows.record(attempt, AttemptState.BACKOFF, None)
            elif attempt.task is not None:
                tasks.append(attempt.task)
            self._interrupt(attempt)
        if tasks:
            await asyncio.wait(tasks, timeout=_UNWIND_SECONDS)

    def _doubt(self, attempt: Attempt, what: str) -> None:
        """Record why the outcome of an attempt is not known, for who comes next."""
        self.end(attempt)
        failure = Failure(
            message=f"attempt {attempt.attempt} {what}; nobody knows whether it took"
            " effect",
            kind="outcome_unknown",
            type="OutcomeUnknown",
        )
        self._rows.record(attempt, AttemptState.STARTED, None, failure)
