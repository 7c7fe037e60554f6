"""Activities that anyone may take: their rows, and the operations that move them.

How they live is told in docs/design/activity-tasks.md. As for all operations, each is
one atomic change, and a refused one harms no neighbour.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from durable.store.records import ActivityTaskRecord as ActivityTaskRecord
from durable.store.records import AttemptRecord
from durable.store.records import TaskCancel as TaskCancel
from durable.store.records import TaskKey as TaskKey
from durable.store.records import TaskState as TaskState

RUN_CLOSED: Final = "run_closed"
"""The `cancel` of a claimed task whose run has closed."""
CANCEL_CHARS_MAX: Final = 255
"""What is longer of a reason to stop is cut off."""


def request_of_cancel(scheduled_event_id: int) -> str:
    """Return the request id of the message that a cancelled task leaves."""
    return f"cancel-activity:{scheduled_event_id}"


# --- operations -----------------------------------------------------------------------


class ClaimActivityTasks(msgspec.Struct, frozen=True, kw_only=True):
    """Take tasks that wait and are due, to execute them; fenced.

    Of this worker's namespace, one queue after the other, at most `limit` together: by
    priority, then by `due_at`. Those that have expired are left for `TakeExpiredTasks`.
    Of a configured queue no more than it allows: by priority, then by turns of their
    fairness keys.

    Result: a tuple of the records as they are now: claimed by this worker at this
    instant, without `expires_at`, `heartbeat_at` and `cancel`.

    Raises (as outcome):
        LeaseLostError: this worker's lease is gone.
    """

    queues: tuple[tuple[str, tuple[str, ...] | None], ...]
    """Task queues, and the activity types that are known there; None for any."""
    limit: int


class TakeExpiredTasks(msgspec.Struct, frozen=True, kw_only=True):
    """Take tasks that somebody must judge: expired ones, and lost ones; fenced.

    Of this worker's namespace and of any queue or type, at most `limit`, the oldest
    first; none that are claimed, or that a worker with a lease judges already. They
    stay what they are: so whoever comes after a judge that died sees the same.

    Result: a tuple of the records as they are now, with this worker as `judge_id`.

    Raises (as outcome):
        LeaseLostError: this worker's lease is gone.
    """

    limit: int


class SettleActivityTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Say what has become of an attempt that this worker claimed, or judges; fenced.

    With `message` the activity has ended: its row goes, and the message waits for the
    run. With `next` the row is replaced, for another attempt or for somebody outside.
    With neither the row goes. If the run has closed it goes in any case, and nobody is
    told. `attempts` are written (inserted, or replaced by key).

    Result: whether the run is open; or `CancelArrived` if it is to stop for another
    reason than `cancel`, and there was to be another attempt: then nothing was done.

    Raises (as outcome):
        AttemptOverError: the row is not of this attempt, claimed or judged by this
            worker, or is gone; nothing was done.
        LeaseLostError: this worker's lease is gone.
    """

    run_id: str
    scheduled_event_id: int
    attempt: int
    request_id: str = ""
    """Of the message."""
    message: str | None = None
    """JSON of the message; its kind is `MessageKind.ACTIVITY`."""
    next: ActivityTaskRecord | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    cancel: str | None = None
    """Why it is to stop, as far as this worker has heard."""
    started_at: int | None = None
    """When the attempt was claimed, if it must be just that: numbers come again when a
    task is reset, or its run repaired. None for any."""


class CancelArrived(msgspec.Struct, frozen=True):
    """Another attempt was refused, as the activity is to stop."""

    reason: str


class CompleteActivity(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """End an activity from outside; not fenced, anyone may.

    With `attempt`, as a token says it: just that one, which somebody outside completes,
    or which is in the other `state` that is given. None ends whatever attempt there is,
    claimed or waiting, too. `message`, `next` and
    `attempts` are as for `SettleActivityTask`. The same `request_id` again changes
    nothing while its message waits. Result: the run id.

    Raises (as outcome):
        WorkflowNotFoundError: there is no such run.
        ActivityNotFoundError: its activity has ended, or never waited.
        AttemptOverError: it is at another attempt, or in another state.
    """

    namespace: str
    workflow_id: str | None
    """None for any."""
    run_id: str
    scheduled_event_id: int
    attempt: int | None
    request_id: str
    state: TaskState = TaskState.EXTERNAL
    message: str | None = None
    next: ActivityTaskRecord | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    started_at: int | None = None
    """As for `SettleActivityTask`."""


class BeatActivityTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Say that an attempt goes on; fenced, but for `is_external`.

    Result: why it is to stop, or None.

    Raises (as outcome):
        AttemptOverError: this worker has not claimed that attempt, or not any more; or
            `is_external`, and nobody outside completes it.
        ActivityNotFoundError: `is_external`, and it has ended.
        LeaseLostError: this worker's lease is gone.
    """

    run_id: str
    scheduled_event_id: int
    attempt: int
    progress: str | None = None
    """None leaves what is there."""
    expires_at: int | None = None
    """Likewise; only of one that somebody outside completes."""
    is_external: bool = False
    started_at: int | None = None
    """As for `SettleActivityTask`."""


class UpdateActivityTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Change a task, as an operator wants it; not fenced, anyone may.

    None leaves what is there. Result: whether it was done; not if the task is not in
    that state and attempt, or not there.

    One that is judged and gets another `expires_at` is not judged any more.
    """

    run_id: str
    scheduled_event_id: int
    attempt: int
    state: TaskState
    due_at: int | None = None
    """`NEVER` pauses it."""
    priority: int | None = None
    expires_at: int | None = None
    """Of one that waits, or that somebody outside completes."""
    task_queue: str | None = None
    """Only of one that waits."""
    data: str | None = None
    cancel: str | None = None
    """Of a claimed one; empty takes it away."""
    is_reset: bool = False
    """It is at its first attempt again, without progress; only of one that waits."""


TaskOperation: TypeAlias = (
    ClaimActivityTasks
    | TakeExpiredTasks
    | SettleActivityTask
    | CompleteActivity
    | BeatActivityTask
    | UpdateActivityTask
)
