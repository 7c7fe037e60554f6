"""What a group of operations must look at before anything is decided: pure.

All that the operations name is known beforehand. What depends on what is found there
(the parent of a run that is to be terminated, the text of a message that keeps a run
from closing) is asked for by `decide`, and brought by a second look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from durable.options import IdConflictPolicy
from durable.store import policies
from durable.store.records import (
    CommitTask,
    ParkRun,
    PutMessage,
    RecordAttempts,
    StartRun,
    TerminateRun,
)
from durable.store.rows import ChainKey, NameKey, RequestKey

if TYPE_CHECKING:
    from collections.abc import Iterable

# How a run is locked, where a database locks rows: all of a group in one statement, in
# the order of run ids, and never more strongly later.
ADDRESSED: Final = 0
"""It must stay open: it gets a message, or a child."""
COMMITTED: Final = 1
"""It is written to."""
CLOSED: Final = 2
"""It may close."""

# On Python 3.11 reading a member is a call.
_TERMINATE_EXISTING: Final = IdConflictPolicy.TERMINATE_EXISTING


class Wanted(msgspec.Struct):
    """What to look at. Names of fields are those of `Seen`.

    Attributes:
        worker_id: this store's worker, whose row says that it holds its lease.
        runs: how each is to be locked.
        names: likewise, for the open run of each.
        letters: messages that will be put, whomever they reach: their sequences must
            be known, and whether they wait already.
        mail: runs of which all that waits must be known.
        begun: ids of runs to be created. A key that refuses them will do as well.
        families: runs whose open children are wanted, and theirs where a parent close
            policy terminates them, with their ends.
        records: runs that are wanted whole, with their ends.
    """

    worker_id: str | None = None
    runs: dict[str, int] = msgspec.field(default_factory=dict)
    names: dict[NameKey, int] = msgspec.field(default_factory=dict)
    requests: dict[RequestKey, None] = msgspec.field(default_factory=dict)
    begun: list[str] = msgspec.field(default_factory=list)
    letters: list[PutMessage] = msgspec.field(default_factory=list)
    mail: dict[str, None] = msgspec.field(default_factory=dict)
    families: dict[str, None] = msgspec.field(default_factory=dict)
    # Only ever asked for by `decide`.
    sequence: bool = False
    looked: dict[RequestKey, None] = msgspec.field(default_factory=dict)
    chains: dict[ChainKey, None] = msgspec.field(default_factory=dict)
    records: dict[str, None] = msgspec.field(default_factory=dict)
    messages: dict[str, None] = msgspec.field(default_factory=dict)
    first_data: dict[str, None] = msgspec.field(default_factory=dict)

    def add(self, more: Wanted) -> bool:
        """Want that, too; False if all of it was wanted already."""
        before = self.size
        self.sequence = self.sequence or more.sequence
        for field in _DICTS:
            wanted = getattr(self, field)
            for key, mode in getattr(more, field).items():
                wanted[key] = mode if not mode else max(mode, wanted.get(key, 0))
        return self.size > before

    @property
    def size(self) -> int:
        """How much is wanted."""
        return self.sequence + sum(len(getattr(self, field)) for field in _DICTS)


_DICTS: Final = tuple(
    name
    for name in Wanted.__struct_fields__
    if name not in ("worker_id", "sequence", "begun", "letters")
)


def want(operations: Iterable[Any], worker_id: str | None) -> Wanted:
    """Return what these operations must look at."""
    wanted = Wanted(worker_id)
    runs, mail = wanted.runs, wanted.mail
    for operation in operations:
        kind = type(operation)
        if kind is CommitTask:
            run_id = operation.run_id
            if operation.status is not None:
                runs[run_id] = CLOSED
                mail[run_id] = None
                if operation.has_children:
                    wanted.families[run_id] = None
            else:
                if runs.get(run_id, ADDRESSED) == ADDRESSED:
                    runs[run_id] = COMMITTED
                if operation.sees_all_mail or not operation.is_active:
                    mail[run_id] = None
            for message in operation.messages:
                _want_message(wanted, message)
            for start in operation.starts:
                _want_nested(wanted, start)
        elif kind is StartRun:
            _want_start(wanted, operation)
        elif kind is PutMessage:
            _want_message(wanted, operation)
        elif kind is RecordAttempts or kind is ParkRun:
            if runs.get(operation.run_id, ADDRESSED) == ADDRESSED:
                runs[operation.run_id] = COMMITTED
            if kind is RecordAttempts and not operation.is_active:
                mail[operation.run_id] = None
        elif kind is TerminateRun:
            _want_addressed(wanted, operation, CLOSED)
    return wanted


def _want_start(wanted: Wanted, start: StartRun) -> None:
    record = start.record
    wanted.begun.append(record.run_id)
    name = (record.namespace, record.workflow_id)
    if start.conflict_policy is _TERMINATE_EXISTING:
        wanted.names[name] = CLOSED
    else:
        wanted.names.setdefault(name, ADDRESSED)
    wanted.requests[record.namespace, record.request_id] = None
    if record.parent_run_id is not None and policies.needs_guardian(record):
        wanted.runs.setdefault(record.parent_run_id, ADDRESSED)
    for message in start.messages:
        _want_message(wanted, message)
    for nested in start.starts:
        _want_nested(wanted, nested)


def _want_nested(wanted: Wanted, start: StartRun) -> None:
    # A key that refuses it would refuse what it is part of, so it must be looked at.
    wanted.runs.setdefault(start.record.run_id, ADDRESSED)
    _want_start(wanted, start)


def _want_message(wanted: Wanted, message: PutMessage) -> None:
    wanted.letters.append(message)
    _want_addressed(wanted, message, ADDRESSED)


def _want_addressed(
    wanted: Wanted, request: PutMessage | TerminateRun, mode: int
) -> None:
    if request.run_id is not None:
        if wanted.runs.get(request.run_id, -1) < mode:
            wanted.runs[request.run_id] = mode
        return
    name = (request.namespace, request.workflow_id)
    if wanted.names.get(name, -1) < mode:
        wanted.names[name] = mode
