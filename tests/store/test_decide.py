"""What a group does to the rows it has seen: tables of sequences, without a database.

The pairs that two transactions of a server could get wrong between them are here as
sequences of one group: whichever comes first, the other sees what it did.
"""

from typing import Any

import pytest

from durable.errors import (
    HistoryTakenError,
    LeaseLostError,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
)
from durable.options import IdConflictPolicy
from durable.store.deciding.decide import Decided, decide
from durable.store.deciding.rows import (
    CLOSED,
    MOVED,
    PARKED,
    PUBLISHED,
    Name,
    Run,
    Seen,
)
from durable.store.deciding.wanted import want
from durable.store.records import (
    CommitTask,
    MailArrived,
    ParkRun,
    RecordAttempts,
    RunRecord,
    RunStatus,
    Started,
)
from durable.testing.contract.rows import (
    START,
    make_attempt,
    make_child,
    make_closing,
    make_commit,
    make_message,
    make_rows,
    make_run,
    make_start,
    make_termination,
    make_worker,
)

WORKER = make_worker("w")


def see(*records: RunRecord, first_sequence: int | None = None, **more: Any) -> Seen:
    """What look brings of these runs, each with two events."""
    runs = {r.run_id: to_run(r) for r in records}
    seen = Seen(
        has_worker=True,
        first_sequence=first_sequence,
        last_sequence=first_sequence or 0,
        runs=dict(runs),
        **more,
    )
    for name in ("a", "b", "p", "c"):
        run = runs.get(name)
        seen.runs.setdefault(name, run)
        seen.names["default", f"wf-{name}"] = Name(run, run)
        seen.requests["default", f"start-{name}"] = run
    return seen


def to_run(record: RunRecord) -> Run:
    return Run(
        record.run_id,
        record.namespace,
        record.workflow_id,
        record.first_run_id,
        record.status,
        record.closed_at,
        record.owner,
        record.started_at,
        record.parent_run_id,
        record.parent_close_policy,
        2,
        record.wake_at,
        record.epoch,
    )


def carry_out(seen: Seen, *operations: Any, worker: Any = WORKER) -> Decided:
    decided = decide(operations, seen, START + 9, worker)
    assert isinstance(decided, Decided), decided
    return decided


def results(decided: Decided) -> list[Any]:
    return [result if error is None else error for result, error in decided.outcomes]


A = make_run("a", owner="w")
P = make_run("p", owner="w")


# --- pairs ----------------------------------------------------------------------------


def test_closing_sees_the_message_before_it() -> None:
    decided = carry_out(see(A), make_message("a"), make_closing("a", 3, 3))

    put, closed = results(decided)
    assert put == "a"
    assert isinstance(closed, MailArrived)
    assert closed.messages == decided.rows.letters
    assert decided.rows.changed == []
    assert decided.rows.history == []


def test_message_sees_the_closing_before_it() -> None:
    decided = carry_out(see(A), make_closing("a", 3, 3), make_message("a"))

    closed, refused = results(decided)
    assert closed is None
    assert isinstance(refused, WorkflowClosedError)
    assert decided.rows.letters == []


def test_end_of_a_parent_sees_the_child_before_it() -> None:
    seen = see(P, children={"p": []})
    decided = carry_out(
        seen,
        make_child("c", "p", "terminate", owner="w"),
        make_closing("p", 3, 3, has_children=True),
    )

    started, closed = results(decided)
    assert started.created
    assert closed.ended == ("c",)
    (created,) = decided.rows.created
    assert (created.status, created.owner) == (RunStatus.TERMINATED, None)
    assert [row[:2] for row in decided.rows.history] == [
        ("c", 1),
        ("c", 2),
        ("p", 3),
        ("c", 3),
    ]


def test_child_sees_the_end_of_its_parent_before_it() -> None:
    decided = carry_out(
        see(P, children={"p": []}),
        make_closing("p", 3, 3, has_children=True),
        make_child("c", "p", "terminate", owner="w"),
    )

    assert isinstance(results(decided)[1], WorkflowClosedError)
    assert decided.rows.created == []


def test_grandchild_that_began_in_the_group_ends_with_its_grandparent() -> None:
    c = make_run("c", parent_run_id="p", parent_close_policy="terminate")
    seen = see(P, c, ends={"c": (2, 1, 0)})
    child = seen.runs["c"]
    assert child is not None
    seen.children = {"p": [child], "c": []}
    seen.all_tasks = ("c",)
    decided = carry_out(
        seen,
        make_child("b", "c", "terminate", owner="w"),
        make_closing("p", 3, 3, has_children=True),
    )

    assert results(decided)[1].ended == ("c", "b")


@pytest.mark.parametrize("policy", [*IdConflictPolicy])
def test_start_sees_the_start_before_it(policy: IdConflictPolicy) -> None:
    first = make_start("a", owner="w")
    second = make_start(
        "b", owner="w", workflow_id="wf-a", conflict_policy=policy, terminated_data="{}"
    )
    seen = see()
    decided = carry_out(seen, first, second)

    outcome = results(decided)[1]
    names = [record.run_id for record in decided.rows.created]
    if policy is IdConflictPolicy.FAIL:
        assert isinstance(outcome, WorkflowAlreadyStartedError)
        assert names == ["a"]
    elif policy is IdConflictPolicy.TERMINATE_EXISTING:
        assert outcome == Started("b", True, "a")
        statuses = [record.status for record in decided.rows.created]
        assert statuses == [RunStatus.TERMINATED, RunStatus.RUNNING]
    else:
        assert outcome == Started("a", False)
        assert names == ["a"]


def test_second_turn_of_one_run_is_refused() -> None:
    decided = carry_out(see(A), make_commit("a", 3, 3), make_commit("a", 3, 4))

    first, second = results(decided)
    assert first is None
    assert isinstance(second, HistoryTakenError)
    assert decided.rows.history == make_rows("a", 3, 3)


def test_message_by_id_reaches_the_run_that_the_chain_went_on_with() -> None:
    following = make_start("b", owner="w", workflow_id="wf-a", first_run_id="a")
    closing = make_closing(
        "a", 3, 3, status=RunStatus.CONTINUED_AS_NEW, starts=(following,)
    )

    decided = carry_out(see(A), closing, make_message("a"))

    assert results(decided)[1] == "b"
    assert [letter.run_id for letter in decided.rows.letters] == ["b"]


def test_run_that_was_taken_away_is_not_written() -> None:
    seen = see(make_run("a", owner="other"))

    decided = carry_out(seen, make_commit("a", 3, 3), make_closing("a", 3, 3))

    assert [type(r) for r in results(decided)] == [HistoryTakenError] * 2
    assert decided.rows.changed == []


# --- one row for each run -------------------------------------------------------------


def test_run_that_changed_often_is_one_row() -> None:
    decided = carry_out(
        see(A),
        make_commit("a", 3, 3, update_run=True, is_active=False, wake_at=START),
        make_commit("a", 4, 4, state="1", epoch=1),
        RecordAttempts(
            run_id="a",
            attempts=(make_attempt("a", 1),),
            is_active=True,
            wake_at=None,
            epoch=2,
        ),
        ParkRun(run_id="a", stuck="{}", epoch=3),
        make_commit("a", 5, 5, state="2", checkpoint_event_id=5, epoch=4),
        make_closing("a", 6, 6, epoch=5),
    )

    assert results(decided) == [None] * 6
    (run,) = decided.rows.changed
    assert run.changes == MOVED | PARKED | PUBLISHED | CLOSED
    assert (run.status, run.owner) == (RunStatus.COMPLETED, None)
    assert (run.state, run.checkpoint_event_id) == ("2", 5)
    assert decided.rows.history == make_rows("a", 3, 6)


def test_run_that_began_in_the_group_is_inserted_as_it_ends() -> None:
    decided = carry_out(
        see(),
        make_start("a", owner="w"),
        make_commit("a", 3, 3, update_run=True, wake_at=START, state="1"),
        make_message("a", "m"),
        make_closing("a", 4, 4, consumed_requests=("m",)),
    )

    assert decided.rows.changed == []
    assert decided.rows.created == [
        make_run("a", status=RunStatus.COMPLETED, closed_at=START + 7, state="1")
    ]
    assert decided.rows.letters == []
    assert decided.rows.last_sequence == 1  # nobody gets that number again


def test_message_that_was_taken_up_in_its_group_may_come_again() -> None:
    decided = carry_out(
        see(A),
        make_message("a", "m"),
        make_message("a", "m", data="[]"),
        CommitTask(run_id="a", rows=[], consumed_requests=("m",)),
        make_message("a", "m", data='"again"'),
    )

    assert results(decided) == ["a", "a", None, "a"]
    ((letter,), last) = decided.rows.letters, decided.rows.last_sequence
    assert (letter.data, letter.sequence, last) == ('"again"', 2, 2)


# --- what was not seen ----------------------------------------------------------------


def test_group_says_what_it_lacks_of_all_its_operations() -> None:
    b = make_run("b", parent_run_id="p", parent_initiated_event_id=2)

    lacking = decide(
        [make_termination("a"), make_termination("b")], see(A, b), START, WORKER
    )

    assert lacking == [
        (what, name) for name in "ab" for what in ("all_tasks", "records")
    ]


def test_text_of_a_message_is_asked_for_only_if_it_is_needed() -> None:
    waiting = {"a": {"m": (4, "signal")}}
    seen = see(A, first_sequence=4, mail=waiting, all_mail=("a",))
    closing = make_closing("a", 3, 3, consumed=(4,))
    assert results(carry_out(seen, closing)) == [None]

    seen = see(A, first_sequence=4, mail=waiting, all_mail=("a",))
    lacking = decide([make_closing("a", 3, 3)], seen, START, WORKER)

    assert lacking == [("messages", "a")]


def test_whether_a_message_waits_is_not_asked_of_empty_inboxes() -> None:
    assert results(carry_out(see(A), make_message("a"))) == ["a"]

    lacking = decide([make_message("a")], see(A, first_sequence=1), START, WORKER)

    assert lacking == [("looked", ("a", "cancel-1"))]


def test_time_is_asked_for_if_it_was_not_read() -> None:
    closing = make_closing("a", 3, 3, closed_at=None)

    assert decide([closing], see(A), None, WORKER) == [("has_time", None)]


# --- leases ---------------------------------------------------------------------------


def test_lost_lease_refuses_what_needs_it_and_nothing_else() -> None:
    seen = see(A)
    seen.has_worker = False

    decided = carry_out(
        seen,
        make_commit("a", 3, 3),
        make_start("b", owner="w"),
        make_start("c"),
        make_message("a"),
    )

    *refused, started, put = results(decided)
    assert [type(error) for error in refused] == [LeaseLostError] * 2
    assert (started.created, put) == (True, "a")
    assert decided.is_lost


def test_without_a_worker_no_lease_is_lost() -> None:
    decided = carry_out(see(A), make_commit("a", 3, 3), worker=None)

    assert [type(error) for error in results(decided)] == [LeaseLostError]
    assert not decided.is_lost


# --- what is looked at ----------------------------------------------------------------


def test_runs_are_known_by_their_places_if_only_their_workers_write_to_them() -> None:
    turns = [make_commit("a", 3, 3), make_closing("p", 3, 4)]
    to_p = make_message("p", run_id="p")

    assert want(turns, "w").is_narrow
    assert want(turns, "w").places == {"a": (2, 0), "p": (2, 0)}
    for other in (
        make_commit("a", 3, 3, messages=(to_p,)),
        make_closing("p", 3, 4, has_children=True),
        make_termination("a", run_id="a"),
        make_start("b"),
        ParkRun(run_id="b", stuck="{}"),
        to_p,
    ):
        assert not want([*turns, other], "w").is_narrow
