"""An id is an idempotency key: whether the run that holds it is the one asked for.

What counts is what the chain of runs began with, not what it went on with as a new run:
that is what was asked for under the id. A first event never changes once the run has
begun, so comparing needs no transaction.
"""

from __future__ import annotations

import logging
from typing import Final

from durable.api.signature import CallSignature
from durable.clock import to_datetime
from durable.converter import json
from durable.core.history.codec import decode_rows
from durable.core.history.events import WorkflowExecutionStarted
from durable.core.history.payload import Payload, Payloads
from durable.errors import (
    CorruptHistoryError,
    PayloadError,
    WorkflowAlreadyStartedError,
)
from durable.store.records import FoundRun, RunRecord, RunStatus

_log: Final = logging.getLogger("durable.client")

RUN_AGAIN: Final = (
    'It is what its id stands for: a start with id_reuse="after_failure" begins another'
    ' run under that id; id_reuse="new_run" does so whatever became of it.'
)


def check_same(
    found: FoundRun, started: WorkflowExecutionStarted, signature: CallSignature | None
) -> None:
    """Return if a start asked for the run that it was answered with.

    Args:
        found: that run.
        started: what the start's own run would have begun with.
        signature: of the workflow, where this program has its code.

    Raises:
        WorkflowAlreadyStartedError: it asked for another workflow or other arguments.
        CorruptHistoryError: what the run began with cannot be read.
    """
    record = found.record
    first = _first_event(found)
    whose = f"Workflow id {record.workflow_id!r} is that of {_name_run(record)}"
    if first.workflow_type != started.workflow_type:
        raise _taken(
            record,
            f"{whose}. It began as {first.workflow_type!r}, and this start is of"
            f" {started.workflow_type!r}.",
        )
    differing = _find_differing(first.input, started.input, signature)
    if differing:
        verb = "differs" if len(differing) == 1 else "differ"
        raise _taken(
            record,
            f"{whose}. It was started with other arguments than these:"
            f" {', '.join(differing)} {verb}.",
        )


def say_other_request(
    found: FoundRun, started: WorkflowExecutionStarted, signature: CallSignature | None
) -> None:
    """Warn of a request id that was used for something else before.

    The same request gives the same run, whatever else it says; but that is hardly what
    somebody wants who says something else.

    Raises:
        CorruptHistoryError: what the run began with cannot be read.
    """
    try:
        check_same(found, started, signature)
    except WorkflowAlreadyStartedError as difference:
        _log.warning(
            "request id %r was given again for something else: %s",
            found.record.request_id,
            difference.message,
        )


def say_found(record: RunRecord, opened_at: int) -> None:
    """Say in the log that a run older than this engine answers a start."""
    if record.started_at < opened_at:
        _log.info(
            "workflow id %r is that of %s: it is used, and nothing new is started",
            record.workflow_id,
            _name_run(record),
        )


def takes_no_message(record: RunRecord) -> WorkflowAlreadyStartedError:
    """Build the error of a start with a message whose run has closed."""
    return _taken(
        record,
        f"Workflow id {record.workflow_id!r} is that of {_name_run(record)}. It takes"
        " no more messages, so the one of this start was not sent.",
        'Pass id_reuse="new_run" to start another run with it, or choose another id.',
    )


def _name_run(record: RunRecord) -> str:
    at = to_datetime(record.started_at).strftime("%Y-%m-%dT%H:%M:%SZ")
    is_open = record.status is RunStatus.RUNNING
    state = "is running" if is_open else f"ended as {record.status.value}"
    return (
        f"run {record.run_id!r} of {record.workflow_type!r}, which started at {at} and"
        f" {state}"
    )


def _taken(
    record: RunRecord, message: str, hint: str | None = None
) -> WorkflowAlreadyStartedError:
    if hint is None:
        another = (
            'on_conflict="terminate_existing" to replace it'
            if record.status is RunStatus.RUNNING
            else 'id_reuse="new_run" to start another run under its id'
        )
        hint = (
            "An id stands for one call: choose another for another call. Or pass"
            f' on_conflict="use_existing" to take that run as it is, or {another}.'
        )
    return WorkflowAlreadyStartedError(
        message, hint=hint, workflow_id=record.workflow_id, run_id=record.run_id
    )


def _first_event(found: FoundRun) -> WorkflowExecutionStarted:
    run_id, kind = found.record.first_run_id, WorkflowExecutionStarted.__name__
    if found.first_data is None:
        raise CorruptHistoryError(
            f"Workflow id {found.record.workflow_id!r} is that of a chain of runs that"
            f" began with run {run_id!r}, whose history has no first event."
        )
    (event,) = decode_rows([(run_id, 1, 0, kind, 0, found.first_data, 0)])
    assert isinstance(event.attributes, WorkflowExecutionStarted)  # noqa: S101 - by its kind
    return event.attributes


def _find_differing(
    recorded: Payloads, asked: Payloads, signature: CallSignature | None
) -> list[str]:
    """Name the arguments that differ, by position and name; never by their values."""
    if recorded == asked:
        return []
    differing: list[str] = []
    for index in range(max(len(recorded), len(asked))):
        left, right = (
            side[index] if index < len(side) else _default(index, signature)
            for side in (recorded, asked)
        )
        name = signature.name_at(index) if signature else None
        if not _is_same(left, right, index, signature):
            differing.append(f"argument {index + 1}" + (f" ({name!r})" if name else ""))
    return differing


def _default(index: int, signature: CallSignature | None) -> Payload | None:
    """What a call means that leaves an argument out."""
    try:
        return None if signature is None else signature.default_at(index)
    except PayloadError:
        return None


def _is_same(
    left: Payload | None,
    right: Payload | None,
    index: int,
    signature: CallSignature | None,
) -> bool:
    if left is None or right is None:
        return left is right
    hints = () if signature is None else (signature.hint_at(index),)
    return json.same_payloads((left,), (right,), hints, f"argument {index + 1}")
