"""The replayer: drives one run's coroutine from its history, one turn at a time.

One way in: `Replayer.process(task)`. Recorded turns are driven again and their commands
matched; then the new turn is driven live and its commands become events. Within a turn
all events are applied first and the loop is drained once, so a cancel and a result that
arrive together are both seen.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import asyncio.tasks
import gc
import heapq
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from durable import limits
from durable.core import flags
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
        self._unprocessed: list[HistoryEvent] = []
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
            return self.failed(task, TaskFailureKind.BUG, bug.error)
        except Exception as error:  # noqa: BLE001 - a plain callback of workflow code raised
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
    def has_unprocessed(self) -> bool:
        """Whether inputs were recorded that no task has taken yet."""
        return bool(self._unprocessed)

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

        `finally` blocks do run, but on this run's own loop, and whatever they ask for
        raises; no command, timer or log can come of it.
        """
        if self._is_torn_down:
            return
        self._is_torn_down = True
        context = self._context
        if context is None:
            return
        loop = context.loop
        loop.is_torn_down = True
        rounds = limits.TEARDOWN_ROUNDS_MAX
        with _running(loop, None):
            for task in sorted(loop.tasks, key=hash):
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own switch for its warning
                    close_coroutine(task.get_coro(), rounds)
            for generator in loop.generators:
                close_async_generator(generator, rounds)
        loop.tasks.clear()
        loop.generators.clear()
        context.entries.clear()

    def __del__(self) -> None:
        if not self._is_torn_down and self._context is not None:
            self.tear_down()

    # --- catching up ------------------------------------------------------------------

    def _replay(self, history: Sequence[HistoryEvent]) -> None:
        for inputs, recorded in _turns(history, self.event_count):
            first = _first_of_task(inputs, recorded)
            if first is None:  # nobody has taken them yet; the next task does
                self._unprocessed = inputs
                self.event_count += len(inputs)
                return
            self.task_count = first.task_number
            self.flags = first.flags
            context = self._begin(inputs, first)
            context.is_replaying = True
            for event in recorded:
                patch = find_patch(event.attributes)
                if patch is not None:
                    context.recorded_patches.add(patch[0])
            self._apply([event.attributes for event in inputs])
            self.event_count += len(inputs) + len(recorded)
            if self.is_closed:
                continue
            entries = self._take_entries()
            match(entries, recorded, self._name())
            self._index(entries)
            if recorded and isinstance(recorded[-1].attributes, TERMINAL_EVENTS):
                self.is_closed = True

    def _begin(
        self, inputs: Sequence[HistoryEvent], first: HistoryEvent
    ) -> RunContext:
        if self._context is None:
            if not inputs or not isinstance(
                inputs[0].attributes, WorkflowExecutionStarted
            ):
                raise CorruptHistoryError(
                    "A history must begin with WorkflowExecutionStarted, but event"
                    f" {first.event_id} is {type(first.attributes).__name__}."
                )
            self._start(inputs[0].attributes, first.time)
        context = self._get_context()
        context.begin_task(first.time, self.event_count)
        return context

    def _start(self, started: WorkflowExecutionStarted, time: int) -> None:
        self._context = RunContext(started, self._find_code(started))
        self._context.started_at = time
        self._context.on_unhandled = self._on_unhandled

    # --- one live turn ----------------------------------------------------------------

    def _drive(self, task: WorkflowTask) -> WorkflowTaskCompletion:
        earlier = [event.attributes for event in self._unprocessed]
        events: list[Attributes] = list(task.events)
        if earlier:
            events.insert(0, WorkflowTaskStarted())
        context = self._context or self._start_live([*earlier, *events], task.now)
        time = max(task.now, context.task_time)
        events += self._due_timers(time)
        self.task_count += 1
        self.flags = flags.CURRENT
        context.is_replaying = False
        context.begin_task(time, self.event_count)
        self._unprocessed = []
        self._apply([*earlier, *events])
        if self.is_closed:  # timed out or terminated: no code ran
            return self._completion(self._place(events, time), ())
        entries = self._take_entries()
        commands = tuple([entry.command() for entry in entries])
        first_command = len(events)
        events += [event_of(command) for command in commands]
        placed = self._place(events, time)
        for entry, event in zip(entries, placed[first_command:], strict=True):
            entry.recorded(event.event_id, time, event.attributes)
        self._index(entries)
        if isinstance(events[-1], TERMINAL_EVENTS):
            self.is_closed = True
        return self._completion(placed, commands)

    def _start_live(self, inputs: Sequence[Attributes], now: int) -> RunContext:
        if not inputs or not isinstance(inputs[0], WorkflowExecutionStarted):
            raise InternalError("The first workflow task must start the run.")
        self._start(inputs[0], now)
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
            HistoryEvent(first + index, number, time, attributes, bits)
            for index, attributes in enumerate(events)
        )

    # --- applying events --------------------------------------------------------------

    def _apply(self, events: Sequence[Attributes]) -> None:
        context = self._get_context()
        with _running(context.loop, context):
            for event in events:
                self._apply_one(context, event)
            if not self.is_closed:
                context.drain()
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
            self._main = context.loop.create_task(self._run_main(context))
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
            raise WorkflowTaskError(
                f"Workflow code called sys.exit({error.code!r}).",
                hint="Return from the workflow, or raise an exception.",
            ) from error

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

    def _take_entries(self) -> list[Entry]:
        context = self._get_context()
        entries = [entry for entry in context.entries if not entry.is_withdrawn]
        context.entries = []
        return entries

    def _index(self, entries: Sequence[Entry]) -> None:
        context = self._get_context()
        for entry in entries:
            if isinstance(entry, ActivityMachine):
                context.activities[entry.scheduled_event_id] = entry
            elif isinstance(entry, TimerMachine):
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


def _is_cancellation(failure: Failure | None) -> bool:
    """Whether a failure, or what it wraps, is a cancellation."""
    while failure is not None:
        if failure.kind == "cancelled":
            return True
        if failure.kind not in ("activity", "child_workflow"):
            return False
        failure = failure.cause
    return False


def _turns(
    history: Sequence[HistoryEvent], already: int
) -> Iterator[tuple[list[HistoryEvent], list[HistoryEvent]]]:
    """Split a history into turns: the inputs and the recorded commands of each."""
    inputs: list[HistoryEvent] = []
    recorded: list[HistoryEvent] = []
    number = 0
    expected = already
    for event in history:
        expected += 1
        if event.event_id != expected:
            raise CorruptHistoryError(
                f"Event {event.event_id} stands where event {expected} must be."
            )
        if event.task_number != number:
            if number != UNPROCESSED:
                yield inputs, recorded
                inputs, recorded = [], []
            number = event.task_number
        if event.attributes.is_input:
            inputs.append(event)
        else:
            recorded.append(event)
    if inputs or recorded:
        yield inputs, recorded


def _first_of_task(
    inputs: Sequence[HistoryEvent], recorded: Sequence[HistoryEvent]
) -> HistoryEvent | None:
    """The first event that a task wrote itself; it has the task's number and time."""
    for event in inputs:
        if event.task_number != UNPROCESSED:
            return event
    return recorded[0] if recorded else None


@contextmanager
def _running(loop: Any, context: RunContext | None) -> Iterator[None]:
    """Make a run's loop the running one, with no collector and no outer task.

    The cyclic collector is off meanwhile: it could finalize coroutines of the program
    or of another run, whose `finally` blocks would then find this run's loop.
    """
    outer_loop = asyncio.events._get_running_loop()
    outer_task = _leave_task(outer_loop)
    hooks = sys.get_asyncgen_hooks()
    was_collecting = gc.isenabled()
    gc.disable()
    asyncio.events._set_running_loop(loop)
    sys.set_asyncgen_hooks(loop.keep_generator, _keep)
    try:
        yield
    except RunTornDown:
        pass
    finally:
        sys.set_asyncgen_hooks(*hooks)
        asyncio.events._set_running_loop(outer_loop)
        if outer_task is not None:
            asyncio.tasks._enter_task(outer_loop, outer_task)  # type: ignore[attr-defined]  # see _leave_task
        if was_collecting:
            gc.enable()


def _keep(_: Any) -> None:
    """Do nothing: the loop holds every started generator until the run ends."""


def _leave_task(loop: Any) -> asyncio.Task[Any] | None:
    """Leave the task that drives the turn, if any.

    From Python 3.14 the current task belongs to the thread, not to the loop, and a
    task of another loop may not begin inside of it.
    """
    if loop is None or sys.version_info < (3, 14):
        return None
    task = asyncio.current_task(loop)
    if task is not None:
        asyncio.tasks._leave_task(loop, task)  # type: ignore[attr-defined]  # private, but what asyncio's C tasks call
    return task
