"""What a run waits for now, in words: a name and a line for each thing."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from durable.core.folding.run_state import (
    PendingActivity,
    PendingChild,
    PendingDelivery,
    PendingUpdate,
    RunState,
)
from durable.core.history.events import CHILD_OUTCOMES, WorkflowExecutionSignaled
from durable.core.machines import retry
from durable.core.messages import QueryRequest
from durable.core.workflow_task import UpdateRequest
from durable.doctor.mail_checks import read_message
from durable.store.activity_tasks import TaskState
from durable.store.records import (
    AttemptRecord,
    AttemptState,
    LoadedRun,
    MessageRecord,
    RunRecord,
    WorkerRecord,
)
from durable.telling.escaping import escape
from durable.telling.pieces import (
    Line,
    Piece,
    Role,
    decode_failure,
    failure_text,
    instant,
    span,
)

Named: TypeAlias = tuple[Piece, Line]


def tell_pending(
    record: RunRecord,
    state: RunState,
    attempts: Sequence[AttemptRecord],
    messages: Sequence[MessageRecord],
    now: int,
    lost: Mapping[int, str] | None = None,
) -> Iterator[Named]:
    """Name everything that an open run waits for, and how that stands.

    `lost` is what `find_lost` has found.
    """
    yield from _tell_activities(state, attempts, now, lost or {})
    for timer in state.pending_timers:
        label = "" if timer.summary is None else f" {timer.summary!r}"
        due = _until(timer.due_at, now)
        yield _named(f"timer {timer.timer_id}", due + label)
    for child in state.pending_children:
        yield _tell_child(child, now)
    for delivery in state.pending_deliveries:
        yield _tell_delivery(delivery, now)
    for update in state.pending_updates:
        yield _tell_update(update, now)
    if state.deadline_at is not None:
        yield _named("run timeout", _until(state.deadline_at, now))
    for message in messages:
        yield _tell_message(message, now)
    if state.unprocessed and record.stuck is None:
        count = state.unprocessed
        inputs = "1 event" if count == 1 else f"{count} events"
        yield _named("workflow task", f"{inputs} to be seen by the code", "warn")


def find_lost(
    run: LoadedRun, state: RunState, workers: Iterable[WorkerRecord], now: int
) -> dict[int, str]:
    """Say of activities, by their scheduled events, why nothing of them runs.

    Whoever runs them has died or given them up, and that has not been seen to yet.
    """
    owner = run.record.owner
    if any(w.worker_id == owner and w.lease_expires_at > now for w in workers):
        of_owner = None
    elif owner is None:
        of_owner = "its worker has given it up"
    else:
        of_owner = f"its worker {owner} is dead"
    lost: dict[int, str] = {}
    for activity in state.pending_activities:
        number = activity.scheduled_event_id
        if run.tasks.get(number) is TaskState.LOST:
            lost[number] = "its worker is dead"
        elif of_owner is not None and number not in run.tasks:
            lost[number] = of_owner
    return lost


def _named(name: str, text: str, role: Role = "strong") -> Named:
    return Piece(escape(name), role), [Piece(escape(text))]


def _until(due_at: int, now: int) -> str:
    if due_at <= now:
        return f"due for {span(now - due_at)} ({instant(due_at)})"
    return f"due in {span(due_at - now)} ({instant(due_at)})"


def _since(instant: int, now: int) -> str:
    return f"for {span(max(0, now - instant))}"


# --- what it has begun ----------------------------------------------------------------


def _tell_activities(
    state: RunState,
    attempts: Sequence[AttemptRecord],
    now: int,
    lost: Mapping[int, str],
) -> Iterator[Named]:
    latest = {row.scheduled_event_id: row for row in attempts}
    failed = {
        row.scheduled_event_id: row for row in attempts if row.failure is not None
    }
    for activity in state.pending_activities:
        row = latest.get(activity.scheduled_event_id)
        why = lost.get(activity.scheduled_event_id)
        line = _tell_activity(activity, row, now, why)
        problem = failed.get(activity.scheduled_event_id)
        if activity.waits_in_doubt and problem is row and _is_in_doubt(row):
            line = [Piece(f"activity {escape(activity.activity_id)}, in doubt")]
            run = "WORKFLOW_ID" if state.started is None else state.started.workflow_id
            named = how_to_resolve(run, activity.activity_id)
            line.append(Piece(f" ({named})", "warn"))
        if problem is not None and problem.failure is not None:
            text = failure_text(decode_failure(problem.failure))
            line.append(Piece(f", after {text}", "bad"))
        yield Piece(escape(activity.activity_type), "strong"), line


def how_to_resolve(workflow_id: str, activity_id: str) -> str:
    """What an operator types about an activity in doubt."""
    name = shlex.quote(escape(workflow_id))
    return (
        f"say what it has done: durable resolve {name} {escape(activity_id)}"
        " --result JSON, --not-done or --fail MESSAGE"
    )


def _is_in_doubt(row: AttemptRecord | None) -> bool:
    """Whether nobody knows what an attempt that has ended has done."""
    if row is None or row.failure is None or row.closed_at is None:
        return False
    return decode_failure(row.failure).kind == retry.OUTCOME_UNKNOWN


def _tell_activity(
    activity: PendingActivity, row: AttemptRecord | None, now: int, lost: str | None
) -> Line:
    number = 1 if row is None else row.attempt
    if row is not None and row.state is AttemptState.BACKOFF:
        text = f"attempt {number} {_until(row.due_at, now)}"
    elif row is not None and row.state is AttemptState.RETURNED:
        text = f"attempt {number} has returned what cannot be recorded"
    else:
        began = activity.scheduled_at
        if row is not None and row.started_at is not None:
            began = row.started_at
        text = f"attempt {number} under way {_since(began, now)}"
        if lost is not None:
            text = (
                f"attempt {number}, begun {span(max(0, now - began))} ago, interrupted"
            )
            text += f": {lost}"
    text = f"activity {escape(activity.activity_id)}, {text}"
    if activity.is_cancel_requested:
        text += ", asked to stop"
    return [Piece(text)]


def _tell_child(child: PendingChild, now: int) -> Named:
    text = f"id {child.workflow_id}, "
    if child.run_id is None:
        text += "not started yet"
    else:
        text += f"run {child.run_id}, under way"
    text += f" {_since(child.initiated_at, now)}"
    if child.is_cancel_requested:
        text += ", asked to stop"
    return _named(f"child {child.workflow_type}", text)


def _tell_delivery(delivery: PendingDelivery, now: int) -> Named:
    name = "cancel request"
    if delivery.signal_name is not None:
        name = f"signal {delivery.signal_name}"
    text = f"on its way to {delivery.workflow_id} {_since(delivery.sent_at, now)}"
    return _named(name, text)


def _tell_update(update: PendingUpdate, now: int) -> Named:
    text = f"id {update.update_id}, under way {_since(update.accepted_at, now)}"
    return _named(f"update {update.update_name}", text)


# --- what it has not seen -------------------------------------------------------------


def _tell_message(message: MessageRecord, now: int) -> Named:
    body = read_message(message)
    name, text = f"{message.kind} request", "not seen by the code yet"
    if body is None:
        text = "cannot be read"
    elif isinstance(body, WorkflowExecutionSignaled):
        name = f"signal {body.signal_name}"
    elif isinstance(body, UpdateRequest):
        name, text = f"update {body.update_name}", f"id {body.update_id}, {text}"
    elif isinstance(body, QueryRequest):
        name, text = f"query {body.name}", "not answered yet"
    elif isinstance(body, CHILD_OUTCOMES):
        name, text = f"end of child {body.workflow_id}", text
    return _named(name, f"{text}, {_since(message.created_at, now)}", "warn")
