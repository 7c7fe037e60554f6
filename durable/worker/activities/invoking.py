"""Calls what an attempt runs: decodes its arguments, runs it, encodes its result.

Async functions run on the loop, plain ones in threads or processes; a coroutine that a
plain one in a thread gives, because it wraps an async one, runs on the loop. What the
library brings along itself takes payloads and gives a payload.

Only what the function itself raises is the attempt's failure. Arguments that do not fit
it are found before its first line, a result that cannot be recorded after its last one:
both are bugs, and no further attempt would mend them.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any, Final

from durable.api.activities.activity import Activity
from durable.api.activities.activity_context import (
    CURRENT,
    ActivityContext,
    ActivityInfo,
)
from durable.api.activities.effects import Done, NotDone
from durable.api.activities.interruption import Interruption
from durable.api.activities.worker_stopping import WorkerStopping
from durable.api.interceptors.interceptor import ExecuteActivityInput
from durable.converter.failures import exception_of
from durable.core.history.payload import Payload, Payloads
from durable.core.machines.retry import OUTCOME_UNKNOWN
from durable.errors import DefinitionError, DurableError, PayloadError
from durable.observer import Measurement, WorkerObserver
from durable.runs.live_run import Attempt
from durable.store.records import ReleaseRuns
from durable.store.store import Store
from durable.worker.activities import observing
from durable.worker.activities.activity_code import (
    BuiltIn,
    Code,
    EngineParts,
    Transactions,
)
from durable.worker.activities.activity_threads import ActivityThreads, NotBegunError
from durable.worker.activities.calls import Call
from durable.worker.activities.plain_calls import call_plain, exit_error, keep_result
from durable.worker.activities.processes import carrying, messages
from durable.worker.activities.processes.pool import ActivityProcesses, ProcessCall
from durable.worker.activities.transactions.transacting import (
    CommitInDoubtError,
    UnfitOutcomeError,
    Work,
    in_thread,
    is_committed,
    on_loop,
    uninterrupted,
)

_log: Final = logging.getLogger("durable.worker")


class UnfitArgumentsError(Exception):
    """The recorded arguments do not fit the function: it was not called."""

    def __init__(self, activity: Activity[Any, Any], problem: BaseException) -> None:
        super().__init__(str(problem))
        self.activity = activity
        self.problem = problem


class UnfitResultError(Exception):
    """The function has returned what cannot be recorded as it is."""

    def __init__(
        self,
        activity: Activity[Any, Any],
        problem: BaseException,
        kept: Payload | None,
    ) -> None:
        super().__init__(str(problem))
        self.activity = activity
        self.problem = problem
        self.kept = kept


class UnverifiedError(Exception):
    """Nobody knows yet what an attempt in doubt has done; its cause says why."""


# Interceptors must not make anything else of them.
_OF_THE_WORKER: Final = (
    UnfitArgumentsError,
    UnfitResultError,
    UnverifiedError,
    NotBegunError,
)


class Invoker:
    """Calls the code of attempts.

    Args:
        store: says whether the runs are still this worker's.
        parts: what the engine hands to its activities.
        observer: watches each call, if there is one.
        processes: how many of them may be there.
        on_beat: takes heartbeats, in whatever thread they come.
        hand_out: leaves an attempt to whoever has its token; likewise.

    Attributes:
        worker_stopping: tells activities that the worker closes.
    """

    def __init__(
        self,
        store: Store,
        parts: EngineParts,
        observer: WorkerObserver | None,
        processes: int,
        on_beat: Callable[[ActivityContext, Payloads], None],
        hand_out: Callable[[ActivityContext], Future[str]],
    ) -> None:
        self._store = store
        self._on_beat = on_beat
        self._hand_out = hand_out
        self._parts = parts
        self._is_within = parts.interceptors.have("execute_activity")
        self._observer = observer
        self._threads: ActivityThreads | None = None
        self._process_count = processes
        self._processes: ActivityProcesses | None = None
        self.worker_stopping = WorkerStopping()
        self._transactions: Transactions | None = None

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
            UnverifiedError: it was not called, as the attempt before is in doubt; its
                cause says why that could not be told.
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
            task_queue=scheduled.settings.task_queue or started.task_queue,
            settings=scheduled.settings,
            heartbeats=attempt.details,
            run_headers=started.headers,
            own_headers=scheduled.headers,
        )
        parts, observer = self._parts, self._observer
        call.context = ActivityContext(
            *(info, parts.engine, parts.resources, observer, self.worker_stopping),
            beat=self._on_beat,
            attempt=attempt,
            hand_out=self._hand_out,
        )
        CURRENT.set(call.context)
        if self._is_within and not isinstance(code, BuiltIn):
            called = self._call_within(call, code, info, on_thread_end)
        else:
            called = self._call(call, code, info, scheduled.input, on_thread_end)
        if is_to_verify(attempt):
            called = self._keep_doubt(call, called)
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

    async def _call_within(
        self,
        call: Call,
        code: Activity[Any, Any],
        info: ActivityInfo,
        on_thread_end: Callable[[Call], None],
    ) -> Payload:
        """Run an attempt within interceptors: what they raise is its failure.

        What the function never saw, or the worker has to know, passes them untouched;
        so does a result that is committed already.
        """
        signature, input = code.call_signature, call.attempt.scheduled.input
        own_problem: BaseException | None = None
        committed: Payload | None = None

        async def run(given: ExecuteActivityInput) -> Any:
            nonlocal own_problem, committed
            values = signature.bind((*given.args,), given.kwargs)
            payloads = signature.encode(values)
            try:
                result = await self._call(call, code, info, payloads, on_thread_end)
            except _OF_THE_WORKER as problem:
                own_problem = problem
                raise
            if code.transaction is not None:
                committed = result
            return signature.decode_result(result)

        try:
            args, kwargs = signature.unbind(signature.decode(input))
        except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
            raise UnfitArgumentsError(code, error) from None
        execute = self._parts.interceptors.around("execute_activity", run)
        try:
            result = await execute(
                ExecuteActivityInput(
                    info=info, args=[*args], kwargs=kwargs, headers=info.headers
                )
            )
        except BaseException as error:
            if committed is not None:
                _log.warning(
                    "An interceptor of activity %r of run %r failed after its"
                    " transaction was committed: %r",
                    info.activity_type,
                    info.workflow_id,
                    error,
                )
                return committed
            if own_problem is not None:
                raise own_problem from None
            raise
        return committed or signature.encode_result(result)

    async def _call(
        self,
        call: Call,
        code: Code,
        info: ActivityInfo,
        input: Payloads,
        on_thread_end: Callable[[Call], None],
    ) -> Payload:
        if not self._store.holds_lease():
            await self._confirm_lease()
        if isinstance(code, BuiltIn):
            return await code.perform(input, info)
        if is_to_verify(call.attempt):
            done = await self._verify(code, input)
            if done is not None:
                return done
            call.is_verified = True
        if code.lane == "process":
            return await self._call_in_process(call, code, info, input, on_thread_end)
        signature = code.call_signature
        if code.transaction is not None:
            return await self._call_in_transaction(call, code, input, on_thread_end)
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
            run = partial(self._interruptible(call), function, args, kwargs)
            result = await self._call_in_thread(call, run, on_thread_end)
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
            kept = keep_result(signature, result)
            raise UnfitResultError(code, error, kept) from None

    async def _keep_doubt(
        self, call: Call, called: Coroutine[Any, Any, Payload]
    ) -> Payload:
        """Let nothing that fails before the verdict be followed by the function."""
        try:
            return await called
        except (*_OF_THE_WORKER, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            is_asked = call.is_stopping or call.is_cut_short or call.attempt.is_over
            if call.is_verified or (
                is_asked and isinstance(error, asyncio.CancelledError)
            ):
                raise
            doubt = call.attempt.last_failure
            assert doubt is not None  # noqa: S101 - by the caller
            raise UnverifiedError(doubt.message) from error

    async def _verify(
        self, code: Activity[Any, Any], input: Payloads
    ) -> Payload | None:
        """Ask an activity's own code what the attempt before, in doubt, has done.

        Returns:
            The result, if it has had its effect; None if the function is to run.

        Raises:
            UnfitResultError, UnfitArgumentsError: as `call`.
            Exception: that cannot be told now.
        """
        signature = code.call_signature
        try:
            args, kwargs = signature.unbind(signature.decode(input))
        except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
            raise UnfitArgumentsError(code, error) from None
        verify = code.verify_with(self._parts.resources)
        found: Any = (
            verify(*args, **kwargs)
            if inspect.iscoroutinefunction(verify)
            else await asyncio.to_thread(verify, *args, **kwargs)
        )
        found = await found if inspect.isawaitable(found) else found
        verdict: object = found
        if isinstance(verdict, NotDone):
            return None
        if not isinstance(verdict, Done):
            raise DefinitionError(
                f"verify of activity {code.name!r} has returned {verdict!r:.200}.",
                hint="Return Done(result) or NotDone(), or raise what keeps it from"
                " telling.",
            )
        result: Any = found.result
        try:
            return signature.encode_result(result)
        except Exception as error:  # noqa: BLE001 - a value's own code may raise anything
            kept = keep_result(signature, result)
            raise UnfitResultError(code, error, kept) from None

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

    async def _call_in_transaction(
        self,
        call: Call,
        code: Activity[Any, Any],
        input: Payloads,
        on_thread_end: Callable[[Call], None],
    ) -> Payload:
        """Run a function in the transaction that its outcome is committed with."""
        signature, resources = code.call_signature, self._parts.resources
        try:
            args, kwargs = signature.unbind(signature.decode(input))
        except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
            raise UnfitArgumentsError(code, error) from None
        if self._transactions is None:
            assert self._parts.transactions is not None  # noqa: S101 - engines do
            self._transactions = self._parts.transactions()
        work = Work(call, code, self._transactions, args, kwargs, resources)
        try:
            if code.is_async:
                return await on_loop(work)
            loop, plainly = asyncio.get_running_loop(), self._interruptible(call)
            run = partial(in_thread, work, loop, plainly)
            payload: Payload = await self._call_in_thread(call, run, on_thread_end)
        except UnfitOutcomeError as error:
            # All is rolled back: it is as if it had not been called.
            raise UnfitArgumentsError(code, error.__cause__ or error) from None
        except CommitInDoubtError as error:
            if await uninterrupted(is_committed(self._store, call)):
                return error.payload
            call.is_committing = False
            raise (error.__cause__ or error) from None
        except (SystemExit, GeneratorExit) as error:
            if isinstance(error, GeneratorExit) and _is_being_closed():
                raise
            raise exit_error(error) from None
        return payload

    @staticmethod
    def _interruptible(call: Call) -> Callable[..., Any]:
        """What calls a plain function, so that it can be asked to stop if it may be."""
        interruption, code, context = None, call.code, call.context
        if context is not None and isinstance(code, Activity):
            interruption = Interruption() if code.runs_as.cancel_thread else None
            context.interruption = interruption
        return partial(call_plain, interruption)

    async def _call_in_thread(
        self, call: Call, run: Callable[[], Any], on_thread_end: Callable[[Call], None]
    ) -> Any:
        if self._threads is None:
            self._threads = ActivityThreads()
        context = contextvars.copy_context()
        interruption = None if call.context is None else call.context.interruption
        is_held = self._store.holds_lease()

        def work() -> Any:
            if is_held and not self._store.holds_lease():  # since it awaits its thread
                raise NotBegunError("the lease of its worker may have ended")
            return context.run(run)

        end = partial(on_thread_end, call)
        call.work, outcome = self._threads.call(work, end, interruption)
        return await outcome

    async def _call_in_process(
        self,
        call: Call,
        code: Activity[Any, Any],
        info: ActivityInfo,
        input: Payloads,
        on_end: Callable[[Call], None],
    ) -> Payload:
        if self._processes is None:
            self._processes = ActivityProcesses(self._process_count)
            if self.worker_stopping.has_begun:
                self._processes.worker_stops()
        attempt = f"(id {info.activity_id}, attempt {info.attempt})"
        call.work = work = ProcessCall(
            f"{info.activity_type!r} {attempt} of run {info.workflow_id!r}",
            partial(self._make_job, code, info, input),
            partial(on_end, call),
            partial(self._measured, info),
            partial(self._on_beat, call.context),  # type: ignore[arg-type]  # set by `call`
        )
        outcome = await self._processes.call(work)
        if isinstance(outcome, messages.Returned):
            return outcome.result
        if isinstance(outcome, messages.Raised):
            # It is that failure again when it is recorded.
            raise exception_of(outcome.failure)
        if isinstance(outcome, messages.Stopped):
            raise asyncio.CancelledError
        if isinstance(outcome, messages.NotBegun):
            raise NotBegunError("the lease of its worker may have ended")
        problem = exception_of(outcome.problem)
        if isinstance(outcome, messages.UnfitArguments):
            raise UnfitArgumentsError(code, problem)
        raise UnfitResultError(code, problem, outcome.kept)

    def _make_job(
        self, code: Activity[Any, Any], info: ActivityInfo, input: Payloads, number: int
    ) -> messages.Job:
        module, function = carrying.home_of(code), None
        if module is None:
            try:
                function = carrying.pack_function(code)
            except Exception as error:  # noqa: BLE001 - what it refers to may raise anything
                problem = PayloadError(
                    "its function cannot be sent to a process, as it refers to what"
                    f" cannot be pickled ({type(error).__name__}: {error}).",
                    hint="Define it in a module that can be imported, and open what it"
                    " needs within the function.",
                )
                raise UnfitArgumentsError(code, problem) from None
        left = self._store.lease_seconds()
        return messages.Job(
            number=number,
            info=info,
            name=code.name,
            module=module,
            code=function,
            input=input,
            cancel_thread=code.runs_as.cancel_thread,
            begin_by=time.monotonic() + left if left > 0 else None,
            levels=_log_levels(),
            is_measured=self._observer is not None,
        )

    def _measured(self, info: ActivityInfo, measurement: Measurement) -> None:
        if self._observer is not None:
            self._observer.measured(
                measurement,
                workflow_type=info.workflow_type,
                activity_type=info.activity_type,
            )

    @property
    def processes(self) -> tuple[int, int]:
        """How many there are, and how many were lost; any thread may ask."""
        found = self._processes
        return (0, 0) if found is None else (found.alive, found.lost)

    def worker_stops(self) -> None:
        """Tell all activities that the worker closes."""
        self.worker_stopping.begin()
        if self._processes is not None:
            self._processes.worker_stops()

    async def close(self) -> None:
        """Begin no function any more; threads are left alone, and processes are not."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        if self._processes is not None:
            await self._processes.close()

    def abandon(self) -> None:
        """Leave no process behind; nothing is waited for."""
        if self._processes is not None:
            self._processes.abandon()


def is_to_verify(attempt: Attempt) -> bool:
    """Whether the attempt before is in doubt, and code was to say what it has done."""
    last = attempt.last_failure
    return (
        last is not None
        and last.kind == OUTCOME_UNKNOWN
        and attempt.scheduled.settings.is_verified
    )


def _log_levels() -> dict[str, int]:
    """The levels that somebody has set, by logger."""
    levels = {"": logging.getLogger().level}
    for name, logger in [*logging.root.manager.loggerDict.items()]:
        if isinstance(logger, logging.Logger) and logger.level:
            levels[name] = logger.level
    return levels


def _is_being_closed() -> bool:
    """Whether this coroutine is thrown away, and not driven by its task."""
    try:
        return asyncio.current_task() is None
    except RuntimeError:  # no loop runs in this thread
        return True
