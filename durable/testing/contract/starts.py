"""What the store's contract says of starting runs."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from durable.errors import (
    HistoryTakenError,
    LeaseLostError,
    WorkflowAlreadyStartedError,
)
from durable.options import (
    ALLOW_DUPLICATE,
    REJECT_DUPLICATE,
    TERMINATE_EXISTING,
    USE_EXISTING,
    USE_SAME,
    IdReusePolicy,
)
from durable.store.queries import FindRun, LoadRuns
from durable.store.records import FoundRun, RunStatus, Started, StartRun
from durable.testing.contract.rows import (
    START,
    make_closing,
    make_commit,
    make_message,
    make_owned,
    make_rows,
    make_run,
    make_start,
)

if TYPE_CHECKING:
    from durable.testing.contract.rows import Harness, Opened

FAILED_STATUSES = {
    RunStatus.FAILED,
    RunStatus.TIMED_OUT,
    RunStatus.CANCELLED,
    RunStatus.TERMINATED,
}

CLOSED_STATUSES = [status for status in RunStatus if status is not RunStatus.RUNNING]


class StartContract:
    """Starting runs."""

    async def test_start_creates_the_run_and_its_events(self, store: Opened) -> None:
        operation = make_owned(
            "r1",
            wake_at=START + 9,
            version="1.2",
            continued_from_run_id="r0",
            parent_workflow_id="wf-p",
            parent_run_id="p",
            root_run_id="root",
            parent_initiated_event_id=5,
            parent_close_policy="abandon",
            state='{"at": 0}',
            checkpoint_event_id=1,
        )

        result = await store.perform(operation)

        assert result == Started(run_id="r1", created=True)
        loaded = await store.load("r1")
        assert loaded.record == operation.record
        assert loaded.rows == operation.rows
        assert (loaded.messages, loaded.attempts) == ([], [])

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("first_run_id", "r0"),
            ("wake_at", START),
            ("stuck", "{}"),
            ("version", "1.2"),
            ("continued_from_run_id", "r0"),
            ("parent_workflow_id", "wf-p"),
            ("parent_run_id", "p"),
            ("root_run_id", None),
            ("parent_initiated_event_id", 5),
            ("parent_close_policy", "abandon"),
            ("state", "1"),
            ("checkpoint_event_id", 1),
            ("epoch", 5),
        ],
    )
    async def test_start_keeps_each_field_by_itself(
        self, store: Opened, field: str, value: object
    ) -> None:
        changes = {field: value}
        records = [make_run(name, owner="w", **changes) for name in ("r1", "r2")]

        await store.together(
            *(StartRun(record=r, rows=make_rows(r.run_id, 1, 1)) for r in records)
        )

        loaded = await store.read(LoadRuns(["r1", "r2"]))
        assert [run.record for run in loaded] == records

    async def test_start_without_an_owner_needs_no_lease(
        self, harness: Harness
    ) -> None:
        store = await harness.open()

        assert (await store.perform(make_start("r1"))).created
        assert (await store.load("r1")).record.owner is None

    async def test_run_id_that_was_used_is_refused_beside_a_start_of_its_request(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1"))

        refused, created = await store.together(
            make_owned("r1", workflow_id="x", request_id="q"),
            make_owned("r2", workflow_id="y", request_id="q"),
        )

        assert isinstance(refused, HistoryTakenError)
        assert created.run_id == "r2"
        assert (await store.load("r1")).record.workflow_id == "wf-r1"

    async def test_start_with_an_owner_needs_the_lease(self, harness: Harness) -> None:
        store = await harness.open()

        with pytest.raises(LeaseLostError):
            await store.perform(make_owned("r1"))
        assert await store.read(LoadRuns(["r1"])) == []

    async def test_start_for_another_worker_is_refused(self, store: Opened) -> None:
        with pytest.raises(LeaseLostError):
            await store.perform(make_start("r1", owner="earlier"))

    async def test_start_with_the_same_request_answers_with_the_first_run(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1"))
        again = make_start("r2", workflow_id="wf-r1", request_id="start-r1")

        assert await store.perform(again) == Started(run_id="r1", created=False)

        await store.perform(make_closing("r1"))
        assert await store.perform(again) == Started(run_id="r1", created=False)
        assert await store.read(LoadRuns(["r2"])) == []

    async def test_start_of_an_open_id_fails_and_names_the_run(
        self, harness: Harness
    ) -> None:
        store = await harness.open()
        await store.perform(make_start("r1"))

        with pytest.raises(WorkflowAlreadyStartedError) as caught:
            await store.perform(make_start("r2", workflow_id="wf-r1"))

        assert (caught.value.workflow_id, caught.value.run_id) == ("wf-r1", "r1")
        text = str(caught.value)
        assert "'wf-r1'" in text
        assert "'r1'" in text
        assert "2027-01-15T08:00:00Z" in text
        assert 'on_conflict="use_same"' in text
        assert await store.read(LoadRuns(["r2"])) == []

    async def test_start_of_an_open_id_may_use_the_existing_run(
        self, harness: Harness
    ) -> None:
        store = await harness.open()
        await store.perform(make_start("r1"))

        result = await store.perform(
            make_start("r2", workflow_id="wf-r1", conflict_policy=USE_EXISTING)
        )

        assert result == Started(run_id="r1", created=False)

    @pytest.mark.parametrize("is_together", [True, False])
    async def test_start_of_the_same_finds_the_open_run_and_what_it_began_with(
        self, harness: Harness, is_together: bool
    ) -> None:
        store = await harness.open()
        first = make_start("r1")
        again = make_start(
            "r2",
            workflow_id="wf-r1",
            conflict_policy=USE_SAME,
            reuse_policy=REJECT_DUPLICATE,
            wants_found=True,
        )

        if is_together:
            _, result = await store.together(first, again)
        else:
            await store.perform(first)
            result = await store.perform(again)

        found = FoundRun(first.record, first.rows[0][5])
        assert result == Started(run_id="r1", created=False, found=found)
        assert await store.read(LoadRuns(["r2"])) == []

    @pytest.mark.parametrize("status", CLOSED_STATUSES)
    async def test_start_of_the_same_finds_the_newest_closed_run_that_keeps_its_id(
        self, store: Opened, status: RunStatus
    ) -> None:
        for run_id in ("r0", "r1"):
            at = START + int(run_id[1:])
            await store.perform(make_owned(run_id, workflow_id="wf", started_at=at))
            await store.perform(make_closing(run_id, status=status))

        for policy in (USE_SAME, USE_EXISTING):
            result = await store.perform(
                make_start(
                    "r2",
                    workflow_id="wf",
                    conflict_policy=policy,
                    reuse_policy=REJECT_DUPLICATE,
                )
            )
            assert result == Started(run_id="r1", created=False)

    async def test_start_of_the_same_shows_what_a_chain_began_with(
        self, store: Opened
    ) -> None:
        first = make_owned("r1", workflow_id="wf")
        await store.perform(first)
        closing = make_closing("r1", status=RunStatus.CONTINUED_AS_NEW)
        await store.perform(closing)
        await store.perform(make_owned("r2", workflow_id="wf", first_run_id="r1"))

        result = await store.perform(
            make_start(
                "r3", workflow_id="wf", conflict_policy=USE_SAME, wants_found=True
            )
        )

        assert result.found is not None
        assert result.found.record.run_id == "r2"
        assert result.found.first_data == first.rows[0][5]

    async def test_start_with_a_message_finds_no_closed_run_for_it(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1"))
        await store.perform(make_closing("r1"))

        with pytest.raises(WorkflowAlreadyStartedError, match="'r1'"):
            await store.perform(
                make_start(
                    "r2",
                    workflow_id="wf-r1",
                    conflict_policy=USE_EXISTING,
                    reuse_policy=REJECT_DUPLICATE,
                    message_if_open=make_message("r2"),
                )
            )

    async def test_start_of_the_same_from_two_stores_at_once_is_one_run(
        self, harness: Harness
    ) -> None:
        stores = [await harness.open(), await harness.open()]

        results = await asyncio.gather(
            *(
                store.perform(
                    make_start(
                        name,
                        workflow_id="wf",
                        conflict_policy=USE_SAME,
                        reuse_policy=REJECT_DUPLICATE,
                    )
                )
                for name, store in zip(("r1", "r2"), stores, strict=True)
            )
        )

        assert sorted(result.created for result in results) == [False, True]
        assert len({result.run_id for result in results}) == 1

    async def test_start_of_an_open_id_may_terminate_the_existing_run(
        self, harness: Harness, store: Opened
    ) -> None:
        await store.perform(make_owned("r1", wake_at=START))
        harness.clock.advance(5)

        result = await store.perform(
            make_start(
                "r2",
                workflow_id="wf-r1",
                conflict_policy=TERMINATE_EXISTING,
                terminated_data='{"by": "r2"}',
            )
        )

        assert result == Started(run_id="r2", created=True, terminated_run_id="r1")
        old, new = await store.read(LoadRuns(["r1", "r2"]))
        assert old.record == make_run(
            "r1", status=RunStatus.TERMINATED, closed_at=START + 5_000_000
        )
        assert old.rows[-1] == (
            "r1",
            3,
            3,
            "WorkflowExecutionTerminated",
            START + 5_000_000,
            '{"by": "r2"}',
            0,
        )
        assert new.record.status is RunStatus.RUNNING
        with pytest.raises(HistoryTakenError):
            await store.perform(make_commit("r1"))

    @pytest.mark.parametrize("status", CLOSED_STATUSES)
    @pytest.mark.parametrize("policy", IdReusePolicy)
    async def test_start_of_a_closed_id_follows_the_reuse_policy(
        self, store: Opened, policy: IdReusePolicy, status: RunStatus
    ) -> None:
        await store.perform(make_owned("r1"))
        await store.perform(make_closing("r1", status=status))
        is_allowed = policy is ALLOW_DUPLICATE or (
            policy is IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
            and status in FAILED_STATUSES
        )
        operation = make_start(
            "r2", workflow_id="wf-r1", started_at=START + 1, reuse_policy=policy
        )

        if is_allowed:
            assert (await store.perform(operation)).created
        else:
            with pytest.raises(WorkflowAlreadyStartedError, match=status.value) as e:
                await store.perform(operation)
            assert e.value.run_id == "r1"

    async def test_start_judges_reuse_by_the_newest_run(self, store: Opened) -> None:
        for run_id, status in (("r1", RunStatus.COMPLETED), ("r2", RunStatus.FAILED)):
            started_at = START + int(run_id[1:])
            await store.perform(
                make_owned(run_id, workflow_id="wf", started_at=started_at)
            )
            await store.perform(make_closing(run_id, status=status))

        result = await store.perform(
            make_start(
                "r3",
                workflow_id="wf",
                reuse_policy=IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
            )
        )

        assert result.created

    async def test_start_keeps_namespaces_apart(self, harness: Harness) -> None:
        store = await harness.open()

        results = await store.together(
            make_start("r1"),
            make_start("r2", namespace="b", workflow_id="wf-r1", request_id="start-r1"),
        )

        assert [result.run_id for result in results] == ["r1", "r2"]
        assert await store.read(FindRun("c", "wf-r1")) is None

    async def test_start_of_a_used_run_id_is_refused(self, harness: Harness) -> None:
        store = await harness.open()
        await store.perform(make_start("r1"))

        with pytest.raises(HistoryTakenError, match="'r1'"):
            await store.perform(make_start("r1", workflow_id="w2", request_id="q2"))

    async def test_start_that_cannot_be_written_terminates_nothing(
        self, store: Opened
    ) -> None:
        await store.together(make_owned("r1"), make_owned("r2"))

        with pytest.raises(HistoryTakenError):
            await store.perform(
                make_start(
                    "r1",
                    workflow_id="wf-r2",
                    request_id="again",
                    conflict_policy=TERMINATE_EXISTING,
                )
            )

        loaded = await store.load("r2")
        assert loaded.record.status is RunStatus.RUNNING
        assert loaded.rows == make_rows("r2", 1, 2)

    async def test_starts_submitted_together_act_as_one_after_the_other(
        self, store: Opened
    ) -> None:
        first, second, third, closed, fourth, other = await store.together(
            make_owned("r1", workflow_id="wf"),
            make_owned("r2", workflow_id="wf"),
            make_owned("r3", workflow_id="x", request_id="start-r1"),
            make_closing("r1", 3, 4),
            make_owned("r4", workflow_id="wf"),
            make_owned("r5"),
        )

        assert first == Started(run_id="r1", created=True)
        assert isinstance(second, WorkflowAlreadyStartedError)
        assert third == Started(run_id="r1", created=False)
        assert closed is None
        assert fourth == Started(run_id="r4", created=True)
        assert other == Started(run_id="r5", created=True)
