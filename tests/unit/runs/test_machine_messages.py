"""What becomes of messages and questions, whatever their run is doing."""

from __future__ import annotations

import pytest

from durable.core.history.events import WorkflowExecutionUpdateAccepted
from durable.core.history.payload import Failure
from durable.core.messages import encode_message
from durable.runs import inputs
from durable.runs.states import AT_REST, COMMITTING, DRIVING, REPLAYING, UNREAD, State
from durable.store.records import CommitTask, RunStatus
from tests.obeyer import addition, letter
from tests.run_world import RunWorld


@pytest.fixture
def world() -> RunWorld:
    return RunWorld()


def at(world: RunWorld) -> State:
    assert world.run is not None
    return world.run.state


def written(world: RunWorld) -> CommitTask:
    operation = world.queue[-1].operation
    assert isinstance(operation, CommitTask)
    return operation


def test_a_direct_message_waits_while_the_inbox_is_read(world: RunWorld) -> None:
    run = world.at_rest()
    world.put(letter("mailed"))
    by_hand = world.tell(letter("by hand"))
    assert at(world) is AT_REST
    assert run.incoming.waiting == []
    world.bring_mail()
    world.drive()
    assert written(world).consumed == (1,)
    assert written(world).sees_all_mail
    world.store()
    assert world.keys() == ["mailed", "by hand"]
    assert world.answers[by_hand] == [True]


def test_what_is_told_while_a_commit_is_on_its_way_goes_into_the_next(
    world: RunWorld,
) -> None:
    world.at_rest()
    first = world.tell(letter("first"))
    world.drive()
    second = world.tell(letter("second"))
    world.store()
    assert world.answers == {first: [True], second: []}
    assert at(world) is DRIVING
    world.drive()
    world.store()
    assert world.answers[second] == [True]


# --- the same request twice -----------------------------------------------------------


def test_a_request_that_waits_is_taken_once_and_both_senders_hear(
    world: RunWorld,
) -> None:
    world.at_rest()
    world.tell(letter("other"))
    world.drive()
    tokens = [world.tell(letter("same")) for _ in range(2)]
    world.store()
    world.drive()
    assert [world.answers[token] for token in tokens] == [[], []]
    world.store()
    assert [world.answers[token] for token in tokens] == [[True], [True]]
    assert world.keys() == ["other", "same"]


def test_a_request_in_a_commit_is_told_only_once_that_has_ended(
    world: RunWorld,
) -> None:
    world.at_rest()
    first = world.tell(letter("same"))
    world.drive()
    again = world.tell(letter("same"))
    assert world.answers[again] == []
    world.store()
    assert world.answers == {first: [True], again: [True]}
    assert world.keys() == ["same"]


def test_a_request_that_is_recorded_is_told_at_once(world: RunWorld) -> None:
    world.at_rest()
    world.tell(letter("same"))
    world.drive()
    world.store()
    again = world.tell(letter("same"))
    assert world.answers[again] == [True]
    assert at(world) is AT_REST


def test_a_request_that_the_inbox_brings_again_is_deleted_there(
    world: RunWorld,
) -> None:
    world.at_rest()
    world.tell(letter("same"))
    world.drive()
    world.store()
    world.put(letter("same"))
    world.bring_mail()
    assert written(world).consumed == (1,)
    assert written(world).rows == []
    world.store()
    assert (at(world), world.inbox, world.keys()) == (AT_REST, {}, ["same"])


@pytest.mark.parametrize("is_in_commit", [False, True])
def test_a_message_that_came_both_ways_stays_in_the_inbox_until_it_is_recorded(
    world: RunWorld, is_in_commit: bool
) -> None:
    """A worker that drains does not record what was handed in: the inbox has it."""
    world.at_rest()
    world.tell(letter("other"))
    world.drive()
    token = world.tell(letter("both"))
    if is_in_commit:
        world.store()
        world.drive()
    world.put(letter("both"))
    world.bring_mail()
    world.terms.is_draining = True
    world.store("taken")
    world.read()
    world.drive()
    world.store()
    assert world.answers[token] == [is_committed := world.is_committed("both")]
    assert is_committed or [m.request_id for m in world.inbox.values()] == ["both"]


# --- updates --------------------------------------------------------------------------


def test_an_update_that_only_a_commit_on_its_way_knows_waits_for_that(
    world: RunWorld,
) -> None:
    world.at_rest()
    world.tell(addition("add"))
    world.drive()
    world.tell(addition("add"))
    assert world.news == []
    world.store()
    accepted, answered, again = world.news
    assert isinstance(accepted[1], WorkflowExecutionUpdateAccepted)
    assert answered == again


def test_an_update_is_driven_again_if_the_commit_that_knew_it_was_refused(
    world: RunWorld,
) -> None:
    run = world.at_rest()
    world.tell(addition("add"))
    world.drive()
    world.put(addition("add"))
    world.bring_mail()
    world.store("taken")
    assert run.incoming.stale == ()
    world.read()
    world.drive()
    assert run.incoming.updates == {"add": 1}
    world.drive()
    assert written(world).consumed == (1,)
    world.store()
    assert (world.keys(), world.inbox) == (["add"], {})


def test_a_refused_update_of_the_inbox_leaves_a_reply_and_no_event(
    world: RunWorld,
) -> None:
    world.at_rest()
    world.put(addition("no", -1))
    world.bring_mail()
    world.drive()
    assert written(world).rows == []
    world.store()
    assert list(world.replies) == ["update:no"]
    assert world.inbox == {}
    (said,) = world.news
    assert isinstance(said[1], Failure)


def test_a_refused_update_by_hand_costs_no_commit(world: RunWorld) -> None:
    world.at_rest()
    world.tell(addition("no", -1))
    world.drive()
    assert (at(world), list(world.queue)) == (AT_REST, [])
    assert [key for key, _ in world.news] == ["no"]


# --- mail that comes first ------------------------------------------------------------


def test_messages_that_were_there_first_are_seen_before_a_direct_one(
    world: RunWorld,
) -> None:
    run = world.at_rest()
    token = world.tell(letter("by hand"))
    world.drive()
    world.write_mail("signal", "mailed", encode_message(letter("mailed")))
    effects = world.store()
    assert effects is not None
    assert effects.rare.read_run
    assert at(world) is UNREAD
    assert world.answers[token] == []
    world.read()
    assert effects.rare.refused is None
    assert at(world) is REPLAYING
    world.drive()
    world.drive()
    world.store()
    assert world.keys() == ["mailed", "by hand"]
    assert world.answers[token] == [True]
    assert run.refusals == 0


def test_a_run_does_not_end_before_its_mail_was_seen(world: RunWorld) -> None:
    world.at_rest()
    world.tell(letter("last", "end"))
    world.drive()
    world.write_mail("signal", "mailed", encode_message(letter("mailed")))
    world.store()
    world.read()
    world.drive_on()
    world.store()
    assert world.keys() == ["mailed", "last"]
    assert world.record is not None
    assert world.record.status is RunStatus.COMPLETED


def test_an_unreadable_message_parks_the_run_once_it_is_read(world: RunWorld) -> None:
    world.at_rest()
    world.write_mail("no such kind", "x", "{}")
    world.feed(inputs.MailCame())
    world.bring_mail()
    assert at(world) is UNREAD
    world.read()
    assert at(world) is State.PARKING
    world.store()
    assert world.record is not None
    assert "no such kind" in (world.record.stuck or "")
    assert world.inbox


# --- a worker that drains -------------------------------------------------------------


def test_who_drains_records_what_the_inbox_brought_and_leaves_what_was_handed_in(
    world: RunWorld,
) -> None:
    world.at_rest()
    world.tell(letter("first"))
    world.drive()
    by_hand = world.tell(letter("by hand"))
    world.tell(addition("add"))
    world.terms.is_draining = True
    world.put(letter("mailed"))
    world.bring_mail()
    world.store("taken")
    world.read()
    world.drive()
    assert at(world) is COMMITTING
    assert written(world).is_active
    world.store()
    assert world.answers[by_hand] == [False]
    assert ("add", None) in world.news
    assert world.keys() == ["mailed"]
    assert world.run is not None
    assert len(world.run.replayer.unprocessed) == 1
    held = {message.request_id for message in world.inbox.values()}
    assert held == {"first", "by hand", "update:add"}


# --- questions ------------------------------------------------------------------------


def test_a_question_waits_for_what_was_there_before_it(world: RunWorld) -> None:
    world.at_rest()
    world.feed(inputs.Asked("at once"))
    world.tell(letter("first"))
    world.feed(inputs.Asked("later"))
    assert dict(world.looks) == {"at once": 1}
    world.drive()
    assert "later" not in world.looks
    world.store()
    assert world.looks["later"] == 1


def test_a_question_is_not_put_off_by_what_came_after_it(world: RunWorld) -> None:
    world.at_rest()
    world.tell(letter("first"))
    world.drive()
    world.feed(inputs.Asked("question"))
    world.tell(letter("second"))
    world.store()
    assert world.looks["question"] == 1
    assert at(world) is DRIVING


def test_who_harms_a_run_has_it_read_again_and_the_others_still_look(
    world: RunWorld,
) -> None:
    world.at_rest()
    world.tell(letter("first"))
    world.drive()
    for name in ("harms", "later"):
        world.feed(inputs.Asked(name))
    token = world.tell(letter("second"))
    world.harms = True
    world.store()
    assert at(world) is UNREAD
    assert dict(world.looks) == {"harms": 1}
    world.read()
    world.drive_on()
    world.store()
    assert world.looks["later"] == 1
    assert world.answers[token] == [True]
    assert world.keys() == ["first", "second"]


def test_a_message_in_a_turn_that_was_not_driven_is_given_back(
    world: RunWorld,
) -> None:
    world.at_rest()
    token = world.tell(letter("signal"))
    assert at(world) is DRIVING
    world.leave()
    assert world.answers[token] == [False]


def test_an_update_in_a_turn_that_was_not_driven_is_given_back(
    world: RunWorld,
) -> None:
    world.at_rest()
    world.tell(addition("add"))
    assert at(world) is DRIVING
    world.leave()
    assert world.news == [("add", None)]
