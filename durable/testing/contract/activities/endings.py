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
    WorkflowNotFoundError,
)
from durable.store.activity_tasks import (
    BeatActivityTask,
    CancelArrived,
    CompleteActivity,
    TakeExpiredTasks,
    TaskCancel,
    TaskState,
    request_of_cancel,
)
from durable.store.queries import (
    FindUnowned,
    ListActivityTasks,
    ReadMessages,
)
from durable.store.records import (
    AttemptState,
    Committed,
    RecordAttempts,
    at_once,
)
from durable.testing.contract.rows import (
    CLAIM_TASKS,
    NAMESPACE,
    START,
    make_attempt,
    make_commit,
    make_owned,
    make_settling,
    make_start,
    make_task,
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


async def claim(store: Opened, *tasks: ActivityTaskRecord) -> None:
    """Let run r1 be at rest, and this worker have claimed these of its tasks."""
    await store.perform(make_start("r1", tasks=tasks))
    assert len(await store.perform(CLAIM_TASKS)) == len(tasks)


class TaskEndingContract:
    """Outcomes, retries and cancels."""

    # --- settling ---------------------------------------------------------------------

    async def test_outcome_takes_the_place_of_the_row_and_wakes_the_run(
        self, harness: Harness, store: Opened
    ) -> None:
        await claim(store, make_task("r1"), make_task("r1", 3))
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
        await claim(store, *tasks)

        settled = [make_settling("r1", n) for n in range(2, 6)]
        assert await store.together(*settled) == [True] * 4

        assert len(await store.waiting("r1")) == 4

    async def test_retry_replaces_the_row_and_tells_nobody(self, store: Opened) -> None:
        await claim(store, make_task("r1"))
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

    async def test_attempt_that_begins_anew_is_not_the_one_of_the_same_number(
        self, harness: Harness, store: Opened
    ) -> None:
        await claim(store, make_task("r1"))
        again = make_settling("r1", message=None, next=make_task("r1"))
        await store.perform(again)
        harness.clock.advance(1)
        await store.perform(CLAIM_TASKS)
        old = make_settling("r1", started_at=START)
        beat = BeatActivityTask(
            run_id="r1", scheduled_event_id=2, attempt=1, started_at=START
        )

        for late in (old, beat):
            with pytest.raises(AttemptOverError, match="has begun anew"):
                await store.perform(late)

        new = replace(old, started_at=START + 1_000_000)
        assert await store.perform(new) is True

    async def test_settling_without_anything_deletes_the_row(
        self, store: Opened
    ) -> None:
        await claim(store, make_task("r1"))

        assert await store.perform(make_settling("r1", message=None)) is True

        assert await store.task("r1") is None
        assert await store.waiting("r1") == []

    async def test_settling_twice_in_one_commit_is_refused_once(
        self, store: Opened
    ) -> None:
        await claim(store, make_task("r1"))

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

    @pytest.mark.parametrize("state", [*TaskState])
    async def test_operator_may_mean_one_that_has_not_begun(
        self, store: Opened, state: TaskState
    ) -> None:
        task = make_task("r1", state=state, worker_id="w")
        await store.perform(make_start("r1", tasks=(task,)))
        completion = make_completion("r1", state=TaskState.WAITING)

        with pytest.raises(AttemptOverError):
            await store.perform(replace(completion, attempt=2))
        if state is not TaskState.WAITING:
            with pytest.raises(AttemptOverError):
                await store.perform(completion)
            assert await store.task("r1") == task
        else:
            assert await store.perform(completion) == "r1"
            assert await store.waiting("r1") == ["out-2"]

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
        lost = 2 + states.index(TaskState.LOST)  # who judges it knows how it ended
        stopped = tuple(n for n in (2, 3, 4, 5) if n not in (claimed, lost))
        assert done == Committed(stopped=stopped)
        left = await store.read(ListActivityTasks(NAMESPACE))
        assert {one.scheduled_event_id: one.cancel for one in left} == {
            claimed: "x" * 255,
            lost: "x" * 255,
        }
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
        await claim(store, make_task("r1"))
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
