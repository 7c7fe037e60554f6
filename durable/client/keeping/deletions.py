"""Deletes runs that somebody names."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import msgspec

from durable import limits
from durable.client.chain import Chain
from durable.core.history.events import WorkflowExecutionTerminated
from durable.errors import RunNeededError, WorkflowClosedError
from durable.search.orders import Order
from durable.search.run_fields import Run
from durable.store.queries import SearchRuns
from durable.store.records import Deleted, DeleteRuns, Need, RunRecord, RunStatus
from durable.store.store import Store

_TRIES: Final = 40
_PAUSE_SECONDS: Final = 0.05
_WORDS: Final = {
    Need.OPEN: (
        "is open.",
        "Wait until it has ended, or pass terminate=True (--terminate).",
    ),
    Need.CHILD: (
        "has a child that is open.",
        "Wait until that has ended, or terminate it first.",
    ),
    Need.PARENT: (
        "has a parent that is open, and that may have yet to record how its child"
        " began or ended.",
        "Delete it once the parent waits for something else. Is a worker with its code"
        " running?",
    ),
    Need.CHAIN: (
        "is one of a chain of runs, which goes from its oldest end, but for the first"
        " run, which goes last.",
        "Name no run id, and the whole chain is deleted.",
    ),
    Need.REPLY: ("has a reply that nobody has read yet.", None),
}


async def delete_runs(chain: Chain, event: WorkflowExecutionTerminated | None) -> int:
    """Delete the run or runs that a handle means, and return how many they were.

    Args:
        chain: what the handle means.
        event: how to end it if it is open; without one it is refused then.

    Raises:
        WorkflowNotFoundError: there is no such run.
        RunNeededError: it stays, all of it.
    """
    record = await chain.record()
    if record.status is RunStatus.RUNNING and event is not None:
        with contextlib.suppress(WorkflowClosedError):
            await chain.connection.terminated(await chain.terminate(event))
        record = await chain.record()
    if record.status is RunStatus.RUNNING:
        raise run_needed(record.workflow_id, record.run_id, Need.OPEN)
    store = chain.connection.store
    run_ids = [record.run_id]
    if not chain.is_pinned:
        run_ids = [*await _followers(store, record), record.first_run_id]
    size = limits.DELETE_RUNS_MAX
    return sum(
        [
            await _delete(store, record.workflow_id, tuple(run_ids[at : at + size]))
            for at in range(0, len(run_ids), size)
        ]
    )


async def _followers(store: Store, record: RunRecord) -> list[str]:
    """The runs of a chain but for its first, which goes last; oldest first."""
    found: list[str] = []
    query = SearchRuns(
        record.namespace,
        Run.id == record.workflow_id,
        Order(is_descending=False),
        limit=limits.LIST_PAGE_MAX,
    )
    while True:
        page = await store.read(query)
        chain = [r for r in page if r.first_run_id == record.first_run_id]
        found += [r.run_id for r in chain if r.run_id != r.first_run_id]
        if len(page) < query.limit:
            return found
        after = (page[-1].started_at, page[-1].run_id)
        query = msgspec.structs.replace(query, after=after)


async def _delete(store: Store, workflow_id: str, run_ids: tuple[str, ...]) -> int:
    operation = DeleteRuns(run_ids=run_ids, heeds_replies=False, is_whole=True)
    tries = 1
    while True:
        deleted: Deleted = await store.perform(operation)
        if not deleted.kept:
            return len(deleted.run_ids)
        needs = set(deleted.kept.values()) - {Need.CHAIN}
        # A parent is told of an end in the same moment, and needs one to record it.
        if needs != {Need.PARENT} or tries == _TRIES:
            break
        tries += 1
        await asyncio.sleep(_PAUSE_SECONDS)
    order = list(Need)
    run_id, need = min(deleted.kept.items(), key=lambda one: order.index(one[1]))
    raise run_needed(workflow_id, run_id, need)


def run_needed(workflow_id: str, run_id: str, need: Need) -> RunNeededError:
    """Build the error of a run that is not deleted."""
    why, hint = _WORDS[need]
    return RunNeededError(
        f"Workflow {workflow_id!r} (run {run_id!r}) was not deleted: it {why}",
        hint=hint,
        workflow_id=workflow_id,
        run_id=run_id,
        need=need.value,
    )
