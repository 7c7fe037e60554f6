"""What a group of operations knows of rows, and what it makes of them.

`look` brings a `Seen`, `decide` turns it and the operations into `Rows`, and `write`
puts those into the database: one row for each run that changed, however many
operations changed it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from durable.store.activity_tasks import TaskKey, TaskState
from durable.store.records import (
    HistoryRow,
    Properties,
    RunRecord,
    RunStatus,
    SettleOutbox,
)

if TYPE_CHECKING:
    from durable.errors import DurableError
    from durable.store.activity_tasks import ActivityTaskRecord
    from durable.store.records import AttemptRecord, MessageRecord, ReplyRecord

NameKey: TypeAlias = tuple[str, str]
"""namespace, workflow id."""
RequestKey: TypeAlias = tuple[str, str]
"""run id, request id; of a start: namespace, request id."""
ChainKey: TypeAlias = tuple[str, str, str]
"""namespace, workflow id, first run id."""
AttributeRow: TypeAlias = tuple[str, str, int, str, int, str | None, int | None]
"""run id, name, position, namespace, start of the run, text, number."""
End: TypeAlias = tuple[int, int, int]
"""Id of a run's newest event, number of its last workflow task, time of that event."""

RESET: Final = "~"
"""Begins the name of what is no attribute but a reset: the id of the new run, or
nothing where it is not known."""
ATTRIBUTE_NAME_CHARS: Final = 64

NOTHING: Final[Mapping[Any, Any]] = MappingProxyType({})

# What a group changes of a run.
CREATED: Final = 1
CLOSED: Final = 2
"""Status and instant; it has no owner and waits for nothing any more."""
MOVED: Final = 4
"""`owner`, `wake_at` and `epoch`."""
PARKED: Final = 8
"""`stuck`, with those; None takes it away."""
PUBLISHED: Final = 16
"""`state` and `checkpoint_event_id`; None leaves what is there."""
DESCRIBED: Final = 32
"""`properties`: attributes and memo."""


class Run(msgspec.Struct, gc=False):
    """A run as one group of operations has it at some moment.

    Attributes:
        status: None for one that no release up to this one wrote.
        last_event_id: its newest event; 0 for none.
        changes: what of it the group has changed.
        stuck: with the two that follow, meaningful only as far as `changes` says.
        last_row: the newest event, if the group wrote it.
        record: what it was created with, if the group did that.
    """

    run_id: str
    namespace: str
    workflow_id: str
    first_run_id: str
    status: RunStatus | None
    closed_at: int | None
    owner: str | None
    started_at: int
    parent_run_id: str | None
    parent_close_policy: str | None
    last_event_id: int
    wake_at: int | None = None
    epoch: int = 0
    changes: int = 0
    stuck: str | None = None
    state: str | None = None
    checkpoint_event_id: int | None = None
    last_row: HistoryRow | None = None
    record: RunRecord | None = None
    properties: Properties | None = None


class Name(msgspec.Struct):
    """Who holds a workflow id: its open run, and its newest, open or closed."""

    open: Run | None = None
    newest: Run | None = None


class Task(msgspec.Struct, gc=False):
    """An activity's row, as far as it is looked at: see `ActivityTaskRecord`.

    Attributes:
        state: None for one that no release up to this one wrote.
    """

    run_id: str
    scheduled_event_id: int
    namespace: str
    state: TaskState | None
    attempt: int
    worker_id: str | None = None
    judge_id: str | None = None
    cancel: str | None = None
    started_at: int | None = None

    @property
    def key(self) -> TaskKey:
        """What it is found by."""
        return self.run_id, self.scheduled_event_id


class TaskChange(msgspec.Struct, gc=False):
    """What a group changes of a task; None leaves what is there.

    An empty text, or a number of -1, takes away what is there.
    """

    state: TaskState | None = None

    attempt: int | None = None
    task_queue: str | None = None
    priority: int | None = None
    due_at: int | None = None
    expires_at: int | None = None
    worker_id: str | None = None
    started_at: int | None = None
    heartbeat_at: int | None = None
    judge_id: str | None = None
    cancel: str | None = None
    data: str | None = None
    progress: str | None = None

    @staticmethod
    def of(**fields: Any) -> TaskChange:
        """Return the change of these fields; None takes away what is there."""
        for name, value in fields.items():
            if value is None:
                fields[name] = -1 if name.endswith("_at") else ""
        return TaskChange(**fields)

    @property
    def given(self) -> dict[str, Any]:
        """What changes; None stands for what is taken away."""
        fields = msgspec.structs.asdict(self).items()
        return {n: None if v in ("", -1) else v for n, v in fields if v is not None}


class TaskRows(msgspec.Struct):
    """What a group writes of activities that anyone may take.

    Attributes:
        put: to be inserted, or replaced in their places: who waits for such a row must
            find it, and not that it is gone.
        changed: others that change.
        ended: to delete, if they are there.
    """

    put: dict[TaskKey, ActivityTaskRecord] = {}
    changed: dict[TaskKey, TaskChange] = {}
    ended: dict[TaskKey, None] = {}


class Seen(msgspec.Struct):
    """What `look` brought. Deciding uses it up.

    A key that is missing was not looked for; None, or an empty value, stands for what
    is not there. A database may bring more than was asked for.

    Attributes:
        has_worker: the worker of this store has its row.
        first_sequence: the oldest message of all inboxes; None if all are empty, and
            then `mail` and `requests_of_mail` need not be filled.
        last_sequence: the highest that was ever given; None if it was not asked for.
        most_waiting: no inbox of those that messages go to holds more; None if only the
            sequences tell.
        mail: of each run the waiting messages by request id: sequence and kind.
        all_mail: the runs whose `mail` is all that waits for them.
        looked: the messages that were looked for one by one.
        messages: all that waits for a run, with its data; or why it cannot be read.
        children: the open children of a run.
        first_data: JSON of a run's first event; None if that row is gone.
        kinds: of attributes, by namespace and name; None if none has that name yet.
        tasks: those that were found.
        looked_tasks: the keys that were looked for.
        all_tasks: the runs of which all tasks were looked for.
        is_again: the group is looked at for `again`.
        outbox: how often each row of the outbox was refused, by its sequence.
    """

    has_worker: bool = False
    first_sequence: int | None = None
    last_sequence: int | None = None
    most_waiting: int | None = None
    runs: dict[str, Run | None] = {}
    names: dict[NameKey, Name] = {}
    requests: dict[RequestKey, Run | None] = {}
    # What most groups never ask for is made when they do.
    mail: Mapping[str, dict[str, tuple[int, str]]] = NOTHING
    all_mail: Collection[str] = ()
    looked: Collection[RequestKey] = ()
    chains: Mapping[ChainKey, Run | None] = NOTHING
    messages: Mapping[str, list[MessageRecord] | DurableError] = NOTHING
    children: Mapping[str, list[Run]] = NOTHING
    ends: Mapping[str, End] = NOTHING
    records: Mapping[str, RunRecord] = NOTHING
    first_data: Mapping[str, str | None] = NOTHING
    kinds: Mapping[NameKey, str | None] = NOTHING
    tasks: Mapping[TaskKey, Task] = NOTHING
    looked_tasks: Collection[TaskKey] = ()
    all_tasks: Collection[str] = ()
    is_again: bool = False
    outbox: Mapping[int, int | None] = NOTHING

    def find_open(self, key: NameKey) -> str | None:
        """Return the open run of a name that was looked for."""
        run = self.names[key].open
        return None if run is None else run.run_id


class Rows(msgspec.Struct):
    """What a group writes. No key of one table is in it twice, nor in two lists.

    To be written in this order, but for what the database does not care about.

    Attributes:
        changed: runs that were there; `changes` says what of them is to be written.
        created: runs as they are in the end, with all that was done to them since.
        consumed: messages to delete, by run id and sequence.
        consumed_requests: the same by run id and request id.
        emptied: runs whose inboxes are to be emptied.
        letters: messages to insert, in the order of their sequences.
        last_sequence: the highest sequence that was given, if any was.
        replies: to be inserted or replaced; None stands for one to delete.
        reindexed: runs whose attributes are to be deleted, before others are inserted.
        attributes: rows of attributes to insert.
        marks: of resets, by run and name, to be inserted or replaced.
        kinds: of attributes that are new, by namespace and name, to insert.
        adopted: children that belong to another parent now, with its run id.
        tasks: what becomes of activities that anyone may take, if anything does.
        delivered: rows of the outbox to delete.
        settled: rows of the outbox to change.
    """

    changed: list[Run] = []
    created: list[RunRecord] = []
    history: list[HistoryRow] = []
    attempts: dict[tuple[str, int, int], AttemptRecord] = {}
    replies: dict[RequestKey, ReplyRecord | None] = {}
    consumed: list[tuple[str, int]] = []
    consumed_requests: list[RequestKey] = []
    emptied: list[str] = []
    letters: list[MessageRecord] = []
    last_sequence: int | None = None
    reindexed: list[str] = []
    attributes: list[AttributeRow] = []
    marks: dict[tuple[str, str], AttributeRow] = {}
    kinds: dict[NameKey, str] = {}
    adopted: dict[str, str] = {}
    tasks: TaskRows | None = None
    delivered: dict[int, None] = {}
    settled: dict[int, SettleOutbox] = {}


def age_of(run: Run) -> tuple[bool, int, str]:
    """Sort runs by it as the database does, whatever an instant was changed into."""
    at = run.started_at
    return (True, 0, run.run_id) if type(at) is not int else (False, at, run.run_id)
