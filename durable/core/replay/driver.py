"""Drives a run's code: applies a turn's inputs, drains the loop, judges the outcome.

Messages come first, in order of arrival, then the first line of the code, then all
other results. Everything is applied before the loop is drained, once, so a cancel and
a result that arrive together are both seen.
"""

from __future__ import annotations

import asyncio
import asyncio.tasks
import contextvars
from collections.abc import Sequence
from typing import Any, Final

from msgspec import UNSET, UnsetType

from durable import limits
from durable.core.history.commands import (
    CancelWorkflowExecution,
    Command,
    CompleteWorkflowExecution,
    ContinueAsNewWorkflowExecution,
    FailWorkflowExecution,
)
from durable.core.history.events import (
    ACTIVITY_OUTCOMES,
    CHILD_OUTCOMES,
    CLOSING,
    DELIVERY_OUTCOMES,
    CheckpointRecorded,
    ChildWorkflowExecutionStarted,
    TimerFired,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionPaused,
    WorkflowExecutionReset,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowExecutionUnpaused,
    WorkflowExecutionUpdateAccepted,
    WorkflowTaskStarted,
)
from durable.core.history.payload import (
    Failure,
    Payload,
    Payloads,
    changed_headers,
    innermost,
)
from durable.core.loop import turn
from durable.core.loop.teardown import (
    RunTornDown,
    close_async_generator,
    close_coroutine,
)
from durable.core.machines.fact import FactEntry
from durable.core.replay.context import CheckpointReached, RunContext
from durable.core.replay.next_tries import following_run_id, next_delay
from durable.core.runtime import ContinueAsNew, find_continuation
from durable.core.workflow_task import TaskInput, UpdateRequest, update_request_id
from durable.errors import (
    CorruptHistoryError,
    InternalError,
    MigrationError,
    WorkflowTaskError,
)

_FIRST: Final = frozenset(
    {
        WorkflowExecutionStarted,
        CheckpointRecorded,
        WorkflowExecutionReset,
        WorkflowExecutionSignaled,
        UpdateRequest,
        WorkflowExecutionUpdateAccepted,
    }
)
_SILENT: Final = frozenset(
    {WorkflowTaskStarted, WorkflowExecutionPaused, WorkflowExecutionUnpaused}
)
"""What says where a task begins, or why it did not; the code does not hear of it."""
_ACTIVITY_OUTCOMES: Final = frozenset(ACTIVITY_OUTCOMES)
_CHILD_OUTCOMES: Final = frozenset(CHILD_OUTCOMES)
_DELIVERY_OUTCOMES: Final = frozenset(DELIVERY_OUTCOMES)


class BugError(Exception):
    """Carries an exception that should park the run out of the turn."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class RunDriver:
    """Drives the code of one run.

    Attributes:
        context: what the code sees; a checkpoint replaces it.
        request_ids: of the messages the run has had, in order of arrival.
        is_closed: the run has its terminal event.
        has_begun: the code's first line has run.
    """

    __slots__ = (
        "_is_cancel_requested",
        "context",
        "has_begun",
        "is_closed",
        "request_ids",
    )

    def __init__(self, context: RunContext) -> None:
        self.context = context
        known = context.started.known_request_ids
        self.request_ids: dict[str, None] = (
            {} if known is UNSET else dict.fromkeys(known)
        )
        self.is_closed = False
        self.has_begun = False
        self._is_cancel_requested = False

    def begin_anew(self, checkpoint: CheckpointRecorded, event_id: int) -> None:
        """Go on from a checkpoint, with nothing but what it carries on."""
        context = self.context
        end_context(context)
        fresh = RunContext(context.started, context.code, checkpoint, event_id)
        fresh.on_unhandled = context.on_unhandled
        fresh.notes = context.notes
        if fresh.notes is not None:
            fresh.notes.span_count = 0  # as for who begins here
        fresh.is_replaying = context.is_replaying
        fresh.loop.flags = context.loop.flags
        self.context = fresh
        self.request_ids = dict.fromkeys(checkpoint.request_ids)
        self.has_begun = True
        self._is_cancel_requested = checkpoint.cancellation_reason is not None

    def checkpoint(self) -> CheckpointRecorded:
        """What the run carries on from here."""
        context = self.context
        assert context.checkpoint_input is not None  # noqa: S101 - it is why we are here
        started = context.started
        is_other = context.attributes is not started.attributes
        kept = list(self.request_ids)[-limits.REQUEST_IDS_KEPT :]
        return CheckpointRecorded(
            input=context.checkpoint_input,
            started_at=context.started_at,
            counts=context.counts(),
            unread=context.mailbox.unread(),
            cancellation_reason=context.cancellation_reason,
            request_ids=tuple(kept),
            state=context.state,
            attributes=context.attributes if is_other else None,
            memo=context.memo if context.memo is not started.memo else None,
            reset=context.reset or UNSET,
        )

    # --- a turn's inputs --------------------------------------------------------------

    def apply(self, events: Sequence[TaskInput]) -> None:
        """Apply a turn's inputs, messages first, and drain the loop once.

        Raises:
            BugError: the code must be mended before the run can go on.
        """
        context = self.context
        loop = context.loop
        try:
            for event in events:
                if type(event) in _FIRST:
                    self._apply_in_order(context, events)
                    break
            else:
                for event in events:
                    self._apply_one(context, event)
            if not self.is_closed:
                context.drain()
        except RunTornDown:
            pass
        if loop.is_torn_down:
            raise InternalError("A run was torn down while it was driven.")
        if not self.is_closed:
            self._end_turn(context)

    def _apply_in_order(self, context: RunContext, events: Sequence[TaskInput]) -> None:
        """Apply messages, then let the code begin, then apply what else there is."""
        # Remembered last, as they are live: acceptance is decided in the turn.
        accepted: list[str] = []
        begin: Payloads | None = None
        for event in events:
            kind = type(event)
            if kind is WorkflowExecutionSignaled:
                self._remember(event.request_id)  # type: ignore[union-attr]  # by its kind
                context.mailbox.signal(event)  # type: ignore[arg-type]  # by its kind
            elif kind is UpdateRequest or kind is WorkflowExecutionUpdateAccepted:
                if kind is WorkflowExecutionUpdateAccepted:
                    accepted.append(update_request_id(event.update_id))  # type: ignore[union-attr]  # by its kind
                context.mailbox.update(event)  # type: ignore[arg-type]  # by its kind
            elif kind is WorkflowExecutionReset:
                context.take_reset(event)  # type: ignore[arg-type]  # by its kind
            elif kind in _FIRST:
                begin = self._prepare(context, event)
        if begin is not None:
            # Nothing of the caller's context: a replay has another caller.
            context.main = context.loop.create_task(
                self._run_main(context, begin), context=contextvars.Context()
            )
        for event in events:
            if type(event) not in _FIRST:
                self._apply_one(context, event)
        if accepted:
            self.request_ids.update(dict.fromkeys(accepted))

    def _prepare(self, context: RunContext, event: Any) -> Payloads:
        """Let the code set its handlers, before the first message; return its input."""
        try:
            context.code.prepare(context, event.input)
        except Exception as error:
            if context.is_bug(error):
                raise
            context.ending = error
        if type(event) is CheckpointRecorded:
            context.mailbox.restore(event.unread)
        input: Payloads = event.input
        return input

    def _remember(self, request_id: str) -> None:
        if request_id:
            self.request_ids[request_id] = None

    def _apply_one(self, context: RunContext, event: Any) -> None:
        kind = event.__class__
        if kind in _ACTIVITY_OUTCOMES:
            activity = context.activities.pop(event.scheduled_event_id, None)
            if activity is not None:
                activity.resolve(event)
        elif kind is TimerFired:
            # A fire for a timer that is gone is void: its cancel was recorded first.
            timer = context.timers.pop(event.started_event_id, None)
            if timer is not None:
                timer.resolve()
        elif kind in _CHILD_OUTCOMES:
            child = context.children.pop(event.initiated_event_id, None)
            if child is not None:
                child.resolve(event)
        elif kind is ChildWorkflowExecutionStarted:
            child = context.children.get(event.initiated_event_id)
            if child is not None:
                child.begun(event)
        elif kind in _DELIVERY_OUTCOMES:
            delivery = context.deliveries.pop(event.initiated_event_id, None)
            if delivery is not None:
                delivery.resolve(event)
        elif kind is WorkflowExecutionCancelRequested:
            self._remember(event.request_id)
            self._request_cancel(context, event.reason)
        elif kind in CLOSING:
            self.is_closed = True
        elif kind in _SILENT:
            self._remember(getattr(event, "request_id", ""))
        else:
            raise CorruptHistoryError(
                f"Run {context.name}: {kind.__name__} is no input of a workflow task."
            )

    def _end_turn(self, context: RunContext) -> None:
        """Judge how far the code has come."""
        main = context.main
        if context.bug is not None:
            raise BugError(context.bug)
        if context.calls:
            try:
                context.check_calls()
            except WorkflowTaskError as error:
                raise BugError(error) from None
        if context.ending is not None:
            context.entries.append(FactEntry(self._ending_command(context.ending)))
        elif context.checkpoint_input is not None:
            self._check_checkpoint(context)
        elif main is not None and main.done():
            context.entries.append(FactEntry(self._closing_command(main)))
        else:
            return
        if context.checkpoint_input is None and not context.is_replaying:
            self._report_left(context)

    def _check_checkpoint(self, context: RunContext) -> None:
        main = context.main
        if (
            main is not None
            and main.done()
            and not main.cancelled()
            and isinstance(main.exception(), CheckpointReached)
        ):
            return
        raise BugError(
            WorkflowTaskError(
                "checkpoint() was called, but the code went on: an `except"
                " BaseException` or a `finally` that waits stands around it.",
                hint="Call checkpoint() where nothing has to be cleaned up.",
            )
        )

    def _report_left(self, context: RunContext) -> None:
        """Say which messages the run leaves behind as it ends."""
        if not context.has_mailbox:
            return
        mailbox = context.mailbox
        left = sorted(
            name
            for name, handler in mailbox.unfinished.values()
            if handler.warns_unfinished
        )
        if left:
            context.report_unhandled(
                {
                    "message": f"the run ended before its handlers of"
                    f" {', '.join(left)} had; wait for"
                    " `wait_condition(all_handlers_finished)` first"
                }
            )
        closing = context.entries[-1]
        unread = mailbox.unread()
        goes_on = getattr(closing.command(), "new_run_id", None)
        if unread and not goes_on:
            names = ", ".join(sorted({repr(signal.signal_name) for signal in unread}))
            context.report_unhandled(
                {"message": f"the run ended with signals it never received: {names}"}
            )

    async def _run_main(self, context: RunContext, input: Payloads) -> Payload:
        self.has_begun = True
        if self._is_cancel_requested:
            # Accepted before the first line: the code begins, then hears of it.
            context.loop.call_soon(self._deliver_cancel)
        try:
            return await context.code.call(input)
        except SystemExit as error:
            raise exit_error(error) from error
        except GeneratorExit:  # collected; as Python ends, even globals may be gone
            raise
        except BaseException as error:
            if find_continuation(error) is not None:
                context.is_continuing = True
            raise
        finally:
            if not context.loop.is_torn_down:
                context.has_ended = True

    def _request_cancel(self, context: RunContext, reason: str) -> None:
        if self._is_cancel_requested:
            return  # cancellation is a state: one CancelledError, whatever follows
        self._is_cancel_requested = True
        context.cancellation_reason = reason
        if self.has_begun:
            self._deliver_cancel()

    def _deliver_cancel(self) -> None:
        main = self.context.main
        if main is not None and not main.done():
            main.cancel()

    # --- how the run ends -------------------------------------------------------------

    def _closing_command(self, main: asyncio.Task[Payload]) -> Command:
        if main.cancelled():
            if self._is_cancel_requested:
                return CancelWorkflowExecution()
            return self._fail(
                Failure(
                    message="CancelledError left the workflow, though nobody asked it"
                    " to stop.",
                    # Not "cancelled": a parent's task group would swallow that.
                    kind="application",
                    type="CancelledError",
                )
            )
        error = main.exception()
        if error is None:
            return CompleteWorkflowExecution(main.result())
        return self._ending_command(error)

    def _ending_command(self, error: BaseException) -> Command:
        context = self.context
        going = find_continuation(error)
        if going is not None:
            # Its frames hold it in turn, and whatever they had.
            going.__traceback__ = None
            return _continue_command(context, going)
        if context.is_bug(error):
            raise BugError(error)
        failure = context.code.failure_of(error)
        if self._is_cancel_requested and _is_cancellation(failure):
            return CancelWorkflowExecution(failure)
        return self._fail(failure)

    def _fail(self, failure: Failure) -> Command:
        """End the run; name the next one if its chain goes on with another try."""
        context = self.context
        now, started = context.task_time, context.started
        delay = next_delay(started, failure, started_at=context.timed_from, now=now)
        if delay is None or self._is_cancel_requested:
            return FailWorkflowExecution(failure)
        return FailWorkflowExecution(failure, following_run_id(started.run_id, now))


def _continue_command(
    context: RunContext, going: ContinueAsNew
) -> ContinueAsNewWorkflowExecution:
    """The next run is like this one where the code chose nothing else."""
    started, code = context.started, context.code
    timeout = going.run_timeout
    input: Payloads = going.input
    version: str | UnsetType = going.version or UNSET
    migrated_from: str | UnsetType = UNSET
    if going.workflow_type == started.workflow_type and not version:
        if context.migration is not None:
            input, version = context.migration.input, context.migration.version
            migrated_from = context.migration.migrated_from
        elif not context.is_replaying and (newer := code.migrates_to()) is not None:
            try:
                input = code.migrate_input(input)
            except MigrationError as error:
                raise BugError(error) from None
            version, migrated_from = newer, code.own_version or UNSET
    return ContinueAsNewWorkflowExecution(
        new_run_id=following_run_id(started.run_id, context.task_time),
        workflow_type=going.workflow_type,
        input=input,
        task_queue=going.task_queue or started.task_queue,
        run_timeout=started.run_timeout if timeout is None else timeout,
        memo=started.memo if going.memo is None else going.memo,
        headers=(
            changed_headers(started.headers, going.headers)
            if going.headers
            else started.headers
        ),
        attributes=context.attributes if going.attributes is None else going.attributes,
        version=version,
        migrated_from=migrated_from,
    )


def end_context(context: RunContext) -> None:
    """Close a context's coroutines so that nothing of it ever runs again."""
    loop = context.loop
    loop.drop_done_tasks()  # while what they report is still heard
    loop.is_torn_down = True
    open_tasks = list(loop.tasks)
    if open_tasks or loop.generators:
        outer = turn.enter(loop)
        try:
            # Cleanup code may use asyncio.timeout(), which asks for the task.
            main = context.main
            is_driven = asyncio.current_task(loop) is not None
            if main is not None and not is_driven:
                asyncio.tasks._enter_task(loop, main)
            for task in open_tasks:
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own switch for its warning
                close_coroutine(task.get_coro(), limits.TEARDOWN_ROUNDS_MAX)
                _part(task)
            for generator in loop.generators or ():
                close_async_generator(generator, limits.TEARDOWN_ROUNDS_MAX)
            if main is not None and not is_driven:
                asyncio.tasks._leave_task(loop, main)
        finally:
            turn.leave(outer)
    context.close_calls()
    loop.tasks.clear()
    loop.generators = None
    context.entries.clear()
    if not loop.is_running():  # else the code that tore it down goes on for a while
        loop.part()
        context.part()


def _part(task: Any) -> None:
    """Part a task that never ends from what it waits for, and from what waits for it.

    All of them would wait for the cyclic collector.
    """
    for future in (task, task._fut_waiter):  # asyncio has no other name for it
        for callback, _ in getattr(future, "_callbacks", None) or ():
            future.remove_done_callback(callback)


def exit_error(error: SystemExit) -> WorkflowTaskError:
    """Turn sys.exit() in workflow code into a bug."""
    return WorkflowTaskError(
        f"Workflow code called sys.exit({error.code!r}).",
        hint="Return from the workflow, or raise an exception.",
    )


def _is_cancellation(failure: Failure | None) -> bool:
    """Whether a failure, or what it wraps, is a cancellation."""
    return failure is not None and innermost(failure).kind == "cancelled"
