"""Rows as plain structs, and the operations that change them.

An operation is one atomic change. A store commits many operations in one transaction,
yet each succeeds or fails by itself: one refused operation never harms its neighbours.
"""

# size: rows and operations of one protocol, which are read together.

from __future__ import annotations

import contextlib
import enum
from typing import Annotated, Any, Final, NamedTuple, TypeAlias

import msgspec

from durable.core.history.codec import INSTANT_MAX
from durable.errors import DurableError
from durable.options import IdConflictPolicy, IdReusePolicy

HistoryRow: TypeAlias = tuple[str, int, int, str, int, str, int]
"""run id, event id, task number, event type, time, data (JSON text), flags.

A bare tuple: it goes from the worker to the driver without another copy.
"""


Instant: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=INSTANT_MAX)]
"""Microseconds since 1970, before the year 10000; rows are checked against it."""
AT_ONCE: Final = 1 << 60
"""What lies between now and a `wake_at` that is due by every clock.

A message is there, whatever the clock of who put it said, or of who takes it.
"""
NEVER: Final = INSTANT_MAX
"""The `wake_at` of a run that is paused: only a message to resume it wakes it."""
WakeUp: TypeAlias = Annotated[int, msgspec.Meta(ge=-AT_ONCE, le=INSTANT_MAX)]
"""An instant, or if it is negative: at once, since `AT_ONCE` more."""
Position: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
"""The number of an event or attempt; likewise."""


class RunStatus(enum.StrEnum):
    """Where a run stands. Every status but RUNNING is final."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TERMINATED = "terminated"
    TIMED_OUT = "timed_out"
    CONTINUED_AS_NEW = "continued_as_new"


PAUSED: Final = "paused"
"""What people ask for as if it were a status: runs that somebody has paused."""
STUCK: Final = "stuck"
"""What people ask for as if it were a status: runs that are parked, and so running."""


WAITING: Final = "waiting"
"""What people call a run that waits for its turn in a queue, and so is running."""


def at_once(now: int) -> int:
    """A `wake_at` that is due by every clock, behind those that were so before."""
    return now - AT_ONCE


def due_since(wake_at: int) -> int:
    """The instant that a `wake_at` stands for."""
    return wake_at + AT_ONCE if wake_at < 0 else wake_at


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One run's row.

    Attributes:
        owner: the worker that has something of it under way: attempts, starts of
            children, inputs that no task has taken. None at rest: then any worker that
            knows its type goes on with it at `wake_at`.
        wake_at: when its earliest timer, retry or timeout is due; at rest it is at
            once (see `at_once`) if a message waits that nobody has seen.
        stuck: why it is parked (a `Failure` as JSON), or None. A run that is paused is
            parked for that.
        request_id: the idempotency key of its start.
        parent_initiated_event_id: the event of its parent that asked for it.
        parent_close_policy: what becomes of it when its parent closes: `terminate`,
            `abandon` or `request_cancel`; None without a parent.
        state: what its code published last (a `Payload` as JSON), or None.
        checkpoint_event_id: its newest checkpoint; replay begins there. 0 without one.
        epoch: grows with each write of a worker that does not own it before and after
            that. What a worker keeps of a run is of an epoch, and stale in the next.
        attributes: what it is found by, as `durable.search.kinds.pack` writes it.
        memo: what else was said of it, likewise.
        damage: why what the database holds cannot be read, or None. Other fields are
            what is left of it then, and mean little. Never stored.
    """

    namespace: str
    workflow_id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: RunStatus
    started_at: Instant
    first_run_id: str
    request_id: str
    closed_at: Instant | None = None
    owner: str | None = None
    wake_at: WakeUp | None = None
    stuck: str | None = None
    version: str | None = None
    continued_from_run_id: str | None = None
    parent_workflow_id: str | None = None
    parent_run_id: str | None = None
    root_run_id: str | None = None
    parent_initiated_event_id: Position | None = None
    parent_close_policy: str | None = None
    state: str | None = None
    checkpoint_event_id: Position = 0
    epoch: Position = 0
    attributes: str | None = None
    memo: str | None = None
    damage: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether a worker has something of it under way."""
        return self.owner is not None


class AttemptState(enum.StrEnum):
    """Where one attempt of an activity stands."""

    BACKOFF = "backoff"
    """Waits until `due_at`; certainly not begun."""
    STARTED = "started"
    """Begun, or about to; after a crash its outcome is in doubt."""
    RETURNED = "returned"
    """Its function has returned what cannot be recorded as it is: its run parks, and it
    is run again only if somebody says so. `failure` keeps what can be kept."""
    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its worker died; nobody knows how it ended."""


# For what every run passes: on Python 3.11 reading a member of an enum is a call.
RUNNING: Final = RunStatus.RUNNING
ATTEMPT_COMPLETED: Final = AttemptState.COMPLETED


class AttemptRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt of an activity.

    The first attempt of a locally started activity has no row until it has failed: its
    scheduled event records it. Every later one has a row before its first line runs.
    """

    run_id: str
    scheduled_event_id: Position
    attempt: Position
    activity_type: str
    state: AttemptState
    due_at: Instant
    started_at: Instant | None = None
    closed_at: Instant | None = None
    failure: str | None = None
    worker_id: str | None = None
    details: str | None = None
    """JSON of what its last heartbeat said."""
    heartbeat_at: Instant | None = None

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What `repr` and `rich` show: not what activities said, as logs keep that."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        said = {name: "..." for name in ("failure", "details") if shown[name]}
        return [*(shown | said).items()]

    def __repr__(self) -> str:
        """Show it without what it said."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"AttemptRecord({fields})"


TaskKey: TypeAlias = tuple[str, int]
"""run id, id of the event that has scheduled the activity."""


class TaskState(enum.StrEnum):
    """Where an activity stands that is not its run's owner's to do."""

    WAITING = "waiting"
    """Certainly not begun: from `due_at` on anyone may claim it."""
    CLAIMED = "claimed"
    """An attempt has begun, or is about to, in `worker_id`."""
    LOST = "lost"
    """Its worker died in the middle of it, and nobody has decided what that means."""
    EXTERNAL = "external"
    """Somebody outside completes the attempt, by its token."""


OF_RUNS: Final = "\x1f"
"""Ends the name of the row that says what whole runs of a queue may; no queue that
people name has this character."""
TASK_PRIORITY: Final = 3
"""That of a task which has been given none; less comes first."""


class ActivityTaskRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One activity's row, from its scheduling to its outcome.

    Attributes:
        attempt: the number of the attempt that waits or has begun.
        priority: less comes first.
        due_at: nobody claims it earlier; `NEVER` while it is paused.
        expires_at: from then on it is to be judged (see `TakeExpiredTasks`), whatever
            it waits for. None if it claimed: then its worker and its lease tell. 0 if
            it is lost.
        worker_id: who has claimed it, or has died of it.
        started_at: when it was claimed.
        judge_id: the worker that judges it, having expired or been lost. If that worker
            has no row any more, another may.
        cancel: why a claimed one is to stop; a word, as a rule.
        data: JSON of what an executor needs; the store does not look into it.
        progress: JSON of what is known of its attempts; likewise.
        fairness_key: whose it is; the keys of a configured queue take turns. Empty for
            one that names none.
        fairness_weight: so many of its key may begin in one turn.
    """

    run_id: str
    scheduled_event_id: Position
    namespace: str
    task_queue: str
    activity_type: str
    attempt: Position
    due_at: Instant
    data: str
    state: TaskState = TaskState.WAITING
    priority: Position = TASK_PRIORITY
    expires_at: Instant | None = None
    worker_id: str | None = None
    started_at: Instant | None = None
    heartbeat_at: Instant | None = None
    judge_id: str | None = None
    cancel: str | None = None
    progress: str | None = None
    fairness_key: str = ""
    fairness_weight: Position = 1

    @property
    def key(self) -> TaskKey:
        """What it is found by."""
        return self.run_id, self.scheduled_event_id


class TaskCancel(NamedTuple):
    """What a run wants stopped: see `CommitTask.cancels`.

    `message` is JSON of the outcome that counts if nobody has claimed the task.
    """

    scheduled_event_id: int
    reason: str
    message: str


class MessageKind(enum.Enum):
    """What a message asks of its run."""

    CANCEL = "cancel"
    SIGNAL = "signal"
    UPDATE = "update"
    CHILD = "child"
    """How a child workflow ended."""
    ACTIVITY = "activity"
    """How an activity ended that was not its run's owner's to do."""
    RESOLVE = "resolve"
    """Says what to do about an activity that has returned, see `AttemptState`."""
    PAUSE = "pause"
    """Nothing of it begins any more."""
    RESUME = "resume"
    QUERY = "query"
    """Asks for a reply and changes nothing: it never keeps a run from closing."""


class MessageRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message from outside that waits to be moved into a run's history.

    Attributes:
        sequence: its place in commit order; 0 until stored.
        kind: a `MessageKind`'s value; an unknown one parks its run.
        request_id: the sender's idempotency key, unique within the run.
        data: the message as JSON.
    """

    run_id: str
    kind: str
    request_id: str
    data: str
    created_at: Instant
    sequence: int = 0


class ReplyRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a run's owner answers to a message of another process.

    It waits until the asker has read it, or for `limits.REPLY_SECONDS_MAX`.
    """

    run_id: str
    request_id: str
    data: str
    created_at: int


class WorkerStatus(enum.StrEnum):
    """What a worker that has a row does."""

    RUNNING = "running"
    DRAINING = "draining"
    """It waits for what it has under way, takes nothing more, and leaves."""


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker tells of itself, each time that it renews its lease.

    Attributes:
        queues: those that it serves for activities, and how many of each it runs at
            once.
        workflows, activities: the names of the types that it knows.
        runs, runs_max: in memory, and how many of those at rest it keeps there.
        running, running_max: its activities, and how many may run at once.
    """

    queues: dict[str, int]
    workflows: list[str] | None = None
    activities: list[str] | None = None
    runs: int | None = None
    runs_max: int | None = None
    running: int | None = None
    running_max: int | None = None


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One worker process's row: its lease.

    Attributes:
        worker_id: names this registration and no other, before or after it: what the
            worker still writes when its row is gone is refused.
        host: identifies machine, boot and process namespace, so that a process id
            means something; two workers with the same host can check each other's pid.
        process_started_at: tells a process id that was used again from the same one.
        places: its `WorkerReport` as JSON; of earlier releases its `queues` alone, or
            None if it did not say.
        damage: why its row cannot be read, or None. Other fields are what is left of
            it then; a lease that cannot be read is over. Never stored.
    """

    worker_id: str
    namespace: str
    host: str
    pid: int
    process_started_at: str
    task_queue: str
    started_at: Instant
    lease_expires_at: Instant = 0
    status: WorkerStatus = WorkerStatus.RUNNING
    places: str | None = None
    damage: str | None = None

    @property
    def report(self) -> WorkerReport | None:
        """What it tells of itself; None if it does not, or that cannot be read."""
        text = self.places or ""
        with contextlib.suppress(msgspec.MsgspecError):
            return msgspec.json.decode(text, type=WorkerReport)
        with contextlib.suppress(msgspec.MsgspecError):
            return WorkerReport(queues=msgspec.json.decode(text, type=dict[str, int]))
        return None


class LoadedRun(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a worker needs to go on with a run, read at one instant.

    Attributes:
        record: `damage` speaks of everything here but the history.
        rows: its whole history; after a checkpoint the first row, then those from the
            newest checkpoint on. They are as they were found; decoding checks them.
        tasks: by scheduled event, the activities that have a row of
            `durable.store.activity_tasks`.
    """

    record: RunRecord
    rows: list[HistoryRow]
    messages: list[MessageRecord]
    attempts: list[AttemptRecord]
    tasks: dict[int, TaskState] = {}


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs a listing shows; newest first."""

    status: RunStatus | None = None
    workflow_type: str | None = None
    workflow_id: str | None = None
    parent_run_id: str | None = None
    stuck: bool | None = None
    limit: int = 100
    started_before: int | None = None
    """Only runs that started before this instant."""
    after: tuple[int, str] | None = None
    """Only runs that come after this one in the listing: the next page's bound, its
    `started_at` and run id, as several may have started at one instant."""
    hides_own: bool = False  # runs of `OWN_TYPES`, such as schedules
    run_ids: tuple[str, ...] | None = None
    """Only these, at most `limits.LOAD_RUNS_MAX`."""


# --- operations -----------------------------------------------------------------------


class StartRun(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Create a run with its first events.

    A run that ends in its first task is created closed: `record` has that status then,
    no owner and no `wake_at`, and is inactive.

    Result: `Started`. `record.owner` set, of it or of what it starts in turn, means
    that this store's worker starts it and the operation is fenced. With the same
    `request_id` as an earlier start it answers with that run and changes nothing,
    whatever the policies say. After terminating an existing run the reuse policy is not
    asked.

    USE_SAME answers with the run that holds the id, like USE_EXISTING: whether it is
    the same that was asked for only the caller can tell, who knows the types. It needs
    no transaction, as what a run began with never changes.

    Raises (as the operation's outcome):
        WorkflowAlreadyStartedError: the policies forbid it, or it would end its parent.
        LeaseLostError: an owner is set and this worker's lease is gone, or it names
            another worker.
        HistoryTakenError: the run id was used before.
        AttributeTypeError: an attribute of its namespace has another type.
        WorkflowClosedError, WorkflowNotFoundError: the record begins an open child that
            is not to outlive its parent, and that parent is not open.
    """

    record: RunRecord
    rows: list[HistoryRow]
    reuse_policy: IdReusePolicy = IdReusePolicy.ALLOW_DUPLICATE
    conflict_policy: IdConflictPolicy = IdConflictPolicy.FAIL
    wants_found: bool = False
    """Fill in `Started.found`."""
    terminated_data: str = ""
    """JSON of the WorkflowExecutionTerminated event for TERMINATE_EXISTING."""
    message_if_open: PutMessage | None = None
    """Put if USE_EXISTING answers with an open run, or the request id with one that
    is open: the signal or update of a start that carries one. It goes to that run,
    whatever its own address says; `committed.deliveries` names the run then. A closed
    run takes none, so USE_EXISTING fails for it."""
    messages: tuple[PutMessage, ...] = ()
    starts: tuple[StartRun, ...] = ()
    """As for `CommitTask`; only if the run is created."""
    tasks: tuple[ActivityTaskRecord, ...] = ()
    """Likewise."""

    @property
    def driver(self) -> str | None:
        """The worker that is to own it, or what it starts as it ends."""
        if self.record.owner is not None:
            return self.record.owner
        return next((s.driver for s in self.starts if s.driver is not None), None)


class Started(msgspec.Struct, frozen=True):
    """What `StartRun` did: `run_id` holds the id now; `created` if it is the new one.

    `terminated_run_id` names the run that TERMINATE_EXISTING closed in the same
    transaction; `committed` says what else was done in it, None if nothing was.
    """

    run_id: str
    created: bool
    terminated_run_id: str | None = None
    committed: Committed | None = None
    found: FoundRun | None = None


class FoundRun(msgspec.Struct, frozen=True):
    """The run that a start was answered with, for whoever must compare the two.

    Attributes:
        first_data: JSON of the event that its chain of runs began with, so what was
            asked for under its id; None if that row is gone.
    """

    record: RunRecord
    first_data: str | None


class Properties(msgspec.Struct, frozen=True, kw_only=True):
    """What a run says of itself, all of it, once it has changed any of that.

    `namespace` is the run's. The others are as in its row.
    """

    namespace: str
    attributes: str | None
    memo: str | None


class CommitTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Append what one workflow task decided; fenced.

    `status` None leaves the run open. Closing (any other status) is refused with
    `MailArrived` if the inbox holds messages for the run that are not in `consumed`;
    nothing of the operation is kept then. A closed run has no owner, no `wake_at` and
    is not stuck.

    It is taken of a run that this worker owns or that is at rest, in `epoch`; if it was
    at rest, that is over then. At rest the run is due at once while messages wait that
    are neither consumed nor `known`.

    Queries that wait never keep a run from closing; they are deleted with it.

    Besides, in the same transaction and in this order: `messages` are put, each with
    an outcome of its own; closing with `has_children` applies the parent close policies
    of its open children, and of theirs where those are terminated; `starts` are carried
    out, each with an outcome of its own. A message to the run itself reaches it only if
    it stays open.

    Result: None, `MailArrived`, or `Committed` if there are messages, starts or
    `cancels`, or if it closes with children.

    Raises (as outcome):
        HistoryTakenError: a position of `rows` is written already, by another owner or
            by a termination, or the run is another worker's, or has been since; nothing
            of this operation was kept.
        LeaseLostError: this worker's lease is gone; nothing was kept.
        AttributeTypeError: an attribute of its namespace has another type; likewise.
    """

    run_id: str
    rows: list[HistoryRow]
    epoch: int = 0
    status: RunStatus | None = None
    closed_at: int | None = None
    update_run: bool = False
    """Write who owns it and `wake_at` too, and clear `stuck`."""
    is_active: bool = True
    """This worker owns it from now on; False leaves it at rest."""
    wake_at: int | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    consumed: tuple[int, ...] = ()
    """Sequences of the inbox messages that `rows` hold; deleted with the commit."""
    consumed_requests: tuple[str, ...] = ()
    """The same by request id, for messages that never were read from the inbox."""
    known: tuple[int, ...] = ()
    """Sequences of messages that the run has seen and that go on waiting."""
    replies: tuple[ReplyRecord, ...] = ()
    """Inserted, or replaced by key."""
    state: str | None = None
    """What the run published; None leaves it as it is."""
    checkpoint_event_id: int | None = None
    """The run's newest checkpoint; None leaves it as it is."""
    properties: Properties | None = None
    """Attributes and memo, if the turn changed them."""
    messages: tuple[PutMessage, ...] = ()
    """For other runs; one that was refused harms nothing else."""
    starts: tuple[StartRun, ...] = ()
    """Only with `status`: the next run of the chain (same workflow id), and children
    that outlive their parent."""
    has_children: bool = False
    sees_all_mail: bool = False
    """Be refused with `MailArrived` without closing too: `rows` hold messages that
    never were in the inbox, and those that are must come first."""
    tasks: tuple[ActivityTaskRecord, ...] = ()
    """Activities of this run for anyone to take. That of an event which came before
    `rows` takes the place of its task, if it has one."""
    withdrawn: tuple[int, ...] = ()
    """Scheduled events whose tasks go, whoever has them: what that one writes is
    refused."""
    cancels: tuple[TaskCancel, ...] = ()
    """Tasks that are to stop. One that nobody has claimed goes, and its message waits
    for the run in its place; who has claimed it is told the reason."""
    has_tasks: bool = False
    """It may have tasks. If it closes, those that are claimed are to stop for
    `RUN_CLOSED`, and all others go."""


class Committed(msgspec.Struct, frozen=True):
    """What one transaction did to other runs.

    Attributes:
        deliveries: for each of `messages` the run id that it was put to, or why not.
        started: for each of `starts` what it did, or why it was refused.
        ended: open runs that were terminated by their parent close policy.
        cancelled: open runs that were asked to stop by it; their inboxes hold that.
        notified: the open parent of a run that was terminated; its inbox holds that.
        stopped: scheduled events of tasks that `cancels` have ended; the inbox of their
            run holds that.
    """

    deliveries: tuple[str | DurableError, ...] = ()
    started: tuple[Started | DurableError, ...] = ()
    ended: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()
    notified: tuple[str, ...] = ()
    stopped: tuple[int, ...] = ()


class MailArrived(msgspec.Struct, frozen=True):
    """A commit was refused: these messages must be seen by the run first."""

    messages: list[MessageRecord]


class RecordAttempts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Write attempts (insert or replace by key) and the run's wake-up; fenced.

    A stuck run stays stuck. `epoch`, `is_active`, `wake_at`, `known`, `tasks`,
    `withdrawn` and `cancels` are as for `CommitTask`. Result: None, or `Committed` if
    there are `cancels`.

    Raises (as outcome):
        HistoryTakenError: the run is closed, another worker's, or has been since.
        LeaseLostError: this worker's lease is gone.
    """

    run_id: str
    attempts: tuple[AttemptRecord, ...]
    is_active: bool
    wake_at: int | None
    epoch: int = 0
    known: tuple[int, ...] = ()
    tasks: tuple[ActivityTaskRecord, ...] = ()
    withdrawn: tuple[int, ...] = ()
    cancels: tuple[TaskCancel, ...] = ()


class ParkRun(msgspec.Struct, frozen=True, kw_only=True):
    """Set the run aside as stuck; fenced. History is not touched.

    It is at rest then and has no `wake_at`; each worker that starts, and each message,
    has it tried once more. With the `wake_at` `NEVER`, only a message to resume it has,
    also one that waits already. Result: None.

    Raises (as outcome):
        HistoryTakenError, LeaseLostError: as for `RecordAttempts`.
    """

    run_id: str
    stuck: str
    epoch: int = 0
    wake_at: int | None = None


class PutMessage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Put a message into the inbox of an open run; not fenced, anyone may.

    Without `run_id` the open run of `workflow_id` is meant; with `first_run_id` it must
    belong to that chain of runs, or there is no such run, even if another chain has one
    open. A run at rest is due at once. The same `request_id` again changes nothing
    while the first message waits; once that was consumed, it is the run's history that
    knows the request id. Result: the run id.

    Raises (as outcome):
        WorkflowNotFoundError: there is no such run, or no such chain.
        WorkflowClosedError: it has closed, or every run of the chain has.
        InboxFullError: `limits.INBOX_MESSAGES_MAX` messages wait for it, and it is a
            signal, an update or a query.
    """

    namespace: str
    workflow_id: str
    run_id: str | None
    kind: str
    request_id: str
    data: str
    first_run_id: str | None = None


class TerminateRun(msgspec.Struct, frozen=True, kw_only=True):
    """Close a run at once, whoever owns it; not fenced by the caller's lease.

    Appends WorkflowExecutionTerminated after the newest event, and takes the run from
    its owner, whose next write is refused. Messages
    that wait in the inbox are deleted: nobody will read them. Its tasks end as when it
    closes. Its parent, if open, gets
    a CHILD message (unless no event of its asked for the run); its open children meet
    their parent close policies. Runs that a parent close policy terminates end in the
    same way, but tell nobody. Result: `Terminated`.

    Raises (as outcome):
        WorkflowNotFoundError, WorkflowClosedError: as for `PutMessage`.
    """

    namespace: str
    workflow_id: str
    run_id: str | None
    data: str
    first_run_id: str | None = None


class ResetRun(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Create a run that goes on from what another has done; not fenced, anyone may.

    In its place, under the same workflow id and in the same chain, or beside it as a
    fork. What is open of the chain is closed as by `TerminateRun`, except that its
    parent is told nothing; of what waits for it the `moved_kinds` go to the new run,
    behind `messages`. Children of the base that are open belong to the new run if they
    are among `kept_children`, and tell it how they end; all others meet their parent
    close policies, as do those of the run that is closed. A fork changes nothing else.

    Result: `Started`, with the run that was closed and what that did to others. With
    the same `request_id` of `record` as an earlier one it answers with that run. None
    if anything is not as `expected`, if a run is open that is not among those, or the
    base has a child that is in neither list: nothing was done then.

    Raises (as outcome):
        WorkflowNotFoundError: there is no base.
        WorkflowAlreadyStartedError: another chain, or for a fork any, holds the id.
        HistoryTakenError: the run id was used before.
        AttributeTypeError: an attribute of its namespace has another type.
    """

    base_run_id: str
    record: RunRecord
    rows: list[HistoryRow]
    expected: tuple[tuple[str, int, bool], ...]
    """Runs that it goes by: run id, id of the newest event, whether it is open."""
    is_fork: bool = False
    terminated_data: str = ""
    """JSON of the WorkflowExecutionTerminated event of what is open."""
    attempts: tuple[AttemptRecord, ...] = ()
    messages: tuple[MessageRecord, ...] = ()
    moved_kinds: tuple[str, ...] = ()
    kept_children: tuple[str, ...] = ()
    """By the first run id of each; likewise `undone_children`."""
    undone_children: tuple[str, ...] = ()


class RepairRun(msgspec.Struct, frozen=True, kw_only=True):
    """Give an open run another end of its history, and to any worker; not fenced.

    Events after `keep` make room for `rows`, which follow it. The run is taken from its
    owner, whose next write is refused, and is at rest, unstuck and due at once: whoever
    takes it finds out what it waits for, with the code of `version` if that is given.
    Tasks of the events that went go, too.
    Nothing else may change a history that is written. Result: whether it was done; not
    if the run has closed, or its history is not at the positions `expected` any more.
    """

    run_id: str
    expected: tuple[int, ...]
    keep: int
    rows: list[HistoryRow] = []
    version: str | None = None


class Terminated(msgspec.Struct, frozen=True):
    """The run that was closed, and what its parent close policies did."""

    run_id: str
    committed: Committed


class NamespaceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A namespace that somebody has created.

    Attributes:
        retention_days: how long its closed runs are kept; None for ever.
        defaults: JSON of the `RunDefaults` of runs that begin in it, if it has some.
    """

    namespace: str
    created_at: Instant
    retention_days: Position | None = None
    description: str | None = None
    defaults: str | None = None


class PutNamespace(msgspec.Struct, frozen=True, kw_only=True):
    """Create a namespace, or change one that was created. Result: whether it was done.

    It is not if there is one and `is_new`, or none and not; nothing changes then. One
    that is changed keeps its `created_at`.
    """

    record: NamespaceRecord
    is_new: bool


class Need(enum.StrEnum):
    """Why a run stays that was to be deleted."""

    OPEN = "open"
    CHILD = "child"
    """A child of it is open."""
    PARENT = "parent"
    """Its parent is open and has work, perhaps to record how this child began."""
    CHAIN = "chain"
    """Its chain goes from its oldest end, but for the first run, which goes last."""
    REPLY = "reply"
    """Somebody has yet to read what it answered."""


class DeleteRuns(msgspec.Struct, frozen=True, kw_only=True):
    """Delete closed runs with all that belongs to them; not fenced, anyone may.

    At most `limits.DELETE_RUNS_MAX`. Those that a `Need` names stay, whole. Result:
    `Deleted`; ids of which there is no run are in none of its fields.
    """

    run_ids: tuple[str, ...]
    heeds_replies: bool = True
    """Replies that nobody has read yet keep a run, too."""
    is_whole: bool = False
    """If one of them stays, all of them do."""
    events_max: int | None = None
    """The first of them, with so many events together; one, however many it has."""
    is_dry: bool = False
    """Delete nothing, and say what would be."""


class Deleted(msgspec.Struct, frozen=True):
    """Which runs are gone, and which stay, and why; and which were not looked at."""

    run_ids: tuple[str, ...] = ()
    kept: dict[str, Need] = {}
    left: tuple[str, ...] = ()


class ImportRun(msgspec.Struct, frozen=True, kw_only=True):
    """Create a closed run as it was elsewhere, for whoever reads; not fenced.

    It has no owner and no `wake_at`. Nothing else happens; the workflow id may be that
    of any other run. Result: None. A dry one only raises what the other would.

    Raises (as outcome):
        RunExistsError: its run id, or the request id of its start, is there.
        HistoryTakenError: its rows are not events 1, 2 and so on.
        AttributeTypeError: an attribute of its namespace has another type.
    """

    record: RunRecord
    rows: list[HistoryRow]
    attempts: tuple[AttemptRecord, ...] = ()
    is_dry: bool = False


class DropReplies(msgspec.Struct, frozen=True, kw_only=True):
    """Delete replies that were read: run id and request id of each. Result: None."""

    keys: tuple[tuple[str, str], ...]


class OutboxKind(enum.Enum):
    """What a row of the outbox asks for."""

    START = "start"
    MESSAGE = "message"


class OutboxRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a program has asked for in a transaction of its own; see `DeliverOutbox`.

    Attributes:
        sequence: its place in the order of writing; 0 until stored.
        outbox_id: names it to its writer: the run id of a start, or its request id.
        target: the workflow id that it is for. Rows of one are delivered in order.
        kind: an `OutboxKind`'s value; an unknown one is set aside.
        data: what is asked for, as JSON.
        due_at: 0 for at once; later if it was refused, and None once it is set aside:
            then only an operator has it tried again.
        tries: how often it was refused.
        failure: why it was refused last (a `Failure` as JSON), or None.
        damage: why its row cannot be read, or None. Other fields are what is left of
            it then, and nothing of it is done. Never stored.
    """

    outbox_id: str
    namespace: str
    target: str
    kind: str
    data: str
    created_at: Instant
    sequence: int = 0
    due_at: Instant | None = 0
    tries: Position = 0
    failure: str | None = None
    damage: str | None = None


class OutboxItem(msgspec.Struct, frozen=True):
    """A row of the outbox, and what it asks for; None if it is only to go."""

    sequence: int
    operation: StartRun | PutMessage | None = None


class DeliverOutbox(msgspec.Struct, frozen=True, kw_only=True):
    """Do what rows of the outbox ask for, and delete them; not fenced, anyone may.

    One after the other, up to the first that is not done; that one and all after it
    stay. A row that is not there any more was delivered by somebody else.

    Result: of each item up to that one its `Delivered`, or why it was refused.
    """

    items: tuple[OutboxItem, ...]


class Delivered(msgspec.Struct, frozen=True):
    """What became of a row of the outbox.

    Attributes:
        is_gone: it is not there any more, now or since before.
        result: of its operation, if that was done now. A `Started` with a `found` run
            was not: whether that run will do only the caller can tell, as for a start,
            and it is the last one then.
    """

    is_gone: bool
    result: Started | str | None = None


class SettleOutbox(msgspec.Struct, frozen=True, kw_only=True):
    """Say when a row of the outbox is tried again, and why not before; not fenced.

    `due_at` and `failure` are as in its row. Result: whether it was done; not if it is
    not there any more, or its `tries` are not `expected`, unless that is None.
    """

    sequence: int
    due_at: int | None
    tries: int
    failure: str | None = None
    expected: int | None = None


class ClaimRuns(msgspec.Struct, frozen=True, kw_only=True):
    """Make this worker the owner of runs at rest that are due; fenced.

    Takes runs of `workflow_types` in this worker's namespace and on its task queue, at
    most `limit`, by the oldest wake-up; runs that have a version only if `versions` has
    the pair of type and version. With `stuck_after` it takes stuck ones instead, due or
    not, after this run id; by run id. They are stuck no more: their owner tries them.

    Result: of each run taken its new epoch, in order.
    """

    workflow_types: tuple[str, ...]
    limit: int
    stuck_after: str | None = None
    versions: tuple[tuple[str, str], ...] = ()
    in_turn: bool = False
    """Heed how many runs of the queue may begin, see `OF_RUNS`. Those that are due and
    have not begun line up, at `NEVER`; of all that wait as many as may are taken."""


class ReleaseRuns(msgspec.Struct, frozen=True, kw_only=True):
    """Leave runs at rest and due, so that any worker may claim them; fenced.

    Runs that this worker does not own are left as they are. Result: None.
    """

    run_ids: tuple[str, ...]


class ReapWorkers(msgspec.Struct, frozen=True, kw_only=True):
    """Take from dead workers what they have: runs, and tasks.

    Dead are all whose lease has ended, and those in `presumed_dead` (seen to be dead
    by their process id on this host). Their rows go, so that whatever they still try
    to write is refused; their runs are at rest and due, and what they have claimed of
    tasks is lost, and to be judged. A worker never reaps itself.
    Replies older than `limits.REPLY_SECONDS_MAX` go too.

    Result: the worker ids reaped, sorted.
    """

    presumed_dead: tuple[str, ...] = ()
