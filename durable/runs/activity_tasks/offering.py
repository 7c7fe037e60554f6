"""Activities of a live run that go to whoever takes them, and what becomes of those.

They go with the turn that schedules them, in its commit; or later, when it turns out
that this worker has no room. From then on the run hears of them by messages alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from durable.api.activities.promises import PROMISE
from durable.core.history.events import (
    ActivityTaskCanceled,
    ActivityTaskCancelRequested,
    ActivityTaskScheduled,
    Attributes,
    HistoryEvent,
)
from durable.core.history.ids import OWN_TYPES
from durable.core.messages import encode_message
from durable.runs.activity_tasks.task_rows import (
    TaskData,
    new_row,
    row_of_attempt,
)
from durable.runs.live_run import Attempt, LiveRun
from durable.runs.outgoing import has_work
from durable.store.activity_tasks import ActivityTaskRecord, TaskCancel
from durable.store.records import CommitTask, StartRun

REQUESTED = "requested"
"""Why a task is to stop whose workflow has cancelled it."""


class Offers(msgspec.Struct, eq=False):
    """What a turn leaves to others.

    Attributes:
        tasks: the rows.
        begins_work: something of what it asks for is its owner's to do all the same.
    """

    tasks: tuple[ActivityTaskRecord, ...]
    begins_work: bool


def is_elsewhere(run: LiveRun, scheduled: ActivityTaskScheduled) -> bool:
    """Whether an activity always has a row, which whoever takes it runs."""
    if scheduled.activity_type == PROMISE:
        return True
    if scheduled.settings.effect == "transaction":
        return True  # its row is what its transaction writes the outcome into
    return scheduled.settings.task_queue not in ("", run.started.task_queue)


def is_given_out(run: LiveRun, scheduled: ActivityTaskScheduled) -> bool:
    """Whether an activity that has not begun is taken from its queue in any case.

    Our own workflows, such as schedules, go on whatever the limits of their queue are.
    The code of a step is nobody else's, and what is local is not given away.
    """
    if scheduled.settings.is_step or scheduled.settings.is_local:
        return False
    if is_elsewhere(run, scheduled):
        return True
    queue = scheduled.settings.task_queue or run.started.task_queue
    return queue in run.terms.configured and not run.workflow_type.startswith(OWN_TYPES)


def choose(
    run: LiveRun, events: Sequence[HistoryEvent], kinds: set[type[Attributes]]
) -> Offers:
    """Choose what of a turn's activities goes to whoever takes it."""
    calls = [e for e in events if type(e.attributes) is ActivityTaskScheduled]
    terms = run.terms
    room = terms.room() if terms.has_others and terms.room is not None else None
    chosen: list[ActivityTaskRecord] = []
    for event in calls:
        scheduled = event.attributes
        assert isinstance(scheduled, ActivityTaskScheduled)  # noqa: S101 - chosen so
        if is_given_out(run, scheduled) or (
            room is not None
            and not (scheduled.settings.is_step or scheduled.settings.is_local)
            and not room.take(scheduled.activity_type)
        ):
            chosen.append(_row_of(run, event, scheduled))
    run.note_offered({task.scheduled_event_id for task in chosen})
    others = kinds - {ActivityTaskScheduled}
    return Offers(tuple(chosen), has_work(others) or len(chosen) < len(calls))


def _row_of(
    run: LiveRun, event: HistoryEvent, scheduled: ActivityTaskScheduled
) -> ActivityTaskRecord:
    headers = run.task_headers
    if run.terms.is_observed:
        machine = run.replayer.find_activity(event.event_id)
        headers = (machine and machine.headers) or headers
    data = TaskData(
        run.workflow_id,
        run.workflow_type,
        run.started.task_queue,
        scheduled,
        event.time,
        headers,
        run.headers,
    )
    return new_row(run.started, event.event_id, data, due_at=event.time)


def row_of(attempt: Attempt, now: int) -> ActivityTaskRecord:
    """The row of an attempt that has not begun, for anyone; its run lets it go."""
    return row_of_attempt(attempt, attempt.due_at or now)


def cancels_of(run: LiveRun, events: Sequence[HistoryEvent]) -> tuple[TaskCancel, ...]:
    """What a turn wants stopped of what others have."""
    found: list[TaskCancel] = []
    for event in events:
        what = event.attributes
        if (
            type(what) is ActivityTaskCancelRequested
            and what.scheduled_event_id in run.offered
        ):
            # If nobody has begun it, that is how it ends.
            outcome = ActivityTaskCanceled(
                what.scheduled_event_id, 1, 0, identity=run.terms.worker_id
            )
            message = encode_message(outcome)
            found.append(TaskCancel(what.scheduled_event_id, REQUESTED, message))
    return tuple(found)


def add_to_commit(
    run: LiveRun,
    operation: CommitTask,
    offers: Offers | None,
    events: Sequence[HistoryEvent],
) -> CommitTask:
    """Put into a turn's commit what it leaves to others, and wants stopped of that."""
    return msgspec.structs.replace(
        operation,
        tasks=() if offers is None else offers.tasks,
        cancels=cancels_of(run, events),
        has_tasks=operation.status is not None,
    )


def add_to_start(operation: StartRun, offers: Offers | None) -> StartRun:
    """The same for the first turn of a run."""
    if offers is None:
        return operation
    return msgspec.structs.replace(operation, tasks=offers.tasks)
