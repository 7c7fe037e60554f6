"""What the store's contract says of runs that go on from what others have done."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from durable.errors import (
    AttributeTypeError,
    HistoryTakenError,
    WorkflowAlreadyStartedError,
    WorkflowNotFoundError,
)
from durable.search.conditions import Attribute
from durable.store.queries import FindRun, ReadMessages
from durable.store.records import (
    AttemptState,
    Committed,
    MessageRecord,
    ResetRun,
    RunStatus,
    Started,
    at_once,
)
from durable.testing.contract.rows import (
    CLAIM,
    NAMESPACE,
    START,
    make_attempt,
    make_child,
    make_closing,
    make_commit,
    make_message,
    make_owned,
    make_rows,
    make_run,
    make_start,
    make_termination,
)
from durable.testing.contract.searching import pack_values

if TYPE_CHECKING:
    from durable.testing.contract.rows import Harness, Opened

REASON = '{"reason": "reset"}'


def make_reset(
    base: str, run_id: str = "new", /, *, events: int = 2, **changes: Any
) -> ResetRun:
    """Build a reset of a run that is open, with two events, to its first one."""
    own = {
        name: changes.pop(name)
        for name in ResetRun.__struct_fields__
        if name in changes
    }
    record: dict[str, Any] = {
        "workflow_id": f"wf-{base}",
        "first_run_id": base,
        "started_at": START + 5,
        "wake_at": at_once(START + 5),
    }
    fields: dict[str, Any] = {
        "base_run_id": base,
        "expected": ((base, 2, True),),
        "rows": make_rows(run_id, 1, events),
        "terminated_data": REASON,
    }
    return ResetRun(record=make_run(run_id, **(record | changes)), **(fields | own))


def make_letter(request_id: str, kind: str = "signal") -> MessageRecord:
    """Build a message that a reset run is to hear again."""
    return MessageRecord(
        run_id="", kind=kind, request_id=request_id, data="{}", created_at=START
    )


class ResetContract:
    """Resets and forks."""

    async def test_reset_of_an_open_run_closes_it_and_begins_the_other(
        self, harness: Harness, store: Opened
    ) -> None:
        await store.perform(make_owned("r"))
        harness.clock.advance(3)
        attempt = make_attempt("new", 1, state=AttemptState.BACKOFF)
        reset = make_reset("r", state='{"json":1}', attempts=(attempt,))

        started = await store.perform(reset)

        assert started == Started("new", True, "r", Committed())
        old = await store.load("r")
        assert old.record.status is RunStatus.TERMINATED
        assert old.record.owner is None
        assert old.record.closed_at == START + 3_000_000
        assert old.rows[-1][3] == "WorkflowExecutionTerminated"
        assert old.rows[-1][5] == REASON
        new = await store.load("new")
        assert new.record == reset.record
        assert new.rows == reset.rows
        assert new.attempts == [attempt]
        assert await store.read(FindRun(NAMESPACE, "wf-r")) == reset.record
        assert await store.perform(CLAIM) == {"new": 1}

    async def test_owner_of_a_run_that_was_reset_writes_no_more(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r"))

        _, refused = await store.together(make_reset("r"), make_commit("r"))

        assert isinstance(refused, HistoryTakenError)

    async def test_reset_of_a_closed_run_leaves_it_as_it_is(
        self, store: Opened
    ) -> None:
        await store.together(make_owned("r"), make_closing("r"))
        before = await store.load("r")

        started = await store.perform(make_reset("r", expected=(("r", 3, False),)))

        assert started == Started("new", True, None, Committed())
        assert await store.load("r") == before
        assert await store.statuses() == {"r": "completed", "new": "running"}

    @pytest.mark.parametrize("place", [("r", 1, True), ("r", 2, False), ("x", 2, True)])
    async def test_reset_of_a_run_that_has_gone_on_does_nothing(
        self, store: Opened, place: tuple[str, int, bool]
    ) -> None:
        await store.perform(make_owned("r"))
        before = await store.load("r")

        assert await store.perform(make_reset("r", expected=(place,))) is None

        assert await store.load("r") == before
        assert await store.statuses() == {"r": "running"}

    async def test_same_request_is_one_run_and_another_is_another(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r"))

        first, again, third = await store.together(
            make_reset("r", "a", request_id="q"),
            make_reset("r", "b", request_id="q"),
            make_reset("a", "c", workflow_id="wf-r", first_run_id="r"),
        )

        assert (first.run_id, again) == ("a", Started("a", False))
        assert third == Started("c", True, "a", Committed())
        assert await store.statuses() == {
            "r": "terminated",
            "a": "terminated",
            "c": "running",
        }

    async def test_of_many_resets_at_once_one_is_done(self, store: Opened) -> None:
        await store.perform(make_owned("r"))

        outcomes = await asyncio.gather(
            *(store.perform(make_reset("r", f"n{index}")) for index in range(20))
        )

        assert sum(outcome is not None for outcome in outcomes) == 1
        assert list((await store.statuses()).values()).count("running") == 1

    async def test_message_that_waits_goes_along_unless_it_is_left_out(
        self, store: Opened
    ) -> None:
        await store.together(
            make_owned("r"),
            make_message("r", "s", kind="signal"),
            make_message("r", "q", kind="query"),
            make_message("r", "seen", kind="signal"),
        )
        letters = (make_letter("earlier"), make_letter("seen"))

        await store.perform(
            make_reset("r", messages=letters, moved_kinds=("signal", "cancel"))
        )

        assert await store.waiting("new") == ["earlier", "seen", "s"]
        assert await store.waiting("r") == []
        message = (await store.read(ReadMessages("new")))[0]
        assert (message.kind, message.data) == ("signal", "{}")

    async def test_parent_of_a_run_that_is_reset_hears_of_its_end_alone(
        self, store: Opened
    ) -> None:
        await store.together(make_owned("p"), make_child("c", "p", "terminate"))
        family = {
            name: getattr(make_child("c", "p", "terminate").record, name)
            for name in (
                "parent_workflow_id",
                "parent_run_id",
                "parent_initiated_event_id",
                "parent_close_policy",
                "root_run_id",
            )
        }

        await store.perform(make_reset("c", **family))

        assert await store.waiting("p") == []
        await store.perform(make_termination("c"))
        assert await store.waiting("p") == ["child:c"]

    async def test_child_that_is_kept_belongs_to_the_new_run(
        self, store: Opened
    ) -> None:
        await store.together(
            make_owned("p"),
            make_child("kept", "p", "terminate", owner="w"),
            make_child("left", "p", "terminate", owner="w"),
            make_child("free", "p", "abandon", owner="w"),
            make_child("asked", "p", "request_cancel", owner="w"),
        )

        started = await store.perform(
            make_reset(
                "p",
                kept_children=("kept", "free"),
                undone_children=("left", "asked"),
            )
        )

        assert started.committed == Committed(ended=("left",), cancelled=("asked",))
        assert (await store.load("kept")).record.parent_run_id == "new"
        assert (await store.load("free")).record.parent_run_id == "new"
        news = make_message("p", "child:kept", run_id="p", kind="child")
        committed = await store.perform(make_closing("kept", messages=(news,)))
        assert committed == Committed(deliveries=("new",))
        assert await store.waiting("new") == ["child:kept"]
        closed = await store.perform(make_termination("p"))
        assert closed.committed == Committed()
        assert (await store.statuses())["free"] == "running"

    async def test_child_that_is_kept_ends_with_the_new_run(
        self, store: Opened
    ) -> None:
        await store.together(
            make_owned("p"), make_child("kept", "p", "terminate", owner="w")
        )
        reset, closed = await store.together(
            make_reset("p", kept_children=("kept",)), make_termination("p")
        )

        assert reset.committed == Committed()
        assert closed.committed == Committed(ended=("kept",))

    async def test_next_run_of_a_kept_child_belongs_to_the_new_parent(
        self, store: Opened
    ) -> None:
        await store.together(
            make_owned("p"),
            make_child("kept", "p", "terminate", owner="w"),
            make_reset("p", kept_children=("kept",)),
        )
        following = make_child(
            "next",
            "p",
            "terminate",
            workflow_id="wf-kept",
            first_run_id="kept",
            continued_from_run_id="kept",
        )

        await store.perform(
            make_closing("kept", status=RunStatus.CONTINUED_AS_NEW, starts=(following,))
        )

        assert (await store.load("next")).record.parent_run_id == "new"

    async def test_child_that_nobody_has_listed_stops_a_reset(
        self, store: Opened
    ) -> None:
        await store.together(make_owned("p"), make_child("late", "p", "terminate"))

        assert await store.perform(make_reset("p")) is None

        assert await store.statuses() == {"p": "running", "late": "running"}

    async def test_open_run_that_nobody_has_listed_stops_a_reset(
        self, store: Opened
    ) -> None:
        await store.together(make_owned("r"), make_closing("r"))
        closed = ("r", 3, False)

        first, second = await store.together(
            make_reset("r", "a", expected=(closed,)),
            make_reset("r", "b", expected=(closed,)),
        )

        assert (first.run_id, second) == ("a", None)
        assert await store.statuses() == {"r": "completed", "a": "running"}

    async def test_later_run_of_the_chain_is_closed_and_of_another_is_not(
        self, store: Opened
    ) -> None:
        after: dict[str, Any] = {"workflow_id": "wf-r", "started_at": START + 1}
        await store.together(
            make_owned("r"),
            make_closing("r", status=RunStatus.CONTINUED_AS_NEW),
            make_start("r2", first_run_id="r", **after),
        )
        expected = (("r", 3, False), ("r2", 2, True))

        started = await store.perform(make_reset("r", expected=expected))

        assert started.terminated_run_id == "r2"
        await store.together(make_termination("r"), make_start("stranger", **after))
        with pytest.raises(WorkflowAlreadyStartedError):
            await store.perform(make_reset("r", "other", expected=(("r", 3, False),)))

    async def test_fork_leaves_its_base_alone(self, store: Opened) -> None:
        await store.together(
            make_owned("r"),
            make_child("c", "r", "terminate"),
            make_message("r", "s", kind="signal"),
        )
        before = await store.load("r")
        fork = make_reset("r", "f", is_fork=True, workflow_id="wf-f", first_run_id="f")

        assert await store.perform(fork) == Started("f", True, None, Committed())

        assert await store.load("r") == before
        assert (await store.load("f")).record == fork.record
        assert (await store.load("c")).record.parent_run_id == "r"
        twin = make_reset("r", "t", is_fork=True, workflow_id="wf-f")
        with pytest.raises(WorkflowAlreadyStartedError):
            await store.perform(twin)

    async def test_reset_that_is_refused_does_nothing(self, store: Opened) -> None:
        customer = Attribute("customer", str)
        clash = pack_values({Attribute("customer", int): 4})
        known = pack_values({customer: "ann"})
        await store.together(make_owned("r", attributes=known), make_owned("used"))
        before = await store.load("r")
        refused: list[tuple[ResetRun, type[Exception]]] = [
            (make_reset("nobody"), WorkflowNotFoundError),
            (make_reset("r", "used", request_id="q"), HistoryTakenError),
            (make_reset("r", attributes=clash), AttributeTypeError),
        ]
        for operation, error in refused:
            with pytest.raises(error):
                await store.perform(operation)

        assert await store.load("r") == before
        assert "new" not in await store.statuses()
        assert await store.perform(make_reset("r", attributes=known))
