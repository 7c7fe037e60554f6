"""Runs activities with their retries and timeouts; what is known of them is in memory.

What runs an attempt is the pool of workers, and what follows it is decided by the same
rule. Here stands what is in a worker's place: no store, no runs, a list of attempts.
"""

from __future__ import annotations

import asyncio
import collections
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, cast, overload

import msgspec
from typing_extensions import Unpack

from durable import limits
from durable.api.activities.activity import (
    DEFAULTS,
    Activity,
    is_activity,
    merge_options,
)
from durable.api.activities.activity_context import NO_RESOURCES
from durable.api.definitions import check_function, check_name, drop_call
from durable.api.interceptors.chains import Interceptors
from durable.api.interceptors.interceptor import Interceptor
from durable.api.registry import Registry
from durable.clock import SystemClock, to_datetime
from durable.converter.failures import exception_of, show_remote
from durable.core.history.events import (
    ActivityTaskScheduled,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure, Payload
from durable.core.machines.retry import IN_DOUBT, OUTCOME_UNKNOWN, GiveUp
from durable.core.runtime import ActivityTarget
from durable.errors import (
    DefinitionError,
    EngineClosedError,
    InvalidCallError,
    InvalidOptionError,
    PayloadError,
)
from durable.options import ActivityOptions
from durable.runs import inputs
from durable.runs.activity_tasks import endings
from durable.runs.live_run import Attempt
from durable.runs.states import OVER, State
from durable.store.records import AttemptState
from durable.worker.activities.activity_code import EngineParts
from durable.worker.activities.activity_pool import ActivityPool
from durable.worker.activities.processes.cores import usable_cores

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
_FAILED: Final = (inputs.AttemptFailed, inputs.AttemptLost, inputs.AttemptDoubtful)
_CANCELLED: Final = (inputs.AttemptStopped, inputs.AttemptLeft)


class ActivityAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt that an `ActivityExecutor` has made.

    Attributes:
        activity_id: the same for all attempts of one execution.
        attempt: its number, from 1.
        duration: until it ended, or its time was up.
        outcome: "completed", "failed", "timed_out" or "cancelled".
        failure: what it failed with, if it did.
    """

    activity_type: str
    activity_id: str
    attempt: int
    started_at: datetime
    duration: timedelta
    outcome: str
    failure: Failure | None = None


class _NoStore(SystemClock):
    """Stands where a worker has its store: there is a clock, and no lease to lose."""

    def holds_lease(self) -> bool:
        return True

    def lease_seconds(self) -> float:
        return 0.0  # a process begins whenever it may


class ActivityExecution(Generic[R_co]):
    """An activity that an executor runs: wait for it, look at it, stop it.

    Attributes:
        activity_type: its name.
        activity_id: its id; `activity_info().activity_id` within it.
        attempts: those that have ended, the newest ones if there are very many.
    """

    state: Final = State.AT_REST  # in the place of a run, whose attempts these are

    def __init__(
        self,
        executor: ActivityExecutor,
        activity: Activity[Any, R_co],
        scheduled: ActivityTaskScheduled,
        started: WorkflowExecutionStarted,
    ) -> None:
        self.activity_type, self.activity_id = activity.name, scheduled.activity_id
        self.attempts: collections.deque[ActivityAttempt]
        self.attempts = collections.deque(maxlen=limits.EXECUTOR_ATTEMPTS_KEPT)
        self.started, self.scheduled = started, scheduled
        self.run_id, self.headers = started.run_id, started.headers
        self.workflow_id = self.workflow_type = ""
        self.timer: asyncio.TimerHandle | None = None
        self.current: Attempt | None = None
        self._executor, self._signature = executor, activity.call_signature
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[Payload] = self._loop.create_future()
        # Nobody has to ask.
        self.outcome.add_done_callback(lambda o: o.cancelled() or o.exception())

    async def result(self) -> R_co:
        """Wait for what the activity returns; cancelling the wait leaves it alone.

        Raises what a workflow would see: the activity's own exception, once its retries
        are used up, or an `ActivityError` that names it and its last attempt.

        Raises:
            ActivityTimeoutError: its last attempt has run out of time.
            PayloadError: the result does not fit its annotation.
            asyncio.CancelledError: it was cancelled.
        """
        result = await asyncio.shield(self.outcome)
        found: R_co = self._signature.decode_result(result)
        return found

    def cancel(self) -> None:
        """Ask it to stop; any thread may. What it returns nevertheless is its result.

        There is no further attempt. Its function gets a `CancelledError`, as within an
        engine.
        """
        self._loop.call_soon_threadsafe(self._executor.stop, self)

    def __repr__(self) -> str:
        return f"<execution {self.activity_id} of activity {self.activity_type!r}>"


class ActivityExecutor:
    """Runs activities with retries and timeouts, without an engine or a database.

        async with ActivityExecutor(charge) as executor:
            receipt = await executor.execute(charge, order)

    Nothing is kept: what runs when the program dies is lost. Arguments and results are
    those of an engine, and so is what an activity may ask, such as `activity_info()`.

    Args:
        *definitions: activities, classes of activity methods, or modules of them.
        resources: what they take, by class or name.
        interceptors: surround each attempt by `execute_activity`.
        on_attempt: called with each attempt that has ended, on the event loop; for
            metrics, say. What it raises goes to the loop's exception handler.
        max_activities: how many run at once; more wait in order.
        max_threads: how many of them may be plain functions in threads.
        max_processes: how many may be plain functions in processes.

    Attributes:
        attempts: those that have ended, the newest 1,000.

    Raises:
        DefinitionError: something is neither a definition nor a module.
        InvalidOptionError: `on_attempt` cannot be called.
    """

    def __init__(
        self,
        *definitions: object,
        resources: Mapping[Any, object] = NO_RESOURCES,
        interceptors: Iterable[Interceptor] = (),
        on_attempt: Callable[[ActivityAttempt], None] | None = None,
        max_activities: int = limits.ACTIVITIES_MAX,
        max_threads: int = limits.ACTIVITY_THREADS_MAX,
        max_processes: int | None = None,
    ) -> None:
        """See the class."""
        self.attempts: collections.deque[ActivityAttempt]
        self.attempts = collections.deque(maxlen=limits.EXECUTOR_ATTEMPTS_KEPT)
        self._registry = Registry().limited_to(definitions)
        self._parts = EngineParts(
            {}, None, resources, interceptors=Interceptors(interceptors)
        )
        if not (on_attempt is None or callable(on_attempt)):
            raise InvalidOptionError(
                f"on_attempt is {on_attempt!r}, which cannot be called.",
                hint="Give a function that takes an ActivityAttempt.",
            )
        self._on_attempt = on_attempt
        self._places = max_activities, max_threads, max_processes or usable_cores()
        self._started = WorkflowExecutionStarted(
            workflow_type="",
            input=(),
            task_queue="",
            workflow_id="",
            run_id=secrets.token_hex(8),
            first_run_id="",
            request_id="",
        )
        self._store = _NoStore()
        self._pool: ActivityPool | None = None
        self._open: set[ActivityExecution[Any]] = set()
        self._count = 0

    async def __aenter__(self) -> Self:
        """Begin, on this event loop."""
        slots, threads, processes = self._places
        self._pool = ActivityPool(
            cast("Any", self._store),
            self._registry,
            cast("Any", self._hear),
            concurrency=slots,
            threads=threads,
            processes=processes,
            observer=None,
            parts=self._parts,
        )
        self._pool.fail_outside = lambda attempt, failure: None
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ask what still runs to stop, and end."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        for execution in [*self._open]:
            self._stop(pool, execution)
        await pool.drain(0.0)
        for execution in [*self._open]:
            self._end(execution, None)

    # --- what there is ----------------------------------------------------------------

    def register(
        self,
        function: Callable[P, Any],
        /,
        *,
        name: str | None = None,
        **options: Unpack[ActivityOptions],
    ) -> None:
        """Let a function be run by its name, or an activity.

        Args:
            function: an activity, or any function, which need not be decorated.
            name: what it is called; the function's name by default.
            **options: of a function, as for `@activity`.

        Raises:
            DefinitionError: the function cannot be an activity, or its name is taken.
            InvalidOptionError, InvalidDurationError: an option has a wrong value.
        """
        made: Activity[Any, Any]
        if is_activity(function):
            made = function.options(**options) if options else function
        else:
            check_function(function, "activity")
            checked = check_name(name or function.__name__, "activity")
            made = Activity(function, checked, merge_options(DEFAULTS, options))
        known = self._registry.activities.get(made.name)
        if known is not None and known.origin is not made.origin:
            raise DefinitionError(
                f"Activity {made.name!r} is there already.",
                hint="Give the other one a name of its own: name=...",
            )
        made.call_signature.check_annotations()
        self._registry.activities[made.name] = made

    @overload
    async def start(
        self, activity: Activity[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> ActivityExecution[R]: ...
    @overload
    async def start(
        self, activity: str, /, *args: Any, **kwargs: Any
    ) -> ActivityExecution[Any]: ...
    async def start(
        self, activity: Any, /, *args: Any, **kwargs: Any
    ) -> ActivityExecution[Any]:
        """Begin to run an activity, and wait for nothing.

        Args:
            activity: it, perhaps with `options()` of this call; or a name that is
                registered.
            *args: its arguments.
            **kwargs: those by name.

        Raises:
            NotRegisteredError: no activity of that name is there.
            InvalidCallError: the arguments do not fit its signature; or it writes in a
                transaction of an engine's database.
            PayloadError: an argument cannot be recorded.
            EngineClosedError: the executor is not open.
        """
        pool = self._pool
        if pool is None:
            raise EngineClosedError(
                "This executor is not open.",
                hint="Use it within `async with ActivityExecutor(...)`.",
            )
        if is_activity(activity):
            if self._registry.find_activity(activity.name) is None:
                self.register(activity)
        elif isinstance(activity, str):
            activity = self._registry.get_activity(activity)
        else:
            drop_call(activity)
            raise InvalidCallError(
                f"{activity!r} is neither an activity nor the name of one.",
                hint="Give it and its arguments: executor.execute(charge, order).",
            )
        if activity.transaction is not None:
            raise InvalidCallError(
                f"Activity {activity.name!r} writes in a transaction of its engine's"
                " database, and an executor has none.",
                hint="Run it in a workflow, or by engine.start_activity().",
            )
        signature = activity.call_signature
        input = signature.encode(signature.bind(args, kwargs))
        self._count += 1
        target: ActivityTarget = activity._target  # pyright: ignore[reportPrivateUsage]  # how it runs is its own
        scheduled = ActivityTaskScheduled(
            str(self._count), activity.name, input, target.settings, {}
        )
        execution = ActivityExecution(self, activity, scheduled, self._started)
        self._open.add(execution)
        self._begin(execution, self._attempt_of(execution, self._store.now(), 1))
        return execution

    @overload
    async def execute(
        self, activity: Activity[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def execute(self, activity: str, /, *args: Any, **kwargs: Any) -> Any: ...
    async def execute(self, activity: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run an activity, and wait for its result; cancelling this cancels it.

        Raises: as `start` and `ActivityExecution.result`.
        """
        execution: ActivityExecution[Any] = await self.start(activity, *args, **kwargs)
        try:
            return await execution.result()
        except asyncio.CancelledError:
            self.stop(execution)
            raise

    def running(self) -> list[ActivityExecution[Any]]:
        """Those that have not ended, in order of their start."""
        return sorted(self._open, key=lambda one: int(one.activity_id))

    # --- one attempt after the other --------------------------------------------------

    def _attempt_of(
        self, execution: ActivityExecution[Any], scheduled_at: int, number: int
    ) -> Attempt:
        run: Any = execution
        event_id = int(execution.activity_id)
        scheduled = execution.scheduled
        return Attempt(run, event_id, scheduled, scheduled_at, {}, attempt=number)

    def _begin(self, execution: ActivityExecution[Any], attempt: Attempt) -> None:
        execution.current, execution.timer = attempt, None
        if self._pool is not None:
            self._pool.begin(attempt, self._store.now())

    def stop(self, execution: ActivityExecution[Any]) -> None:
        """Ask an execution to stop, on the executor's own event loop."""
        if self._pool is not None and execution in self._open:
            self._stop(self._pool, execution)

    def _stop(self, pool: ActivityPool, execution: ActivityExecution[Any]) -> None:
        attempt = execution.current
        call = None if attempt is None else attempt.call
        if attempt is None or call is None or call.task is None:
            self._end(execution, None)  # it waits for its time, or for a place
        else:
            pool.stop(attempt, is_closed=False)

    def _hear(self, execution: ActivityExecution[Any], given: Any) -> None:
        """Hear of an attempt from the pool."""
        attempt: Attempt = given.attempt
        if attempt is not execution.current or attempt.is_over:
            return
        if isinstance(given, inputs.AttemptCompleted):
            self._note(execution, given, AttemptState.COMPLETED)
            self._end(execution, given.result)
        elif isinstance(given, _FAILED):
            self._failed(execution, given)
        elif isinstance(given, inputs.AttemptUnrecorded):
            self._note(execution, given, AttemptState.FAILED, given.problem)
            self._end(execution, PayloadError(given.problem.message))
        elif isinstance(given, _CANCELLED):
            self._note(execution, given, AttemptState.CANCELLED)
            self._end(execution, None)
        elif isinstance(given, inputs.AttemptReady):
            self._begin(execution, attempt)
        elif isinstance(given, inputs.AttemptNotBegun):
            self._begin_at(execution, attempt, given.again_at)
        elif isinstance(given, inputs.AttemptExternal):
            given.token.set_exception(
                InvalidCallError(
                    f"Activity {execution.activity_type!r} was to be left to others,"
                    " and an executor has nobody to complete it.",
                    hint="Run it in a workflow, or by engine.start_activity().",
                )
            )

    def _begin_at(
        self, execution: ActivityExecution[Any], attempt: Attempt, instant: int
    ) -> None:
        delay = max(0, instant - self._store.now()) / 1_000_000
        loop, execution.current = asyncio.get_running_loop(), None
        execution.timer = loop.call_later(delay, self._begin, execution, attempt)

    def _failed(self, execution: ActivityExecution[Any], given: Any) -> None:
        attempt, failure = given.attempt, given.failure
        timed_out = failure.kind == "timeout"
        outcome = AttemptState.TIMED_OUT if timed_out else AttemptState.FAILED
        self._note(execution, given, outcome, failure)
        attempt.phase = OVER
        settings, now = execution.scheduled.settings, self._store.now()
        key = f"{execution.run_id}/{execution.activity_id}/{attempt.attempt}"
        failure = endings.in_doubt(settings, failure, attempt.attempt)
        if settings.at_most_once and not isinstance(given, inputs.AttemptFailed):
            decision = endings.decide_doubt(settings, attempt.attempt - 1, key)
        else:
            decision = endings.decide_failure(
                settings,
                failure,
                attempt=attempt.attempt,
                lost=0,
                scheduled_at=attempt.scheduled_at,
                now=now,
                key=key,
                not_before=getattr(given, "not_before", 0),
            )
        if isinstance(decision, GiveUp):
            state = decision.retry_state
            state = OUTCOME_UNKNOWN if state == IN_DOUBT else state  # no operator here
            self._end(execution, self._error(attempt, failure, state))
            return
        number = attempt.attempt + 1
        following = self._attempt_of(execution, attempt.scheduled_at, number)
        following.details, following.last_failure = attempt.details, failure
        self._begin_at(execution, following, now + decision.delay)

    def _error(
        self, attempt: Attempt, failure: Failure, retry_state: str
    ) -> BaseException:
        name = attempt.scheduled.activity_type
        error = exception_of(
            Failure(
                message=f"Activity {name!r} failed.",
                kind="activity",
                cause=failure,
                activity_type=name,
                activity_id=attempt.scheduled.activity_id,
                attempt=attempt.attempt,
                retry_state=retry_state,
            )
        )
        return show_remote(error)

    def _note(
        self,
        execution: ActivityExecution[Any],
        given: Any,
        outcome: AttemptState,
        failure: Failure | None = None,
    ) -> None:
        attempt: Attempt = given.attempt
        now = self._store.now()
        began = getattr(given, "started_at", 0) or now
        kept = ActivityAttempt(
            activity_type=attempt.scheduled.activity_type,
            activity_id=attempt.scheduled.activity_id,
            attempt=attempt.attempt,
            started_at=to_datetime(began),
            duration=timedelta(microseconds=max(0, now - began)),
            outcome=outcome.value,
            failure=failure,
        )
        self.attempts.append(kept)
        execution.attempts.append(kept)
        if self._on_attempt is not None:
            asyncio.get_running_loop().call_soon(self._on_attempt, kept)

    def _end(
        self, execution: ActivityExecution[Any], end: Payload | BaseException | None
    ) -> None:
        """Tell who waits: a result, an error, or None if it was cancelled."""
        attempt, outcome = execution.current, execution.outcome
        if attempt is not None:
            attempt.phase = OVER
        if execution.timer is not None:
            execution.timer.cancel()
        self._open.discard(execution)
        if outcome.done():
            return
        if end is None:
            outcome.cancel()
        elif isinstance(end, BaseException):
            outcome.set_exception(end)
        else:
            outcome.set_result(end)
