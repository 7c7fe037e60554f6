"""What users see of a run's row."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from durable.clock import to_datetime
from durable.converter.failures import exception_of
from durable.core.codec import UNREADABLE
from durable.core.payload import Failure
from durable.errors import WorkflowStuckError
from durable.store.records import RunRecord, RunStatus

_failure_decoder: Final = msgspec.json.Decoder(Failure)


class RunDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What the store says about a run.

    Attributes:
        stuck: why it is parked, or None.
        wake_at: when its next timer, retry or timeout is due, if it waits for one.
        owner: the worker that has it, or None.
    """

    namespace: str
    workflow_id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: RunStatus
    started_at: datetime
    closed_at: datetime | None
    wake_at: datetime | None
    owner: str | None
    version: str | None
    stuck: Failure | None
    first_run_id: str
    continued_from_run_id: str | None
    parent_workflow_id: str | None
    parent_run_id: str | None


def describe(record: RunRecord) -> RunDescription:
    """Turn a run's row into what users see."""
    return RunDescription(
        namespace=record.namespace,
        workflow_id=record.workflow_id,
        run_id=record.run_id,
        workflow_type=record.workflow_type,
        task_queue=record.task_queue,
        status=record.status,
        started_at=to_datetime(record.started_at),
        closed_at=None if record.closed_at is None else to_datetime(record.closed_at),
        wake_at=None if record.wake_at is None else to_datetime(record.wake_at),
        owner=record.owner,
        version=record.version,
        stuck=decode_stuck(record.stuck),
        first_run_id=record.first_run_id,
        continued_from_run_id=record.continued_from_run_id,
        parent_workflow_id=record.parent_workflow_id,
        parent_run_id=record.parent_run_id,
    )


def decode_stuck(text: str | None) -> Failure | None:
    """Read why a run is parked; whatever stands there, say something."""
    if text is None:
        return None
    try:
        return _failure_decoder.decode(text)
    except UNREADABLE:
        return Failure(message="The reason cannot be read.", type="CorruptHistoryError")


def stuck_error(record: RunRecord, failure: Failure) -> WorkflowStuckError:
    """The error that says why a run is parked, with that as its cause."""
    trace = f"\n{failure.stack_trace}" if failure.stack_trace else ""
    error = WorkflowStuckError(
        f"Run {record.workflow_id!r} is stuck, nothing is lost:"
        f" {failure.type}: {failure.message}{trace}",
        hint="Mend the code and start the program again: the run then goes on.",
        workflow_id=record.workflow_id,
        run_id=record.run_id,
    )
    error.__cause__ = exception_of(failure)
    return error
