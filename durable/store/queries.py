"""Reads as plain structs, each typed by what it answers.

`Store.read` takes one and answers with its type: a `Query[T]` with a `T`. A further
read is one struct here, one handler in each kind of store, and a rule in the contract.

Where they speak of "this worker" and none is registered, the answer is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from durable.search.conditions import Condition
from durable.search.kinds import Kept
from durable.search.orders import Order
from durable.store.activity_tasks import ActivityTaskRecord, TaskKey, TaskState
from durable.store.queues import QueueRecord, RunTurn, TurnCount
from durable.store.records import (
    AttemptRecord,
    HistoryRow,
    LoadedRun,
    MessageRecord,
    NamespaceRecord,
    OutboxRecord,
    RunFilter,
    RunRecord,
    WorkerRecord,
)

T_co = TypeVar("T_co", covariant=True)


class Query(msgspec.Struct, Generic[T_co], frozen=True, gc=False):
    """Something that a store can be asked; it answers with a `T_co`."""


# --- answers --------------------------------------------------------------------------


class RunNews(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody who waits for a run may wait for.

    Attributes:
        is_stuck: it is parked.
        last_event_id: its newest event; 0 for none.
        replies: the request ids of the replies that wait.
        last_row: the newest event's row, of a closed run.
    """

    run_id: str
    is_open: bool
    is_stuck: bool
    last_event_id: int
    replies: tuple[str, ...]
    last_row: HistoryRow | None


class UnownedRun(NamedTuple):
    """An open run that is due since `wake_at`, and that no worker has taken."""

    run_id: str
    workflow_id: str
    workflow_type: str
    task_queue: str
    version: str | None
    wake_at: int


class QueueBacklog(NamedTuple):
    """What waits in one task queue.

    `runs` are due, and no worker has taken them; the oldest since `oldest_at`. `stuck`
    ones are parked. Neither is counted beyond `limits.BACKLOG_RUNS_MAX`.
    """

    task_queue: str
    runs: int
    oldest_at: int | None
    stuck: int


class VersionCount(NamedTuple):
    """The open runs of one workflow in one version, or in none."""

    workflow_type: str
    version: str | None
    runs: int
    oldest_started_at: int


class CancelledTask(NamedTuple):
    """A task that this worker has claimed, and why it is to stop."""

    run_id: str
    scheduled_event_id: int
    attempt: int
    reason: str


class TaskCount(NamedTuple):
    """How many tasks of a queue are in one state.

    Not counted beyond `limits.BACKLOG_TASKS_MAX`. `oldest_at` is the earliest `due_at`
    among those that were counted.
    """

    task_queue: str
    state: TaskState
    tasks: int
    oldest_at: int


class TaskFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks a listing shows, by run and event; `after` is the last one before."""

    task_queue: str | None = None
    activity_type: str | None = None
    state: TaskState | None = None
    run_id: str | None = None
    after: TaskKey | None = None
    limit: int = 100


def sort_versions(found: Iterable[VersionCount]) -> list[VersionCount]:
    """In the order of their names; those without a version come first."""
    return sorted(found, key=lambda one: (one.workflow_type, one.version or ""))


class OutboxPage(msgspec.Struct, frozen=True):
    """Rows of the outbox that are due.

    Attributes:
        rows: in the order of writing.
        next_at: when the next one is due that is tried again; None if there is none.
        is_whole: False if there may be more that are due.
    """

    rows: list[OutboxRecord] = []
    next_at: int | None = None
    is_whole: bool = True


# --- one run, or some -----------------------------------------------------------------


class LoadRuns(Query[list[LoadedRun]], frozen=True):
    """Everything of these runs, in the order asked; unknown ids are left out."""

    run_ids: Sequence[str]


class ReadMessages(Query[list[MessageRecord]], frozen=True):
    """The messages that wait for this run, in commit order."""

    run_id: str


class ReadReply(Query[str | None], frozen=True):
    """What the owner answered to a message, or None while it has not."""

    run_id: str
    request_id: str


class ReadNews(Query[list[RunNews]], frozen=True):
    """What is new of these runs, at one instant; unknown ids are left out.

    However long their histories are, it costs the same.
    """

    run_ids: Sequence[str]


class ReadHistory(Query[list[HistoryRow]], frozen=True):
    """The run's rows after a position, in order; empty for an unknown run.

    At most `limit`, if that is given.
    """

    run_id: str
    after_event_id: int = 0
    limit: int | None = None


class ReadAttempts(Query[list[AttemptRecord]], frozen=True):
    """The run's attempts, by scheduled event and attempt number."""

    run_id: str


class FindRun(Query[RunRecord | None], frozen=True):
    """One run; without `run_id` the open one of that workflow id, or the newest.

    Where a clock was set back, the open one need not be the newest.
    """

    namespace: str
    workflow_id: str
    run_id: str | None = None


class FindStarted(Query[RunRecord | None], frozen=True):
    """The run that was started under this request id."""

    namespace: str
    request_id: str


class ListRuns(Query[list[RunRecord]], frozen=True):
    """A page of runs, newest first; at most `limits.LIST_PAGE_MAX`."""

    namespace: str
    where: RunFilter


class SearchRuns(Query[list[RunRecord]], frozen=True):
    """A page of the runs that a condition holds for, in order.

    `after` is where the page before ended: the instant that `order` goes by, and run
    id. At most `limits.LIST_PAGE_MAX`.

    Raises:
        QueryTooBroadError: no index tells these runs from so many others.
    """

    namespace: str
    where: Condition | None = None
    order: Order = Order()
    after: tuple[int, str] | None = None
    limit: int = 100


class RunCounts(msgspec.Struct, frozen=True):
    """How many runs there are.

    Attributes:
        total: so many were found.
        is_complete: False if there may be more: not all were looked at.
        groups: of each value; None stands for runs that have none.
    """

    total: int
    is_complete: bool
    groups: dict[Kept | None, int] = {}


class CountRuns(Query[RunCounts], frozen=True):
    """How many runs a condition holds for.

    `group_by` is the name of a field, and whether every run has it.
    """

    namespace: str
    where: Condition | None = None
    group_by: tuple[str, bool] | None = None


class ReadAttributeKinds(Query[dict[str, str]], frozen=True):
    """The kind of each attribute that a run of the namespace has ever had."""

    namespace: str


class ReadNamespaces(Query[list[NamespaceRecord]], frozen=True):
    """The namespaces that were created, by name; or one of them."""

    namespace: str | None = None


# --- what a worker looks for ----------------------------------------------------------


class FindDueRuns(Query[list[str]], frozen=True):
    """This worker's own runs with `wake_at` <= `until`, oldest first."""

    until: int
    limit: int


class FindMailedRuns(Query[list[str]], frozen=True):
    """This worker's open runs that have messages, oldest message first."""

    limit: int


class FindClosedRuns(Query[list[str]], frozen=True):
    """Which of these runs are not open; in the order asked, unknown ids among them."""

    run_ids: Sequence[str]


class FindNextWakeUp(Query[int | None], frozen=True):
    """The earliest `wake_at` of this worker's own runs and of those it could claim."""

    workflow_types: Sequence[str]
    versions: Sequence[tuple[str, str]] = ()


class FindStuckRuns(Query[list[str]], frozen=True):
    """Parked runs that this worker could claim, after this run id; by run id."""

    workflow_types: Sequence[str]
    after: str
    limit: int
    versions: Sequence[tuple[str, str]] = ()


class FindDueVersions(Query[list[tuple[str, str]]], frozen=True):
    """The types and versions of runs at rest that are due by `until`, sorted.

    On this worker's task queue, of these types; those without a version are left out.
    """

    workflow_types: Sequence[str]
    until: int


class FindStuckVersions(Query[list[tuple[str, str]]], frozen=True):
    """The types and versions of parked runs, sorted; otherwise as `FindDueVersions`."""

    workflow_types: Sequence[str]


class CountVersions(Query[list[VersionCount]], frozen=True):
    """How many open runs there are of each workflow and version, sorted."""

    namespace: str


class FindUnowned(Query[list[UnownedRun]], frozen=True):
    """Runs at rest that are due by `until`, of all types and unparked, oldest first."""

    namespace: str
    until: int
    limit: int


class ReadBacklog(Query[list[QueueBacklog]], frozen=True):
    """What waits in each task queue by `until`, by name; without those of nothing.

    Of `limits.BACKLOG_QUEUES_MAX` queues.
    """

    namespace: str
    until: int


class ListNamespaces(Query[list[str]], frozen=True):
    """The namespaces that have runs, open or closed, sorted."""


class ListWorkers(Query[list[WorkerRecord]], frozen=True):
    """All workers that have a row, by worker id."""


class CountOwnedRuns(Query[dict[str, int]], frozen=True):
    """How many open runs each worker owns, by worker id; those with none are left out.

    All of them are live in it. An owner without a row is counted as well.
    """


# --- activities that anyone may take --------------------------------------------------


class FindActivityTask(Query[ActivityTaskRecord | None], frozen=True):
    """One task; None if it has ended, or never waited."""

    run_id: str
    scheduled_event_id: int


class ListActivityTasks(Query[list[ActivityTaskRecord]], frozen=True):
    """A page of tasks, at most `limits.LIST_PAGE_MAX`."""

    namespace: str
    where: TaskFilter = TaskFilter()


class FindCancelledTasks(Query[list[CancelledTask]], frozen=True):
    """Tasks that this worker has claimed and is to stop, by run and event."""


class NextActivityTaskAt(Query[int | None], frozen=True):
    """When this worker may find a task to claim or to judge; past if it would now.

    Of the queues and types that it would claim from; None if there is none. What is
    paused does not count.
    """

    queues: tuple[tuple[str, tuple[str, ...] | None], ...]
    limits_at: int | None = None
    """The present, if what the limits of configured queues forbid is not to count
    either. When a token of a rate comes is told; when something ends, commits tell."""


class ReadQueues(Query[list[QueueRecord]], frozen=True):
    """The queues that somebody has configured, by name."""

    namespace: str


class NextRunTurnAt(Query[int | None], frozen=True):
    """When this worker may find a run of its queue whose turn it is, as of `now`.

    None if there is none, or only what has a slot stands in the way: when it ends,
    commits tell.
    """

    workflow_types: Sequence[str]
    now: int
    versions: Sequence[tuple[str, str]] = ()


class CountRunTurns(Query[list[TurnCount]], frozen=True):
    """How many runs wait for their turn, and how many have a slot, by queue."""

    namespace: str


class FindRunTurn(Query[RunTurn | None], frozen=True):
    """The place of a run that waits for its turn, or its slot; None if it has none."""

    run_id: str


class CountActivityTasks(Query[list[TaskCount]], frozen=True):
    """How many tasks there are, by queue and state."""

    namespace: str


class FindOutbox(Query[OutboxPage], frozen=True):
    """The oldest rows of the outbox that are due by `until`.

    None of a target of which an older row waits for its next try.
    """

    namespace: str
    until: int
    limit: int


class ReadOutbox(Query[OutboxRecord | None], frozen=True):
    """A row of the outbox by its outbox id; None once it is delivered, and before."""

    outbox_id: str


class ListOutbox(Query[list[OutboxRecord]], frozen=True):
    """Rows of the outbox after this sequence, in the order of writing.

    Those that are set aside, or those that are not; None for both, and for the
    namespaces of all.
    """

    namespace: str | None
    is_aside: bool | None = None
    after: int = 0
    limit: int = 100


class CheckIntegrity(Query[list[str]], frozen=True):
    """What the database finds wrong with itself; empty if nothing."""
