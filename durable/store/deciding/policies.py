"""What every store decides alike, whatever it keeps its rows in.

Pure functions of records: memory and SQL must not differ in whether a start is
accepted, nor in what a refusal says.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Final

from durable import limits
from durable.clock import to_datetime
from durable.core.history.codec import INSTANT_MAX
from durable.core.history.ids import OWN_TYPES
from durable.errors import (
    ActivityNotFoundError,
    AttemptOverError,
    CorruptHistoryError,
    HistoryTakenError,
    InboxFullError,
    InternalError,
    LeaseLostError,
    RunExistsError,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.options import IdConflictPolicy, IdReusePolicy, ParentClosePolicy
from durable.store.activity_tasks import TaskState
from durable.store.records import (
    RUNNING,
    CommitTask,
    ImportRun,
    MessageKind,
    PutMessage,
    RunFilter,
    RunRecord,
    RunStatus,
    Started,
    StartRun,
    TerminateRun,
)

if TYPE_CHECKING:
    from durable.store.activity_tasks import (
        BeatActivityTask,
        CompleteActivity,
        SettleActivityTask,
    )
    from durable.store.deciding.rows import Run, Task
    from durable.store.records import HistoryRow, MessageRecord, WorkerRecord

TERMINATED_EVENT: Final = "WorkflowExecutionTerminated"
REPLY_MICROSECONDS_MAX: Final = round(limits.REPLY_SECONDS_MAX * 1_000_000)

_ABANDON: Final = ParentClosePolicy.ABANDON.value
_POSITION: Final = itemgetter(1)  # of a history row
_BOUNDED: Final = frozenset(
    kind.value for kind in (MessageKind.SIGNAL, MessageKind.UPDATE, MessageKind.QUERY)
)
_FAILED_STATUSES: Final = frozenset(
    {
        RunStatus.FAILED,
        RunStatus.TIMED_OUT,
        RunStatus.CANCELLED,
        RunStatus.TERMINATED,
    }
)


def find_start_answer(
    operation: StartRun,
    *,
    same_request: Run | None,
    open_run: Run | None,
    newest: Run | None,
) -> Started | None:
    """Return the answer of a start that creates nothing, or None to create the run.

    None with an `open_run` means that this run is to be terminated first.

    Args:
        operation: the start.
        same_request: the run that was started under the same request id.
        open_run: the open run of the same workflow id.
        newest: the newest run of the same workflow id; may be left out if the reuse
            policy allows every duplicate.

    Raises:
        WorkflowAlreadyStartedError: the policies forbid the start.
        CorruptHistoryError: nobody can tell whether they do.
    """
    if same_request is not None:
        return Started(run_id=same_request.run_id, created=False)
    policy = operation.conflict_policy
    if open_run is not None:
        match policy:
            case IdConflictPolicy.FAIL:
                raise already_running(open_run)
            case IdConflictPolicy.USE_SAME | IdConflictPolicy.USE_EXISTING:
                return Started(run_id=open_run.run_id, created=False)
            case IdConflictPolicy.TERMINATE_EXISTING:
                return None
    if newest is not None and not _may_reuse(operation.reuse_policy, newest):
        if policy is IdConflictPolicy.USE_SAME or (
            policy is IdConflictPolicy.USE_EXISTING
            and operation.message_if_open is None
        ):
            return Started(run_id=newest.run_id, created=False)
        raise _already_used(newest, operation.reuse_policy)
    return None


def _may_reuse(policy: IdReusePolicy, newest: Run) -> bool:
    match policy:
        case IdReusePolicy.ALLOW_DUPLICATE:
            return True
        case IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY:
            return newest.status in _FAILED_STATUSES
        case IdReusePolicy.REJECT_DUPLICATE:
            return False


def _instant(microseconds: int | None) -> str:
    if not isinstance(microseconds, int) or not 0 <= microseconds <= INSTANT_MAX:
        return "an unknown time"
    return to_datetime(microseconds).strftime("%Y-%m-%dT%H:%M:%SZ")


def already_running(run: Run) -> WorkflowAlreadyStartedError:
    """Build the error of a start whose id an open run holds."""
    return WorkflowAlreadyStartedError(
        f"Workflow id {run.workflow_id!r} has been running since"
        f" {_instant(run.started_at)} (run {run.run_id!r}).",
        hint='Choose another id, or pass on_conflict="use_same" to get that run if it'
        " was started with the same arguments.",
        workflow_id=run.workflow_id,
        run_id=run.run_id,
    )


def _already_used(run: Run, policy: IdReusePolicy) -> WorkflowAlreadyStartedError:
    if run.status is None:
        raise _unknown_status(run)
    return WorkflowAlreadyStartedError(
        f"Workflow id {run.workflow_id!r} was used by a run that ended as"
        f" {run.status.value} at {_instant(run.closed_at)} (run {run.run_id!r}), and"
        f' id_reuse="{policy.word}" forbids using it again.',
        hint='Choose another id, or pass id_reuse="new_run" for another run of it.',
        workflow_id=run.workflow_id,
        run_id=run.run_id,
    )


def is_addressed(operation: PutMessage | TerminateRun, run: Run) -> bool:
    """Tell whether a request names the run, or its chain, or neither in particular."""
    return (
        (operation.namespace, operation.workflow_id) == (run.namespace, run.workflow_id)
        and operation.run_id in (None, run.run_id)
        and operation.first_run_id in (None, run.first_run_id)
    )


def is_bounded(message: PutMessage) -> bool:
    """Tell whether an inbox may be too full for a message.

    How a child ended is a fact, and a request to stop may be what helps: neither is
    refused.
    """
    return message.kind in _BOUNDED


def inbox_full(message: PutMessage) -> InboxFullError:
    """Build the error of one message too many."""
    return InboxFullError(
        f"{limits.INBOX_MESSAGES_MAX:,} messages wait for workflow"
        f" {message.workflow_id!r} in namespace {message.namespace!r}; this one was not"
        " taken.",
        hint="Is a worker with its code running, or is the run stuck? Send it again"
        " once they are read.",
    )


def get_open_target(operation: PutMessage | TerminateRun, run: Run | None) -> Run:
    """Return the run that a request is for, if it can still take it.

    Args:
        operation: the request.
        run: the addressed run of its run id; without one the open run of its workflow
            id and chain, or else the newest.

    Raises:
        WorkflowNotFoundError: there is no such run.
        WorkflowClosedError: it has closed.
        CorruptHistoryError: nobody can tell whether it has.
    """
    if run is None:
        which = "" if operation.run_id is None else f" with run id {operation.run_id!r}"
        if operation.first_run_id is not None:
            which += f" in the chain of run {operation.first_run_id!r}"
        raise WorkflowNotFoundError(
            f"There is no workflow {operation.workflow_id!r}{which}"
            f" in namespace {operation.namespace!r}."
        )
    if run.status is None:
        raise _unknown_status(run)
    if run.status is not RunStatus.RUNNING:
        raise WorkflowClosedError(
            f"Workflow {run.workflow_id!r} (run {run.run_id!r}) ended as"
            f" {run.status.value} at {_instant(run.closed_at)}"
            " and takes no more requests."
        )
    return run


def _unknown_status(run: Run) -> CorruptHistoryError:
    return CorruptHistoryError(
        f"Run {run.run_id!r} has a status which this release does not know.",
        hint="A newer release may have written it: use that.",
    )


def is_open(run: Run) -> bool:
    """Tell whether a run goes on.

    Raises:
        CorruptHistoryError: nobody can tell.
    """
    if run.status is None:
        raise _unknown_status(run)
    return run.status is RUNNING


def activity_not_found(
    operation: BeatActivityTask | CompleteActivity, run: Run | None
) -> ActivityNotFoundError:
    """Build the error of something said of an activity for which nobody waits."""
    where = f"run {operation.run_id!r}"
    why = "it has ended, was cancelled, or never waited for anybody"
    if run is not None:
        where = f"workflow {run.workflow_id!r} ({where})"
        if run.status is not None and run.status is not RUNNING:
            why = f"the run has ended as {run.status.value}"
    return ActivityNotFoundError(
        f"Nobody waits for the activity of event {operation.scheduled_event_id} of"
        f" {where}: {why}. Nothing was done.",
        hint="'durable show' tells how it ended.",
    )


def attempt_over(
    operation: SettleActivityTask | CompleteActivity | BeatActivityTask,
    task: Task | None,
) -> AttemptOverError:
    """Build the error of something said of an attempt that is over."""
    if task is None:
        state = "the activity has ended, or was taken back"
    elif task.attempt != operation.attempt:
        state = f"the activity is at attempt {task.attempt}"
    elif operation.started_at not in (None, task.started_at):
        state = "it has begun anew since, under the same number"
    elif task.state is TaskState.CLAIMED:
        state = f"worker {task.worker_id!r} has it"
    else:
        state = f"it is {task.state or 'in a state of a newer release'}"
    return AttemptOverError(
        f"Attempt {operation.attempt} of the activity of event"
        f" {operation.scheduled_event_id} of run {operation.run_id!r} is not, or"
        f" not any more, what was to be written of: {state}. Nothing was done.",
        hint="Give it up: its outcome does not count any more.",
    )


def needs_guardian(record: RunRecord) -> bool:
    """Tell whether a child's parent must be open for it to begin."""
    return not (
        record.parent_run_id is None
        or record.parent_workflow_id is None
        or record.parent_close_policy == _ABANDON
        or record.status is not RUNNING
        or record.continued_from_run_id is not None
    )


def guardian_of(operation: StartRun) -> PutMessage | None:
    """The parent that must be open for a child to begin, as a message would name it.

    A run that goes on from another needs none: it meets its parent's end like that one.
    Nor does one that ends in its first turn, or that is to outlive its parent.
    """
    record = operation.record
    if not needs_guardian(record):
        return None
    return PutMessage(
        namespace=record.namespace,
        workflow_id=record.parent_workflow_id or "",
        run_id=record.parent_run_id,
        kind="",
        request_id="",
        data="",
    )


def find_unseen(
    operation: CommitTask, messages: list[MessageRecord]
) -> list[MessageRecord]:
    """Return the messages that keep a run from closing."""
    sequences = frozenset(operation.consumed)
    requests = frozenset(operation.consumed_requests)
    return [
        message
        for message in messages
        if message.kind != MessageKind.QUERY.value
        and message.sequence not in sequences
        and message.request_id not in requests
    ]


def lease_lost(worker: WorkerRecord | None) -> LeaseLostError:
    """Build the error of a fenced operation without a lease."""
    if worker is None:
        return LeaseLostError(
            "This operation needs a worker's lease and no worker is registered."
        )
    return LeaseLostError(
        f"The lease of worker {worker.worker_id!r} was taken over; what it wanted to"
        " write was refused.",
        worker_id=worker.worker_id,
    )


def not_owner(run_id: str) -> HistoryTakenError:
    """Build the error of a write to a run that is closed or belongs to another."""
    return HistoryTakenError(
        f"Run {run_id!r} is closed, or this worker does not own it any more;"
        " nothing was written."
    )


def position_taken(run_id: str) -> HistoryTakenError:
    """Build the error of a write to a position that holds an event already."""
    return HistoryTakenError(
        f"A history position of run {run_id!r} is written already; nothing was written."
    )


def position_missing(run_id: str) -> HistoryTakenError:
    """Build the error of a write that would leave a gap in a history."""
    return HistoryTakenError(
        f"The history of run {run_id!r} ends before the events that these were to"
        " follow, or they do not follow each other; nothing was written."
    )


def find_predecessor(rows: list[HistoryRow]) -> int:
    """Return the position that must be there for rows to follow it; 0 without rows.

    Rows that do not follow each other get a position that no history has.
    """
    if not rows:
        return 0
    first, count = rows[0][1], len(rows)
    # After every turn, so without a step of Python for each row.
    if rows[-1][1] - first != count - 1 or (
        count > 2 and list(map(_POSITION, rows)) != list(range(first, first + count))
    ):
        return -1
    return first - 1


def run_exists(record: RunRecord, there: Run) -> RunExistsError:
    """Build the error of an import of a run that is there."""
    what = "its run id"
    if there.run_id != record.run_id:
        what = f"the request id of its start, as run {there.run_id!r}"
    return RunExistsError(
        f"Run {record.run_id!r} of workflow {record.workflow_id!r} is there already, by"
        f" {what}; it was not imported.",
        hint="Import into another database, or leave out what is there"
        " (--skip-existing).",
        workflow_id=record.workflow_id,
        run_id=record.run_id,
    )


def check_beginning(operation: StartRun | ImportRun) -> None:
    """Return if the rows of a start are events 1, 2 and so on, or none.

    Raises:
        HistoryTakenError: they are not.
    """
    rows = operation.rows
    if rows and (rows[0][1] != 1 or find_predecessor(rows)):
        raise position_missing(operation.record.run_id)


def run_id_taken(run_id: str) -> HistoryTakenError:
    """Build the error of a start whose run id was used before."""
    return HistoryTakenError(
        f"Run id {run_id!r} was used before; every start needs a new one."
    )


def worker_taken(worker_id: str) -> LeaseLostError:
    """Build the error of a registration under a worker id that has a row."""
    return LeaseLostError(
        f"Worker id {worker_id!r} is registered already; every registration needs a"
        " new one."
    )


def worker_registered(worker: WorkerRecord) -> InternalError:
    """Build the error of a second registration while the first lease stands."""
    return InternalError(
        f"This store has registered worker {worker.worker_id!r} already;"
        " release it before registering another."
    )


def owner_gone(owner: str, run_id: str) -> LeaseLostError:
    """Build the error of a start that names another owner than this store's worker."""
    return LeaseLostError(
        f"The lease of worker {owner!r}, under which run {run_id!r} was to start, is"
        " over; it was not started.",
        hint="Start it again.",
        worker_id=owner,
    )


def is_due(wake_at: object, now: int) -> bool:
    """Tell whether a new owner must load a run that waits until then.

    It must if nobody can tell until when: loading finds out why.
    """
    if wake_at is None:
        return False
    return not isinstance(wake_at, int) or wake_at <= now or wake_at > INSTANT_MAX


def is_position(value: object) -> bool:
    """Tell whether a number of a row can be what it says: see `records.Position`."""
    return isinstance(value, int) and 0 <= value < 2**31


def page_size(where: RunFilter) -> int:
    """Return how many runs a page of a listing may hold."""
    return max(0, min(where.limit, limits.LIST_PAGE_MAX))


def is_listed(run: RunRecord, where: RunFilter) -> bool:
    """Tell whether a listing shows the run."""
    return (
        (where.status is None or run.status is where.status)
        and (where.workflow_type is None or run.workflow_type == where.workflow_type)
        and not (where.hides_own and run.workflow_type.startswith(OWN_TYPES))
        and (where.workflow_id is None or run.workflow_id == where.workflow_id)
        and (where.parent_run_id is None or run.parent_run_id == where.parent_run_id)
        and (where.stuck is None or (run.stuck is not None) == where.stuck)
        and (where.started_before is None or run.started_at < where.started_before)
        and (where.after is None or (run.started_at, run.run_id) < where.after)
        and (where.run_ids is None or run.run_id in where.run_ids)
    )
