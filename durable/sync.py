"""The same engine for programs without an event loop: scripts, Flask, Django.

A thread of its own runs the loop; calls wait for it. After a fork a child makes its own
engine: all state is in the database.
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar, overload

from durable.api.entity_call import EntityCall
from durable.api.messages import QueryCall, SignalCall, UpdateCall
from durable.api.workflow import Workflow, WorkflowCall
from durable.client.description import RunDescription
from durable.client.handle import Handle
from durable.client.updates import UpdateHandle
from durable.core.events import HistoryEvent
from durable.core.machines.fact import DeadLetter
from durable.core.stacks import TaskStack
from durable.engine import Engine
from durable.errors import EngineClosedError, InvalidCallError
from durable.options import Duration
from durable.store.records import AttemptRecord

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="durable-engine", daemon=True
        )
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it.

        Ctrl-C while waiting cancels the coroutine, not the run behind it.
        """
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            work.close()
            raise EngineClosedError(
                "A SyncEngine was used from its own thread, after a fork, or after"
                " close().",
                hint="Inside async code use Engine; in each process open an own one.",
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except (KeyboardInterrupt, concurrent.futures.CancelledError):
            future.cancel()
            raise

    def stop(self) -> None:
        """End the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncUpdateHandle(Generic[R_co]):
    """One update, for code without an event loop; see `UpdateHandle`."""

    def __init__(self, thread: _LoopThread, handle: UpdateHandle[R_co]) -> None:
        self._thread = thread
        self._handle = handle
        self.update_id = handle.update_id

    def result(self, *, timeout: Duration | None = None) -> R_co:
        """Wait until the handler has answered; see `UpdateHandle.result`."""
        return self._thread.call(self._handle.result(timeout=timeout))


class SyncHandle(Generic[R_co]):
    """One run, for code without an event loop; see `Handle`."""

    def __init__(self, thread: _LoopThread, handle: Handle[R_co]) -> None:
        self._thread = thread
        self._handle = handle
        self.workflow_id = handle.workflow_id
        self.run_id = handle.run_id
        self.is_new = handle.is_new

    def result(self, *, timeout: Duration | None = None) -> R_co:
        """Wait until the run has ended, and return its result; see `Handle.result`."""
        return self._thread.call(self._handle.result(timeout=timeout))

    def describe(self) -> RunDescription:
        """Read what the store says about the run."""
        return self._thread.call(self._handle.describe())

    def memo(self) -> dict[str, Any]:
        """Read the values that the run was started with beside its arguments."""
        return self._thread.call(self._handle.memo())

    def history(self) -> list[HistoryEvent]:
        """Read the run's events, in order."""
        return self._thread.call(self._handle.history())

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

    @overload
    def signal(self, call: SignalCall, /, *, request_id: str | None = None) -> None: ...
    @overload
    def signal(
        self, call: str, /, *args: Any, request_id: str | None = None
    ) -> None: ...
    def signal(self, call: Any, /, *args: Any, request_id: str | None = None) -> None:
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

    def cancel(self, reason: str = "") -> None:
        """Ask the run to stop; see `Handle.cancel`."""
        self._thread.call(self._handle.cancel(reason))

    def terminate(self, reason: str = "") -> None:
        """Close the run at once; see `Handle.terminate`."""
        self._thread.call(self._handle.terminate(reason))


class SyncEngine:
    """An engine for code without an event loop; takes what `Engine` takes.

    Use it as a context manager. It may be called from several threads.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """See `Engine`."""
        self._engine = Engine(*args, **options)
        self._thread: _LoopThread | None = None

    def open(self) -> Self:
        """Connect and go on with unfinished runs; see `Engine.open`."""
        thread = _LoopThread()
        try:
            thread.call(self._engine.open())
        except BaseException:
            thread.stop()
            raise
        self._thread = thread
        return self

    def close(self) -> None:
        """Drain the worker and disconnect. Twice is fine."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.call(self._engine.close())
            finally:
                thread.stop()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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

    def _open_thread(self) -> _LoopThread:
        if self._thread is None:
            raise EngineClosedError(
                "This engine is not open.", hint="Use it within `with SyncEngine(...)`."
            )
        return self._thread

    @overload
    def start(self, call: WorkflowCall[R], /, **options: Any) -> SyncHandle[R]: ...
    @overload
    def start(self, call: str, /, *args: Any, **options: Any) -> SyncHandle[Any]: ...
    def start(self, call: Any, /, *args: Any, **options: Any) -> SyncHandle[Any]:
        """Start a run; see `Engine.start`."""
        thread = self._open_thread()
        return SyncHandle(
            thread, thread.call(self._engine.start(call, *args, **options))
        )

    @overload
    def execute(self, call: WorkflowCall[R], /, **options: Any) -> R: ...
    @overload
    def execute(self, call: str, /, *args: Any, **options: Any) -> Any: ...
    def execute(self, call: Any, /, *args: Any, **options: Any) -> Any:
        """Start a run and wait for its result; see `Engine.execute`."""
        return self._open_thread().call(self._engine.execute(call, *args, **options))

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
        self,
        workflow_id: str,
        /,
        *,
        workflow: Any = None,
        run_id: str | None = None,
    ) -> SyncHandle[Any]:
        """Find a run by its workflow id; see `Engine.get`."""
        thread = self._open_thread()
        found = self._engine.get(workflow_id, workflow=workflow, run_id=run_id)
        return SyncHandle(thread, thread.call(found))

    def update_with_start(
        self, update: UpdateCall[T], call: WorkflowCall[R], /, **options: Any
    ) -> tuple[SyncHandle[R], SyncUpdateHandle[T]]:
        """Send an update, starting its run if need be; see `Engine`."""
        thread = self._open_thread()
        handle, sent = thread.call(
            self._engine.update_with_start(update, call, **options)
        )
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
        called = self._engine.call(call, update_id=update_id, timeout=timeout)
        return self._open_thread().call(called)

    def list(self, **where: Any) -> builtins.list[RunDescription]:
        """List runs, newest first; see `Engine.list`."""
        return self._open_thread().call(self._engine.list(**where))
