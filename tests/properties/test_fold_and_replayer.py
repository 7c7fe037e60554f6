"""Two opinions on one history: the fold's and the replay machine's.

A town that does what signals tell it meets a random outside world. After every workflow
task its history is folded: no rule is broken, and what is open is the same for both.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import (
    Signal,
    activity,
    checkpoint,
    continue_as_new,
    external,
    run,
    set_state,
    signal,
    sleep,
    update,
    workflow,
)
from durable.core.folding.fold import fold
from durable.core.history.events import (
    ActivityTaskCompleted,
    Attributes,
    ChildWorkflowExecutionCanceled,
    ChildWorkflowExecutionCompleted,
    ChildWorkflowExecutionFailed,
    ChildWorkflowExecutionStarted,
    ExternalWorkflowExecutionCancelRequested,
    ExternalWorkflowExecutionSignaled,
    HistoryEvent,
    RequestCancelExternalWorkflowExecutionFailed,
    RequestCancelExternalWorkflowExecutionInitiated,
    SignalExternalWorkflowExecutionFailed,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionSignaled,
)
from durable.core.history.payload import NULL, Failure, Payload
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import UpdateRequest, WorkflowTask
from durable.testing.driver import Driver
from tests.sizes import examples

SECOND = 1_000_000
many = settings(max_examples=examples(150))
orders = Signal("orders", str)
ORDERS = ("act", "nap", "child", "lose", "send", "stop", "state", "again", "end")


@activity(name="fold_work", retry=None)
async def work() -> None: ...


@workflow(name="fold_house")
async def house() -> None: ...


@workflow(name="fold_town", checkpoint_every=6)
class Town:
    def __init__(self) -> None:
        self.busy: set[asyncio.Task[Any]] = set()

    @run
    async def live(self, done: int) -> int:
        while True:
            checkpoint(done)
            try:
                order = await orders.receive()
            except asyncio.CancelledError:
                order = "state"
            done += 1
            if order == "end":
                return done
            if order == "again":
                continue_as_new(done)
            if order == "state":
                set_state(done)
            else:
                self.begin(order)

    def begin(self, order: str) -> None:
        doings: dict[str, Callable[[], Any]] = {
            "act": work,
            "nap": lambda: sleep(5),
            "child": house,
            "lose": self.lose_child,
            "send": lambda: external("other").signal("go"),
            "stop": lambda: external("other").cancel(),
        }
        task = asyncio.get_running_loop().create_task(self.do(doings[order]))
        self.busy.add(task)
        task.add_done_callback(self.busy.discard)

    async def do(self, doing: Callable[[], Any]) -> None:
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await doing()

    async def lose_child(self) -> None:
        async with asyncio.timeout(5):
            await house()

    @signal
    def count(self, number: int) -> None: ...

    @update
    async def wait(self, seconds: float) -> float:
        await sleep(seconds)
        return seconds

    @wait.validator
    def check(self, seconds: float) -> None:
        if seconds > 8:
            raise ValueError("too long")


# --- the outside world ----------------------------------------------------------------


class World:
    """One run, and everything that may happen to it."""

    def __init__(self) -> None:
        self.driver = Driver(Town.live(0))
        self.history: list[HistoryEvent] = []
        self.replayer = self.new_replayer()
        self.now = self.driver.clock.now()
        self.number = 0
        self.turn([self.driver.started()])

    def new_replayer(self) -> Replayer:
        definition = Town.live
        return Replayer(lambda _: definition)

    def turn(self, inputs: list[Any]) -> None:
        task = WorkflowTask(self.now, tuple(inputs))
        completion = self.replayer.process(task)
        assert completion.failure is None, completion.failure
        self.history += completion.events

    def crash(self) -> None:
        """Go on with what the store would load."""
        self.replayer.tear_down()
        newest = fold(self.history).checkpoint_event_id or 2
        loaded = [self.history[0], *self.history[newest - 1 :]]
        self.replayer = self.new_replayer()
        task = WorkflowTask(self.now, (), loaded, is_replay_only=True)
        assert self.replayer.process(task).failure is None

    def do(self, step: str, choice: int) -> None:
        if step == "crash":
            self.crash()
        elif step == "wait":
            self.now += 5 * SECOND
            if self.replayer.has_due_timer(self.now):
                self.turn([])
        else:
            event = self.input_of(step, choice)
            if event is not None:
                self.turn([event])

    def input_of(self, step: str, choice: int) -> Any:
        self.number += 1
        request_id = f"r{self.number}"
        replayer = self.replayer
        if step in ORDERS:
            value = Payload(msgspec.Raw(f'"{step}"'.encode()))
            return WorkflowExecutionSignaled("orders", (value,), request_id)
        if step == "garbled":
            name = ("orders", "count")[choice % 2]
            value = Payload(msgspec.Raw(b"[1]"))
            return WorkflowExecutionSignaled(name, (value,), request_id)
        if step == "update":
            seconds = Payload(msgspec.Raw(str(choice).encode()))
            known = f"u{choice % 4}"
            fresh = not replayer.knows_update(known)
            return UpdateRequest(known, "wait", (seconds,)) if fresh else None
        if step == "cancel":
            return WorkflowExecutionCancelRequested("", request_id)
        open_things: dict[str, Callable[[], list[Any]]] = {
            "activity": replayer.pending_activities,
            "family": replayer.pending_children,
            "answer": replayer.pending_deliveries,
        }
        pending = open_things[step]()
        if not pending:
            return None
        return self.outcome_of(pending[choice % len(pending)], choice)

    def outcome_of(self, machine: Any, choice: int) -> Attributes:
        if hasattr(machine, "activity_id"):
            return ActivityTaskCompleted(machine.scheduled_event_id, NULL, 1, self.now)
        number = machine.initiated_event_id
        name = getattr(machine, "sent", machine).workflow_id
        if hasattr(machine, "target"):
            about = (number, name, "run-2", "fold_house")
            if machine.run_id is None and choice % 2:
                return ChildWorkflowExecutionStarted(*about)
            ends: list[Attributes] = [
                ChildWorkflowExecutionCompleted(*about, NULL),
                ChildWorkflowExecutionFailed(*about, Failure(message="no")),
                ChildWorkflowExecutionCanceled(*about),
            ]
            return ends[choice % 3]
        stops = isinstance(
            machine.initiated, RequestCancelExternalWorkflowExecutionInitiated
        )
        if choice % 2:
            failed: Any = (
                RequestCancelExternalWorkflowExecutionFailed
                if stops
                else SignalExternalWorkflowExecutionFailed
            )
            answer: Attributes = failed(number, name, "workflow_not_found")
            return answer
        reached: Any = (
            ExternalWorkflowExecutionCancelRequested
            if stops
            else ExternalWorkflowExecutionSignaled
        )
        answer = reached(number, name, "run-3")
        return answer


steps = st.lists(
    st.tuples(
        st.sampled_from(
            (
                *ORDERS[:-2],
                *("garbled", "update", "cancel", "wait", "crash"),
                *("activity", "family", "family", "answer"),
                *ORDERS,
            )
        ),
        st.integers(0, 9),
    ),
    max_size=60,
)


# --- the two opinions -----------------------------------------------------------------


def compare(world: World) -> None:
    state, replayer = fold(world.history), world.replayer
    assert state.violations == ()
    assert state.is_closed is replayer.is_closed
    if state.is_closed:
        return
    assert [child.initiated_event_id for child in state.pending_children] == [
        machine.initiated_event_id for machine in replayer.pending_children()
    ]
    assert [child.run_id for child in state.pending_children] == [
        machine.run_id for machine in replayer.pending_children()
    ]
    assert [one.initiated_event_id for one in state.pending_deliveries] == [
        machine.initiated_event_id for machine in replayer.pending_deliveries()
    ]
    assert [one.scheduled_event_id for one in state.pending_activities] == [
        machine.scheduled_event_id for machine in replayer.pending_activities()
    ]
    assert {one.update_id for one in state.pending_updates} == set(
        replayer.open_updates()
    )
    assert state.next_due_at() == replayer.next_timer_at()


@pytest.mark.slow
@many
@given(steps)
def test_fold_agrees_with_the_replay_machine(plan: list[tuple[str, int]]) -> None:
    world = World()
    try:
        for step, choice in plan:
            if world.replayer.is_closed:
                break
            world.do(step, choice)
            compare(world)
    finally:
        world.replayer.tear_down()


def test_town_takes_checkpoints_and_reads_what_it_can() -> None:
    """The plan that the search above must be able to find."""
    world = World()
    for step, choice in [
        ("state", 0),
        ("garbled", 0),
        ("garbled", 1),
        *[("state", 0)] * 4,
        ("crash", 0),
        ("update", 3),
        ("wait", 0),
        ("child", 0),
        ("family", 1),
        ("again", 0),
    ]:
        world.do(step, choice)
        compare(world)
    state = fold(world.history)
    world.replayer.tear_down()

    assert state.status == "continued_as_new"
    assert state.counts["CheckpointRecorded"] >= 1
    assert [letter.signal_name for letter in state.dead_letters] == ["orders", "count"]
    assert state.signals == {"orders": 8, "count": 1}
