"""What a worker tells its observer, put into the observer's words.

Called only when there is an observer, and only for what happens live.
"""

from __future__ import annotations

from durable.core.history.events import (
    HistoryEvent,
    WorkflowExecutionFailed,
    WorkflowExecutionTimedOut,
)
from durable.core.workflow_task import WorkflowTask
from durable.observer import Observer, WorkerObserver
from durable.runs.effects import AttemptEnd
from durable.runs.live_run import LiveRun
from durable.runs.outgoing import STATUS_OF
from durable.worker.activities.calls import Call


def worker_stopped(watch: WorkerObserver | None) -> None:
    """Tell whoever watched a worker that it has ended; telling it twice is fine."""
    if watch is not None:
        watch.worker_stopped()


def waited(run: LiveRun, task: WorkflowTask, ready_at: int) -> int:
    """How long a turn was due before it begins, in microseconds."""
    due = [ready_at, run.replayer.next_timer_at() or 0]
    if run.replayer.task_count == 0:
        due.append(run.started_at)
    return max([task.now - instant for instant in due if 0 < instant < task.now] or [0])


def attempt_waited(call: Call) -> int:
    """How long an attempt was due before it began, in microseconds."""
    attempt = call.attempt
    return max(0, call.started_at - (attempt.due_at or attempt.scheduled_at))


def attempt_closed(observer: WorkerObserver, end: AttemptEnd, now: int) -> None:
    """Tell how one attempt ended."""
    attempt, failure = end.attempt, end.failure
    observer.activity_closed(
        activity_type=attempt.scheduled.activity_type,
        activity_id=attempt.scheduled.activity_id,
        attempt=attempt.attempt,
        workflow_type=attempt.run.workflow_type,
        run_id=attempt.run.run_id,
        outcome=end.state.value,
        error_type=None if failure is None else failure.type,
        duration=max(0, now - attempt.started_at) if end.has_run else None,
    )


def run_closed(
    observer: Observer,
    run: LiveRun,
    event: HistoryEvent,
    task_queue: str,
) -> None:
    """Tell how a run ended."""
    observer.workflow_closed(
        workflow_type=run.workflow_type,
        workflow_id=run.workflow_id,
        run_id=run.run_id,
        task_queue=task_queue,
        outcome=STATUS_OF[type(event.attributes)].value,
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
