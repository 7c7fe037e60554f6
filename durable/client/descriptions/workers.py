"""What users see of the workers that are there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from durable.clock import to_datetime
from durable.store.queries import CountOwnedRuns, ListWorkers
from durable.store.records import WorkerRecord, WorkerReport
from durable.store.store import Store

LEASE_OVER: Final = "lease over"


class WorkerDescription(msgspec.Struct, frozen=True, kw_only=True):
    """A worker of some process, as its row in the database tells.

    What it knows and how full it is are told when it renews its lease, every three
    seconds; None where its release does not tell.

    Attributes:
        status: "running"; "draining" once it takes nothing more; "lease over" once it
            is dead or hangs, so that others take what it has.
        activity_queues: the queues that it serves for activities, and how many of each
            it runs at once.
        workflows, activities: the names of the types that it knows.
        live_runs: runs that it has, which are under way or about to be.
        cached_runs: runs in memory; those at rest are nobody's.
        cached_runs_max: how many of those at rest it keeps in memory.
        running_activities: activities that run.
        capacity: how many may run at once.
        damage: why its row cannot be read, or None.
    """

    worker_id: str
    namespace: str
    task_queue: str
    host: str
    pid: int
    status: str
    started_at: datetime | None
    lease_expires_at: datetime | None
    lease_seconds_left: float
    live_runs: int
    activity_queues: Mapping[str, int] | None = None
    workflows: Sequence[str] | None = None
    activities: Sequence[str] | None = None
    cached_runs: int | None = None
    cached_runs_max: int | None = None
    running_activities: int | None = None
    capacity: int | None = None
    damage: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


async def describe_workers(
    store: Store, namespace: str | None
) -> list[WorkerDescription]:
    """Describe the workers of a namespace, or of all if it is None, by their ids.

    Raises:
        StoreError: the database cannot be read.
    """
    records, owned = await asyncio.gather(
        store.read(ListWorkers()), store.read(CountOwnedRuns())
    )
    now = store.now()
    return [
        _describe(record, now, owned.get(record.worker_id, 0))
        for record in records
        if namespace in (None, record.namespace)
    ]


def _describe(record: WorkerRecord, now: int, live_runs: int) -> WorkerDescription:
    left = max(0, record.lease_expires_at - now) / 1_000_000
    report = record.report
    told = WorkerReport(queues={}) if report is None else report
    return WorkerDescription(
        worker_id=record.worker_id,
        namespace=record.namespace,
        task_queue=record.task_queue,
        host=record.host.partition("/")[0],
        pid=record.pid,
        status=record.status.value if left else LEASE_OVER,
        started_at=_to_datetime(record.started_at),
        lease_expires_at=_to_datetime(record.lease_expires_at),
        lease_seconds_left=left,
        live_runs=live_runs,
        activity_queues=None if report is None else report.queues,
        workflows=told.workflows,
        activities=told.activities,
        cached_runs=told.runs,
        cached_runs_max=told.runs_max,
        running_activities=told.running,
        capacity=told.running_max,
        damage=record.damage,
    )


def _to_datetime(instant: int) -> datetime | None:
    try:
        return to_datetime(instant)
    except OverflowError:  # a row that something else has changed
        return None
