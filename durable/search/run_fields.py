"""What every run has and may be found by: Temporal's names, and ours in Python."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final

from durable import limits
from durable.core.history.payload import Payload, is_paused
from durable.errors import InvalidOptionError
from durable.search.conditions import Attribute, Condition, Field
from durable.search.kinds import AttributeKind, Kept, kept_in, to_payload
from durable.search.orders import Order, order_by
from durable.suggestions import ending_with_closest

STATUSES: Final = (
    "running",
    "completed",
    "failed",
    "cancelled",
    "terminated",
    "timed_out",
    "continued_as_new",
)
_BY_WORD: Final = {s.replace("_", ""): s for s in STATUSES} | {"canceled": "cancelled"}
_UNITS: Final = {"us": 1, "ms": 1_000, "s": 10**6, "m": 60 * 10**6, "h": 3600 * 10**6}
_SPAN: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:us|ms|s|m|h))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h)")


class RunField(Field):
    """Something that every run has, such as its status."""

    is_system = True

    def ascending(self) -> Order:
        """List runs by this, the least first.

        Raises:
            InvalidOptionError: runs are listed by `started` and `closed` only.
        """
        return order_by(self.name, descending=False)

    def descending(self) -> Order:
        """List runs by this, the greatest first; raises as `ascending` does."""
        return order_by(self.name)


class _StatusField(RunField):
    orders = frozenset()

    def keep(self, value: object) -> Kept:
        word = str(value).replace("_", "").lower()
        if isinstance(value, str) and word in _BY_WORD:
            return _BY_WORD[word]
        hint = None
        if word in ("paused", "stuck"):
            hint = f"Such runs are running, and {word.title()} = true holds for them."
        raise InvalidOptionError(
            f"{self.name} is {value!r}: give one of {', '.join(STATUSES)}"
            f"{ending_with_closest(value, STATUSES)}",
            hint=hint,
        )

    def starts_with(self, prefix: str) -> Condition:
        raise InvalidOptionError(f"{self.name} is one of {', '.join(STATUSES)}.")


class _DurationField(RunField):
    def keep(self, value: object) -> Kept:
        """Return microseconds of a timedelta, of seconds, or of a text like 1h30m."""
        if isinstance(value, timedelta):
            return value // timedelta(microseconds=1)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return round(value * 1_000_000)
        if isinstance(value, str) and _SPAN.fullmatch(value):
            parts = _PART.findall(value)
            return round(sum(float(number) * _UNITS[unit] for number, unit in parts))
        raise InvalidOptionError(
            f"{self.name} is {value!r}: give a timedelta, seconds, or a text such as"
            " '1h30m'."
        )


class Run:
    """What every run may be found by: `Run.status == "failed"`, `Run.started > noon`.

    Attributes:
        type: the workflow's name; `WorkflowType` in the text of a query, and so on.
        status: as in `RunStatus`; a parked run is running.
        closed: when it ended; an open run has none.
        duration: from its start to its end; an open run has none.
        first_run_id: the run that its chain began with: by it all runs of a chain that
            continued as new, was retried or reset are found.
        continued_from_run_id: the run before it in its chain; the first one has none.
        stuck: whether it is parked, and not because somebody has paused it.
        paused: whether it is paused.
        schedule: the id of the schedule that started it; `ScheduleId` in a query.
        patches: ids of the patches that it goes by, each; `Patches` in a query.
    """

    type = RunField("WorkflowType", AttributeKind.KEYWORD)
    id = RunField("WorkflowId", AttributeKind.KEYWORD)
    run_id = RunField("RunId", AttributeKind.KEYWORD)
    status = _StatusField("ExecutionStatus", AttributeKind.KEYWORD)
    queue = RunField("TaskQueue", AttributeKind.KEYWORD)
    version = RunField("Version", AttributeKind.KEYWORD)
    started = RunField("StartTime", AttributeKind.DATETIME)
    closed = RunField("CloseTime", AttributeKind.DATETIME)
    duration = _DurationField("ExecutionDuration", AttributeKind.INT)
    parent_id = RunField("ParentWorkflowId", AttributeKind.KEYWORD)
    parent_run_id = RunField("ParentRunId", AttributeKind.KEYWORD)
    root_run_id = RunField("RootRunId", AttributeKind.KEYWORD)
    first_run_id = RunField("FirstRunId", AttributeKind.KEYWORD)
    continued_from_run_id = RunField("ContinuedFromRunId", AttributeKind.KEYWORD)
    stuck = RunField("Stuck", AttributeKind.BOOL)
    paused = RunField("Paused", AttributeKind.BOOL)
    # Few runs have these, so they are kept as attributes are.
    schedule = Attribute("durable_schedule", str)
    patches = Attribute("durable_patches", list[str])


RUN_FIELDS: Final[dict[str, RunField]] = {
    field.name: field for field in vars(Run).values() if isinstance(field, RunField)
}
"""By the names of queries."""
RUN_FIELDS["ExecutionTime"] = Run.started

ATTRIBUTE_FIELDS: Final[dict[str, Attribute[Any]]] = {
    "ScheduleId": Run.schedule,
    "Patches": Run.patches,
}
"""What only some runs have, by the names of queries."""


def name_of(field: Field) -> str:
    """Return what a query calls a field."""
    named = (name for name, one in ATTRIBUTE_FIELDS.items() if one is field)
    return next(named, field.name)


def with_patches(
    attributes: dict[str, Payload], patch_ids: Iterable[str]
) -> dict[str, Payload]:
    """Add the patches that a run goes by; those that can be searched for."""
    known = sorted(patch_ids)[: limits.KEYWORD_LIST_MAX]
    ids = [i for i in known if i.isprintable() and len(i) <= limits.KEYWORD_CHARS_MAX]
    if not ids:
        return attributes
    own = Run.patches
    return attributes | {own.name: to_payload(own.kind, ids, own.name)}


def values_of(record: Any, name: str) -> tuple[Kept, ...]:
    """Return the values of such a field, of the row of a run."""
    if name == "Stuck":
        return (int(record.stuck is not None and not is_paused(record.stuck)),)
    if name == "Paused":
        return (int(is_paused(record.stuck)),)
    if name == "ExecutionDuration":
        closed = record.closed_at
        return () if closed is None else (closed - record.started_at,)
    value = getattr(record, COLUMN_OF[name])
    if name == "RootRunId" and value is None:
        value = record.first_run_id
    return () if value is None else (value,)


def reader_of(record: Any) -> Callable[[str, bool], tuple[Kept, ...]]:
    """Return what `conditions.matches` reads the row of a run with."""
    attributes = kept_in(record.attributes)

    def read(name: str, is_system: bool) -> tuple[Kept, ...]:
        return values_of(record, name) if is_system else attributes.get(name, ())

    return read


COLUMN_OF: Final = {
    "WorkflowType": "workflow_type",
    "WorkflowId": "workflow_id",
    "RunId": "run_id",
    "ExecutionStatus": "status",
    "TaskQueue": "task_queue",
    "Version": "version",
    "StartTime": "started_at",
    "CloseTime": "closed_at",
    "ParentWorkflowId": "parent_workflow_id",
    "ParentRunId": "parent_run_id",
    "RootRunId": "root_run_id",
    "FirstRunId": "first_run_id",
    "ContinuedFromRunId": "continued_from_run_id",
}
"""Which column of runs a field is."""
