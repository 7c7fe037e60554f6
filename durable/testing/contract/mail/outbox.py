"""What the store's contract says of the outbox: done once, in order, or left there."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from durable.errors import (
    WorkflowAlreadyStartedError,
    WorkflowNotFoundError,
)
from durable.options import IdConflictPolicy
from durable.store.queries import (
    FindOutbox,
    FindRun,
    FindStarted,
    ListOutbox,
    OutboxPage,
    ReadOutbox,
)
from durable.store.records import (
    Delivered,
    DeliverOutbox,
    OutboxItem,
    OutboxKind,
    OutboxRecord,
    SettleOutbox,
    Started,
)
from durable.testing.contract.rows import NAMESPACE, START, make_message, make_start

if TYPE_CHECKING:
    from durable.store.records import PutMessage, StartRun
    from durable.testing.contract.rows import Harness, Opened

GONE = Delivered(is_gone=True)


def make_row(target: str, outbox_id: str, /, **changes: Any) -> OutboxRecord:
    """Build a row of the outbox as a program writes it."""
    record = OutboxRecord(
        outbox_id=outbox_id,
        namespace=NAMESPACE,
        target=target,
        kind=OutboxKind.MESSAGE.value,
        data="{}",
        created_at=START,
    )
    return msgspec.structs.replace(record, **changes)


async def fill_outbox(store: Opened, *rows: OutboxRecord) -> list[int]:
    """Write rows as a stranger's connection would; return their sequences."""
    names = [
        name
        for name in OutboxRecord.__struct_fields__
        if name not in ("sequence", "damage")
    ]
    values = [{name: getattr(row, name) for name in names} for row in rows]
    memory = getattr(store.store, "_database", None)
    outbox = getattr(memory, "outbox", None)
    if outbox is not None:
        first = max(outbox, default=0) + 1
        for sequence, row in enumerate(rows, start=first):
            outbox[sequence] = msgspec.structs.replace(row, sequence=sequence)
    else:
        await asyncio.to_thread(_insert, store, values)
    found = await store.read(ListOutbox(None, limit=1_000))
    return [row.sequence for row in found[-len(rows) :]]


def _insert(store: Opened, values: list[dict[str, Any]]) -> None:
    from durable.store.sql.tables import OUTBOX

    database: Any = getattr(store.store, "database", None)
    if database is None or database.open_reader() is None:
        pytest.skip("no connection but its own sees the database")
    with contextlib.closing(database.open_writer()) as session:
        session.begin()
        for row in values:
            session.connection.execute(OUTBOX.insert(), row)
        session.commit()


def deliver(*items: tuple[int, StartRun | PutMessage | None]) -> DeliverOutbox:
    """Build a delivery."""
    return DeliverOutbox(items=tuple(OutboxItem(*item) for item in items))


async def waiting(store: Opened) -> list[str]:
    """Return the outbox ids of all rows, in order."""
    return [row.outbox_id for row in await store.read(ListOutbox(None))]


class OutboxContract:
    """The outbox."""

    async def test_start_and_messages_are_done_and_their_rows_gone(
        self, store: Opened
    ) -> None:
        start = make_start("r1")
        rows = [make_row("wf-r1", name) for name in ("r1", "m1", "m2")]
        one, two, three = await fill_outbox(store, *rows)

        (done,) = await store.together(
            deliver(
                (one, start),
                (two, make_message("r1", "m1")),
                (three, make_message("r1", "m2")),
            )
        )

        assert done == (
            Delivered(is_gone=True, result=Started("r1", created=True)),
            Delivered(is_gone=True, result="r1"),
            Delivered(is_gone=True, result="r1"),
        )
        assert await store.waiting("r1") == ["m1", "m2"]
        assert await waiting(store) == []

    async def test_row_that_is_gone_is_delivered_to_nobody(self, store: Opened) -> None:
        await store.perform(make_start("r1"))
        (one,) = await fill_outbox(store, make_row("wf-r1", "m1"))
        delivery = deliver((one, make_message("r1", "m1")))
        await store.perform(delivery)

        assert await store.perform(deliver((one, make_message("r1", "again")))) == (
            GONE,
        )
        assert await store.waiting("r1") == ["m1"]

    @pytest.mark.parametrize("together", [False, True])
    async def test_two_deliver_the_same_rows_once(
        self, harness: Harness, *, together: bool
    ) -> None:
        first, second = await harness.open("w"), await harness.open("v")
        rows = [make_row("wf-r1", f"m{n}") for n in range(20)]
        one, *others = await fill_outbox(first, make_row("wf-r1", "r1"), *rows)
        items = [
            (n, make_message("r1", f"m{k}", kind="signal"))
            for k, n in enumerate(others)
        ]
        delivery = deliver((one, make_start("r1")), *items)

        def send(store: Opened) -> list[Any]:
            if together:
                return [store.perform(delivery)]
            return [store.perform(deliver(item)) for item in delivery_items(delivery)]

        outcomes = await asyncio.gather(
            *send(first), *send(second), return_exceptions=True
        )

        # Who looked before the other had started the run knows of none to send to.
        failed = [o for o in outcomes if isinstance(o, BaseException)]
        assert failed == []
        for _ in range(2):
            await first.perform(delivery)
        assert await first.waiting("r1") == [f"m{n}" for n in range(20)]
        assert await waiting(first) == []

    async def test_refused_row_stays_and_so_do_those_behind_it(
        self, store: Opened
    ) -> None:
        await store.perform(make_start("r1"))
        rows = [make_row("wf-x", "m0"), make_row("wf-x", "m1"), make_row("wf-r1", "m2")]
        one, two, three = await fill_outbox(store, *rows)

        refused, other = await store.together(
            deliver((one, make_message("x", "m0")), (two, make_message("x", "m1"))),
            deliver((three, make_message("r1", "m2"))),
        )

        (error,) = refused
        assert isinstance(error, WorkflowNotFoundError)
        assert other == (Delivered(is_gone=True, result="r1"),)
        assert await waiting(store) == ["m0", "m1"]

    async def test_what_came_before_the_refused_row_is_kept(
        self, store: Opened
    ) -> None:
        await store.perform(make_start("r1"))
        rows = [make_row("wf-r1", f"m{n}") for n in range(3)]
        one, two, three = await fill_outbox(store, *rows)

        done = await store.perform(
            deliver(
                (one, make_message("r1", "m0")),
                (two, make_start("r2", workflow_id="wf-r1")),
                (three, make_message("r1", "m2")),
            )
        )

        assert done[0] == Delivered(is_gone=True, result="r1")
        assert isinstance(done[1], WorkflowAlreadyStartedError)
        assert len(done) == 2
        assert await store.waiting("r1") == ["m0"]
        assert await waiting(store) == ["m1", "m2"]

    async def test_found_run_is_judged_before_the_row_goes(self, store: Opened) -> None:
        await store.perform(make_start("r1"))
        rows = [make_row("wf-r1", "r2"), make_row("wf-r1", "m1")]
        one, two = await fill_outbox(store, *rows)
        start = make_start(
            "r2",
            workflow_id="wf-r1",
            conflict_policy=IdConflictPolicy.USE_SAME,
            wants_found=True,
        )

        (found,) = await store.perform(
            deliver((one, start), (two, make_message("r1", "m1")))
        )

        assert not found.is_gone
        assert found.result.found.record.run_id == "r1"
        assert await waiting(store) == ["r2", "m1"]
        assert await store.perform(deliver((one, None))) == (GONE,)
        assert await waiting(store) == ["m1"]

    async def test_commit_and_delivery_share_a_group(self, store: Opened) -> None:
        (one,) = await fill_outbox(store, make_row("wf-r1", "m1"))

        started, done = await store.together(
            make_start("r1"), deliver((one, make_message("r1", "m1")))
        )

        assert started.created
        assert done == (Delivered(is_gone=True, result="r1"),)
        assert await store.waiting("r1") == ["m1"]

    # --- tries ------------------------------------------------------------------------

    async def test_row_waits_for_its_next_try_and_holds_those_behind_it(
        self, store: Opened
    ) -> None:
        rows = [make_row("a", "a1"), make_row("a", "a2"), make_row("b", "b1")]
        one, two, _ = await fill_outbox(store, *rows)

        def settle(due_at: int | None, tries: int, expected: int) -> SettleOutbox:
            return SettleOutbox(
                sequence=one,
                due_at=due_at,
                tries=tries,
                failure='{"message": "no"}',
                expected=expected,
            )

        later, now = START + 5, START
        assert await store.perform(settle(later, 1, 0)) is True
        # Somebody else has been refused meanwhile.
        assert await store.perform(settle(None, 1, 0)) is False

        async def due(until: int) -> tuple[list[str], int | None]:
            page = await store.read(FindOutbox(NAMESPACE, until, 10))
            return [row.outbox_id for row in page.rows], page.next_at

        assert await due(now) == (["b1"], later)
        found, _ = await due(later)
        assert found in (["a1", "b1"], ["a1", "a2", "b1"])
        (row, *_) = await store.read(ListOutbox(NAMESPACE))
        assert (row.tries, row.due_at, row.failure) == (1, later, '{"message": "no"}')
        assert await store.perform(settle(None, 2, 1)) is True
        assert await due(later) == (["a2", "b1"], None)
        aside = await store.read(ListOutbox(NAMESPACE, is_aside=True))
        assert [row.sequence for row in aside] == [one]
        others = await store.read(ListOutbox(NAMESPACE, is_aside=False, limit=1))
        assert [row.sequence for row in others] == [two]
        operator = SettleOutbox(sequence=one, due_at=0, tries=0)
        assert await store.perform(operator) is True
        assert await due(now) == (["a1", "a2", "b1"], None)
        await store.perform(deliver((one, None)))
        assert await store.perform(operator) is False

    # --- reads ------------------------------------------------------------------------

    async def test_page_is_of_one_namespace_and_in_order(self, store: Opened) -> None:
        rows = [make_row("t", f"m{n}") for n in range(5)]
        await fill_outbox(store, make_row("t", "other", namespace="other"), *rows)

        page = await store.read(FindOutbox(NAMESPACE, START, 3))

        assert [row.outbox_id for row in page.rows] == ["m0", "m1", "m2"]
        assert not page.is_whole
        assert await store.read(FindOutbox("nobody", START, 3)) == OutboxPage()
        assert len(await store.read(ListOutbox("other"))) == 1
        assert len(await store.read(ListOutbox(None))) == 6
        rest = await store.read(ListOutbox(NAMESPACE, after=page.rows[-1].sequence))
        assert [row.outbox_id for row in rest] == ["m3", "m4"]

    async def test_row_is_found_by_its_outbox_id(self, store: Opened) -> None:
        row = make_row("t", "m1", data='{"a": "é"}')
        (one,) = await fill_outbox(store, row)

        found = await store.read(ReadOutbox("m1"))

        assert found == msgspec.structs.replace(row, sequence=one)
        assert await store.read(ReadOutbox("m2")) is None

    async def test_run_is_found_by_the_request_id_of_its_start(
        self, store: Opened
    ) -> None:
        await store.perform(make_start("r1", request_id="q"))

        found = await store.read(FindStarted(NAMESPACE, "q"))

        assert found == await store.read(FindRun(NAMESPACE, "wf-r1"))
        assert await store.read(FindStarted("other", "q")) is None
        assert await store.read(FindStarted(NAMESPACE, "r1")) is None


def delivery_items(
    delivery: DeliverOutbox,
) -> list[tuple[int, StartRun | PutMessage | None]]:
    """Return the items of a delivery, each to be sent by itself."""
    return [(item.sequence, item.operation) for item in delivery.items]
