"""Listings: which runs, page by page, and what is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from durable import limits
from durable.client.descriptions.description import (
    RunDescription,
    describe,
    read_cursor,
    to_status,
)
from durable.clock import from_datetime
from durable.errors import InvalidOptionError
from durable.options import check_id
from durable.store.queries import ListRuns
from durable.store.records import STUCK, RunFilter, RunRecord
from durable.store.store import Store


def run_filter(
    *,
    status: Any,
    workflow_type: Any,
    workflow_id: Any,
    stuck: Any,
    limit: Any,
    started_before: Any,
    after: Any,
) -> RunFilter:
    """Check the arguments of a listing.

    Raises:
        InvalidOptionError, InvalidIdError: one has a wrong type or value.
    """
    if status == STUCK:
        status, stuck = None, True
    if workflow_type is not None:
        check_id(workflow_type, "the workflow's name")
    if workflow_id is not None:
        check_id(workflow_id, "the workflow id")
    if stuck is not None and not isinstance(stuck, bool):
        raise InvalidOptionError(f"stuck is {stuck!r}: give True, False or None.")
    if (
        not isinstance(limit, int)
        or isinstance(limit, bool)
        or not 1 <= limit <= limits.LIST_PAGE_MAX
    ):
        raise InvalidOptionError(
            f"limit is {limit!r}: give 1 to {limits.LIST_PAGE_MAX}."
        )
    return RunFilter(
        status=None if status is None else to_status(status),
        workflow_type=workflow_type,
        workflow_id=workflow_id,
        hides_own=workflow_type is None and workflow_id is None,
        stuck=stuck,
        limit=limit,
        started_before=None if started_before is None else _instant(started_before),
        after=None if after is None else read_cursor(after),
    )


def _instant(value: Any) -> int:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise InvalidOptionError(
            f"started_before is {value!r}: give a datetime with a time zone."
        )
    return from_datetime(value)


async def describe_runs(
    store: Store, namespace: str, records: Sequence[RunRecord]
) -> list[RunDescription]:
    """Turn rows into what users see; read who is at the root of each."""
    found = [describe(record) for record in records]
    missing = sorted(
        {
            run.root_run_id
            for run in found
            if run.root_run_id is not None and run.root_workflow_id is None
        }
    )
    if not missing:
        return found
    ids: dict[str, str] = {}
    for start in range(0, len(missing), limits.LOAD_RUNS_MAX):
        part = tuple(missing[start : start + limits.LOAD_RUNS_MAX])
        where = RunFilter(run_ids=part, limit=len(part))
        for root in await store.read(ListRuns(namespace, where)):
            ids[root.run_id] = root.workflow_id
    return [describe(record, ids.get(record.root_run_id or "")) for record in records]
