"""What the store's contract says of how a task ends, and of who is told."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from durable import limits
from durable.errors import (
    ActivityNotFoundError,
    AttemptOverError,
    HistoryTakenError,
    LeaseLostError,
    WorkflowNotFoundError,
)
from durable.store.activity_tasks import (
    RUN_CLOSED,
    BeatActivityTask,
    CancelArrived,
    CompleteActivity,
    TakeExpiredTasks,
    TaskCancel,
    TaskState,
    UpdateActivityTask,
    request_of_cancel,
)
from durable.store.queries import (
    FindUnowned,
    ListActivityTasks,
    ReadAttempts,
    ReadMessages,
)
from durable.store.records import (
    NEVER,
    AttemptState,
    Committed,
    DeleteRuns,
    ReapWorkers,
    RecordAttempts,
    RepairRun,
    ResetRun,
    RunStatus,
    at_once,
)
from durable.testing.contract.rows import (
    CLAIM_TASKS,
    NAMESPACE,
    START,
    make_attempt,
    make_child,
    make_closing,
    make_commit,
    make_owned,
    make_rows,
    make_run,
    make_settling,
    make_start,
    make_task,
    make_termination,
)

if TYPE_CHECKING:
    from durable.store.activity_tasks import ActivityTaskRecord
    from durable.testing.contract.rows import Harness, Opened

replace = msgspec.structs.replace
HOUR = 3_600_000_000
EXTERNAL = TaskState.EXTERNAL


def make_completion(run_id: str, event_id: int = 2, /, **changes: Any) -> Any:
    """Build the completion of a first attempt from outside."""
    completion = CompleteActivity(
        namespace=NAMESPACE,
        workflow_id=f"wf-{run_id}",
        run_id=run_id,
        scheduled_event_id=event_id,
        attempt=1,
        request_id=f"out-{event_id}",
        message='{"result": 2}',
    )
    return replace(completion, **changes)


class TaskEndingContract:
    """Outcomes, retries, cancels, and what ends with a run."""

    async def claim(self, store: Opened, *tasks: ActivityTaskRecord) -> None:
        """Let run r1 be at rest, and this worker have claimed these of its tasks."""
        await store.perform(make_start("r1", tasks=tasks))
        assert len(await store.perform(CLAIM_TASKS)) == len(tasks)

    # --- settling ---------------------------------------------------------------------

    async def test_outcome_takes_the_place_of_the_row_and_wakes_the_run(
        self, harness: Harness, store: Opened
    ) -> None:
        await self.claim(store, make_task("r1"), make_task("r1", 3))
        attempt = make_attempt(
            "r1",
            1,
            state=AttemptState.COMPLETED,
            worker_id="w",
            details='"half"',
            heartbeat_at=START + 1,
        )
        harness.clock.advance(1)

        assert await store.perform(make_settling("r1", attempts=(attempt,))) is True

        assert await store.task("r1") is None
        loaded = await store.load("r1")
        assert loaded.tasks == {3: TaskState.CLAIMED}
        assert loaded.attempts == [attempt]
        (message,) = loaded.messages
        assert (message.kind, message.request_id) == ("activity", "done-2")
        assert message.data == '{"result": 1}'
        assert message.created_at == START + 1_000_000
        assert loaded.record.wake_at == at_once(START + 1_000_000)
        assert len(await store.read(FindUnowned(NAMESPACE, START, 9))) == 1

    async def test_outcome_is_never_refused_for_a_full_inbox(
        self, store: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "INBOX_MESSAGES_MAX", 1)
        tasks = [make_task("r1", n) for n in range(2, 6)]
        await self.claim(store, *tasks)

        settled = [make_settling("r1", n) for n in range(2, 6)]
        assert await store.together(*settled) == [True] * 4

        assert len(await store.waiting("r1")) == 4

    async def test_retry_replaces_the_row_and_tells_nobody(self, store: Opened) -> None:
        await self.claim(store, make_task("r1"))
        then = make_task("r1", attempt=2, due_at=START + 5, progress="1", data="{}")
        failed = make_attempt("r1", 1, state=AttemptState.FAILED)
        retry = make_settling("r1", message=None, next=then, attempts=(failed,))

        assert await store.perform(retry) is True

        assert await store.task("r1") == then
        loaded = await store.load("r1")
        assert (loaded.messages, loaded.attempts) == ([], [failed])
        assert loaded.record.wake_at is None
        with pytest.raises(AttemptOverError, match="at attempt 2"):
            await store.perform(retry)

    async def test_settling_without_anything_deletes_the_row(
        self, store: Opened
    ) -> None:
        await self.claim(store, make_task("r1"))

        assert await store.perform(make_settling("r1", message=None)) is True

        assert await store.task("r1") is None
        assert await store.waiting("r1") == []

    async def test_settling_twice_in_one_commit_is_refused_once(
        self, store: Opened
    ) -> None:
        await self.claim(store, make_task("r1"))

        one, other = await store.together(
            make_settling("r1"), make_settling("r1", request_id="another")
        )

        assert one is True
        assert isinstance(other, AttemptOverError)
        assert await store.waiting("r1") == ["done-2"]

    async def test_only_who_has_claimed_it_settles(
        self, harness: Harness, store: Opened
    ) -> None:
        other = await harness.open("v")
        waiting = make_task("r1", 3, due_at=START + 9)
        outside = make_task("r1", 4, state=EXTERNAL)
        await store.perform(make_start("r1", tasks=(make_task("r1"), waiting, outside)))
        await store.perform(CLAIM_TASKS)
        before = await store.read(ListActivityTasks(NAMESPACE))

        for who, event_id, attempt in (
            (other, 2, 1),
            (store, 2, 2),
            (store, 3, 1),
            (store, 4, 1),
            (store, 5, 1),
        ):
            gone = make_attempt("r1", 1, state=AttemptState.LOST)
            settling = make_settling("r1", event_id, attempt=attempt, attempts=(gone,))
            with pytest.raises(AttemptOverError):
                await who.perform(settling)
        assert await store.read(ListActivityTasks(NAMESPACE)) == before
        loaded = await store.load("r1")
        assert (loaded.messages, loaded.attempts) == ([], [])

    @pytest.mark.parametrize("state", list(TaskState))
    async def test_judge_settles_what_it_has_taken(
        self, store: Opened, state: TaskState
    ) -> None:
        if state is TaskState.CLAIMED:
            return
        task = make_task("r1", state=state, expires_at=START, worker_id="dead")
        await store.perform(make_start("r1", tasks=(task,)))
        with pytest.raises(AttemptOverError):
            await store.perform(make_settling("r1"))
        await store.perform(TakeExpiredTasks(limit=1))

        assert await store.perform(make_settling("r1")) is True

        assert await store.waiting("r1") == ["done-2"]

    async def test_retry_is_refused_once_the_activity_is_to_stop(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1", tasks=(make_task("r1"),)))
        (claimed,) = await store.perform(CLAIM_TASKS)
        await store.perform(make_commit("r1", cancels=(TaskCancel(2, "stop", "{}"),)))
        retry = make_settling("r1", message=None, next=make_task("r1", attempt=2))

        assert await store.perform(retry) == CancelArrived("stop")

        assert await store.task("r1") == replace(claimed, cancel="stop")
        assert await store.perform(replace(retry, cancel="stop")) is True
        assert await store.task("r1") == make_task("r1", attempt=2)

    async def test_outcome_counts_though_the_activity_is_to_stop(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1", tasks=(make_task("r1"),)))
        await store.perform(CLAIM_TASKS)
        await store.perform(make_commit("r1", cancels=(TaskCancel(2, "stop", "{}"),)))

        assert await store.perform(make_settling("r1")) is True

        assert await store.waiting("r1") == ["done-2"]

    # --- from outside -----------------------------------------------------------------

    async def test_external_attempt_is_completed_by_anyone_once(
        self, harness: Harness, store: Opened
    ) -> None:
        anyone = await harness.open()
        attempt = make_attempt("r1", 1, state=AttemptState.COMPLETED)
        await store.perform(make_start("r1", tasks=(make_task("r1", state=EXTERNAL),)))
        completion = make_completion("r1", attempts=(attempt,))

        assert await anyone.perform(completion) == "r1"

        assert await anyone.perform(completion) == "r1"
        loaded = await store.load("r1")
        assert [m.data for m in loaded.messages] == ['{"result": 2}']
        assert (loaded.tasks, loaded.attempts) == ({}, [attempt])
        with pytest.raises(ActivityNotFoundError, match="it has ended"):
            await anyone.perform(replace(completion, request_id="another"))

    async def test_completion_is_refused_for_what_is_not_there(
        self, store: Opened
    ) -> None:
        await store.perform(make_start("r1", tasks=(make_task("r1", state=EXTERNAL),)))

        for changes, error in (
            ({"run_id": "r2"}, WorkflowNotFoundError),
            ({"workflow_id": "wf-r2"}, WorkflowNotFoundError),
            ({"namespace": "another"}, WorkflowNotFoundError),
            ({"scheduled_event_id": 3}, ActivityNotFoundError),
            ({"attempt": 2}, AttemptOverError),
        ):
            with pytest.raises(error):
                await store.perform(make_completion("r1", **changes))
        assert await store.task("r1") == make_task("r1", state=EXTERNAL)
        assert await store.perform(make_completion("r1", workflow_id=None)) == "r1"

    @pytest.mark.parametrize(
        "state", [TaskState.WAITING, TaskState.CLAIMED, TaskState.LOST]
    )
    async def test_token_is_for_an_external_attempt_and_an_operator_for_any(
        self, store: Opened, state: TaskState
    ) -> None:
        task = make_task("r1", state=state, worker_id="w")
        await store.perform(make_start("r1", tasks=(task,)))

        with pytest.raises(AttemptOverError):
            await store.perform(make_completion("r1"))
        assert await store.task("r1") == task

        assert await store.perform(make_completion("r1", attempt=None)) == "r1"
        assert await store.waiting("r1") == ["out-2"]
        with pytest.raises(AttemptOverError, match="has ended"):
            await store.perform(make_settling("r1"))

    async def test_external_attempt_may_be_followed_by_another(
        self, store: Opened
    ) -> None:
        await store.perform(make_start("r1", tasks=(make_task("r1", state=EXTERNAL),)))
        then = make_task("r1", attempt=2, due_at=START + 4)

        done = make_completion("r1", message=None, next=then)
        assert await store.perform(done) == "r1"

        assert await store.task("r1") == then
        assert await store.waiting("r1") == []

    async def test_external_heartbeat_moves_its_end(
        self, harness: Harness, store: Opened
    ) -> None:
        anyone = await harness.open()
        task = make_task("r1", state=EXTERNAL, expires_at=START + 5)
        await store.perform(make_start("r1", tasks=(task,)))
        beat = BeatActivityTask(
            run_id="r1",
            scheduled_event_id=2,
            attempt=1,
            progress="7",
            expires_at=START + HOUR,
            is_external=True,
        )

        assert await anyone.perform(beat) is None

        beaten = replace(
            task, progress="7", expires_at=START + HOUR, heartbeat_at=START
        )
        assert await store.task("r1") == beaten
        with pytest.raises(AttemptOverError):
            await anyone.perform(replace(beat, attempt=2))
        with pytest.raises(ActivityNotFoundError):
            await anyone.perform(replace(beat, scheduled_event_id=3))

    # --- cancels ----------------------------------------------------------------------

    @pytest.mark.parametrize("is_attempt", [False, True])
    async def test_cancel_ends_what_nobody_has_claimed_and_tells_who_has(
        self, store: Opened, *, is_attempt: bool
    ) -> None:
        states = [*TaskState]
        tasks = tuple(
            make_task("r1", n, state=state, worker_id="w")
            for n, state in enumerate(states, start=2)
        )
        await store.perform(make_owned("r1", tasks=tasks))
        cancels = tuple(TaskCancel(n, "x" * 300, f"[{n}]") for n in (2, 3, 4, 5, 6))
        cancel: Any = make_commit("r1", cancels=cancels)
        if is_attempt:
            cancel = RecordAttempts(
                run_id="r1",
                attempts=(),
                is_active=False,
                wake_at=START + HOUR,
                cancels=cancels,
            )

        done = await store.perform(cancel)

        claimed = 2 + states.index(TaskState.CLAIMED)
        stopped = tuple(n for n in (2, 3, 4, 5) if n != claimed)
        assert done == Committed(stopped=stopped)
        (left,) = await store.read(ListActivityTasks(NAMESPACE))
        assert (left.scheduled_event_id, left.cancel) == (claimed, "x" * 255)
        messages = await store.read(ReadMessages("r1"))
        assert [(m.kind, m.data) for m in messages] == [
            ("activity", f"[{n}]") for n in stopped
        ]
        assert messages[0].request_id == request_of_cancel(2)
        wake_at = (await store.load("r1")).record.wake_at
        assert wake_at == (at_once(START) if is_attempt else None)

    async def test_cancel_of_what_has_ended_changes_nothing(
        self, store: Opened
    ) -> None:
        await self.claim(store, make_task("r1"))
        await store.perform(make_settling("r1"))

        cancel = make_commit("r1", cancels=(TaskCancel(2, "stop", "{}"),))
        assert await store.perform(cancel) == Committed()

        assert await store.waiting("r1") == ["done-2"]

    @pytest.mark.parametrize("is_attempt", [False, True])
    async def test_withdrawn_task_is_nobodys(
        self, store: Opened, *, is_attempt: bool
    ) -> None:
        tasks = (make_task("r1"), make_task("r1", 3))
        await store.perform(make_owned("r1", tasks=tasks))
        await store.perform(CLAIM_TASKS)
        withdrawal: Any = make_commit("r1", withdrawn=(2, 9))
        if is_attempt:
            withdrawal = RecordAttempts(
                run_id="r1",
                attempts=(),
                is_active=True,
                wake_at=None,
                withdrawn=(2, 9),
            )

        await store.perform(withdrawal)

        assert (await store.load("r1")).tasks == {3: TaskState.CLAIMED}
        with pytest.raises(AttemptOverError, match="taken back"):
            await store.perform(make_settling("r1"))

    async def test_tasks_come_with_what_their_runs_record(self, store: Opened) -> None:
        await store.together(
            make_owned("r1", tasks=(make_task("r1"),)),
            make_commit("r1", tasks=(make_task("r1", 3),)),
            RecordAttempts(
                run_id="r1",
                attempts=(make_attempt("r1", 1),),
                is_active=True,
                wake_at=None,
                tasks=(make_task("r1", 4), make_task("r1", attempt=2)),
            ),
        )

        found = await store.read(ListActivityTasks(NAMESPACE))
        assert found == [
            make_task("r1", attempt=2),
            make_task("r1", 3),
            make_task("r1", 4),
        ]

    async def test_refused_commit_leaves_tasks_as_they_are(
        self, harness: Harness, store: Opened
    ) -> None:
        other = await harness.open("v")
        await store.perform(make_owned("r1", tasks=(make_task("r1"),)))
        changes: dict[str, Any] = {
            "tasks": (make_task("r1", 3),),
            "withdrawn": (2,),
            "cancels": (TaskCancel(2, "stop", "{}"),),
        }

        with pytest.raises(HistoryTakenError):
            await other.perform(make_commit("r1", **changes))
        with pytest.raises(HistoryTakenError):
            await other.perform(
                RecordAttempts(
                    run_id="r1", attempts=(), is_active=True, wake_at=None, **changes
                )
            )

        assert await store.read(ListActivityTasks(NAMESPACE)) == [make_task("r1")]
        assert await store.waiting("r1") == []

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
        await self.claim(store, make_task("r1"))
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
        await self.claim(store, make_task("r1"))
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
        await self.claim(store, make_task("r1"))
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
            update, data='"new"', priority=1, due_at=0, expires_at=START + HOUR
        )
        assert await store.perform(options) is True
        expected = replace(
            task, data='"new"', priority=1, due_at=0, expires_at=START + HOUR
        )
        assert await store.task("r1") == expected
        assert await store.perform(replace(update, is_reset=True)) is True
        again = replace(expected, attempt=1, progress=None)
        assert await store.task("r1") == again

    async def test_operator_tells_who_has_claimed_a_task(self, store: Opened) -> None:
        await self.claim(store, make_task("r1"))
        before = await store.task("r1")
        assert before is not None
        update = UpdateActivityTask(
            run_id="r1", scheduled_event_id=2, attempt=1, state=TaskState.CLAIMED
        )

        assert await store.perform(replace(update, is_reset=True)) is False
        change = replace(update, cancel="paused", expires_at=START)
        assert await store.perform(change) is True
        assert await store.task("r1") == replace(before, cancel="paused")
        assert await store.perform(replace(update, cancel="")) is True
        assert await store.task("r1") == before
