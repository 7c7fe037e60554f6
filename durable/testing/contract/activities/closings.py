"""What the store's contract says of tasks when runs end, and when operators step in."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from durable import limits
from durable.errors import (
    ActivityNotFoundError,
    AttemptOverError,
    LeaseLostError,
)
from durable.store.activity_tasks import (
    RUN_CLOSED,
    TakeExpiredTasks,
    TaskCancel,
    TaskState,
    UpdateActivityTask,
)
from durable.store.queries import (
    ListActivityTasks,
    ReadAttempts,
)
from durable.store.records import (
    NEVER,
    AttemptState,
    DeleteRuns,
    ReapWorkers,
    RepairRun,
    ResetRun,
    RunStatus,
)
from durable.testing.contract.activities.endings import claim, make_completion
from durable.testing.contract.rows import (
    CLAIM_TASKS,
    NAMESPACE,
    START,
    make_attempt,
    make_child,
    make_closing,
    make_owned,
    make_rows,
    make_run,
    make_settling,
    make_start,
    make_task,
    make_termination,
)

if TYPE_CHECKING:
    from durable.testing.contract.rows import Harness, Opened

replace = msgspec.structs.replace
HOUR = 3_600_000_000
EXTERNAL = TaskState.EXTERNAL


class TaskClosingContract:
    """The ends of runs, and what operators do."""

    # --- the ends of runs -------------------------------------------------------------

    @pytest.mark.parametrize("how", ["close", "terminate", "supersede", "reset"])
    async def test_tasks_end_with_their_run_and_who_has_one_is_told(
        self, store: Opened, how: str
    ) -> None:
        tasks = [
            make_task("r1", n, state=state)
            for n, state in enumerate((*TaskState, EXTERNAL), start=3)
        ]
        mine = make_task("r1")
        far = make_task("r2")
        await store.perform(make_owned("r2", tasks=(far,)))
        await store.perform(make_owned("r1", tasks=(mine, *tasks)))
        claim = replace(CLAIM_TASKS, limit=1)
        if (await store.perform(claim))[0].run_id != "r1":
            raise AssertionError
        end: Any = make_termination("r1")
        if how == "close":
            end = make_closing(
                "r1", has_tasks=True, cancels=(TaskCancel(3, "stop", "{}"),)
            )
        elif how == "supersede":
            end = make_start(
                "r3",
                workflow_id="wf-r1",
                conflict_policy="terminate_existing",
                terminated_data="{}",
            )
        elif how == "reset":
            end = ResetRun(
                base_run_id="r1",
                record=make_run("r3", workflow_id="wf-r1", first_run_id="r1"),
                rows=make_rows("r3", 1, 2),
                expected=(("r1", 2, True),),
                terminated_data="{}",
            )

        done = await store.perform(end)

        assert done is not None
        left = {t.key: t.cancel for t in await store.read(ListActivityTasks(NAMESPACE))}
        lasting = 3 + [*TaskState].index(TaskState.CLAIMED)
        assert left == {
            ("r1", 2): RUN_CLOSED,
            ("r1", lasting): RUN_CLOSED,
            ("r2", 2): None,
        }
        retry = make_settling("r1", message=None, next=make_task("r1", attempt=2))
        assert await store.perform(retry) is False
        assert await store.task("r1") is None
        assert await store.waiting("r1") == []
        with pytest.raises(ActivityNotFoundError, match="the run has ended as"):
            await store.perform(make_completion("r1"))

    async def test_tasks_end_with_a_run_that_ends_with_its_parent(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1"))
        child = make_child(
            "c", "r1", "terminate", tasks=(make_task("c"), make_task("c", 3))
        )
        await store.perform(child)
        await store.perform(replace(CLAIM_TASKS, limit=1))

        await store.perform(make_closing("r1", has_children=True))

        (left,) = await store.read(ListActivityTasks(NAMESPACE))
        assert (left.key, left.cancel) == (("c", 2), RUN_CLOSED)

    async def test_outcome_for_a_run_that_has_closed_is_told_nobody(
        self, store: Opened
    ) -> None:
        await claim(store, make_task("r1"))
        attempt = make_attempt("r1", 1, state=AttemptState.COMPLETED)
        await store.perform(make_termination("r1"))

        assert await store.perform(make_settling("r1", attempts=(attempt,))) is False

        assert await store.task("r1") is None
        assert await store.waiting("r1") == []
        assert await store.read(ReadAttempts("r1")) == [attempt]

    async def test_task_that_a_run_begins_and_ends_within_one_commit_is_gone(
        self, store: Opened
    ) -> None:
        await store.together(
            make_owned("r1", tasks=(make_task("r1"),)),
            make_closing("r1", has_tasks=True, tasks=(make_task("r1", 3),)),
        )

        assert await store.read(ListActivityTasks(NAMESPACE)) == []
        assert (await store.load("r1")).record.status is RunStatus.COMPLETED

    async def test_deleted_run_takes_its_tasks_along(self, store: Opened) -> None:
        await claim(store, make_task("r1"))
        await store.perform(make_termination("r1"))

        assert (await store.perform(DeleteRuns(run_ids=("r1",)))).run_ids == ("r1",)

        assert await store.task("r1") is None
        with pytest.raises(AttemptOverError):
            await store.perform(make_settling("r1"))
        assert await store.read(ReadAttempts("r1")) == []

    async def test_repair_takes_away_the_tasks_of_events_that_went(
        self, store: Opened
    ) -> None:
        tasks = tuple(make_task("r1", n) for n in (2, 3, 4))
        await store.perform(make_owned("r1", events=4, tasks=tasks))
        await store.perform(make_owned("r2", tasks=(make_task("r2", 9),)))
        await store.perform(CLAIM_TASKS)

        assert await store.perform(
            RepairRun(run_id="r1", expected=(1, 2, 3, 4), keep=3)
        )

        assert (await store.load("r1")).tasks.keys() == {2, 3}
        assert (await store.load("r2")).tasks.keys() == {9}
        with pytest.raises(AttemptOverError):
            await store.perform(make_settling("r1", 4))

    async def test_lease_that_was_lost_ends_what_it_has_claimed(
        self, harness: Harness, store: Opened
    ) -> None:
        await claim(store, make_task("r1"))
        other = await harness.open("v")
        harness.clock.advance(limits.LEASE_SECONDS + 1)

        await other.perform(ReapWorkers())

        with pytest.raises(LeaseLostError):
            await store.perform(make_settling("r1"))
        (taken,) = await other.perform(TakeExpiredTasks(limit=9))
        assert taken.state is TaskState.LOST

    # --- operators --------------------------------------------------------------------

    async def test_operator_changes_a_task_that_is_as_expected(
        self, store: Opened
    ) -> None:
        task = make_task("r1", attempt=3, progress="1", expires_at=START + 5)
        await store.perform(make_start("r1", tasks=(task,)))
        update = UpdateActivityTask(
            run_id="r1", scheduled_event_id=2, attempt=3, state=TaskState.WAITING
        )

        wrongs: tuple[dict[str, Any], ...] = (
            {"attempt": 2},
            {"state": TaskState.CLAIMED},
            {"scheduled_event_id": 3},
        )
        for wrong in wrongs:
            changed = replace(update, due_at=NEVER, **wrong)
            assert await store.perform(changed) is False
        assert await store.task("r1") == task

        assert await store.perform(replace(update, due_at=NEVER)) is True
        assert await store.perform(CLAIM_TASKS) == ()
        options = replace(
            update,
            data='"new"',
            priority=1,
            due_at=0,
            expires_at=START + HOUR,
            task_queue="far",
        )
        assert await store.perform(options) is True
        expected = replace(
            task,
            data='"new"',
            priority=1,
            due_at=0,
            expires_at=START + HOUR,
            task_queue="far",
        )
        assert await store.task("r1") == expected
        assert await store.perform(replace(update, is_reset=True)) is True
        again = replace(expected, attempt=1, progress=None)
        assert await store.task("r1") == again

    async def test_operator_tells_who_has_claimed_a_task(self, store: Opened) -> None:
        await claim(store, make_task("r1"))
        before = await store.task("r1")
        assert before is not None
        update = UpdateActivityTask(
            run_id="r1", scheduled_event_id=2, attempt=1, state=TaskState.CLAIMED
        )

        for refused in ({"is_reset": True}, {"task_queue": "far"}):
            assert await store.perform(replace(update, **refused)) is False
        change = replace(update, cancel="paused", expires_at=START)
        assert await store.perform(change) is True
        assert await store.task("r1") == replace(before, cancel="paused")
        assert await store.perform(replace(update, cancel="")) is True
        assert await store.task("r1") == before
