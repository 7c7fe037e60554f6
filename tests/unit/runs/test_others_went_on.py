"""Others have gone on with a run that was at rest, and this worker remembers it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from durable.core.history.events import (
    ActivityTaskCompleted,
    ChildWorkflowExecutionCompleted,
    StartChildWorkflowExecutionInitiated,
)
from durable.runs import inputs
from durable.runs.live_run import LiveRun
from durable.runs.states import AT_REST, OVER, UNREAD
from durable.store.records import MessageKind, Started
from tests.obeyer import addition, letter, payload
from tests.run_world import SECOND, RunWorld


class Shared(RunWorld):
    """A world in which another worker may go on with the run."""

    def __init__(self) -> None:
        super().__init__()
        self.mine: LiveRun = self.at_rest()

    def settle(self) -> None:
        """Drive, read and commit until nothing is left to do."""
        self.drive_on()
        while self.queue or self.wants_run or self.wants_mail:
            self.read()
            self.bring_mail()
            self.store()
            self.drive_on()

    def elsewhere(self, do: Callable[[], None]) -> None:
        """Let another worker take the run, do something, and give it up."""
        assert self.mine.state is AT_REST
        assert self.record is not None
        assert self.record.owner is None
        self.run = None
        self.claim()
        self.enter()
        self.settle()
        do()
        self.settle()
        assert self.record.owner is None
        self.run = self.mine

    def claim(self) -> int:
        """Let a worker own the run, in a new epoch."""
        assert self.record is not None
        epoch = self.record.epoch + 1
        self.record = msgspec.structs.replace(
            self.record, owner=self.terms.worker_id, epoch=epoch
        )
        return epoch

    def obey(self, do: str) -> None:
        """Have the code do something."""
        self.tell(letter(f"{do} {len(self.answers)}", do))
        self.settle()


def test_an_attempt_that_others_have_begun_since_is_not_begun_again() -> None:
    world = Shared()
    world.obey("act")
    (first,) = world.running
    world.end_attempt(first, "failed")
    world.settle()
    (waiting,) = world.mine.backoffs.values()

    def act() -> None:
        world.pass_time(5 * SECOND)
        world.settle()
        (second,) = world.running
        assert second.attempt == 2
        world.end_attempt(second, "completed")

    world.elsewhere(act)
    world.feed(inputs.Claimed(world.claim()))
    world.feed(inputs.Due())  # while it is being read
    world.settle()

    assert waiting.phase is OVER
    assert [*world.running, *world.mine.attempts, *world.mine.backoffs] == []
    kinds = [type(event.attributes) for event in world.events()]
    assert kinds.count(ActivityTaskCompleted) == 1


def test_an_attempt_that_nobody_has_begun_goes_on_waiting() -> None:
    world = Shared()
    world.obey("act")
    world.end_attempt(world.running[0], "failed")
    world.settle()
    (waiting,) = world.mine.backoffs.values()

    world.elsewhere(lambda: world.obey("note"))
    world.feed(inputs.Claimed(world.claim()))
    world.settle()

    assert [*world.mine.backoffs.values()] == [waiting]


def test_mail_that_an_older_history_took_for_known_is_not_deleted_unseen() -> None:
    """As it was at rest, it knew of no child: the outcome of none it awaits is old."""
    world = Shared()

    def raise_a_child() -> None:
        world.obey("child")
        (asked,) = world.children
        started = Started("kid-run", created=True)
        world.feed(inputs.ChildAnswered(asked, started, has_ended=False))

    world.elsewhere(raise_a_child)
    (asked,) = world.children
    what = asked.attributes
    assert isinstance(what, StartChildWorkflowExecutionInitiated)
    ended = ChildWorkflowExecutionCompleted(
        asked.event_id, what.workflow_id, "kid-run", what.workflow_type, payload(1)
    )
    world.put(ended, MessageKind.CHILD.value)
    world.settle()

    assert ended in [event.attributes for event in world.events()]
    assert world.inbox == {}


def test_an_update_that_others_have_refused_is_not_asked_again() -> None:
    world = Shared()
    world.run = None
    world.put(addition("refused", -1))
    (message,) = world.inbox.values()
    world.run = world.mine

    world.elsewhere(lambda: None)
    assert world.inbox == {}
    assert len(world.replies) == 1
    world.feed(inputs.MailCame())
    world.wants_mail = False
    world.feed(inputs.MailRead([message]))  # it was read before that
    world.drive()
    world.store()
    world.read()
    world.drive()

    assert world.mine.state is AT_REST
    assert (world.mine.incoming.waiting, world.mine.incoming.updates) == ([], {})


# --- what is read while a row is on its way -------------------------------------------


class Leaving(Shared):
    """A world in which an attempt has been left to others, by a row on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.obey("act")
        self.obey("act")
        self.terms.has_others = True
        self.left, other = self.running
        self.end_attempt(other, "failed")
        self.end_attempt(self.left, "queued")
        self.store("taken")  # what was written of the other one: so it is read again
        assert self.mine.state is UNREAD
        assert len(self.queue) == 1


def test_an_attempt_whose_row_is_on_its_way_to_others_is_not_begun_here() -> None:
    world = Leaving()
    world.read()
    world.drive_on()
    assert world.running == []
    assert world.left.scheduled_event_id in world.mine.offered

    world.store()
    assert not world.mine.leaving


def test_what_was_asked_for_before_that_row_was_there_does_not_count() -> None:
    world = Leaving()
    world.store()
    world.read()
    world.drive_on()
    assert world.running == []
    assert not world.mine.attempts
    assert not world.mine.leaving


def test_an_attempt_whose_row_was_refused_is_found_by_the_next_read() -> None:
    world = Leaving()
    world.store("taken")
    world.settle()
    (following,) = world.running
    assert following.attempt == 2
    assert following.scheduled_event_id == world.left.scheduled_event_id
