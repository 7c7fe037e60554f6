"""State machines: how a run goes from state to state, and what it refuses."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

import msgspec
import pytest

from durable import IllegalTransition, StateMachine, activity, limits
from durable.api.messages.messages import UpdateCall
from durable.api.registry import REGISTRY
from durable.converter.failures import exception_of, failure_of
from durable.core.history.events import (
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskScheduled,
    CheckpointRecorded,
    StateTransitioned,
    TimerCanceled,
    TimerFired,
    TimerStarted,
    WorkflowExecutionCanceled,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.workflow_task import UpdateRequest
from durable.errors import (
    DefinitionError,
    InvalidCallError,
    InvalidOptionError,
    PayloadError,
    UndecodableError,
)
from tests.unit.api.one_run import START, OneRun

SECOND = 1_000_000


@dataclasses.dataclass
class Order:
    price: int
    log: list[str] = dataclasses.field(default_factory=list)


class Declined(Exception):
    """The bank says no."""


@activity(name="machine.refund")
async def refund(receipt: str) -> None: ...


@activity(name="machine.charge", compensate=refund)
async def charge(cents: int) -> str:
    return f"{cents}"


@activity(name="machine.pack")
async def pack(price: int) -> str:
    return f"{price}"


def covers(order: Order, cents: int) -> bool:
    order.log.append("a guard changes only its copy")
    return cents >= order.price


async def log_pending(order: Order) -> None:
    order.log.append("pending")


async def pack_it(order: Order) -> None:
    order.log.append(f"packed {await pack(order.price)}")


shop = StateMachine(
    "machine.shop", data=Order, initial="pending", final={"shipped", "cancelled"}
)
shop.add_state("pending", on_enter=log_pending)
shop.add_state("paid", on_enter=pack_it)


@shop.transition("pending", "paid", guard=covers)
async def pay(order: Order, cents: int, *, tip: int = 0) -> None:
    order.log.append("paying")
    order.log[-1] = f"paid {await charge(cents + tip)}"


@shop.transition({"pending", "paid"}, "cancelled", on="cancel")
def cancelling(order: Order) -> Order:
    return Order(0, [*order.log, "cancelled"])


shop.add_transition("paid", "shipped", on="ship")
shop.add_transition("pending", "pending", on="pay", guard=lambda order: False)


class MachineRun(OneRun):
    """A run of a machine, asked with every turn."""

    def complete(self, value: Any) -> None:
        scheduled = self.events(ActivityTaskScheduled)[-1]
        event_id = self.event_id(ActivityTaskScheduled)
        known = REGISTRY.get_activity(scheduled.activity_type)
        result = known.call_signature.encode_result(value)
        self.turn(ActivityTaskCompleted(event_id, result, attempt=1, started_at=0))

    def fail(self) -> None:
        failure = failure_of(Declined("no money"))
        event_id = self.event_id(ActivityTaskScheduled)
        self.turn(
            ActivityTaskFailed(
                event_id, failure, attempt=1, started_at=0, retry_state=""
            )
        )

    def fire(self, *calls: UpdateCall[str]) -> None:
        """Send events; their answers may come later."""
        for call in calls:
            update_id = f"update-{len(self.events(WorkflowExecutionUpdateAccepted))}"
            self.turn(UpdateRequest(update_id, call.name, call.input))

    def answers(self) -> list[str]:
        """What the senders have heard so far, in order."""
        found: list[str] = []
        for answer in self.events(WorkflowExecutionUpdateCompleted):
            if answer.failure is not None:
                found.append(str(exception_of(answer.failure)))
            else:
                assert answer.result is not None
                found.append(msgspec.json.decode(answer.result.json))
        return found

    def states(self) -> list[str]:
        """What was published, in order."""
        return [
            msgspec.json.decode(event.current.json)
            for event in self.events(StateTransitioned)
        ]

    def state(self, machine: StateMachine[Any] = shop) -> str:
        return self.query(machine.state())

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)
        while self.replayer.has_due_timer(self.now):
            self.turn()


def begin(price: int = 500) -> MachineRun:
    run = MachineRun(shop(Order(price)))
    run.start()
    return run


# --- events ---------------------------------------------------------------------------


def test_a_run_goes_from_state_to_state_and_ends_in_a_final_one() -> None:
    run = begin()
    assert run.state() == "pending"
    run.fire(pay(500, tip=5))
    assert run.answers() == []
    run.complete("r")
    assert run.state() == "paid"  # published while on_enter is still at work
    assert run.query(shop.data()) == Order(500, ["pending"])
    run.complete("box")
    assert run.answers() == ["paid"]
    run.fire(shop.fire("ship"))
    assert run.answers() == ["paid", "shipped"]
    assert run.result() == Order(500, ["pending", "paid r", "packed box"])
    assert run.states() == ["pending", "paid", "shipped"]
    (cents,) = run.events(ActivityTaskScheduled)[0].input
    assert msgspec.json.decode(cents.json) == 505


def test_an_illegal_event_is_refused_and_recorded_and_the_run_goes_on() -> None:
    run = begin()
    with pytest.raises(IllegalTransition) as caught:
        run.update(shop.fire("ship"))
    assert str(caught.value) == (
        "'machine.shop' is in state 'pending', where event 'ship' is not possible;"
        " possible there: 'cancel', 'pay'."
    )
    assert (caught.value.state, caught.value.event) == ("pending", "ship")
    assert len(run.events(WorkflowExecutionUpdateAccepted)) == 1
    (answer,) = run.events(WorkflowExecutionUpdateCompleted)
    assert answer.failure is not None
    assert answer.failure.type == "IllegalTransition"
    assert run.update(shop.fire("cancel"), "update-2") == "cancelled"
    assert run.result() == Order(0, ["pending", "cancelled"])


def test_an_event_that_no_guard_allows_is_refused_and_changes_nothing() -> None:
    run = begin()
    with pytest.raises(
        IllegalTransition, match="not possible there now: no guard says"
    ):
        run.update(pay(499))
    assert run.query(shop.data()) == Order(500, ["pending"])
    assert run.states() == ["pending"]


def test_events_wait_for_their_turn() -> None:
    run = begin()
    run.fire(pay(500), shop.fire("ship"), shop.fire("cancel"))
    run.complete("r")
    assert run.answers() == []
    run.complete("box")
    assert run.answers() == [
        "paid",
        "shipped",
        "'machine.shop' is in state 'shipped', which is final: event 'cancel' comes"
        " too late.",
    ]
    assert run.result() == Order(500, ["pending", "paid r", "packed box"])


def test_events_before_the_first_line_wait_for_the_initial_state() -> None:
    run = MachineRun(shop(Order(5)))
    call = shop.fire("cancel")
    run.start(UpdateRequest("u", call.name, call.input))
    assert run.result() == Order(0, ["pending", "cancelled"])


# --- a transition is whole or not at all ----------------------------------------------


def test_an_action_that_fails_leaves_everything_as_it_was() -> None:
    run = begin()
    run.fire(pay(500))
    run.fail()
    assert run.answers() == ["no money"]
    assert run.states() == ["pending"]
    assert run.query(shop.data()) == Order(500, ["pending"])
    run.fire(shop.fire("cancel"))
    assert run.result().log == ["pending", "cancelled"]


def test_an_on_enter_that_fails_undoes_the_action_and_goes_back() -> None:
    run = begin()
    run.fire(pay(500))
    run.complete("r")
    run.fail()  # packing fails
    assert run.state() == "paid"
    assert run.events(ActivityTaskScheduled)[-1].activity_type == "machine.refund"
    run.complete(None)
    assert run.answers() == ["no money"]
    assert run.states() == ["pending", "paid", "pending"]
    assert run.query(shop.data()) == Order(500, ["pending"])


def test_a_cancelled_run_undoes_the_transition_that_is_under_way() -> None:
    run = begin()
    run.fire(pay(500))
    run.complete("r")
    run.cancel()
    run.complete(None)
    assert isinstance(run.history[-1].attributes, WorkflowExecutionCanceled)
    assert run.states() == ["pending", "paid", "pending"]
    assert run.answers() == []


# --- transitions that no event asks for -----------------------------------------------


class Step(enum.StrEnum):
    NEW = "new"
    WORK = "work"
    REST = "rest"
    DONE = "done"


worker = StateMachine("machine.worker", data=int, initial=Step.NEW, final=Step.DONE)
worker.add_state(Step.REST)
worker.add_state(Step.WORK, on_enter=lambda left: left - 1)
worker.add_transition(Step.NEW, Step.WORK)
worker.add_transition(Step.WORK, Step.DONE, guard=lambda left: left == 0)
worker.add_transition(Step.WORK, Step.REST)
worker.add_transition(Step.REST, Step.WORK, after="10s")
worker.add_transition(Step.REST, Step.REST, on="pause")


def test_automatic_transitions_are_taken_at_once_and_timed_ones_in_time() -> None:
    run = MachineRun(worker(2))
    run.start()
    assert run.states() == ["new", "work", "rest"]
    run.advance(9)
    assert run.state(worker) == "rest"
    run.advance(1)
    assert run.result() == 0
    assert run.states() == ["new", "work", "rest", "work", "done"]
    (timer,) = run.events(TimerStarted)
    assert timer.start_to_fire_timeout == 10 * SECOND


def test_entering_a_state_again_begins_its_time_anew() -> None:
    run = MachineRun(worker(2))
    run.start()
    run.advance(9)
    assert run.update(worker.fire("pause")) == "rest"
    run.advance(9)
    assert run.state(worker) == "rest"
    assert len(run.events(TimerCanceled)) == 1
    run.advance(1)
    assert run.result() == 0


def test_a_timer_that_fires_while_its_state_is_left_means_nothing() -> None:
    run = MachineRun(worker(2))
    run.start()
    run.now += 10 * SECOND
    run.fire(worker.fire("pause"))  # in one turn with the timer
    assert len(run.events(TimerFired)) == 1
    assert run.states() == ["new", "work", "rest", "rest"]
    run.advance(10)
    assert run.result() == 0


def test_an_illegal_event_leaves_the_timer_alone() -> None:
    run = begin_patient()
    with pytest.raises(IllegalTransition):
        run.update(patient.fire("never"))
    assert len(run.events(TimerStarted)) == 2
    assert not run.events(TimerCanceled)


patient = StateMachine("machine.patient", data=int, initial="a", final="z")
patient.add_transition("a", "z", after=5, guard=lambda patience: patience < 1)
patient.add_transition("a", "z", after=20)
patient.add_transition("a", "z", on="never", guard=lambda patience: False)


def begin_patient() -> MachineRun:
    run = MachineRun(patient(1))
    run.start()
    return run


def test_a_timed_transition_that_its_guard_refuses_is_not_tried_again() -> None:
    run = begin_patient()
    run.advance(19)
    assert run.states() == ["a"]
    run.advance(1)
    assert run.result() == 1
    assert len(run.events(TimerFired)) == 2


async def fail_always(data: int) -> None:
    raise Declined("nobody listens")


hopeless = StateMachine("machine.hopeless", data=int, initial="a", final="z")
hopeless.add_transition("a", "z", after=5, action=fail_always)


def test_an_error_that_no_sender_can_hear_fails_the_run() -> None:
    run = MachineRun(hopeless(1))
    run.start()
    run.advance(5)
    with pytest.raises(Declined, match="nobody listens"):
        run.result()


# --- bugs -----------------------------------------------------------------------------


def buggy_guard(data: list[str]) -> bool:
    return data[5] == "x"


buggy = StateMachine("machine.buggy", data=list[str], initial="a", final="z")
buggy.add_transition("a", "z", on="look", guard=buggy_guard)
buggy.add_transition("a", "z", on="answer", action=lambda data: "text")  # type: ignore[arg-type]  # what untyped code may do
buggy.add_transition("a", "z", on="act", action=lambda data: data.pop(5) and None)


@pytest.mark.parametrize("event", ["look", "act"])
def test_a_bug_parks_the_run_instead_of_answering(event: str) -> None:
    run = MachineRun(buggy([]))
    run.start()
    with pytest.raises(IndexError):
        run.fire(buggy.fire(event))


def test_an_action_that_returns_something_else_is_refused() -> None:
    run = MachineRun(buggy([]))
    run.start()
    with pytest.raises(PayloadError, match="does not fit its annotation"):
        run.update(buggy.fire("answer"))
    assert run.states() == ["a"]


# --- machines that go on for ever -----------------------------------------------------


def count(total: int, by: int) -> int:
    return total + by


counter = StateMachine(
    "machine.counter", data=int, initial="counting", checkpoint_every=20
)
counter.add_transition("counting", "counting", on="add", action=count)
counter.add_transition("counting", "idle", after="1h")
counter.add_state("idle")
counter.add_transition("idle", "counting", on="wake")


def test_an_endless_machine_keeps_its_history_short() -> None:
    run = MachineRun(counter(0))
    run.start()
    for number in range(1, 31):
        assert run.update(counter.fire("add", number), f"u{number}") == "counting"
    taken = run.events(CheckpointRecorded)
    assert len(taken) >= 3
    assert run.query(counter.data()) == sum(range(31))


def test_a_checkpoint_keeps_the_time_in_the_state() -> None:
    run = MachineRun(counter(0))
    run.start()
    while not run.events(CheckpointRecorded):
        run.advance(60)
        run.update(counter.fire("add", 1), f"u{len(run.history)}")
    run.advance(3_599)
    assert run.state(counter) == "counting"
    run.advance(1)
    assert run.state(counter) == "idle"


def test_illegal_events_cannot_make_a_history_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond a length timers are set anew, so that a checkpoint can be taken."""
    monkeypatch.setattr(limits, "HISTORY_EVENTS_WARN", 40)
    run = MachineRun(counter(0))
    run.start()
    while not run.events(CheckpointRecorded):
        run.advance(60)
        with pytest.raises(IllegalTransition):
            run.update(counter.fire("wake"), f"u{len(run.history)}")
        assert len(run.history) < 60
    passed = (run.now - START) / SECOND
    run.advance(3_599 - passed)
    assert run.state(counter) == "counting"
    run.advance(1)
    assert run.state(counter) == "idle"


# --- calls ----------------------------------------------------------------------------


def test_calls_are_checked_where_they_are_made() -> None:
    with pytest.raises(InvalidCallError, match="has no event 'fly'; there are: 'can"):
        shop.fire("fly")
    with pytest.raises(InvalidCallError, match="missing a required argument: 'cents'"):
        pay()  # type: ignore[call-arg]  # that is the test
    with pytest.raises(InvalidCallError, match="too many positional"):
        shop.fire("ship", 1)
    with pytest.raises(PayloadError):
        shop.fire("pay", "much")
    with pytest.raises(PayloadError):
        shop("tea")  # type: ignore[arg-type]  # that is the test
    assert repr(pay) == "<event 'pay' of <state machine 'machine.shop'>>"


def test_what_does_not_fit_an_event_is_rejected_without_a_trace() -> None:
    run = begin()
    done = run.turn(UpdateRequest("u", "pay", ()))
    ((_, failure),) = done.rejected
    assert isinstance(exception_of(failure), UndecodableError)


def test_a_machine_is_a_workflow_that_is_found_by_its_name() -> None:
    assert REGISTRY.get_workflow("machine.shop") is shop
    assert shop(Order(1)).definition is shop
    assert worker.diagram().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> new",
        "    new --> work",
        "    work --> done : [<lambda>]",
        "    work --> rest",
        "    rest --> work : 10s",
        "    rest --> rest : pause",
        "    done --> [*]",
    ]


def test_a_machine_in_use_cannot_be_changed() -> None:
    shop.check()
    with pytest.raises(DefinitionError, match="is in use"):
        shop.add_state("new")
    with pytest.raises(DefinitionError, match="is in use"):
        shop.add_transition("pending", "paid", on="beg")


def test_unknown_options_are_refused() -> None:
    options: Any = {"retries": 3}
    with pytest.raises(InvalidOptionError, match="No workflow option is called 'ret"):
        StateMachine("machine.options", data=int, initial="a", final="z", **options)
