"""What a live run has written: its creation, its turns, what is kept, its parking."""

from __future__ import annotations

from typing import Final

import msgspec

from durable.core.history.codec import at_version, decode_rows, encode_events
from durable.core.history.events import (
    ActivityTaskScheduled,
    Attributes,
    WorkflowExecutionUpdateCompleted,
    next_run_id,
)
from durable.core.history.payload import PAUSED, Failure, paused_by
from durable.core.workflow_task import WorkflowTaskCompletion
from durable.runs import messages
from durable.runs.activity_tasks import offering
from durable.runs.effects import Effects
from durable.runs.incoming import is_message
from durable.runs.live_run import LiveRun
from durable.runs.outgoing import (
    STATUS_OF,
    has_work,
    kinds_of,
    said_by,
)
from durable.runs.states import AT_REST, COMMITTING, PARKING
from durable.store.records import (
    NEVER,
    RUNNING,
    CommitTask,
    LoadedRun,
    ParkRun,
    StartRun,
)

_NO_TURN: Final = WorkflowTaskCompletion(task_number=0)


def create(run: LiveRun, completion: WorkflowTaskCompletion, effects: Effects) -> None:
    """Create a run with what its first turn decided."""
    request = run.operation
    assert isinstance(request, StartRun)  # noqa: S101 - by the state
    events, closes = completion.events, completion.is_closed
    kinds = kinds_of(events)
    begins_work, offers = has_work(kinds), None
    if (
        begins_work
        and (
            run.terms.has_others or run.terms.configured or run.replayer.calls_elsewhere
        )
        and _may_offer(completion, kinds)
    ):
        offers = offering.choose(run, events, kinds)
        begins_work = offers.begins_work
    begins_work = begins_work or completion.failure is not None
    run.row = (False, None) if closes else run.wanted_row(is_busy=begins_work)
    status, closed_at = RUNNING, None
    if closes:
        status, closed_at = STATUS_OF[type(events[-1].attributes)], events[-1].time
    record, said = request.record, said_by(run, completion, kinds)
    if said.properties is not None:
        what = said.properties
        record = msgspec.structs.replace(
            record, attributes=what.attributes, memo=what.memo
        )
    operation = msgspec.structs.replace(
        request,
        record=msgspec.structs.replace(
            record,
            owner=run.terms.worker_id if run.row[0] else None,
            wake_at=run.row[1],
            status=status,
            closed_at=closed_at,
            state=said.state,
        ),
        rows=encode_events(run.run_id, events),
        messages=said.messages,
        starts=said.starts,
    )
    if offers is not None:
        operation = offering.add_to_start(operation, offers)
    run.operation, run.completion = operation, completion
    effects.write = operation


def ends_chain(completion: WorkflowTaskCompletion) -> bool:
    """Whether a turn ends its run and what follows of it: going on as new is no end."""
    return (
        completion.is_closed and next_run_id(completion.events[-1].attributes) is None
    )


def _may_offer(
    completion: WorkflowTaskCompletion, kinds: set[type[Attributes]]
) -> bool:
    """Whether a turn may leave activities to others; a failed one asks for none."""
    return (
        ActivityTaskScheduled in kinds
        and not completion.is_closed
        and completion.failure is None
    )


def commit(
    run: LiveRun, completion: WorkflowTaskCompletion, effects: Effects, now: int
) -> bool:
    """Write what a turn decided, and those before it that are not written yet.

    False if nothing of it is to be kept.
    """
    incoming, events = run.incoming, completion.events
    numbers, requests = incoming.consume()
    settled, replies = messages.settled_updates(run, completion, now)
    unwritten = run.unwritten
    if not (events or numbers or requests or settled or unwritten):
        return False
    run_id, closes = run.run_id, completion.is_closed
    kinds = kinds_of(events)
    begins_work, offers = has_work(kinds), None
    if (
        begins_work
        and (
            run.terms.has_others or run.terms.configured or run.replayer.calls_elsewhere
        )
        and _may_offer(completion, kinds)
    ):
        offers = offering.choose(run, events, kinds)
        begins_work = offers.begins_work
    # Inputs that a failed turn leaves unseen must not wait for a restart.
    begins_work = begins_work or completion.failure is not None
    row = (False, None) if closes else run.wanted_row(is_busy=begins_work)
    said = said_by(run, completion, kinds)
    rows = encode_events(run_id, events)
    operation = CommitTask(
        run_id=run_id,
        rows=rows if unwritten is None else unwritten.rows + rows,
        epoch=run.spend_epoch(stays=row[0]),
        status=STATUS_OF[type(events[-1].attributes)] if closes else None,
        closed_at=events[-1].time if closes else None,
        update_run=run.is_parked or row != run.row or not row[0],
        is_active=row[0],
        wake_at=row[1],
        attempts=run.ended,
        consumed=numbers + settled,
        consumed_requests=requests,
        known=incoming.known(),
        replies=replies,
        state=said.state,
        checkpoint_event_id=completion.checkpoint_event_id,
        properties=said.properties,
        messages=said.messages,
        starts=said.starts,
        has_children=closes and run.replayer.has_had_children,
        sees_all_mail=messages.passed_by_inbox(run),
    )
    if run.offered:
        operation = offering.add_to_commit(run, operation, offers, events)
    run.row, run.is_parked = row, False
    _submit(run, operation, completion, effects)
    return True


def write_unwritten(run: LiveRun, effects: Effects, now: int) -> None:
    """Write the turns that have waited for another, without one."""
    commit(run, _NO_TURN, effects, now)


def write_apart(run: LiveRun, effects: Effects, now: int) -> None:
    """Write them without the turn that was not taken, and have the run read then.

    So it need not live through local activities again.
    """
    operation = run.operation
    assert isinstance(operation, CommitTask)  # noqa: S101 - of a turn
    take_back(run)
    # As that turn has found its row: what waits to be written keeps it owned.
    run.row, run.epoch = (True, None), operation.epoch
    run.must_read, run.notes = True, ()
    write_unwritten(run, effects, now)


def keep_inputs(run: LiveRun, effects: Effects, now: int) -> None:
    """Record what waits without driving the code, if anything does."""
    kept, left = run.incoming.keep()
    for item in left:
        effects.tell = [*effects.tell, *((token, False) for token in item.tokens)]
    messages.give_back_updates(left, effects)
    unwritten = run.unwritten
    if not (kept or run.ended or run.incoming.stale or unwritten):
        return
    numbers, requests = run.incoming.consume()
    rows = encode_events(run.run_id, run.replayer.unprocessed_events(now, kept))
    wake_at = run.next_due_at()
    operation = CommitTask(
        run_id=run.run_id,
        rows=rows if unwritten is None else unwritten.rows + rows,
        epoch=run.spend_epoch(stays=True),
        update_run=True,
        is_active=True,
        wake_at=wake_at,
        attempts=run.ended,
        consumed=numbers,
        consumed_requests=requests,
    )
    run.row, run.is_parked = (True, wake_at), False
    _submit(run, operation, None, effects)


def empty_inbox(run: LiveRun, effects: Effects) -> None:
    """Delete messages that the run has had already, or they would wait for ever."""
    numbers, requests = run.incoming.consume()
    operation = CommitTask(
        run_id=run.run_id,
        rows=[],
        epoch=run.spend_epoch(stays=run.row[0]),
        update_run=True,
        is_active=run.row[0],
        wake_at=run.row[1],
        consumed=numbers,
        consumed_requests=requests,
        known=run.incoming.known(),
    )
    _submit(run, operation, None, effects)


def correct_row(run: LiveRun, effects: Effects) -> None:
    """Make the run's row say what it waits for, and that it is not stuck."""
    row = run.wanted_row(is_busy=False)
    if row == run.row and not run.is_parked:
        return
    operation = CommitTask(
        run_id=run.run_id,
        rows=[],
        epoch=run.spend_epoch(stays=row[0]),
        update_run=True,
        is_active=row[0],
        wake_at=row[1],
        known=run.incoming.known(),
    )
    run.row, run.is_parked = row, False
    _submit(run, operation, None, effects)
    if row[1] is not None:
        effects.wake_by(row[1])


def fail_run(
    run: LiveRun, loaded: LoadedRun, failure: Failure, effects: Effects, now: int
) -> None:
    """Fail a run whose code says that this does; its mail becomes part of it."""
    messages.take_inbox(run, loaded.messages, effects)
    kept, left = run.incoming.keep()
    for item in left:
        effects.tell = [*effects.tell, *((token, False) for token in item.tokens)]
    messages.give_back_updates(left, effects)
    mail = [event for event in kept if is_message(event)]
    history = at_version(decode_rows(loaded.rows), loaded.record.version)
    completion = run.replayer.fail_run(now, mail, history, failure)
    commit(run, completion, effects, now)


def park(run: LiveRun, failure: Failure, effects: Effects) -> None:
    """Set the run aside with its reason; nobody loses anything."""
    run.stuck = effects.rare.parking = failure
    run.state = PARKING
    stuck = msgspec.json.encode(failure).decode()
    epoch = run.spend_epoch(stays=False)
    effects.write = run.operation = ParkRun(
        run_id=run.run_id,
        stuck=stuck,
        epoch=epoch,
        wake_at=NEVER if failure.kind == PAUSED else None,
    )


def hold(run: LiveRun, effects: Effects, now: int) -> None:
    """Keep what comes, and begin nothing; set a paused run aside once it is idle."""
    keep_inputs(run, effects, now)
    if run.paused is None or run.terms.is_draining or run.state is not AT_REST:
        return
    is_busy = any(attempt.problem is None for attempt in run.attempts.values())
    if is_busy or run.asked or run.incoming.is_reading:
        correct_row(run, effects)  # no timer is to wake it
    else:
        park(run, paused_by(run.paused.note), effects)


def park_if_held(run: LiveRun, effects: Effects) -> None:
    """Park a run for outcomes that cannot be recorded, once its others have ended."""
    problems = [a.problem for a in run.attempts.values() if a.problem is not None]
    run.is_holding = bool(problems)
    if problems and len(problems) == len(run.attempts):
        # Without the value that the function has returned.
        park(run, reason_of(problems[0]), effects)


def reason_of(problem: Failure) -> Failure:
    """Such an outcome in the words of a run's row, without the value."""
    return msgspec.structs.replace(problem, kind="application", details=())


def take_back(run: LiveRun) -> None:
    """Put what was not committed back to where it waits."""
    operation, completion = run.operation, run.completion
    run.incoming.take_back()
    if completion is not None and run.replayer.has_mailbox:
        for event in completion.events:
            if isinstance(event.attributes, WorkflowExecutionUpdateCompleted):
                run.untold += (event.attributes.update_id,)
    if isinstance(operation, CommitTask):
        run.ended = operation.attempts + run.ended
    run.operation = run.completion = None


def _submit(
    run: LiveRun,
    operation: CommitTask,
    completion: WorkflowTaskCompletion | None,
    effects: Effects,
) -> None:
    if operation.attempts:
        run.ended = ()
    run.operation, run.completion, run.state = operation, completion, COMMITTING
    effects.write = operation
