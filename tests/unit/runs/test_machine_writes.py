"""What becomes of a run whose writes are refused, and that others close or take."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from durable.core.history.events import (
    ChildWorkflowExecutionCompleted,
    ChildWorkflowExecutionStarted,
    ExternalWorkflowExecutionSignaled,
    StartChildWorkflowExecutionFailed,
    WorkflowExecutionTimedOut,
)
from durable.core.messages import encode_message
from durable.errors import (
    CommitUnknownError,
    DatabaseUnavailableError,
    LeaseLostError,
    WorkflowAlreadyStartedError,
)
from durable.runs import inputs
from durable.runs.effects import Left
from durable.runs.live_run import LiveRun
from durable.runs.states import (
    AT_REST,
    COMMITTING,
    CREATING,
    DRIVING,
    GONE,
    PARKING,
    REPLAYING,
    UNREAD,
    State,
)
from durable.store.records import CommitTask, RunStatus, Started
from tests import obeyer
from tests.obeyer import addition, letter, payload
from tests.run_world import SECOND, RunWorld

TAKEN = WorkflowAlreadyStartedError("taken", workflow_id="run", run_id="other")


@pytest.fixture
def world() -> RunWorld:
    return RunWorld()


def bring(world: RunWorld, state: State) -> LiveRun:
    """A run in a state, with a message that waits, or is being committed."""
    run = world.start()
    if state is not CREATING:
        world.store()
        if state is not AT_REST:
            world.tell(letter("first"))
        match state:
            case State.COMMITTING:
                world.drive()
            case State.UNREAD:
                world.drive()
                world.store("taken")
            case State.REPLAYING:
                world.drive()
                world.store("taken")
                world.read()
            case State.PARKING:
                world.drive()
                world.tell(letter("bug", "bug"))
                world.store()
                obeyer.BROKEN[0] = True
                run.failed_tries = 2
                world.drive()
                if run.state is COMMITTING:  # its inputs are kept first
                    world.store()
            case _:
                pass
    assert run.state is state
    return run


@pytest.fixture(autouse=True)
def sound_code() -> Any:
    yield
    obeyer.BROKEN[0] = False


LIVE = [s for s in State if s is not GONE]


# --- refused --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["taken", "unknown"])
def test_what_was_not_committed_is_back_where_it_was(world: RunWorld, how: str) -> None:
    run = world.at_rest()
    world.tell(letter("act", "act"))
    world.drive()
    world.store()
    # In one commit: the end of an attempt with its row, a signal and an update.
    world.put(letter("busy"))
    world.bring_mail()
    world.drive()
    world.put(letter("mailed"))
    world.put(addition("add"))
    for _ in range(2):  # the second came while the inbox was read
        world.bring_mail()
    (attempt,) = world.running
    attempt.has_row = True
    world.end_attempt(attempt, "completed")
    by_hand = world.tell(letter("by hand"))
    assert world.store() is not None
    before = [item.event for item in run.incoming.in_commit]
    assert len(before) == 4
    world.drive()
    operation = world.queue[0].operation
    assert isinstance(operation, CommitTask)
    assert len(operation.attempts) == 1
    assert operation.consumed == (2, 3)
    effects = world.store(how)
    assert effects is not None
    assert run.state is UNREAD
    assert run.refusals == (1 if how == "taken" else 8)
    assert run.incoming.in_commit == ()
    assert [item.event for item in run.incoming.waiting] == before
    assert run.ended == operation.attempts
    assert world.answers[by_hand] == []
    # What may have taken place did something to others perhaps.
    assert effects.rare.look_around == (how == "unknown")
    world.read()
    world.drive_on()
    again = world.queue[0].operation
    assert isinstance(again, CommitTask)
    assert (again.consumed, again.attempts) == (operation.consumed, operation.attempts)
    world.store()
    assert world.answers[by_hand] == [True]
    assert (len(world.inbox), len(run.ended), run.refusals) == (0, 0, 0)


def test_what_was_committed_though_nobody_heard_is_taken_once(
    world: RunWorld,
) -> None:
    run = world.at_rest()
    world.put(letter("mailed", "act"))
    world.bring_mail()
    world.drive()
    token = world.tell(letter("by hand"))
    world.store()
    world.drive()
    world.tell(addition("add"))
    world.store("answer lost")
    assert (run.state, world.answers[token]) == (UNREAD, [])
    world.read()
    world.drive()
    assert world.answers[token] == [True]
    assert world.keys() == ["mailed", "by hand"]
    while world.queue or world.task:
        world.store()
        world.drive()
    assert world.keys() == ["mailed", "by hand", "add"]


def test_a_turn_that_no_database_takes_is_not_tried_again(world: RunWorld) -> None:
    run = bring(world, COMMITTING)
    (token,) = world.answers
    refused = world.store("too large")
    assert refused is not None
    assert refused.rare.read_run
    world.read()
    assert run.state is PARKING
    effects = world.store()
    assert effects is not None
    assert (run.state, effects.left) == (GONE, Left.PARKED)
    assert world.answers[token] == [False]  # it waits in the inbox from now on
    assert world.record is not None
    assert "PayloadTooLargeError" in (world.record.stuck or "")
    world.put(letter("first"))
    world.enter()
    world.drive_on()
    world.store()
    assert world.keys() == ["first"]
    assert world.record.stuck is None


def test_an_error_that_nobody_expected_is_raised(world: RunWorld) -> None:
    bring(world, COMMITTING)
    with pytest.raises(ValueError, match="strange"):
        world.store("strange")
    assert world.run is None
    assert next(iter(world.answers.values())) == [False]


@pytest.mark.parametrize(
    ("how", "left"), [("taken", Left.PARKED), ("lease lost", Left.LEASE_LOST)]
)
def test_a_run_that_could_not_be_parked_leaves_all_the_same(
    world: RunWorld, how: str, left: Left
) -> None:
    run = bring(world, PARKING)
    effects = world.store(how)
    assert effects is not None
    assert (run.state, effects.left) == (GONE, left)
    assert effects.rare.refused is not None


def test_a_run_is_parked_with_nothing_under_way(world: RunWorld) -> None:
    run = bring(world, PARKING)
    effects = world.store()
    assert effects is not None
    assert (run.state, effects.left) == (GONE, Left.PARKED)
    assert world.record is not None
    assert (world.record.is_active, world.record.wake_at) == (False, None)
    assert world.keys() == ["first", "bug"]
    obeyer.BROKEN[0] = False
    world.enter()
    world.drive_on()
    world.store()
    assert world.record.stuck is None
    assert world.run is not None
    assert world.run.state is AT_REST


# --- closed and taken -----------------------------------------------------------------


@pytest.mark.parametrize("state", LIVE, ids=lambda state: state.value)
@pytest.mark.parametrize("how", ["closed", "leave", "lease lost"])
def test_whoever_waits_for_a_run_that_leaves_must_ask_the_store(
    world: RunWorld, state: State, how: str
) -> None:
    run = bring(world, state)
    world.harms = False
    run.questions = ((99, "question"),)
    held = inputs.Told(letter("held"), ("held", 1))
    world.sent["held"] = held.event
    world.answers["held", 1] = []
    run.incoming.held = (held,)
    given: Any = inputs.Leave()
    if how == "closed":
        given = inputs.ClosedElsewhere()
    effects = world.feed(given)
    assert run.state is GONE
    assert effects.left is (Left.CLOSED_ELSEWHERE if how == "closed" else Left.DROPPED)
    assert effects.drive is None
    assert world.looks["question"] == 1
    while world.queue:
        world.store("lease lost" if how == "lease lost" else "ok")
    told = [answers for token, answers in world.answers.items() if token[0] != "bug"]
    assert [False] in told
    assert all(len(answers) == 1 for answers in world.answers.values())
    # Whatever still comes for it is answered, or changes nothing.
    again = world.feed(inputs.Told(letter("late"), None), run)
    assert again.tell == ()
    assert world.feed(inputs.Asked("late"), run).rare.unanswered == ["late"]
    for late in (inputs.MailCame(), inputs.MailRead([]), inputs.Due(), inputs.Harmed()):
        assert world.feed(late, run).left is None
    assert run.state is GONE


@pytest.mark.parametrize("state", [COMMITTING, UNREAD, REPLAYING, AT_REST, DRIVING])
def test_a_row_of_an_attempt_may_tell_that_the_lease_is_lost(
    world: RunWorld, state: State
) -> None:
    world.at_rest()
    world.tell(letter("act", "act"))
    world.drive()
    world.store()
    (attempt,) = world.running
    world.end_attempt(attempt, "queued")
    recording = world.queue[-1].recording
    assert recording is not None
    world.queue.clear()
    run = world.run
    assert run is not None
    run.state = state
    error = LeaseLostError("gone", worker_id="w")
    effects = world.feed(inputs.Recorded(recording, error))
    assert (run.state, effects.left) == (GONE, Left.LEASE_LOST)
    assert effects.rare.refused is error


def test_a_run_that_another_has_is_dropped_when_it_is_read(world: RunWorld) -> None:
    run = bring(world, UNREAD)
    assert world.record is not None
    world.record = msgspec.structs.replace(world.record, owner="another")
    effects = world.read()
    assert effects is not None
    assert (run.state, effects.left) == (GONE, Left.DROPPED)


def test_a_run_that_is_closed_is_told_so_when_it_is_read(world: RunWorld) -> None:
    run = bring(world, UNREAD)
    assert world.record is not None
    status = RunStatus.TERMINATED
    world.record = msgspec.structs.replace(world.record, status=status)
    effects = world.read()
    assert effects is not None
    assert (run.state, effects.left) == (GONE, Left.CLOSED_ELSEWHERE)


# --- creation -------------------------------------------------------------------------


def test_a_run_is_created_with_its_first_turn(world: RunWorld) -> None:
    run = world.start(letter("first", "act"))
    world.store()
    (creation,) = world.creations
    assert (creation.creator, creation.has_ended) == ("creator", False)
    assert (run.state, len(world.running)) == (AT_REST, 1)
    assert world.record is not None
    assert world.record.is_active


def test_a_run_that_ends_in_its_first_turn_is_created_closed(world: RunWorld) -> None:
    run = world.start(letter("last", "end"))
    effects = world.store()
    assert effects is not None
    assert world.creations[0].has_ended
    assert (run.state, effects.left) == (GONE, Left.CLOSED)
    assert effects.terminal is not None
    assert world.record is not None
    assert world.record.status is RunStatus.COMPLETED
    assert (world.record.owner, world.record.wake_at) == (None, None)


def test_a_start_that_found_another_run_lets_its_own_go(world: RunWorld) -> None:
    run = world.start()
    token = world.tell(letter("early"))
    world.queue.clear()
    effects = world.feed(inputs.Settled(Started("other", created=False)))
    assert (run.state, effects.left) == (GONE, Left.DROPPED)
    assert world.creations[0].outcome.run_id == "other"
    assert world.answers[token] == [False]


@pytest.mark.parametrize(
    "error",
    [
        TAKEN,
        DatabaseUnavailableError("gone"),
        CommitUnknownError("unknown"),
        LeaseLostError("lost"),
    ],
    ids=lambda error: error.code,
)
def test_a_start_that_was_refused_says_why(
    world: RunWorld, error: BaseException
) -> None:
    run = world.start()
    token = world.tell(letter("early"))
    world.queue.clear()
    effects = world.feed(inputs.Refused(error))
    assert (run.state, effects.left) == (GONE, Left.DROPPED)
    assert world.creations[0].outcome is error
    assert world.answers[token] == [False]
    assert effects.rare.look_around == isinstance(error, CommitUnknownError)


@pytest.mark.parametrize("do", ["", "end"])
def test_a_run_that_was_created_after_it_left_is_there_all_the_same(
    world: RunWorld, do: str
) -> None:
    run = world.start(letter("first", do))
    world.leave()
    assert world.creations == []
    effects = world.store()
    assert effects is not None
    assert world.creations[0].outcome.created
    assert effects.rare.closed == (["run"] if do else ())
    assert run.state is GONE
    assert (world.enter() is None) == bool(do)


# --- children and deliveries ----------------------------------------------------------


def parent(world: RunWorld) -> tuple[LiveRun, Any]:
    run = world.at_rest()
    world.tell(letter("child", "child"))
    world.drive()
    assert world.children == []
    world.store()
    (event,) = world.children
    assert world.record is not None
    assert world.record.is_active
    return run, event


def has_ended(event: Any) -> ChildWorkflowExecutionCompleted:
    return ChildWorkflowExecutionCompleted(
        event.event_id, "kid", "kid run", "machine.Obeyer", payload(1)
    )


def kinds_since(world: RunWorld, event: Any) -> list[str]:
    """The kinds of what the run was told of a child."""
    kinds = (
        ChildWorkflowExecutionStarted,
        ChildWorkflowExecutionCompleted,
        StartChildWorkflowExecutionFailed,
    )
    return [
        type(e.attributes).__name__
        for e in world.events()
        if isinstance(e.attributes, kinds)
    ]


@pytest.mark.parametrize("is_mail_first", [False, True])
def test_a_childs_start_is_seen_before_its_end(
    world: RunWorld, is_mail_first: bool
) -> None:
    run, event = parent(world)
    answered = inputs.ChildAnswered(event, Started("kid run", created=True))
    world.put(letter("busy"))
    world.bring_mail()
    world.drive()
    if not is_mail_first:
        world.feed(answered)
    world.write_mail("child", "child:kid run", encode_message(has_ended(event)))
    world.feed(inputs.MailCame())
    world.bring_mail()
    if is_mail_first:
        world.feed(answered)
    world.store()
    world.drive()
    world.store()
    assert kinds_since(world, event) == [
        "ChildWorkflowExecutionStarted",
        "ChildWorkflowExecutionCompleted",
    ]
    assert (run.asked, world.inbox) == (frozenset(), {})
    assert world.record is not None
    assert not world.record.is_active


def test_a_child_that_ends_at_once_is_seen_in_one_turn(world: RunWorld) -> None:
    run, event = parent(world)
    started = Started("kid run", created=True)
    world.feed(inputs.ChildAnswered(event, started, has_ended=True))
    assert run.state is AT_REST
    world.write_mail("child", "child:kid run", encode_message(has_ended(event)))
    world.feed(inputs.ChildEnded(has_ended(event), "child:kid run"))
    world.drive()
    world.store()
    assert len(kinds_since(world, event)) == 2
    assert world.inbox == {}


def test_a_child_that_could_not_be_started_is_told_to_the_code(world: RunWorld) -> None:
    run, event = parent(world)
    world.feed(inputs.ChildAnswered(event, TAKEN))
    world.drive()
    world.store()
    assert kinds_since(world, event) == ["StartChildWorkflowExecutionFailed"]
    assert run.asked == frozenset()


def test_a_child_whose_start_is_unknown_is_asked_for_again(world: RunWorld) -> None:
    run, event = parent(world)
    world.children.clear()
    world.feed(inputs.ChildAnswered(event, CommitUnknownError("unknown")))
    assert run.state is UNREAD
    world.read()
    world.drive()
    assert [again.event_id for again in world.children] == [event.event_id]
    assert run.asked == {event.event_id}


def test_what_a_turn_sent_is_answered_to_the_next(world: RunWorld) -> None:
    run = world.at_rest()
    world.tell(letter("send", "send"))
    world.drive()
    world.store()
    assert run.state is DRIVING
    world.drive()
    world.store()
    kinds = [type(event.attributes) for event in world.events()]
    assert kinds.count(ExternalWorkflowExecutionSignaled) == 1


def test_what_was_sent_is_sent_again_if_its_answer_is_nowhere(world: RunWorld) -> None:
    world.at_rest()
    world.tell(letter("send", "send"))
    world.drive()
    world.store("answer lost")
    world.read()
    world.drive()
    (event,) = world.deliveries
    assert world.run is not None
    assert world.run.asked == {event.event_id}
    world.feed(inputs.Delivered(event, "other run"))
    assert world.run.asked == frozenset()
    world.drive_on()
    world.store()
    kinds = [type(event.attributes) for event in world.events()]
    assert kinds.count(ExternalWorkflowExecutionSignaled) == 1


# --- time -----------------------------------------------------------------------------


def test_a_run_whose_time_is_up_is_timed_out(world: RunWorld) -> None:
    run = world.start(run_timeout=5 * SECOND)
    world.store()
    assert world.record is not None
    assert world.record.wake_at == world.now + 5 * SECOND
    world.pass_time(5 * SECOND)
    assert run.state is DRIVING
    world.drive()
    world.store("taken")
    # Whether its time is up is looked at again.
    assert run.incoming.waiting == []
    world.read()
    world.drive_on()
    world.store()
    assert isinstance(world.events()[-1].attributes, WorkflowExecutionTimedOut)
    assert world.record.status is RunStatus.TIMED_OUT


def test_the_row_names_the_earliest_timer(world: RunWorld) -> None:
    world.at_rest()
    world.tell(letter("sleep", "sleep"))
    world.drive()
    effects = world.store()
    assert effects is not None
    assert effects.wake_at == world.now + 2 * SECOND
    assert world.record is not None
    assert (world.record.is_active, world.record.wake_at) == (
        False,
        world.now + 2 * SECOND,
    )
    world.pass_time(2 * SECOND)
    world.drive()
    world.store()
    assert (world.record.is_active, world.record.wake_at) == (False, None)
