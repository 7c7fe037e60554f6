"""Entities: what they are made of, what is refused, how a method's turn goes."""

from __future__ import annotations

import abc
import pickle
import textwrap
import typing
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

import durable
from durable import (
    Entity,
    EntityCall,
    entity,
    exclusive,
    shared,
)
from durable.api.entities.entity_definition import EntityWorkflow
from durable.api.registry import REGISTRY
from durable.errors import (
    DefinitionError,
    InvalidCallError,
    InvalidIdError,
    InvalidOptionError,
    NotInWorkflowError,
    PayloadError,
)
from tests.unit.api.entities.one_entity import Cart, OneEntity

# --- what it is -----------------------------------------------------------------------


def test_class_becomes_a_dataclass_and_a_workflow() -> None:
    assert Cart(items={"a": 1}) == Cart({"a": 1}, [])
    definition = REGISTRY.get_workflow("entity:unit.Cart")
    assert isinstance(definition, EntityWorkflow)
    assert (definition.own_version, definition.task_queue) == ("1.0.0", "carts")
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
    assert object() != alice
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
    scope: dict[str, Any] = {"abc": abc, "durable": durable, "typing": typing}
    code = compile(textwrap.dedent(text), "text", "exec", dont_inherit=True)
    exec(code, scope)  # noqa: S102 - the texts are those below
    found: type[Any] = [v for v in scope.values() if isinstance(v, type)][-1]
    return found


EVERYTHING = """
class Base(abc.ABC):
    plain: int = 0
    limit: typing.ClassVar[int] = 5
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
        "Base annotates 'plain', but",
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
