"""What a listing tells of runs."""

from __future__ import annotations

from collections.abc import Sequence

from durable import limits
from durable.client.descriptions.description import RunDescription, describe
from durable.store.queries import ListRuns
from durable.store.records import RunFilter, RunRecord
from durable.store.store import Store


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
