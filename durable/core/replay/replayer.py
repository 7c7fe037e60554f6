"""The replayer: drives one run's coroutine from its history, one turn at a time.

One way in: `Replayer.process(task)`. Recorded turns are driven again and their commands
matched; then the new turn is driven live and its commands become events. Within a turn
all events are applied first and the loop is drained once, so a cancel and a result that
arrive together are both seen.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from durable.core.history import flags
from durable.core.history.commands import Command, FailWorkflowExecution
from durable.core.history.events import (
    CLOSING,
    UNPROCESSED,
    ActivityTaskCompleted,
    ActivityTaskScheduled,
    Attributes,
    CheckpointRecorded,
    HistoryEvent,
    MarkerRecorded,
    TimerFired,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionFailed,
    WorkflowExecutionStarted,
    WorkflowTaskStarted,
)
from durable.core.history.payload import Failure, Payload, Payloads
from durable.core.loop import turn
from durable.core.machines.fact import FactEntry, find_dead_letter
from durable.core.machines.machine import Entry
from durable.core.machines.marker import find_patch
from durable.core.replay.context import RunContext
from durable.core.replay.driver import BugError, RunDriver, end_context, exit_error
from durable.core.replay.matcher import match
from durable.core.replay.recorded_turns import RecordedTurn, RecordedTurns
from durable.core.replay.run_view import RunView
from durable.core.runtime import ActivityTarget, WorkflowCode
from durable.core.workflow_task import (
    TaskFailureKind,
    TaskInput,
    UpdateRequest,
    WorkflowTask,
    WorkflowTaskCompletion,
    WorkflowTaskFailure,
    update_request_id,
)
from durable.errors import (
    CorruptHistoryError,
    InternalError,
    NondeterminismError,
    WorkflowBlockedError,
)


class Replayer(RunView):
    """One run, held at the end of its last turn.

    Args:
        code: the workflow's code, as payloads in and payloads out. It is asked for by
            the run's first event, so one callable serves all workflow types.
        on_unhandled: receives what asyncio would log for live code.

    A replayer whose completion carried a failure, or whose completion was not stored,
    is spent: tear it down and make a new one.
    """

    __slots__ = (
        "_checks_arguments",
        "_find_code",
        "_is_torn_down",
        "_on_unhandled",
        "_settled_count",
        "_turns",
        "closing",
        "event_count",
        "flags",
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
        super().__init__()
        self._is_torn_down = self._checks_arguments = False
        self._turns: RecordedTurns | None = None
        self.event_count = 0
        # The events before the turn: a failed one goes back to them.
        self._settled_count = 0
        self.task_count = 0
        self.flags = flags.CURRENT
        self.closing: Command | None = None
        """What the code ended the run with, as far as it was caught up."""

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
        history = task.history
        self._settled_count = history[-1].event_id if history else self.event_count
        try:
            if history:
                self._catch_up(history)
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
        except BugError as bug:
            is_blocked = isinstance(bug.error, WorkflowBlockedError)
            kind = TaskFailureKind.BLOCKED if is_blocked else TaskFailureKind.BUG
            return self.failed(task, kind, bug.error)
        except SystemExit as error:
            return self.failed(task, TaskFailureKind.BUG, exit_error(error))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a plain callback of workflow code raised
            return self.failed(task, TaskFailureKind.BUG, error)

    def failed(
        self, task: WorkflowTask, kind: TaskFailureKind, error: BaseException
    ) -> WorkflowTaskCompletion:
        """Void the turn: its inputs are kept for the next one, nothing else is.

        However far the turn has come: also after it has placed its events.
        """
        context = self._context
        failure = (
            Failure(message=str(error), type=type(error).__name__)
            if context is None
            else context.code.failure_of(error)
        )
        self.event_count = self._settled_count
        return WorkflowTaskCompletion(
            task_number=self.task_count,
            events=self.unprocessed_events(task.now, task.events),
            failure=WorkflowTaskFailure(kind=kind, failure=failure, error=error),
        )

    def fails_on(self, error: BaseException) -> bool:
        """Whether the code says that this error, which parks others, fails its run."""
        context = self._context
        return context is not None and not context.code.is_bug(error)

    def fail_run(
        self,
        now: int,
        inputs: Sequence[TaskInput],
        history: Sequence[HistoryEvent],
        failure: Failure,
    ) -> WorkflowTaskCompletion:
        """Close a run whose code does not fit its history, as the code wants it.

        None of the code runs any more. Updates are left without an answer.
        """
        driver = self._get_driver()
        self.task_count = max(event.task_number for event in history) + 1
        self.event_count = history[-1].event_id
        self.flags = flags.of_next_task(self.flags)
        events = [event for event in inputs if not isinstance(event, UpdateRequest)]
        end = FactEntry(FailWorkflowExecution(failure))
        placed = self._place(
            [WorkflowTaskStarted(), *events],
            max(now, history[-1].time),
            driver.context,
            (end,),
        )
        driver.context.has_had_children = True  # perhaps: not all of it was read
        driver.is_closed = True
        return self._completion(placed, (end,))

    def unprocessed_events(
        self, now: int, inputs: Sequence[TaskInput]
    ) -> tuple[HistoryEvent, ...]:
        """Place inputs after the last event for a later turn to take.

        Not updates: they are no events until they are accepted. The run knows them from
        now on: a message that is sent again meanwhile must not be placed again.
        """
        events = [event for event in inputs if not isinstance(event, UpdateRequest)]
        first = self.event_count + 1
        self.event_count += len(events)
        time = self._not_before_the_last(now)
        placed = tuple(
            HistoryEvent(first + index, UNPROCESSED, time, attributes, flags.CURRENT)
            for index, attributes in enumerate(events)
        )
        self._unprocessed = (*self._unprocessed, *placed)
        return placed

    def _not_before_the_last(self, now: int) -> int:
        """Times never fall along a run, whoever's clock wrote what is there."""
        context, earlier = self._context, self._unprocessed
        if context is not None and context.task_time > now:
            now = context.task_time
        return max(now, earlier[-1].time) if earlier else now

    # --- the end of it ----------------------------------------------------------------

    def tear_down(self) -> None:
        """Close the run's coroutines so that nothing of it ever runs again. Idempotent.

        `finally` blocks do run, but on this run's own loop, and whatever they wait for
        never comes; no command, timer or log can come of it.
        """
        if self._is_torn_down:
            return
        self._is_torn_down = True
        if self._context is not None:
            end_context(self._context)

    def __del__(self) -> None:
        if not self._is_torn_down and self._context is not None:
            self.tear_down()

    # --- catching up ------------------------------------------------------------------

    def _catch_up(self, history: Sequence[HistoryEvent]) -> None:
        """Replay; once more with every argument checked, should that be what differs.

        Earlier releases did not note in which turns arguments were refused.
        """
        is_fresh = self._context is None
        try:
            self._replay(history)
        except NondeterminismError:
            if not is_fresh or self._context is None:
                raise
            end_context(self._context)
            self._driver = self._context = None
            self._unprocessed = ()
            self.event_count = self.task_count = 0
            self._checks_arguments = True
            with contextlib.suppress(NondeterminismError, BugError):
                self._replay(history)
                return
            raise

    def _replay(self, history: Sequence[HistoryEvent]) -> None:
        """Drive recorded turns again. One thread-wide entry serves them all."""
        if self._context is None:
            self._begin_recorded(history)
        position = self._position_after_gap(history)
        turns = self._turns = RecordedTurns(
            history[position:] if position else history, self.event_count
        )
        while turns.ahead is not None:
            context = self._context_at(turns.ahead[0])
            context.is_replaying = True
            context.outcome_ahead = self._outcome_ahead
            outer = turn.enter(context.loop)
            try:
                while turns.take() is not None:
                    if turns.current[0] is None:  # the next task takes them
                        left = len(turns.current[1])
                        self._unprocessed = list(history[-left:])
                        self.event_count += left
                        break
                    self._replay_turn(context, turns)
                    if context.checkpoint_input is not None:
                        break
                context.loop.drop_done_tasks()  # unheard errors were reported live
            finally:
                context.trusts_arguments = False
                context.outcome_ahead = None
                turn.leave(outer)
        self._turns = None

    def _position_after_gap(self, history: Sequence[HistoryEvent]) -> int:
        """Where to begin: after the first event if only a checkpoint follows it."""
        if self.event_count or len(history) < 2 or history[0].event_id != 1:
            return 0
        second = history[1]
        if second.event_id == 2 or type(second.attributes) is not CheckpointRecorded:
            return 0
        self.event_count = second.event_id - 1
        return 1

    def _context_at(self, event: HistoryEvent | None) -> RunContext:
        """The run's context; a new one where a checkpoint begins it anew."""
        if event is not None and type(event.attributes) is CheckpointRecorded:
            driver = self._get_driver()
            driver.begin_anew(event.attributes, event.event_id)
            self._context = driver.context
        return self._get_driver().context

    def _begin_recorded(self, history: Sequence[HistoryEvent]) -> None:
        first = history[0]
        if type(first.attributes) is not WorkflowExecutionStarted:
            raise CorruptHistoryError(
                "A history must begin with WorkflowExecutionStarted, but event"
                f" {first.event_id} is {type(first.attributes).__name__}."
            )
        self._start(first.attributes)
        self._get_driver().context.started_at = first.time

    def _replay_turn(self, context: RunContext, turns: RecordedTurns) -> None:
        """Drive a recorded turn again, and those that the code goes through with it."""
        driver = self._get_driver()
        self._begin_recorded_turn(context, turns.current)
        driver.apply(turns.current[1])
        recorded = turns.current[2]
        if context.checkpoint_follows and context.checkpoint_input is None:
            raise NondeterminismError(
                f"Run {context.name} cannot be replayed: event"
                f" {self.event_count + 1} is CheckpointRecorded, but the code takes"
                " no checkpoint there.",
                hint="Restore the code, or guard the change with patched().",
                event_id=self.event_count + 1,
                recorded="CheckpointRecorded",
                found=None,
            )
        if not driver.is_closed:
            entries = context.take_entries()
            match(context, entries, recorded)
            if recorded and type(recorded[-1].attributes) in CLOSING:
                driver.is_closed = True
                self.closing = entries[-1].command()

    def _begin_recorded_turn(self, context: RunContext, turn: RecordedTurn) -> None:
        """Let the code see the time and the flags of a recorded turn."""
        begun, inputs, recorded, following = turn
        assert begun is not None  # noqa: S101 - the others are not driven
        self.task_count = begun.task_number
        self.flags = context.loop.flags = bits = begun.flags
        context.trusts_arguments = not (
            bits & flags.Flag.ARGUMENTS_REFUSED or self._checks_arguments
        )
        context.begin_task(begun.time, begun.event_id - 1)
        self.event_count += len(inputs) + len(recorded)
        kind = None
        for event in recorded:
            kind = type(event.attributes)
            if kind is MarkerRecorded:
                self._note_marker(context, event.attributes)  # type: ignore[arg-type]  # by its kind
        context.is_failing = kind is WorkflowExecutionFailed
        if kind is WorkflowExecutionContinuedAsNew:
            ended: Any = recorded[-1].attributes
            context.migration = ended if ended.migrated_from else None
        context.checkpoint_follows = (
            following is not None and type(following.attributes) is CheckpointRecorded
        )

    def _outcome_ahead(
        self, activity_id: str, target: ActivityTarget, input: Payloads
    ) -> Payload | None:
        """Go on to the next turn at once if all that it brings is this result.

        Most turns of most histories are so: one activity is asked for, and its result
        is all that the next turn brings. The code need not be put aside in between.
        None where anything else goes on, or differs: the long way then says what.
        """
        context, turns = self._context, self._turns
        if context is None or turns is None or turns.ahead is None:
            return None
        recorded, (begun, inputs, _, _) = turns.current[2], turns.ahead
        if len(recorded) != 1 or len(inputs) != 1 or begun is None:
            return None
        event, outcome = recorded[0], inputs[0]
        scheduled = event.attributes
        if (
            type(outcome) is not ActivityTaskCompleted
            or type(scheduled) is not ActivityTaskScheduled
            or outcome.scheduled_event_id != event.event_id
            or scheduled.activity_id != activity_id
            or scheduled.activity_type != target.activity_type
            or scheduled.input != input
            or not context.is_alone
        ):
            return None
        turns.take()
        self._begin_recorded_turn(context, turns.current)
        return outcome.result

    def _note_marker(self, context: RunContext, marker: MarkerRecorded) -> None:
        patch = find_patch(marker)
        if patch is not None:
            context.recorded_patches |= {patch[0]}
            return
        letter = find_dead_letter(marker)
        if letter is not None:
            context.mailbox.dead.add(letter.number)

    def _start(self, started: WorkflowExecutionStarted) -> None:
        context = RunContext(started, self._find_code(started))
        context.on_unhandled = self._on_unhandled
        context.loop.flags = self.flags
        self._context = context
        self._driver = RunDriver(context)

    # --- one live turn ----------------------------------------------------------------

    def _drive(self, task: WorkflowTask) -> WorkflowTaskCompletion:
        inputs: Sequence[TaskInput] = task.events
        earlier = self._unprocessed
        if earlier:
            inputs = (WorkflowTaskStarted(), *inputs)
        context = self._context
        if context is None:
            context = self._start_live(earlier, inputs)
        time = self._not_before_the_last(task.now)
        if context.timers and not (inputs and type(inputs[-1]) in CLOSING):
            inputs = (*inputs, *self._due_timers(time))
        if not inputs:
            raise InternalError("A workflow task has neither inputs nor due timers.")
        refused: tuple[tuple[str, Failure], ...] = ()
        if type(inputs[0]) is UpdateRequest:
            inputs, refused = self._admit(context, inputs, time)
            if not inputs:  # nothing was decided: nothing is recorded
                return self._completion((), (), refused)
        applied = inputs
        if earlier:
            applied = [*(event.attributes for event in earlier), *inputs]
            self._unprocessed = ()
        driver = self._get_driver()
        placed, entries = self._drive_turn(driver, applied, inputs, time)
        if context.has_mailbox:
            refused += tuple(context.mailbox.rejected.items())
        checkpoint_event_id = None
        while context.checkpoint_input is not None:
            checkpoint = driver.checkpoint()
            checkpoint_event_id = self.event_count + 1
            driver.begin_anew(checkpoint, checkpoint_event_id)
            context = self._context = driver.context
            more, further = self._drive_turn(driver, [checkpoint], [checkpoint], time)
            placed += more
            entries += further
        return self._completion(placed, entries, refused, checkpoint_event_id)

    def _admit(
        self, context: RunContext, inputs: Sequence[TaskInput], time: int
    ) -> tuple[Sequence[TaskInput], tuple[tuple[str, Failure], ...]]:
        """Ask validators first, if a turn would be for updates alone.

        What they refuse then leaves no trace, not even a turn. Once one is admitted
        there is a turn, in which its handler comes first: the validators of the others
        are asked there, each once and after the handlers before it.
        """
        if any(type(event) is not UpdateRequest for event in inputs):
            return inputs, ()
        admitted: Sequence[TaskInput] = ()
        earlier = context.task_time
        context.begin_task(time, context.history_length)
        outer = turn.enter(context.loop)
        try:
            for position, event in enumerate(inputs):
                if isinstance(event, UpdateRequest) and context.mailbox.admit(event):
                    admitted = inputs[position:]
                    break
        finally:
            turn.leave(outer)
            context.begin_task(earlier, context.history_length)
        refused = tuple(context.mailbox.rejected.items())
        context.mailbox.rejected = {}
        return admitted, refused

    def _drive_turn(
        self,
        driver: RunDriver,
        applied: Sequence[TaskInput],
        inputs: Sequence[TaskInput],
        time: int,
    ) -> tuple[tuple[HistoryEvent, ...], tuple[Entry, ...]]:
        """Drive one turn live; return its events, and its commands."""
        context = driver.context
        loop = context.loop
        self.task_count += 1
        self.flags = loop.flags = flags.of_next_task(self.flags)
        context.is_replaying = False
        context.begin_task(time, self.event_count)
        has_mailbox = context.has_mailbox
        if has_mailbox:
            context.mailbox.forget_judgements()
        outer = turn.enter(loop)
        try:
            driver.apply(applied)
        finally:
            turn.leave(outer)
        if context.has_refused:
            context.has_refused = False
            self.flags |= flags.Flag.ARGUMENTS_REFUSED
        recorded: Sequence[Any] = inputs
        if has_mailbox or context.has_mailbox:
            recorded = self._recorded(driver, inputs)
        # Timed out or terminated: no code ran.
        entries = () if driver.is_closed else context.take_entries()
        placed = self._place(recorded, time, context, entries)
        if entries and type(placed[-1].attributes) in CLOSING:
            driver.is_closed = True
        return placed, entries

    def _recorded(
        self, driver: RunDriver, inputs: Sequence[TaskInput]
    ) -> list[Attributes]:
        """A turn's inputs as events; updates only if they were accepted."""
        accepted = driver.context.mailbox.accepted
        recorded: list[Attributes] = []
        for event in inputs:
            if not isinstance(event, UpdateRequest):
                recorded.append(event)
            elif event.update_id in accepted:
                recorded.append(event.accepted())
                driver.request_ids[update_request_id(event.update_id)] = None
        return recorded

    def _start_live(
        self, earlier: Sequence[HistoryEvent], inputs: Sequence[TaskInput]
    ) -> RunContext:
        first = earlier[0].attributes if earlier else inputs[0] if inputs else None
        if type(first) is not WorkflowExecutionStarted:
            raise InternalError("The first workflow task must start the run.")
        self._start(first)
        context = self._get_driver().context
        if earlier:
            context.started_at = earlier[0].time
        return context

    def _due_timers(self, now: int) -> list[Attributes]:
        if not self.has_due_timer(now):
            return []
        due = [t for t in self._get_driver().context.timers.values() if t.due_at <= now]
        due.sort(key=lambda timer: (timer.due_at, timer.started_event_id))
        return [
            TimerFired(timer_id=t.timer_id, started_event_id=t.started_event_id)
            for t in due
        ]

    def _place(
        self,
        inputs: Sequence[Attributes],
        time: int,
        context: RunContext,
        entries: Sequence[Entry],
    ) -> tuple[HistoryEvent, ...]:
        """Put a turn's inputs and then its commands behind the last event."""
        event_id, number, bits = self.event_count, self.task_count, self.flags
        placed: list[HistoryEvent] = []
        for attributes in inputs:
            event_id += 1
            placed.append(HistoryEvent(event_id, number, time, attributes, bits))
        for entry in entries:
            event_id += 1
            attributes = entry.event()
            placed.append(HistoryEvent(event_id, number, time, attributes, bits))
            entry.recorded(context, event_id, time, attributes)
        self.event_count = event_id
        return tuple(placed)

    # --- results of a turn ------------------------------------------------------------

    def _completion(
        self,
        events: tuple[HistoryEvent, ...],
        entries: tuple[Entry, ...],
        rejected: tuple[tuple[str, Failure], ...] = (),
        checkpoint_event_id: int | None = None,
    ) -> WorkflowTaskCompletion:
        return WorkflowTaskCompletion(
            self.task_count,
            entries,
            events,
            self._get_driver().is_closed,
            rejected,
            checkpoint_event_id,
        )

    def _get_driver(self) -> RunDriver:
        if self._driver is None:
            raise InternalError("The run has not started.")
        return self._driver
