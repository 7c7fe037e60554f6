"""Rows that something else has changed: what is wrong with them, and what is left.

Every row of the small tables is checked against its record's types before anything is
made of it. Whoever must go on whatever a row holds takes what is left, with the reason
beside it; all others get the reason as an error.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from durable.core.history.payload import Failure
from durable.errors import CorruptHistoryError
from durable.store.activity_tasks import ActivityTaskRecord
from durable.store.queues import QueueRecord
from durable.store.records import (
    AttemptRecord,
    MessageRecord,
    NamespaceRecord,
    OutboxRecord,
    RunRecord,
    RunStatus,
    WorkerRecord,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_Record = TypeVar(
    "_Record",
    RunRecord,
    AttemptRecord,
    ActivityTaskRecord,
    MessageRecord,
    WorkerRecord,
    NamespaceRecord,
    OutboxRecord,
    QueueRecord,
)

# What this library adds to a row is no column of it.
_OWN: Final = "damage"
RUN_FIELDS: Final = tuple(n for n in RunRecord.__struct_fields__ if n != _OWN)
ATTEMPT_FIELDS: Final = AttemptRecord.__struct_fields__
MESSAGE_FIELDS: Final = MessageRecord.__struct_fields__
WORKER_FIELDS: Final = tuple(n for n in WorkerRecord.__struct_fields__ if n != _OWN)
TASK_FIELDS: Final = ActivityTaskRecord.__struct_fields__
QUEUE_FIELDS: Final = QueueRecord.__struct_fields__
NAMESPACE_FIELDS: Final = NamespaceRecord.__struct_fields__
OUTBOX_FIELDS: Final = tuple(n for n in OutboxRecord.__struct_fields__ if n != _OWN)
_ENUMS: Final = {"status": "status", "state": "attempt state"}


def to_run(row: Sequence[Any]) -> RunRecord:
    """Build a run from a row of `RUN_FIELDS`.

    Raises:
        CorruptHistoryError: no release up to this one wrote such a row.
    """
    return _convert(RunRecord, _run_fields(row))


def to_attempt(row: Sequence[Any]) -> AttemptRecord:
    """Build an attempt from a row of `ATTEMPT_FIELDS`; raises as `to_run` does."""
    return _convert(AttemptRecord, dict(zip(ATTEMPT_FIELDS, row, strict=True)))


def to_task(row: Sequence[Any]) -> ActivityTaskRecord:
    """Build an activity from a row of `TASK_FIELDS`; raises as `to_run` does."""
    return _convert(ActivityTaskRecord, dict(zip(TASK_FIELDS, row, strict=True)))


def to_queue(row: Sequence[Any]) -> QueueRecord:
    """Build a queue from a row of `QUEUE_FIELDS`; raises as `to_run` does."""
    return _convert(QueueRecord, dict(zip(QUEUE_FIELDS, row, strict=True)))


def to_message(row: Sequence[Any]) -> MessageRecord:
    """Build a message from a row of `MESSAGE_FIELDS`; raises as `to_run` does."""
    return _convert(MessageRecord, dict(zip(MESSAGE_FIELDS, row, strict=True)))


def to_namespace(row: Sequence[Any]) -> NamespaceRecord:
    """Build a namespace from a row of its fields; raises as `to_run` does."""
    fields = dict(zip(NAMESPACE_FIELDS, row, strict=True))
    return _convert(NamespaceRecord, fields)


def salvage_outbox(row: Sequence[Any]) -> OutboxRecord:
    """Build a row of the outbox from whatever it holds; `damage` says what is wrong.

    Strangers write to its table, and one row must keep no other waiting.
    """
    fields = dict(zip(OUTBOX_FIELDS, row, strict=True))
    try:
        return _convert(OutboxRecord, fields)
    except CorruptHistoryError as error:
        left = _left(OutboxRecord, fields)
        return OutboxRecord(**left, damage=error.message)


def salvage_run(row: Sequence[Any]) -> RunRecord:
    """Build a run from whatever its row holds; `damage` says what cannot be read.

    It looks like a run that is stuck for that reason, whatever else it is. A status
    that cannot be read counts as open, so that the run is looked at.
    """
    try:
        return to_run(row)
    except CorruptHistoryError as error:
        fields = _left(RunRecord, _run_fields(row))
        fields.setdefault("status", RunStatus.RUNNING)
        why = Failure(message=error.message, type=type(error).__name__)
        fields["stuck"] = msgspec.json.encode(why).decode()
        return RunRecord(**fields, damage=error.message)


def salvage_worker(row: Sequence[Any]) -> WorkerRecord:
    """Build a worker from whatever its row holds; `damage` says what cannot be read.

    A host that cannot be read is nobody's, and a lease that cannot be read is over.
    """
    fields = dict(zip(WORKER_FIELDS, row, strict=True))
    try:
        return _convert(WorkerRecord, fields)
    except CorruptHistoryError as error:
        left = _left(WorkerRecord, fields)
        if not 0 <= left["pid"] < 2**31:
            left["host"] = ""
        return WorkerRecord(**left, damage=error.message)


def _run_fields(row: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(RUN_FIELDS, row, strict=True))


def _convert(kind: type[_Record], fields: dict[str, Any]) -> _Record:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _explain(kind, fields, str(error)) from None


def _explain(kind: type[Any], fields: dict[str, Any], why: str) -> CorruptHistoryError:
    problem, _, place = why.partition(" - at `$.")
    column = place.rstrip("`")
    what = f"its row has a {column} that cannot be read: {problem}"
    value = fields.get(column)
    hint = "Something other than this library has changed it."
    if column in _ENUMS and isinstance(value, str):
        what = f"has the {_ENUMS[column]} {value!r}, which this release does not know"
        hint = "A newer release may have written it: use that."
    if kind is WorkerRecord:
        name = f"Worker {fields['worker_id']!r}"
    elif kind is NamespaceRecord:
        name = f"Namespace {fields['namespace']!r}"
    elif kind is OutboxRecord:
        name = f"Row {fields['sequence']} of the outbox"
    else:
        name = f"Run {fields['run_id']!r}"
    if kind is AttemptRecord:
        name += f", attempt of event {fields['scheduled_event_id']!r}"
    elif kind is ActivityTaskRecord:
        name += f", activity of event {fields['scheduled_event_id']!r}"
    elif kind is MessageRecord:
        name += f", message {fields['sequence']}"
    link = " " if what.startswith("has") else ": "
    return CorruptHistoryError(f"{name}{link}{what}.", hint=hint)


def _left(kind: type[Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that can be read, and something harmless for most others."""
    left: dict[str, Any] = {}
    for name, expected in _types_of(kind).items():
        if name not in fields:
            continue
        value = fields[name]
        try:
            left[name] = msgspec.convert(value, expected)
        except msgspec.ValidationError:
            harmless = _harmless(value, expected)
            if harmless is not None:
                left[name] = harmless
            elif expected is not str and _is_optional(expected):
                left[name] = None
    return left


def _harmless(value: Any, expected: Any) -> Any:
    if expected is str:
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return str(value)
    return 0 if _is_number(expected) else None


def _is_number(expected: Any) -> bool:
    return typing.get_origin(expected) is typing.Annotated or expected is int


def _is_optional(expected: Any) -> bool:
    return type(None) in typing.get_args(expected)


_types: Final[dict[type[Any], dict[str, Any]]] = {}


def _types_of(kind: type[Any]) -> dict[str, Any]:
    if kind not in _types:
        _types[kind] = typing.get_type_hints(kind, include_extras=True)
    return _types[kind]
