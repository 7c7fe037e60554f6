"""What the store's contract says of runs that wait for their turn."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from durable.core.history.events import UNPROCESSED
from durable.store.queries import (
    CountRunTurns,
    FindNextWakeUp,
    FindRunTurn,
    NextRunTurnAt,
    ReadQueues,
)
from durable.store.queues import (
    DeleteQueue,
    PutOffRun,
    PutQueue,
    QueueRecord,
    TurnState,
)
from durable.store.records import (
    NEVER,
    OF_RUNS,
    ClaimRuns,
    CommitTask,
    MessageKind,
    ReapWorkers,
    RunStatus,
)
from durable.testing.contract.rows import (
    NAMESPACE,
    QUEUE,
    START,
    make_child,
    make_commit,
    make_message,
    make_rows,
    make_start,
    make_termination,
)

if TYPE_CHECKING:
    from durable.testing.contract.rows import Harness, Opened

_NAME = QUEUE + OF_RUNS
_TYPES = ("order", "other", "durable.schedule")
SECOND = 1_000_000


async def configure(store: Opened, **limits: Any) -> None:
    """Give the runs of the queue other limits."""
    before = await store.read(ReadQueues(NAMESPACE))
    version = before[0].version if before else None
    record = QueueRecord(
        namespace=NAMESPACE, name=_NAME, version=(version or 0) + 1, **limits
    )
    assert await store.perform(PutQueue(record=record, version=version))


async def add(store: Opened, *run_ids: str, said: str = "{}", **changes: Any) -> None:
    """Start runs that have not begun; `said` is of their first events."""
    fields: dict[str, Any] = {"wake_at": START, "task_queue": QUEUE, **changes}
    for run_id in run_ids:
        rows = [(run_id, 1, UNPROCESSED, "WorkflowExecutionStarted", START, said, 3)]
        await store.perform(make_start(run_id, rows=rows, **fields))


async def claim(store: Opened, limit: int = 50, *kinds: str) -> list[str]:
    """Claim what may begin and what has begun; return the run ids."""
    claim = ClaimRuns(workflow_types=kinds or _TYPES, limit=limit, in_turn=True)
    return list(await store.perform(claim))


async def close(store: Opened, run_id: str) -> None:
    """End a run that this worker has claimed once."""
    done = CommitTask(
        run_id=run_id,
        epoch=(await store.load(run_id)).record.epoch,
        rows=make_rows(run_id, 2, 2),
        status=RunStatus.COMPLETED,
        closed_at=START + 7,
    )
    assert await store.perform(done) is None


async def next_at(harness: Harness, store: Opened) -> int | None:
    """When there may be a run whose turn it is."""
    return await store.read(NextRunTurnAt(_TYPES, harness.clock.now()))


async def waiting(store: Opened) -> dict[str, int]:
    """How many runs of the queue stand where."""
    counts = await store.read(CountRunTurns(NAMESPACE))
    return {one.state.value: one.runs for one in counts if one.task_queue == QUEUE}


class RunTurnContract:
    """Limits, rates and turns of whole runs."""

    async def test_no_more_runs_begin_than_a_queue_allows(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w")
        await configure(store, concurrency=2)
        await add(store, "a", "b", "c", "d")
        assert await claim(store) == ["a", "b"]
        assert await waiting(store) == {"admitted": 2, "waiting": 2}
        assert await claim(store) == []
        assert await next_at(harness, store) is None
        assert await store.read(FindNextWakeUp(_TYPES)) is None
        held = (await store.load("c")).record
        assert (held.wake_at, held.owner, held.epoch) == (NEVER, None, 0)
        await close(store, "b")
        assert await waiting(store) == {"admitted": 1, "waiting": 2}
        assert await next_at(harness, store) == 0
        assert await claim(store) == ["c"]
        await configure(store, concurrency=1)
        await close(store, "a")
        assert await claim(store) == []
        await close(store, "c")
        assert await claim(store) == ["d"]

    async def test_slot_is_free_however_a_run_closes(self, harness: Harness) -> None:
        store = await harness.open("w")
        await configure(store, concurrency=1)
        await add(store, "a", "b", "c")
        assert await claim(store) == ["a"]
        for run_id in ("a", "b"):  # one that has begun, one that waits
            await store.perform(make_termination(run_id))
        assert await claim(store) == ["c"]
        assert await waiting(store) == {"admitted": 1}

    async def test_slot_of_a_killed_worker_is_its_runs(self, harness: Harness) -> None:
        first, second = await harness.open("w1"), await harness.open("w2")
        await configure(first, concurrency=1)
        await add(first, "a", "b")
        assert await claim(first) == ["a"]
        assert await claim(second) == []
        await second.perform(ReapWorkers(presumed_dead=("w1",)))
        assert await claim(second) == ["a"]
        await close(second, "a")
        assert await claim(second) == ["b"]

    async def test_run_that_has_begun_goes_on_without_a_turn(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w")
        await configure(store, concurrency=1)
        await add(store, "a", "b")
        assert await claim(store) == ["a"]
        rest = make_commit(
            "a", 2, 2, epoch=1, update_run=True, is_active=False, wake_at=START
        )
        await store.perform(rest)
        assert await claim(store) == ["a"]
        # What had begun before counts once it is claimed, whatever that comes to.
        await store.perform(make_start("c", wake_at=START))
        assert await claim(store) == ["c"]
        assert await waiting(store) == {"admitted": 2, "waiting": 1}

    async def test_run_that_goes_on_from_another_waits_for_its_turn(
        self, harness: Harness
    ) -> None:
        """Users met thousands that had failed and all went on at once when retried."""
        store = await harness.open("w")
        await configure(store, concurrency=1)
        await add(store, "a")
        assert await claim(store) == ["a"]
        for run_id in ("b", "c"):
            event = (3, UNPROCESSED, "WorkflowExecutionReset", START, "{}", 3)
            rows = [*make_rows(run_id, 1, 2), (run_id, *event)]
            await store.perform(make_start(run_id, rows=rows, wake_at=START))
        assert await claim(store) == []
        assert await waiting(store) == {"admitted": 1, "waiting": 2}
        await store.perform(make_message("b", kind=MessageKind.SIGNAL.value))
        assert await claim(store) == []
        await close(store, "a")
        assert await claim(store) == ["b"]
        rest = make_commit(
            "b", 4, 4, epoch=1, update_run=True, is_active=False, wake_at=START
        )
        await store.perform(rest)
        assert await claim(store) == ["b"]
        assert await waiting(store) == {"admitted": 1, "waiting": 1}

    async def test_slot_is_its_chains(self, harness: Harness) -> None:
        store = await harness.open("w")
        await configure(store, concurrency=1)
        await add(store, "a", "b")
        assert await claim(store) == ["a"]
        rows = [("a2", 1, UNPROCESSED, "WorkflowExecutionStarted", START, "{}", 3)]
        following = make_start(
            "a2", rows=rows, workflow_id="wf-a", first_run_id="a", wake_at=START
        )
        await store.perform(
            make_commit(
                "a",
                2,
                2,
                epoch=1,
                status=RunStatus.CONTINUED_AS_NEW,
                closed_at=START + 7,
                starts=(following,),
            )
        )
        assert await claim(store) == ["a2"]
        assert await claim(store) == []
        await close(store, "a2")
        assert await claim(store) == ["b"]

    async def test_child_of_the_same_queue_has_its_parents_slot(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w")
        await configure(store, concurrency=1)
        await add(store, "a")
        await store.perform(make_start("p", task_queue="parents"))
        assert await claim(store) == ["a"]
        new = (UNPROCESSED, "WorkflowExecutionStarted", START, "{}", 3)
        for run_id, parent in (("own", "a"), ("far", "p")):
            child = make_child(
                run_id, parent, "abandon", rows=[(run_id, 1, *new)], wake_at=START
            )
            await store.perform(child)
        await add(store, "s", workflow_type="durable.schedule")
        assert sorted(await claim(store)) == ["own", "s"]
        assert await waiting(store) == {"admitted": 1, "waiting": 1}

    async def test_order_is_by_priority_then_by_turns_of_keys(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w")
        await configure(store, paused_at=START)
        await add(store, "a1", "a2", "a3", said='{"fairness_key":"a"}')
        await add(store, "b1", said='{"fairness_key":"b","fairness_weight":2}')
        await add(store, "b2", "b3", said='{"fairness_key":"b","fairness_weight":2}')
        await add(store, "z", said='{"priority":1}')
        assert await claim(store) == []
        assert await next_at(harness, store) is None
        turn = await store.read(FindRunTurn("b1"))
        assert turn is not None
        assert (turn.state, turn.fairness_key) == (TurnState.WAITING, "b")
        await configure(store, concurrency=1)
        order: list[str] = []
        while claimed := await claim(store):
            order += claimed
            await close(store, claimed[0])
        assert order == ["z", "a1", "b1", "b2", "a2", "b3", "a3"]

    async def test_keys_have_limits_of_their_own(self, harness: Harness) -> None:
        store = await harness.open("w")
        await configure(store, key_concurrency=1)
        await add(store, "a1", "a2", said='{"fairness_key":"a"}')
        await add(store, "b1", "b2", said='{"fairness_key":"b"}')
        await add(store, "free1", "free2")
        assert sorted(await claim(store)) == ["a1", "b1", "free1", "free2"]
        assert await next_at(harness, store) is None
        await close(store, "b1")
        assert await next_at(harness, store) == 0
        assert await claim(store) == ["b2"]

    async def test_rate_of_runs_holds(self, harness: Harness) -> None:
        store = await harness.open("w")
        await configure(store, rate_count=2, rate_per=SECOND)
        await add(store, *"abcde")
        assert len(await claim(store)) == 2
        at = await next_at(harness, store)
        assert at is not None
        assert at >= START + SECOND
        harness.clock.advance((at - START) / SECOND)
        assert await next_at(harness, store) == 0
        assert len(await claim(store)) == 2

    async def test_only_what_a_worker_knows_is_taken(self, harness: Harness) -> None:
        store = await harness.open("w")
        await configure(store, concurrency=1)
        await add(store, "a", workflow_type="other")
        await add(store, "b")
        await add(store, "c", version="2")
        assert await claim(store, 50, "order") == ["b"]
        assert await claim(store, 50, "other") == []  # the slot is taken
        await close(store, "b")
        assert await claim(store, 50, "order") == []
        assert await claim(store, 50, "other") == ["a"]

    async def test_two_that_claim_at_once_share_the_slots(
        self, harness: Harness
    ) -> None:
        stores = [await harness.open(f"w{n}") for n in range(3)]
        await configure(stores[0], concurrency=5)
        await add(stores[0], *(f"r{n:02}" for n in range(20)))
        claims = await asyncio.gather(*(claim(one, 2) for one in stores * 4))
        taken = [run_id for one in claims for run_id in one]
        assert len(taken) == len(set(taken)) == 5

    async def test_cancelled_or_late_run_begins_out_of_turn(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w")
        await configure(store, paused_at=START)
        late = f'{{"run_timeout":{SECOND}}}'
        await add(store, "a", "b")
        await add(store, "c", said=late)
        assert await claim(store) == []
        assert await next_at(harness, store) == START + SECOND
        await store.perform(make_message("a", kind=MessageKind.SIGNAL.value))
        assert await claim(store) == []
        cancel = make_message("b", kind=MessageKind.CANCEL.value, request_id="x")
        await store.perform(cancel)
        assert await next_at(harness, store) == 0
        assert await claim(store) == ["b"]
        harness.clock.advance(2)
        assert await claim(store) == ["c"]
        assert await waiting(store) == {"waiting": 1}

    async def test_all_begin_when_nobody_limits_them_any_more(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w")
        await configure(store, concurrency=1)
        await add(store, "a", "b", "c")
        assert await claim(store) == ["a"]
        await store.perform(DeleteQueue(namespace=NAMESPACE, name=_NAME))
        assert sorted(await claim(store)) == ["b", "c"]
        assert await waiting(store) == {}

    async def test_run_is_put_off_until_it_has_begun(self, harness: Harness) -> None:
        store = await harness.open("w")
        await configure(store, paused_at=START)
        await add(store, "a")
        assert await claim(store) == []
        row = ("a", 1, UNPROCESSED, "WorkflowExecutionStarted", START, '{"x":1}', 3)
        put_off = PutOffRun(run_id="a", row=row, due_at=START + SECOND)
        assert await store.perform(put_off)
        assert await store.read(FindRunTurn("a")) is None
        found = await store.load("a")
        assert (found.rows, found.record.wake_at) == ([row], START + SECOND)
        await store.perform(DeleteQueue(namespace=NAMESPACE, name=_NAME))
        assert await claim(store) == []
        harness.clock.advance(1)
        assert await claim(store) == ["a"]
        commit = make_commit("a", 2, 2, epoch=found.record.epoch + 1)
        await store.perform(commit)
        assert not await store.perform(put_off)
        assert not await store.perform(msgspec.structs.replace(put_off, run_id="no"))
