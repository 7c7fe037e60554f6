"""The replayer: drives one run's coroutine from its history, one turn at a time.

One way in: `Replayer.process(task)`. Recorded turns are driven again and their commands
matched; then the new turn is driven live and its commands become events. Within a turn
all events are applied first and the loop is drained once, so a cancel and a result that
arrive together are both seen.
"""

from __future__ import annotations

import asyncio
import asyncio.tasks
import contextvars
import heapq
from collections.abc import Callable, Sequence
from typing import Any

from durable import limits
from durable.core import flags, turn
from durable.core.commands import (
    CancelWorkflowExecution,
    CompleteWorkflowExecution,
    FailWorkflowExecution,
)
from durable.core.context import RunContext
from durable.core.events import (
    ACTIVITY_OUTCOMES,
    TERMINAL_EVENTS,
    UNPROCESSED,
    Attributes,
    HistoryEvent,
    MarkerRecorded,
    TimerCanceled,
    TimerFired,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionStarted,
    WorkflowTaskStarted,
    event_of,
)
from durable.core.machines.activity import ActivityMachine
from durable.core.machines.machine import Entry, State
from durable.core.machines.marker import find_patch
from durable.core.machines.run import ClosingCommand, ClosingEntry
from durable.core.machines.timer import TimerMachine
from durable.core.matcher import match
from durable.core.payload import Failure, Payload
from durable.core.runtime import WorkflowCode
from durable.core.teardown import (
    RunTornDown,
    close_async_generator,
    close_coroutine,
)
from durable.core.workflow_task import (
    TaskFailureKind,
    WorkflowTask,
    WorkflowTaskCompletion,
    WorkflowTaskFailure,
)
from durable.errors import (
    CorruptHistoryError,
    InternalError,
    NondeterminismError,
    WorkflowBlockedError,
    WorkflowTaskError,
)


class Replayer:
    """One run, held at the end of its last turn.

    Args:
        code: the workflow's code, as payloads in and payloads out. It is asked for by
            the run's first event, so one callable serves all workflow types.
        on_unhandled: receives what asyncio would log for live code.

    A replayer whose completion carried a failure, or whose completion was not stored,
    is spent: tear it down and make a new one.
    """

    __slots__ = (
        "_context",
        "_find_code",
        "_has_begun",
        "_is_cancel_requested",
        "_is_torn_down",
        "_main",
        "_on_unhandled",
        "_unprocessed",
        "event_count",
        "flags",
        "is_closed",
        "task_count",
    )

    def __init__(
        self,
        code: Callable[[WorkflowExecutionStarted], WorkflowCode],
        *,
        on_unhandled: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._find_code = code
        self._on_unhandled = on_unhandled
        self._context: RunContext | None = None
        self._main: asyncio.Task[Payload] | None = None
        self._has_begun = False
        self._is_cancel_requested = False
        self._is_torn_down = False
        self._unprocessed: Sequence[HistoryEvent] = ()
        self.is_closed = False
        self.event_count = 0
        self.task_count = 0
        self.flags = flags.CURRENT

    # --- the one way in ---------------------------------------------------------------

    def process(self, task: WorkflowTask) -> WorkflowTaskCompletion:
        """Catch up with `task.history`, then drive one turn with `task.events`.

        Never raises for what workflow code does: that is the completion's `failure`.
        KeyboardInterrupt passes through and leaves the replayer spent.

        Raises:
            InternalError: the run is closed, torn down, or the task is malformed.
        """
        if self._is_torn_down:
            raise InternalError("This replayer was torn down.")
        try:
            if task.history:
                self._replay(task.history)
            if task.is_replay_only:
                return self._completion((), ())
            if self.is_closed:
                raise InternalError("A closed run was given another workflow task.")
            return self._drive(task)
        except WorkflowBlockedError as error:
            return self.failed(task, TaskFailureKind.BLOCKED, error)
        except NondeterminismError as error:
            return self.failed(task, TaskFailureKind.NONDETERMINISM, error)
        except InternalError:
            raise
        except _BugError as bug:
            is_blocked = isinstance(bug.error, WorkflowBlockedError)
            kind = TaskFailureKind.BLOCKED if is_blocked else TaskFailureKind.BUG
            return self.failed(task, kind, bug.error)
        except SystemExit as error:
            return self.failed(task, TaskFailureKind.BUG, _exit_error(error))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a plain callback of workflow code raised
            return self.failed(task, TaskFailureKind.BUG, error)

    def failed(
        self, task: WorkflowTask, kind: TaskFailureKind, error: BaseException
    ) -> WorkflowTaskCompletion:
        """Fail a turn: its inputs are kept for the next one, nothing else is."""
        context = self._context
        failure = (
            Failure(message=str(error), type=type(error).__name__)
            if context is None
            else context.code.failure_of(error)
        )
        known = task.history[-1].event_id if task.history else 0
        self.event_count = max(known, self.event_count)
        return WorkflowTaskCompletion(
            task_number=self.task_count,
            events=self.unprocessed_events(task.now, task.events),
            failure=WorkflowTaskFailure(kind=kind, failure=failure, error=error),
        )

    def unprocessed_events(
        self, now: int, inputs: Sequence[Attributes]
    ) -> tuple[HistoryEvent, ...]:
        """Place inputs after the last event for a later turn to take."""
        first = self.event_count + 1
        self.event_count += len(inputs)
        return tuple(
            HistoryEvent(first + index, UNPROCESSED, now, attributes, flags.CURRENT)
            for index, attributes in enumerate(inputs)
        )

    # --- what the worker asks ---------------------------------------------------------

    @property
    def unprocessed(self) -> list[Attributes]:
        """Inputs that were recorded, but that no task has taken yet."""
        return [event.attributes for event in self._unprocessed]

    def pending_activities(self) -> list[ActivityMachine]:
        """Activities that are recorded and have no outcome, in order."""
        return [] if self._context is None else list(self._context.activities.values())

    def find_activity(self, scheduled_event_id: int) -> ActivityMachine | None:
        """The open activity of a scheduled event, if its outcome is still awaited."""
        context = self._context
        return None if context is None else context.activities.get(scheduled_event_id)

    def next_timer_at(self) -> int | None:
        """When the earliest timer is due."""
        context = self._context
        if context is None:
            return None
        heap, timers = context.timer_heap, context.timers
        while heap:
            due_at, event_id = heap[0]
            if event_id in timers:
                return due_at
            heapq.heappop(heap)
        return None

    def has_due_timer(self, now: int) -> bool:
        """Whether any timer is due."""
        due_at = self.next_timer_at()
        return due_at is not None and due_at <= now

    def tear_down(self) -> None:
        """Close the run's coroutines so that nothing of it ever runs again. Idempotent.

        `finally` blocks do run, but on this run's own loop, and whatever they wait for
        never comes; no command, timer or log can come of it.
        """
        if self._is_torn_down:
            return
        self._is_torn_down = True
        context = self._context
        if context is None:
            return
        loop = context.loop
        loop.drop_done_tasks()  # while what they report is still heard
        loop.is_torn_down = True
        open_tasks = list(loop.tasks)
        if open_tasks or loop.generators:
            outer = turn.enter(loop)
            try:
                # Cleanup code may use asyncio.timeout(), which asks for the task.
                is_driven = asyncio.current_task(loop) is not None
                if self._main is not None and not is_driven:
                    asyncio.tasks._enter_task(loop, self._main)
                for task in open_tasks:
                    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own switch for its warning
                    close_coroutine(task.get_coro(), limits.TEARDOWN_ROUNDS_MAX)
                for generator in loop.generators or ():
                    close_async_generator(generator, limits.TEARDOWN_ROUNDS_MAX)
                if self._main is not None and not is_driven:
                    asyncio.tasks._leave_task(loop, self._main)
            finally:
                turn.leave(outer)
        loop.tasks.clear()
        loop.generators = None
        context.entries.clear()

    def __del__(self) -> None:
        if not self._is_torn_down and self._context is not None:
            self.tear_down()

    # --- catching up ------------------------------------------------------------------

    def _replay(self, history: Sequence[HistoryEvent]) -> None:
        """Drive recorded turns again. One thread-wide entry serves them all."""
        if self._context is None:
            self._begin_recorded(history)
        context = self._get_context()
        context.is_replaying = True
        outer = turn.enter(context.loop)
        try:
            position = 0
            while position < len(history):
                position = self._replay_turn(context, history, position)
            context.loop.drop_done_tasks()  # unheard errors were reported live
        finally:
            turn.leave(outer)

    def _begin_recorded(self, history: Sequence[HistoryEvent]) -> None:
        first = history[0]
        if not isinstance(first.attributes, WorkflowExecutionStarted):
            raise CorruptHistoryError(
                "A history must begin with WorkflowExecutionStarted, but event"
                f" {first.event_id} is {type(first.attributes).__name__}."
            )
        self._start(first.attributes)

    def _replay_turn(
        self, context: RunContext, history: Sequence[HistoryEvent], position: int
    ) -> int:
        """Drive the turn that begins at `position`; return where the next begins."""
        inputs: list[Attributes] = []
        recorded: list[HistoryEvent] = []
        begun: HistoryEvent | None = None
        known, count = self.event_count, len(history)
        start = position
        while position < count:
            event = history[position]
            if event.event_id != known + position - start + 1:
                raise CorruptHistoryError(
                    f"Event {event.event_id} stands where event"
                    f" {known + position - start + 1} must be."
                )
            if begun is None:
                if event.task_number != UNPROCESSED:
                    begun = event
            elif event.task_number != begun.task_number:
                break
            attributes = event.attributes
            if attributes.is_input:
                inputs.append(attributes)
            else:
                recorded.append(event)
                if type(attributes) is MarkerRecorded:
                    self._note_patch(context, attributes)
            position += 1
        if begun is None:  # nobody has taken them yet; the next task does
            self._unprocessed = list(history[start:])
            self.event_count += position - start
            return position
        self.task_count = begun.task_number
        self.flags = begun.flags
        context.begin_task(begun.time, begun.event_id - 1)
        self._apply(context, inputs)
        self.event_count += position - start
        if not self.is_closed:
            entries = context.take_entries()
            match(entries, recorded, self._name)
            self._index(context, entries)
            if recorded and isinstance(recorded[-1].attributes, TERMINAL_EVENTS):
                self.is_closed = True
        return position

    def _note_patch(self, context: RunContext, marker: MarkerRecorded) -> None:
        patch = find_patch(marker)
        if patch is not None:
            context.recorded_patches |= {patch[0]}

    def _start(self, started: WorkflowExecutionStarted) -> None:
        self._context = RunContext(started, self._find_code(started))
        self._context.on_unhandled = self._on_unhandled

    # --- one live turn ----------------------------------------------------------------

    def _drive(self, task: WorkflowTask) -> WorkflowTaskCompletion:
        inputs: list[Attributes] = list(task.events)
        earlier = self._unprocessed
        if earlier:
            inputs.insert(0, WorkflowTaskStarted())
        context = self._context
        if context is None:
            context = self._start_live(earlier, inputs)
        time = max(task.now, context.task_time)
        if context.timers and not isinstance(
            inputs[-1] if inputs else None, TERMINAL_EVENTS
        ):
            inputs += self._due_timers(time)
        if not inputs:
            raise InternalError("A workflow task has neither inputs nor due timers.")
        self.task_count += 1
        self.flags = flags.CURRENT
        context.is_replaying = False
        context.begin_task(time, self.event_count)
        self._unprocessed = ()
        outer = turn.enter(context.loop)
        try:
            self._apply(context, [*(event.attributes for event in earlier), *inputs])
        finally:
            turn.leave(outer)
        if self.is_closed:  # timed out or terminated: no code ran
            return self._completion(self._place(inputs, time), ())
        entries = context.take_entries()
        commands = tuple([entry.command() for entry in entries])
        placed = self._place(
            [*inputs, *[event_of(command) for command in commands]], time
        )
        for entry, event in zip(entries, placed[len(inputs) :], strict=True):
            entry.recorded(event.event_id, time, event.attributes)
        self._index(context, entries)
        if isinstance(placed[-1].attributes, TERMINAL_EVENTS):
            self.is_closed = True
        return self._completion(placed, commands)

    def _start_live(
        self, earlier: Sequence[HistoryEvent], inputs: Sequence[Attributes]
    ) -> RunContext:
        first = earlier[0].attributes if earlier else inputs[0] if inputs else None
        if not isinstance(first, WorkflowExecutionStarted):
            raise InternalError("The first workflow task must start the run.")
        self._start(first)
        return self._get_context()

    def _due_timers(self, now: int) -> list[Attributes]:
        if not self.has_due_timer(now):
            return []
        due = [t for t in self._get_context().timers.values() if t.due_at <= now]
        due.sort(key=lambda timer: (timer.due_at, timer.started_event_id))
        return [
            TimerFired(timer_id=t.timer_id, started_event_id=t.started_event_id)
            for t in due
        ]

    def _place(
        self, events: Sequence[Attributes], time: int
    ) -> tuple[HistoryEvent, ...]:
        first = self.event_count + 1
        self.event_count += len(events)
        number, bits = self.task_count, self.flags
        return tuple(
            [
                HistoryEvent(event_id, number, time, attributes, bits)
                for event_id, attributes in enumerate(events, first)
            ]
        )

    # --- applying events --------------------------------------------------------------

    def _apply(self, context: RunContext, events: Sequence[Attributes]) -> None:
        try:
            for event in events:
                self._apply_one(context, event)
            if not self.is_closed:
                context.drain()
        except RunTornDown:
            pass
        if context.loop.is_torn_down:
            raise InternalError("A run was torn down while it was driven.")
        main = self._main
        if main is not None and main.done() and not self.is_closed:
            context.entries.append(ClosingEntry(self._closing_command(main)))

    def _apply_one(self, context: RunContext, event: Attributes) -> None:
        kind = type(event)
        if kind in _ACTIVITY_OUTCOMES:
            activity = context.activities.pop(event.scheduled_event_id, None)  # type: ignore[union-attr]  # by its kind
            if activity is not None:
                activity.resolve(event)
        elif kind is TimerFired:
            # A fire for a timer that is gone is void: its cancel was recorded first.
            timer = context.timers.pop(event.started_event_id, None)  # type: ignore[union-attr]  # by its kind
            if timer is not None:
                timer.resolve()
        elif kind is WorkflowExecutionStarted:
            # Nothing of the caller's context: a replay has another caller.
            self._main = context.loop.create_task(
                self._run_main(context), context=contextvars.Context()
            )
        elif kind is WorkflowExecutionCancelRequested:
            self._request_cancel(context, event.reason)  # type: ignore[union-attr]  # by its kind
        elif kind in TERMINAL_EVENTS:
            self.is_closed = True
        elif kind is WorkflowTaskStarted:
            pass  # only marks where the task begins
        else:
            raise CorruptHistoryError(
                f"Run {self._name()}: {kind.__name__} is no input of a workflow task."
            )

    async def _run_main(self, context: RunContext) -> Payload:
        self._has_begun = True
        if self._is_cancel_requested:
            # Accepted before the first line: the code begins, then hears of it.
            context.loop.call_soon(self._deliver_cancel)
        try:
            return await context.code.call(context.started.input)
        except SystemExit as error:
            raise _exit_error(error) from error

    def _request_cancel(self, context: RunContext, reason: str) -> None:
        if self._is_cancel_requested:
            return  # cancellation is a state: one CancelledError, whatever follows
        self._is_cancel_requested = True
        context.cancellation_reason = reason
        if self._has_begun:
            self._deliver_cancel()

    def _deliver_cancel(self) -> None:
        if self._main is not None and not self._main.done():
            self._main.cancel()

    # --- results of a turn ------------------------------------------------------------

    def _closing_command(self, main: asyncio.Task[Payload]) -> ClosingCommand:
        context = self._get_context()
        if main.cancelled():
            if self._is_cancel_requested:
                return CancelWorkflowExecution()
            return FailWorkflowExecution(
                Failure(
                    message="CancelledError left the workflow, though nobody asked it"
                    " to stop.",
                    kind="cancelled",
                    type="CancelledError",
                )
            )
        error = main.exception()
        if error is None:
            return CompleteWorkflowExecution(main.result())
        if isinstance(error, WorkflowTaskError) or context.code.is_bug(error):
            raise _BugError(error)
        failure = context.code.failure_of(error)
        if self._is_cancel_requested and _is_cancellation(failure):
            return CancelWorkflowExecution(failure)
        return FailWorkflowExecution(failure)

    def _index(self, context: RunContext, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if type(entry) is ActivityMachine:
                context.activities[entry.scheduled_event_id] = entry
            elif type(entry) is TimerMachine:
                if entry.state is State.PENDING:
                    context.timers[entry.started_event_id] = entry
                    heapq.heappush(
                        context.timer_heap, (entry.due_at, entry.started_event_id)
                    )
            elif entry.event_type is TimerCanceled:
                command = entry.command()
                context.timers.pop(command.started_event_id, None)  # type: ignore[union-attr]  # by its kind

    def _completion(
        self, events: tuple[HistoryEvent, ...], commands: tuple[Any, ...]
    ) -> WorkflowTaskCompletion:
        return WorkflowTaskCompletion(
            task_number=self.task_count,
            commands=commands,
            events=events,
            is_closed=self.is_closed,
            next_timer_at=None if self.is_closed else self.next_timer_at(),
        )

    def _get_context(self) -> RunContext:
        if self._context is None:
            raise InternalError("The run has not started.")
        return self._context

    def _name(self) -> str:
        started = self._get_context().started
        return f"{started.workflow_id!r} ({started.workflow_type}, {started.run_id})"


_ACTIVITY_OUTCOMES = frozenset(ACTIVITY_OUTCOMES)


class _BugError(Exception):
    """Carries an exception that should park the run out of the turn."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


def _exit_error(error: SystemExit) -> WorkflowTaskError:
    return WorkflowTaskError(
        f"Workflow code called sys.exit({error.code!r}).",
        hint="Return from the workflow, or raise an exception.",
    )


def _is_cancellation(failure: Failure | None) -> bool:
    """Whether a failure, or what it wraps, is a cancellation."""
    while failure is not None:
        if failure.kind == "cancelled":
            return True
        if failure.kind not in ("activity", "child_workflow"):
            return False
        failure = failure.cause
    return False
