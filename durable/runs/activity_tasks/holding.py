"""A claimed activity in the memory of the worker that runs it: a machine like a run's.

It stands in the place of a live run where attempts begin and end. `handle` is given
what the pool says, and answers with what is to be written and done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, cast

import msgspec

from durable.core.history.events import (
    ActivityOutcome,
    ActivityTaskCompleted,
    WorkflowExecutionStarted,
)
from durable.core.history.payload import Failure, encode_details
from durable.core.machines import retry
from durable.core.messages import ActivityReturned
from durable.runs import inputs
from durable.runs.activity_tasks import endings
from durable.runs.activity_tasks.pausing import PAUSED, mark
from durable.runs.activity_tasks.task_rows import (
    TaskData,
    TaskProgress,
    data_of,
    encode,
    for_operator,
    for_outside,
    progress_of,
    waiting_again,
)
from durable.runs.effects import AttemptEnd
from durable.runs.incoming import Token
from durable.runs.live_run import Attempt, LiveRun, Terms
from durable.runs.states import AT_REST, CANCELLING, OVER, State
from durable.store.activity_tasks import (
    RUN_CLOSED,
    ActivityTaskRecord,
    BeatActivityTask,
    CancelArrived,
    SettleActivityTask,
    TaskState,
)
from durable.store.records import AttemptRecord, AttemptState

# What could not be begun for a bug, or is not known, is tried again after this long.
AGAIN_MICROSECONDS: Final = 60_000_000


class HeldTask(msgspec.Struct, eq=False):
    """One activity that this worker has claimed.

    Attributes:
        cancel: why it is to stop, as far as this worker has heard.
        settling: what is being written; the attempt is over then.
        if_cancelled: what is written in its stead if it turns out that it is to stop.
    """

    record: ActivityTaskRecord
    data: TaskData
    progress: TaskProgress
    started: WorkflowExecutionStarted
    terms: Terms
    cancel: str | None = None
    settling: SettleActivityTask | None = None
    if_cancelled: ActivityOutcome | None = None
    waiting: Token | None = None
    """Who wants to hear whether it is somebody else's to complete."""
    found_attempt: Attempt | None = None
    state: State = AT_REST

    @property
    def attempt(self) -> Attempt:
        """The attempt that is held."""
        assert self.found_attempt is not None  # noqa: S101 - set by `hold`
        return self.found_attempt

    @property
    def run_id(self) -> str:
        """Of the run that waits for it; likewise what follows."""
        return self.record.run_id

    @property
    def workflow_id(self) -> str:
        """See `run_id`."""
        return self.data.workflow_id

    @property
    def workflow_type(self) -> str:
        """See `run_id`."""
        return self.data.workflow_type

    @property
    def headers(self) -> Mapping[str, str]:
        """See `run_id`."""
        return self.data.run_headers


class TaskEffects(msgspec.Struct, eq=False):
    """What a held activity wants done, in this order.

    Attributes:
        settle: is written -> `settled`.
        beat: is written; what comes back is a reason to `stop`.
        end: how its attempt ended, for the log and the observer.
        stop: its function is asked to stop.
        refused: who wanted to hand it out cannot.
        let_go: its function may go on, though nobody hears of it.
    """

    settle: SettleActivityTask | None = None
    beat: BeatActivityTask | None = None
    end: AttemptEnd | None = None
    stop: bool = False
    refused: Token | None = None
    let_go: bool = False


def hold(record: ActivityTaskRecord, terms: Terms) -> HeldTask:
    """Take up an activity that was just claimed.

    Raises:
        CorruptHistoryError: its row cannot be read.
    """
    data, progress = data_of(record), progress_of(record)
    started = WorkflowExecutionStarted(
        workflow_type=data.workflow_type,
        input=(),
        task_queue=data.workflow_queue,
        workflow_id=data.workflow_id,
        run_id=record.run_id,
        first_run_id=record.run_id,
        request_id="",
        namespace=record.namespace,
        headers={**data.run_headers},
    )
    held = HeldTask(record, data, progress, started, terms)
    held.found_attempt = Attempt(
        # It stands in the run's place for all that is asked while an attempt runs.
        cast("LiveRun", held),
        record.scheduled_event_id,
        data.scheduled,
        data.scheduled_at,
        data.headers,
        attempt=record.attempt,
        lost=progress.lost,
        last_failure=progress.last_failure,
        has_row=progress.has_row,
        due_at=record.due_at,
        details=progress.details,
    )
    return held


def handle(held: HeldTask, given: Any, now: int) -> TaskEffects:
    """Give a held activity what the pool says; return what is to be done.

    Whatever comes once its attempt is over is not heard.
    """
    effects = TaskEffects()
    handler = _HANDLERS.get(given.__class__)
    if handler is not None and held.attempt.phase is not OVER:
        handler(held, given, effects, now)
    return effects


def stop(held: HeldTask, reason: str) -> TaskEffects:
    """It was asked to stop, for a reason that `BeatActivityTask` tells, or a look."""
    effects = TaskEffects()
    if held.cancel not in (None, PAUSED):
        return effects
    held.cancel = reason
    attempt = held.attempt
    if attempt.phase is OVER or reason == PAUSED:
        return effects
    if reason == RUN_CLOSED:
        # Nobody hears of it any more; what was abandoned goes on all the same.
        attempt.phase = OVER
        kind = held.data.scheduled.settings.cancellation_type
        effects.let_go = kind == "abandon"
        effects.stop = not effects.let_go
        effects.settle = held.settling = SettleActivityTask(
            run_id=held.run_id,
            scheduled_event_id=held.record.scheduled_event_id,
            attempt=held.record.attempt,
            cancel=reason,
        )
    else:
        attempt.phase = CANCELLING
        effects.stop = True
    return effects


def not_paused(held: HeldTask) -> None:
    """Its run is resumed, or was not paused."""
    if held.cancel == PAUSED:
        held.cancel = None
    held.data = msgspec.structs.replace(held.data, is_run_paused=False)
    held.record = msgspec.structs.replace(held.record, data=encode(held.data))


def stays_paused(held: HeldTask, now: int) -> TaskEffects:
    """It was claimed, and its run is paused still: it does not begin."""
    effects = TaskEffects()
    held.cancel = PAUSED
    _put_back(held, now, effects, now)
    return effects


def forget(held: HeldTask) -> TaskEffects:
    """Its worker has lost its lease: whatever it does counts for nothing."""
    held.attempt.phase = OVER
    return TaskEffects(stop=True)


def settled(held: HeldTask, result: object, now: int) -> SettleActivityTask | None:
    """What was to be written is; or, if it was refused for a cancel, write this."""
    settling = held.settling
    if not isinstance(result, CancelArrived) or settling is None:
        return None
    held.cancel = result.reason
    following = settling.next
    if result.reason == PAUSED and following is not None:
        if following.state is TaskState.WAITING:
            following = mark(following, now)
        held.settling = msgspec.structs.replace(settling, next=following, cancel=PAUSED)
        return held.settling
    assert held.if_cancelled is not None  # noqa: S101 - there was to be another attempt
    held.settling = endings.end(
        held.record, held.if_cancelled, settling.attempts, result.reason
    )
    return held.settling


# --- what the pool says ---------------------------------------------------------------


def _completed(
    held: HeldTask, given: inputs.AttemptCompleted, effects: TaskEffects, now: int
) -> None:
    _started(held, given.started_at)
    outcome = ActivityTaskCompleted(
        scheduled_event_id=held.record.scheduled_event_id,
        result=given.result,
        attempt=held.record.attempt,
        started_at=given.started_at,
        identity=held.terms.worker_id,
        last_failure=held.progress.last_failure,
    )
    _end(held, outcome, AttemptState.COMPLETED, None, None, effects, now)


def _failed(
    held: HeldTask, given: inputs.AttemptFailed, effects: TaskEffects, now: int
) -> None:
    _started(held, given.started_at)
    failure, record = given.failure, held.record
    is_late = failure.kind == "timeout"
    decision: retry.Retry | retry.GiveUp
    if held.attempt.phase is CANCELLING:
        decision = retry.GiveUp(retry.CANCEL_REQUESTED)
    else:
        settings = held.data.scheduled.settings
        failure = endings.in_doubt(settings, failure, record.attempt)
        decision = endings.decide(
            record, held.data, held.progress, failure, now, given.not_before
        )
    state = AttemptState.TIMED_OUT if is_late else AttemptState.FAILED
    _go_on(held, failure, decision, state, effects, now)


def _lost(
    held: HeldTask,
    given: inputs.AttemptDoubtful | inputs.AttemptLost,
    effects: TaskEffects,
    now: int,
) -> None:
    """It was cut short, or its process died: nobody knows what it did."""
    _started(held, given.started_at)
    if held.attempt.phase is CANCELLING:
        outcome = endings.cancelled(held.record, held.terms.worker_id)
        _end(held, outcome, AttemptState.LOST, given.failure, None, effects, now)
        return
    settings = held.data.scheduled.settings
    record = held.record
    key = endings.key_of(record.run_id, record.scheduled_event_id, record.attempt)
    decision = endings.decide_doubt(settings, held.progress.lost, key)
    _go_on(held, given.failure, decision, AttemptState.LOST, effects, now)


def _go_on(
    held: HeldTask,
    failure: Failure,
    decision: retry.Retry | retry.GiveUp,
    state: AttemptState,
    effects: TaskEffects,
    now: int,
) -> None:
    record, identity = held.record, held.terms.worker_id
    if isinstance(decision, retry.Retry):
        is_lost = state is AttemptState.LOST
        following = endings.after_failure(
            record, held.data, held.progress, failure, decision, now, is_lost=is_lost
        )
    elif decision.retry_state == retry.IN_DOUBT:
        following = for_operator(record, held.data, held.progress, failure)
    else:
        outcome = endings.failed(record, failure, decision.retry_state, now, identity)
        _end(held, outcome, state, failure, decision, effects, now)
        return
    rows = (_row_of(held, state, failure, now),)
    held.if_cancelled = endings.failed(
        record, failure, retry.CANCEL_REQUESTED, now, identity
    )
    _is_over(held, state, failure, decision, effects)
    _leave_to_others(held, following, rows, effects, now)


def _stopped(
    held: HeldTask, given: inputs.AttemptStopped, effects: TaskEffects, now: int
) -> None:
    if held.attempt.phase is CANCELLING:
        _started(held, given.started_at)
        outcome = endings.cancelled(held.record, held.terms.worker_id)
        _end(held, outcome, AttemptState.CANCELLED, None, None, effects, now)


def _not_begun(
    held: HeldTask, given: inputs.AttemptNotBegun, effects: TaskEffects, now: int
) -> None:
    _put_back(held, given.again_at, effects, now)


def _left(held: HeldTask, given: Any, effects: TaskEffects, now: int) -> None:
    """There is no room for it here, or its worker drains: it has not begun."""
    _put_back(held, now, effects, now)


def _unknown(
    held: HeldTask, given: inputs.AttemptUnknown, effects: TaskEffects, now: int
) -> None:
    _put_back(held, now + AGAIN_MICROSECONDS, effects, now)


def _unrecorded(
    held: HeldTask, given: inputs.AttemptUnrecorded, effects: TaskEffects, now: int
) -> None:
    """For a bug it could not begin, or what it has returned cannot be recorded."""
    if given.row_state is AttemptState.BACKOFF:
        # A worker with other code may be able to: it waits, and says why.
        held.progress = msgspec.structs.replace(held.progress, problem=given.problem)
        _put_back(held, now + AGAIN_MICROSECONDS, effects, now)
        return
    _started(held, given.started_at)
    if held.attempt.phase is CANCELLING:
        outcome = endings.cancelled(held.record, held.terms.worker_id)
        _end(held, outcome, AttemptState.CANCELLED, given.problem, None, effects, now)
        return
    # Its run parks for it, as for what its own worker has run.
    returned = ActivityReturned(held.record.scheduled_event_id)
    rows = (_row_of(held, given.row_state, given.problem, now),)
    _is_over(held, given.row_state, given.problem, None, effects)
    held.settling = effects.settle = endings.end(
        held.record, returned, rows, held.cancel
    )


def _put_back(held: HeldTask, again_at: int, effects: TaskEffects, now: int) -> None:
    """The attempt has certainly not begun: leave it to whoever takes it."""
    record = held.record
    outcome = endings.cancelled(record, held.terms.worker_id)
    if held.attempt.phase is CANCELLING:
        _end(held, outcome, AttemptState.CANCELLED, None, None, effects, now)
        return
    held.if_cancelled = outcome
    held.attempt.phase = OVER
    since = held.progress.waits_since or record.due_at
    following = waiting_again(
        record,
        held.data,
        msgspec.structs.replace(held.progress, waits_since=since),
        attempt=record.attempt,
        due_at=again_at if again_at > now else record.due_at,
    )
    _leave_to_others(held, following, (), effects, now)


def _leave_to_others(
    held: HeldTask,
    following: ActivityTaskRecord,
    rows: tuple[AttemptRecord, ...],
    effects: TaskEffects,
    now: int,
) -> None:
    if held.cancel == PAUSED and following.state is TaskState.WAITING:
        following = mark(following, now)
    held.settling = effects.settle = endings.put_back(
        held.record, following, rows, held.cancel
    )


def _end(
    held: HeldTask,
    outcome: ActivityOutcome,
    state: AttemptState,
    failure: Failure | None,
    decision: retry.GiveUp | None,
    effects: TaskEffects,
    now: int,
) -> None:
    """Hand the activity's outcome to its run."""
    rows: tuple[AttemptRecord, ...] = ()
    is_first = held.record.attempt == 1 and not held.progress.has_row
    if not is_first or state is not AttemptState.COMPLETED:
        rows = (_row_of(held, state, failure, now),)
    _is_over(held, state, failure, decision, effects)
    held.settling = effects.settle = endings.end(
        held.record, outcome, rows, held.cancel
    )


def _row_of(
    held: HeldTask, state: AttemptState, failure: Failure | None, now: int
) -> AttemptRecord:
    details = encode_details(held.attempt.details)
    return endings.row_of(held.record, state, failure, now, details)


def _is_over(
    held: HeldTask,
    state: AttemptState,
    failure: Failure | None,
    decision: retry.Retry | retry.GiveUp | None,
    effects: TaskEffects,
) -> None:
    effects.end = AttemptEnd(held.attempt, state, failure, decision)
    held.attempt.phase = OVER


def _started(held: HeldTask, started_at: int) -> None:
    """Note when its function began, and what it has said since."""
    attempt = held.attempt
    attempt.started_at = started_at
    heard_at = attempt.heartbeat_at or held.record.heartbeat_at
    held.record = msgspec.structs.replace(
        held.record, started_at=started_at, heartbeat_at=heard_at
    )
    held.progress = msgspec.structs.replace(held.progress, details=attempt.details)


def _external(
    held: HeldTask, given: inputs.AttemptExternal, effects: TaskEffects, now: int
) -> None:
    """Leave it to somebody outside, who has its token once that is written."""
    if held.attempt.phase is CANCELLING:
        effects.refused = given.token
        return
    _started(held, given.started_at)
    held.attempt.phase, held.waiting = OVER, given.token
    held.if_cancelled = endings.cancelled(held.record, held.terms.worker_id)
    record = msgspec.structs.replace(held.record, progress=encode(held.progress))
    following = for_outside(record, held.data.scheduled, held.attempt, now)
    _leave_to_others(held, following, (), effects, now)


def _beat(
    held: HeldTask, given: inputs.AttemptBeat, effects: TaskEffects, now: int
) -> None:
    held.attempt.heartbeat_at = now
    _started(held, given.started_at)
    # A transaction's progress is its own, and goes with it if it is rolled back.
    is_kept = held.data.scheduled.settings.effect != "transaction"
    effects.beat = BeatActivityTask(
        run_id=held.run_id,
        scheduled_event_id=held.record.scheduled_event_id,
        attempt=held.record.attempt,
        progress=encode(held.progress) if is_kept else None,
    )


_Handler: TypeAlias = Callable[[HeldTask, Any, TaskEffects, int], None]
_HANDLERS: Final[dict[type[Any], _Handler]] = {
    inputs.AttemptCompleted: _completed,
    inputs.AttemptFailed: _failed,
    inputs.AttemptLost: _lost,
    inputs.AttemptDoubtful: _lost,
    inputs.AttemptStopped: _stopped,
    inputs.AttemptNotBegun: _not_begun,
    inputs.AttemptLeft: _left,
    inputs.AttemptQueued: _left,
    inputs.AttemptUnknown: _unknown,
    inputs.AttemptUnrecorded: _unrecorded,
    inputs.AttemptBeat: _beat,
    inputs.AttemptExternal: _external,
}
