"""Whatever is to be deleted, nothing goes that an open run needs.

Runs, their chains and families are drawn at random, and so is what is asked for. The
rules are written here once more, in other words, about the rows that are left. Memory
and SQLite must agree on each answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from durable.clock import Clock
from durable.store.connect import connect
from durable.store.queries import ListRuns, LoadRuns
from durable.store.records import (
    Deleted,
    DeleteRuns,
    Need,
    PutMessage,
    RunFilter,
    RunRecord,
    RunStatus,
    StartRun,
)
from durable.store.store import Operation, Store
from durable.testing.contract.rows import (
    NAMESPACE,
    START,
    SettableClock,
    make_message,
    make_run,
)
from tests.sizes import examples

CLOSED = [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.TERMINATED]
World = tuple[list[StartRun], list[PutMessage]]


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw up to five chains, some of them children of runs before."""
    records: list[RunRecord] = []
    for number in range(draw(st.integers(1, 5))):
        parent = draw(st.none() | st.sampled_from(records)) if records else None
        family = (
            {}
            if parent is None
            else {
                "parent_workflow_id": parent.workflow_id,
                "parent_run_id": parent.run_id,
                "parent_initiated_event_id": 2,
                "parent_close_policy": "abandon",
                "root_run_id": parent.run_id,
            }
        )
        ids = [f"{number}-{n}" for n in range(draw(st.integers(1, 4)))]
        for before, run_id in zip([None, *ids], ids, strict=False):
            records.append(_draw_run(draw, run_id, before, ids, family))
    starts = [StartRun(record=record, rows=_rows(record)) for record in records]
    openly = [r.run_id for r in records if r.status is RunStatus.RUNNING]
    mailed = draw(st.lists(st.sampled_from(openly), unique=True)) if openly else []
    mail = [make_message(r, f"m-{r}", workflow_id=f"wf-{r[0]}") for r in mailed]
    return starts, mail


def _draw_run(
    draw: st.DrawFn, run_id: str, before: str | None, ids: list[str], family: Any
) -> RunRecord:
    number = int(run_id[0]) * 10 + int(run_id[2])
    fields: dict[str, Any] = dict(family)
    fields |= {"workflow_id": f"wf-{run_id[0]}", "first_run_id": ids[0]}
    fields |= {"continued_from_run_id": before, "started_at": START + number}
    if run_id != ids[-1]:
        fields |= {"status": RunStatus.CONTINUED_AS_NEW, "closed_at": START + number}
    elif draw(st.booleans()):
        fields |= {"status": draw(st.sampled_from(CLOSED)), "closed_at": START + 99}
    else:
        fields["wake_at"] = draw(st.sampled_from([None, START, START + 10**9]))
        fields["stuck"] = draw(st.sampled_from([None, None, "{}"]))
    return make_run(run_id, **fields)


def _rows(record: RunRecord) -> list[Any]:
    goes_on = '{"new_run_id":"x"}' if record.status is not RunStatus.COMPLETED else "{}"
    return [(record.run_id, 1, 1, "WorkflowExecutionFailed", START, goes_on, 0)]


async def _play(store: Store, operations: list[Operation], asked: list[Any]) -> Any:
    await store.open()
    try:
        for operation in operations:
            await store.perform(operation)
        before = await _read(store)
        answers: list[Deleted] = [
            await store.perform(DeleteRuns(run_ids=tuple(ids), is_whole=whole))
            for ids, whole in asked
        ]
        return before, answers, await _read(store)
    finally:
        await store.close()


async def _read(store: Store) -> dict[str, RunRecord]:
    listed = await store.read(ListRuns(NAMESPACE, RunFilter(limit=1_000)))
    loaded = await store.read(LoadRuns([run.run_id for run in listed]))
    assert all(len(run.rows) == 1 for run in loaded)
    return {run.record.run_id: run.record for run in loaded}


@settings(max_examples=examples(300), deadline=None)
@given(worlds(), st.data())
def test_nothing_goes_that_an_open_run_needs(world: World, data: st.DataObject) -> None:
    starts, mail = world
    ids = [start.record.run_id for start in starts]
    ask = st.tuples(st.lists(st.sampled_from([*ids, "gone"])), st.booleans())
    asked = data.draw(st.lists(ask, min_size=1, max_size=4))
    clock: Clock = SettableClock()
    played = [
        asyncio.run(_play(connect(url, clock=clock), [*starts, *mail], asked))
        for url in ("memory://", "sqlite://")
    ]

    before, answers, after = played[0]
    assert played[0] == played[1]
    gone = [run_id for answer in answers for run_id in answer.run_ids]
    assert len(gone) == len(set(gone))
    assert before.keys() - set(gone) == after.keys()
    mailed = {message.request_id.removeprefix("m-") for message in mail}
    for run in before.values():
        if run.status is RunStatus.RUNNING:
            _check_needs(run, before, after, busy=_has_work(run, run.run_id in mailed))
    for chain in {run.first_run_id for run in before.values()}:
        _check_chain([r for r in before.values() if r.first_run_id == chain], after)
    for answer in answers:
        assert not (answer.kept.keys() & set(answer.run_ids))
        assert all(isinstance(need, Need) for need in answer.kept.values())


def _has_work(run: RunRecord, is_mailed: bool) -> bool:
    is_due = run.wake_at is not None and run.wake_at <= START
    return is_mailed or is_due or run.stuck is not None


def _check_needs(
    run: RunRecord,
    before: dict[str, RunRecord],
    after: dict[str, RunRecord],
    *,
    busy: bool,
) -> None:
    """An open run, its first, its parent, and what it may begin anew are there."""
    assert run.run_id in after
    assert run.first_run_id in after
    assert run.parent_run_id is None or run.parent_run_id in after
    if busy:
        children = {r.run_id for r in before.values() if r.parent_run_id == run.run_id}
        assert children <= after.keys()


def _check_chain(chain: list[RunRecord], after: dict[str, RunRecord]) -> None:
    """What is left of a chain is its first run, and then its newest, without a gap."""
    chain.sort(key=lambda run: run.started_at)
    left = [run.run_id in after for run in chain]
    assert left[1:] == sorted(left[1:])
    assert left[0] or not any(left)
