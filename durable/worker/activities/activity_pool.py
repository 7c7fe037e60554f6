"""Runs attempts of activities, and tells their runs how they end.

What follows from an end is decided by the run (`durable.runs.attempts`); tasks, threads
and timers live here, and a run that is told twice hears the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, Final, TypeAlias

from durable.api.activities.activity_context import (
    ActivityCancellationReason,
    ActivityContext,
)
from durable.api.registry import Registry
from durable.converter.failures import failure_of
from durable.core.history.payload import Failure, Payloads
from durable.errors import AttemptOverError
from durable.observer import WorkerObserver, WorkerState
from durable.runs import inputs
from durable.runs.activity_tasks.endings import unknown_outcome
from durable.runs.activity_tasks.outside import ActivityToken
from durable.runs.activity_tasks.retry_budgets import RetryBudgets
from durable.runs.live_run import Attempt, LiveRun
from durable.runs.states import GONE, OVER, QUEUED
from durable.store.records import AttemptState
from durable.store.store import Store
from durable.worker.activities import unrecorded
from durable.worker.activities.activity_code import BuiltIn, Code, EngineParts
from durable.worker.activities.activity_threads import NotBegunError, speaks_of_shutdown
from durable.worker.activities.beats import Beats
from durable.worker.activities.calls import Call, starts_by
from durable.worker.activities.invoking import (
    Invoker,
    UnfitArgumentsError,
    UnfitResultError,
    UnverifiedError,
)
from durable.worker.activities.places import Places, describe_running
from durable.worker.activities.plain_calls import exit_error
from durable.worker.activities.processes.pool import ProcessLostError

Feed: TypeAlias = Callable[[LiveRun, inputs.AnyInput], None]
"""Gives a run something, and carries out what it wants then."""

_log: Final = logging.getLogger("durable.worker")
# What could not begin, for want of a thread say, is tried again after this long.
_AGAIN_SECONDS: Final = 1.0
# That so many wait for a place is recorded at once. Of more it is not if they have one
# by then, or in so many times as long, as those before them go on.
_FEW_WAITING: Final = 16
_SAID_AFTER_SECONDS: Final = 0.5
_SOON_ENOUGH: Final = 8
# A loop that ends cancels what runs on it, and is gone by then.
_LOOP_END_SECONDS: Final = 1.0
# How long what is cut short by a drain may take to clean up.
_UNWIND_SECONDS: Final = 1.0


class PoolRoom:
    """See `durable.runs.live_run.Room`; `free` is how many of each lane are left."""

    def __init__(
        self, free: dict[str, int], find_code: Callable[[str], Code | None]
    ) -> None:
        self.free = free
        self._find_code = find_code

    def take(self, activity_type: str) -> bool:
        """See the protocol."""
        code = self._find_code(activity_type)
        if code is None or isinstance(code, BuiltIn):
            return True
        return self.take_lane(code.lane)

    def take_lane(self, lane: str) -> bool:
        """Take a place of a lane; False if there is none."""
        free = self.free
        if free["loop"] <= 0 or free[lane] <= 0:
            return False
        free["loop"] -= 1
        if lane != "loop":
            free[lane] -= 1
        return True


class ActivityPool:
    """The activities of one worker.

    Args:
        feed: tells runs what became of their attempts.
        concurrency: how many run at once; more wait in order.
        threads: how many of them may be plain functions, each in a thread.
        processes: how many may be plain functions, each in a process.
        parts: what the engine hands to its activities.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        feed: Feed,
        *,
        concurrency: int,
        threads: int,
        processes: int,
        observer: WorkerObserver | None,
        parts: EngineParts,
    ) -> None:
        self._store = store
        self._registry = registry
        self._feed = feed
        self._parts = parts
        self._invoker = Invoker(
            store, parts, observer, processes, self._beat, self._hand_out
        )
        self._places = Places(concurrency, threads, processes)
        self._budgets = RetryBudgets()
        # Attempts begin wherever their run was driven; they must not see that place.
        self._context = contextvars.copy_context()
        self._patient: set[Call] = set()  # built-in ones that are under way
        self._unsaid: list[Call] = []  # no row says yet that they wait
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.Event | None = None
        self.is_draining = False
        self.when_free: Callable[[], None] | None = None
        """Called when a place is free that nobody here waits for."""
        self.fail_outside: Callable[[Attempt, Failure], None]
        """Ends an attempt that had been left to somebody outside."""

    def state(self, cached: int, hits: int, misses: int, loading: int) -> WorkerState:
        """How busy the worker is; any thread may ask."""
        waiting = [call.attempt for call in self._places.waiting()]
        since = min((a.due_at or a.scheduled_at for a in waiting), default=0)
        return WorkerState(
            cached_runs=cached,
            cache_hits=hits,
            cache_misses=misses,
            slots=self._places.slots,
            slots_used=len(self._places.running),
            threads=self._places.threads.size,
            threads_used=self._places.threads.used,
            processes=self._places.processes.size,
            processes_used=self._places.processes.used,
            waiting=loading + len(waiting),
            waiting_for=max(0, self._store.now() - since) if since else 0,
        )

    @property
    def occupancy(self) -> tuple[int, int]:
        """How many activities run, and how many may; any thread may ask."""
        return len(self._places.running), self._places.slots

    def running(self) -> list[str]:
        """What runs, and at which line; any thread may ask."""
        return sorted(map(describe_running, self._places.running.copy()))

    @property
    def processes(self) -> tuple[int, int]:
        """How many processes there are, and how many were lost; any thread may ask."""
        return self._invoker.processes

    # --- beginning --------------------------------------------------------------------

    def begin(self, attempt: Attempt, now: int) -> None:
        """Run an attempt that is recorded, now or when there is room."""
        call = attempt.call
        if call is None:
            call = attempt.call = Call(attempt)
        else:
            self._places.forget_promise(call)
        body = attempt.body
        code: Code | None = (
            self.find_code(attempt.scheduled.activity_type)
            if body is None
            else self._registry.find_body(body)
        )
        if code is None:
            self._feed(attempt.run, inputs.AttemptUnknown(attempt))
        elif isinstance(code, BuiltIn) or self._places.has_room(code):
            self._start(call, code, now)
        else:
            self._places.enqueue(call, code)
            is_one_of_many = self._places.waiting_count > _FEW_WAITING
            self._feed(attempt.run, inputs.AttemptQueued(attempt, is_one_of_many))
            if _is_unsaid(call):
                self._say_soon(call)
            # No other limit counts as long as it waits.
            limit = starts_by(attempt)
            if limit is not None:
                self.call_at(call, limit[0], self.never_started, call, limit[1])

    def room(self) -> PoolRoom:
        """The places that are free now."""
        return PoolRoom(self._places.room(), self.find_code)

    def offer_waiting(self) -> None:
        """Others have come: what waits for a place here may go to them."""
        for call in self._places.waiting():
            if not call.attempt.is_over:
                self._feed(call.attempt.run, inputs.AttemptQueued(call.attempt))

    def _say_soon(self, call: Call) -> None:
        """Have it recorded that one waits, unless it has a place by then."""
        if not self._unsaid:
            self._loop.call_later(_SAID_AFTER_SECONDS, self._look_at_waiting)
        self._unsaid.append(call)

    def _look_at_waiting(self) -> None:
        """Put it off again while so many get a place that the rest will soon."""
        before = len(self._unsaid)
        self._unsaid = [call for call in self._unsaid if _is_unsaid(call)]
        left = len(self._unsaid)
        if (before - left) * _SOON_ENOUGH < left:
            self._say_waiting()
        elif left:
            self._loop.call_later(_SAID_AFTER_SECONDS, self._look_at_waiting)

    def _say_waiting(self) -> None:
        unsaid, self._unsaid = self._unsaid, []
        for call in unsaid:
            if _is_unsaid(call):
                self._feed(call.attempt.run, inputs.AttemptQueued(call.attempt))

    def find_code(self, name: str) -> Code | None:
        """What attempts of an activity run; None if this worker does not know it."""
        built_in = self._parts.built_in.get(name)
        return built_in or self._registry.find_activity(name)

    def knows(self, name: str) -> bool:
        """Whether attempts of an activity can run here."""
        return self.find_code(name) is not None

    def call_at(self, call: Call, instant: int, then: Any, *args: Any) -> None:
        """Set the timer of an attempt."""
        if call.timer is not None:
            call.timer.cancel()
        delay = max(0, instant - self._store.now()) / 1_000_000
        call.timer = asyncio.get_running_loop().call_later(delay, then, *args)

    def never_started(self, call: Call, timeout_type: str) -> None:
        """An attempt has not begun within its time."""
        if call.task is None and not call.attempt.is_over:
            call.started_at = self._store.now()
            self._timed_out(call, timeout_type)

    def _start(self, call: Call, code: Code, now: int) -> None:
        call.code = code
        if isinstance(code, BuiltIn):
            self._patient.add(call)
        else:
            self._places.take(call, code)
        call.cancel_timer()
        attempt = call.attempt
        if code.retry_budget is not None and attempt.attempt == 1:
            self._budgets.earn(code.name, code.retry_budget, now)
        call.started_at = now
        loop = asyncio.get_running_loop()
        scheduled = attempt.scheduled
        settings = scheduled.settings
        limit, kind = settings.start_to_close_timeout, "start_to_close"
        if settings.schedule_to_close_timeout is not None:
            left = attempt.scheduled_at + settings.schedule_to_close_timeout - now
            if limit is None or left < limit:
                limit, kind = max(left, 0), "schedule_to_close"
        if limit is not None:
            call.timer = loop.call_later(limit / 1_000_000, self._timed_out, call, kind)
        is_auto = code.is_heard
        if is_auto or settings.heartbeat_timeout is not None:
            self._beats_of(call).watch(is_auto=is_auto)
        run = attempt.run
        call.task = loop.create_task(
            self._run(call, code),
            name=(
                f"Activity {code.name!r} (id {scheduled.activity_id},"
                f" attempt {attempt.attempt}) of run {run.started.workflow_id!r}"
                f" (run id {run.run_id})"
            ),
            context=self._context.copy(),
        )

    def _beats_of(self, call: Call) -> Beats:
        attempt, beats = call.attempt, call.beats
        if beats is None:
            limit = attempt.scheduled.settings.heartbeat_timeout
            beats = call.beats = Beats(
                attempt,
                self._loop,
                lambda: self._feed(
                    attempt.run, inputs.AttemptBeat(attempt, call.started_at)
                ),
                lambda: self._timed_out(call, "heartbeat"),
                None if limit is None else limit / 1_000_000,
            )
        return beats

    def _beat(self, context: ActivityContext, details: Payloads) -> None:
        """An attempt goes on; any thread may say so."""
        call = context.attempt.call
        if call is not None:  # else it is over
            self._beats_of(call).beat(details)

    def _hand_out(self, context: ActivityContext) -> Future[str]:
        """Leave an attempt to whoever has its token; any thread may ask for it."""
        found: Future[str] = Future()
        self._loop.call_soon_threadsafe(self._hand_out_now, context.attempt, found)
        return found

    def _hand_out_now(self, attempt: Attempt, found: Future[str]) -> None:
        call: Call | None = attempt.call
        told: asyncio.Future[bool] = self._loop.create_future()

        def tell(answer: asyncio.Future[bool]) -> None:
            if answer.cancelled() or found.cancelled():
                return
            if (problem := answer.exception()) is not None:
                found.set_exception(problem)
            elif call is not None and answer.result():
                call.cancel_timer()
                call.is_external = True
                number = attempt.scheduled_event_id
                token = ActivityToken(
                    attempt.run.run_id, number, attempt.attempt, call.started_at
                )
                found.set_result(str(token))
            else:
                found.set_exception(
                    AttemptOverError(
                        f"Attempt {attempt.attempt} of activity"
                        f" {attempt.scheduled.activity_type!r} cannot be left to"
                        " others: it is over, or was asked to stop."
                    )
                )

        told.add_done_callback(tell)
        if call is None:  # it is over
            told.set_result(False)
            return
        said = inputs.AttemptExternal(attempt, call.started_at, told)
        self._feed(attempt.run, said)

    # --- running ----------------------------------------------------------------------

    async def _run(self, call: Call, code: Code) -> None:
        attempt = call.attempt
        try:
            result = await self._invoker.call(call, code, self._work_ended)
        except asyncio.CancelledError as error:
            self._stopped(call, error)
        except (KeyboardInterrupt, GeneratorExit):
            raise  # the program ends: the next one sees to the attempt
        except NotBegunError as error:
            self._not_begun(call, error)
        except UnfitArgumentsError as error:
            failure = unrecorded.unfit_arguments(attempt, error)
            self._hold(call, failure, AttemptState.BACKOFF)
        except UnfitResultError as error:
            failure = unrecorded.unfit_result(attempt, error)
            self._hold(call, failure, AttemptState.RETURNED)
        except ProcessLostError as error:
            self._lost(call, error)
        except UnverifiedError as error:
            self._failed(call, unrecorded.unverified(error))
        except BaseException as error:  # noqa: BLE001 - whatever an activity raises is its outcome
            if speaks_of_shutdown(error):
                self._doubt(call, "was cut short because its process ended")
            else:
                self._failed(call, failure_of(error))
        else:
            call.cancel_timer()
            self._feed(
                attempt.run, inputs.AttemptCompleted(attempt, result, call.started_at)
            )
        finally:
            self._leave(call, code)

    def _leave(self, call: Call, code: Code) -> None:
        if call.attempt.phase is OVER:
            call.attempt.call = None  # or both would wait for the cyclic collector
        if isinstance(code, BuiltIn):
            self._patient.discard(call)
            return
        self._places.leave(call, code)
        if self._idle is not None and not self._places.running:
            self._idle.set()
        self._start_waiting()
        if self.when_free is not None:
            self.when_free()

    def _work_ended(self, call: Call) -> None:
        self._places.work_ended(call)
        self._start_waiting()

    def _interrupt(self, call: Call, reason: ActivityCancellationReason) -> None:
        """Ask an attempt that has a task to stop."""
        if call.context is not None:
            call.context.cancel(reason)
        task, code = call.task, call.code
        if task is None or code is None:
            return
        if call.work is not None:
            call.work.interrupt(reason)
            if not call.attempt.is_over:
                return  # what its function makes of that is still heard
        task.cancel()
        if call.context is None:
            # Cancelled before its first step it takes none, and would hold its place.
            self._leave(call, code)
            if call.is_stopping:
                self._say_stopped(call)

    def _start_waiting(self) -> None:
        """Have it recorded that waiting attempts begin, one for each free place."""
        while not self.is_draining:
            call = self._places.next_waiting()
            if call is None:
                return
            self._feed(call.attempt.run, inputs.AttemptReady(call.attempt))

    def _not_begun(self, call: Call, error: NotBegunError) -> None:
        """Try again soon, unless the process ends or the run is another worker's."""
        attempt = call.attempt
        if attempt.is_over or attempt.run.state is GONE:
            return
        call.cancel_timer()
        _log.warning(
            "%s has not begun (%s); it is tried again.", describe_running(call), error
        )
        attempt.call = None
        again_at = self._store.now() + round(_AGAIN_SECONDS * 1_000_000)
        self._feed(attempt.run, inputs.AttemptNotBegun(attempt, again_at))

    # --- how it ended -----------------------------------------------------------------

    def _failed(self, call: Call, failure: Failure) -> None:
        if call.is_external:
            self.fail_outside(call.attempt, failure)
        elif call.is_committing:
            return  # its row says, or will, what has become of it
        elif not call.attempt.is_over:
            call.cancel_timer()
            said = inputs.AttemptFailed(call.attempt, failure, call.started_at)
            if call.code is not None and call.code.retry_budget is not None:
                budget, now = call.code.retry_budget, self._store.now()
                said.not_before = self._budgets.spend(call.code.name, budget, said, now)
            self._feed(call.attempt.run, said)

    def _say_stopped(self, call: Call) -> None:
        if call.is_committing:
            return
        call.cancel_timer()
        said = inputs.AttemptStopped(call.attempt, call.started_at)
        self._feed(call.attempt.run, said)

    def _hold(self, call: Call, problem: Failure, row_state: AttemptState) -> None:
        call.cancel_timer()
        said = inputs.AttemptUnrecorded(
            call.attempt, problem, row_state, call.started_at
        )
        self._feed(call.attempt.run, said)

    def _stopped(self, call: Call, error: asyncio.CancelledError) -> None:
        if call.is_stopping:
            self._say_stopped(call)
        elif not call.attempt.is_over and not call.is_cut_short:
            # As a CancelledError a task group of the workflow would swallow it.
            failure = failure_of(exit_error(error))
            if call.task is not None and call.task.cancelling():
                # Somebody else has cancelled its task: perhaps the loop that ends.
                again_at = self._store.now() + round(_LOOP_END_SECONDS * 1_000_000)
                self.call_at(call, again_at, self._failed, call, failure)
            else:
                self._failed(call, failure)

    def _timed_out(self, call: Call, timeout_type: str) -> None:
        """An attempt's time is up: say so now, whatever its function does."""
        self._failed(call, unrecorded.timed_out(call, timeout_type))
        self._interrupt(call, ActivityCancellationReason.TIMED_OUT)
        self._places.warn_if_exhausted()

    def stop(self, attempt: Attempt, *, is_closed: bool) -> None:
        """End what waits, and ask what runs to stop; `is_closed` is its run."""
        call = attempt.call
        if call is None:
            return
        self._places.forget_promise(call)
        reason = ActivityCancellationReason.REQUESTED
        if attempt.is_over:
            call.cancel_timer()
            reason = ActivityCancellationReason.RUN_LOST
            if is_closed:
                reason = ActivityCancellationReason.RUN_CLOSED
        else:
            call.is_stopping = True
        self._interrupt(call, reason)

    def let_go(self, attempt: Attempt) -> None:
        """Let an attempt run on that nobody hears of any more."""
        if attempt.call is not None:
            attempt.call.cancel_timer()

    # --- the end ----------------------------------------------------------------------

    async def drain(self, grace: float) -> None:
        """Begin nothing more; wait for what runs, then ask it to stop.

        What only waits is not waited for. What answers by then is recorded as ever;
        of all else the rows say that this worker could not wait for it.
        """
        self.is_draining = True
        self._invoker.worker_stops()
        self._say_waiting()
        patient = [*self._patient]
        for call in patient:
            call.cancel_timer()
            self._feed(call.attempt.run, inputs.AttemptUnheard(call.attempt))
        await self._cut_short(patient)
        running = self._places.running
        if running:
            self._idle = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._idle.wait()
        left = [*running]
        await self._cut_short(left)
        for call in left:
            if not call.attempt.is_over:
                _log.warning(
                    "The drain waited %g s for %s and leaves it to the next worker.",
                    grace,
                    describe_running(call),
                )
                why = (
                    f"was cut short when its worker closed, after {grace:g} s of grace"
                )
                self._doubt(call, why)
            if call.task is not None:
                call.task.cancel()  # of a thread that does not return, say
        await self._invoker.close()

    def abandon(self) -> None:
        """Leave nothing behind that does not end with the event loop."""
        self._invoker.abandon()

    async def _cut_short(self, calls: Collection[Call]) -> None:
        """Ask attempts to stop, and give them a moment for it."""
        tasks: list[asyncio.Task[None]] = []
        for call in calls:
            call.is_cut_short = True
            if call.context is None and not call.attempt.is_over:
                # Its first line has not run, and will not.
                call.cancel_timer()
                self._feed(call.attempt.run, inputs.AttemptLeft(call.attempt))
            elif call.task is not None:
                tasks.append(call.task)
            self._interrupt(call, ActivityCancellationReason.WORKER_STOPPING)
        if tasks:
            await asyncio.wait(tasks, timeout=_UNWIND_SECONDS)

    def _lost(self, call: Call, error: ProcessLostError) -> None:
        """The process that ran an attempt has died: as if the worker had."""
        attempt = call.attempt
        if call.is_cut_short or attempt.is_over:
            return
        call.cancel_timer()
        failure = _doubtful(attempt, f"was under way when {error}")
        said = inputs.AttemptLost(attempt, failure, call.started_at)
        self._feed(attempt.run, said)

    def _doubt(self, call: Call, what: str) -> None:
        """Say why the outcome of an attempt is not known, for who comes next."""
        attempt = call.attempt
        if attempt.is_over or call.is_committing:
            return
        call.cancel_timer()
        failure = _doubtful(attempt, what)
        said = inputs.AttemptDoubtful(attempt, failure, call.started_at)
        self._feed(attempt.run, said)


def _doubtful(attempt: Attempt, what: str) -> Failure:
    return unknown_outcome(f"attempt {attempt.attempt} {what}")


def _is_unsaid(call: Call) -> bool:
    """Whether one waits for a place, and no row says so."""
    return call.attempt.phase is QUEUED and not call.attempt.has_row
