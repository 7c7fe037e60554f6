"""What the store's contract says of histories, attempts and parking."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from durable.errors import HistoryTakenError
from durable.store.queries import (
    FindDueRuns,
    FindNextWakeUp,
    LoadRuns,
    ReadAttempts,
    ReadHistory,
    ReadMessages,
)
from durable.store.records import (
    AttemptState,
    CommitTask,
    MailArrived,
    ParkRun,
    RecordAttempts,
    RepairRun,
    RunStatus,
    Started,
    at_once,
)
from durable.testing.contract.rows import (
    START,
    make_attempt,
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
    from durable.testing.contract.rows import Opened

# What a commit may change of its run, each written by a statement of its own.
GAPS: list[dict[str, Any]] = [
    {},
    {"update_run": True, "wake_at": START},
    {"status": RunStatus.COMPLETED, "closed_at": START + 7},
]
CLOSED_STATUSES = [status for status in RunStatus if status is not RunStatus.RUNNING]


class CommitContract:
    """Appending to histories, attempts, parking."""

    async def test_commit_that_must_see_all_mail_is_refused_by_it(
        self, store: Opened
    ) -> None:
        await store.together(
            make_owned("r1"),
            make_owned("r2"),
            make_message("r2", "theirs"),
            make_message("r1", "asks", kind="query"),
        )
        seeing = make_commit("r1", sees_all_mail=True)
        assert await store.perform(seeing) is None

        await store.perform(make_message("r1", "mine"))
        refused = await store.perform(make_commit("r1", 4, 4, sees_all_mail=True))

        assert isinstance(refused, MailArrived)
        assert [message.request_id for message in refused.messages] == ["mine"]
        assert len(await store.read(ReadHistory("r1"))) == 3
        (sequence,) = [message.sequence for message in refused.messages]
        taken = make_commit("r1", 4, 4, sees_all_mail=True, consumed=(sequence,))
        assert await store.perform(taken) is None

    async def test_commit_appends_and_leaves_the_run_as_it_is(
        self, store: Opened
    ) -> None:
        started = make_owned("r1", wake_at=START)
        await store.perform(started)

        assert await store.perform(make_commit("r1", 3, 5)) is None

        loaded = await store.load("r1")
        assert loaded.record == started.record
        assert loaded.rows == make_rows("r1", 1, 5)

    async def test_commit_may_update_the_run(self, store: Opened) -> None:
        await store.perform(make_owned("r1"))
        await store.perform(ParkRun(run_id="r1", stuck='{"message": "bug"}'))

        await store.perform(
            make_commit("r1", update_run=True, is_active=False, wake_at=77, epoch=1)
        )

        record = (await store.load("r1")).record
        assert record == make_run("r1", wake_at=77, epoch=2)

    @pytest.mark.parametrize("status", CLOSED_STATUSES)
    async def test_commit_closes_the_run(
        self, store: Opened, status: RunStatus
    ) -> None:
        await store.perform(make_owned("r1", wake_at=START))

        await store.perform(make_closing("r1", 3, 4, status=status))

        loaded = await store.load("r1")
        assert loaded.record == make_run("r1", status=status, closed_at=START + 7)
        assert len(loaded.rows) == 4
        assert (await store.perform(make_start("r2", workflow_id="wf-r1"))).created

    async def test_commit_writes_attempts_with_its_rows(self, store: Opened) -> None:
        await store.perform(make_owned("r1"))
        attempt = make_attempt(
            "r1",
            2,
            state=AttemptState.FAILED,
            started_at=START + 1,
            closed_at=START + 2,
            failure='{"message": "no"}',
            worker_id="w",
        )

        await store.perform(make_commit("r1", attempts=(attempt,)))

        assert await store.read(ReadAttempts("r1")) == [attempt]
        assert (await store.load("r1")).attempts == [attempt]

    async def test_commit_to_a_taken_position_is_refused_whole(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1"))

        before, refused, after = await store.together(
            make_commit("r1"),
            make_commit("r1", 3, 4, attempts=(make_attempt("r1", 1),)),
            make_commit("r1", 4, 4),
        )

        assert (before, after) == (None, None)
        assert isinstance(refused, HistoryTakenError)
        loaded = await store.load("r1")
        assert loaded.rows == make_rows("r1", 1, 4)
        assert loaded.attempts == []

    @pytest.mark.parametrize("changes", GAPS)
    async def test_commit_that_would_leave_a_gap_is_refused_whole(
        self, store: Opened, changes: dict[str, Any]
    ) -> None:
        """No belief of a worker about where a history ends can make a hole in it."""
        await store.perform(make_owned("r1"))
        ahead = make_commit("r1", 4, 5, attempts=(make_attempt("r1", 1),), **changes)

        refused = (await store.together(ahead))[0]

        assert isinstance(refused, HistoryTakenError)
        loaded = await store.load("r1")
        assert loaded.rows == make_rows("r1", 1, 2)
        assert loaded.attempts == []
        assert loaded.record == make_run("r1", owner="w")

    @pytest.mark.parametrize(
        ("first", "changes"), [(2, {}), *((4, changes) for changes in GAPS)]
    )
    async def test_commit_harms_no_neighbour_when_it_is_refused(
        self, store: Opened, first: int, changes: dict[str, Any]
    ) -> None:
        names = [f"r{number}" for number in range(6)]
        await store.together(*(make_owned(name) for name in names))

        outcomes = await store.together(
            *(make_commit(n, first if n == "r3" else 3, 4, **changes) for n in names),
            make_owned("r9"),
        )

        assert isinstance(outcomes.pop(3), HistoryTakenError)
        assert outcomes == [None] * 5 + [Started(run_id="r9", created=True)]
        lengths = [len(loaded.rows) for loaded in await store.read(LoadRuns(names))]
        assert lengths == [4, 4, 4, 2, 4, 4]

    @pytest.mark.parametrize("positions", [(3, 5), (4, 3), (3, 4, 4), (0, 1), (-1,)])
    async def test_rows_that_do_not_follow_each_other_are_refused(
        self, store: Opened, positions: tuple[int, ...]
    ) -> None:
        await store.perform(make_owned("r1"))
        rows = [row for at in positions for row in make_rows("r1", at, at)]

        for operation in (
            CommitTask(run_id="r1", rows=rows),
            msgspec.structs.replace(make_owned("r2"), rows=rows),
        ):
            refused = (await store.together(operation))[0]
            assert isinstance(refused, HistoryTakenError)

        assert (await store.load("r1")).rows == make_rows("r1", 1, 2)
        assert await store.read(LoadRuns(["r2"])) == []

    async def test_a_start_begins_with_event_1(self, store: Opened) -> None:
        late = msgspec.structs.replace(make_owned("r1"), rows=make_rows("r1", 2, 3))

        before, refused = await store.together(make_owned("r0"), late)

        assert before.created
        assert isinstance(refused, HistoryTakenError)
        assert await store.read(LoadRuns(["r1"])) == []

    async def test_commit_after_a_termination_is_refused(self, store: Opened) -> None:
        await store.perform(make_owned("r1"))

        terminated, *refused = await store.together(
            make_termination("r1"),
            make_commit("r1"),
            make_commit("r1", 4, 4),
            make_commit("r1", 4, 3, update_run=True, wake_at=9),
            make_closing("r1", 4, 4),
            RecordAttempts(
                run_id="r1",
                attempts=(make_attempt("r1", 2),),
                is_active=True,
                wake_at=START,
            ),
            ParkRun(run_id="r1", stuck="{}"),
        )

        assert terminated.run_id == "r1"
        assert [type(error) for error in refused] == [HistoryTakenError] * 6
        loaded = await store.load("r1")
        assert loaded.record == make_run(
            "r1", status=RunStatus.TERMINATED, closed_at=START + 2
        )
        assert loaded.attempts == []

    @pytest.mark.parametrize("is_one_group", [False, True])
    async def test_termination_comes_after_all_tasks_of_its_run(
        self, store: Opened, *, is_one_group: bool
    ) -> None:
        """The newest event may be an input that no task has taken, without a number."""
        untaken = make_commit("r1", 3, 3)
        untaken.rows[0] = (*untaken.rows[0][:2], 0, *untaken.rows[0][3:])
        await store.perform(make_owned("r1"))
        if is_one_group:
            await store.together(untaken, make_termination("r1"))
        else:
            await store.perform(untaken)
            await store.perform(make_termination("r1"))

        loaded = await store.load("r1")

        assert [row[1:3] for row in loaded.rows] == [(1, 1), (2, 2), (3, 0), (4, 3)]

    async def test_commit_to_a_run_that_is_not_there_is_refused(
        self, store: Opened
    ) -> None:
        with pytest.raises(HistoryTakenError):
            await store.perform(make_commit("unknown"))
        assert await store.read(ReadHistory("unknown")) == []

    async def test_commit_to_a_run_at_rest_ends_its_epoch(self, store: Opened) -> None:
        await store.perform(make_start("r1"))
        rest: dict[str, Any] = {"update_run": True, "is_active": False}

        first, again, next_one, work, forgotten, owned, stale = await store.together(
            make_commit("r1", **rest),
            make_commit("r1", 4, 4, **rest),
            make_commit("r1", 4, 4, epoch=1, **rest),
            RecordAttempts(
                run_id="r1", attempts=(), is_active=True, wake_at=None, epoch=2
            ),
            # That it is this worker's again says nothing of what is remembered of it.
            make_commit("r1", 5, 5, epoch=2, **rest),
            make_commit("r1", 5, 5, epoch=3, **rest),
            # Nor does that it is at rest again.
            RecordAttempts(
                run_id="r1", attempts=(), is_active=True, wake_at=None, epoch=2
            ),
        )

        assert [first, next_one, work, owned] == [None] * 4
        for refused in (again, forgotten, stale):
            assert isinstance(refused, HistoryTakenError)
        loaded = await store.load("r1")
        assert loaded.record == make_run("r1", epoch=4)
        assert loaded.rows == make_rows("r1", 1, 5)

    async def test_epoch_never_falls(self, store: Opened) -> None:
        rest: dict[str, Any] = {"update_run": True, "is_active": False}
        await store.perform(make_start("r1"))
        taken = RecordAttempts(run_id="r1", attempts=(), is_active=True, wake_at=None)
        await store.perform(taken)

        await store.perform(make_commit("r1", 3, 3, epoch=1, **rest))

        loaded = await store.load("r1")
        assert loaded.record == make_run("r1", epoch=2)

        await store.perform(msgspec.structs.replace(taken, epoch=2))
        outcomes = await store.together(
            make_commit("r1", 4, 4, epoch=3, **rest),
            make_commit("r1", 5, 5, epoch=4, **rest),
        )
        assert outcomes == [None, None]
        loaded = await store.load("r1")
        assert loaded.record == make_run("r1", epoch=5)

    @pytest.mark.parametrize("known", [(), (1,)])
    async def test_run_at_rest_is_due_for_what_it_has_not_seen(
        self, store: Opened, known: tuple[int, ...]
    ) -> None:
        await store.together(make_owned("r1"), make_message("r1"))
        (message,) = await store.read(ReadMessages("r1"))
        rest = make_commit(
            "r1",
            update_run=True,
            is_active=False,
            wake_at=START + 9,
            known=tuple(message.sequence for _ in known),
        )

        await store.perform(rest)

        record = (await store.load("r1")).record
        wake_at = START + 9 if known else at_once(START)
        assert record == make_run("r1", wake_at=wake_at, epoch=1)

    async def test_attempts_are_inserted_or_replaced(self, store: Opened) -> None:
        await store.perform(make_owned("r1"))
        waiting = make_attempt("r1", 2, state=AttemptState.BACKOFF, due_at=START + 9)
        first = make_attempt("r1", 1, state=AttemptState.FAILED)
        begun = make_attempt("r1", 2, started_at=START + 9, worker_id="w")

        await store.perform(
            RecordAttempts(
                run_id="r1",
                attempts=(waiting, first),
                is_active=False,
                wake_at=START + 9,
            )
        )

        record = (await store.load("r1")).record
        assert (record.is_active, record.wake_at) == (False, START + 9)
        assert await store.read(ReadAttempts("r1")) == [first, waiting]
        await store.perform(
            RecordAttempts(
                run_id="r1", attempts=(begun,), is_active=True, wake_at=None, epoch=1
            )
        )
        assert await store.read(ReadAttempts("r1")) == [first, begun]
        record = (await store.load("r1")).record
        assert (record.is_active, record.wake_at) == (True, None)

    async def test_attempts_leave_a_parked_run_parked(self, store: Opened) -> None:
        await store.perform(make_owned("r1"))
        await store.perform(ParkRun(run_id="r1", stuck="{}"))

        await store.perform(
            RecordAttempts(
                run_id="r1", attempts=(), is_active=True, wake_at=START, epoch=1
            )
        )

        record = (await store.load("r1")).record
        assert (record.stuck, record.wake_at) == ("{}", START)
        assert (record.owner, record.epoch) == ("w", 2)

    async def test_parking_leaves_the_run_at_rest(self, store: Opened) -> None:
        await store.perform(make_owned("r1", wake_at=START))

        await store.perform(ParkRun(run_id="r1", stuck='{"message": "bug"}'))

        loaded = await store.load("r1")
        assert loaded.record == make_run("r1", stuck='{"message": "bug"}', epoch=1)
        assert loaded.rows == make_rows("r1", 1, 2)
        assert await store.read(FindDueRuns(START, 10)) == []
        assert await store.read(FindNextWakeUp(["order"])) is None

    async def test_repair_replaces_the_end_and_sets_the_run_free(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1", events=5, wake_at=START))
        await store.perform(ParkRun(run_id="r1", stuck='{"message": "hole"}'))
        others = make_rows("r1", 3, 3, '{"other": 1}')

        done = await store.perform(
            RepairRun(run_id="r1", expected=(1, 2, 3, 4, 5), keep=2, rows=others)
        )

        assert done is True
        loaded = await store.load("r1")
        assert loaded.rows == make_rows("r1", 1, 2) + others
        assert loaded.record == make_run("r1", wake_at=at_once(START), epoch=2)
        with pytest.raises(HistoryTakenError):
            await store.perform(make_commit("r1", 4, 4))

    async def test_repair_may_only_set_the_run_free(self, store: Opened) -> None:
        await store.perform(make_owned("r1", wake_at=START))

        assert await store.perform(RepairRun(run_id="r1", expected=(1, 2), keep=2))

        loaded = await store.load("r1")
        assert loaded.rows == make_rows("r1", 1, 2)
        assert loaded.record == make_run("r1", wake_at=at_once(START), epoch=1)

    @pytest.mark.parametrize("expected", [(1,), (1, 2, 3), ()])
    async def test_repair_changes_nothing_if_the_history_is_another(
        self, store: Opened, expected: tuple[int, ...]
    ) -> None:
        await store.perform(make_owned("r1"))

        for run_id in ("r1", "unknown"):
            repair = RepairRun(run_id=run_id, expected=expected, keep=0)
            assert await store.perform(repair) is False

        loaded = await store.load("r1")
        assert loaded.record == make_run("r1", owner="w")
        assert loaded.rows == make_rows("r1", 1, 2)

    async def test_repair_leaves_a_closed_run_alone(self, store: Opened) -> None:
        await store.together(make_owned("r1"), make_closing("r1"))

        repair = RepairRun(run_id="r1", expected=(1, 2, 3), keep=2)
        assert await store.perform(repair) is False

        assert (await store.load("r1")).rows == make_rows("r1", 1, 3)
