"""What a worker tells its observer, put into the observer's words.

Called only when there is an observer, and only for what happens live.
"""

from __future__ import annotations

from durable.core.events import (
    HistoryEvent,
    WorkflowExecutionFailed,
    WorkflowExecutionTimedOut,
)
from durable.core.payload import Failure
from durable.core.workflow_task import WorkflowTask
from durable.observer import Observer, WorkerObserver
from durable.store.records import AttemptState, RunStatus
from durable.worker.live_run import Attempt, LiveRun


def worker_stopped(watch: WorkerObserver | None) -> None:
    """Tell whoever watched a worker that it has ended; telling it twice is fine."""
    if watch is not None:
        watch.worker_stopped()


def waited(run: LiveRun, task: WorkflowTask) -> int:
    """How long a turn was due before it begins, in microseconds."""
    ready_at, run.ready_at = run.ready_at, 0
    due = [ready_at, run.replayer.next_timer_at() or 0]
    if run.replayer.task_count == 0:
        due.append(run.started_at)
    return max([task.now - instant for instant in due if 0 < instant < task.now] or [0])


def attempt_waited(attempt: Attempt) -> int:
    """How long an attempt was due before it began, in microseconds."""
    return max(0, attempt.started_at - (attempt.due_at or attempt.scheduled_at))


def attempt_closed(
    observer: WorkerObserver,
    attempt: Attempt,
    state: AttemptState,
    failure: Failure | None,
    now: int,
) -> None:
    """Tell how one attempt ended."""
    scheduled = attempt.scheduled
    observer.activity_closed(
        activity_type=scheduled.activity_type,
        activity_id=scheduled.activity_id,
        attempt=attempt.attempt,
        workflow_type=attempt.run.workflow_type,
        run_id=attempt.run.run_id,
        outcome=state.value,
        error_type=None if failure is None else failure.type,
        duration=None if attempt.task is None else max(0, now - attempt.started_at),
    )


def run_closed(
    observer: Observer,
    run: LiveRun,
    event: HistoryEvent,
    status: RunStatus,
    task_queue: str,
) -> None:
    """Tell how a run ended."""
    observer.workflow_closed(
        workflow_type=run.workflow_type,
        workflow_id=run.workflow_id,
        run_id=run.run_id,
        task_queue=task_queue,
        outcome=status.value,
        error_type=_error_type(event),
        started_at=run.started_at,
        closed_at=event.time,
        headers=run.headers,
    )


def _error_type(event: HistoryEvent) -> str | None:
    terminal = event.attributes
    if isinstance(terminal, WorkflowExecutionFailed):
        failure = terminal.failure
        # A workflow fails by what its activity raised: that names the error.
        cause = failure.cause if failure.kind == "activity" else None
        return (cause or failure).type
    if isinstance(terminal, WorkflowExecutionTimedOut):
        return "WorkflowTimedOutError"
    return None
