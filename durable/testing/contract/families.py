"""What the store's contract says of parents, children and the runs of a chain."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from durable import limits
from durable.errors import (
    HistoryTakenError,
    LeaseLostError,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.options import TERMINATE_EXISTING
from durable.store.queries import (
    FindMailedRuns,
    FindRun,
    LoadRuns,
    ReadHistory,
    ReadMessages,
)
from durable.store.records import (
    Committed,
    MailArrived,
    ReleaseRuns,
    RunStatus,
    Started,
    Terminated,
)
from durable.testing.contract.rows import (
    NAMESPACE,
    START,
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

if TYPE_CHECKING:
    from durable.testing.contract.rows import Harness, Opened

TERMINATED_DATA = {"reason": "Its parent closed.", "identity": ""}
CLOSED_STATUSES = [status for status in RunStatus if status is not RunStatus.RUNNING]


async def start_family(store: Opened) -> None:
    """Start a parent `p` and a child of each policy and state."""
    await store.together(
        make_owned("p"),
        make_owned("other"),
        make_child("t1", "p", "terminate", owner="w", wake_at=START),
        make_child("t2", "p", "terminate", started_at=START - 1),
        make_child("gone", "p", "terminate", owner="w"),
        make_closing("gone"),
        make_child("a", "p", "abandon", owner="w"),
        make_child("c", "p", "request_cancel", owner="w"),
        make_child("foreign", "other", "terminate", owner="w"),
        make_child("t1-t", "t1", "terminate", owner="w"),
        make_child("t1-c", "t1", "request_cancel", owner="w"),
        make_child("a-t", "a", "terminate", owner="w"),
        make_message("t1", "m"),
    )


CHILD = make_child("c", "p", "abandon", owner="w")
AFTER_THE_PARENT = {
    "other": "running",
    "t1": "terminated",
    "t2": "terminated",
    "gone": "completed",
    "a": "running",
    "c": "running",
    "foreign": "running",
    "t1-t": "terminated",
    "t1-c": "running",
    "a-t": "running",
}
PARTED = Committed(ended=("t2", "t1", "t1-t"), cancelled=("c", "t1-c"))


class FamilyContract:
    """Parent close policies, news for parents, starts within commits."""

    # --- children ---------------------------------------------------------------------

    async def test_closing_with_children_applies_their_policies(
        self, harness: Harness, store: Opened
    ) -> None:
        await start_family(store)
        harness.clock.advance(3)

        result = await store.perform(make_closing("p", has_children=True))

        assert result == PARTED
        assert await store.statuses() == {"p": "completed"} | AFTER_THE_PARENT
        ended = await store.load("t1")
        ended_at = START + 3_000_000
        assert ended.record == make_run(
            "t1",
            status=RunStatus.TERMINATED,
            closed_at=ended_at,
            parent_workflow_id="wf-p",
            parent_run_id="p",
            parent_initiated_event_id=2,
            parent_close_policy="terminate",
            root_run_id="p",
        )
        assert ended.messages == []
        *before, last = ended.rows
        assert before == make_rows("t1", 1, 2)
        assert last[:5] == ("t1", 3, 3, "WorkflowExecutionTerminated", ended_at)
        assert json.loads(last[5]) == TERMINATED_DATA
        assert last[6] == 0

    async def test_child_is_asked_to_stop_by_a_message(self, store: Opened) -> None:
        await start_family(store)

        await store.perform(make_closing("p", has_children=True))

        for child, parent in (("c", "p"), ("t1-c", "t1")):
            (message,) = await store.read(ReadMessages(child))
            assert message.kind == "cancel"
            assert message.request_id == f"parent-close:{parent}"
            assert json.loads(message.data) == {
                "reason": "Its parent closed.",
                "request_id": f"parent-close:{parent}",
                "identity": "",
            }
        assert await store.read(FindMailedRuns(9)) == ["c", "t1-c"]

    async def test_owner_of_a_run_that_its_parent_ended_writes_no_more(
        self, store: Opened
    ) -> None:
        await start_family(store)

        _, refused, kept = await store.together(
            make_closing("p", has_children=True), make_commit("t1"), make_commit("a")
        )

        assert isinstance(refused, HistoryTakenError)
        assert kept is None

    @pytest.mark.parametrize("status", CLOSED_STATUSES)
    async def test_every_closing_status_parts_from_children(
        self, store: Opened, status: RunStatus
    ) -> None:
        await start_family(store)

        result = await store.perform(
            make_closing("p", status=status, has_children=True)
        )

        assert result == PARTED

    @pytest.mark.parametrize("policy", ["terminate", "request_cancel"])
    async def test_child_does_not_begin_after_its_parent_has_ended(
        self, store: Opened, policy: str
    ) -> None:
        await store.together(make_owned("p"), make_closing("p"))

        with pytest.raises(WorkflowClosedError):
            await store.perform(make_child("late", "p", policy, owner="w"))
        with pytest.raises(WorkflowNotFoundError):
            await store.perform(make_child("lost", "nobody", policy, owner="w"))

        assert await store.statuses() == {"p": "completed"}

    async def test_only_children_that_need_their_parent_ask_for_it(
        self, store: Opened
    ) -> None:
        await store.together(make_owned("p"), make_closing("p"))

        await store.together(
            make_child("free", "p", "abandon", owner="w"),
            make_child("next", "p", "terminate", continued_from_run_id="first"),
            make_child("done", "p", "terminate", status=RunStatus.FAILED),
        )

        assert (await store.statuses()).keys() == {"p", "free", "next", "done"}

    async def test_child_and_the_end_of_its_parent_keep_their_order(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("p"))

        outcomes: tuple[Any, ...] = await asyncio.gather(
            store.perform(make_child("early", "p", "terminate", owner="w")),
            store.perform(make_closing("p", has_children=True)),
            store.perform(make_child("late", "p", "terminate", owner="w")),
            return_exceptions=True,
        )

        assert outcomes[0].created
        assert isinstance(outcomes[2], WorkflowClosedError)
        assert await store.statuses() == {"p": "completed", "early": "terminated"}

    async def test_closing_that_claims_no_children_leaves_them_alone(
        self, store: Opened
    ) -> None:
        await start_family(store)

        assert await store.perform(make_commit("p", has_children=True)) is None
        assert await store.perform(make_closing("p", 4, 4)) is None

        assert "terminated" not in (await store.statuses()).values()

    async def test_closing_that_mail_prevents_leaves_the_children_alone(
        self, store: Opened
    ) -> None:
        await start_family(store)
        await store.perform(make_message("p", "m"))

        refused = await store.perform(
            make_closing(
                "p",
                has_children=True,
                messages=(make_message("other", "m"),),
                starts=(make_owned("next"),),
            )
        )

        assert isinstance(refused, MailArrived)
        assert "terminated" not in (await store.statuses()).values()
        assert await store.read(ReadMessages("other")) == []
        assert await store.read(LoadRuns(["next"])) == []

    async def test_closing_without_children_has_nothing_to_tell(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("p"))

        result = await store.perform(make_closing("p", has_children=True))

        assert result == Committed()

    async def test_generations_are_followed_up_to_the_limit(
        self, store: Opened
    ) -> None:
        depth = limits.CHILD_DEPTH_MAX + 1
        await store.together(
            make_owned("g0"),
            *(
                make_child(f"g{n}", f"g{n - 1}", "terminate", owner="w")
                for n in range(1, depth + 1)
            ),
        )

        result = await store.perform(make_closing("g0", has_children=True))

        assert result.ended == tuple(f"g{n}" for n in range(1, depth))
        (last,) = await store.read(LoadRuns([f"g{depth}"]))
        assert last.record.status is RunStatus.RUNNING

    async def test_crowd_of_children_ends_with_its_parent(self, store: Opened) -> None:
        names = [f"c{number:04}" for number in range(1_203)]
        await store.together(
            make_owned("p"),
            *(make_child(name, "p", "terminate", owner="w") for name in names),
        )

        result = await store.perform(make_closing("p", has_children=True))

        assert result == Committed(ended=tuple(names))
        assert set((await store.statuses()).values()) == {"completed", "terminated"}

    # --- terminations -----------------------------------------------------------------

    async def test_termination_parts_from_children(self, store: Opened) -> None:
        await start_family(store)

        result = await store.perform(make_termination("p"))

        assert result == Terminated(run_id="p", committed=PARTED)
        assert await store.statuses() == {"p": "terminated"} | AFTER_THE_PARENT

    async def test_termination_is_told_to_the_open_parent(self, store: Opened) -> None:
        child = make_child(
            "c2", "p", "terminate", owner="w", workflow_id="wf-c", first_run_id="c1"
        )
        await store.together(make_owned("p"), child)

        result = await store.perform(make_termination("c2", workflow_id="wf-c"))

        assert result == Terminated(run_id="c2", committed=Committed(notified=("p",)))
        (message,) = await store.read(ReadMessages("p"))
        assert (message.kind, message.request_id) == ("child", "child:c1")
        assert json.loads(message.data) == {
            "type": "ChildWorkflowExecutionTerminated",
            "event": {
                "initiated_event_id": 2,
                "workflow_id": "wf-c",
                "run_id": "c2",
                "workflow_type": "order",
            },
        }

    @pytest.mark.parametrize(
        ("operations", "committed"),
        [
            # Its parent has closed; no event asked for it; what it ends tells nobody.
            ([CHILD, make_closing("p")], Committed()),
            (
                [make_child("c", "p", "abandon", parent_initiated_event_id=None)],
                Committed(),
            ),
            (
                [CHILD, make_child("g", "c", "terminate", owner="w")],
                Committed(ended=("g",), notified=("p",)),
            ),
        ],
    )
    async def test_termination_is_told_to_nobody_else(
        self, store: Opened, operations: list[Any], committed: Committed
    ) -> None:
        *_, terminated = await store.together(
            make_owned("p"), *operations, make_termination("c")
        )

        assert terminated == Terminated(run_id="c", committed=committed)
        told = len(await store.read(ReadMessages("p")))
        assert told == len(committed.notified)

    async def test_start_that_terminates_a_run_tells_parent_and_children(
        self, store: Opened
    ) -> None:
        await store.together(
            make_owned("p"),
            make_child("c", "p", "abandon", owner="w"),
            make_child("g", "c", "terminate", owner="w"),
            make_child("h", "c", "request_cancel", owner="w"),
        )

        result, refused = await store.together(
            make_owned(
                "new",
                workflow_id="wf-c",
                conflict_policy=TERMINATE_EXISTING,
                terminated_data="{}",
            ),
            make_commit("g"),
        )

        assert result == Started(
            run_id="new",
            created=True,
            terminated_run_id="c",
            committed=Committed(ended=("g",), cancelled=("h",), notified=("p",)),
        )
        assert isinstance(refused, HistoryTakenError)
        (message,) = await store.read(ReadMessages("p"))
        assert message.request_id == "child:c"

    # --- starts within commits --------------------------------------------------------

    @pytest.mark.parametrize("ancestor", ["r1", "r2"])
    async def test_start_does_not_terminate_what_it_is_to_be_a_child_of(
        self, store: Opened, ancestor: str
    ) -> None:
        """It would be an orphan from the beginning."""
        await store.perform(make_owned("r1"))
        await store.perform(make_child("r2", "r1", "terminate", owner="w"))
        start = make_child(
            "r3",
            "r2",
            "terminate",
            workflow_id=f"wf-{ancestor}",
            conflict_policy=TERMINATE_EXISTING,
            terminated_data="{}",
        )

        with pytest.raises(WorkflowAlreadyStartedError, match=f"wf-{ancestor}"):
            await store.perform(start)

        assert await store.statuses() == {"r1": "running", "r2": "running"}

    async def test_chain_goes_on_in_the_same_commit(self, store: Opened) -> None:
        await start_family(store)
        following = make_child(
            "t1-next",
            "p",
            "terminate",
            owner="w",
            workflow_id="wf-t1",
            first_run_id="t1",
            continued_from_run_id="t1",
        )
        closing = make_closing(
            "t1",
            status=RunStatus.CONTINUED_AS_NEW,
            consumed_requests=("m",),
            has_children=True,
            starts=(following,),
        )

        result = await store.perform(closing)

        assert result == Committed(
            ended=("t1-t",),
            cancelled=("t1-c",),
            started=(Started(run_id="t1-next", created=True),),
        )
        found = await store.read(FindRun(NAMESPACE, "wf-t1", "t1-next"))
        assert found == following.record
        assert await store.read(ReadHistory("t1-next")) == following.rows
        # It is the parent's child still.
        ended = await store.perform(make_closing("p", has_children=True))
        assert set(ended.ended) == {"t2", "t1-next"}

    async def test_starts_within_a_commit_have_outcomes_of_their_own(
        self, store: Opened
    ) -> None:
        await store.together(make_owned("p"), make_owned("there"))

        result = await store.perform(
            make_closing(
                "p",
                messages=(make_message("there", "m"),),
                starts=(
                    make_owned("c1"),
                    make_owned("c2", workflow_id="wf-there"),
                    make_owned("there", workflow_id="wf-x", request_id="x"),
                    make_start("c3", owner="earlier"),
                    make_start("c4", request_id="start-c1"),
                    make_start("c5"),
                ),
            )
        )

        assert result.deliveries == ("there",)
        created, existing, taken, lost, known, unowned = result.started
        assert created == Started(run_id="c1", created=True)
        assert isinstance(existing, WorkflowAlreadyStartedError)
        assert isinstance(taken, HistoryTakenError)
        assert isinstance(lost, LeaseLostError)
        assert known == Started(run_id="c1", created=False)
        assert unowned == Started(run_id="c5", created=True)
        assert await store.statuses() == {
            "p": "completed",
            "there": "running",
            "c1": "running",
            "c5": "running",
        }
        assert (await store.load("there")).rows == make_rows("there", 1, 2)

    @pytest.mark.parametrize("is_nested", [False, True])
    @pytest.mark.parametrize("worker", ["", "later"])
    async def test_start_is_refused_with_what_it_may_not_start(
        self, harness: Harness, worker: str, is_nested: bool
    ) -> None:
        """Else a chain would end in a run that names a successor nobody has."""
        store = await harness.open(worker or None)
        closed: Any = {"status": RunStatus.CONTINUED_AS_NEW, "closed_at": START}
        last = make_owned("r3", workflow_id="wf")
        if is_nested:
            last = make_start("r2", workflow_id="wf", starts=(last,), **closed)
        start = make_start("r1", workflow_id="wf", starts=(last,), **closed)

        for operations in ([start], [make_start("r5"), start]):
            refused = (await store.together(*operations))[-1]

            assert isinstance(refused, LeaseLostError)
        assert await store.statuses() == {"r5": "running"}

    async def test_starts_and_messages_may_be_nested(self, store: Opened) -> None:
        await store.perform(make_owned("p"))
        innermost = make_owned(
            "r3", workflow_id="wf", messages=(make_message("p", "r3"),)
        )
        closed: Any = {"status": RunStatus.CONTINUED_AS_NEW, "closed_at": START}
        inner = make_start("r2", workflow_id="wf", starts=(innermost,), **closed)

        result = await store.perform(
            make_start(
                "r1",
                workflow_id="wf",
                messages=(make_message("p", "r1"), make_message("r1")),
                starts=(inner,),
                **closed,
            )
        )

        delivered, refused = result.committed.deliveries
        assert delivered == "p"
        assert isinstance(refused, Exception)
        (second,) = result.committed.started
        assert second.committed.started == (
            Started(run_id="r3", created=True, committed=Committed(deliveries=("p",))),
        )
        messages = await store.read(ReadMessages("p"))
        assert [message.request_id for message in messages] == ["r1", "r3"]
        newest = await store.read(FindRun(NAMESPACE, "wf", "r3"))
        assert newest == innermost.record

    async def test_refused_commit_starts_nothing(self, store: Opened) -> None:
        await start_family(store)
        await store.perform(ReleaseRuns(run_ids=("other",)))
        others: dict[str, Any] = {
            "messages": (make_message("c", "m"),),
            "starts": (make_owned("next"),),
            "has_children": True,
        }

        refused = await store.together(
            make_closing("p", 2, 2, **others),
            make_closing("other", **others),
            make_closing("unknown", **others),
        )

        assert [type(error) for error in refused] == [HistoryTakenError] * 3
        assert "terminated" not in (await store.statuses()).values()
        assert await store.read(LoadRuns(["next"])) == []
        assert await store.read(ReadMessages("c")) == []

    async def test_message_is_put_before_the_receiver_is_ended(
        self, store: Opened
    ) -> None:
        await start_family(store)

        result, after = await store.together(
            make_closing("p", has_children=True, messages=(make_message("t2", "m"),)),
            make_message("t2", "n"),
        )

        assert result.deliveries == ("t2",)
        assert isinstance(after, WorkflowClosedError)
        assert await store.read(ReadMessages("t2")) == []
