"""The same engine for programs without an event loop: scripts, Flask, Django.

A thread of its own runs the loop; calls wait for it. After a fork a child opens its own
engine: all state is in the database.
"""

# size: the sync counterpart of each method, one after the other.

from __future__ import annotations

import atexit
import builtins
import contextlib
import logging
import os
import threading
from collections.abc import Coroutine, Generator
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Generic, NoReturn, Self, TypeVar, overload

from typing_extensions import Unpack

from durable.api.activities.activity import Activity
from durable.api.entities.entity_call import EntityCall
from durable.api.messages.messages import QueryCall, SignalCall, UpdateCall
from durable.api.workflows.workflow import Workflow, WorkflowCall
from durable.batches.sync_batches import SyncBatch, SyncBatchHandle
from durable.client.activities.sync_activities import SyncActivities
from durable.client.descriptions.activities import ActivityDescription
from durable.client.descriptions.description import RunDescription
from durable.client.descriptions.searching import RunCount
from durable.client.descriptions.workers import WorkerDescription
from durable.client.handle import Handle
from durable.client.keeping.archive import Exported, Imported
from durable.client.keeping.retention import Swept
from durable.client.namespaces import (
    NamespaceDescription,
    Namespaces,
    NamespaceSettings,
)
from durable.client.outbox.handles import OutboxHandle
from durable.client.outbox.outbox import Outbox, OutboxDescription
from durable.client.outbox.within import Transaction, Within
from durable.client.queues.sync_queues import SyncQueues
from durable.client.resets.sync_controls import SyncRunControls
from durable.client.start_options import StartOptions, UpdateStartOptions
from durable.client.updates import UpdateHandle
from durable.core.history.events import HistoryEvent
from durable.core.loop.stacks import TaskStack
from durable.core.machines.fact import DeadLetter
from durable.engine import Engine as AsyncEngine
from durable.errors import EngineClosedError, InvalidCallError
from durable.loop_thread import LoopThread
from durable.options import Duration, IdConflictPolicy, OnConflict
from durable.schedules.sync_schedules import SyncSchedules
from durable.search.conditions import Attribute, Condition
from durable.search.orders import Order
from durable.search.run_fields import RunField
from durable.standalone.standalone import (
    ActivityStartOptions,
    StandaloneActivityDescription,
)
from durable.standalone.sync_standalone import SyncActivityHandle
from durable.store.records import AttemptRecord, RunStatus
from durable.worker.health import WorkerHealth

_log: Final = logging.getLogger("durable.worker")
# What closing takes beyond the time for activities, if nothing hangs.
_LATE_SECONDS: Final = 5.0

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


# An event loop that is collected closes itself, and what it shares with the parent.
_inherited: Final[list[LoopThread]] = []


class SyncUpdateHandle(Generic[R_co]):
    """One update, for code without an event loop; see `UpdateHandle`."""

    def __init__(self, thread: LoopThread, handle: UpdateHandle[R_co]) -> None:
        self._thread = thread
        self._handle = handle
        self.update_id = handle.update_id
        self.workflow_id = handle.workflow_id

    def __repr__(self) -> str:
        return repr(self._handle)

    @property
    def run_id(self) -> str:
        """The run it was sent to, or the one of its chain that it has come to."""
        return self._handle.run_id

    def result(self, *, timeout: Duration | None = None) -> R_co:
        """Wait until the handler has answered; see `UpdateHandle.result`."""
        return self._thread.call(self._handle.result(timeout=timeout))


class SyncNamespaces:
    """The namespaces of a database; see `Engine.namespaces`."""

    def __init__(self, thread: LoopThread, namespaces: Namespaces) -> None:
        self._thread = thread
        self._namespaces = namespaces

    def create(
        self, name: str, **settings: Unpack[NamespaceSettings]
    ) -> NamespaceDescription:
        """Create a namespace; see `Namespaces.create`."""
        return self._thread.call(self._namespaces.create(name, **settings))

    def update(
        self, name: str, **settings: Unpack[NamespaceSettings]
    ) -> NamespaceDescription:
        """Change settings of a namespace; see `Namespaces.update`."""
        return self._thread.call(self._namespaces.update(name, **settings))

    def list(self) -> builtins.list[NamespaceDescription]:
        """List the namespaces; see `Namespaces.list`."""
        return self._thread.call(self._namespaces.list())

    def describe(self, name: str) -> NamespaceDescription:
        """Describe one namespace; see `Namespaces.describe`."""
        return self._thread.call(self._namespaces.describe(name))


class SyncHandle(SyncRunControls, Generic[R_co]):
    """One run, for code without an event loop; see `Handle`."""

    def __init__(self, thread: LoopThread, handle: Handle[R_co]) -> None:
        self._thread = thread
        self._handle = self._controls = handle
        self.workflow_id = handle.workflow_id
        self.run_id = handle.run_id
        self.is_new = handle.is_new

    def __repr__(self) -> str:
        return repr(self._handle)

    def result(self, *, timeout: Duration | None = None) -> R_co:
        """Wait until the run has ended, and return its result; see `Handle.result`."""
        return self._thread.call(self._handle.result(timeout=timeout))

    def describe(self) -> RunDescription:
        """Read what the store says about the run."""
        return self._thread.call(self._handle.describe())

    def plain(self) -> SyncHandle[Any]:
        """The same run, with its result as plain data; see `Handle.plain`."""
        return SyncHandle(self._thread, self._handle.plain())

    def memo(self) -> dict[str, Any]:
        """Read the values that the run was started with beside its arguments."""
        return self._thread.call(self._handle.memo())

    def history(self) -> list[HistoryEvent]:
        """Read the run's events, in order."""
        return self._thread.call(self._handle.history())

    def events(self, *, after: int = 0) -> Generator[HistoryEvent, None, None]:
        """Follow the run's events as they are committed; see `Handle.events`."""
        events = self._handle.events(after=after)
        try:
            while True:
                try:
                    yield self._thread.call(anext(events))
                except StopAsyncIteration:
                    return
        finally:
            self._thread.call(events.aclose())

    def activities(self) -> list[ActivityDescription]:
        """Read which activities the run waits for; see `Handle.activities`."""
        return self._thread.call(self._handle.activities())

    def attempts(self) -> list[AttemptRecord]:
        """Read the attempts of the run's activities."""
        return self._thread.call(self._handle.attempts())

    @overload
    def state(self) -> Any: ...
    @overload
    def state(self, type: type[T]) -> T | None: ...
    def state(self, type: Any = Any) -> Any:
        """Read what the run's code published last; see `Handle.state`."""
        return self._thread.call(self._handle.state(type))

    def dead_letters(self) -> builtins.list[DeadLetter]:
        """The signals that the run's code could not decode, and why."""
        return self._thread.call(self._handle.dead_letters())

    def signal(
        self, call: SignalCall | str, /, *args: Any, request_id: str | None = None
    ) -> None:
        """Send a signal; see `Handle.signal`."""
        self._thread.call(self._handle.signal(call, *args, request_id=request_id))

    @overload
    def query(self, call: QueryCall[T], /, *, timeout: Duration = 10.0) -> T: ...
    @overload
    def query(self, call: str, /, *args: Any, timeout: Duration = 10.0) -> Any: ...
    def query(self, call: Any, /, *args: Any, timeout: Duration = 10.0) -> Any:
        """Ask the run's code; see `Handle.query`."""
        return self._thread.call(self._handle.query(call, *args, timeout=timeout))

    def stack(self, *, timeout: Duration = 10.0) -> builtins.list[TaskStack]:
        """Where each task of the run waits; see `Handle.stack`."""
        return self._thread.call(self._handle.stack(timeout=timeout))

    @overload
    def update(
        self,
        call: UpdateCall[T],
        /,
        *,
        update_id: str | None = None,
        timeout: Duration | None = None,
    ) -> T: ...
    @overload
    def update(
        self,
        call: str,
        /,
        *args: Any,
        update_id: str | None = None,
        timeout: Duration | None = None,
    ) -> Any: ...
    def update(
        self,
        call: Any,
        /,
        *args: Any,
        update_id: str | None = None,
        timeout: Duration | None = None,
    ) -> Any:
        """Send an update and wait for its answer; see `Handle.update`."""
        sent = self._handle.update(call, *args, update_id=update_id, timeout=timeout)
        return self._thread.call(sent)

    @overload
    def start_update(
        self,
        call: UpdateCall[T],
        /,
        *,
        update_id: str | None = None,
        timeout: Duration | None = 10.0,
    ) -> SyncUpdateHandle[T]: ...
    @overload
    def start_update(
        self,
        call: str,
        /,
        *args: Any,
        update_id: str | None = None,
        timeout: Duration | None = 10.0,
    ) -> SyncUpdateHandle[Any]: ...
    def start_update(
        self,
        call: Any,
        /,
        *args: Any,
        update_id: str | None = None,
        timeout: Duration | None = 10.0,
    ) -> SyncUpdateHandle[Any]:
        """Send an update and wait until it is accepted; see `Handle.start_update`."""
        sent: UpdateHandle[Any] = self._thread.call(
            self._handle.start_update(call, *args, update_id=update_id, timeout=timeout)
        )
        return SyncUpdateHandle(self._thread, sent)

    def get_update(self, update_id: str) -> SyncUpdateHandle[Any]:
        """A handle to an update that was accepted before."""
        return SyncUpdateHandle(self._thread, self._handle.get_update(update_id))

    def cancel(self, reason: str = "", *, request_id: str | None = None) -> None:
        """Ask the run to stop; see `Handle.cancel`."""
        self._thread.call(self._handle.cancel(reason, request_id=request_id))

    def retry_activity(self, activity_id: str, /) -> None:
        """Run an activity again; see `Handle.retry_activity`."""
        self._thread.call(self._handle.retry_activity(activity_id))

    def fail_activity(self, activity_id: str, error: BaseException | str, /) -> None:
        """Say that one in doubt has failed; see `Handle.fail_activity`."""
        self._thread.call(self._handle.fail_activity(activity_id, error))

    def complete_activity(self, activity_id: str, result: Any, /) -> None:
        """Take this as an activity's result; see `Handle.complete_activity`."""
        self._thread.call(self._handle.complete_activity(activity_id, result))

    def terminate(self, reason: str = "") -> None:
        """Close the run at once; see `Handle.terminate`."""
        self._thread.call(self._handle.terminate(reason))

    def delete(self, *, terminate: bool = False) -> int:
        """Delete the run for good; see `Handle.delete`."""
        return self._thread.call(self._handle.delete(terminate=terminate))


class SyncOutboxHandle(Generic[R_co]):
    """A run that a transaction starts; see `OutboxHandle`."""

    def __init__(self, thread: LoopThread, handle: OutboxHandle[R_co]) -> None:
        self._thread = thread
        self._handle = handle
        self.workflow_id = handle.workflow_id
        self.run_id = handle.run_id

    def __repr__(self) -> str:
        return repr(self._handle)

    def started(self, *, timeout: Duration | None = None) -> SyncHandle[R_co]:
        """Wait until the run is there; see `OutboxHandle.started`."""
        started = self._thread.call(self._handle.started(timeout=timeout))
        return SyncHandle(self._thread, started)

    def result(self, *, timeout: Duration | None = None) -> R_co:
        """Wait until the run has ended; see `OutboxHandle.result`."""
        return self._thread.call(self._handle.result(timeout=timeout))


class SyncWithin:
    """Starts and messages that are part of the caller's transaction; see `Within`."""

    def __init__(self, thread: LoopThread, within: Within) -> None:
        self._thread = thread
        self.signal = within.signal
        self.update = within.update
        self.cancel = within.cancel
        self._start = within.start

    @overload
    def start(
        self, call: WorkflowCall[R], /, **options: Unpack[StartOptions]
    ) -> SyncOutboxHandle[R]: ...
    @overload
    def start(
        self, call: str, /, *args: Any, **options: Unpack[StartOptions]
    ) -> SyncOutboxHandle[Any]: ...
    def start(
        self, call: Any, /, *args: Any, **options: Unpack[StartOptions]
    ) -> SyncOutboxHandle[Any]:
        """Start a run when the transaction is committed; see `Within.start`."""
        handle: OutboxHandle[Any] = self._start(call, *args, **options)
        return SyncOutboxHandle(self._thread, handle)


class SyncOutbox:
    """What committed transactions have asked for; see `Outbox`."""

    def __init__(self, thread: LoopThread, outbox: Outbox) -> None:
        self._thread = thread
        self._outbox = outbox

    def list(
        self, *, set_aside: bool | None = None, limit: int = 100, after: int = 0
    ) -> builtins.list[OutboxDescription]:
        """List what is there; see `Outbox.list`."""
        listed = self._outbox.list(set_aside=set_aside, limit=limit, after=after)
        return self._thread.call(listed)

    def retry(self, *sequences: int) -> builtins.list[int]:
        """Have these tried again now; see `Outbox.retry`."""
        return self._thread.call(self._outbox.retry(*sequences))

    def drop(self, *sequences: int) -> builtins.list[int]:
        """Delete these for good; see `Outbox.drop`."""
        return self._thread.call(self._outbox.drop(*sequences))


class SyncEngine:
    """An engine for code without an event loop; takes what `Engine` takes.

    Use it as a context manager. It may be called from several threads.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """See `Engine`."""
        self._engine = AsyncEngine(*args, **options)
        self._thread: LoopThread | None = None
        self._changing = threading.RLock()
        self._process_id = os.getpid()

    def open(self) -> Self:
        """Connect and go on with unfinished runs; see `Engine.open`.

        Twice is fine. A program that ends without closing closes at its end. In a
        forked process this opens an engine of its own.
        """
        if self._process_id != os.getpid():
            self._changing = threading.RLock()  # its copy may be held, for ever
            self._process_id = os.getpid()
        with self._changing:
            if self._thread is not None and not self._thread.is_inherited:
                return self
            if self._thread is not None:
                _inherited.append(self._thread)
            thread = LoopThread()
            try:
                thread.call(self._engine.open())
            except BaseException:
                thread.stop()
                raise
            self._thread = thread
            atexit.register(self._close_at_exit)
        return self

    def close(self) -> None:
        """Drain the worker and disconnect. Twice is fine.

        Takes little longer than `drain_timeout`; what runs even then is named in the
        log and left alone. So it is if Ctrl-C is pressed meanwhile. In a forked process
        this does nothing, as nothing there is its own.
        """
        if self._process_id != os.getpid():
            return
        with self._changing:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            atexit.unregister(self._close_at_exit)
            running: list[str] = []
            try:
                thread.call(
                    self._engine.close(), self._engine.closing_seconds + _LATE_SECONDS
                )
            except TimeoutError:
                running = self._engine.running_activities()
            except BaseException:
                running = self._engine.running_activities()
                raise
            finally:
                if not thread.stop():
                    running.append("code that blocks the event loop")
                if running:
                    _log.warning(
                        "The engine was closed before all had come to its end; there"
                        " still ran: %s.",
                        ", ".join(running),
                    )

    def _close_at_exit(self) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            self.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        running = self._engine.running_activities()
        if running and kind is not None and issubclass(kind, KeyboardInterrupt):
            _log.warning(
                "Waiting for up to %g s for what runs: %s. Ctrl-C ends it at once.",
                self._engine.drain_seconds,
                ", ".join(running),
            )
        self.close()

    async def __aenter__(self) -> NoReturn:
        """Refuse `async with`, whose loop would stand still.

        Raises:
            InvalidCallError: always.
        """
        raise InvalidCallError(
            "A SyncEngine was opened by `async with`.",
            hint="Write `async with Engine(...)` in async code; elsewhere `with"
            " SyncEngine(...)`.",
        )

    async def __aexit__(self, *_: object) -> None:
        """Never reached."""

    def _open_thread(self) -> LoopThread:
        if self._thread is None:
            raise EngineClosedError(
                "This engine is not open.", hint="Use it within `with SyncEngine(...)`."
            )
        return self._thread

    @overload
    def start(
        self, call: WorkflowCall[R], /, **options: Unpack[StartOptions]
    ) -> SyncHandle[R]: ...
    @overload
    def start(
        self, call: str, /, *args: Any, **options: Unpack[StartOptions]
    ) -> SyncHandle[Any]: ...
    def start(
        self, call: Any, /, *args: Any, **options: Unpack[StartOptions]
    ) -> SyncHandle[Any]:
        """Start a run; see `Engine.start`."""
        thread = self._open_thread()
        started: Handle[Any] = thread.call(self._engine.start(call, *args, **options))
        return SyncHandle(thread, started)

    @overload
    def execute(
        self, call: WorkflowCall[R], /, **options: Unpack[StartOptions]
    ) -> R: ...
    @overload
    def execute(
        self, call: str, /, *args: Any, **options: Unpack[StartOptions]
    ) -> Any: ...
    def execute(self, call: Any, /, *args: Any, **options: Unpack[StartOptions]) -> Any:
        """Start a run and wait for its result; see `Engine.execute`."""
        return self._open_thread().call(self._engine.execute(call, *args, **options))

    def within(self, connection: Transaction, /) -> SyncWithin:
        """Start runs and send messages in your own transaction; see `Engine.within`.

        The row is written on this thread, by your connection.

        Raises: as `Engine.within`.
        """
        thread = self._open_thread()
        within: object = self._engine.within(connection)
        if not isinstance(within, Within):
            raise InvalidCallError(
                f"within() of a SyncEngine was given a {type(connection).__name__},"
                " whose methods must be awaited.",
                hint="Give a connection or session of code without an event loop; use"
                " Engine elsewhere.",
            )
        return SyncWithin(thread, within)

    @property
    def outbox(self) -> SyncOutbox:
        """What committed transactions have asked for and have not got."""
        return SyncOutbox(self._open_thread(), self._engine.outbox)

    @overload
    def get(
        self,
        workflow_id: str,
        /,
        *,
        workflow: Workflow[..., R],
        run_id: str | None = None,
    ) -> SyncHandle[R]: ...
    @overload
    def get(
        self,
        workflow_id: str,
        /,
        *,
        workflow: type[Any] | None = None,
        run_id: str | None = None,
    ) -> SyncHandle[Any]: ...
    def get(
        self, workflow_id: str, /, *, workflow: Any = None, run_id: str | None = None
    ) -> SyncHandle[Any]:
        """Find a run by its workflow id; see `Engine.get`."""
        thread = self._open_thread()
        found = self._engine.get(workflow_id, workflow=workflow, run_id=run_id)
        return SyncHandle(thread, thread.call(found))

    @overload
    def update_with_start(
        self,
        update: UpdateCall[T],
        call: WorkflowCall[R],
        /,
        *,
        id: str,
        on_conflict: OnConflict = IdConflictPolicy.USE_EXISTING,
        update_id: str | None = None,
        **options: Unpack[UpdateStartOptions],
    ) -> tuple[SyncHandle[R], SyncUpdateHandle[T]]: ...
    @overload
    def update_with_start(
        self,
        update: UpdateCall[T],
        call: str,
        /,
        *args: Any,
        id: str,
        on_conflict: OnConflict = IdConflictPolicy.USE_EXISTING,
        update_id: str | None = None,
        **options: Unpack[UpdateStartOptions],
    ) -> tuple[SyncHandle[Any], SyncUpdateHandle[T]]: ...
    def update_with_start(
        self,
        update: UpdateCall[Any],
        call: Any,
        /,
        *args: Any,
        id: str,
        on_conflict: OnConflict = IdConflictPolicy.USE_EXISTING,
        update_id: str | None = None,
        **options: Unpack[UpdateStartOptions],
    ) -> tuple[SyncHandle[Any], SyncUpdateHandle[Any]]:
        """Send an update, starting its run if need be; see `Engine`."""
        thread = self._open_thread()
        both: tuple[Handle[Any], UpdateHandle[Any]] = thread.call(
            self._engine.update_with_start(
                update,
                call,
                *args,
                id=id,
                on_conflict=on_conflict,
                update_id=update_id,
                **options,
            )
        )
        handle, sent = both
        return SyncHandle(thread, handle), SyncUpdateHandle(thread, sent)

    def call(
        self,
        call: EntityCall[R],
        /,
        *,
        update_id: str | None = None,
        timeout: Duration | None = None,
    ) -> R:
        """Call a method of an entity; see `Engine.call`."""
        thread = self._open_thread()
        called = self._engine.call(call, update_id=update_id, timeout=timeout)
        return thread.call(called)

    @property
    def schedules(self) -> SyncSchedules:
        """What starts workflows at given times; see `Engine.schedules`."""
        return SyncSchedules(self._open_thread(), self._engine.schedules)

    def health(self) -> WorkerHealth | None:
        """Tell how its worker does now; see `Engine.health`."""
        thread = self._thread
        return None if thread is None else thread.call(self._engine.health())

    @property
    def activities(self) -> SyncActivities:
        """Activities that run elsewhere or outside; see `Engine.activities`."""
        return SyncActivities(self._open_thread(), self._engine.activities)

    @property
    def namespaces(self) -> SyncNamespaces:
        """The namespaces of the database."""
        return SyncNamespaces(self._open_thread(), self._engine.namespaces)

    @property
    def queues(self) -> SyncQueues:
        """What task queues may have at once and how fast; see `Engine.queues`."""
        return SyncQueues(self._open_thread(), self._engine.queues)

    def workers(self) -> builtins.list[WorkerDescription]:
        """List the workers of this namespace; see `Engine.workers`."""
        return self._open_thread().call(self._engine.workers())

    def list(
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
        """List runs, newest first; see `Engine.list`."""
        thread = self._open_thread()
        listed = self._engine.list(
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
        return thread.call(listed)

    def count(
        self,
        *,
        where: Condition | str | None = None,
        group_by: Attribute[Any] | RunField | str | None = None,
    ) -> RunCount:
        """Count runs; see `Engine.count`."""
        thread = self._open_thread()
        return thread.call(self._engine.count(where=where, group_by=group_by))

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
    ) -> SyncBatch:
        """Choose runs, to do something with all of them; see `Engine.batch`."""
        thread = self._open_thread()
        chosen = self._engine.batch(
            where=where,
            status=status,
            workflow_type=workflow_type,
            workflow_id=workflow_id,
            stuck=stuck,
            started_before=started_before,
            all_runs=all_runs,
        )
        return SyncBatch(thread, chosen)

    @overload
    def start_activity(
        self, call: Coroutine[Any, Any, R], /, **options: Unpack[ActivityStartOptions]
    ) -> SyncActivityHandle[R]: ...
    @overload
    def start_activity(
        self, call: str, /, *args: Any, **options: Unpack[ActivityStartOptions]
    ) -> SyncActivityHandle[Any]: ...
    def start_activity(
        self, call: Any, /, *args: Any, **options: Unpack[ActivityStartOptions]
    ) -> SyncActivityHandle[Any]:
        """Have workers run an activity; see `Engine.start_activity`."""
        thread = self._open_thread()
        started = self._engine.start_activity(call, *args, **options)
        return SyncActivityHandle(thread, thread.call(started))

    @overload
    def get_activity(
        self, id: str, /, *, activity: Activity[..., R]
    ) -> SyncActivityHandle[R]: ...
    @overload
    def get_activity(
        self, id: str, /, *, activity: None = None
    ) -> SyncActivityHandle[Any]: ...
    def get_activity(
        self, id: str, /, *, activity: Activity[..., Any] | None = None
    ) -> SyncActivityHandle[Any]:
        """Find one; see `Engine.get_activity`."""
        thread = self._open_thread()
        found: Any = thread.call(self._engine.get_activity(id, activity=activity))
        return SyncActivityHandle(thread, found)

    def list_activities(
        self,
        *,
        activity_type: str | None = None,
        status: RunStatus | str | None = None,
        where: Condition | str | None = None,
        stuck: bool | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> builtins.list[StandaloneActivityDescription]:
        """List them, newest first; see `Engine.list_activities`."""
        listed = self._engine.list_activities(
            activity_type=activity_type,
            status=status,
            where=where,
            stuck=stuck,
            limit=limit,
            after=after,
        )
        return self._open_thread().call(listed)

    def get_batch(self, id: str, /) -> SyncBatchHandle:
        """A handle to a batch; see `Engine.get_batch`."""
        return SyncBatchHandle(self._open_thread(), self._engine.get_batch(id))

    def delete_expired(self, *, dry_run: bool = False) -> Swept:
        """Delete the closed runs whose time is over; see `Engine.delete_expired`."""
        return self._open_thread().call(self._engine.delete_expired(dry_run=dry_run))

    def export_runs(
        self,
        path: str | os.PathLike[str],
        /,
        *,
        where: Condition | str | None = None,
        workflow_id: str | None = None,
        delete: bool = False,
    ) -> Exported:
        """Write closed runs to a file; see `Engine.export_runs`."""
        return self._open_thread().call(
            self._engine.export_runs(
                path, where=where, workflow_id=workflow_id, delete=delete
            )
        )

    def import_runs(
        self,
        path: str | os.PathLike[str],
        /,
        *,
        skip_existing: bool = False,
        dry_run: bool = False,
    ) -> Imported:
        """Bring back the closed runs of a file; see `Engine.import_runs`."""
        return self._open_thread().call(
            self._engine.import_runs(path, skip_existing=skip_existing, dry_run=dry_run)
        )
