"""How a run begins: its row, and its first events if no worker drives it at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Protocol, TypeAlias

import msgspec

from durable.core.history.codec import encode_event
from durable.core.history.events import (
    UNPROCESSED,
    Attributes,
    HistoryEvent,
    WorkflowExecutionStarted,
)
from durable.core.history.ids import ENTITY_TYPES, OWN_TYPES
from durable.search.kinds import pack
from durable.store.records import RUNNING, RunRecord, StartRun, at_once

_Timeout: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class RunDefaults(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What goes for runs that begin in a namespace and say nothing else.

    Durations are in microseconds; None is no default.
    """

    run_timeout: _Timeout | None = None
    execution_timeout: _Timeout | None = None
    priority: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None


NO_DEFAULTS: Final = RunDefaults()
_FREE: Final = (OWN_TYPES, ENTITY_TYPES)


class Defaults(Protocol):
    """Those of a namespace, as of a moment ago."""

    known: RunDefaults

    async def read(self) -> None:
        """Read them, unless what is known is new."""
        ...


def with_defaults(
    started: WorkflowExecutionStarted, defaults: RunDefaults
) -> WorkflowExecutionStarted:
    """The beginning of a run, with what goes where it says nothing.

    Entities, schedules and batches live for as long as they are needed, and activities
    have timeouts of their own.
    """
    if defaults is NO_DEFAULTS or started.workflow_type.startswith(_FREE):
        return started
    return msgspec.structs.replace(
        started,
        run_timeout=started.run_timeout or defaults.run_timeout,
        execution_timeout=started.execution_timeout or defaults.execution_timeout,
        priority=started.priority or defaults.priority or msgspec.UNSET,
    )


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
