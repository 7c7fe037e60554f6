"""In which order a run takes what the inbox brings and what this process hands in."""

from typing import Any

import msgspec
import pytest

from durable import Signal, start_child, workflow
from durable.core.folding.fold import fold
from durable.core.history.events import (
    Attributes,
    ChildWorkflowExecutionCompleted,
    ChildWorkflowExecutionStarted,
    WorkflowExecutionSignaled,
)
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import TaskInput
from durable.runs import inputs
from durable.runs.incoming import Item
from durable.runs.live_run import LiveRun, Terms
from durable.runs.messages import child_ended, take_child_start, take_mail
from durable.runs.states import COMMITTING
from durable.store.records import MessageRecord
from durable.testing import Driver

words = Signal("words", str)


@workflow(name="order.kid")
async def kid() -> int:
    return 1


@workflow(name="order.parent")
async def parent() -> int:
    child = await start_child(kid(), id="kid")
    await words.receive()
    return await child


class Parent:
    """A run in memory that waits for its child, and its mail."""

    def __init__(self) -> None:
        self.driver = Driver(parent())
        self.driver.start()
        (self.child,) = self.driver.children
        replayer = self.driver._replayer  # pyright: ignore[reportPrivateUsage]  # what a worker holds
        assert isinstance(replayer, Replayer)
        unused: Any = None
        terms = Terms("w", 1, unused, unused, unused, unused)
        started = self.driver.started()
        self.run = LiveRun(started.run_id, started, replayer, terms, COMMITTING)
        self.started = self.child.started()
        assert isinstance(self.started, ChildWorkflowExecutionStarted)

    def mail(self, sequence: int, kind: str, body: Attributes) -> MessageRecord:
        data: Any = body
        if kind == "child":
            data = {"type": type(body).__name__, "event": body}
        return MessageRecord(
            sequence=sequence,
            run_id=self.run.run_id,
            kind=kind,
            request_id=f"mail-{sequence}",
            data=msgspec.json.encode(data).decode(),
            created_at=0,
        )

    def ended(self) -> Attributes:
        ended = self.child.completed(1)
        assert isinstance(ended, ChildWorkflowExecutionCompleted)
        return msgspec.structs.replace(ended, run_id=self.started.run_id)

    def waiting(self) -> list[TaskInput]:
        return [item.event for item in self.run.incoming.waiting]

    def take_all(self) -> list[str]:
        """Drive the turn; its history keeps its rules."""
        taken = self.waiting()
        self.driver.turn(*taken)
        assert fold(self.driver.history).violations == ()
        return [type(event).__name__ for event in taken]


@pytest.fixture
def family() -> Parent:
    return Parent()


def test_a_childs_start_comes_before_its_end_that_the_inbox_brings(
    family: Parent,
) -> None:
    family.run.incoming.add(Item(family.started))
    take_mail(family.run, [family.mail(1, "child", family.ended())])
    assert family.take_all() == [
        "ChildWorkflowExecutionStarted",
        "ChildWorkflowExecutionCompleted",
    ]


def test_a_childs_start_that_is_heard_of_late_comes_before_its_end(
    family: Parent,
) -> None:
    take_mail(family.run, [family.mail(1, "child", family.ended())])
    take_child_start(family.run, family.started, family.child.initiated_event_id)
    assert family.take_all() == [
        "ChildWorkflowExecutionStarted",
        "ChildWorkflowExecutionCompleted",
    ]


def test_a_childs_start_comes_before_its_end_that_this_process_saw(
    family: Parent,
) -> None:
    """A run taken over asks again for its child, which ends here before the answer."""
    child_ended(family.run, inputs.ChildEnded(family.ended(), "child"))
    take_child_start(family.run, family.started, family.child.initiated_event_id)
    assert family.take_all() == [
        "ChildWorkflowExecutionStarted",
        "ChildWorkflowExecutionCompleted",
    ]


def test_a_childs_start_is_not_heard_of_while_its_end_is_committed(
    family: Parent,
) -> None:
    child_ended(family.run, inputs.ChildEnded(family.ended(), "child"))
    family.run.incoming.take()
    take_child_start(family.run, family.started, family.child.initiated_event_id)
    assert family.waiting() == []


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_childs_start_is_not_recorded_behind_its_end(
    family: Parent, is_kept: bool
) -> None:
    if is_kept:  # by a worker that drains
        replayer = family.run.replayer
        kept = replayer.unprocessed_events(family.driver.clock.now(), [family.ended()])
        replayer._unprocessed = kept  # pyright: ignore[reportPrivateUsage]  # as read again
    else:
        family.driver.turn(family.ended())
    take_child_start(family.run, family.started, family.child.initiated_event_id)
    assert family.waiting() == []


def test_messages_of_the_inbox_come_before_those_that_were_handed_in(
    family: Parent,
) -> None:
    handed_in, mailed = (
        WorkflowExecutionSignaled("words", words(text).input, request_id=text)
        for text in ("handed in", "mailed")
    )
    for event in (family.started, handed_in):
        family.run.incoming.add(Item(event))
    take_mail(family.run, [family.mail(1, "signal", mailed)])
    assert family.waiting() == [family.started, mailed, handed_in]
