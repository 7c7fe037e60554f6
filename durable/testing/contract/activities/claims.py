"""What the store's contract says of who takes a task, and who has it then."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from durable.errors import AttemptOverError, LeaseLostError
from durable.store.activity_tasks import (
    BeatActivityTask,
    ClaimActivityTasks,
    SettleActivityTask,
    TakeExpiredTasks,
    TaskState,
    UpdateActivityTask,
)
from durable.store.queries import (
    CancelledTask,
    CountActivityTasks,
    FindCancelledTasks,
    ListActivityTasks,
    NextActivityTaskAt,
    TaskCount,
    TaskFilter,
)
from durable.store.records import NEVER, ReapWorkers
from durable.testing.contract.rows import (
    CLAIM_TASKS,
    NAMESPACE,
    QUEUE,
    START,
    make_commit,
    make_owned,
    make_settling,
    make_start,
    make_task,
    wait_until,
)

if TYPE_CHECKING:
    from durable.store.activity_tasks import ActivityTaskRecord
    from durable.testing.contract.rows import Harness, Opened

replace = msgspec.structs.replace
TAKE = TakeExpiredTasks(limit=10)
HOUR = 3_600_000_000


def keys(tasks: tuple[ActivityTaskRecord, ...]) -> list[tuple[str, int]]:
    """What these tasks are found by, in their order."""
    return [task.key for task in tasks]


class TaskClaimContract:
    """Claims, judgements, leases and heartbeats."""

    async def test_claimed_task_is_as_it_was_and_belongs_to_the_worker(
        self, harness: Harness, store: Opened
    ) -> None:
        task = make_task("r1", expires_at=START + HOUR, progress='"p"', priority=1)
        await store.perform(make_owned("r1", tasks=(task,)))
        assert await store.task("r1") == task
        harness.clock.advance(2)

        claimed = await store.perform(CLAIM_TASKS)

        expected = replace(
            task,
            state=TaskState.CLAIMED,
            worker_id="w",
            started_at=START + 2_000_000,
            expires_at=None,
        )
        assert claimed == (expected,)
        assert await store.task("r1") == expected
        assert await store.perform(CLAIM_TASKS) == ()
        assert (await store.load("r1")).tasks == {2: TaskState.CLAIMED}

    async def test_claim_goes_by_priority_then_by_when_it_was_due(
        self, store: Opened
    ) -> None:
        tasks = [
            make_task("r1", 2, due_at=START - 1),
            make_task("r1", 3, due_at=START - 3, activity_type="ship"),
            make_task("r1", 4, due_at=START - 2),
            make_task("r1", 5, due_at=START, priority=1),
            make_task("r1", 6, due_at=START - 9, priority=7),
            make_task("r1", 7, due_at=START - 3, activity_type="charge"),
        ]
        await store.perform(make_start("r1", tasks=tuple(tasks)))

        async def claim(limit: int, *types: str) -> list[int]:
            queues = ((QUEUE, types or None),)
            claimed = await store.perform(
                ClaimActivityTasks(queues=queues, limit=limit)
            )
            return [task.scheduled_event_id for task in claimed]

        assert await claim(0) == []
        assert await claim(2, "charge", "ship") == [5, 3]
        assert await claim(2, "charge") == [7, 4]
        assert await claim(9) == [2, 6]

    async def test_claim_leaves_what_is_not_for_this_worker(
        self, store: Opened
    ) -> None:
        others = [
            make_task("r1", 2, task_queue="other"),
            make_task("r1", 3, namespace="another"),
            make_task("r1", 4, activity_type="ship"),
            make_task("r1", 5, due_at=START + 1),
            make_task("r1", 6, due_at=NEVER),
            make_task("r1", 7, expires_at=START),
            make_task("r1", 8, state=TaskState.EXTERNAL),
            make_task("r1", 9, state=TaskState.LOST, expires_at=0),
        ]
        await store.perform(make_start("r1", tasks=tuple(others)))

        assert await store.perform(CLAIM_TASKS) == ()

        both = ClaimActivityTasks(
            queues=(("nothing", None), ("other", None), (QUEUE, ("ship",))), limit=10
        )
        assert keys(await store.perform(replace(both, limit=1))) == [("r1", 2)]
        assert keys(await store.perform(both)) == [("r1", 4)]

    async def test_many_tasks_are_claimed_once_each(self, store: Opened) -> None:
        tasks = tuple(make_task("r1", n) for n in range(2, 602))
        await store.perform(make_owned("r1", tasks=tasks))
        claim = replace(CLAIM_TASKS, limit=250)

        found = [keys(await store.perform(claim)) for _ in range(4)]

        assert [len(one) for one in found] == [250, 250, 100, 0]
        assert sorted(key for one in found for key in one) == [t.key for t in tasks]

    async def test_two_workers_claim_different_tasks(
        self, harness: Harness, store: Opened
    ) -> None:
        other = await harness.open("v")
        tasks = tuple(make_task("r1", n) for n in range(2, 8))
        await store.perform(make_owned("r1", tasks=tasks))

        mine = await store.perform(replace(CLAIM_TASKS, limit=4))
        theirs = await other.perform(CLAIM_TASKS)

        assert len(mine) == 4
        assert sorted(keys(mine) + keys(theirs)) == [task.key for task in tasks]

    async def test_expired_and_lost_tasks_are_taken_to_be_judged(
        self, harness: Harness, store: Opened
    ) -> None:
        tasks = [
            make_task("r1", 2, expires_at=START + 3),
            make_task("r1", 3, expires_at=START + 2, state=TaskState.EXTERNAL),
            make_task("r1", 4, expires_at=0, state=TaskState.LOST, worker_id="dead"),
            make_task("r1", 5, expires_at=START + 1, activity_type="x", due_at=NEVER),
            make_task("r1", 6, expires_at=START + HOUR),
            make_task("r1", 7),
            make_task("r1", 8, expires_at=START, namespace="another"),
        ]
        await store.perform(make_start("r1", tasks=tuple(tasks)))
        harness.clock.advance(1)

        first = await store.perform(replace(TAKE, limit=1))
        rest = await store.perform(TAKE)

        judged = [replace(one, judge_id="w") for one in tasks]
        assert first == (judged[2],)
        assert rest == (judged[3], judged[1], judged[0])
        assert await store.perform(TAKE) == ()
        assert await store.task("r1", 3) == judged[1]
        assert await store.perform(replace(TAKE, limit=0)) == ()

    async def test_claimed_task_is_not_taken_to_be_judged(
        self, harness: Harness, store: Opened
    ) -> None:
        task = make_task("r1", expires_at=START + 1)
        await store.perform(make_owned("r1", tasks=(task,)))
        await store.perform(CLAIM_TASKS)
        harness.clock.advance(1)

        assert await store.perform(TAKE) == ()

    async def test_task_of_a_dead_worker_is_lost(
        self, harness: Harness, store: Opened
    ) -> None:
        other = await harness.open("v")
        await store.perform(make_owned("r1", tasks=(make_task("r1"),)))
        (claimed,) = await store.perform(CLAIM_TASKS)

        assert await other.perform(ReapWorkers(presumed_dead=("w",))) == ["w"]

        lost = replace(claimed, state=TaskState.LOST, expires_at=0)
        assert await other.task("r1") == lost
        assert await other.perform(TAKE) == (replace(lost, judge_id="v"),)
        with pytest.raises(LeaseLostError):
            await store.perform(make_settling("r1"))
        await wait_until(lambda: harness.lost == ["w"])

    async def test_task_of_a_worker_that_leaves_is_lost(
        self, harness: Harness, store: Opened
    ) -> None:
        await store.perform(make_owned("r1", tasks=(make_task("r1"),)))
        (claimed,) = await store.perform(CLAIM_TASKS)

        await store.release_worker()

        lost = replace(claimed, state=TaskState.LOST, expires_at=0)
        assert await store.task("r1") == lost
        await harness.register(store, "w2")
        assert await store.perform(TAKE) == (replace(lost, judge_id="w2"),)

    @pytest.mark.parametrize("state", [TaskState.WAITING, TaskState.EXTERNAL])
    async def test_judge_that_died_leaves_what_it_judged_as_it_was(
        self, harness: Harness, store: Opened, state: TaskState
    ) -> None:
        other = await harness.open("v")
        task = make_task("r1", state=state, expires_at=START)
        await store.perform(make_owned("r1", tasks=(task,)))
        assert await store.perform(TAKE) == (replace(task, judge_id="w"),)
        assert await other.perform(TAKE) == ()

        await other.perform(ReapWorkers(presumed_dead=("w",)))

        assert await other.perform(TAKE) == (replace(task, judge_id="v"),)

    async def test_judge_of_a_lost_task_that_died_did_not_lose_it(
        self, harness: Harness, store: Opened
    ) -> None:
        other = await harness.open("v")
        task = make_task("r1", state=TaskState.LOST, expires_at=0, worker_id="first")
        await store.perform(make_owned("r1", tasks=(task,)))
        await store.perform(TAKE)

        await other.perform(ReapWorkers(presumed_dead=("w",)))

        (taken,) = await other.perform(TAKE)
        assert taken.worker_id == "first"

    async def test_judged_task_whose_time_is_extended_is_not_judged_any_more(
        self, store: Opened
    ) -> None:
        task = make_task("r1", expires_at=START)
        await store.perform(make_owned("r1", tasks=(task,)))
        await store.perform(TAKE)
        update = UpdateActivityTask(
            run_id="r1",
            scheduled_event_id=2,
            attempt=1,
            state=TaskState.WAITING,
            expires_at=START + HOUR,
        )

        assert await store.perform(update) is True

        with pytest.raises(AttemptOverError, match="is waiting"):
            await store.perform(make_settling("r1"))
        assert len(await store.perform(CLAIM_TASKS)) == 1

    async def test_what_needs_a_lease_is_refused_without_one(
        self, harness: Harness
    ) -> None:
        store = await harness.open()
        await store.perform(make_start("r1", tasks=(make_task("r1"),)))
        beat = BeatActivityTask(run_id="r1", scheduled_event_id=2, attempt=1)

        for operation in (CLAIM_TASKS, TAKE, make_settling("r1"), beat):
            with pytest.raises(LeaseLostError):
                await store.perform(operation)
        assert await store.task("r1") == make_task("r1")

    # --- heartbeats -------------------------------------------------------------------

    async def test_heartbeat_is_kept_and_hears_why_to_stop(
        self, harness: Harness, store: Opened
    ) -> None:
        await store.perform(make_owned("r1", tasks=(make_task("r1"),)))
        (claimed,) = await store.perform(CLAIM_TASKS)
        beat = BeatActivityTask(
            run_id="r1", scheduled_event_id=2, attempt=1, progress='"1"', expires_at=5
        )
        harness.clock.advance(1)

        assert await store.perform(beat) is None

        at = START + 1_000_000
        beaten = replace(claimed, progress='"1"', heartbeat_at=at)
        assert await store.task("r1") == beaten
        assert await store.read(FindCancelledTasks()) == []
        cancel = make_commit("r1", cancels=((2, "enough", "{}"),))
        await store.perform(cancel)
        again = replace(beat, progress=None)
        assert await store.perform(again) == "enough"
        assert await store.task("r1") == replace(beaten, cancel="enough")
        cancelled = CancelledTask("r1", 2, 1, "enough")
        assert await store.read(FindCancelledTasks()) == [cancelled]

    async def test_heartbeats_of_one_commit_stand_each_for_itself(
        self, store: Opened
    ) -> None:
        tasks = tuple(make_task("r1", n) for n in (2, 3, 4))
        await store.perform(make_owned("r1", tasks=tasks))
        await store.perform(CLAIM_TASKS)
        beats = [
            BeatActivityTask(
                run_id="r1", scheduled_event_id=n, attempt=1, progress=f"{n}"
            )
            for n in (2, 9, 3, 3, 4)
        ]
        beats[3] = replace(beats[3], progress="33")
        beats[4] = replace(beats[4], attempt=2)

        done = await store.together(*beats)

        assert [type(one) for one in done] == [
            type(None),
            AttemptOverError,
            type(None),
            type(None),
            AttemptOverError,
        ]
        found = await store.read(ListActivityTasks(NAMESPACE))
        assert [one.progress for one in found] == ["2", "33", None]

    async def test_heartbeat_of_another_workers_attempt_is_refused(
        self, harness: Harness, store: Opened
    ) -> None:
        other = await harness.open("v")
        await store.perform(make_owned("r1", tasks=(make_task("r1"),)))
        beat = BeatActivityTask(run_id="r1", scheduled_event_id=2, attempt=1)

        with pytest.raises(AttemptOverError, match="is waiting"):
            await store.perform(beat)
        await store.perform(CLAIM_TASKS)
        with pytest.raises(AttemptOverError, match="worker 'w' has it"):
            await other.perform(beat)
        with pytest.raises(AttemptOverError, match="worker 'w' has it"):
            await other.perform(replace(beat, is_external=True))

    # --- what is read -----------------------------------------------------------------

    async def test_tasks_are_listed_by_what_is_asked_for(self, store: Opened) -> None:
        tasks = [
            make_task("r1", 2),
            make_task("r1", 10, activity_type="ship"),
            make_task("r2", 2, task_queue="other"),
            make_task("r2", 3, state=TaskState.EXTERNAL),
        ]
        for run_id in ("r1", "r2"):
            own = tuple(task for task in tasks if task.run_id == run_id)
            await store.perform(make_start(run_id, tasks=own))
        far = make_task("r3", namespace="another")
        await store.perform(make_start("r3", namespace="another", tasks=(far,)))

        async def found(**where: object) -> list[tuple[str, int]]:
            asked = ListActivityTasks(NAMESPACE, TaskFilter(**where))  # type: ignore[arg-type]  # one of its fields
            return [one.key for one in await store.read(asked)]

        assert await store.read(ListActivityTasks(NAMESPACE)) == tasks
        assert await found(limit=2) == [("r1", 2), ("r1", 10)]
        assert await found(after=("r1", 2), limit=2) == [("r1", 10), ("r2", 2)]
        assert await found(task_queue="other") == [("r2", 2)]
        assert await found(activity_type="ship") == [("r1", 10)]
        assert await found(state=TaskState.EXTERNAL) == [("r2", 3)]
        assert await found(run_id="r2") == [("r2", 2), ("r2", 3)]
        assert await found(limit=0) == []
        assert await store.task("r9") is None

    async def test_tasks_are_counted_by_queue_and_state(self, store: Opened) -> None:
        tasks = (
            make_task("r1", 2, due_at=START + 5),
            make_task("r1", 3, due_at=START + 4),
            make_task("r1", 4, task_queue="other"),
            make_task("r1", 5, state=TaskState.EXTERNAL),
            make_task("r1", 6, namespace="another"),
        )
        await store.perform(make_start("r1", tasks=tasks))

        assert await store.read(CountActivityTasks(NAMESPACE)) == [
            TaskCount("other", TaskState.WAITING, 1, START),
            TaskCount(QUEUE, TaskState.EXTERNAL, 1, START),
            TaskCount(QUEUE, TaskState.WAITING, 2, START + 4),
        ]

    async def test_next_task_is_what_is_due_or_expires_first(
        self, harness: Harness, store: Opened
    ) -> None:
        ask = NextActivityTaskAt(((QUEUE, ("charge", "x")), ("other", None)))

        async def add(event_id: int, **changes: object) -> int | None:
            task = make_task("r1", event_id, **changes)
            await store.perform(
                make_commit("r1", event_id, event_id, tasks=(task,), update_run=True)
            )
            return await store.read(ask)

        await store.perform(make_owned("r1"))
        assert await store.read(ask) is None
        assert await add(3, due_at=NEVER) is None
        assert await add(4, due_at=START + 1, activity_type="ship") is None
        assert await add(5, due_at=START + 9) == START + 9
        assert await add(6, due_at=START + 8, priority=9) == START + 8
        assert await add(7, due_at=START + 7, task_queue="other") == START + 7
        assert await add(8, due_at=NEVER, expires_at=START + 6) == START + 6
        harness.clock.advance(1)
        await store.perform(TAKE)
        assert await store.read(ask) == START + 7
        await store.perform(CLAIM_TASKS)
        reader = await harness.open()
        assert await reader.read(ask) is None

    async def test_settling_names_a_task_that_was_never_there(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1"))

        with pytest.raises(AttemptOverError, match="has ended") as caught:
            await store.perform(
                SettleActivityTask(run_id="r1", scheduled_event_id=4, attempt=1)
            )

        assert "event 4 of run 'r1'" in str(caught.value)
        assert caught.value.hint is not None
