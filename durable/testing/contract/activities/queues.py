"""What the store's contract says of configured queues, and of claims from them."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from durable.store.activity_tasks import ClaimActivityTasks, UpdateActivityTask
from durable.store.queries import NextActivityTaskAt, ReadQueues
from durable.store.queues import DeleteQueue, PutQueue, QueueRecord
from durable.store.records import NEVER, TaskState
from durable.testing.contract.rows import (
    NAMESPACE,
    QUEUE,
    START,
    make_settling,
    make_start,
    make_task,
)

if TYPE_CHECKING:
    from durable.testing.contract.rows import Harness, Opened

replace = msgspec.structs.replace
_QUEUES = ((QUEUE, ("charge", "ship")),)
SECOND = 1_000_000


def make_queue(**limits: Any) -> QueueRecord:
    """Build the first version of a queue's row."""
    return QueueRecord(namespace=NAMESPACE, name=QUEUE, **limits)


async def configure(store: Opened, **limits: Any) -> None:
    """Give the queue other limits."""
    before = await store.read(ReadQueues(NAMESPACE))
    version = before[0].version if before else None
    record = make_queue(version=(version or 0) + 1, **limits)
    assert await store.perform(PutQueue(record=record, version=version))


async def add(store: Opened, count: int, run_id: str = "r1", **changes: Any) -> None:
    """Let a new run have so many tasks, from event 2 on."""
    tasks = tuple(make_task(run_id, n, **changes) for n in range(2, count + 2))
    await store.perform(make_start(run_id, tasks=tasks))


async def claim(store: Opened, limit: int = 100) -> list[str]:
    """Claim what is allowed; return the keys, or the runs of those that have none."""
    claimed = await store.perform(ClaimActivityTasks(queues=_QUEUES, limit=limit))
    return [task.fairness_key or task.run_id for task in claimed]


async def next_at(harness: Harness, store: Opened) -> int | None:
    """When there may be something to claim."""
    query = NextActivityTaskAt(_QUEUES, limits_at=harness.clock.now())
    return await store.read(query)


async def settle(store: Opened, run_id: str = "r1", event_id: int = 2) -> None:
    """End a claimed task."""
    await store.perform(make_settling(run_id, event_id))


class QueueContract:
    """Limits, rates and turns of configured queues."""

    async def test_queue_is_written_as_of_the_version_it_was_read_in(
        self, store: Opened
    ) -> None:
        first = make_queue(
            concurrency=4,
            worker_concurrency=2,
            key_concurrency=1,
            rate_count=100,
            rate_per=SECOND,
            rate_burst=20,
            paused_at=START,
            note="maintenance",
        )
        second = replace(first, version=2, paused_at=None)
        other = replace(first, namespace="other")
        assert await store.read(ReadQueues(NAMESPACE)) == []
        assert not await store.perform(PutQueue(record=first, version=1))
        assert await store.perform(PutQueue(record=first, version=None))
        assert await store.perform(PutQueue(record=other, version=None))
        assert not await store.perform(PutQueue(record=second, version=None))
        assert not await store.perform(PutQueue(record=second, version=3))
        assert await store.read(ReadQueues(NAMESPACE)) == [first]
        assert await store.perform(PutQueue(record=second, version=1))
        assert await store.read(ReadQueues(NAMESPACE)) == [second]
        delete = DeleteQueue(namespace=NAMESPACE, name=QUEUE)
        assert await store.perform(delete)
        assert not await store.perform(delete)
        assert await store.read(ReadQueues(NAMESPACE)) == []
        assert await store.read(ReadQueues("other")) == [other]

    async def test_no_more_are_claimed_at_once_than_a_queue_allows(
        self, harness: Harness, store: Opened
    ) -> None:
        await configure(store, concurrency=2)
        await add(store, 5)

        assert len(await claim(store)) == 2
        assert await claim(store) == []
        assert await next_at(harness, store) is None
        await settle(store)
        assert await next_at(harness, store) == START
        assert len(await claim(store)) == 1
        await configure(store, concurrency=1)
        await settle(store, event_id=3)
        assert await claim(store) == []
        await configure(store, concurrency=3)
        assert len(await claim(store)) == 2
        await store.perform(DeleteQueue(namespace=NAMESPACE, name=QUEUE))
        assert await claim(store) == []  # there were five

    async def test_paused_queue_gives_out_nothing(
        self, harness: Harness, store: Opened
    ) -> None:
        await add(store, 2)
        await configure(store, paused_at=START)

        assert await claim(store) == []
        assert await next_at(harness, store) is None
        assert await store.read(NextActivityTaskAt(_QUEUES)) == START
        await configure(store)
        assert await next_at(harness, store) == START
        assert len(await claim(store)) == 2

    async def test_limits_are_of_one_queue_and_namespace(self, store: Opened) -> None:
        await configure(store, paused_at=START)
        elsewhere = make_task("r1", 2, task_queue="free")
        await store.perform(make_start("r1", tasks=(elsewhere, make_task("r1", 3))))
        queues = (*_QUEUES, ("free", None))

        claimed = await store.perform(ClaimActivityTasks(queues=queues, limit=9))

        assert [task.task_queue for task in claimed] == ["free"]

    async def test_slots_of_a_dead_worker_are_free_when_it_is_reaped(
        self, harness: Harness
    ) -> None:
        first = await harness.open("first")
        await configure(first, concurrency=2, worker_concurrency=1)
        await add(first, 5)
        assert len(await claim(first)) == 1
        assert await claim(first) == []
        second = await harness.open("second")
        assert len(await claim(second)) == 1
        third = await harness.open("third")
        assert await claim(third) == []
        assert await next_at(harness, third) is None

        await first.release_worker()

        assert await next_at(harness, second) == 0  # what the first has lost
        assert await claim(second) == []
        assert len(await claim(third)) == 1
        assert await claim(third) == []

    async def test_two_that_claim_at_once_share_one_limit(
        self, harness: Harness
    ) -> None:
        stores = [await harness.open(f"w{n}") for n in range(3)]
        await configure(stores[0], concurrency=5)
        await add(stores[0], 30)
        claims = await asyncio.gather(*(claim(one, 1) for one in stores * 4))
        assert sum(map(len, claims)) == 5

    async def test_rate_holds_in_every_window(
        self, harness: Harness, store: Opened
    ) -> None:
        await configure(store, rate_count=10, rate_per=SECOND)
        await add(store, 40)
        instants: list[int] = []
        while len(instants) < 25:
            instants += [harness.clock.now()] * len(await claim(store))
            at = await next_at(harness, store)
            assert at is not None
            harness.clock.advance(max(0, at - harness.clock.now()) / 1e6)
        for earlier, later in zip(instants, instants[10:], strict=False):
            assert later - earlier >= SECOND
        assert instants[-1] - START <= 2.6 * SECOND

    async def test_burst_may_come_at_once_and_is_filled_up_again(
        self, harness: Harness, store: Opened
    ) -> None:
        await configure(store, rate_count=10, rate_per=SECOND, rate_burst=5)
        await add(store, 40)
        assert len(await claim(store)) == 5
        assert await claim(store) == []
        harness.clock.advance(0.2)
        assert len(await claim(store)) == 2
        harness.clock.advance(60)
        assert len(await claim(store)) == 5

    async def test_other_rate_counts_at_once(
        self, harness: Harness, store: Opened
    ) -> None:
        await configure(store, rate_count=1, rate_per=3_600 * SECOND)
        await add(store, 40)
        assert len(await claim(store)) == 1
        harness.clock.advance(1)
        assert await claim(store) == []
        await configure(store, rate_count=10, rate_per=SECOND)
        assert len(await claim(store)) == 10
        assert await claim(store) == []
        await configure(store, rate_count=11, rate_per=SECOND)
        assert len(await claim(store)) == 1
        await configure(store)
        assert len(await claim(store)) == 28

    async def test_keys_take_turns_whatever_waits_of_each(self, store: Opened) -> None:
        await configure(store)
        await add(store, 9, "r1", fairness_key="a")
        await add(store, 9, "r2", fairness_key="b", due_at=START - 5)
        await add(store, 2, "r3", fairness_key="c", activity_type="ship")
        await add(store, 2, "r4")

        assert sorted(await claim(store, 2)) == ["a", "b"]
        assert sorted(await claim(store, 3)) == ["a", "c", "r4"]
        found = [key for _ in range(8) for key in await claim(store, 1)]
        assert found == ["b", "c", "r4", "a", "b", "a", "b", "a"]

    async def test_weight_is_how_many_of_a_key_begin_in_one_turn(
        self, store: Opened
    ) -> None:
        await configure(store)
        await add(store, 9, "r1", fairness_key="a")
        await add(store, 9, "r2", fairness_key="b", fairness_weight=3)
        found = [key for _ in range(8) for key in await claim(store, 1)]
        assert "".join(found) == "abbbabbb"
        assert sorted(await claim(store, 4)) == ["a", "b", "b", "b"]

    async def test_priority_comes_before_turns(self, store: Opened) -> None:
        await configure(store, concurrency=4)
        await add(store, 3, "r1", fairness_key="a", priority=1)
        await add(store, 3, "r2", fairness_key="b")
        assert await claim(store) == ["a", "a", "a", "b"]

    async def test_no_more_of_a_key_run_at_once_than_its_limit(
        self, harness: Harness, store: Opened
    ) -> None:
        await configure(store, key_concurrency=1)
        await add(store, 3, "r1", fairness_key="a")
        await add(store, 3, "r2", fairness_key="b")
        await add(store, 1, "r3", fairness_key="b", due_at=START + SECOND)
        await add(store, 2, "r4")  # without a key there is no such limit
        assert sorted(await claim(store)) == ["a", "b", "r4", "r4"]
        assert await claim(store) == []
        # It is due then, though there is no room for it now.
        assert await next_at(harness, store) == START + SECOND
        await settle(store, "r2")
        assert await next_at(harness, store) == START
        assert await claim(store) == ["b"]

    async def test_what_is_not_due_keeps_nobody_from_its_turn(
        self, store: Opened
    ) -> None:
        await configure(store, concurrency=3)
        await add(store, 1, "r1", fairness_key="a", due_at=NEVER)
        await add(store, 1, "r2", fairness_key="b", due_at=START + SECOND)
        await add(store, 1, "r3", fairness_key="c", expires_at=START - 1)
        await add(store, 1, "r4", fairness_key="d")
        for n in range(150):
            await add(store, 1, f"s{n}", fairness_key=f"k{n:03}", due_at=START + 9)
        await add(store, 1, "t", fairness_key="z")
        assert await claim(store) == ["d", "z"]
        await store.perform(
            UpdateActivityTask(
                run_id="r1",
                scheduled_event_id=2,
                attempt=1,
                state=TaskState.WAITING,
                due_at=START,
            )
        )
        assert await claim(store) == ["a"]
