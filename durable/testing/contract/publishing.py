"""What the store's contract says of states, checkpoints and replies."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from durable import limits
from durable.errors import HistoryTakenError
from durable.store.queries import LoadRuns, ReadHistory, ReadReply
from durable.store.records import DropReplies, ReapWorkers, ReplyRecord, RunStatus
from durable.testing.contract.rows import (
    START,
    make_closing,
    make_commit,
    make_message,
    make_owned,
    make_rows,
    make_run,
    make_termination,
)

if TYPE_CHECKING:
    from durable.testing.contract.rows import Harness, Opened


def make_reply(run_id: str, request_id: str, data: str = "1", **changes: Any) -> Any:
    """Build a reply."""
    fields = {"created_at": START} | changes
    return ReplyRecord(run_id=run_id, request_id=request_id, data=data, **fields)


class PublishingContract:
    """States, checkpoints, replies."""

    async def test_commit_publishes_state_and_checkpoint(self, store: Opened) -> None:
        await store.together(*(make_owned(n) for n in ("r1", "r2")))

        await store.together(
            make_commit("r1", state='{"at": 1}'),
            make_commit("r2", checkpoint_event_id=3),
            make_commit("r1", 4, 4),
            make_commit("r1", 5, 5, checkpoint_event_id=5, update_run=True, wake_at=7),
        )

        runs = [loaded.record for loaded in await store.read(LoadRuns(["r1", "r2"]))]
        assert runs == [
            make_run(
                "r1", owner="w", state='{"at": 1}', checkpoint_event_id=5, wake_at=7
            ),
            make_run("r2", owner="w", checkpoint_event_id=3),
        ]

    async def test_run_keeps_its_state_when_it_has_closed(self, store: Opened) -> None:
        await store.together(
            make_owned("r1", state="1", checkpoint_event_id=2),
            make_owned("r2", state="1"),
            make_closing("r1", state="2"),
            make_termination("r2"),
        )

        first, second = await store.read(LoadRuns(["r1", "r2"]))
        assert (first.record.state, second.record.state) == ("2", "1")
        assert first.record.status is RunStatus.COMPLETED
        assert first.record.checkpoint_event_id == 2

    async def test_refused_commit_publishes_nothing(self, store: Opened) -> None:
        published: dict[str, Any] = {
            "state": "2",
            "checkpoint_event_id": 2,
            "replies": (make_reply("r1", "q"),),
        }
        *_, taken, mailed = await store.together(
            make_owned("r1"),
            make_message("r1"),
            make_commit("r1", 2, 2, **published),
            make_closing("r1", **published),
        )

        assert isinstance(taken, HistoryTakenError)
        assert mailed is not None
        assert (await store.load("r1")).record == make_run("r1", owner="w")
        assert await store.read(ReadReply("r1", "q")) is None

    async def test_load_leaves_out_what_a_checkpoint_made_needless(
        self, store: Opened
    ) -> None:
        await store.together(
            *(make_owned(n, events=9) for n in ("r0", "r1", "r2", "r9")),
            make_commit("r1", 10, 9, checkpoint_event_id=1),
            make_commit("r2", 10, 12, checkpoint_event_id=2),
            make_commit("r9", 10, 12, checkpoint_event_id=4),
            make_commit("r9", 13, 14, checkpoint_event_id=9),
            make_message("r9"),
        )

        loaded = await store.read(LoadRuns(["r9", "r0", "r1", "r2"]))

        assert [run.record.run_id for run in loaded] == ["r9", "r0", "r1", "r2"]
        assert [run.rows for run in loaded] == [
            make_rows("r9", 1, 1) + make_rows("r9", 9, 14),
            make_rows("r0", 1, 9),
            make_rows("r1", 1, 9),
            make_rows("r2", 1, 12),
        ]
        assert len(loaded[0].messages) == 1
        assert await store.read(ReadHistory("r9")) == make_rows("r9", 1, 14)
        assert await store.read(ReadHistory("r9", 3)) == make_rows("r9", 4, 14)

    # --- replies ----------------------------------------------------------------------

    @pytest.mark.parametrize("is_closing", [False, True])
    async def test_commit_replies(self, store: Opened, is_closing: bool) -> None:
        make: Any = make_closing if is_closing else make_commit
        await store.perform(make_owned("r1"))

        await store.perform(
            make("r1", replies=(make_reply("r1", "a"), make_reply("r1", "b", "2")))
        )

        assert await store.read(ReadReply("r1", "a")) == "1"
        assert await store.read(ReadReply("r1", "b")) == "2"
        assert await store.read(ReadReply("r1", "c")) is None
        assert await store.read(ReadReply("r2", "a")) is None

    async def test_reply_replaces_an_earlier_one(self, store: Opened) -> None:
        await store.together(
            make_owned("r1"),
            make_commit("r1", 3, 2, replies=(make_reply("r1", "a"),)),
            make_commit("r1", 3, 2, replies=(make_reply("r1", "a", "2"),)),
        )

        assert await store.read(ReadReply("r1", "a")) == "2"

    async def test_replies_that_were_read_are_dropped(self, store: Opened) -> None:
        names = [f"q{number}" for number in range(150)]
        await store.together(
            make_owned("r1"),
            make_owned("r2"),
            make_commit("r1", 3, 2, replies=tuple(make_reply("r1", n) for n in names)),
            make_commit("r2", 3, 2, replies=(make_reply("r2", "q1"),)),
        )

        results = await store.together(
            DropReplies(keys=()),
            DropReplies(keys=(("r1", "q0"), ("r1", "unknown"))),
            DropReplies(keys=tuple(("r1", name) for name in names[2:])),
        )

        assert results == [None] * 3
        left = [name for name in names if await store.read(ReadReply("r1", name))]
        assert left == ["q1"]
        assert await store.read(ReadReply("r2", "q1")) == "1"

    async def test_dropping_takes_effect_in_order(self, store: Opened) -> None:
        drop = DropReplies(keys=(("r1", "a"), ("r1", "b")))

        await store.together(
            make_owned("r1"),
            make_owned("r2"),
            make_commit("r1", 3, 2, replies=(make_reply("r1", "a"),)),
            drop,
            make_commit("r2", 3, 2, replies=(make_reply("r1", "b"),)),
        )

        assert await store.read(ReadReply("r1", "a")) is None
        assert await store.read(ReadReply("r1", "b")) == "1"

    async def test_dropping_needs_no_lease(self, harness: Harness) -> None:
        store = await harness.open()

        assert await store.perform(DropReplies(keys=(("r1", "a"),))) is None

    async def test_replies_that_nobody_reads_are_dropped_by_age(
        self, harness: Harness, store: Opened
    ) -> None:
        await store.together(
            make_owned("r1"),
            make_commit(
                "r1",
                3,
                2,
                replies=(
                    make_reply("r1", "old", created_at=START - 1),
                    make_reply("r1", "new", created_at=START),
                ),
            ),
        )
        await store.perform(ReapWorkers())
        assert await store.read(ReadReply("r1", "old")) == "1"

        harness.clock.advance(limits.REPLY_SECONDS_MAX)
        assert await store.perform(ReapWorkers()) == []

        assert await store.read(ReadReply("r1", "old")) is None
        assert await store.read(ReadReply("r1", "new")) == "1"
