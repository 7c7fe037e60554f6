"""What one run's code sees and has asked for: time, random, operations, patches.

The run context implements the workflow runtime by replay. It holds the operations
(machines) that are open and the entries of the turn that is being driven; the replayer
decides what the entries become.
"""

# size: one protocol, implemented in one class.

from __future__ import annotations

import asyncio
import random
import sys
import zlib
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from functools import partial
from types import CodeType
from typing import Any, Final, TypeAlias, TypeVar

from durable import limits
from durable.core.history.commands import (
    ModifyWorkflowProperties,
    SetState,
    UpsertWorkflowSearchAttributes,
)
from durable.core.history.events import (
    ActivityTaskCanceled,
    ActivityTaskCompleted,
    Attributes,
    CheckpointRecorded,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionReset,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure, Payload, Payloads, changed
from durable.core.loop.cancels import Outlasting, sees_every_cancel
from durable.core.loop.conditions import Conditions
from durable.core.loop.loop import DeterministicLoop, TimerHandle, loop_delay, make_loop
from durable.core.loop.unawaited import Call
from durable.core.loop.user_code import is_plumbing
from durable.core.machines.activity import ActivityMachine
from durable.core.machines.child import ChildMachine
from durable.core.machines.external import DeliveryMachine
from durable.core.machines.fact import FactEntry
from durable.core.machines.machine import CREATED, PENDING, Entry, Machine
from durable.core.machines.marker import PatchEntry
from durable.core.machines.timer import TimerMachine
from durable.core.notes import Notes
from durable.core.replay.mailbox import Mailbox
from durable.core.replay.other_runs import OtherRuns
from durable.core.replay.reading import reading_only
from durable.core.replay.seed import seed_of
from durable.core.runtime import (
    ActivityTarget,
    ContinueAsNew,
    Handler,
    MessageKind,
    WorkflowCode,
    WorkflowInfo,
    find_continuation,
    source_line,
)
from durable.errors import WorkflowTaskError
from durable.observer import Attributes as Telling
from durable.observer import Note, Span

# What else waits on does so by futures of its own.
_ENDED_BY_CANCELS: Final = ("try_cancel", "abandon")
OutcomeAhead: TypeAlias = Callable[[str, ActivityTarget, Payloads], Payload | None]

_DRAIN: Final = DeterministicLoop.drain.__code__


T = TypeVar("T")


class CheckpointReached(BaseException):
    """Leaves workflow code so that it can begin anew from its state."""


class RunContext(OtherRuns):
    """The runtime of one run, by replay.

    A checkpoint ends a context; the next begins with what the checkpoint carries on,
    live just as on replay, so that both see the same.
    """

    __slots__ = (
        "_activity_count",
        "_conditions",
        "_mailbox",
        "_random",
        "_timer_count",
        "activities",
        "attributes",
        "bug",
        "calls_elsewhere",
        "cancellation_reason",
        "checkpoint_event_id",
        "checkpoint_follows",
        "checkpoint_input",
        "children",
        "code",
        "deliveries",
        "ending",
        "entries",
        "has_ended",
        "has_mailbox",
        "has_refused",
        "history_length",
        "instance",
        "is_continuing",
        "is_failing",
        "is_replaying",
        "loop",
        "main",
        "memo",
        "migration",
        "notes",
        "on_unhandled",
        "outcome_ahead",
        "patches",
        "recorded_patches",
        "reset",
        "run_id",
        "started",
        "started_at",
        "state",
        "task_time",
        "timer_heap",
        "timers",
        "trusts_arguments",
    )

    def __init__(
        self,
        started: WorkflowExecutionStarted,
        code: WorkflowCode,
        checkpoint: CheckpointRecorded | None = None,
        checkpoint_event_id: int = 0,
    ) -> None:
        self.started = started
        self.code = code
        self.reset: WorkflowExecutionReset | None = None
        # The one that the code sees: it changes at a reset, like the time.
        self.run_id: str = started.original_run_id or started.run_id
        if checkpoint is not None and checkpoint.reset:
            self.take_reset(checkpoint.reset)
        self.loop = make_loop(self, zlib.crc32(self.run_id.encode()))
        self.entries: list[Entry] = []
        self.calls: list[Call] | tuple[()] = ()
        self.activities: dict[int, ActivityMachine] = {}
        self.timers: dict[int, TimerMachine] = {}
        # By due time; entries of timers that are gone are dropped when they surface.
        self.timer_heap: list[tuple[int, int]] | None = None
        self.patches: dict[str, bool] = {}
        self.recorded_patches: frozenset[str] = frozenset()
        self.is_replaying = True
        self.trusts_arguments = False
        self.has_refused = False
        self.task_time = 0
        self.started_at = 0
        self.history_length = 0
        self.cancellation_reason: str | None = None
        self.on_unhandled: Callable[[dict[str, Any]], None] | None = None
        self.notes: Notes | None = None  # nobody observes
        # Set while a history is replayed; see `Replayer`.
        self.outcome_ahead: OutcomeAhead | None = None
        self._conditions: Conditions | None = None
        self._random: random.Random | None = None
        self._activity_count = self._timer_count = self._child_count = 0
        # It has called activities that its owner does not run as attempts of its own.
        self.calls_elsewhere = False
        self.instance: Any = None
        self.main: asyncio.Task[Payload] | None = None
        # Made at first use: most runs never get a message.
        self._mailbox: Mailbox | None = None
        self.has_mailbox = False
        self.children: dict[int, ChildMachine] = {}
        self.deliveries: dict[int, DeliveryMachine] = {}
        self.has_had_children = False
        self.state: Payload | None = None
        self.attributes, self.memo = started.attributes, started.memo
        # What a handler ended the run with, if it came before the main code's end.
        self.ending: BaseException | None = None
        self.has_ended = False
        # The code has decided that the run goes on as a new one.
        self.is_continuing = False
        self.is_failing = False  # it is caught up with the turn in which it failed
        self.bug: BaseException | None = None
        self.checkpoint_event_id = checkpoint_event_id
        self.checkpoint_follows = False
        self.checkpoint_input: Payloads | None = None
        self.migration: WorkflowExecutionContinuedAsNew | None = None
        """How the turn that is replayed ended, if that moved the run by rules."""
        if checkpoint is not None:
            self._go_on_from(checkpoint)

    def _go_on_from(self, checkpoint: CheckpointRecorded) -> None:
        counts = checkpoint.counts
        self.started_at = checkpoint.started_at
        self.cancellation_reason = checkpoint.cancellation_reason
        self.state = checkpoint.state
        if checkpoint.attributes is not None:
            self.attributes = checkpoint.attributes
        if checkpoint.memo is not None:
            self.memo = checkpoint.memo
        self._activity_count = counts.get("activities", 0)
        self._timer_count = counts.get("timers", 0)
        self._child_count = counts.get("children", 0)
        # Those before the checkpoint, too: they may be open where they were abandoned.
        self.has_had_children = self._child_count > 0
        self.mailbox.signal_count = counts.get("signals", 0)

    @property
    def mailbox(self) -> Mailbox:
        """The run's messages."""
        mailbox = self._mailbox
        if mailbox is None:
            mailbox = self._mailbox = Mailbox(self)
            self.has_mailbox = True
        return mailbox

    def take_reset(self, reset: WorkflowExecutionReset) -> None:
        """Go on as the run that a reset has made."""
        if reset.run_id != self.run_id:
            self._random = None
        self.reset, self.run_id = reset, reset.run_id

    @property
    def timed_from(self) -> int:
        """When the run's timeouts began."""
        return self.started_at if self.reset is None else self.reset.reset_at

    def part(self) -> None:
        """Part from what knows the run: all would wait for the cyclic collector."""
        self._mailbox = self.main = self.instance = None
        for open_ones in (
            self.activities,
            self.timers,
            self.children,
            self.deliveries,
        ):
            open_ones.clear()

    # --- for the replayer -------------------------------------------------------------

    @property
    def name(self) -> str:
        """How errors name the run."""
        started = self.started
        return f"{started.workflow_id!r} ({started.workflow_type}, {started.run_id})"

    def begin_task(self, time: int, history_length: int) -> None:
        """Set what the code sees during one turn."""
        if self.started_at == 0:
            self.started_at = time
        self.task_time = time
        self.history_length = history_length
        self.loop.begin_turn(time)

    def take_entries(self) -> tuple[Entry, ...]:
        """The commands of the turn that were not withdrawn, in order."""
        entries = self.entries
        if not entries:
            return ()
        taken = tuple(entries)
        entries.clear()
        for entry in taken:
            if entry.is_withdrawn:
                return tuple(entry for entry in taken if not entry.is_withdrawn)
        return taken

    @property
    def is_alone(self) -> bool:
        """Whether nothing but the code that runs can have a part in this turn."""
        return not (
            self.entries
            or self.loop.has_ready()
            or (self._conditions is not None and self._conditions.is_awaited)
            or self.has_mailbox
            or self.bug
        )

    def drain(self) -> None:
        """Run the loop until nothing is ready and no condition has come true."""
        self.loop.drain()
        if self._conditions is not None:
            self._conditions.settle()
        if self._mailbox is not None:
            self._mailbox.refuse_unclaimed()

    def start_loop_timer(self, handle: TimerHandle, delay: float) -> None:
        """Start a durable timer for a call that asyncio wants later."""
        frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
        # Skip asyncio's frames and ours to the line that asked for the wait.
        while frame.f_back is not None and is_plumbing(frame.f_code.co_filename):
            if frame.f_code is _DRAIN:  # a task of asyncio's own: no line asked for it
                break
            frame = frame.f_back
        code = None if frame.f_code is _DRAIN else frame.f_code
        instruction = frame.f_lasti

        def fire() -> None:
            handle.on_cancel = None  # or it and its timer would hold each other
            self.loop.queue(handle)

        machine = self._add_timer(
            loop_delay(delay),
            fire=fire,
            summary=None,
            source=lambda: source_line(code, instruction),
        )
        handle.on_cancel = machine.cancel

    def keep_bug(self, error: WorkflowTaskError) -> None:
        """Park the run at the end of the turn, whatever its code does meanwhile."""
        self.bug = self.bug or error

    def handler_raised(self, error: BaseException) -> None:
        """Judge what left a handler: it ends the run, unless it speaks of a bug."""
        going = find_continuation(error)
        if going is not None:
            if not self.has_ended and self.ending is None:
                self.ending = going
                self.is_continuing = True
        elif self.is_bug(error):
            self.bug = self.bug or error
        elif not self.has_ended and self.ending is None:
            self.ending = error

    def is_bug(self, error: BaseException) -> bool:
        """Whether an exception should park the run, which did not fail of it."""
        return not self.is_failing and self.code.is_bug(error)

    def reading_only(self, what: str) -> AbstractContextManager[None]:
        """Refuse all changes while a query or a validator runs."""
        return reading_only(self.loop, self.instance, what)

    def counts(self) -> dict[str, int]:
        """How many operations of each kind the run has had; ids go on from there."""
        return {
            "activities": self._activity_count,
            "timers": self._timer_count,
            "children": self._child_count,
            "signals": self.mailbox.signal_count,
        }

    def report_unhandled(self, context: dict[str, Any]) -> None:
        """Hand on what asyncio would have logged, unless it is only replayed."""
        if self.on_unhandled is not None and not self.is_replaying:
            about = {"started": self.started, "update": self.update_info()}
            self.on_unhandled({**context, **about})

    @property
    def is_torn_down(self) -> bool:
        """Whether the run is leaving memory: what its code still does is void."""
        return self.loop.is_torn_down

    # --- the workflow runtime ---------------------------------------------------------

    def info(self) -> WorkflowInfo:
        """What the run knows about itself."""
        started = self.started
        return WorkflowInfo(
            namespace=started.namespace,
            workflow_id=started.workflow_id,
            run_id=self.run_id,
            first_run_id=started.first_run_id,
            workflow_type=started.workflow_type,
            task_queue=started.task_queue,
            version=started.version,
            attempt=started.attempt,
            started_at=self.started_at,
            execution_timeout=started.execution_timeout,
            run_timeout=started.run_timeout,
            continued_from_run_id=started.continued_from_run_id,
            parent_workflow_id=started.parent_workflow_id,
            parent_run_id=started.parent_run_id,
            root_workflow_id=started.root_workflow_id,
            root_run_id=started.root_run_id,
            headers=started.headers,
            memo=self.memo,
            attributes=self.attributes,
            history_length=self.history_length,
            is_continue_as_new_suggested=(
                self.history_length - self.checkpoint_event_id
                >= limits.HISTORY_EVENTS_WARN
            ),
            cancellation_reason=self.cancellation_reason,
        )

    def time_left(self) -> int | None:
        """Microseconds until the run's own end, at least 1; None without a timeout."""
        started = self.started
        run, execution = started.run_timeout, started.execution_timeout
        if run is None and execution is None:
            return None
        shortest = min(limit for limit in (run, execution) if limit is not None)
        begun_at = started.begins_at(self.timed_from)
        return max(1, begun_at + shortest - self.task_time)

    def now(self) -> int:
        """The workflow task's time, microseconds since 1970."""
        return self.task_time

    def random(self) -> random.Random:
        """The run's own generator; seeded at its first use."""
        self.refuse_if_read_only("random()")
        if self._random is None:
            seed = self.run_id
            if self.checkpoint_event_id:
                seed = f"{seed}/{self.checkpoint_event_id}"
            self._random = random.Random(seed_of(seed))  # noqa: S311 - replayable by design
        return self._random

    async def execute_activity(
        self,
        target: ActivityTarget,
        input: Payloads,
        code: CodeType | None,
        instruction: int,
    ) -> Payload:
        """Schedule an activity and wait for its result; raise its failure."""
        loop = self.loop
        if loop.is_torn_down:
            await loop.create_future()  # see durable.core.loop.teardown
        self._activity_count += 1
        activity_id = str(self._activity_count)
        settings = target.settings
        if settings.task_queue or settings.effect == "transaction":
            self.calls_elsewhere = True
        cancellation = settings.cancellation_type
        if self.outcome_ahead is not None and cancellation in _ENDED_BY_CANCELS:
            result = self.outcome_ahead(activity_id, target, input)
            if result is not None:
                loop.next_number()  # that of the future
                return result
        machine = ActivityMachine(
            activity_id, target, input, loop.create_future(), self, code, instruction
        )
        if self.notes is not None:
            machine.headers = self.notes.headers_now()
        self.entries.append(machine)
        if cancellation not in _ENDED_BY_CANCELS:
            outcome = await self._outlast_cancellation(machine)
        else:
            try:
                outcome = await machine.future
            except asyncio.CancelledError:
                if not loop.is_torn_down:
                    machine.cancel(send=cancellation == "try_cancel")
                raise
        if type(outcome) is ActivityTaskCompleted:
            return outcome.result
        raise self._activity_error(machine, outcome)

    def open_promise(
        self, target: ActivityTarget, code: CodeType | None, instruction: int
    ) -> tuple[str, Callable[[], Coroutine[Any, Any, Payload]]]:
        """Ask for what somebody outside is to give; its id, and what waits for it."""
        loop = self.loop
        self._activity_count += 1
        self.calls_elsewhere = True
        activity_id = str(self._activity_count)
        machine = ActivityMachine(
            activity_id, target, (), loop.create_future(), self, code, instruction
        )
        if self.notes is not None:
            machine.headers = self.notes.headers_now()
        self.entries.append(machine)
        return activity_id, partial(self._await_promise, machine)

    async def _await_promise(self, machine: ActivityMachine) -> Payload:
        if self.loop.is_torn_down:
            await self.loop.create_future()  # see durable.core.loop.teardown
        try:
            outcome = await machine.future
        except asyncio.CancelledError:
            if not self.loop.is_torn_down:
                machine.cancel()
            raise
        if type(outcome) is ActivityTaskCompleted:
            return outcome.result
        raise self._activity_error(machine, outcome)

    async def _outlast_cancellation(self, machine: ActivityMachine) -> Attributes:
        """Wait for what the activity finally did, through any cancellation.

        The activity's future is never awaited itself: cancelling a task cancels the
        future it waits on, and this one must stay open for the true outcome.
        """
        outlasting: Outlasting | None = None
        while True:
            try:
                await asyncio.wait([machine.future])
            except asyncio.CancelledError as cancel:
                if self.loop.is_torn_down or machine.state is CREATED:
                    machine.cancel()
                    raise
                if outlasting is None:
                    if (
                        machine.future.done()
                        and not machine.target.is_outcome_kept
                        and sees_every_cancel()
                    ):
                        raise  # it did not answer this cancel: it had ended before
                    outlasting = Outlasting()
                outlasting.take(cancel)
                machine.cancel()
                continue
            outcome: Attributes = machine.future.result()
            if outlasting is not None:
                if type(outcome) is ActivityTaskCanceled:
                    raise outlasting.shown()
                outlasting.hidden()
            return outcome

    def _activity_error(self, machine: ActivityMachine, outcome: Any) -> BaseException:
        failure: Failure | None = outcome.failure
        if type(outcome) is ActivityTaskCanceled:
            return asyncio.CancelledError()
        return self.code.exception_of(
            Failure(
                message=f"Activity {machine.target.activity_type!r} failed.",
                kind="activity",
                cause=failure,
                activity_type=machine.target.activity_type,
                activity_id=machine.activity_id,
                attempt=outcome.attempt,
                retry_state=getattr(outcome, "retry_state", ""),
            )
        )

    async def sleep(
        self, microseconds: int, summary: str | None, source: Callable[[], str]
    ) -> None:
        """Wait for a durable timer; zero is a timer too."""
        if self.loop.is_torn_down:
            await self.loop.create_future()  # see durable.core.loop.teardown
        future: asyncio.Future[None] = self.loop.create_future()

        def fire() -> None:
            if not future.done():
                future.set_result(None)

        machine = self._add_timer(
            microseconds, fire=fire, summary=summary, source=source
        )
        try:
            await future
        except asyncio.CancelledError:
            if not self.loop.is_torn_down:
                machine.cancel()
            raise

    def start_timer(
        self,
        microseconds: int,
        fire: Callable[[], None],
        summary: str | None,
        source: Callable[[], str],
    ) -> Callable[[], None]:
        """Start a durable timer; see the protocol."""
        machine = self._add_timer(
            microseconds, fire=fire, summary=summary, source=source
        )

        def withdraw() -> None:
            self.refuse_if_read_only("Cancelling a timer")
            machine.cancel()

        return withdraw

    async def wait_condition(
        self, predicate: Callable[[], bool], timeout: int | None
    ) -> None:
        """Wait until the predicate holds; raise TimeoutError after `timeout`."""
        if self.loop.is_torn_down:
            await self.loop.create_future()  # see durable.core.loop.teardown
        if self._conditions is None:
            self._conditions = Conditions(self.loop)
        await self._conditions.wait(predicate, timeout)

    def patched(self, patch_id: str, *, deprecated: bool) -> bool:
        """Whether this run goes the patched way; recorded at its first answer."""
        known = self.patches.get(patch_id)
        if known is not None:
            return known
        self.refuse_if_read_only("patched()")
        if not (isinstance(patch_id, str) and patch_id) and (
            patch_id not in self.recorded_patches  # as earlier releases let it be
        ):
            raise WorkflowTaskError(
                f"patched() was given {patch_id!r}: the id of a patch is text, and not"
                " empty.",
                hint='Name the change, as in patched("weigh-first").',
            )
        answer = not self.is_replaying or patch_id in self.recorded_patches
        self.patches[patch_id] = answer
        if answer:
            frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
            source = source_line(frame.f_code, frame.f_lasti)
            self.send(PatchEntry(patch_id, deprecated=deprecated, source=source))
        return answer

    # --- messages ---------------------------------------------------------------------

    def set_handler(
        self, kind: MessageKind, name: str | None, handler: Handler | None
    ) -> None:
        """Set or take away a handler; see the protocol."""
        self.refuse_if_read_only("set_handler()")
        self.mailbox.set_handler(kind, name, handler)

    def all_handlers_finished(self) -> bool:
        """Whether no handler of a signal or update is under way."""
        return self._mailbox is None or not self._mailbox.unfinished

    async def receive(self, name: str, decode: Callable[[Payloads], T]) -> T:
        """Wait for the next signal of that name that no handler takes."""
        if self.loop.is_torn_down:
            await self.loop.create_future()  # see durable.core.loop.teardown
        return await self.mailbox.receive(name, decode)

    def receive_nowait(self, name: str, decode: Callable[[Payloads], T]) -> T:
        """The next such signal; raises asyncio.QueueEmpty if there is none."""
        return self.mailbox.receive_nowait(name, decode)

    def update_info(self) -> tuple[str, str] | None:
        """Id and name of the update whose handler this code belongs to."""
        return self.mailbox.update_info() if self.has_mailbox else None

    def carried(self) -> tuple[Payload | None, Failure | None]:
        """How the run before this one has ended."""
        started = self.started
        return started.last_result or None, started.last_failure or None

    def set_state(self, state: Payload) -> None:
        """Publish what the run shows of itself."""
        self.send(FactEntry(SetState(previous=self.state, current=state)))
        self.state = state

    def upsert_attributes(self, changes: dict[str, Payload], source: str) -> None:
        """Change what the run is found by; see the protocol."""
        self.refuse_if_read_only("upsert_attributes()")
        self.send(FactEntry(UpsertWorkflowSearchAttributes(changes, source)))
        self.attributes = changed(self.attributes, changes)

    def upsert_memo(self, changes: dict[str, Payload], source: str) -> None:
        """Change the run's memo; see the protocol."""
        self.refuse_if_read_only("upsert_memo()")
        self.send(FactEntry(ModifyWorkflowProperties(changes, source)))
        self.memo = changed(self.memo, changes)

    # --- telemetry --------------------------------------------------------------------

    def note(self, note: Note) -> None:
        """Have the observer told once the turn is committed; see the protocol."""
        is_void = self.is_replaying or self.loop.is_torn_down or self.loop.read_only
        if self.notes is not None and not is_void:
            self.notes.untold.append(note)

    def open_span(self, name: str, attributes: Telling) -> Span | None:
        """Begin a span of workflow code; see the protocol."""
        # What only looks does not run again on replay, so it must not count.
        if self.notes is None or self.loop.is_torn_down or self.loop.read_only:
            return None
        return self.notes.open_span(
            name, attributes, checkpoint=self.checkpoint_event_id, now=self.task_time
        )

    # --- bounded histories ------------------------------------------------------------

    def checkpoint(self, input: Payloads) -> None:
        """Begin anew with `input` if it is time and nothing else is under way."""
        self.refuse_if_read_only("checkpoint()")
        if self.loop.is_torn_down:
            return
        if asyncio.current_task() is not self.main:
            raise WorkflowTaskError(
                "checkpoint() was called by another task than the workflow's own.",
                hint="Call it where the workflow function itself loops.",
            )
        if self.is_replaying:
            is_due, migrates = self.checkpoint_follows, self.migration is not None
        else:
            events = self.history_length - self.checkpoint_event_id
            is_due = events >= self.code.checkpoint_every
            # The next run would not hear of a cancel request.
            is_free = self.cancellation_reason is None
            migrates = is_free and self.code.migrates_to() is not None
        if (is_due or migrates) and self._is_quiet():
            if migrates:
                raise ContinueAsNew(self.started.workflow_type, input)
            self.checkpoint_input = input
            raise CheckpointReached

    def _is_quiet(self) -> bool:
        """Whether the main code is all there is: then its state is all of the run."""
        if (
            self.ending is not None  # a handler has ended the run in this turn
            or self.activities
            or self.children
            or self.deliveries
            or (self._conditions is not None and self._conditions.is_awaited)
            or self.loop.has_ready()
            or not (self._mailbox is None or self._mailbox.is_quiet)
        ):
            return False
        if any(timer.state is PENDING for timer in self.timers.values()):
            return False
        for entry in self.entries:
            if isinstance(entry, Machine) and entry.state is CREATED:
                return False
        return all(task is self.main or task.done() for task in self.loop.tasks)

    # --- operations -------------------------------------------------------------------

    def _add_timer(
        self,
        delay: int,
        *,
        fire: Callable[[], None],
        summary: str | None,
        source: Callable[[], str],
    ) -> TimerMachine:
        self.refuse_if_read_only("A timer")
        self._timer_count += 1
        machine = TimerMachine(
            str(self._timer_count), delay, fire, self.send, summary, source
        )
        self.entries.append(machine)
        return machine

    def send(self, entry: Entry) -> None:
        """Take a command that an operation issues."""
        if self.loop.read_only:
            self.loop.refuse_change("Something that is recorded")
        if not self.loop.is_torn_down:
            self.entries.append(entry)
