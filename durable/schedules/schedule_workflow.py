"""`durable.schedule`: the workflow of which each schedule is a run.

It sleeps until the next time, starts a child for that, and offers a checkpoint whenever
nothing is under way. What depends on data of time zones is worked out by an activity of
the library, so that it is recorded and never differs on replay.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Any, Final

import msgspec

from durable import limits
from durable.api.definitions import WORKFLOWS
from durable.api.entities.entity_call import PATIENT
from durable.api.workflows.methods import run, update
from durable.api.workflows.operations import (
    all_handlers_finished,
    info,
    patched,
    wait_condition,
)
from durable.api.workflows.workflow import workflow
from durable.clock import to_datetime
from durable.converter import failures, json
from durable.core.history.commands import (
    ChildSettings,
    RequestCancelExternalWorkflowExecution,
)
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import (
    ActivityTarget,
    Child,
    ChildTarget,
    ContinueAsNew,
    get_runtime,
)
from durable.errors import (
    ApplicationError,
    InboxFullError,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
    WorkflowTaskError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
)
from durable.observer import SCHEDULE_LAG, Measurement
from durable.options import IdReusePolicy
from durable.schedules.definition import (
    ScheduleAction,
    ScheduleDefinition,
    ScheduleOverlap,
)
from durable.schedules.packing import pack, unpack
from durable.schedules.spec import ScheduleSpec
from durable.schedules.state import (
    BUFFER_MAX,
    LONGEST_REST,
    Firing,
    ScheduledRun,
    ScheduleState,
)
from durable.search.kinds import to_payload
from durable.search.run_fields import Run

SCHEDULE: Final = "durable.schedule"
"""The name of the workflow."""
PREFIX: Final = "schedule:"
"""How the workflow ids of schedules begin."""
FIND_TIMES: Final = "durable.schedule.find_times"
START_BESIDE: Final = "durable.schedule.start"
TERMINATE: Final = "durable.schedule.terminate"
FIND_END: Final = "durable.schedule.find_end"
KEEPS_PUT_OFF: Final = "durable.schedule.keeps_put_off"
"""The patch by which a change leaves the times that jitter has put off."""
STALE: Final = "ScheduleChanged"
"""The type of the failure that rejects a change of what has changed meanwhile."""
_CHECKPOINT_EVENTS: Final = 30
"""Each time leaves some six: to replay those of a few costs less than a checkpoint."""
_EVENTS_MAX: Final = 10_000
"""Events after which a schedule goes on as a new run: old ones may be deleted."""
_GONE: Final = (WorkflowNotFoundError, WorkflowClosedError, InboxFullError)


class TimesWanted(msgspec.Struct, frozen=True):
    """Which times are to be worked out; microseconds since 1970."""

    spec: ScheduleSpec
    seed: str
    after: int
    now: int
    not_before: int


class TimesFound(msgspec.Struct, frozen=True):
    """The next times of a spec.

    Attributes:
        times: each with when to act for it.
        after: up to where times were counted as missed.
        missed: how many.
        has_more: there may be times after these.
    """

    times: list[tuple[int, int]]
    after: int
    missed: int
    has_more: bool


class Beside(msgspec.Struct, frozen=True):
    """A run to be started that nobody watches."""

    schedule_id: str
    workflow_id: str
    scheduled_at: int
    is_manual: bool
    definition: ScheduleDefinition


def memo_of(schedule_id: str, at: int) -> dict[str, Payload]:
    """What the memo of a scheduled run tells of that."""
    text = to_datetime(at).isoformat().replace("+00:00", "Z")
    return {
        "durable.schedule_id": json.encode(schedule_id, str, "the schedule's id"),
        "durable.scheduled_at": json.encode(text, str, "the time"),
    }


def attributes_of(action: ScheduleAction, schedule_id: str) -> dict[str, Payload]:
    """What a scheduled run is found by: its own attributes, and its schedule."""
    if len(schedule_id) > limits.KEYWORD_CHARS_MAX:  # none of a listing's values
        return action.attributes
    own = Run.schedule
    return action.attributes | {
        own.name: to_payload(own.kind, schedule_id, "the schedule's id")
    }


def reuse_policy(is_manual: bool) -> IdReusePolicy:
    """Whether a time may have another run.

    Somebody who asks for a time again wants it to be done again.
    """
    if is_manual:
        return IdReusePolicy.ALLOW_DUPLICATE
    return IdReusePolicy.REJECT_DUPLICATE


@workflow(name=SCHEDULE, checkpoint_every=_CHECKPOINT_EVENTS)
class ScheduleWorkflow:
    """One schedule."""

    def __init__(self, state: ScheduleState) -> None:
        """Go on from a state; one that was created goes on from its start."""
        self._state = state
        if not state.created_at:
            start = info().started_at
            state.created_at = state.updated_at = state.after = start
        self._runtime = get_runtime("A schedule")
        self._open: Child | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ended: str | None = None
        self._shown: Payload | None = None
        self._beside: list[Firing] = []
        self._is_starting = False
        self._is_stopping = False
        self._is_deleted = False
        self._is_woken = False
        self._has_changed = False

    @run
    async def run(self, state: ScheduleState) -> None:
        """Act until it is deleted; `state` is what the object was made with."""
        state = self._state
        while not self._is_deleted:
            self._is_woken = False
            await self._look_ahead()
            await self._note_end()
            now = self._runtime.now()
            self._acts_at = dict(pair for pair in state.upcoming if pair[1] <= now)
            if state.take_due(now):
                self._has_changed = True
            await self._act()
            if self._has_changed:
                if not self._is_starting:  # it is shown when it has a run id
                    self._publish()
                self._has_changed = False
                packed = (pack(state),)
                if self._watch is None and info().history_length > _EVENTS_MAX:
                    raise ContinueAsNew(SCHEDULE, packed)
                self._runtime.checkpoint(packed)
            await self._rest()
        await wait_condition(all_handlers_finished)

    # --- time -------------------------------------------------------------------------

    async def _look_ahead(self) -> None:
        state, now = self._state, self._runtime.now()
        if state.upcoming or not state.has_more or not self._is_ticking:
            return
        window = round(state.definition.catchup_window.total_seconds() * 1_000_000)
        wanted = TimesWanted(
            state.definition.spec,
            state.schedule_id,
            state.after,
            now,
            now - window,
        )
        version = state.version
        found = await self._do(FIND_TIMES, wanted, TimesFound)
        if version != state.version:
            self._is_woken = True  # it was changed meanwhile: look again
            return
        self._has_changed = True
        state.upcoming, state.has_more = found.times, found.has_more
        state.after = max(state.after, found.after)
        state.count(missed=found.missed)
        if not found.times and found.has_more:
            self._is_woken = True

    @property
    def _is_ticking(self) -> bool:
        return self._state.is_ticking(self._watch is not None)

    async def _rest(self) -> None:
        """Wait for the next time, a message, or the end of the open run."""
        state, now = self._state, self._runtime.now()
        due: timedelta | None = None
        if self._is_ticking and state.has_more and not state.upcoming:
            return  # those after the last ones must be worked out
        if self._is_ticking and state.upcoming:
            wait = min(max(state.upcoming[0][1] - now, 0), LONGEST_REST)
            due = timedelta(microseconds=wait)
        with contextlib.suppress(TimeoutError):
            await wait_condition(lambda: self._is_woken, timeout=due)
        if self._runtime.now() - now >= LONGEST_REST and not self._is_woken:
            # Perhaps by other time zones than when it was worked out.
            state.upcoming, state.has_more = [], True

    async def _note_end(self) -> None:
        """Find out which times passed while a run was open that has ended."""
        state, ended = self._state, self._ended
        self._ended = None
        is_late = bool(state.upcoming) and state.upcoming[0][1] <= self._runtime.now()
        if ended is None or not is_late:
            return
        # This may be seen long after it: all workers may have been away meanwhile.
        state.lapsed_until = await self._do(FIND_END, ended, int)

    # --- runs -------------------------------------------------------------------------

    async def _act(self) -> None:
        state = self._state
        if not state.buffer:
            return
        self._has_changed = True
        decision = state.decide(self._watch is not None)
        for firing in filter(None, (decision.start, *decision.beside)):
            if not firing.is_manual:
                self._note_lag(firing)
        if decision.start is not None:
            self._begin(decision.start)
        self._beside = list(decision.beside)
        while self._beside:
            await self._start_beside(self._beside[0])
            del self._beside[0]
        if decision.terminates:
            await self._stop(terminates=True)
        elif decision.cancels:
            await self._stop(terminates=False)

    def _note_lag(self, firing: Firing) -> None:
        """Have an observer told how late it begins."""
        due_at = self._acts_at.get(firing.at, firing.at)
        lag = max(0, self._runtime.now() - due_at) / 1_000_000
        self._runtime.note(Measurement(SCHEDULE_LAG, lag, {}))

    def _begin(self, firing: Firing) -> None:
        """Start a child, and watch it."""
        state = self._state
        action, workflow_id = state.definition.action, state.workflow_id(firing)
        settings = ChildSettings(
            task_queue=action.task_queue or "",
            run_timeout=action.run_timeout,
            execution_timeout=action.execution_timeout,
            parent_close_policy="abandon",
            cancellation_type="abandon",
            id_reuse_policy=reuse_policy(firing.is_manual).value,
            version=getattr(WORKFLOWS.get(action.workflow_type), "own_version", None),
            memo=action.memo | memo_of(state.schedule_id, firing.at),
            inherit_parent_timeout=False,
            propagate_failures=True,
            retry_policy=action.retry or msgspec.UNSET,
            last_result=state.last_result or msgspec.UNSET,
            last_failure=state.last_failure or msgspec.UNSET,
            attributes=attributes_of(action, state.schedule_id),
        )
        target = ChildTarget(action.workflow_type, settings, None, _differing)
        child = self._runtime.start_child(target, workflow_id, action.input, None, 0)
        begun = ScheduledRun(
            to_datetime(firing.at),
            workflow_id,
            "",
            to_datetime(self._runtime.now()),
            "running",
        )
        state.note_run(begun)
        self._open = child
        self._is_stopping, self._is_starting = False, True
        self._watch = asyncio.create_task(self._follow(begun, child))

    async def _follow(self, begun: ScheduledRun, child: Child) -> None:
        """See a child to its end."""
        state = self._state
        try:
            run_id = await child.wait_started()
        except WorkflowAlreadyStartedError:
            self._note_closed(begun, "exists")
            return
        finally:
            self._is_starting = False
        begun = msgspec.structs.replace(begun, run_id=run_id)
        state.note_run(begun)
        self._wake()
        status = "completed"
        try:
            state.last_result = await child.wait_result()
            state.last_failure = None
        except WorkflowTaskError:
            raise
        except asyncio.CancelledError:
            status = "cancelled"
        except WorkflowTerminatedError:
            status = "terminated"
        except Exception as error:  # noqa: BLE001 - whatever a workflow raises
            is_late = isinstance(error, WorkflowTimedOutError)
            status = "timed_out" if is_late else "failed"
            state.last_failure = failures.failure_of(error)
            self._pause_after(begun, status)
        self._note_closed(begun, status)

    def _note_closed(self, begun: ScheduledRun, status: str) -> None:
        state = self._state
        if not state.is_ticking(True):
            self._ended = begun.workflow_id
        state.note_run(msgspec.structs.replace(begun, status=status))
        self._open = self._watch = None
        self._wake()

    def _pause_after(self, begun: ScheduledRun, status: str) -> None:
        definition = self._state.definition
        if definition.pause_on_failure and not definition.paused:
            what = "timed out" if status == "timed_out" else "failed"
            self._state.definition = definition.replace(
                paused=True, note=f"Paused because {begun.workflow_id!r} {what}."
            )
            self._state.version += 1

    async def _start_beside(self, firing: Firing) -> None:
        state = self._state
        beside = Beside(
            state.schedule_id,
            state.workflow_id(firing),
            firing.at,
            firing.is_manual,
            state.definition,
        )
        run_id = await self._do(START_BESIDE, beside, str)
        state.note_run(
            ScheduledRun(
                to_datetime(firing.at),
                beside.workflow_id,
                run_id,
                to_datetime(self._runtime.now()),
                "started" if run_id else "exists",
            )
        )

    async def _stop(self, *, terminates: bool) -> None:
        """Have the open run end; what waits for that waits on."""
        if self._open is None or (self._is_stopping and not terminates):
            return
        self._is_stopping = True
        child = self._open
        with contextlib.suppress(WorkflowAlreadyStartedError):
            await child.wait_started()
        if terminates:
            await self._do(TERMINATE, (child.workflow_id, child.run_id or ""), bool)
            return
        with contextlib.suppress(*_GONE):
            await self._runtime.tell_external(
                RequestCancelExternalWorkflowExecution(
                    child.workflow_id, None, "the schedule's next time has come", True
                )
            )

    async def _do(self, name: str, input: Any, kind: Any) -> Any:
        """Have an activity of the library do something."""
        target = ActivityTarget(name, PATIENT, None, _differing)
        answer = await self._runtime.execute_activity(target, (pack(input),), None, 0)
        return unpack(answer, kind)

    def _publish(self) -> None:
        """Show the state to those who describe, unless they see it already."""
        shown = pack(self._state.shown())
        if shown != self._shown:
            self._runtime.set_state(shown)
            self._shown = shown

    def _wake(self) -> None:
        self._is_woken = self._has_changed = True

    # --- what users ask for -----------------------------------------------------------

    def _refuse_stale(self, definition: ScheduleDefinition, version: int) -> None:
        if version != self._state.version:
            raise ApplicationError("It was changed meanwhile.", type=STALE)

    def _take(self, definition: ScheduleDefinition) -> None:
        state = self._state
        self._restart(definition.spec)
        state.definition, state.updated_at = definition, self._runtime.now()
        state.version += 1

    def _restart(self, spec: ScheduleSpec) -> None:
        """Go on from now; a time that jitter has put off is not past yet."""
        state, now = self._state, self._runtime.now()
        kept = state.put_off(now) if spec == state.definition.spec else []
        if kept and not patched(KEEPS_PUT_OFF):
            kept = []
        state.restart(now, kept)

    @update
    async def change(self, definition: ScheduleDefinition, version: int) -> int:
        """Take another definition, if it is one of what stands now."""
        state = self._state
        if definition != state.definition:
            self._take(definition)
        self._wake()
        self._publish()
        return state.version

    @change.validator
    def _check_change(self, definition: ScheduleDefinition, version: int) -> None:
        self._refuse_stale(definition, version)

    @update
    async def declare(self, definition: ScheduleDefinition) -> None:
        """Take what code says; what operators say of it stays."""
        state = self._state
        if definition == state.declared:
            return
        old, state.declared = state.definition, definition
        self._take(
            definition.replace(
                paused=old.paused,
                note=old.note,
                remaining_actions=old.remaining_actions,
            )
        )
        self._wake()
        self._publish()

    @update
    async def pause(self, paused: bool, note: str) -> None:
        """Pause, or go on from now."""
        state = self._state
        if state.definition.paused and not paused:
            self._restart(state.definition.spec)
        state.definition = state.definition.replace(paused=paused, note=note)
        state.version += 1
        self._wake()
        self._publish()

    @update
    async def trigger(self, overlap: ScheduleOverlap | None) -> str:
        """Start something now; give its workflow id."""
        state = self._state
        known = {firing.at for firing in state.buffer}
        known |= {round(r.scheduled_at.timestamp() * 1_000_000) for r in state.recent}
        at = self._runtime.now()
        while at in known:
            at += 1
        firing = Firing(at, overlap, True)
        self._put([firing])
        # Who asks for its run then must find it, if it does not wait for another's end.
        await wait_condition(lambda: self._is_deleted or self._is_settled(firing))
        return state.workflow_id(firing)

    def _is_settled(self, firing: Firing) -> bool:
        """Whether it has been started, was skipped, or waits for the open run."""
        state = self._state
        if firing in state.buffer:
            overlap = firing.overlap or state.definition.overlap
            return self._watch is not None and overlap is not ScheduleOverlap.ALLOW_ALL
        return not self._is_starting and firing not in self._beside

    @update
    async def backfill(self, times: list[int], overlap: ScheduleOverlap | None) -> int:
        """Act for past times, in order; give how many there was room for."""
        return self._put([Firing(at, overlap, True) for at in times])

    def _put(self, firings: list[Firing]) -> int:
        state = self._state
        room = max(BUFFER_MAX - len(state.buffer), 0)
        state.buffer += firings[:room]
        state.count(dropped=len(firings) - len(firings[:room]))
        self._wake()
        self._publish()
        return len(firings[:room])

    @update
    async def delete(self) -> None:
        """End; what it started goes on."""
        self._is_deleted = self._is_woken = True


def _differing(recorded: Payloads, found: Payloads) -> str | None:
    """Nothing: what a schedule asks for follows from its state and these answers."""
    return None
