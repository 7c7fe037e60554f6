"""What the store's contract says of reads."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from durable.store.queries import (
    CountOwnedRuns,
    FindClosedRuns,
    FindDueRuns,
    FindMailedRuns,
    FindNextWakeUp,
    FindRun,
    ListNamespaces,
    ListRuns,
    ListWorkers,
    LoadRuns,
    Query,
    ReadAttempts,
    ReadBacklog,
    ReadHistory,
    ReadMessages,
    ReadNews,
)
from durable.store.records import (
    NEVER,
    CommitTask,
    ParkRun,
    RecordAttempts,
    ReplyRecord,
    RunFilter,
    RunStatus,
)
from durable.testing.contract.rows import (
    NAMESPACE,
    QUEUE,
    START,
    make_attempt,
    make_child,
    make_closing,
    make_message,
    make_owned,
    make_rows,
    make_start,
    make_termination,
    make_worker,
)

if TYPE_CHECKING:
    from durable.testing.contract.rows import Harness, Opened


class ReadContract:
    """Reads."""

    async def test_load_keeps_the_order_and_leaves_out_unknown_runs(
        self, store: Opened
    ) -> None:
        names = [f"r{number}" for number in range(7)]
        await store.together(*(make_owned(n, events=3) for n in names))
        asked = ["r5", "unknown", "r0", "r3"]

        loaded = await store.read(LoadRuns(asked))

        assert [run.record.run_id for run in loaded] == ["r5", "r0", "r3"]
        assert all(run.rows == make_rows(run.record.run_id, 1, 3) for run in loaded)
        assert await store.read(LoadRuns([])) == []

    async def test_more_runs_are_read_than_one_query_takes(
        self, harness: Harness
    ) -> None:
        store = await harness.open()
        names = [f"r{number:04}" for number in range(1_203)]
        await store.together(*(make_start(n, events=1) for n in names))

        loaded = await store.read(LoadRuns(names))

        assert [run.record.run_id for run in loaded] == names
        assert all(len(run.rows) == 1 for run in loaded)
        assert {one.run_id for one in await store.read(ReadNews(names))} == set(names)

    async def test_history_is_read_from_a_position_on(self, harness: Harness) -> None:
        store = await harness.open()
        await store.perform(make_start("r1", events=12))

        assert await store.read(ReadHistory("r1")) == make_rows("r1", 1, 12)
        assert await store.read(ReadHistory("r1", 10)) == make_rows("r1", 11, 12)
        assert await store.read(ReadHistory("r1", 3, 2)) == make_rows("r1", 4, 5)
        assert await store.read(ReadHistory("r1", 12)) == []
        assert await store.read(ReadHistory("unknown")) == []

    async def test_history_keeps_text_and_numbers_as_they_are(
        self, harness: Harness
    ) -> None:
        store = await harness.open()
        row = ("r1", 1, 2**31 - 1, "Ereignis", 2**62, '{"é": "\\u0000 😀 \'"}', 2**40)
        start = make_start("r1", events=0)
        start.rows.append(row)

        await store.perform(start)

        assert await store.read(ReadHistory("r1")) == [row]

    async def test_ids_are_compared_byte_by_byte(self, harness: Harness) -> None:
        store = await harness.open()
        names = ["Order-1", "order-1", "Ordér-1", "Orde\u0301r-1", "order-1.", "%"]
        names += ["order-1 ", "😀", "😁", "'\\'", "\\", "%s", "; --"]

        outcomes = await store.together(*(make_start(name) for name in names))

        assert [outcome.created for outcome in outcomes] == [True] * len(names)
        for name in names:
            found = await store.read(FindRun(NAMESPACE, f"wf-{name}"))
            assert found is not None
            assert found.run_id == name
        assert await store.read(FindRun(NAMESPACE, "wf-ORDER-1")) is None

    async def test_attempts_are_read_in_order(self, store: Opened) -> None:
        await store.perform(make_owned("r1"))
        attempts = [
            make_attempt("r1", attempt, scheduled_event_id=event)
            for event, attempt in ((2, 1), (2, 2), (2, 10), (11, 1))
        ]

        await store.perform(
            RecordAttempts(
                run_id="r1",
                attempts=tuple(reversed(attempts)),
                is_active=True,
                wake_at=None,
            )
        )

        assert await store.read(ReadAttempts("r1")) == attempts
        assert await store.read(ReadAttempts("unknown")) == []

    async def test_find_run_prefers_the_newest(self, store: Opened) -> None:
        for run_id, age in (("a", 1), ("c", 3), ("b", 2)):
            await store.perform(
                make_owned(run_id, workflow_id="wf", started_at=START + age)
            )
            await store.perform(make_closing(run_id))

        newest = await store.read(FindRun(NAMESPACE, "wf"))
        chosen = await store.read(FindRun(NAMESPACE, "wf", "a"))

        assert newest is not None
        assert chosen is not None
        assert (newest.run_id, chosen.run_id) == ("c", "a")
        assert await store.read(FindRun(NAMESPACE, "wf", "x")) is None
        assert await store.read(FindRun(NAMESPACE, "other", "a")) is None

    async def test_open_run_is_found_before_one_that_a_wrong_clock_made_newer(
        self, store: Opened
    ) -> None:
        late = make_owned("late", workflow_id="wf", started_at=START + 9)
        early = make_owned("early", workflow_id="wf", started_at=START)
        await store.together(late, make_closing("late"), early)

        found = await store.read(FindRun(NAMESPACE, "wf"))

        assert found is not None
        assert found.run_id == "early"
        await store.perform(make_closing("early"))
        found = await store.read(FindRun(NAMESPACE, "wf"))
        assert found is not None
        assert found.run_id == "late"

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            ({}, "edcba"),
            ({"limit": 2}, "ed"),
            ({"limit": 0}, ""),
            ({"limit": 10**9}, "edcba"),
            ({"status": RunStatus.RUNNING}, "dcb"),
            ({"status": RunStatus.COMPLETED}, "a"),
            ({"workflow_type": "other"}, "c"),
            ({"workflow_id": "wf-b"}, "b"),
            ({"stuck": True}, "d"),
            ({"stuck": False}, "ecba"),
            ({"started_before": START + 4}, "cba"),
            ({"started_before": START + 4, "limit": 1}, "c"),
            ({"after": (START + 4, "d")}, "cba"),
            ({"after": (START + 4, "d"), "stuck": False}, "cba"),
            ({"after": (START + 4, "a"), "limit": 1}, "c"),
            ({"after": (START, "z")}, ""),
            ({"run_ids": ("a", "d", "x")}, "da"),
            ({"run_ids": ()}, ""),
            ({"status": RunStatus.RUNNING, "workflow_type": "order"}, "db"),
        ],
    )
    async def test_listing_filters_and_shows_the_newest_first(
        self, store: Opened, where: dict[str, Any], expected: str
    ) -> None:
        starts = [
            make_owned(name, started_at=START + age)
            for age, name in enumerate("abcde", 1)
        ]
        starts[2] = make_owned("c", started_at=START + 3, workflow_type="other")
        await store.together(
            *starts,
            make_start("elsewhere", namespace="elsewhere"),
            make_closing("a"),
            make_termination("e"),
            ParkRun(run_id="d", stuck="{}"),
        )

        runs = await store.read(ListRuns(NAMESPACE, RunFilter(**where)))

        assert "".join(run.run_id for run in runs) == expected

    async def test_listing_hides_runs_of_the_librarys_own(self, store: Opened) -> None:
        await store.together(
            make_owned("a"),
            make_owned("b", workflow_type="durable.schedule"),
            make_owned("c", workflow_type="durables"),
        )

        for hides, expected in ((False, "abc"), (True, "ac")):
            where = RunFilter(hides_own=hides)
            runs = await store.read(ListRuns(NAMESPACE, where))
            assert "".join(sorted(run.run_id for run in runs)) == expected

    async def test_pages_skip_none_of_the_runs_that_started_at_one_instant(
        self, harness: Harness
    ) -> None:
        store = await harness.open()
        ages = {
            name: age
            for age, names in enumerate(("ab", "cdefg", "h"))
            for name in names
        }
        await store.together(
            *(make_start(name, started_at=START + age) for name, age in ages.items())
        )

        found, after = "", None
        while page := await store.read(
            ListRuns(NAMESPACE, RunFilter(limit=2, after=after))
        ):
            found += "".join(run.run_id for run in page)
            after = (page[-1].started_at, page[-1].run_id)

        assert found == "hgfedcba"

    async def test_news_of_runs_cost_no_history(self, store: Opened) -> None:
        await store.together(
            *(make_owned(name, events=3) for name in "abcd"),
            make_closing("b", 4, 6),
            make_termination("c"),
            ParkRun(run_id="d", stuck="{}"),
            CommitTask(
                run_id="a",
                rows=make_rows("a", 4, 5),
                replies=tuple(
                    ReplyRecord(run_id="a", request_id=name, data="1", created_at=START)
                    for name in ("q2", "q1")
                ),
            ),
        )

        news = {
            one.run_id: one for one in await store.read(ReadNews(["a", "x", *"dcb"]))
        }

        assert set(news) == set("abcd")
        assert [news[name].is_open for name in "abcd"] == [True, False, False, True]
        assert [news[name].is_stuck for name in "abcd"] == [False, False, False, True]
        assert news["a"].replies == ("q1", "q2")
        assert news["d"].replies == ()
        for name, one in news.items():
            rows = await store.read(ReadHistory(name))
            assert one.last_event_id == len(rows)
            assert one.last_row == (None if one.is_open else rows[-1])
        assert await store.read(ReadNews([])) == []

    async def test_what_is_asked_at_once_is_answered_each_by_itself(
        self, store: Opened
    ) -> None:
        for name in "abc":
            for run_id in (f"{name}1", f"{name}3", f"{name}2"):
                await store.perform(make_owned(run_id, workflow_id=name))
                if run_id != "a2":
                    await store.perform(make_closing(run_id))
        asked: list[Query[Any]] = [
            *(FindRun(NAMESPACE, name) for name in "abcxa"),
            *(FindRun(name, "a", "a1") for name in (NAMESPACE, "other")),
            *(ReadNews([name, "c3", name]) for name in ("a1", "b2", "x")),
            *(ReadHistory(name) for name in ("a1", "b2", "x")),
        ]

        together = await asyncio.gather(*(store.read(query) for query in asked))

        found = [run and run.run_id for run in together[:5]]
        assert found == ["a2", "b3", "c3", None, "a2"]
        assert together == [await store.read(query) for query in asked]

    async def test_listing_shows_the_children_of_a_run(self, store: Opened) -> None:
        await store.together(
            make_owned("p"),
            make_child("a", "p", "terminate", owner="w", started_at=START + 1),
            make_child("b", "p", "abandon", owner="w", started_at=START + 2),
            make_child("c", "b", "terminate", owner="w"),
            make_child("d", "p", "abandon", namespace="elsewhere"),
            make_closing("a"),
        )

        for where, expected in (
            (RunFilter(parent_run_id="p"), "ba"),
            (RunFilter(parent_run_id="p", status=RunStatus.RUNNING), "b"),
            (RunFilter(parent_run_id="p", limit=1), "b"),
            (RunFilter(parent_run_id="p", started_before=START + 2), "a"),
        ):
            runs = await store.read(ListRuns(NAMESPACE, where))
            assert "".join(run.run_id for run in runs) == expected
        assert await store.read(ListRuns(NAMESPACE, RunFilter(parent_run_id="x"))) == []

    async def test_messages_are_read_in_order(self, store: Opened) -> None:
        await store.together(
            make_owned("r1"),
            make_owned("r2"),
            make_message("r1", "b"),
            make_message("r2", "c"),
            make_message("r1", "a"),
        )

        messages = await store.read(ReadMessages("r1"))

        assert [message.request_id for message in messages] == ["b", "a"]
        (loaded,) = await store.read(LoadRuns(["r1"]))
        assert messages == loaded.messages
        assert await store.read(ReadMessages("unknown")) == []
        # Those that are asked together are read together.
        ids = ["r2", "unknown", "r1", "r2"]
        several = await asyncio.gather(*[store.read(ReadMessages(id)) for id in ids])
        told = [[message.request_id for message in found] for found in several]
        assert told == [["c"], [], ["b", "a"], ["c"]]

    async def test_due_runs_are_this_workers_own(self, store: Opened) -> None:
        await store.together(
            make_owned("later", wake_at=START + 10),
            make_owned("third", wake_at=START + 3),
            make_owned("second", wake_at=START + 2),
            make_owned("first", wake_at=START + 1),
            make_owned("never"),
            make_start("unowned", wake_at=START),
            make_owned("parked", wake_at=START),
            ParkRun(run_id="parked", stuck="{}"),
            make_owned("closed", wake_at=START),
            make_closing("closed"),
        )

        assert await store.read(FindDueRuns(START + 3, 10)) == [
            "first",
            "second",
            "third",
        ]
        assert await store.read(FindDueRuns(START + 10, 2)) == ["first", "second"]
        assert await store.read(FindDueRuns(START, 10)) == []
        assert await store.read(FindDueRuns(START + 10, 0)) == []
        assert await store.read(FindNextWakeUp(["order"])) == START
        assert await store.read(FindNextWakeUp(["other"])) == START + 1

    async def test_mailed_runs_come_by_their_oldest_message(
        self, store: Opened
    ) -> None:
        await store.together(
            *(make_owned(name) for name in ("a", "b", "c", "d")),
            make_start("unowned"),
            make_message("unowned"),
            make_message("c"),
            make_message("a"),
            make_message("c", "cancel-2"),
            make_message("d"),
            ParkRun(run_id="d", stuck="{}"),
        )

        assert await store.read(FindMailedRuns(10)) == ["c", "a"]
        assert await store.read(FindMailedRuns(1)) == ["c"]
        assert await store.read(FindMailedRuns(0)) == []

    async def test_closed_runs_are_found_by_their_ids(self, store: Opened) -> None:
        await store.together(
            *(make_owned(name) for name in ("a", "b", "c")),
            make_start("unowned"),
            make_termination("b"),
        )

        asked = ["nobody", "a", "unowned", "b", "c"]
        assert await store.read(FindClosedRuns(asked)) == ["nobody", "b"]
        assert await store.read(FindClosedRuns([])) == []

    async def test_worker_reads_are_empty_without_a_worker(
        self, harness: Harness
    ) -> None:
        store = await harness.open()
        await store.together(make_start("r1", wake_at=START), make_message("r1"))

        assert await store.read(FindDueRuns(START, 9)) == []
        assert await store.read(FindMailedRuns(9)) == []
        assert await store.read(FindNextWakeUp(["order"])) is None

    async def test_namespaces_are_listed_once_each(self, harness: Harness) -> None:
        store = await harness.open()
        assert await store.read(ListNamespaces()) == []
        await store.together(
            make_start("r1", namespace="shop"),
            make_start("r2", namespace="Shop"),
            make_start("r3", namespace="shop"),
            make_start("r4", namespace="\N{LATIN SMALL LETTER E WITH ACUTE}"),
        )

        assert await store.read(ListNamespaces()) == [
            "Shop",
            "shop",
            "\N{LATIN SMALL LETTER E WITH ACUTE}",
        ]

    async def test_owned_runs_are_counted_by_worker(
        self, harness: Harness, store: Opened
    ) -> None:
        other = await harness.open("w2")
        await harness.open("w3")
        for run_id in ("r1", "r2"):
            await store.perform(make_start(run_id, owner="w"))
        await store.together(make_start("r3", owner="w"), make_closing("r3"))
        await store.perform(make_start("r4", wake_at=START))
        await other.perform(make_start("r5", owner="w2"))

        assert await other.read(CountOwnedRuns()) == {"w": 2, "w2": 1}

    async def test_backlog_is_what_nobody_has_taken_of_each_task_queue(
        self, store: Opened
    ) -> None:
        await store.together(
            make_start("r1", wake_at=START - 5),
            make_start("r2", wake_at=START),
            make_start("later", wake_at=START + 1),
            make_start("mailed", task_queue="b", wake_at=START + 9),
            make_message("mailed"),
            make_start("asleep", task_queue="c", wake_at=START + 9),
            make_start("elsewhere", namespace="elsewhere", wake_at=START),
            make_start("owned", wake_at=START, owner="w"),
            make_start("closed", wake_at=START, task_queue="d"),
            make_termination("closed"),
            make_owned("stuck", task_queue="e"),
            make_owned("paused", task_queue="f"),
        )
        await store.perform(ParkRun(run_id="stuck", stuck="{}"))
        await store.perform(ParkRun(run_id="paused", stuck="{}", wake_at=NEVER))
        await store.perform(make_message("stuck"))  # it is due then, and still stuck

        assert await store.read(ReadBacklog(NAMESPACE, START)) == [
            ("b", 1, START, 0),
            ("e", 0, None, 1),
            (QUEUE, 2, START - 5, 0),
        ]
        assert await store.read(ReadBacklog("nobody's", START)) == []
        older = await store.read(ReadBacklog(NAMESPACE, START - 5))
        assert older[-1] == (QUEUE, 1, START - 5, 0)

    async def test_workers_are_listed_by_id(self, store: Opened) -> None:
        (worker,) = await store.read(ListWorkers())

        assert msgspec.structs.replace(worker, lease_expires_at=0) == (make_worker("w"))
