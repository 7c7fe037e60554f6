"""Says what becomes of a live run: it is given something, and answers with effects.

A run has at most one write of its own on its way. What arrives meanwhile waits and goes
into the next turn together. Nothing that a turn decided is visible before its commit
has succeeded; if it fails, the replayer has lived through what never happened: the run
is read again, as it is after a crash, and as it is when messages came first.

`TRANSITIONS` has all states, what may be given in each of them, and where that leads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from durable.core.history.events import (
    ActivityTaskCancelRequested,
    ActivityTaskScheduled,
    StartChildWorkflowExecutionInitiated,
)
from durable.core.history.payload import Failure
from durable.core.workflow_task import (
    TaskFailureKind,
    WorkflowTask,
    WorkflowTaskFailure,
)
from durable.errors import (
    AttributeTypeError,
    CommitUnknownError,
    CorruptHistoryError,
    DurableError,
    InternalError,
    LeaseLostError,
    PayloadError,
    StoreError,
)
from durable.runs import attempts, inputs, leaving, messages, restoring, writes
from durable.runs.effects import CLOSED, Creation, Effects, Left, also
from durable.runs.incoming import Item
from durable.runs.live_run import LiveRun, deadline_of
from durable.runs.outgoing import child_begun, delivered, deliveries_of, timed_out
from durable.runs.states import (
    AT_REST,
    COMMITTING,
    CREATING,
    DRIVING,
    GONE,
    PARKING,
    REPLAYING,
    UNREAD,
    State,
)
from durable.runs.transitions import TRANSITIONS
from durable.runs.unrecorded import held_attempts, local_turns
from durable.store.records import Committed, MailArrived, RunStatus, Started, StartRun

Handler: TypeAlias = Callable[[LiveRun, Any, Effects, int], None]


def handle(run: LiveRun, given: inputs.AnyInput, now: int) -> Effects:
    """Give a run something, at an instant; return what is to be done.

    Raises:
        InternalError: nothing of that kind may come in its state.
    """
    handler = _HANDLERS[run.state].get(type(given))
    if handler is None:
        raise InternalError(
            f"Run {run.run_id!r} is {run.state.value}, and was given"
            f" {type(given).__name__}, which may not come then."
        )
    effects = Effects()
    if run.unwritten is not None and local_turns.put_off(run, given):
        handler = _HANDLERS[run.state][inputs.Due]
    handler(run, given, effects, now)
    return effects


def begin(
    run: LiveRun, request: StartRun, first: tuple[Any, ...], creator: Any
) -> Effects:
    """Drive the first turn of a run that is to be created.

    Args:
        run: a new one, in the state `CREATING`.
        request: its row and the policies.
        first: what its first turn sees beside its start.
        creator: who wants to hear how that ended.
    """
    run.operation, run.creator = request, creator
    if first:
        run.incoming.in_commit = [Item(event) for event in first]
    task = WorkflowTask(request.record.started_at, (run.started, *first))
    return Effects(drive=task)


# --- the next turn --------------------------------------------------------------------


def _proceed(run: LiveRun, effects: Effects, now: int) -> None:
    """Drive the next turn if the run is at rest and there is anything to see."""
    if run.state is not AT_REST:
        if run.terms.is_observed and not run.ready_at:
            run.ready_at = now
        return
    if run.must_read:
        _read_again(run, effects)
        return
    incoming, unwritten = run.incoming, run.unwritten
    if unwritten is not None and local_turns.must_be_written(run, unwritten, now):
        writes.write_unwritten(run, effects, now)
        return
    if incoming.held and not incoming.is_reading:
        messages.take_held(run, effects, now)
    if run.resolutions:
        held_attempts.resolve(run, effects)
    if run.questions:
        messages.answer(run, effects)
    if run.terms.is_draining or run.paused is not None:
        writes.hold(run, effects, now)
        return
    replayer, deadline = run.replayer, run.deadline
    if deadline is not None and now >= deadline[0]:
        incoming.add(Item(timed_out(run, deadline[1], now)))
    elif not (incoming.waiting or replayer.unprocessed or replayer.has_due_timer(now)):
        _rest(run, effects, now)
        return
    run.state = DRIVING
    if run.ready_at:
        effects.ready_at, run.ready_at = run.ready_at, 0
    effects.drive = WorkflowTask(now, incoming.take())


def _rest(run: LiveRun, effects: Effects, now: int) -> None:
    """There is nothing to drive; something may have to be written all the same."""
    if run.unwritten is not None:
        return  # it will be, with all that waits for the next write
    if run.ended:
        writes.keep_inputs(run, effects, now)
    elif run.incoming.stale or run.incoming.stale_requests:
        writes.empty_inbox(run, effects)
    elif run.is_holding:
        writes.park_if_held(run, effects)
    elif run.row[0] and not run.incoming.is_reading and not run.is_active:
        writes.correct_row(run, effects)  # it is at rest, and nobody's


def _read_again(run: LiveRun, effects: Effects) -> None:
    """Have the history read again; inputs and attempts stay."""
    run.must_read = False
    run.state = UNREAD
    run.forget_left()
    local_turns.forget(run, effects)
    effects.rare.read_run = True


def _want_read(run: LiveRun, effects: Effects) -> None:
    """The same, once no write is on its way."""
    if run.state is AT_REST:
        _read_again(run, effects)
    else:
        run.must_read = True


# --- creation -------------------------------------------------------------------------


def _first_turn(run: LiveRun, given: inputs.Driven, effects: Effects, now: int) -> None:
    if given.headers is not None:
        run.task_headers, run.notes = given.headers, given.notes
    writes.create(run, given.completion, effects)


def _created(run: LiveRun, given: inputs.Settled, effects: Effects, now: int) -> None:
    result, completion = given.result, run.completion
    assert isinstance(result, Started)  # noqa: S101 - of a start
    assert completion is not None  # noqa: S101 - it was driven
    effects.creation = Creation(run.creator, result, writes.ends_chain(completion))
    run.creator = None
    run.commits += 1
    if not result.created:
        run.incoming.in_commit = ()
        effects.rare.spread = result.committed
        leaving.leave(run, Left.DROPPED, effects)
        return
    if result.terminated_run_id is not None:
        effects.rare.closed = [result.terminated_run_id]
    if completion.failure is None:
        _turn_committed(run, result.committed, effects, now)
        return
    run.incoming.keep_updates()
    run.incoming.settle()
    run.failed_tries = 1
    if run.terms.max_tries <= 1:
        writes.park(run, completion.failure.failure, effects)
    else:
        _read_again(run, effects)


def _not_created(
    run: LiveRun, given: inputs.Refused, effects: Effects, now: int
) -> None:
    effects.creation = Creation(run.creator, given.error, has_ended=False)
    if isinstance(given.error, CommitUnknownError):
        # If it took place, what it started is ours perhaps, or waits for all.
        effects.wake_by(now)
        effects.rare.look_around = True
    run.incoming.in_commit = ()
    leaving.leave(run, Left.DROPPED, effects)


# --- a turn ---------------------------------------------------------------------------


def _driven(run: LiveRun, given: inputs.Driven, effects: Effects, now: int) -> None:
    completion = given.completion
    if given.headers is not None:
        run.task_headers, run.notes = given.headers, given.notes
    items = run.incoming.in_commit
    if (
        items
        and items[0].is_local
        and local_turns.begin_unwritten(run, completion, effects, now)
    ):
        run.state = AT_REST
        _proceed(run, effects, now)
        return
    if completion.failure is not None:
        run.incoming.keep_updates()
        if not completion.events and run.unwritten is None:
            run.incoming.in_commit = ()
            _turn_failed(run, completion.failure, effects)
            return
    if not writes.commit(run, completion, effects, now):
        # All was refused, nothing is kept.
        run.state = AT_REST
        messages.tell(run, completion, effects)
        _proceed(run, effects, now)


def _settled(run: LiveRun, given: inputs.Settled, effects: Effects, now: int) -> None:
    result, completion = given.result, run.completion
    if type(result) is MailArrived:
        # The code must see the messages before it may end: live through it again.
        if run.unwritten is not None:
            writes.write_apart(run, effects, now)
            return
        writes.take_back(run)
        _read_again(run, effects)
        return
    run.commits += 1
    run.operation = None
    if run.unwritten is not None:
        for late in local_turns.take_written(run, effects):
            _HANDLERS[COMMITTING][type(late)](run, late, effects, now)
    if completion is None or completion.failure is not None:
        told = run.incoming.settle()
        if told:
            effects.tell = [*effects.tell, *told]
        if completion is None or completion.failure is None:
            run.state = AT_REST
            _proceed(run, effects, now)
        else:
            _turn_failed(run, completion.failure, effects)
        return
    assert result is None or type(result) is Committed  # noqa: S101 - of a turn
    _turn_committed(run, result, effects, now)


def _turn_committed(
    run: LiveRun, committed: Committed | None, effects: Effects, now: int
) -> None:
    """Let the world see a turn, then drive the next if there is cause."""
    completion = run.completion
    assert completion is not None  # noqa: S101 - by the caller
    messages.tell(run, completion, effects)
    events = completion.events
    if run.notes:
        effects.rare.notes = [*effects.rare.notes, *run.notes]
        run.notes = ()
    run.failed_tries = run.refusals = 0
    if committed is not None:
        effects.rare.spread = committed
    if completion.is_closed:
        # Whatever the last turn asked for or called off ends with the run.
        effects.terminal = events[-1]
        leaving.leave(run, CLOSED, effects)
        return
    if committed is not None:
        # What became of what a turn sent is an input of the next.
        sent = deliveries_of(events)
        for event, outcome in zip(sent, committed.deliveries, strict=True):
            run.incoming.add(Item(delivered(event, outcome)))
    # What one of them leads to at once is for the next turn, which must find, and
    # record as under way, what all of them begin.
    offered = run.offered
    for event in events:
        attributes = event.attributes
        kind = type(attributes)
        if kind is ActivityTaskScheduled:
            if not offered or event.event_id not in offered:
                attempts.schedule(run, event, effects, now)
            else:
                effects.rare.look_around = True  # it may be this worker's to take
        elif type(attributes) is ActivityTaskCancelRequested:
            attempts.cancel(run, attributes.scheduled_event_id, effects, now)
        elif kind is StartChildWorkflowExecutionInitiated:
            run.asked |= {event.event_id}
            effects.rare.start = also(effects.rare.start, event)
    if committed is not None and committed.stopped:
        messages.mail_came(run, effects)
    if run.row[1] is not None:
        effects.wake_by(run.row[1])
    run.state = AT_REST
    run.completion = run.operation = None
    _proceed(run, effects, now)


def _refused(run: LiveRun, given: inputs.Refused, effects: Effects, now: int) -> None:
    error = given.error
    writes.take_back(run)
    effects.rare.refused = error
    if isinstance(error, LeaseLostError):
        # Whatever lease that was: it has lived through what never happened.
        leaving.leave(run, Left.LEASE_LOST, effects)
    elif isinstance(error, StoreError):
        run.count_refusal(error)
        if isinstance(error, CommitUnknownError):
            # If it took place, it did something to other runs perhaps.
            effects.wake_by(now)
            effects.rare.look_around = True
        _read_again(run, effects)
    elif isinstance(
        error, (PayloadError, AttributeTypeError)
    ):  # and so would the next try be
        run.stuck = Failure(message=str(error), type=type(error).__name__)
        _read_again(run, effects)
    else:
        effects.rare.error = error
        leaving.leave(run, Left.DROPPED, effects)


def _turn_failed(run: LiveRun, failure: WorkflowTaskFailure, effects: Effects) -> None:
    run.failed_tries += 1
    hopeless = failure.kind is TaskFailureKind.NONDETERMINISM
    if run.failed_tries < run.terms.max_tries and not hopeless:
        _read_again(run, effects)
    else:
        writes.park(run, failure.failure, effects)


# --- reading --------------------------------------------------------------------------


def _loaded(run: LiveRun, given: inputs.Loaded, effects: Effects, now: int) -> None:
    loaded = given.loaded
    effects.rare.torn_down = run.replayer
    if loaded is None or loaded.record.status is not RunStatus.RUNNING:
        leaving.leave(run, Left.CLOSED_ELSEWHERE, effects)
        return
    record = loaded.record
    is_others = record.owner not in (None, run.terms.worker_id)
    if is_others or messages.stays_paused(loaded):
        leaving.leave(run, Left.DROPPED, effects)
        return
    run.row = (record.owner is not None, record.wake_at)
    run.is_parked = record.stuck is not None
    run.epoch = record.epoch
    run.offered = {*loaded.tasks, *run.leaving}
    if run.stuck is not None:
        writes.park(run, run.stuck, effects)
        return
    try:
        started, history = restoring.decode_loaded(loaded)
    except CorruptHistoryError as error:
        failure = Failure(message=str(error), type=type(error).__name__)
        writes.park(run, failure, effects)
        return
    run.started, run.started_at = started, record.started_at
    run.parent_close_policy = record.parent_close_policy
    run.task_headers = started.headers
    run.deadline = deadline_of(started, run.started_at)
    run.replayer = run.terms.new_replayer()
    run.loaded, run.state = loaded, REPLAYING
    effects.drive = WorkflowTask(now, (), history, is_replay_only=True)


def _caught_up(run: LiveRun, given: inputs.Driven, effects: Effects, now: int) -> None:
    """Take up what was under way, and go on."""
    loaded, run.loaded = run.loaded, None
    assert loaded is not None  # noqa: S101 - by the state
    problem = given.completion.failure
    if problem is not None:
        hopeless = problem.kind is TaskFailureKind.NONDETERMINISM
        run.failed_tries += 1
        if hopeless and run.replayer.fails_on(problem.error):
            writes.fail_run(run, loaded, problem.failure, effects, now)
        elif hopeless or run.failed_tries >= run.terms.max_tries:
            writes.park(run, problem.failure, effects)
        else:
            _read_again(run, effects)
        return
    messages.drop_recorded(run, effects, now)
    messages.take_inbox(run, loaded.messages, effects)
    # No turn before all is found that is under way.
    restoring.restore_activities(run, loaded, effects, now)
    restoring.restore_others(run, effects)
    run.state = AT_REST
    attempts.begin_due(run, effects, now)
    _proceed(run, effects, now)
    if run.state is AT_REST:
        writes.correct_row(run, effects)


# --- whatever comes meanwhile ---------------------------------------------------------


def _then_proceed(change: Handler) -> Handler:
    """A handler that changes what waits, and then drives the run if it is at rest."""

    def handler(run: LiveRun, given: Any, effects: Effects, now: int) -> None:
        change(run, given, effects, now)
        _proceed(run, effects, now)

    return handler


def _child_ended(
    run: LiveRun, given: inputs.ChildEnded, effects: Effects, now: int
) -> None:
    messages.child_ended(run, given)


def _mail_came(
    run: LiveRun, given: inputs.MailCame, effects: Effects, now: int
) -> None:
    messages.mail_came(run, effects)


def _mail_read(
    run: LiveRun, given: inputs.MailRead, effects: Effects, now: int
) -> None:
    if not messages.mail_read(run, given, effects, now):
        _want_read(run, effects)  # which finds out, and parks it


def _mail_found(
    run: LiveRun, given: inputs.MailFound, effects: Effects, now: int
) -> None:
    is_behind = given.last_event_id > run.replayer.event_count
    if is_behind and run.state is AT_REST and not run.row[0]:
        _read_again(run, effects)
        return
    try:
        messages.take_mail(run, given.messages)
    except CorruptHistoryError:
        _want_read(run, effects)  # which finds out, and parks it


def _asked(run: LiveRun, given: inputs.Asked, effects: Effects, now: int) -> None:
    messages.ask(run, given.token)


def _harmed(run: LiveRun, given: inputs.Harmed, effects: Effects, now: int) -> None:
    if run.state is DRIVING:  # it was about to be
        run.incoming.take_back()
        run.state = AT_REST
    _want_read(run, effects)


def _recorded(run: LiveRun, given: inputs.Recorded, effects: Effects, now: int) -> None:
    error = given.error
    effects.rare.refused, effects.rare.is_of_attempt = error, True
    if isinstance(error, LeaseLostError):
        leaving.leave(run, Left.LEASE_LOST, effects)
    elif error is not None:
        run.count_refusal(error)
    attempts.recorded(
        run,
        given.recording,
        effects,
        now,
        is_done=error is None and run.state is not GONE,
    )
    if error is not None and run.state is not GONE:
        _want_read(run, effects)


def _child_answered(
    run: LiveRun, given: inputs.ChildAnswered, effects: Effects, now: int
) -> None:
    """How the start of a child went is an input of its parent."""
    event, outcome = given.event, given.outcome
    run.asked -= {event.event_id}
    if isinstance(outcome, Started):
        begun = child_begun(event, outcome.run_id)
        messages.take_child_start(run, begun, event.event_id)
        if given.has_ended:
            return  # how it ended follows at once
    elif isinstance(outcome, StoreError):
        run.count_refusal(outcome)
        _want_read(run, effects)  # which asks again
        return
    elif isinstance(outcome, DurableError):
        run.incoming.add(Item(child_begun(event, outcome)))
    else:
        effects.rare.error = outcome
        return
    _proceed(run, effects, now)


def _delivered(
    run: LiveRun, given: inputs.Delivered, effects: Effects, now: int
) -> None:
    run.asked -= {given.event.event_id}
    run.incoming.add(Item(delivered(given.event, given.outcome)))


def _due(run: LiveRun, given: inputs.Due, effects: Effects, now: int) -> None:
    attempts.begin_due(run, effects, now)


def _claimed(run: LiveRun, given: inputs.Claimed, effects: Effects, now: int) -> None:
    if run.state is not AT_REST or run.row[0] or run.epoch + 1 != given.epoch:
        _want_read(run, effects)  # others have gone on with it, or may have
        return
    run.epoch = given.epoch
    run.row, run.is_parked = (True, run.row[1]), False
    messages.mail_came(run, effects)  # it may be what it was due for
    attempts.begin_due(run, effects, now)
    _proceed(run, effects, now)


# --- who handles what -----------------------------------------------------------------

_ANY_TIME: Final[dict[type[Any], Handler]] = {
    inputs.Told: _then_proceed(messages.told),
    inputs.ChildEnded: _then_proceed(_child_ended),
    inputs.MailCame: _mail_came,
    inputs.MailRead: _then_proceed(_mail_read),
    inputs.MailFound: _then_proceed(_mail_found),
    inputs.Asked: _then_proceed(_asked),
    inputs.Harmed: _harmed,
    inputs.AttemptCompleted: _then_proceed(attempts.completed),
    inputs.AttemptFailed: _then_proceed(attempts.failed),
    inputs.AttemptStopped: _then_proceed(attempts.stopped),
    inputs.AttemptNotBegun: _then_proceed(attempts.not_begun),
    inputs.AttemptUnrecorded: held_attempts.unrecorded,
    inputs.AttemptDoubtful: attempts.doubtful,
    inputs.AttemptLost: _then_proceed(restoring.lost_here),
    inputs.AttemptBeat: attempts.beat,
    inputs.AttemptExternal: _then_proceed(attempts.external),
    inputs.AttemptQueued: attempts.queued,
    inputs.AttemptUnknown: attempts.unknown,
    inputs.AttemptReady: attempts.ready,
    inputs.AttemptLeft: attempts.left,
    inputs.AttemptUnheard: attempts.unheard,
    inputs.AttemptMended: _then_proceed(held_attempts.mended),
    inputs.AttemptStillUnrecorded: _then_proceed(held_attempts.still_unrecorded),
    inputs.AttemptRepeated: held_attempts.repeated,
    inputs.HoldAgain: held_attempts.hold_again,
    inputs.Recorded: _then_proceed(_recorded),
    inputs.ChildAnswered: _child_answered,
    inputs.Delivered: _then_proceed(_delivered),
    inputs.Due: _then_proceed(_due),
    inputs.Claimed: _claimed,
    inputs.ClosedElsewhere: leaving.closed_elsewhere,
    inputs.Leave: leaving.left,
}
_OF_STATE: Final[dict[State, dict[type[Any], Handler]]] = {
    CREATING: {
        inputs.Driven: _first_turn,
        inputs.Settled: _created,
        inputs.Refused: _not_created,
    },
    UNREAD: {inputs.Loaded: _loaded},
    REPLAYING: {inputs.Driven: _caught_up},
    AT_REST: {},
    DRIVING: {inputs.Driven: _driven},
    COMMITTING: {inputs.Settled: _settled, inputs.Refused: _refused},
    PARKING: {inputs.Settled: leaving.parked, inputs.Refused: leaving.not_parked},
    GONE: {
        **dict.fromkeys(TRANSITIONS[GONE], leaving.ignored),
        inputs.Told: leaving.told,
        inputs.Asked: leaving.asked,
        inputs.AttemptExternal: leaving.external,
        inputs.Recorded: leaving.recorded,
        inputs.Settled: leaving.settled,
        inputs.Refused: leaving.refused,
    },
}
_HANDLERS: Final[dict[State, dict[type[Any], Handler]]] = {
    state: {kind: (_ANY_TIME | _OF_STATE[state])[kind] for kind in may_come}
    for state, may_come in TRANSITIONS.items()
}
