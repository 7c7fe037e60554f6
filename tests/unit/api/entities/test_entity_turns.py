"""Entities: how a method's turn goes, and what becomes of the state."""

from __future__ import annotations

from dataclasses import field

import msgspec
import pytest

from durable import (
    Entity,
    EntityCall,
    EntityDeadlockError,
    entity,
    exclusive,
    in_workflow,
    now,
    sleep,
)
from durable.api.entities import entity_definition
from durable.api.entities.entity_caller import NOBODY, Caller
from durable.core.history.events import (
    CheckpointRecorded,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.errors import (
    InvalidCallError,
    PayloadError,
    QueryFailedError,
    ReadOnlyError,
    UndecodableError,
    WorkflowBlockedError,
)
from tests.unit.api.entities.one_entity import Cart, OneEntity

# --- turns ----------------------------------------------------------------------------


def test_calls_change_the_state_and_are_answered() -> None:
    cart = OneEntity(Cart["alice"])
    assert cart.call(Cart["alice"].add("apple", n=2)) == 2
    assert cart.call(Cart["alice"].add("pear")) == 3
    assert cart.ask(Cart["alice"].total()) == 3
    assert cart.ask(Cart["alice"].history()) == ["alice"]


def test_exclusive_methods_run_one_after_the_other_in_order_of_arrival() -> None:
    cart = OneEntity(Cart["alice"])
    cart.turn(*[cart.request(Cart["alice"].weigh(item)) for item in "abc"])
    for number, _ in enumerate("abc"):
        assert len(cart.scheduled()) == number + 1
        cart.turn(cart.completed(number))
    begins_and_ends = [f"{what} {item}" for item in "abc" for what in ("begin", "end")]
    assert cart.ask(Cart["alice"].history()) == ["alice", *begins_and_ends]
    accepted = [e.update_id for e in cart.events(WorkflowExecutionUpdateAccepted)]
    answered = [e.update_id for e in cart.events(WorkflowExecutionUpdateCompleted)]
    assert accepted == answered == ["call-1", "call-2", "call-3"]


def test_shared_methods_see_what_the_last_finished_call_left() -> None:
    cart = OneEntity(Cart["alice"])
    cart.turn(cart.request(Cart["alice"].weigh("a")))
    assert cart.ask(Cart["alice"].history()) == ["alice"]
    cart.turn(cart.completed(5))
    assert cart.ask(Cart["alice"].history()) == ["alice", "begin a", "end a"]
    assert cart.ask(Cart["alice"].total()) == 5


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("type", TypeError),
        ("value", ValueError),
        ("group", ExceptionGroup),
        ("undeclared", PayloadError),
        ("state", PayloadError),
        ("result", PayloadError),
        ("continue", InvalidCallError),
    ],
)
def test_method_that_raises_has_changed_nothing(
    how: str, error: type[Exception]
) -> None:
    cart = OneEntity(Cart["alice"])
    cart.call(Cart["alice"].add("apple"))
    with pytest.raises(error):
        cart.call(Cart["alice"].break_it(how))
    assert cart.ask(Cart["alice"].total()) == 1
    assert cart.ask(Cart["alice"].history()) == ["alice"]
    assert cart.call(Cart["alice"].add("apple")) == 2


def test_calls_behind_one_that_fails_go_on() -> None:
    cart = OneEntity(Cart["alice"])
    cart.turn(
        cart.request(Cart["alice"].break_it("type")),
        cart.request(Cart["alice"].add("a")),
    )
    first, second = cart.answers().values()
    assert first == "TypeError"
    assert cart.ask(Cart["alice"].total()) == 1
    assert second != "TypeError"


def test_interrupted_code_is_no_failure_of_the_call() -> None:
    cart = OneEntity(Cart["alice"])
    with pytest.raises(WorkflowBlockedError):
        cart.turn(cart.request(Cart["alice"].break_it("blocked")))


def test_shared_method_that_changes_the_state_is_refused() -> None:
    cart = OneEntity(Cart["alice"])
    with pytest.raises(ReadOnlyError, match="spoil"):
        cart.ask(Cart["alice"].spoil())
    assert cart.ask(Cart["alice"].total()) == 0


def test_plain_method_may_return_what_is_to_be_awaited() -> None:
    cart = OneEntity(Cart["alice"])
    assert cart.call(Cart["alice"].add_plainly("a")) == 1
    with pytest.raises(ReadOnlyError, match="coroutine"):
        cart.ask(Cart["alice"].await_nothing())


def test_arguments_that_do_not_fit_leave_no_trace() -> None:
    cart = OneEntity(Cart["alice"])
    before = len(cart.history)
    call = EntityCall(
        Cart["alice"].durable_target,  # type: ignore[attr-defined]  # a reference has it
        "add",
        Cart["alice"].total().input,
        is_exclusive=True,
        decode_result=lambda _: None,
        differing_input=lambda _, __: None,
    )
    with pytest.raises(UndecodableError):
        cart.call(call)
    with pytest.raises(QueryFailedError, match="no_such"):
        cart.replayer.query("no_such", ())
    assert len(cart.history) == before


# --- its state ------------------------------------------------------------------------


async def add_hundred(self: Cart, item: str, n: int = 1) -> int:
    self.items[item] = 100
    return 100


def test_finished_calls_are_never_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cart = OneEntity(Cart["alice"])
    for _ in range(3):
        cart.call(Cart["alice"].add("apple"))
    assert len(cart.events(CheckpointRecorded)) == 3
    monkeypatch.setattr(Cart.add, "function", add_hundred)
    cart.reload()
    assert len(cart.history) == 2
    assert cart.ask(Cart["alice"].total()) == 3
    assert cart.call(Cart["alice"].add("apple")) == 100


def test_checkpoint_waits_until_no_call_is_under_way() -> None:
    cart = OneEntity(Cart["alice"])
    cart.turn(*[cart.request(Cart["alice"].weigh(item)) for item in "ab"])
    cart.turn(cart.completed(1))
    assert not cart.events(CheckpointRecorded)
    cart.turn(cart.completed(2))
    assert len(cart.events(CheckpointRecorded)) == 1
    cart.reload()
    assert cart.ask(Cart["alice"].total()) == 3


def test_option_makes_checkpoints_rare() -> None:
    @entity(name="unit.Rare", checkpoint_every=10)
    class Rare(Entity):
        n: int = 0

        @exclusive
        def add(self) -> int:
            self.n += 1
            return self.n

    one = OneEntity(Rare["x"])
    for number in range(1, 21):
        assert one.call(Rare["x"].add()) == number
    assert 2 <= len(one.events(CheckpointRecorded)) <= 4
    one.reload()
    assert one.call(Rare["x"].add()) == 21


def test_what_is_set_when_the_object_is_made_is_kept() -> None:
    @entity(name="unit.Stamped")
    class Stamped(Entity):
        begun: str = field(default_factory=lambda: str(now()))

        @exclusive
        def touch(self) -> str:
            return self.begun

    one = OneEntity(Stamped["x"])
    begun = one.call(Stamped["x"].touch())
    one.now += 5_000_000
    assert one.call(Stamped["x"].touch()) == begun
    one.reload()
    assert one.call(Stamped["x"].touch()) == begun


def test_state_that_the_class_cannot_read_parks_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @entity(name="unit.Typed")
    class Typed(Entity):
        n: int = 0

        @exclusive
        def add(self) -> None:
            self.n += 1

    @entity(name="unit.Typed")
    class Changed(Entity):
        n: list[int] = field(default_factory=list)

        @exclusive
        def add(self) -> None: ...

    one = OneEntity(Typed["x"])
    one.call(Typed["x"].add())
    one.definition = Changed["x"].durable_target.definition  # type: ignore[attr-defined]  # a reference has it
    with pytest.raises(UndecodableError, match=r"state of 'entity:unit\.Typed'"):
        one.reload()


def test_two_names_of_one_list_are_two_lists_after_each_call() -> None:
    @entity(name="unit.Alias")
    class Alias(Entity):
        one: list[int] = field(default_factory=list)
        two: list[int] = field(default_factory=list)

        @exclusive
        def tie(self) -> None:
            self.two = self.one

        @exclusive
        def add(self) -> list[int]:
            self.one.append(1)
            return self.two

    one = OneEntity(Alias["x"])
    one.call(Alias["x"].tie())
    assert one.call(Alias["x"].add()) == []


# --- calls of calls -------------------------------------------------------------------


def test_entity_that_calls_itself_is_told_so() -> None:
    cart = OneEntity(Cart["alice"])
    with pytest.raises(EntityDeadlockError, match=r"wait for itself.*self\.add"):
        cart.call(Cart["alice"].again("a"))
    assert cart.ask(Cart["alice"].total()) == 0
    assert not cart.scheduled()


def test_entity_that_is_called_through_another_one_is_not_called_back() -> None:
    cart = OneEntity(Cart["alice"])
    caller = Caller(chain=(Cart["bob"].durable_target.workflow_id,))  # type: ignore[attr-defined]  # a reference has it
    with pytest.raises(
        EntityDeadlockError, match=r":bob -> entity:unit\.Cart:alice ->"
    ):
        cart.call(Cart["alice"].pass_on("bob"), caller)
    cart.turn(cart.request(Cart["alice"].pass_on("carol"), caller))
    ((_, scheduled),) = cart.scheduled()
    assert scheduled.summary == "Cart['carol'].add"
    control = [msgspec.json.decode(p.json) for p in scheduled.input]
    assert control == [
        "entity:unit.Cart",
        "carol",
        "add",
        {"chain": ["entity:unit.Cart:bob", "entity:unit.Cart:alice"]},
        "x",
    ]


def test_call_is_told_from_others_on_replay_by_all_that_it_says() -> None:
    call = Cart["alice"].add("apple")
    control = call._control(NOBODY)
    same, other = Cart["alice"].add(item="apple"), Cart["alice"].add("pear")
    assert not call._differing(control + call.input, control + same.input)
    assert call._differing(control + call.input, control + other.input)
    elsewhere = Cart["bob"].add("apple")._control(NOBODY)
    assert call._differing(control + call.input, elsewhere + call.input)


def test_calls_without_a_pause_are_turned_away_so_that_the_entity_comes_to_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entity_definition, "BUSY_EVENTS", 20)
    cart = OneEntity(Cart["alice"])
    cart.turn(cart.request(Cart["alice"].weigh("x")))
    answered = 0
    while not cart.events(CheckpointRecorded):
        cart.turn(
            cart.completed(1), *[cart.request(Cart["alice"].weigh("x")) for _ in "ab"]
        )
        answered += 1
        assert answered < 100
    assert 5 < len(cart.events(WorkflowExecutionUpdateAccepted)) < 30
    assert cart.call(Cart["alice"].add("x")) == 2


def test_holder_of_a_key_is_never_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entity_definition, "BUSY_EVENTS", 0)
    cart = OneEntity(Cart["alice"])
    held = Caller(sections={"entity:unit.Cart:alice": "s"})
    cart.turn(cart.request(Cart["alice"].weigh("a")))
    with pytest.raises(entity_definition.EntityBusy, match="without a pause"):
        cart.call(Cart["alice"].add("b"))
    cart.turn(cart.request(Cart["alice"].add("c"), held))
    cart.turn(cart.completed(1))
    assert cart.ask(Cart["alice"].total()) == 2


def test_plain_code_and_workflow_code_run_alike() -> None:
    @entity(name="unit.Where")
    class Where(Entity):
        @exclusive
        async def look(self) -> bool:
            await sleep(1)
            return in_workflow()

    one = OneEntity(Where["x"])
    one.turn(one.request(Where["x"].look()))
    one.now += 1_000_000
    one.turn()
    assert bytes(next(iter(one.answers().values())).json) == b"true"  # type: ignore[union-attr]  # it did not fail
