"""What the store's contract says of runs that are deleted."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from durable.options import IdConflictPolicy
from durable.store.queries import (
    FindRun,
    LoadRuns,
    ReadAttempts,
    ReadHistory,
    ReadNews,
    ReadReply,
    SearchRuns,
)
from durable.store.records import (
    Deleted,
    DeleteRuns,
    Need,
    ParkRun,
    ReplyRecord,
    RunStatus,
    Started,
)
from durable.testing.contract.operators.resets import make_reset
from durable.testing.contract.rows import (
    NAMESPACE,
    START,
    make_attempt,
    make_child,
    make_closing,
    make_commit,
    make_message,
    make_owned,
    make_start,
)
from durable.testing.contract.searching import CUSTOMER, pack_values

if TYPE_CHECKING:
    from durable.testing.contract.rows import Harness, Opened

ATTRIBUTES = pack_values({CUSTOMER: "ann"})
CHAIN: dict[str, Any] = {"workflow_id": "wf-r", "first_run_id": "r"}
BY_CUSTOMER = SearchRuns(NAMESPACE, CUSTOMER == "ann")


async def delete(store: Opened, *run_ids: str, **how: Any) -> Deleted:
    """Delete runs, and return what became of it."""
    deleted: Deleted = await store.perform(DeleteRuns(run_ids=run_ids, **how))
    return deleted


def make_closed(run_id: str, /, **changes: Any) -> Any:
    """Build the start of a run that is closed at once."""
    fields: dict[str, Any] = {
        "status": RunStatus.COMPLETED,
        "closed_at": START + 7,
    } | changes
    return make_start(run_id, **fields)


class DeletionContract:
    """Closed runs go whole, and never what an open run needs."""

    async def test_closed_run_goes_with_all_its_rows(self, store: Opened) -> None:
        reply = ReplyRecord(run_id="r1", request_id="q", data="{}", created_at=START)
        await store.together(
            make_owned("r1", attributes=ATTRIBUTES),
            make_owned("r2", attributes=ATTRIBUTES),
            make_closing("r1", attempts=(make_attempt("r1", 2),), replies=(reply,)),
            make_closing("r2", attempts=(make_attempt("r2", 2),)),
        )

        assert await delete(store, "r1", heeds_replies=False) == Deleted(("r1",))

        assert [run.record.run_id for run in await store.read(LoadRuns(["r1"]))] == []
        assert await store.read(ReadHistory("r1")) == []
        assert await store.read(ReadAttempts("r1")) == []
        assert await store.read(ReadReply("r1", "q")) is None
        assert await store.read(ReadNews(["r1"])) == []
        assert await store.read(FindRun(NAMESPACE, "wf-r1")) is None
        assert [run.run_id for run in await store.read(BY_CUSTOMER)] == ["r2"]
        assert len(await store.read(ReadHistory("r2"))) == 3
        assert len(await store.read(ReadAttempts("r2"))) == 1

    async def test_all_names_of_a_deleted_run_are_free(self, store: Opened) -> None:
        await store.perform(make_closed("r1"))
        await delete(store, "r1")

        again = await store.perform(make_start("r1", events=1))

        assert again == Started("r1", created=True)
        assert len(await store.read(ReadHistory("r1"))) == 1

    async def test_open_run_stays_and_an_unknown_one_is_left_out(
        self, store: Opened
    ) -> None:
        await store.together(
            make_start("r1"), make_message("r1", "m"), make_closed("r2")
        )

        found = await delete(store, "r1", "r2", "gone", "r2")

        assert found == Deleted(("r2",), {"r1": Need.OPEN})
        assert await store.waiting("r1") == ["m"]
        assert await delete(store) == Deleted()

    async def test_parent_of_an_open_child_stays(self, store: Opened) -> None:
        await store.together(
            make_owned("p"),
            make_child("c", "p", "abandon", owner="w"),
            make_closing("p"),
        )

        assert await delete(store, "p") == Deleted(kept={"p": Need.CHILD})

        await store.perform(make_closing("c"))
        assert await delete(store, "p", "c") == Deleted(("p", "c"))

    @pytest.mark.parametrize("what", ["owned", "due", "mail", "stuck"])
    async def test_child_stays_while_its_parent_has_work(
        self, store: Opened, what: str
    ) -> None:
        await store.together(
            make_owned("p"),
            make_child("c", "p", "abandon", owner="w"),
            make_closing("c"),
        )
        rest: dict[str, Any] = {"update_run": True, "is_active": False}
        if what == "due":
            await store.perform(make_commit("p", wake_at=START, **rest))
        elif what == "mail":
            await store.together(make_message("p"), make_commit("p", **rest))
        elif what == "stuck":
            await store.perform(ParkRun(run_id="p", stuck="{}"))

        assert await delete(store, "c") == Deleted(kept={"c": Need.PARENT})

    @pytest.mark.parametrize("wake_at", [None, START + 60_000_000])
    async def test_child_goes_once_its_open_parent_only_waits(
        self, store: Opened, wake_at: int | None
    ) -> None:
        rest: dict[str, Any] = {
            "update_run": True,
            "is_active": False,
            "wake_at": wake_at,
        }
        await store.together(
            make_owned("p"),
            make_child("c", "p", "abandon", owner="w"),
            make_closing("c"),
            make_commit("p", **rest),
        )

        assert await delete(store, "c") == Deleted(("c",))

    async def test_chain_goes_from_its_oldest_end_and_its_first_run_last(
        self, store: Opened
    ) -> None:
        ids = ["r1", "r2", "r3", "r4", "r5"]
        goes_on: dict[str, Any] = {
            "status": RunStatus.CONTINUED_AS_NEW,
            "closed_at": START,
        }
        for run_id, before in zip(ids, [None, *ids], strict=False):
            chain: dict[str, Any] = {"workflow_id": "wf", "first_run_id": "r1"}
            how: dict[str, Any] = {"owner": "w"} if run_id == "r5" else goes_on
            await store.perform(
                make_start(run_id, continued_from_run_id=before, **chain, **how)
            )

        found = await delete(store, "r1", "r3", "r4")
        assert found == Deleted(kept=dict.fromkeys(["r1", "r3", "r4"], Need.CHAIN))
        found = await delete(store, *ids, is_whole=True)
        assert found == Deleted(kept={"r5": Need.OPEN, "r1": Need.CHAIN})
        found = await delete(store, *ids)
        assert found.run_ids == ("r2", "r3", "r4")
        await store.perform(make_closing("r5"))
        assert await delete(store, "r1") == Deleted(kept={"r1": Need.CHAIN})
        assert set((await delete(store, "r5", "r1")).run_ids) == {"r1", "r5"}

    async def test_first_run_that_was_tried_again_stays(self, store: Opened) -> None:
        chain: dict[str, Any] = {"workflow_id": "wf-r1", "first_run_id": "r1"}
        failed: dict[str, Any] = {
            "status": RunStatus.FAILED,
            "closed_at": START,
            "events": 0,
        }
        name = "WorkflowExecutionFailed"
        await store.together(
            make_start(
                "r1",
                rows=[("r1", 1, 1, name, START, '{"new_run_id":"r2"}', 0)],
                **failed,
            ),
            make_start("r2", continued_from_run_id="r1", **chain),
            make_start("x1", rows=[("x1", 1, 1, name, START, "{}", 0)], **failed),
        )

        assert await delete(store, "r1", "x1") == Deleted(("x1",), {"r1": Need.CHAIN})

    @pytest.mark.parametrize("is_open", [True, False])
    async def test_first_run_that_was_reset_goes_last(
        self, store: Opened, is_open: bool
    ) -> None:
        await store.perform(make_owned("r", attributes=ATTRIBUTES))
        if not is_open:
            await store.perform(make_closing("r"))
        at = ("r", 2 if is_open else 3, is_open)
        await store.perform(make_reset("r", "s", expected=(at,), owner="w"))
        await store.perform(
            make_reset("s", "t", expected=(("s", 2, True),), **CHAIN, owner="w")
        )

        assert await delete(store, "r") == Deleted(kept={"r": Need.CHAIN})
        assert await delete(store, "s") == Deleted(("s",))
        assert await delete(store, "r") == Deleted(kept={"r": Need.CHAIN})
        again = make_start(
            "u",
            workflow_id="wf-r",
            conflict_policy=IdConflictPolicy.USE_EXISTING,
            wants_found=True,
        )
        found = (await store.perform(again)).found
        assert (found.record.run_id, found.first_data) == ("t", "{}")
        assert [run.run_id for run in await store.read(BY_CUSTOMER)] == ["r"]
        await store.perform(make_closing("t"))
        assert set((await delete(store, "r", "t")).run_ids) == {"r", "t"}
        assert await store.read(BY_CUSTOMER) == []

    async def test_dry_deletion_says_what_would_go(self, store: Opened) -> None:
        closed: dict[str, Any] = {
            "status": RunStatus.COMPLETED,
            "closed_at": START + 1,
        }
        await store.together(make_start("open"), make_start("r1", **closed))

        found = await delete(store, "open", "r1", "gone", is_dry=True)

        assert found == Deleted(("r1",), {"open": Need.OPEN})
        assert await store.statuses() == {"open": "running", "r1": "completed"}
        assert await delete(store, "open", "r1", "gone") == found

    async def test_reply_that_waits_keeps_a_run_unless_it_must_go(
        self, store: Opened
    ) -> None:
        reply = ReplyRecord(run_id="r1", request_id="q", data="{}", created_at=START)
        await store.together(make_owned("r1"), make_closing("r1", replies=(reply,)))

        assert await delete(store, "r1") == Deleted(kept={"r1": Need.REPLY})
        assert await delete(store, "r1", heeds_replies=False) == Deleted(("r1",))

    async def test_so_many_go_at_once_as_have_so_many_events(
        self, store: Opened
    ) -> None:
        sizes = {"r1": 3, "r2": 9, "r3": 2, "r4": 2, "r5": 0, "r6": 1}
        await store.together(*(make_closed(r, events=n) for r, n in sizes.items()))
        ids = ["gone", *sizes]

        steps: list[tuple[str, ...]] = []
        while ids:
            found = await delete(store, *ids, events_max=4)
            steps.append(found.run_ids)
            assert found.left == tuple(ids[ids.index(found.run_ids[-1]) + 1 :])
            ids = [*found.left]

        assert steps == [("r1",), ("r2",), ("r3", "r4", "r5"), ("r6",)]

    async def test_two_that_delete_the_same_share_it(self, harness: Harness) -> None:
        one, other = await harness.open("w"), await harness.open()
        ids = [f"r{number:03}" for number in range(60)]
        await one.together(*map(make_closed, ids))

        found = await asyncio.gather(
            *[delete(one, *ids[at : at + 20]) for at in range(0, 60, 20)],
            *[delete(other, *reversed(ids[at : at + 20])) for at in range(40, -1, -20)],
        )

        gone = [run_id for deleted in found for run_id in deleted.run_ids]
        assert sorted(gone) == ids
        assert await one.statuses() == {}
