"""The same for code without an event loop."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from durable.api.activities.activity import Activity
from durable.errors import EngineClosedError
from durable.loop_thread import LoopThread
from durable.worker.standalone.executor import (
    ActivityAttempt,
    ActivityExecution,
    ActivityExecutor,
)

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class SyncActivityExecution(Generic[R_co]):
    """An `ActivityExecution`, for code without an event loop."""

    def __init__(self, thread: LoopThread, execution: ActivityExecution[R_co]) -> None:
        self._thread, self._execution = thread, execution
        self.activity_type = execution.activity_type
        self.activity_id = execution.activity_id

    @property
    def attempts(self) -> list[ActivityAttempt]:
        """Those that have ended."""
        return [*self._execution.attempts]

    def result(self) -> R_co:
        """Wait for it; see `ActivityExecution.result`.

        Raises:
            concurrent.futures.CancelledError: it was cancelled.
        """
        return self._thread.call(self._execution.result())

    def cancel(self) -> None:
        """Ask it to stop; see `ActivityExecution.cancel`."""
        self._execution.cancel()

    def __repr__(self) -> str:
        return repr(self._execution)


class SyncActivityExecutor:
    """An executor for code without an event loop; takes what `ActivityExecutor` takes.

    with SyncActivityExecutor(charge) as executor:
        receipt = executor.execute(charge, order)
    """

    def __init__(self, *definitions: object, **options: Any) -> None:
        """See `ActivityExecutor`."""
        self._executor = ActivityExecutor(*definitions, **options)
        self._thread: LoopThread | None = None
        self.register = self._executor.register

    @property
    def attempts(self) -> list[ActivityAttempt]:
        """Those that have ended, the newest 1,000."""
        return [*self._executor.attempts]

    def __enter__(self) -> Self:
        """Begin, on an event loop in a thread of its own."""
        thread = LoopThread()
        thread.call(self._executor.__aenter__())
        self._thread = thread
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.call(self._executor.__aexit__(None, None, None))
            finally:
                thread.stop()

    def _open_thread(self) -> LoopThread:
        if self._thread is None:
            raise EngineClosedError(
                "This executor is not open.",
                hint="Use it within `with SyncActivityExecutor(...)`.",
            )
        return self._thread

    @overload
    def start(
        self, activity: Activity[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> SyncActivityExecution[R]: ...
    @overload
    def start(
        self, activity: str, /, *args: Any, **kwargs: Any
    ) -> SyncActivityExecution[Any]: ...
    def start(
        self, activity: Any, /, *args: Any, **kwargs: Any
    ) -> SyncActivityExecution[Any]:
        """Begin to run an activity; see `ActivityExecutor.start`."""
        thread = self._open_thread()
        begun = thread.call(self._executor.start(activity, *args, **kwargs))
        return SyncActivityExecution(thread, begun)

    @overload
    def execute(
        self, activity: Activity[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    def execute(self, activity: str, /, *args: Any, **kwargs: Any) -> Any: ...
    def execute(self, activity: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run an activity, and wait for its result; Ctrl-C cancels it."""
        thread = self._open_thread()
        return thread.call(self._executor.execute(activity, *args, **kwargs))
