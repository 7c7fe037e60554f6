"""How a run begins: its row, and its first events if no worker drives it at once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from durable.core.history.codec import encode_event
from durable.core.history.events import (
    UNPROCESSED,
    Attributes,
    HistoryEvent,
    WorkflowExecutionStarted,
)
from durable.search.kinds import pack
from durable.store.records import RUNNING, RunRecord, StartRun, at_once


def record_of(
    started: WorkflowExecutionStarted, now: int, parent_close_policy: str | None = None
) -> RunRecord:
    """The row of a run that begins with this event."""
    return RunRecord(
        namespace=started.namespace,
        workflow_id=started.workflow_id,
        run_id=started.run_id,
        workflow_type=started.workflow_type,
        task_queue=started.task_queue,
        status=RUNNING,
        started_at=now,
        first_run_id=started.first_run_id,
        request_id=started.request_id,
        version=started.version,
        continued_from_run_id=started.continued_from_run_id,
        parent_workflow_id=started.parent_workflow_id,
        parent_run_id=started.parent_run_id,
        parent_initiated_event_id=started.parent_initiated_event_id,
        parent_close_policy=parent_close_policy,
        root_run_id=started.root_run_id,
        attributes=pack(started.attributes),
        memo=pack(started.memo),
    )


def unowned(request: StartRun, events: Sequence[Attributes]) -> StartRun:
    """The same start for whichever worker takes it; no task has seen its events."""
    record = request.record
    now = record.started_at
    return msgspec.structs.replace(
        request,
        record=msgspec.structs.replace(record, wake_at=at_once(now)),
        rows=[
            encode_event(record.run_id, HistoryEvent(number, UNPROCESSED, now, event))
            for number, event in enumerate(events, start=1)
        ],
    )
