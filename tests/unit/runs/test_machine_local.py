"""Turns that are about local activities alone: when they are written, and again."""

from __future__ import annotations

import pytest

from durable.core.history.events import ActivityTaskCompleted
from durable.core.messages import encode_message
from durable.runs import inputs
from durable.runs.states import COMMITTING
from durable.store.records import MessageKind
from tests.obeyer import letter
from tests.run_world import SECOND, RunWorld


@pytest.fixture
def world() -> RunWorld:
    """A world whose run has done two local activities that are not written."""
    world = RunWorld()
    world.at_rest()
    world.tell(letter("first", "local"))
    world.drive()
    world.store()
    for _ in range(2):
        world.end_attempt(world.running[0], "completed")
        world.drive()
    assert _completed(world) == 0
    return world


def _completed(world: RunWorld) -> int:
    kinds = [type(event.attributes) for event in world.events()]
    return kinds.count(ActivityTaskCompleted)


def test_a_message_that_comes_first_has_nothing_run_again(world: RunWorld) -> None:
    run = world.run
    assert run is not None
    mail = letter("mail")
    world.write_mail(MessageKind.SIGNAL.value, "mail", encode_message(mail))
    world.tell(letter("last", "end"))
    world.drive()
    world.store()  # which finds the message
    assert run.state is COMMITTING
    world.store()
    assert _completed(world) == 2
    assert world.is_open
    while world.queue or world.wants_run or world.task or world.wants_mail:
        world.store()
        world.read()
        world.bring_mail()
        world.drive()
    assert not world.is_open
    assert _completed(world) == 2
    assert world.keys() == ["first", "mail", "last"]


def test_what_is_not_local_is_written_at_once(world: RunWorld) -> None:
    run = world.run
    assert run is not None
    world.tell(letter("more", "act"))
    world.drive()
    local, normal = world.running[0], None
    world.end_attempt(local, "completed")
    world.store()  # and all before it; both outcomes are of the next turn then
    normal = world.running[-1]
    assert not normal.scheduled.settings.is_local
    world.drive()
    assert run.unwritten is not None
    first = world.running[0]
    if first is normal:
        first = world.running[1]
    world.feed(inputs.AttemptBeat(first, world.now))  # so that a write is on its way
    world.end_attempt(first, "completed")
    world.end_attempt(normal, "completed")
    world.store()
    world.drive()
    assert run.unwritten is None
    assert run.state is COMMITTING


@pytest.mark.parametrize("outcome", ["taken", "unknown", "answer lost"])
def test_a_refused_write_has_only_what_it_held_begun_again(
    world: RunWorld, outcome: str
) -> None:
    run = world.run
    assert run is not None
    third = world.running[0]
    world.tell(letter("last"))
    world.drive()
    assert run.state is COMMITTING
    world.store(outcome)
    assert third.is_over
    assert run.unwritten is None
    world.read()
    world.drive_on()
    while world.queue:
        world.store()
        world.drive_on()
    assert _completed(world) == (2 if outcome == "answer lost" else 1)
    assert world.keys() == ["first", "last"]


def test_what_needs_a_row_waits_until_its_activity_is_written(world: RunWorld) -> None:
    run = world.run
    assert run is not None
    attempt = world.running[0]
    world.end_attempt(attempt, "queued")
    assert run.state is COMMITTING
    assert world.attempt_rows == {}
    world.store()
    world.store()
    assert _completed(world) == 2
    assert [key[0] for key in world.attempt_rows] == [attempt.scheduled_event_id]


def test_a_moment_later_it_is_written_all_the_same(world: RunWorld) -> None:
    run = world.run
    assert run is not None
    world.pass_time(SECOND // 2)
    assert not world.queue
    world.pass_time(SECOND)
    assert run.state is COMMITTING
    world.store()
    assert _completed(world) == 2
    assert world.running


def test_a_worker_that_drains_records_what_has_come(world: RunWorld) -> None:
    world.terms.is_draining = True
    world.feed(inputs.Due())
    world.store()
    assert _completed(world) == 2
