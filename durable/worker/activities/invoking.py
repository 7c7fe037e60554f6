"""Calls what an attempt runs: decodes its arguments, runs it, encodes its result.

Async functions run on the loop, plain ones in threads; a coroutine that a plain one
gives, because it wraps an async one, runs on the loop. What the library brings along
itself takes payloads and gives a payload.

Only what the function itself raises is the attempt's failure. Arguments that do not fit
it are found before its first line, a result that cannot be recorded after its last one:
both are bugs, and no further attempt would mend them.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from durable.api.activities.activity import Activity
from durable.api.activities.activity_context import (
    CURRENT,
    ActivityContext,
    ActivityInfo,
)
from durable.core.history.payload import Payload
from durable.errors import ApplicationError, DurableError
from durable.observer import WorkerObserver
from durable.store.records import ReleaseRuns
from durable.store.store import Store
from durable.worker.activities import observing
from durable.worker.activities.activity_code import BuiltIn, Code, EngineParts
from durable.worker.activities.activity_threads import ActivityThreads, NotBegunError
from durable.worker.activities.calls import Call


class UnfitArgumentsError(Exception):
    """The recorded arguments do not fit the function: it was not called."""

    def __init__(self, activity: Activity[Any, Any], problem: Exception) -> None:
        super().__init__(str(problem))
        self.activity = activity
        self.problem = problem


class UnfitResultError(Exception):
    """The function has returned what cannot be recorded as it is."""

    def __init__(
        self, activity: Activity[Any, Any], problem: Exception, value: object
    ) -> None:
        super().__init__(str(problem))
        self.activity = activity
        self.problem = problem
        self.value = value


class Invoker:
    """Calls the code of attempts.

    Args:
        store: says whether the runs are still this worker's.
        parts: what the engine hands to its activities.
        observer: watches each call, if there is one.
    """

    def __init__(
        self, store: Store, parts: EngineParts, observer: WorkerObserver | None
    ) -> None:
        self._store = store
        self._parts = parts
        self._observer = observer
        self._threads: ActivityThreads | None = None

    def call(
        self, call: Call, code: Code, on_thread_end: Callable[[Call], None]
    ) -> Coroutine[Any, Any, Payload]:
        """Run an attempt in this task; raise what its code raises.

        `on_thread_end` is called once a thread that ran it is free, perhaps much later.

        Raises:
            UnfitArgumentsError: the function was not called.
            UnfitResultError: the function has returned.
            NotBegunError: it was not called: there was no thread for it, or the lease
                is gone.
        """
        attempt = call.attempt
        started, scheduled = attempt.run.started, attempt.scheduled
        info = ActivityInfo(
            activity_type=scheduled.activity_type,
            activity_id=scheduled.activity_id,
            attempt=attempt.attempt,
            workflow_type=started.workflow_type,
            workflow_id=started.workflow_id,
            run_id=started.run_id,
            scheduled_at=attempt.scheduled_at,
            started_at=call.started_at,
            start_to_close_timeout=scheduled.settings.start_to_close_timeout,
        )
        parts, observer = self._parts, self._observer
        call.context = ActivityContext(info, parts.engine, parts.resources, observer)
        CURRENT.set(call.context)
        called = self._call(call, code, info, on_thread_end)
        return called if observer is None else self._observed(call, info, called)

    async def _observed(
        self, call: Call, info: ActivityInfo, called: Coroutine[Any, Any, Payload]
    ) -> Payload:
        attempt, observer = call.attempt, self._observer
        assert observer is not None  # noqa: S101 - by the caller
        with observer.running_activity(
            activity_type=info.activity_type,
            activity_id=info.activity_id,
            attempt=info.attempt,
            workflow_type=info.workflow_type,
            workflow_id=info.workflow_id,
            run_id=info.run_id,
            waited=observing.attempt_waited(call),
            headers=attempt.headers,
            run_headers=attempt.run.headers,
        ):
            return await called

    async def _call(
        self,
        call: Call,
        code: Code,
        info: ActivityInfo,
        on_thread_end: Callable[[Call], None],
    ) -> Payload:
        if not self._store.holds_lease():
            await self._confirm_lease()
        input = call.attempt.scheduled.input
        if isinstance(code, BuiltIn):
            return await code.perform(input, info)
        signature = code.call_signature
        try:
            args, kwargs = signature.unbind(signature.decode(input))
            function = code.function
            if code.resources:
                function = code.supply(kwargs, self._parts.resources)
        except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
            raise UnfitArgumentsError(code, error) from None
        if code.is_async:
            result = function(*args, **kwargs)
        else:
            result = await self._call_in_thread(
                call, function, (args, kwargs), on_thread_end
            )
        # Else it may be a plain function around an async one.
        if code.is_async or inspect.isawaitable(result):
            try:
                result = await result
            except (SystemExit, GeneratorExit) as error:
                if isinstance(error, GeneratorExit) and _is_being_closed():
                    raise
                # Leaving the program is a failure like others.
                raise exit_error(error) from None
        try:
            return signature.encode_result(result)
        except Exception as error:  # noqa: BLE001 - a value's own code may raise anything
            raise UnfitResultError(code, error, result) from None

    async def _confirm_lease(self) -> None:
        """Find out whether the run is still this worker's, before it has an effect.

        A process that was stopped goes on where it was, and does not know yet that its
        lease has ended, or that another worker has begun what it is about to begin.

        Raises:
            NotBegunError: it is not, or that cannot be told.
        """
        try:
            await self._store.perform(ReleaseRuns(run_ids=()))
        except DurableError as error:
            raise NotBegunError(str(error)) from None

    async def _call_in_thread(
        self,
        call: Call,
        function: Callable[..., Any],
        input: tuple[list[Any], dict[str, Any]],
        on_thread_end: Callable[[Call], None],
    ) -> Any:
        if self._threads is None:
            self._threads = ActivityThreads()
        context = contextvars.copy_context()

        is_held = self._store.holds_lease()

        def work() -> Any:
            if is_held and not self._store.holds_lease():  # since it awaits its thread
                raise NotBegunError("the lease of its worker may have ended")
            return context.run(_call_plain, function, *input)

        end = partial(on_thread_end, call)
        call.work, outcome = self._threads.call(work, end)
        return await outcome

    def close(self) -> None:
        """Begin no function any more; those that run are left alone."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)


def _is_being_closed() -> bool:
    """Whether this coroutine is thrown away, and not driven by its task."""
    try:
        return asyncio.current_task() is None
    except RuntimeError:  # no loop runs in this thread
        return True


def exit_error(error: BaseException) -> ApplicationError:
    """What sys.exit() and its like in an activity mean: that attempt has failed.

    The exception itself would end the process, or whatever workflow awaits it.
    """
    name = type(error).__name__
    failure: ApplicationError
    if isinstance(error, SystemExit):
        code = error.code
        kept = code if code is None or isinstance(code, int | str) else str(code)
        failure = ApplicationError(f"sys.exit({code!r})", kept, type=name)
    else:
        failure = ApplicationError(str(error) or f"raised {name}", type=name)
    return failure.with_traceback(error.__traceback__)


def _call_plain(
    function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> Any:
    try:
        return function(*args, **kwargs)
    except StopIteration as error:
        # A future cannot carry StopIteration; neither can a coroutine (PEP 479).
        raise RuntimeError("activity raised StopIteration") from error
    except (SystemExit, GeneratorExit, KeyboardInterrupt) as error:
        # Ctrl-C reaches the main thread only, so this is the function's own doing.
        raise exit_error(error) from None
