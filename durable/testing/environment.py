"""An engine for tests: in memory, in virtual time, with mocks, and without patience.

    async with TestEnvironment(mocks={charge: fake_charge}) as env:
        run = await env.start(place_order(order))
        await env.sleep("3d")
        assert await run.result() == receipt

Nothing waits: time jumps to whatever is due next. A bug in workflow code is raised by
`result()` at its first try, and a test that waits for what can never come fails with
`StalledError` at once.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

from durable import limits
from durable.api.activities.activity import Activity
from durable.api.activities.step import Step
from durable.api.interceptors.interceptor import Interceptor
from durable.api.registry import Registry
from durable.client.keeping.sweeper import Sweeper
from durable.client.outbox.delivery import Delivery
from durable.client.unserved import Unserved
from durable.clock import to_datetime
from durable.engine import Engine
from durable.errors import DurableError, InvalidOptionError
from durable.observer import Observer
from durable.options import Duration, to_microseconds
from durable.store.connect import connect
from durable.store.memory.memory import MemoryStore
from durable.store.queries import FindNextWakeUp, ListRuns, Query
from durable.store.records import RunFilter, RunStatus, WorkerRecord
from durable.store.store import Operation, Outcome, Store
from durable.testing.clock import VirtualClock, VirtualTime
from durable.worker.activities.held_resources import Resources
from durable.worker.activities.processes.pool import ActivityProcesses
from durable.worker.health import Backlog
from durable.worker.lookout import Lookout
from durable.worker.worker import Worker

T = TypeVar("T")
Mocks = Mapping[Any, Callable[..., Any]]
"""What runs in place of activities, by activity or by name."""


class StalledError(DurableError):
    """A test waits, and nothing can happen any more: no timer, no activity."""

    code = "stalled"


class TestEnvironment(Engine):
    """An engine for tests; use it as an async context manager, as you would `Engine`.

    It makes the running event loop live in virtual time until it closes, for all code
    on that loop: `asyncio.sleep` in activities, timeouts and retries included. Plain
    functions run in real threads, for which it waits.

    Args:
        database: a URL or a store. `memory://` by default; `memory://name` is shared
            by environments of one process, as long as they share the clock too.
        clock: the virtual clock; a new one by default. Read its `now`, or move it.
        mocks: functions, plain or async, that run in place of activities, by activity
            or name: `{charge: fake_charge}`. Arguments and results are still recorded
            by the real activity's types.
        steps: functions without arguments, plain or async, that run in place of the
            bodies of steps, by name: `{"ask": lambda: "yes"}`.
        definitions: as for `Engine`.
        resources: as for `Engine`: fakes, by class or name. What an activity lacks
            parks its run when it is called; nothing is said of those that are not.
        workflow_task_attempts: 1, so that a bug parks its run at once.
        blocked_after: None, so that a debugger may hold workflow code.

    Raises:
        NotRegisteredError: a mock is for an activity that is not known.
        InvalidInputError: an argument breaks its rule.
    """

    __test__: ClassVar[bool] = False  # pytest would collect it by its name

    def __init__(
        self,
        database: str | Store = "memory://",
        *,
        clock: VirtualClock | None = None,
        mocks: Mocks | None = None,
        steps: Mapping[str, Callable[[], Any]] | None = None,
        definitions: Iterable[object] | None = None,
        resources: Resources | None = None,
        namespace: str = "default",
        task_queue: str = "default",
        worker: bool = True,
        activity_queues: Mapping[str, int] | None = None,
        max_activities: int = limits.ACTIVITIES_MAX,
        max_activity_threads: int = limits.ACTIVITY_THREADS_MAX,
        max_activity_processes: int | None = None,
        max_cached_runs: int = limits.CACHED_RUNS_MAX,
        workflow_task_attempts: int = 1,
        fail_on: tuple[type[BaseException], ...] = (),
        blocked_after: Duration | None = None,
        drain_timeout: Duration = 10.0,
        observer: Observer | None = None,
        interceptors: Iterable[Interceptor] = (),
    ) -> None:
        """See the class."""
        self.clock = clock or VirtualClock()
        if isinstance(database, str):
            database = connect(database, clock=self.clock, observer=observer)
        self._tracked = _TrackedStore(database, lambda: self._registry.workflows)
        super().__init__(
            self._tracked,
            definitions=definitions,
            resources=resources,
            namespace=namespace,
            task_queue=task_queue,
            worker=worker,
            activity_queues=activity_queues,
            max_activities=max_activities,
            max_activity_threads=max_activity_threads,
            max_activity_processes=max_activity_processes,
            max_cached_runs=max_cached_runs,
            workflow_task_attempts=workflow_task_attempts,
            fail_on=fail_on,
            blocked_after=blocked_after,
            drain_timeout=drain_timeout,
            observer=observer,
            interceptors=interceptors,
        )
        self._registry = _MockedRegistry(self._registry, mocks or {}, steps or {})
        self._time: VirtualTime | None = None
        self._test: asyncio.Task[Any] | None = None
        self._has_stalled = False

    # --- open and close ---------------------------------------------------------------

    async def open(self) -> Self:
        """Begin virtual time and open the engine; see `Engine.open`.

        Raises:
            InvalidOptionError: the loop cannot live in virtual time, or already lives
                by another clock.
            StoreError, EngineClosedError: as `Engine.open`.
        """
        if self._time is None:
            self._time = VirtualTime.on(
                asyncio.get_running_loop(),
                clock=self.clock,
                is_housekeeping=_is_housekeeping,
            )
            self._time.add_source(self._tracked)
            self._time.on_stall.append(self._stalled)
            self._test = asyncio.current_task()
        try:
            return await super().open()
        except BaseException:
            self._end_time()
            raise

    async def close(self) -> None:
        """Close the engine and give the loop its own time back. Twice is fine."""
        try:
            await super().close()
        finally:
            self._end_time()

    def _end_time(self) -> None:
        time, self._time = self._time, None
        if time is not None:
            time.on_stall.remove(self._stalled)
            time.remove_source(self._tracked)
            time.off()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stalled = None
        is_ours = self._has_stalled and isinstance(error, asyncio.CancelledError)
        if is_ours and self._test is not None and self._test.uncancel() == 0:
            stalled = StalledError(
                "The test waits, but nothing can happen any more: no timer is"
                f" pending and no activity runs.{await self._open_runs()}",
                hint="Complete what they wait for, or wait for something else.",
            )
        await super().__aexit__(kind, error, trace)
        if stalled is not None:
            raise stalled from error

    def _stalled(self) -> None:
        if self._test is not None and not self._test.done():
            self._has_stalled = True
            self._test.cancel("virtual time has stalled: nothing can happen any more")

    async def _open_runs(self) -> str:
        where = RunFilter(status=RunStatus.RUNNING, limit=limits.LIST_PAGE_MAX)
        runs = await self._tracked.read(ListRuns(self._namespace, where))
        if not runs:
            return " No run is open."
        named = [
            f"{run.workflow_id!r} ({run.workflow_type})"
            + (", stuck" if run.stuck is not None else "")
            for run in runs
        ]
        more = f" and {len(named) - 5} more" if len(named) > 5 else ""
        return f" Open runs: {'; '.join(named[:5])}{more}."

    # --- time -------------------------------------------------------------------------

    def now(self) -> datetime:
        """The present instant of virtual time, aware and in UTC."""
        return to_datetime(self.clock.now())

    async def sleep(self, duration: Duration) -> None:
        """Let virtual time pass, and everything happen that is due within it.

        Args:
            duration: `timedelta`, seconds, or text like "3d".

        Raises:
            InvalidDurationError: negative, not finite, or no duration.
            EngineClosedError: the environment is not open.
        """
        microseconds = to_microseconds(duration, "the duration of sleep()")
        await asyncio.sleep(microseconds / 1_000_000)
        await self.settle()

    async def settle(self) -> None:
        """Wait until nothing more can happen at the present instant.

        Raises:
            EngineClosedError: the environment is not open.
        """
        self._open_client()
        if self._time is not None:
            await self._time.settle()


# --- mocks ----------------------------------------------------------------------------


class _MockedRegistry(Registry):
    """What an engine knows, now and later, with some activities replaced."""

    def __init__(
        self, known: Registry, mocks: Mocks, steps: Mapping[str, Callable[[], Any]]
    ) -> None:
        super().__init__()
        self._steps = steps
        self.workflows, self.activities = known.workflows, known.activities
        self.versions = known.versions
        self.fail_on, self.interceptors = known.fail_on, known.interceptors
        self._mocks: dict[str, Activity[..., Any]] = {}
        for key, mock in mocks.items():
            name = key.name if isinstance(key, Activity) else key
            if not callable(mock):
                raise InvalidOptionError(
                    f"The mock of activity {name!r} is {mock!r}, which cannot be"
                    " called.",
                    hint="Give a function; one that returns a value: lambda *_: value.",
                )
            self._mocks[name] = _mocked(known.get_activity(name), mock)

    def check_resources(self, given: Mapping[Any, object]) -> None:
        """Wait for what is missed: a test may give what it needs, and no more."""

    def find_body(self, step: Step) -> Step:
        fake = self._steps.get(step.name)
        return step if fake is None else step.replaced_by(fake)

    def find_activity(self, name: str) -> Activity[..., Any] | None:
        return self._mocks.get(name) or super().find_activity(name)


def _mocked(
    activity: Activity[..., Any], mock: Callable[..., Any]
) -> Activity[..., Any]:
    """A copy of an activity that calls the mock and keeps the signature."""
    function = mock.function if isinstance(mock, Activity) else mock

    @functools.wraps(activity.function)
    async def call_mock(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return await result if inspect.isawaitable(result) else result

    copy = activity.options()
    copy.function = call_mock
    copy.is_async = True
    copy.lane = "loop"
    copy.resources, copy.transaction = {}, None
    return copy


def _is_housekeeping(callback: object) -> bool:
    """Whether a timer serves the engine itself and says nothing about any run.

    A worker's look for due runs is among them: it is capped, and virtual time asks
    the store itself when the next run is due.
    """
    is_patrol = getattr(callback, "__func__", None) is Delivery.patrol
    return is_patrol or isinstance(
        getattr(callback, "__self__", None),
        ActivityProcesses
        | Backlog
        | Lookout
        | Worker
        | MemoryStore
        | Sweeper
        | Unserved,
    )


# --- the store ------------------------------------------------------------------------


class _TrackedStore:
    """A store that knows how many of its operations have not answered yet."""

    def __init__(self, inner: Store, workflows: Callable[[], Iterable[str]]) -> None:
        self._inner = inner
        self._workflows = workflows
        self.in_flight = 0
        self.operation_count = 0

    def _begin(self) -> None:
        self.in_flight += 1
        self.operation_count += 1

    async def _track(self, operation: Awaitable[T]) -> T:
        self._begin()
        try:
            return await operation
        finally:
            self.in_flight -= 1

    async def open(self) -> None:
        await self._track(self._inner.open())

    async def close(self) -> None:
        await self._track(self._inner.close())

    def now(self) -> int:
        return self._inner.now()

    def submit(self, operation: Operation, done: Outcome) -> None:
        def answered(result: Any, error: BaseException | None) -> None:
            self.in_flight -= 1
            done(result, error)

        self._inner.submit(operation, answered)
        self._begin()

    async def perform(self, operation: Operation) -> Any:
        return await self._track(self._inner.perform(operation))

    async def register_worker(
        self,
        worker: WorkerRecord,
        lost: Callable[[], None],
        report: Callable[[], str] | None = None,
    ) -> WorkerRecord:
        return await self._track(self._inner.register_worker(worker, lost, report))

    async def drain_worker(self) -> None:
        await self._track(self._inner.drain_worker())

    async def release_worker(self) -> None:
        await self._track(self._inner.release_worker())

    def holds_lease(self) -> bool:
        return True  # virtual time jumps over leases, and nobody else is there

    def lease_seconds(self) -> float:
        return limits.LEASE_SECONDS

    def watch(self, changed: Callable[[], None]) -> None:
        self._inner.watch(changed)

    async def read(self, query: Query[T]) -> T:
        return await self._track(self._inner.read(query))

    async def next_wake_at(self) -> int | None:
        """Asked by virtual time, so it does not count as an operation."""
        return await self._inner.read(FindNextWakeUp(tuple(self._workflows())))
