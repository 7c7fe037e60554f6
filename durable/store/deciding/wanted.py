"""What a group of operations must look at before anything is decided: pure.

All that the operations name is known beforehand. What depends on what is found there
(the parent of a run that is to be terminated, the text of a message that keeps a run
from closing) is asked for by `decide`, and brought by a second look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec

from durable.options import IdConflictPolicy
from durable.search.kinds import kinds_in
from durable.store.activity_tasks import (
    BeatActivityTask,
    CompleteActivity,
    SettleActivityTask,
    UpdateActivityTask,
    request_of_cancel,
)
from durable.store.deciding import policies
from durable.store.deciding.rows import NameKey, RequestKey, Run
from durable.store.records import (
    RUNNING,
    CommitTask,
    DeliverOutbox,
    ImportRun,
    ParkRun,
    PutMessage,
    RecordAttempts,
    ResetRun,
    SettleOutbox,
    StartRun,
    TerminateRun,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from durable.store.records import OutboxItem

# How a run is locked, where a database locks rows: all of a group in one statement, in
# the order of run ids, and never more strongly later.
ADDRESSED: Final = 0
"""It must stay open: it gets a message, or a child."""
COMMITTED: Final = 1
"""It is written to."""
CLOSED: Final = 2
"""It may close, or come to rest: whoever addresses it must wait for that."""

# On Python 3.11 reading a member is a call.
_TERMINATE_EXISTING: Final = IdConflictPolicy.TERMINATE_EXISTING


Lack: TypeAlias = tuple[str, Any]
"""A field of `Wanted`, and a key of it; None for a flag.

Or of `Seen`, of what is rare: `looked`, `chains`, `records` (with their ends),
`messages`, `first_data`, and `kinds` and `outbox`, which `want` asks for, too.
Likewise `tasks`, whose rows are to be locked, and `all_tasks`, of runs; and `again`: a
task that was to be completed is not there, and on a server it may have ended since its
inbox was read.
"""


class Letter(NamedTuple):
    """A message that may be put for a run of that id, beside those of `PutMessage`."""

    run_id: str
    request_id: str
    namespace: str = ""
    workflow_id: str = ""


class Wanted(msgspec.Struct):
    """What to look at. Names of fields are those of `Seen`.

    Attributes:
        worker_id: this store's worker, whose row says that it holds its lease.
        has_time: the time matters.
        is_addressed: some runs are looked for as messages name them.
        moves: a run that stays open may change hands, or its wake-up.
        runs: how each is to be locked.
        places: of runs that are written to, the newest event and the epoch as their
            worker believes. If the group does nothing else (`is_narrow`), all that a
            database need tell of a run is that the worker owns it, and that this is so.
        names: likewise, for the open run of each.
        letters: messages that will be put, whomever they reach: their sequences must
            be known, and whether they wait already.
        mail: runs of which all that waits must be known.
        requests: with the ids of the runs to be created under them. Whether those were
            used before need not be known: keys will refuse them.
        families: runs whose open children are wanted, and theirs where a parent close
            policy terminates them, with their ends.
        rare: the keys of all else, by field.
    """

    worker_id: str | None = None
    has_time: bool = False
    is_addressed: bool = False
    moves: bool = False
    runs: dict[str, int] = {}
    places: dict[str, tuple[int, int]] = {}
    names: dict[NameKey, int] = {}
    requests: dict[RequestKey, str] = {}
    letters: list[PutMessage | Letter] = []
    mail: dict[str, None] = {}
    families: dict[str, None] = {}
    # Only ever asked for by `decide`.
    sequence: bool = False
    rare: dict[str, dict[Any, None]] = {}

    def add(self, lacking: Iterable[Lack]) -> bool:
        """Want that, too; False if all of it was wanted already."""
        before = self._size
        for field, key in lacking:
            if key is None:
                setattr(self, field, True)
            elif field in self.__struct_fields__:
                getattr(self, field).setdefault(key, ADDRESSED)
            else:
                self.rare.setdefault(field, {})[key] = None
        return self._size > before

    def find_letters(
        self, find_open: Callable[[NameKey], str | None]
    ) -> set[RequestKey]:
        """Return the run and request of each message that will be put, if it can be.

        `find_open` tells the open run of a name.
        """
        found: set[RequestKey] = set(self.rare.get("looked", ()))
        for letter in self.letters:
            run_id = letter.run_id
            if run_id is None:
                run_id = find_open((letter.namespace, letter.workflow_id))
            if run_id is not None:
                found.add((run_id, letter.request_id))
        return found

    @property
    def is_narrow(self) -> bool:
        """Whether nothing of the runs matters but `places`."""
        return len(self.places) == len(self.runs) and not (
            self.names or self.is_addressed or self.families or self.rare
        )

    @property
    def only_continues(self) -> bool:
        """Whether owned runs stay as they are, but for what they do after `places`."""
        return self.is_narrow and not (
            self.moves or self.mail or self.has_time or self.sequence
        )

    def believed_runs(self) -> dict[str, Run | None]:
        """The runs of `places` as their worker believes them."""
        return {
            run_id: Run(
                *(run_id, "", "", "", RUNNING, None, self.worker_id, 0, None, None),
                *(event_id, None, epoch),
            )
            for run_id, (event_id, epoch) in self.places.items()
        }

    @property
    def _size(self) -> int:
        size = self.has_time + self.sequence + len(self.runs) + len(self.names)
        size += len(self.requests) + len(self.mail) + len(self.families)
        return size + sum(map(len, self.rare.values()))


def want(operations: Iterable[Any], worker_id: str | None) -> Wanted:
    """Return what these operations must look at."""
    wanted = Wanted(worker_id)
    runs, mail, places = wanted.runs, wanted.mail, wanted.places
    for operation in operations:
        kind: Any = operation.__class__
        if kind is CommitTask:
            run_id = operation.run_id
            if operation.rows and run_id not in runs:
                places[run_id] = (operation.rows[0][1] - 1, operation.epoch)
            if operation.status is not None:
                runs[run_id] = CLOSED
                mail[run_id] = None
                if operation.closed_at is None:
                    wanted.has_time = True
                if operation.has_children:
                    wanted.has_time = True
                    wanted.families[run_id] = None
            else:
                if operation.update_run:
                    wanted.moves = True
                if operation.update_run and not operation.is_active:
                    runs[run_id] = CLOSED
                elif runs.get(run_id, ADDRESSED) == ADDRESSED:
                    runs[run_id] = COMMITTED
                if operation.sees_all_mail or not operation.is_active:
                    mail[run_id] = None
            if operation.messages:
                for message in operation.messages:
                    _want_message(wanted, message)
            if operation.starts:
                for start in operation.starts:
                    _want_nested(wanted, start)
            what = operation.properties
            if what is not None and what.attributes is not None:
                _want_kinds(wanted, what.namespace, what.attributes)
            if operation.tasks or operation.withdrawn or operation.cancels:
                _want_tasks(wanted, operation)
            if operation.has_tasks and operation.status is not None:
                wanted.rare.setdefault("all_tasks", {})[run_id] = None
        elif kind is StartRun:
            _want_start(wanted, operation)
        elif kind is PutMessage:
            _want_message(wanted, operation)
        elif kind is RecordAttempts or kind is ParkRun:
            if kind is ParkRun or not operation.is_active:
                runs[operation.run_id] = CLOSED
            elif runs.get(operation.run_id, ADDRESSED) == ADDRESSED:
                runs[operation.run_id] = COMMITTED
            if kind is RecordAttempts:
                if not operation.is_active:
                    mail[operation.run_id] = None
                _want_tasks(wanted, operation)
            if kind is ParkRun and operation.wake_at is not None:
                wanted.has_time = True
                mail[operation.run_id] = None
        elif kind is ImportRun:
            _want_import(wanted, operation)
        elif kind is TerminateRun:
            wanted.has_time = True
            _want_addressed(wanted, operation, CLOSED)
        elif kind is ResetRun:
            _want_reset(wanted, operation)
        elif kind in _OF_ONE_TASK:
            _want_task(wanted, operation)
        elif kind is DeliverOutbox:
            _want_outbox(wanted, operation.items)
        elif kind is SettleOutbox:
            wanted.rare.setdefault("outbox", {})[operation.sequence] = None
    return wanted


_OF_ONE_TASK: Final = frozenset(
    {SettleActivityTask, CompleteActivity, BeatActivityTask, UpdateActivityTask}
)


def _want_tasks(wanted: Wanted, operation: CommitTask | RecordAttempts) -> None:
    run_id = operation.run_id
    rows = operation.rows if isinstance(operation, CommitTask) else ()
    keys = [(run_id, event_id) for event_id in operation.withdrawn]
    keys += [
        task.key
        for task in operation.tasks
        if not rows or task.scheduled_event_id < rows[0][1]  # else it is new
    ]
    keys += [(run_id, cancel[0]) for cancel in operation.cancels]
    if keys:
        wanted.rare.setdefault("tasks", {}).update(dict.fromkeys(keys))
    for cancel in operation.cancels:
        wanted.has_time = True
        wanted.letters.append(Letter(run_id, request_of_cancel(cancel[0])))


def _want_task(
    wanted: Wanted,
    operation: (
        SettleActivityTask | CompleteActivity | BeatActivityTask | UpdateActivityTask
    ),
) -> None:
    run_id = operation.run_id
    key = (run_id, operation.scheduled_event_id)
    wanted.rare.setdefault("tasks", {})[key] = None
    if isinstance(operation, UpdateActivityTask):
        return
    wanted.has_time = True
    if isinstance(operation, SettleActivityTask | CompleteActivity):
        wanted.is_addressed = True
        wanted.runs.setdefault(run_id, ADDRESSED)
        if operation.message is not None:
            wanted.letters.append(Letter(run_id, operation.request_id))


def _want_import(wanted: Wanted, operation: ImportRun) -> None:
    record = operation.record
    wanted.runs.setdefault(record.run_id, ADDRESSED)
    wanted.runs.setdefault(record.first_run_id, ADDRESSED)
    name = (record.namespace, record.workflow_id)
    wanted.names.setdefault(name, ADDRESSED)
    request = (record.namespace, record.request_id)
    wanted.requests.setdefault(request, record.run_id)
    if record.attributes is not None:
        _want_kinds(wanted, record.namespace, record.attributes)


def _want_outbox(wanted: Wanted, items: Iterable[OutboxItem]) -> None:
    outbox = wanted.rare.setdefault("outbox", {})
    for item in items:
        outbox[item.sequence] = None
        if isinstance(item.operation, StartRun):
            _want_nested(wanted, item.operation)
        elif item.operation is not None:
            _want_message(wanted, item.operation)


def _want_reset(wanted: Wanted, reset: ResetRun) -> None:
    wanted.has_time = True
    record = reset.record
    wanted.names[record.namespace, record.workflow_id] = CLOSED
    wanted.requests[record.namespace, record.request_id] = record.run_id
    wanted.runs.setdefault(record.run_id, ADDRESSED)
    # Of runs that are only addressed nobody looks how far they have come.
    for run_id in (reset.base_run_id, *(place[0] for place in reset.expected)):
        if not reset.is_fork:
            wanted.runs[run_id] = CLOSED
        elif wanted.runs.get(run_id, ADDRESSED) == ADDRESSED:
            wanted.runs[run_id] = COMMITTED
    if not reset.is_fork:
        wanted.families[reset.base_run_id] = None
    if record.attributes is not None:
        _want_kinds(wanted, record.namespace, record.attributes)


def _want_start(wanted: Wanted, start: StartRun) -> None:
    record = start.record
    name = (record.namespace, record.workflow_id)
    if start.conflict_policy is _TERMINATE_EXISTING:
        wanted.names[name] = CLOSED
        wanted.has_time = True
    else:
        wanted.names.setdefault(name, ADDRESSED)
    request = (record.namespace, record.request_id)
    if wanted.requests.setdefault(request, record.run_id) != record.run_id:
        # Two of one request: the id of this one is not looked for beside its request.
        wanted.runs.setdefault(record.run_id, ADDRESSED)
    if record.parent_run_id is not None and policies.needs_guardian(record):
        wanted.runs.setdefault(record.parent_run_id, ADDRESSED)
    if record.attributes is not None:
        _want_kinds(wanted, record.namespace, record.attributes)
    if start.messages:
        for message in start.messages:
            _want_message(wanted, message)
    if start.starts:
        for nested in start.starts:
            _want_nested(wanted, nested)


def _want_kinds(wanted: Wanted, namespace: str, attributes: str) -> None:
    kinds = wanted.rare.setdefault("kinds", {})
    kinds.update(dict.fromkeys((namespace, name) for name in kinds_in(attributes)))


def _want_nested(wanted: Wanted, start: StartRun) -> None:
    # A key that refuses it would refuse what it is part of, so it must be looked at.
    wanted.runs.setdefault(start.record.run_id, ADDRESSED)
    _want_start(wanted, start)


def _want_message(wanted: Wanted, message: PutMessage) -> None:
    wanted.has_time = True
    wanted.letters.append(message)
    _want_addressed(wanted, message, ADDRESSED)


def _want_addressed(
    wanted: Wanted, request: PutMessage | TerminateRun, mode: int
) -> None:
    wanted.is_addressed = True
    if request.run_id is not None:
        if wanted.runs.get(request.run_id, -1) < mode:
            wanted.runs[request.run_id] = mode
        return
    name = (request.namespace, request.workflow_id)
    if wanted.names.get(name, -1) < mode:
        wanted.names[name] = mode
