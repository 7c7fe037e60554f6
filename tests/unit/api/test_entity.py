"""Entities: what they are made of, what is refused, how a method's turn goes."""

from __future__ import annotations

import abc
import pickle
import textwrap
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

import durable
from durable import (
    Entity,
    EntityCall,
    EntityDeadlockError,
    activity,
    continue_as_new,
    entity,
    entity_key,
    exclusive,
    in_workflow,
    now,
    shared,
    sleep,
)
from durable.api import entity_definition
from durable.api.entity_caller import Caller
from durable.api.entity_definition import EntityWorkflow
from durable.api.registry import REGISTRY
from durable.core.events import (
    CheckpointRecorded,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.errors import (
    DefinitionError,
    InvalidCallError,
    InvalidIdError,
    InvalidOptionError,
    NotInWorkflowError,
    PayloadError,
    QueryFailedError,
    ReadOnlyError,
    UndecodableError,
    WorkflowBlockedError,
)
from tests.unit.api.one_entity import OneEntity


@activity(name="entities.price")
async def price(item: str) -> int:
    raise AssertionError("Nothing runs here.")


@entity(name="unit.Cart", version="1.0.0", task_queue="carts")
class Cart(Entity):
    """A cart."""

    items: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    @exclusive
    async def add(self, item: str, n: int = 1) -> int:
        """Add an item."""
        self.items[item] = self.items.get(item, 0) + n
        return self.total()

    @exclusive
    async def weigh(self, item: str) -> int:
        self.log.append(f"begin {item}")
        self.items[item] = await price(item)
        self.log.append(f"end {item}")
        return self.items[item]

    @exclusive(name="break")
    def break_it(self, how: str) -> Any:
        self.items["broken"] = 1
        self.log = ["broken"]
        if how == "type":
            return len(5)  # type: ignore[arg-type]  # the fault under test
        if how == "value":
            raise ValueError("as asked")
        if how == "group":
            raise ExceptionGroup("many", [TypeError("one")])
        if how == "undeclared":
            self.color = "red"
        if how == "state":
            self.items["bad"] = "text"  # type: ignore[assignment]  # the fault under test
        if how == "result":
            return object()
        if how == "continue":
            continue_as_new(1)
        if how == "blocked":
            raise WorkflowBlockedError
        return None

    @exclusive
    async def again(self, item: str) -> int:
        return await self.add(item) + await Cart[entity_key()].add(item)

    @exclusive
    async def pass_on(self, other: str) -> int:
        return await Cart[other].add("x")

    @shared
    def total(self) -> int:
        return sum(self.items.values())

    @shared
    def history(self) -> list[str]:
        return [entity_key(), *self.log]

    @shared
    def spoil(self) -> int:
        self.items["spoilt"] = 1
        return 1


# --- what it is -----------------------------------------------------------------------


def test_class_becomes_a_dataclass_and_a_workflow() -> None:
    assert Cart(items={"a": 1}) == Cart({"a": 1}, [])
    definition = REGISTRY.get_workflow("entity:unit.Cart")
    assert isinstance(definition, EntityWorkflow)
    assert (definition.version, definition.task_queue) == ("1.0.0", "carts")
    assert definition.__doc__ == "A cart."
    assert REGISTRY.limited_to([Cart]).workflows == {"entity:unit.Cart": definition}
    assert pickle.loads(pickle.dumps(definition)) is definition  # noqa: S301 - our own bytes


async def test_objects_are_plain_objects() -> None:
    cart = Cart()
    assert await cart.add("apple", n=3) == 3
    assert cart.total() == 3
    assert cart.spoil() == 1
    assert Cart.add.__doc__ == cart.add.__doc__ == "Add an item."
    assert "exclusive method 'add'" in repr(Cart.add)
    with pytest.raises(NotInWorkflowError, match="entity_key"):
        cart.history()


def test_reference_is_a_class_and_a_key() -> None:
    alice = Cart.of("alice")
    assert alice == Cart["alice"]
    assert alice != Cart["bob"]
    assert alice != "alice"
    assert {alice, Cart["alice"]} == {alice}
    assert repr(alice) == "Cart['alice']"
    assert pickle.loads(pickle.dumps(alice)) == alice  # noqa: S301 - our own bytes


def test_reference_makes_calls_by_the_signatures_of_its_methods() -> None:
    call = Cart["alice"].add("apple", n=2)
    assert isinstance(call, EntityCall)
    assert (call.method, call.is_exclusive) == ("add", True)
    assert [bytes(p.json) for p in call.input] == [b'"apple"', b"2"]
    assert call.target.workflow_id == "entity:unit.Cart:alice"
    assert repr(call) == "<call of Cart['alice'].add>"
    assert Cart["alice"].break_it("x").method == "break"
    assert Cart["alice"].total().is_exclusive is False


@pytest.mark.parametrize("key", ["", " a", "a\n", 5, "é" * 120])
def test_keys_that_make_no_id_are_refused(key: Any) -> None:
    with pytest.raises(InvalidIdError, match="key"):
        Cart[key]


def test_calls_with_wrong_arguments_are_refused() -> None:
    alice: Any = Cart["alice"]
    with pytest.raises(InvalidCallError, match=r"add\(item"):
        alice.add()
    with pytest.raises(PayloadError, match="'item' of 'add'"):
        alice.add(5)
    with pytest.raises(InvalidCallError, match=r"Cart\['...'\]\.add"):
        Cart.add("apple")
    with pytest.raises(AttributeError, match=r"Cart\['alice'\] has no method 'items'"):
        _ = alice.items


async def test_call_is_awaited_in_workflows_only() -> None:
    with pytest.raises(InvalidCallError, match=r"engine\.call"):
        await Cart["alice"].add("apple")
    Cart["alice"].add("apple").close()


def test_class_of_another_kind_may_be_an_entity() -> None:
    @entity(name="unit.Struct")
    class Struct(msgspec.Struct):
        n: int = 0

        @exclusive
        def add(self, n: int) -> int:
            self.n += n
            return self.n

    @entity(name="unit.Plain")
    @dataclass
    class Plain:
        n: int = 0

        @exclusive
        def add(self, n: int) -> int:
            self.n += n
            return self.n

    kinds: list[Any] = [Struct, Plain]
    for kind in kinds:
        one = OneEntity(kind["x"])
        assert [one.call(kind["x"].add(n)) for n in (1, 2)] == [1, 3]


def test_methods_are_inherited() -> None:
    @dataclass
    class Counting:
        n: int = 0

        @exclusive
        def add(self) -> int:
            self.n += 1
            return self.n

        @shared
        def get(self) -> int:
            return self.n

    @entity(name="unit.Twice")
    class Twice(Counting, Entity):
        @exclusive
        def add(self) -> int:
            self.n += 2
            return self.n

    one = OneEntity(Twice["x"])
    assert one.call(Twice["x"].add()) == 2
    assert one.ask(Twice["x"].get()) == 2

    class Undecorated(Twice):
        pass

    with pytest.raises(DefinitionError, match="subclass needs its own"):
        Undecorated["x"]


# --- what is refused ------------------------------------------------------------------


def define(text: str) -> Any:
    """The last class of a text: type checkers would find most of these faults."""
    scope: dict[str, Any] = {"abc": abc, "durable": durable}
    code = compile(textwrap.dedent(text), "text", "exec", dont_inherit=True)
    exec(code, scope)  # noqa: S102 - the texts are those below
    found: type[Any] = [v for v in scope.values() if isinstance(v, type)][-1]
    return found


EVERYTHING = """
class Base(abc.ABC):
    plain: int = 0
    @durable.exclusive
    def hidden(self): ...
    @durable.shared
    def changed(self): ...

class Wrong(Base, durable.Entity):
    owner: str
    def hidden(self): ...
    @durable.exclusive
    def changed(self): ...
    @durable.exclusive(name="same")
    def one(self): ...
    @durable.exclusive(name="same")
    def two(self): ...
    @durable.exclusive(name="durable.mine")
    def mine(self): ...
    @durable.exclusive(name="bad\\nname")
    def bad(self, **options): ...
    @durable.shared
    async def asked(self): ...
    @durable.exclusive
    def yielding(self):
        yield 1
    @durable.update
    def updated(self): ...
    @durable.exclusive
    def of(self): ...
"""


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(DefinitionError) as caught:
        entity(name="wrong:name")(define(EVERYTHING))
    for part in (
        "the class Wrong:",
        "'owner' has no default",
        "'hidden' overrides a @exclusive method",
        "'changed' overrides a @shared method",
        "Two methods are named 'same': 'one' and 'two'",
        "'durable.mine' is the library's own",
        "name of a method",
        "'asked' is async",
        "'yielding' is a generator",
        "'updated' is a method of a workflow",
        "called 'of'",
        "'wrong:name' has a colon",
        "Base annotates 'plain'",
    ):
        assert part in str(caught.value), part


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("class Empty(durable.Entity): n: int = 0", "neither @exclusive nor @shared"),
        (
            "class Mutable(durable.Entity):\n"
            "    n: list[int] = []\n"
            "    @durable.shared\n"
            "    def get(self): ...",
            "default_factory",
        ),
        (
            "class Abstract(abc.ABC):\n"
            "    @durable.shared\n"
            "    def get(self): ...\n"
            "    @abc.abstractmethod\n"
            "    def other(self): ...",
            "abstract",
        ),
    ],
)
def test_class_that_cannot_be_an_entity_is_refused(text: str, reason: str) -> None:
    with pytest.raises(DefinitionError, match=reason):
        entity(define(text))


def test_decorators_on_what_they_cannot_serve_are_refused() -> None:
    wrong: Any = 5
    with pytest.raises(DefinitionError, match="no class"):
        entity(wrong)
    with pytest.raises(DefinitionError, match="decorated already"):
        entity(Cart)
    with pytest.raises(InvalidOptionError, match="run_timeout"):
        entity(run_timeout=5)  # type: ignore[call-overload]  # the fault under test
    with pytest.raises(InvalidOptionError, match="checkpoint_every"):
        entity(checkpoint_every=0)(define("class A:\n @durable.shared\n def a(self):0"))
    with pytest.raises(DefinitionError, match="no method"):
        exclusive(wrong)
    with pytest.raises(DefinitionError, match="in no class"):
        shared(lambda self: 1)
    with pytest.raises(DefinitionError, match="hides the decorator"):
        define(
            "class A:\n"
            "    @durable.shared\n"
            "    def shared(self): ...\n"
            "    @shared\n"
            "    def other(self): ..."
        )


def test_a_name_is_taken_once() -> None:
    with pytest.raises(DefinitionError, match=r"entity 'entity:unit\.Cart'"):
        entity(name="unit.Cart")(define("class B:\n @durable.shared\n def b(self):0"))


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


def test_arguments_that_do_not_fit_leave_no_trace() -> None:
    cart = OneEntity(Cart["alice"])
    before = len(cart.history)
    call = EntityCall(
        Cart["alice"].durable_target,  # type: ignore[attr-defined]  # a reference has it
        "add",
        Cart["alice"].total().input,
        is_exclusive=True,
        decode_result=lambda _: None,
        same_input=lambda _, __: True,
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
    one, other = Cart["alice"].add("apple", n=1), Cart["alice"].add("pear")
    assert call._same_input(one.input, one.input)
    assert not call._same_input(one.input, other.input)


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
