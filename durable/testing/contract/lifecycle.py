"""What the store's contract says of opening, closing and submitting."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from durable.errors import EngineClosedError, InternalError
from durable.store.queries import FindNextWakeUp, ListRuns, ListWorkers, LoadRuns
from durable.store.records import RunFilter, RunStatus
from durable.testing.contract.rows import (
    CLAIM,
    NAMESPACE,
    Gathering,
    make_start,
    make_termination,
    wait_until,
)

if TYPE_CHECKING:
    from durable.testing.contract.rows import Harness, Opened


class LifecycleContract:
    """Opening, closing, submitting."""

    shares_database = True

    async def test_store_refuses_use_before_it_is_open(self, harness: Harness) -> None:
        store = harness.make()

        with pytest.raises(EngineClosedError):
            store.submit(make_start("r1"), Gathering().receive)
        with pytest.raises(EngineClosedError):
            await store.read(LoadRuns(["r1"]))
        await store.close()

    async def test_store_is_not_opened_twice(self, harness: Harness) -> None:
        store = await harness.open()

        with pytest.raises(InternalError, match="open already"):
            await store.open()

        assert (await store.perform(make_start("r1"))).created

    async def test_store_can_be_opened_again(self, harness: Harness) -> None:
        store = await harness.open()
        await store.close()

        await store.open()

        assert (await store.perform(make_start("r1"))).created

    async def test_store_refuses_use_after_it_was_closed(
        self, harness: Harness, store: Opened
    ) -> None:
        await store.close()
        await store.close()

        with pytest.raises(EngineClosedError):
            store.submit(make_start("r1"), Gathering().receive)
        with pytest.raises(EngineClosedError):
            await store.perform(make_start("r1"))
        with pytest.raises(EngineClosedError):
            await store.read(ListWorkers())
        with pytest.raises(EngineClosedError):
            await store.read(FindNextWakeUp(["order"]))
        with pytest.raises(EngineClosedError):
            await harness.register(store, "w2")

    async def test_close_finishes_what_was_submitted(
        self, harness: Harness, store: Opened
    ) -> None:
        gathering = Gathering()
        for number in range(50):
            store.submit(make_start(f"r{number}", owner="w"), gathering.receive)

        await store.close()

        assert [outcome.created for outcome in gathering.outcomes] == [True] * 50
        if self.shares_database:
            other = await harness.open()
            assert len(await other.read(ListRuns(NAMESPACE, RunFilter()))) == 50

    async def test_close_ends_the_lease(self, harness: Harness) -> None:
        store = await harness.open("w1")
        other = await harness.open("w2")
        await store.perform(make_start("r1", owner="w1"))

        await store.close()

        assert [w.worker_id for w in await other.read(ListWorkers())] == ["w2"]
        assert await other.perform(CLAIM) == {"r1": 2}
        assert harness.lost == []

    async def test_now_never_steps_back_and_never_stands_still(
        self, harness: Harness
    ) -> None:
        store = await harness.open()
        harness.clock.advance(60)
        before = store.now()

        harness.clock.advance(-30)
        assert store.now() == before
        harness.clock.advance(31)
        assert store.now() == before + 31_000_000

    async def test_outcomes_come_later_and_in_order(self, store: Opened) -> None:
        gathering = Gathering()

        for number in range(9):
            workflow_id = "wf" if number % 3 == 0 else f"wf-{number}"
            store.submit(
                make_start(f"r{number}", owner="w", workflow_id=workflow_id),
                gathering.receive,
            )
        assert gathering.outcomes == []
        await wait_until(lambda: len(gathering.outcomes) == 9)

        kinds = [getattr(o, "run_id", "") for o in gathering.outcomes]
        refused = ["r0"] * 3
        assert kinds == [
            "r0",
            "r1",
            "r2",
            refused[0],
            "r4",
            "r5",
            refused[1],
            "r7",
            "r8",
        ]

    async def test_receiver_that_raises_harms_no_other(self, harness: Harness) -> None:
        store = await harness.open()
        problems: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: problems.append(context["exception"])
        )

        def fail(result: object, error: BaseException | None) -> None:
            raise ArithmeticError

        store.submit(make_start("r1"), fail)
        assert (await store.perform(make_start("r2"))).created

        assert [type(problem) for problem in problems] == [ArithmeticError]

    async def test_cancelled_wait_takes_back_all_or_nothing(
        self, harness: Harness
    ) -> None:
        store = await harness.open()
        task = asyncio.ensure_future(store.perform(make_start("r1")))
        await asyncio.sleep(0)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        result = await store.perform(make_start("r2", request_id="start-r1"))
        found = await store.read(LoadRuns(["r1", "r2"]))
        assert [loaded.record.run_id for loaded in found] == [result.run_id]

    async def test_what_nobody_can_take_back_goes_on(self, harness: Harness) -> None:
        store = await harness.open()
        await store.perform(make_start("r1"))
        task = asyncio.ensure_future(store.perform(make_termination("r1")))
        await asyncio.sleep(0)

        task.cancel()

        assert (await store.perform(make_start("r2"))).created
        (loaded,) = await store.read(LoadRuns(["r1"]))
        assert loaded.record.status is not RunStatus.RUNNING

    async def test_reads_see_every_delivered_outcome(self, store: Opened) -> None:
        for number in range(20):
            await store.perform(make_start(f"r{number}", owner="w"))
            assert len(await store.read(ListRuns(NAMESPACE, RunFilter()))) == number + 1

    async def test_watcher_hears_of_other_stores_only(self, harness: Harness) -> None:
        store = await harness.open()
        other = await harness.open()
        heard: list[str] = []
        store.watch(lambda: heard.append("replaced"))
        other.watch(lambda: heard.append("other"))
        store.watch(lambda: heard.append("store"))

        await other.perform(make_start("r1"))
        await wait_until(lambda: heard)

        assert set(heard) == {"store"}
