"""The engine: a client and a worker of one store, in one process."""

# size: one class, whose overloads and their options are a third of it.

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import time
from collections.abc import Coroutine, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar, cast, overload

from typing_extensions import Unpack

from durable import limits
from durable.api.activities.activity import Activity
from durable.api.activities.activity_context import activity_engine
from durable.api.entities.entity_call import EntityCall
from durable.api.interceptors.chains import Interceptors
from durable.api.interceptors.interceptor import Interceptor
from durable.api.messages.messages import UpdateCall
from durable.api.registry import REGISTRY
from durable.api.workflows.workflow import Workflow, WorkflowCall
from durable.api.workflows.workflow_definition import exception_classes
from durable.batches.activities import batch_activities
from durable.batches.batches import Batch, BatchHandle, check_chosen
from durable.client.activities.activities import Activities
from durable.client.client import Client
from durable.client.descriptions.description import RunDescription
from durable.client.descriptions.searching import RunCount, check_where, listing
from durable.client.descriptions.workers import WorkerDescription, describe_workers
from durable.client.entities import call_entity, entity_activities
from durable.client.handle import Handle
from durable.client.home import Home, finish
from durable.client.keeping.archive import (
    Exported,
    Imported,
    closed_runs,
    export_runs,
    to_path,
)
from durable.client.keeping.importing import import_runs
from durable.client.keeping.retention import RetentionRule, Swept, check_rules, sweep
from durable.client.keeping.sweeper import Sweeper
from durable.client.namespaces import Namespaces
from durable.client.outbox.delivery import Delivery
from durable.client.outbox.outbox import Outbox
from durable.client.outbox.requests import Requests
from durable.client.outbox.within import (
    AsyncTransaction,
    AsyncWithin,
    Transaction,
    Within,
)
from durable.client.queues.queues import Queues
from durable.client.start_options import (
    StartOptions,
    UpdateStartOptions,
    start_settings,
)
from durable.client.unserved import Unserved
from durable.client.updates import UpdateHandle
from durable.clock import Clock
from durable.core.history.payload import Failure
from durable.errors import EngineClosedError, InvalidCallError, InvalidOptionError
from durable.loggers import revive_loggers
from durable.observer import Observer
from durable.options import (
    Duration,
    IdConflictPolicy,
    OnConflict,
    check_id,
    check_option_names,
    to_microseconds,
    to_seconds,
)
from durable.schedules.activities import schedule_activities
from durable.schedules.declared import declare_all
from durable.schedules.schedules import Schedules
from durable.search.conditions import Attribute, Condition
from durable.search.orders import Order
from durable.search.run_fields import RunField
from durable.standalone.standalone import (
    ActivityHandle,
    ActivityStartOptions,
    StandaloneActivityDescription,
    get_activity,
    list_activities,
    start_activity,
)
from durable.store.connect import connect, connect_file
from durable.store.records import RunStatus
from durable.store.store import Store
from durable.worker.activities.activity_code import (
    BuiltIn,
    EngineParts,
    Transactions,
)
from durable.worker.activities.held_resources import (
    HeldResources,
    Resources,
    closing_seconds,
)
from durable.worker.activities.processes.cores import usable_cores
from durable.worker.health import WorkerHealth
from durable.worker.worker import LAST_WORD_SECONDS, Worker
from durable.worker.worker_options import WorkerOptions

if TYPE_CHECKING:
    from durable.store.callers.joining import Gate

R = TypeVar("R")
U = TypeVar("U")
_log: Final = logging.getLogger("durable.worker")
# Whoever has written so recently is taken to be at work.
_WRITING_SECONDS: Final = 1.0


def _store_of(
    database: object, clock: Clock | None, observer: Observer | None
) -> Store:
    for name, given, method in (
        ("clock", clock, "now"),
        ("observer", observer, "worker_started"),
    ):
        if given is not None and not callable(getattr(given, method, None)):
            raise InvalidOptionError(f"{name} is {given!r}, which has no {method}().")
    if isinstance(database, os.PathLike):
        path = cast("os.PathLike[str]", database)
        return connect_file(path, clock=clock, observer=observer)
    if isinstance(database, str):
        return connect(database, clock=clock, observer=observer)
    if not callable(getattr(database, "submit", None)):
        raise InvalidOptionError(
            f"The database is a {type(database).__name__}: give a URL such as"
            " 'sqlite:///orders.db' or 'memory://', a path such as Path('orders.db'),"
            " or a store."
        )
    return cast("Store", database)


def _check_queues(queues: Mapping[str, int] | None, own: str) -> Mapping[str, int]:
    """The queues that a worker serves for activities alone."""
    given: object = queues
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise InvalidOptionError(
            f"activity_queues is {queues!r}: give a mapping, such as {{'gpu': 4}}."
        )
    checked: dict[str, int] = {}
    for name, slots in cast("Mapping[object, object]", given).items():
        queue = check_id(name, "a queue in activity_queues")
        if not isinstance(slots, int) or isinstance(slots, bool) or slots < 1:
            raise InvalidOptionError(
                f"activity_queues gives {slots!r} places to {queue!r}: give at least 1."
            )
        if queue == own:
            raise InvalidOptionError(
                f"activity_queues names {queue!r}, the engine's own task_queue, which"
                " has max_activities places anyway."
            )
        checked[queue] = slots
    return checked


class Engine:
    """Runs workflows on a database, and starts, finds and stops them.

    Use it as an async context manager. When it opens, every unfinished run that its
    code knows goes on where it was.

    Args:
        database: a URL such as `sqlite:///orders.db` or `memory://`, the path of a file
            such as `Path("orders.db")`, or a store.
        definitions: the workflows and activities, or modules that hold them, that this
            engine may run; everything that was decorated by default.
        resources: what its activities take as `resource(Pool)`, and the objects of
            their methods: a mapping such as `{Pool: pool, Shop: shop}`, by class or
            name; or a function that gives a context manager, async or plain, that
            yields one. The engine enters it when it opens, and leaves it after the
            last activity; a mere client does not.
        namespace: keeps the runs of different programs in one database apart.
        task_queue: which runs its worker takes; starts use it too by default.
        worker: False makes a mere client, which runs nothing.
        activity_queues: task queues that its worker serves for activities alone, beside
            its own, and how many of each run at once, such as `{"gpu": 4}`: these
            places are among `max_activities`.
        max_activities: how many activities run at once.
        max_activity_threads: how many of them may be plain functions in threads.
        max_activity_processes: how many may be plain functions in processes, which
            begin when they are needed; by default one for each core that this process
            may use.
        max_cached_runs: how many idle runs are kept live.
        workflow_task_attempts: failed tries before a run parks as stuck.
        fail_on: exception classes that fail a run of any workflow although they look
            like bugs, as if each had them as its own `fail_on`.
        blocked_after: how long workflow code or an async activity may hold the thread
            before it is named in the log; `None` watches nothing.
        drain_timeout: how long closing waits for running activities.
        retention: how long closed runs are kept; the first rule that fits a run counts,
            and after them the days of its namespace. A worker deletes what is over.
        observer: receives what the engine does; see `durable.telemetry`.
        interceptors: surround what it is asked for, its workflows and its activities;
            the first is the outermost. See `Interceptor`.
        clock: where the time comes from, for tests.

    Raises:
        InvalidInputError: an argument breaks its rule.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | Store,
        *,
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
        workflow_task_attempts: int = limits.WORKFLOW_TASK_ATTEMPTS,
        fail_on: tuple[type[BaseException], ...] = (),
        blocked_after: Duration | None = limits.WORKFLOW_TASK_BLOCKED_SECONDS,
        drain_timeout: Duration = 10.0,
        retention: Iterable[RetentionRule] = (),
        observer: Observer | None = None,
        interceptors: Iterable[Interceptor] = (),
        clock: Clock | None = None,
    ) -> None:
        """See the class."""
        self._namespace = check_id(namespace, "the namespace")
        self._task_queue = check_id(task_queue, "the task queue")
        if max_activity_processes is None:
            max_activity_processes = usable_cores()
        for name, value in (
            ("max_activities", max_activities),
            ("max_activity_threads", max_activity_threads),
            ("max_activity_processes", max_activity_processes),
            ("max_cached_runs", max_cached_runs),
            ("workflow_task_attempts", workflow_task_attempts),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidOptionError(f"{name} is {value!r}: give at least 1.")
        self._options = WorkerOptions(
            concurrency=max_activities,
            threads=max_activity_threads,
            processes=max_activity_processes,
            activity_queues=_check_queues(activity_queues, self._task_queue),
            cached_runs=max_cached_runs,
            max_tries=workflow_task_attempts,
            blocked_seconds=to_seconds(blocked_after, "blocked_after"),
            grace_seconds=to_microseconds(drain_timeout, "drain_timeout") / 1_000_000,
        )
        self._registry = (
            REGISTRY
            if definitions is None
            else REGISTRY.limited_to(definitions).with_own()
        )
        if exception_classes(fail_on, "fail_on of the engine"):
            self._registry = self._registry.failing_on(fail_on)
        self._interceptors = Interceptors(interceptors)
        if self._interceptors.of_workflows:
            self._registry = self._registry.within(self._interceptors)
        self._retention = check_rules(retention)
        self._resources = HeldResources(resources)
        self._closing_seconds = self._options.grace_seconds + closing_seconds(
            self._options.grace_seconds, resources
        )
        self._store = _store_of(database, clock, observer)
        self._observer = observer
        self._has_worker = worker
        self._worker: Worker | None = None
        self._unserved: Unserved | None = None
        self._sweeper: Sweeper | None = None
        self._heard_at = float("-inf")
        self._client: Client | None = None
        self._requests: Requests | None = None
        self._delivery: Delivery | None = None
        self._gate: Gate | None = None
        self._home = Home()
        self._is_open = False
        self._closing: asyncio.Task[None] | None = None

    @property
    def drain_seconds(self) -> float:
        """How long closing waits for running activities."""
        return self._options.grace_seconds

    @property
    def closing_seconds(self) -> float:
        """The same, and how long its resources may take to be closed."""
        return self._closing_seconds

    def running_activities(self) -> list[str]:
        """Name the attempts of activities that run here now; any thread may ask."""
        worker = self._worker
        return [] if worker is None else worker.running_activities()

    async def health(self) -> WorkerHealth | None:
        """Tell how its worker does now; None without one, or if it has no lease yet.

        It takes 2 s at most, if the database does not answer.

        Raises:
            EngineClosedError: the engine is open on another event loop.
        """
        worker = self._worker
        if worker is None or not worker.worker_id:
            return None
        self._home.check()
        return await worker.health()

    # --- open and close ---------------------------------------------------------------

    async def open(self) -> Self:
        """Connect, take over what was left unfinished, and go on with it.

        An engine that was closed can be opened again, as can one whose event loop has
        ended, or that was inherited over a fork.

        Raises:
            DefinitionError: an annotation of what it may run means nothing, or no value
                could be read by it.
            ResourceError: it has not got a resource that one of its activities takes,
                or what opens its resources has raised, which is chained.
            StoreError: the database cannot be used; the subclass says why.
            EngineClosedError: the engine is open on another event loop.
        """
        home = self._home
        if home.is_inherited:
            # Nothing here is ours, and handles that were copied must stay refused.
            self._home = home = Home()
            self._client = self._worker = self._closing = self._unserved = None
            self._sweeper = self._delivery = self._gate = None
            self._resources.forget()
            self._is_open = False
        elif home.is_abandoned:
            await self._end()
        if home.is_entered:
            home.check()
        home.enter()
        async with home.lock:
            if not self._is_open:
                home.enter()  # somebody may have closed it meanwhile
                try:
                    await self._open()
                except BaseException:
                    await finish(self._end())
                    raise
        return self

    async def _open(self) -> None:
        revive_loggers()
        if self._has_worker:
            self._registry.check_annotations()
        await self._store.open()
        # One for all times that the engine is open: whoever waits is its business.
        client = self._client or Client(
            self._store,
            namespace=self._namespace,
            task_queue=self._task_queue,
            registry=self._registry,
            observer=self._observer,
            interceptors=self._interceptors,
            home=self._home,
        )
        client.defaults.forget()
        self._client = client
        self._requests = Requests(client)
        self._gate = None  # the name may stand for another database now
        self._delivery = Delivery(client, self._home)
        # Before the worker looks, or what is committed in between would go unheard.
        self._store.watch(self._changed)
        if self._has_worker:
            # Before there is a worker: nothing is to be given back if it fails.
            await self._resources.open(self._registry.check_resources)
            self._worker = Worker(
                self._store,
                self._registry,
                namespace=self._namespace,
                task_queue=self._task_queue,
                options=self._options,
                observer=self._observer,
                on_closed=client.outcomes.closed,
                on_stuck=self._stuck,
                on_update=client.told_update,
                defaults=client.defaults,
                parts=EngineParts(
                    {
                        name: BuiltIn(name, perform)
                        for name, perform in (
                            entity_activities(client)
                            | schedule_activities(client)
                            | batch_activities(client)
                        ).items()
                    },
                    self,
                    self._resources.values,
                    self._find_transactions,
                    self._interceptors,
                ),
            )
            # It goes on with runs before it returns, and their activities may use us.
            self._is_open = True
            await self._worker.start()
            client.worker = self._worker
            self._delivery.start(self._worker.changed)
        self._is_open = True
        self._unserved = Unserved(self._store, self._namespace)
        self._unserved.start()
        if self._worker is not None:
            self._sweeper = Sweeper(
                self._store, self._namespace, self._retention, self._is_busy
            )
            self._worker.retention_lag = self._sweeper.lag
            self._sweeper.start()
            await declare_all(self.schedules, self._registry)

    def _find_transactions(self) -> Transactions:
        # As for `within`.
        from durable.store.callers.transactions import Transactions as Found

        return Found(self._store)

    async def close(self) -> None:
        """Drain the worker and disconnect. Runs stay as they are. Twice is fine.

        A database that does not answer is waited for until `drain_timeout` is over, and
        a second longer. If the call is cancelled, the closing goes on. In a forked
        process this does nothing, as nothing there is its own.

        Raises:
            EngineClosedError: the engine is open on another event loop.
        """
        home = self._home
        if not home.is_entered or home.is_inherited:
            return
        if home.is_abandoned:
            await self._end()
            return
        home.check()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        async with self._home.lock:
            await self._end()

    async def _end(self) -> None:
        """Stop what was begun, in order, however far it came."""
        self._is_open = False
        now = asyncio.get_running_loop().time
        ends_at = now() + self._options.grace_seconds
        if self._unserved is not None:
            self._unserved.stop()
        if self._sweeper is not None:
            self._sweeper.stop()
        if self._delivery is not None:
            self._delivery.stop()
        if self._client is not None:
            self._client.listener.stop()
        try:
            if self._home.is_abandoned:
                self._resources.forget()
                if self._worker is not None:
                    self._worker.abandon()
            elif self._worker is not None:
                await self._worker.stop()
        finally:
            try:
                await self._resources.close(self._options.grace_seconds)
            finally:
                await self._leave(max(ends_at - now(), 0) + LAST_WORD_SECONDS)

    async def _leave(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._store.close()
        except TimeoutError:
            # Its threads end, and its lease, once the database answers or gives up.
            _log.error(
                "The engine has closed, though the database did not answer for %.1f s:"
                " calls that still wait get no answer, and its lease ends by itself.",
                seconds,
            )
        finally:
            self._worker = self._closing = None
            self._home.leave()
            if self._client is not None:
                self._client.worker = None
                self._client.outcomes.nudge_all()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __enter__(self) -> NoReturn:
        """Refuse `with`, which cannot wait.

        Raises:
            InvalidCallError: always.
        """
        raise InvalidCallError(
            "An Engine was opened by `with`.",
            hint="Write `async with Engine(...)` in async code; elsewhere `with"
            " SyncEngine(...)`.",
        )

    def __exit__(self, *_: object) -> None:
        """Never reached."""

    def _is_busy(self) -> bool:
        """Whether the worker works, or others have written a moment ago."""
        passed = time.monotonic() - self._heard_at
        is_at_work = self._worker is not None and self._worker.is_busy()
        return is_at_work or passed < _WRITING_SECONDS

    def _changed(self) -> None:
        self._heard_at = time.monotonic()
        if self._worker is not None:
            self._worker.changed()
        if self._delivery is not None:
            self._delivery.changed()
        if self._client is not None:
            self._client.listener.changed()

    def _stuck(self, run_id: str, _: Failure) -> None:
        if self._client is not None:
            self._client.outcomes.nudge(run_id)

    def _open_client(self) -> Client:
        self._home.check()
        client = self._client
        if client is None or not self._is_open:
            raise _half_open()
        return client

    @property
    def schedules(self) -> Schedules:
        """What starts workflows at given times: create, find, change and list it."""
        return Schedules(self._open_client)

    @property
    def activities(self) -> Activities:
        """Activities that run elsewhere or outside: complete, fail and find them."""
        return Activities(self._open_client)

    # --- runs -------------------------------------------------------------------------

    @overload
    async def start(
        self, call: WorkflowCall[R], /, **options: Unpack[StartOptions]
    ) -> Handle[R]: ...
    @overload
    async def start(
        self, call: str, /, *args: Any, **options: Unpack[StartOptions]
    ) -> Handle[Any]: ...
    async def start(
        self, call: Any, /, *args: Any, **options: Unpack[StartOptions]
    ) -> Handle[Any]:
        """Start a run. When this returns, the run and its input are durable.

        An id is an idempotency key: if there is a run of that id, open or closed, of
        the same workflow with equal arguments, it is the run, and nothing is started.
        `result()` then gives, or raises, what became of it. So a program that was
        killed may do again what it did.

        Args:
            call: a call of a workflow, such as `place_order(order)`; or a workflow's
                name, followed by arguments, for programs that do not have its code.
            *args: arguments, only with a name.
            id: the workflow id, your name for the run; the run id by default. No two
                open runs have the same.
            on_conflict: what to do with a run that holds the id: "use_same" (the
                default) uses it if workflow and arguments are the same, and fails
                otherwise; "use_existing" uses it whatever it is; "fail" always fails;
                "terminate_existing" ends it if it is open, and starts another.
            id_reuse: whether another run may begin under the id of a closed one:
                "never" (the default), "after_failure" (it failed, timed out, was
                cancelled or terminated) or "new_run" (always; the default with
                "terminate_existing", and with a message and "use_existing").
            request_id: a further idempotency key, whatever the workflow id: the same
                key again gives the same run.
            run_timeout: the longest the run may take; no code runs when it passes.
            execution_timeout: the longest the chain of runs may take.
            task_queue: which workers may take it; this engine's by default.
            memo: plain values kept with the run.
            retry: when a run that failed, or passed its run timeout, is begun again:
                as a new run of the same id and input, with a history of its own. It
                speaks of failures of the whole workflow, and by default there is none.
            delay: how long until the first line of its code runs; timeouts count from
                then. A signal or an update that comes earlier starts it at once.
            attributes: what it is found by: values by `Attribute`.
            priority: 1 to 5, 3 by default: who comes first where a queue says how many
                runs may be under way (`queues.runs`); less comes first.
            fairness_key: whose it is, such as a customer's id of at most 64
                characters: there keys take turns.
            fairness_weight: so many of its key may begin in one turn; 1 by default.
            debounce: how long to wait for another start of the same id, which replaces
                this one and waits as long again, until the run has begun. Then it is
                refused, unless `on_conflict` says more; once that has closed it begins
                another run. Not with `delay`, `memo`, `attributes`, `with_signal`.
            debounce_max: how long after the first of them it begins at the latest.
            with_signal: a signal such as `approved(True)` that the run's first turn
                sees; an open run that is used instead gets it, too.

        Raises:
            WorkflowAlreadyStartedError: the id is that of another workflow's run, or
                one with other arguments, which are named; or the policies forbid it.
            InvalidInputError: an argument breaks its rule; nothing was written.
            AttributeTypeError: an attribute of that name has another type.
            StoreError: the database refused.
            EngineClosedError: the engine is not open.
        """
        return await self._start(call, args, options)

    def _start(
        self, call: Any, args: tuple[Any, ...], options: StartOptions
    ) -> Coroutine[Any, Any, Handle[Any]]:
        how = start_settings(options)
        client = self._open_client()
        with_signal = options.get("with_signal")
        if with_signal is not None:
            how = client.with_signal(how, with_signal)
        return client.start(call, args, how)

    @overload
    async def update_with_start(
        self,
        update: UpdateCall[U],
        call: WorkflowCall[R],
        /,
        *,
        id: str,
        on_conflict: OnConflict = IdConflictPolicy.USE_EXISTING,
        update_id: str | None = None,
        **options: Unpack[UpdateStartOptions],
    ) -> tuple[Handle[R], UpdateHandle[U]]: ...
    @overload
    async def update_with_start(
        self,
        update: UpdateCall[U],
        call: str,
        /,
        *args: Any,
        id: str,
        on_conflict: OnConflict = IdConflictPolicy.USE_EXISTING,
        update_id: str | None = None,
        **options: Unpack[UpdateStartOptions],
    ) -> tuple[Handle[Any], UpdateHandle[U]]: ...
    async def update_with_start(
        self,
        update: UpdateCall[Any],
        call: Any,
        /,
        *args: Any,
        id: str,
        on_conflict: OnConflict = IdConflictPolicy.USE_EXISTING,
        update_id: str | None = None,
        **options: Unpack[UpdateStartOptions],
    ) -> tuple[Handle[Any], UpdateHandle[Any]]:
        """Send an update to the open run of an id, or start that run with the update.

        The update is part of the first turn of a run that this starts. Wait for the
        answer with `result()` of the second handle; the first is good even if the
        update is rejected.

        Args:
            update: such as `Cart.add("apple")`.
            call: the workflow to start if no run of that id is open; as for `start`.
            *args: arguments, only with a name.
            id: the workflow id.
            on_conflict: as for `start`; an open run is used by default.
            update_id: your idempotency key for the update.
            **options: the further options of `start`.

        Raises: as `start`.
        """
        check_option_names(
            options,
            {*UpdateStartOptions.__annotations__, "id", "on_conflict"},
            "option of a start with an update",
        )
        given = {**options, "id": id, "on_conflict": on_conflict}
        how = start_settings(cast("StartOptions", given))
        return await self._open_client().update_with_start(
            update, update_id, call, args, how
        )

    @overload
    async def execute(
        self, call: WorkflowCall[R], /, **options: Unpack[StartOptions]
    ) -> R: ...
    @overload
    async def execute(
        self, call: str, /, *args: Any, **options: Unpack[StartOptions]
    ) -> Any: ...
    async def execute(
        self, call: Any, /, *args: Any, **options: Unpack[StartOptions]
    ) -> Any:
        """Start a run and wait for its result: `start`, then `result`.

        Raises: as `start` and `Handle.result`.
        """
        handle: Handle[Any] = await self._start(call, args, options)
        return await handle.result()

    @overload
    def within(self, connection: AsyncTransaction, /) -> AsyncWithin: ...
    @overload
    def within(self, connection: Transaction, /) -> Within: ...
    def within(
        self, connection: Transaction | AsyncTransaction, /
    ) -> Within | AsyncWithin:
        """Start runs and send messages as part of a transaction of your own.

            with Session(database) as session, session.begin():
                session.add(order)
                handle = engine.within(session).start(fulfil(order.id))

        Each call writes one row by your connection. When your transaction is committed
        a worker does what the rows ask for, once, in order for each workflow id; if it
        is rolled back, to a savepoint too, nothing was asked for. Your transaction is
        yours: it is never committed, rolled back or closed here.

        Args:
            connection: to this engine's database: a `Connection` or `Session` of
                SQLAlchemy, an `AsyncConnection` or `AsyncSession`, or a connection of
                a DB-API driver (psycopg, PyMySQL, sqlite3, Django's and others). With
                those that need no await, any thread may call this.

        Returns:
            What has `start`, `signal`, `update` and `cancel`; they are to be awaited
            if the connection's own methods are.

        Raises:
            InvalidCallError: it is no connection.
            EngineClosedError: the engine is not open.
        """
        self._home.check_process()
        requests, delivery = self._requests, self._delivery
        if requests is None or delivery is None or not self._is_open:
            raise _half_open()
        # SQLAlchemy takes 0.3 s to import, which a store in memory can do without.
        from durable.store.callers.joining import AsyncJoined, Gate, join

        if self._gate is None:
            self._gate = Gate(self._store)
        joined = join(self._gate, connection)
        if isinstance(joined, AsyncJoined):
            return AsyncWithin(requests, joined, delivery)
        return Within(requests, joined, delivery)

    async def call(
        self,
        call: EntityCall[R],
        /,
        *,
        update_id: str | None = None,
        timeout: Duration | None = None,
    ) -> R:
        """Call a method of an entity, and wait for its answer.

        An exclusive method waits for its turn; when it has answered, the new state is
        durable. A shared one answers at once.

        Args:
            call: such as `Cart["alice"].add("apple", n=2)`.
            update_id: your idempotency key for the call of an exclusive method: while
                the entity remembers it (the newest 256 calls, at least), the same key
                again gives the same answer, and nothing runs twice.
            timeout: how long to wait; without end by default, or 10 s for a shared
                method whose code only another process has.

        Raises:
            UpdateFailedError: the exclusive method raised, which is chained as
                `__cause__`; the state is as it was. Or the entity was ended first.
            QueryFailedError: the shared method raised.
            NoAnswerError: `timeout` passed; an exclusive method may still run.
            EntityDeadlockError: an activity calls the entity that waits for it.
            WorkflowStuckError: the entity's code must be mended first.
            InvalidInputError: an argument breaks its rule; nothing was sent.
        """
        result: R = await call_entity(
            self._open_client(), call, update_id=update_id, timeout=timeout
        )
        return result

    @overload
    async def get(
        self,
        workflow_id: str,
        /,
        *,
        workflow: Workflow[..., R],
        run_id: str | None = None,
    ) -> Handle[R]: ...
    @overload
    async def get(
        self,
        workflow_id: str,
        /,
        *,
        workflow: type[Any] | None = None,
        run_id: str | None = None,
    ) -> Handle[Any]: ...
    async def get(
        self,
        workflow_id: str,
        /,
        *,
        workflow: Workflow[..., Any] | type[Any] | None = None,
        run_id: str | None = None,
    ) -> Handle[Any]:
        """Find a run by its workflow id: the newest one, or that of `run_id`.

        Args:
            workflow_id: the workflow id.
            workflow: its workflow, function or class, for type checkers. The result
                has its type in any case where this program has the workflow's code.
            run_id: which run of that id.

        Raises:
            WorkflowNotFoundError: there is none.
            InvalidIdError: the id breaks the rule for ids.
        """
        return await self._open_client().find(workflow_id, run_id, workflow)

    @property
    def namespaces(self) -> Namespaces:
        """The namespaces of the database."""
        return Namespaces(self._open_client)

    @property
    def queues(self) -> Queues:
        """What task queues may have at once and how fast, changed while workers run."""
        return Queues(self._open_client)

    async def workers(self) -> builtins.list[WorkerDescription]:
        """List the workers of this namespace: what they serve, and how full they are.

        Raises:
            StoreError: the database cannot be read.
        """
        client = self._open_client()
        return await describe_workers(client.store, client.namespace)

    @property
    def outbox(self) -> Outbox:
        """What committed transactions have asked for and have not got; see `within`."""
        return Outbox(self._open_client)

    async def list(
        self,
        *,
        where: Condition | str | None = None,
        order_by: Order | None = None,
        status: RunStatus | str | None = None,
        workflow_type: str | None = None,
        workflow_id: str | None = None,
        stuck: bool | None = None,
        limit: int = 100,
        started_before: datetime | None = None,
        after: str | None = None,
    ) -> builtins.list[RunDescription]:
        """List runs, newest first.

        Args:
            where: only runs that this holds for: conditions such as
                `(customer == "ann") & (Run.started > noon)`, or the text of a query
                such as "customer = 'ann' AND StartTime > '2026-01-31T12:00:00Z'".
            order_by: `Run.started.ascending()`, or by `Run.closed`, which lists closed
                runs only.
            status: only runs of this status: a `RunStatus` or its value, such as
                "running"; "stuck" for parked ones and "paused" for paused ones, which
                are running, too.
            workflow_type: only runs of the workflow of this name. Without it or an id,
                runs of the library's own, such as schedules, are left out.
            workflow_id: only runs of this id.
            stuck: True for parked runs only, False for none of them.
            limit: how many at most.
            started_before: an aware datetime: only runs that started before.
            after: the `cursor` of the last run of a page, for the next page. None is
                skipped or shown twice, even if many started at one instant.

        Raises:
            InvalidOptionError, InvalidIdError: an argument has a wrong type or value.
            QuerySyntaxError: the text cannot be read; it says where.
            AttributeTypeError: an attribute of that name has another type.
            QueryTooBroadError: too many runs would have to be looked at one by one.
        """
        asked = listing(
            where=where,
            order_by=order_by,
            status=status,
            workflow_type=workflow_type,
            workflow_id=workflow_id,
            stuck=stuck,
            limit=limit,
            started_before=started_before,
            after=after,
        )
        return await self._open_client().list(asked)

    async def count(
        self,
        *,
        where: Condition | str | None = None,
        group_by: Attribute[Any] | RunField | str | None = None,
    ) -> RunCount:
        """Count runs, all of them or by the value of something.

        Args:
            where: as for `list`.
            group_by: an attribute, or `Run.status`, `type`, `queue`, `version` or
                `stuck`; or its name in queries.

        Raises: as `list`, but that a count ends at what it could look at.
        """
        return await self._open_client().count(check_where(where), group_by)

    def batch(
        self,
        *,
        where: Condition | str | None = None,
        status: RunStatus | str | None = None,
        workflow_type: str | None = None,
        workflow_id: str | None = None,
        stuck: bool | None = None,
        started_before: datetime | None = None,
        all_runs: bool = False,
    ) -> Batch:
        """Choose runs, to do something with all of them.

            batch = await engine.batch(where=customer == "ann").cancel("she left")
            print(await batch.describe())

        Args:
            where: as for `list`, and so are the others.
            status: only runs of this status.
            workflow_type: only runs of this workflow.
            workflow_id: only runs of this id.
            stuck: only parked runs, or none of them.
            started_before: only runs that started before.
            all_runs: all of the namespace: the only filter then.

        Raises:
            InvalidOptionError, InvalidIdError: an argument has a wrong value, or there
                is none.
        """
        asked = listing(
            where=where,
            order_by=None,
            status=status,
            workflow_type=workflow_type,
            workflow_id=workflow_id,
            stuck=stuck,
            limit=1,
            started_before=started_before,
            after=None,
        )
        return Batch(self._open_client, check_chosen(asked, all_runs=all_runs))

    @overload
    async def start_activity(
        self, call: Coroutine[Any, Any, R], /, **options: Unpack[ActivityStartOptions]
    ) -> ActivityHandle[R]: ...
    @overload
    async def start_activity(
        self, call: str, /, *args: Any, **options: Unpack[ActivityStartOptions]
    ) -> ActivityHandle[Any]: ...
    async def start_activity(
        self, call: Any, /, *args: Any, **options: Unpack[ActivityStartOptions]
    ) -> ActivityHandle[Any]:
        """Have workers run an activity for which no workflow asks: a durable job.

            job = await engine.start_activity(send_invoice(order), id=f"invoice-{n}")
            receipt = await job.result()

        It is a run of a small workflow of the library's, and so has all that runs have:
        retries, timeouts and queues of the activity, an id that is used once, search,
        retention. It is listed by `list_activities`, and not by `list`.

        Args:
            call: a call such as `send_invoice(order)`, under `options()` too, which is
                not run here; or the activity's name, with its arguments
                as plain data.
            *args: arguments, only with a name.
            **options: `id`, `on_conflict`, `id_reuse`, `request_id`, `task_queue`,
                `memo`, `delay` and `attributes`, as for `start`.

        Raises:
            InvalidCallError: it is no call of an activity, or the arguments do not fit.
            WorkflowAlreadyStartedError, InvalidInputError, StoreError: as `start`.
        """
        return await start_activity(self._open_client(), call, args, options)

    @overload
    async def get_activity(
        self, id: str, /, *, activity: Activity[..., R]
    ) -> ActivityHandle[R]: ...
    @overload
    async def get_activity(
        self, id: str, /, *, activity: None = None
    ) -> ActivityHandle[Any]: ...
    async def get_activity(
        self, id: str, /, *, activity: Activity[..., Any] | None = None
    ) -> ActivityHandle[Any]:
        """Find an activity that `start_activity` has started; the newest of its id.

        Args:
            id: its id.
            activity: the code, which says of what type its result is.

        Raises:
            ActivityNotFoundError: there is none.
        """
        return await get_activity(self._open_client(), id, activity)

    async def list_activities(
        self,
        *,
        activity_type: str | None = None,
        status: RunStatus | str | None = None,
        where: Condition | str | None = None,
        stuck: bool | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> builtins.list[StandaloneActivityDescription]:
        """List activities that `start_activity` has started, newest first.

        Args:
            activity_type: only those of this name.
            status: only those of this status.
            where: as for `list`, and so are the others.
            stuck: only those that somebody has to mend, or none of them.
            limit: so many at most.
            after: go on behind this one, by its `cursor`.

        Raises: as `list`.
        """
        asked = listing(
            where=where,
            order_by=None,
            status=status,
            workflow_type=None,
            workflow_id=None,
            stuck=stuck,
            limit=limit,
            started_before=None,
            after=after,
        )
        return await list_activities(self._open_client(), asked, activity_type)

    def get_batch(self, id: str, /) -> BatchHandle:
        """A handle to a batch; whether there is one shows when it is asked.

        Raises:
            InvalidIdError: the id breaks the rule for ids.
        """
        return BatchHandle(self._open_client, check_id(id, "the batch's id"))

    async def delete_expired(self, *, dry_run: bool = False) -> Swept:
        """Delete the closed runs whose time is over, by the rules and the namespace.

        Workers do it by themselves, a minute after they begin and then once an hour.
        What an open run may need stays until it is not needed.

        Args:
            dry_run: count, and delete nothing.

        Raises:
            QuerySyntaxError, AttributeTypeError: a rule of `retention` means nothing.
        """
        store = self._open_client().store
        rules, busy = self._retention, self._is_busy
        return await sweep(store, self._namespace, rules, is_dry=dry_run, is_busy=busy)

    async def export_runs(
        self,
        path: str | os.PathLike[str],
        /,
        *,
        where: Condition | str | None = None,
        workflow_id: str | None = None,
        delete: bool = False,
    ) -> Exported:
        """Write closed runs to a file of JSON Lines, whole: to be kept, and read again.

        Args:
            path: a new file; what ends in `.gz` is compressed.
            where: as for `list`; all closed runs by default.
            workflow_id: only runs of this id.
            delete: delete them once the file is durable, but for what is needed.

        Raises:
            ArchiveError: the file exists, or cannot be written.
            CorruptHistoryError: a run cannot be read; no file is left then.
            InvalidInputError, QueryTooBroadError: as for `list`.
        """
        client = self._open_client()
        asked = closed_runs(where, workflow_id)
        return await export_runs(
            client.store, self._namespace, asked, to_path(path, "path"), deletes=delete
        )

    async def import_runs(
        self,
        path: str | os.PathLike[str],
        /,
        *,
        skip_existing: bool = False,
        dry_run: bool = False,
    ) -> Imported:
        """Bring back the closed runs of a file, to be found and read.

        They are as they were; none of them goes on, and nobody is told of them.

        Args:
            path: what `export_runs` wrote, in this namespace of any database.
            skip_existing: leave out runs that are there, rather than refuse the file.
            dry_run: see whether it can be imported, and import nothing.

        Raises:
            ArchiveError: it cannot be read, or is cut off.
            RunExistsError: a run of it is there.
            AttributeTypeError: an attribute of its name has another type here.
            StoreError: the database refused. Whatever is raised says whether, and how
                many, runs were imported.
        """
        client = self._open_client()
        return await import_runs(
            client.store,
            self._namespace,
            to_path(path, "path"),
            skips_existing=skip_existing,
            is_dry=dry_run,
        )

    async def run_until_stopped(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; for programs that are nothing but a worker."""
        self._open_client()
        await stop.wait()


def _half_open() -> EngineClosedError:
    return EngineClosedError(
        "This engine is being opened or closed.",
        hint="Use it within `async with Engine(...)`.",
    )


def activity_client() -> Engine:
    """The engine whose worker runs the activity, for activities that need one.

        @activity
        async def remind(customer: str) -> None:
            await activity_client().call(Cart[customer].note("reminded"))

    Only async activities can use it: an engine belongs to its event loop. What an
    activity does with it may be done again by a further attempt; give ids to what must
    happen once, such as `activity_info().idempotency_key`.

    Raises:
        NotInWorkflowError: no async activity of an engine is running here.
    """
    return cast("Engine", activity_engine("durable.activity_client()"))
