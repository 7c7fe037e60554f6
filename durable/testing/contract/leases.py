"""What the store's contract says of workers, their leases and their runs."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from durable import limits
from durable.errors import InternalError, LeaseLostError
from durable.store.queries import FindStuckRuns, FindUnowned, ListWorkers, LoadRuns
from durable.store.records import (
    ClaimRuns,
    CommitTask,
    ParkRun,
    ReapWorkers,
    RecordAttempts,
    ReleaseRuns,
    RunStatus,
    WorkerStatus,
    at_once,
)
from durable.testing.contract.rows import (
    CLAIM,
    START,
    make_closing,
    make_commit,
    make_message,
    make_owned,
    make_rows,
    make_start,
    make_termination,
    make_worker,
    wait_until,
)

if TYPE_CHECKING:
    from durable.testing.contract.rows import Harness, Opened

LEASE = round(limits.LEASE_SECONDS * 1_000_000)


def fenced_operations(worker_id: str) -> list[Any]:
    """Every kind of operation that needs the lease, for a run `r1`."""
    return [
        make_start("r9", owner=worker_id),
        CommitTask(run_id="r1", rows=make_rows("r1", 3, 3)),
        RecordAttempts(run_id="r1", attempts=(), is_active=True, wake_at=None),
        ParkRun(run_id="r1", stuck="{}"),
        CLAIM,
        ReleaseRuns(run_ids=("r1",)),
    ]


class LeaseContract:
    """Registering, losing and releasing."""

    async def test_register_gives_a_lease(self, harness: Harness) -> None:
        store = await harness.open()
        harness.clock.advance(1)

        registered = await harness.register(store, "w1", pid=12)

        assert registered == make_worker(
            "w1", pid=12, lease_expires_at=START + 1_000_000 + LEASE
        )
        assert await store.read(ListWorkers()) == [registered]

    async def test_register_is_refused_while_a_worker_is_registered(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w1")

        with pytest.raises(InternalError, match="w1"):
            await harness.register(store, "w2")
        await store.perform(make_start("r1", owner="w1"))

    async def test_store_knows_whether_it_may_hold_a_lease(
        self, harness: Harness
    ) -> None:
        store = await harness.open()
        assert not store.holds_lease()
        await harness.register(store, "w1")
        assert store.holds_lease()
        await store.perform(make_start("r1", wake_at=START))
        await store.perform(CLAIM)
        assert store.holds_lease()
        await store.release_worker()
        assert not store.holds_lease()

    async def test_lease_that_is_over_is_not_held_before_its_loss_is_heard(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w1")
        other = await harness.open()
        harness.clock.advance(LEASE / 1_000_000 + 1)
        assert await other.perform(ReapWorkers(presumed_dead=())) == ["w1"]
        assert not store.holds_lease()

    async def test_release_frees_every_run_at_once(self, harness: Harness) -> None:
        store = await harness.open("w1")
        await store.perform(make_start("r1", owner="w1"))
        await store.together(make_start("r2", owner="w1"), make_closing("r2"))

        await store.release_worker()
        await store.release_worker()

        assert await store.read(ListWorkers()) == []
        one, two = await store.read(LoadRuns(["r1", "r2"]))
        assert (one.record.owner, one.record.wake_at) == (None, at_once(START))
        assert two.record.status is RunStatus.COMPLETED
        assert harness.lost == []
        with pytest.raises(LeaseLostError):
            await store.perform(make_commit("r1"))

    async def test_draining_is_seen_by_others_and_changes_nothing_else(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w1")
        other = await harness.open("w2")
        await store.perform(make_start("r1", owner="w1"))
        (before, untouched) = await other.read(ListWorkers())

        await store.drain_worker()
        await store.drain_worker()

        drained = msgspec.structs.replace(before, status=WorkerStatus.DRAINING)
        assert await other.read(ListWorkers()) == [drained, untouched]
        assert store.holds_lease()
        assert await store.perform(make_commit("r1")) is None
        (loaded,) = await other.read(LoadRuns(["r1"]))
        assert loaded.record.owner == "w1"

    async def test_only_who_holds_a_lease_can_drain(self, harness: Harness) -> None:
        store = await harness.open()
        with pytest.raises(LeaseLostError):
            await store.drain_worker()
        await harness.register(store, "w1")
        other = await harness.open("w2")
        await other.perform(ReapWorkers(presumed_dead=("w1",)))

        with pytest.raises(LeaseLostError, match="w1"):
            await store.drain_worker()

        await wait_until(lambda: harness.lost)
        assert harness.lost == ["w1"]
        await harness.register(store, "w3")
        statuses = [worker.status for worker in await other.read(ListWorkers())]
        assert statuses == [WorkerStatus.RUNNING] * 2

    async def test_seconds_of_a_lease_count_down(self, harness: Harness) -> None:
        store = await harness.open()
        assert store.lease_seconds() == 0
        await harness.register(store, "w1")
        assert store.lease_seconds() == limits.LEASE_SECONDS

        harness.clock.advance(4)

        assert store.lease_seconds() == limits.LEASE_SECONDS - 4
        harness.clock.advance(limits.LEASE_SECONDS)
        assert store.lease_seconds() == 0
        await store.release_worker()
        assert store.lease_seconds() == 0

    async def test_lost_lease_refuses_every_fenced_operation(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w1")
        other = await harness.open("w2")
        await store.perform(make_start("r1", owner="w1"))
        assert await other.perform(ReapWorkers(presumed_dead=("w1",))) == ["w1"]

        unfenced = make_start("r2")
        *refused, kept = await store.together(*fenced_operations("w1"), unfenced)

        assert [type(error) for error in refused] == [LeaseLostError] * 6
        assert kept.created
        assert await store.perform(make_message("r1")) == "r1"
        loaded, untouched = await other.read(LoadRuns(["r1", "r2", "r9"]))
        assert (loaded.record.owner, loaded.record.stuck) == (None, None)
        assert loaded.rows == make_rows("r1", 1, 2)
        assert untouched.record.run_id == "r2"

    async def test_lost_lease_is_reported_once(self, harness: Harness) -> None:
        store = await harness.open("w1")
        other = await harness.open("w2")
        await other.perform(ReapWorkers(presumed_dead=("w1",)))

        for operation in fenced_operations("w1"):
            with pytest.raises(LeaseLostError):
                await store.perform(operation)
        await wait_until(lambda: harness.lost)
        with pytest.raises(LeaseLostError):
            await store.perform(CLAIM)

        assert harness.lost == ["w1"]

    async def test_lost_lease_is_replaced_by_registering_again(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w1")
        other = await harness.open("w2")
        await other.perform(ReapWorkers(presumed_dead=("w1",)))
        with pytest.raises(LeaseLostError):
            await store.perform(CLAIM)

        with pytest.raises(LeaseLostError, match="w2"):
            await harness.register(store, "w2")
        await harness.register(store, "w3")

        assert (await store.perform(make_start("r1", owner="w3"))).created
        with pytest.raises(LeaseLostError):
            await store.perform(make_start("r2", owner="w1"))

    async def test_reaping_takes_workers_whose_lease_has_ended(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w1")
        await store.perform(make_start("r1", owner="w1"))
        other = await harness.open()
        assert await other.perform(ReapWorkers()) == []
        harness.clock.advance(limits.LEASE_SECONDS)

        assert await other.perform(ReapWorkers()) == ["w1"]

        assert await other.read(ListWorkers()) == []
        (loaded,) = await other.read(LoadRuns(["r1"]))
        due = at_once(START + LEASE)
        assert (loaded.record.owner, loaded.record.wake_at) == (None, due)
        with pytest.raises(LeaseLostError):
            await store.perform(make_commit("r1"))

    async def test_reaping_leaves_runs_at_rest_as_they_are(
        self, harness: Harness
    ) -> None:
        """However many sleep: a takeover writes what the dead worker had under way."""
        store = await harness.open("w1")
        sleeping = [f"s{number}" for number in range(20)]
        await store.together(
            *(make_start(run_id, wake_at=START + 9) for run_id in sleeping),
            make_start("busy", owner="w1"),
        )
        await store.perform(make_commit("s0", is_active=False, wake_at=START + 7))
        other = await harness.open("w2")

        assert await other.perform(ReapWorkers(presumed_dead=("w1",))) == ["w1"]

        changed = [
            loaded.record.run_id
            for loaded in await other.read(LoadRuns(["busy", *sleeping]))
            if loaded.record.epoch
        ]
        assert changed == ["busy", "s0"]
        assert (await other.load("s0")).record.epoch == 1  # by the commit

    async def test_reaping_sees_the_clock_that_was_set_back(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w1")
        harness.clock.advance(3_600)
        store.now()
        harness.clock.advance(-3_600)
        await harness.open("w2")

        assert await store.perform(ReapWorkers()) == []

    async def test_reaping_spares_the_worker_itself(self, harness: Harness) -> None:
        store = await harness.open("w1")
        harness.clock.advance(2 * limits.LEASE_SECONDS)

        assert await store.perform(ReapWorkers(presumed_dead=("w1", "w0"))) == []
        assert (await store.perform(make_start("r1", owner="w1"))).created


class ClaimContract:
    """Claiming and releasing runs."""

    async def test_claim_takes_due_runs_at_rest_of_known_types(
        self, store: Opened
    ) -> None:
        await store.together(
            make_start("r1", wake_at=START),
            make_start("r2", wake_at=START, workflow_type="other"),
            make_start("r3", wake_at=START, task_queue="elsewhere"),
            make_start("r4", wake_at=START, namespace="elsewhere"),
            make_start("r5", wake_at=START, owner="w"),
            make_start("r6", wake_at=START + 1),
            make_start("r7"),
        )
        unowned = await store.read(FindUnowned("default", START, 10))
        assert [run.run_id for run in unowned] == ["r1", "r2", "r3"]
        assert [run.workflow_type for run in unowned] == ["order", "other", "order"]
        assert unowned[2].task_queue == "elsewhere"
        assert unowned[2].wake_at == START
        assert await store.read(FindUnowned("default", START, 1)) == unowned[:1]

        assert await store.perform(CLAIM) == {"r1": 1}

        names = [f"r{number}" for number in range(1, 8)]
        owners = [one.record.owner for one in await store.read(LoadRuns(names))]
        assert owners == ["w", None, None, None, "w", None, None]
        assert await store.perform(CLAIM) == {}

    async def test_run_at_rest_is_due_once_it_has_a_message(
        self, store: Opened
    ) -> None:
        await store.together(
            make_start("never"),
            make_start("later", wake_at=START + 9),
            make_start("earlier", wake_at=START - 9),
            make_owned("owned", wake_at=START + 9),
            *map(make_message, ("never", "later", "earlier", "owned")),
        )

        names = ["never", "later", "earlier", "owned"]
        due = [one.record.wake_at for one in await store.read(LoadRuns(names))]

        assert due == [*([at_once(START)] * 3), START + 9]
        claimed = await store.perform(CLAIM)
        assert list(claimed) == ["earlier", "later", "never"]

    async def test_stuck_runs_are_claimed_page_by_page(self, store: Opened) -> None:
        await store.together(
            *(make_owned(name) for name in "abc"),
            make_start("sound", wake_at=START),
            *(ParkRun(run_id=name, stuck="{}") for name in "abc"),
        )
        first = ClaimRuns(workflow_types=("order",), limit=2, stuck_after="")

        assert await store.perform(first) == {"a": 2, "b": 2}
        rest = ClaimRuns(workflow_types=("order",), limit=2, stuck_after="b")
        assert await store.perform(rest) == {"c": 2}

        (taken,) = await store.read(LoadRuns(["a"]))
        assert (taken.record.stuck, taken.record.owner) == (None, "w")

    async def test_stuck_runs_are_found_page_by_page_and_left_as_they_are(
        self, harness: Harness, store: Opened
    ) -> None:
        await store.together(
            *(make_owned(name) for name in "bcda"),
            make_start("another", owner="w", workflow_type="other"),
            make_start("elsewhere", owner="w", task_queue="fast"),
            make_start("sound", wake_at=START),
            *(ParkRun(run_id=name, stuck="{}") for name in ("another", "elsewhere")),
            *(ParkRun(run_id=name, stuck="{}") for name in "bcda"),
            make_termination("d"),
        )

        assert await store.read(FindStuckRuns(["order"], "", 2)) == ["a", "b"]
        assert await store.read(FindStuckRuns(["order"], "b", 2)) == ["c"]
        assert await store.read(FindStuckRuns(["order", "other"], "", 9)) == [
            *("a", "another", "b", "c"),
        ]
        assert await store.read(FindStuckRuns(["order"], "", 0)) == []
        assert await store.read(FindStuckRuns([], "", 9)) == []
        assert await store.perform(CLAIM) == {"sound": 1}
        nobody = await harness.open()
        assert await nobody.read(FindStuckRuns(["order"], "", 9)) == []

    async def test_claim_takes_the_oldest_first_and_not_too_many(
        self, store: Opened
    ) -> None:
        await store.together(
            make_start("b-late", wake_at=START - 1),
            make_start("c-later", wake_at=START),
            make_start("d-early", wake_at=START - 9),
        )

        taken = [
            list(await store.perform(ClaimRuns(workflow_types=("order",), limit=2)))
            for _ in range(3)
        ]

        assert taken == [["d-early", "b-late"], ["c-later"], []]

    async def test_claim_leaves_the_worker_as_it_is(self, store: Opened) -> None:
        (before,) = await store.read(ListWorkers())
        await store.perform(make_start("r1"))

        await store.perform(CLAIM)
        await store.perform(ClaimRuns(workflow_types=("order",), limit=0))
        await store.perform(ClaimRuns(workflow_types=(), limit=5))

        assert await store.read(ListWorkers()) == [before]

    async def test_released_runs_can_be_claimed(self, store: Opened) -> None:
        await store.together(make_owned("r1", wake_at=START + 5), make_owned("r2"))

        await store.perform(ReleaseRuns(run_ids=("r1", "unknown")))

        one, two = await store.read(LoadRuns(["r1", "r2"]))
        assert (one.record.owner, one.record.wake_at) == (None, at_once(START))
        assert two.record.owner == "w"
        assert await store.perform(CLAIM) == {"r1": 2}

    async def test_many_runs_can_be_released_at_once(self, store: Opened) -> None:
        names = [f"r{number}" for number in range(2_100)]
        await store.together(
            *(make_owned(name) for name in names), ReleaseRuns(run_ids=tuple(names))
        )

        claimed = await store.perform(ClaimRuns(workflow_types=("order",), limit=10**6))
        assert claimed == dict.fromkeys(names, 2)

    async def test_release_of_runs_leaves_those_of_others(
        self, harness: Harness
    ) -> None:
        store = await harness.open("w1")
        other = await harness.open("w2")
        await store.perform(make_start("r1", owner="w1"))

        await other.perform(ReleaseRuns(run_ids=("r1",)))

        assert await store.perform(make_commit("r1")) is None
