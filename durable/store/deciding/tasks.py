"""Activities that anyone may take, as operations of one group leave them: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import msgspec

from durable.errors import WorkflowNotFoundError
from durable.store.activity_tasks import (
    CANCEL_CHARS_MAX,
    RUN_CLOSED,
    CancelArrived,
    CompleteActivity,
    SettleActivityTask,
    TaskState,
    request_of_cancel,
)
from durable.store.deciding import policies
from durable.store.deciding.rows import CREATED, Task, TaskChange, TaskRows
from durable.store.records import CommitTask, MessageKind

if TYPE_CHECKING:
    from durable.store.activity_tasks import (
        ActivityTaskRecord,
        BeatActivityTask,
        TaskKey,
        UpdateActivityTask,
    )
    from durable.store.deciding.draft import Draft
    from durable.store.deciding.inboxes import Inboxes
    from durable.store.deciding.rows import Run
    from durable.store.records import RecordAttempts

_Ending: TypeAlias = SettleActivityTask | CompleteActivity

_WAITING = TaskState.WAITING
_CLAIMED = TaskState.CLAIMED
_LOST = TaskState.LOST
_EXTERNAL = TaskState.EXTERNAL
_ACTIVITY = MessageKind.ACTIVITY.value


class Tasks:
    """The tasks as they are after some of a group's operations."""

    def __init__(self, draft: Draft, inboxes: Inboxes) -> None:
        """Begin with what was seen."""
        self._draft = draft
        self._inboxes = inboxes
        draft.rows.tasks = self._rows = TaskRows()
        self._now: dict[str, dict[int, Task | None]] = {}
        self._seen: dict[str, dict[int, Task]] = {}
        for (run_id, event_id), task in draft.seen.tasks.items():
            self._seen.setdefault(run_id, {})[event_id] = task

    # --- what is there ----------------------------------------------------------------

    def _find(self, key: TaskKey) -> Task | None:
        run_id, event_id = key
        now = self._now.get(run_id, {})
        if event_id in now:
            return now[event_id]
        seen = self._draft.seen
        if key not in seen.looked_tasks and run_id not in seen.all_tasks:
            run = seen.runs.get(run_id)
            if run is None or not run.changes & CREATED:
                self._draft.lack("tasks", key)
        return self._seen.get(run_id, {}).get(event_id)

    def _find_all(self, run: Run) -> list[Task]:
        run_id, all_tasks = run.run_id, self._draft.seen.all_tasks
        if not run.changes & CREATED and run_id not in all_tasks:
            self._draft.lack("all_tasks", run_id)
        found: dict[int, Task | None] = {**self._seen.get(run_id, {})}
        found.update(self._now.get(run_id, {}))
        return [task for task in found.values() if task is not None]

    def _note(self, key: TaskKey, task: Task | None) -> None:
        self._now.setdefault(key[0], {})[key[1]] = task

    def foresee(self, run: Run) -> None:
        """Have all tasks of a run looked at, if they were not, beside what else is."""
        if run.run_id not in self._draft.seen.all_tasks and not run.changes & CREATED:
            self._draft.lacking.append(("all_tasks", run.run_id))

    # --- what becomes of it -----------------------------------------------------------

    def put(self, record: ActivityTaskRecord) -> None:
        """Insert a task, or replace it."""
        key, rows = record.key, self._rows
        rows.put[key] = record
        rows.changed.pop(key, None)
        rows.ended.pop(key, None)
        task = Task(
            *(record.run_id, record.scheduled_event_id, record.namespace),
            *(record.state, record.attempt),
            *(record.worker_id, record.judge_id, record.cancel),
            record.started_at,
        )
        self._note(key, task)

    def end(self, key: TaskKey) -> None:
        """Delete a task, if it is there."""
        rows = self._rows
        rows.put.pop(key, None)
        rows.changed.pop(key, None)
        rows.ended[key] = None
        self._note(key, None)

    def _change(self, task: Task, change: TaskChange) -> None:
        rows, key = self._rows, task.key
        if change.attempt is not None:
            task.attempt = change.attempt
        if change.cancel is not None:
            task.cancel = change.cancel or None
        if change.judge_id is not None:
            task.judge_id = change.judge_id or None
        self._note(key, task)
        put, before = rows.put.get(key), rows.changed.get(key)
        if put is not None:
            rows.put[key] = msgspec.structs.replace(put, **change.given)
        elif before is not None:
            fields = msgspec.structs.asdict(change).items()
            new = {name: value for name, value in fields if value is not None}
            rows.changed[key] = msgspec.structs.replace(before, **new)
        else:
            rows.changed[key] = change

    def _stop(self, task: Task, reason: str) -> None:
        self._change(task, TaskChange(cancel=reason[:CANCEL_CHARS_MAX]))

    # --- what their runs do -----------------------------------------------------------

    def apply(
        self, run: Run, operation: CommitTask | RecordAttempts
    ) -> tuple[int, ...]:
        """Do to a run's tasks what its owner wants; return those that were stopped."""
        run_id = run.run_id
        for event_id in operation.withdrawn:
            self.end((run_id, event_id))
        for record in operation.tasks:
            self.put(record)
        is_closing = isinstance(operation, CommitTask) and operation.status is not None
        stopped: list[int] = []
        for event_id, reason, message in operation.cancels:
            task = self._find((run_id, event_id))
            if task is None:
                continue
            if task.state in (_CLAIMED, _LOST):  # who judges it knows how it has ended
                self._stop(task, reason)
                continue
            self.end(task.key)
            stopped.append(event_id)
            if not is_closing:
                request_id = request_of_cancel(event_id)
                self._inboxes.put(run, (run_id, request_id, _ACTIVITY, message))
        return tuple(stopped)

    def close(self, run: Run) -> None:
        """Let the tasks of a run that closes end, or be told to."""
        for task in self._find_all(run):
            if task.state is _CLAIMED:
                self._stop(task, RUN_CLOSED)
            else:
                self.end(task.key)

    # --- what others do ---------------------------------------------------------------

    def settle(self, operation: SettleActivityTask, owner: str) -> bool | CancelArrived:
        """See `SettleActivityTask`; the lease is held."""
        task = self._find((operation.run_id, operation.scheduled_event_id))
        if (
            task is None
            or not _is_of(task, operation)
            or owner != (task.worker_id if task.state is _CLAIMED else task.judge_id)
        ):
            raise policies.attempt_over(operation, task)
        run = self._draft.find_run(operation.run_id)
        is_open = run is not None and policies.is_open(run)
        if (
            is_open
            and operation.message is None
            and operation.next is not None
            and task.cancel not in (None, operation.cancel)
        ):
            return CancelArrived(task.cancel or "")
        self._put_attempts(operation)
        if run is not None and is_open:
            self._pass_on(run, operation)
        else:
            self.end(task.key)
        return is_open

    def complete(self, operation: CompleteActivity) -> str:
        """See `CompleteActivity`."""
        run = self._draft.find_run(operation.run_id)
        workflow_id = operation.workflow_id
        if (
            run is None
            or run.namespace != operation.namespace
            or workflow_id not in (None, run.workflow_id)
        ):
            of = "" if workflow_id is None else f" of workflow {workflow_id!r}"
            raise WorkflowNotFoundError(
                f"There is no run {operation.run_id!r}{of} in namespace"
                f" {operation.namespace!r}."
            )
        if policies.is_open(run) and self._is_repeated(run, operation):
            return run.run_id
        task = self._find((operation.run_id, operation.scheduled_event_id))
        if task is None or not policies.is_open(run):
            # Its message may be there since the inbox was looked at.
            if not self._draft.seen.is_again:
                self._draft.lack("again", ())
            raise policies.activity_not_found(operation, run)
        if operation.attempt is not None and (
            task.state is not operation.state or not _is_of(task, operation)
        ):
            raise policies.attempt_over(operation, task)
        self._put_attempts(operation)
        self._pass_on(run, operation)
        return run.run_id

    def _is_repeated(self, run: Run, operation: CompleteActivity) -> bool:
        return operation.message is not None and self._inboxes.waits(
            run, operation.request_id
        )

    def _put_attempts(self, operation: _Ending) -> None:
        for one in operation.attempts:
            key = (one.run_id, one.scheduled_event_id, one.attempt)
            self._draft.rows.attempts[key] = one

    def _pass_on(self, run: Run, operation: _Ending) -> None:
        """Tell an open run, or begin another attempt, or neither."""
        if operation.message is None and operation.next is not None:
            self.put(operation.next)
            return
        self.end((operation.run_id, operation.scheduled_event_id))
        if operation.message is not None:
            letter = (operation.request_id, _ACTIVITY, operation.message)
            self._inboxes.put(run, (run.run_id, *letter))

    def beat(self, operation: BeatActivityTask, owner: str) -> str | None:
        """See `BeatActivityTask`; the lease is held, unless somebody outside calls."""
        task = self._find((operation.run_id, operation.scheduled_event_id))
        if operation.is_external:
            if task is None:
                raise policies.activity_not_found(operation, None)
            is_held = task.state is _EXTERNAL
        else:
            is_held = (
                task is not None and task.state is _CLAIMED and task.worker_id == owner
            )
        if task is None or not is_held or not _is_of(task, operation):
            raise policies.attempt_over(operation, task)
        change = TaskChange(
            heartbeat_at=self._draft.now,
            progress=operation.progress,
            expires_at=operation.expires_at if operation.is_external else None,
        )
        self._change(task, change)
        return task.cancel

    def update(self, operation: UpdateActivityTask) -> bool:
        """See `UpdateActivityTask`."""
        task = self._find((operation.run_id, operation.scheduled_event_id))
        if (
            task is None
            or task.state is not operation.state
            or task.attempt != operation.attempt
        ):
            return False
        change = TaskChange(
            priority=operation.priority, due_at=operation.due_at, data=operation.data
        )
        if operation.task_queue is not None:
            if task.state is not _WAITING:
                return False
            change.task_queue = operation.task_queue
        if operation.is_reset:
            if task.state is not _WAITING:
                return False
            change.attempt, change.progress = 1, ""
        if task.state is _CLAIMED:
            if operation.cancel is not None:
                change.cancel = operation.cancel[:CANCEL_CHARS_MAX]
        elif task.state is not _LOST and operation.expires_at is not None:
            change.expires_at, change.judge_id = operation.expires_at, ""
        self._change(task, change)
        return True


def _is_of(task: Task, operation: _Ending | BeatActivityTask) -> bool:
    """Whether a task is at the attempt that somebody speaks of."""
    return task.attempt == operation.attempt and operation.started_at in (
        None,
        task.started_at,
    )
