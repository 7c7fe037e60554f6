"""Class workflows: what they are made of, what is refused, how they behave."""

from __future__ import annotations

import dataclasses
import pickle
import sys
import types
from typing import Any

import pytest

from durable import (
    Workflow,
    current_update,
    query,
    run,
    signal,
    sleep,
    update,
    wait_condition,
    workflow,
)
from durable.api.messages.messages import (
    SignalCall,
    query_call,
    signal_call,
    update_call,
)
from durable.api.registry import REGISTRY
from durable.core.history.events import WorkflowExecutionUpdateAccepted
from durable.errors import (
    DefinitionError,
    InvalidCallError,
    PayloadError,
    QueryFailedError,
    ReadOnlyError,
    UndecodableError,
)
from tests.unit.api.one_run import OneRun


@dataclasses.dataclass
class Item:
    name: str
    count: int = 1


@workflow(name="classes.Cart", version="1.0.0", run_timeout="1h")
class Cart:
    """A cart."""

    def __init__(self) -> None:
        self.items: dict[str, int] = {}
        self.log: list[str] = []
        self.is_closed = False

    @run
    async def run(self, customer: str, *, gift: bool = False) -> list[str]:
        """Wait for the checkout."""
        self.log.append(f"run {customer} {gift}")
        await wait_condition(lambda: self.is_closed)
        return self.log

    @signal
    def add(self, item: str, n: int = 1) -> None:
        """Add an item."""
        self.items[item] = n
        self.log.append(f"add {item} {n}")

    @signal(name="put")
    async def put_item(self, item: Item) -> None:
        await sleep(1)
        self.add(item.name, item.count)

    @query
    def count(self, least: int = 0) -> int:
        return sum(n for n in self.items.values() if n >= least)

    @query
    def mutating(self) -> int:
        self.is_closed = True
        return 1

    @update
    async def checkout(self, code: str) -> Item:
        found = current_update()
        assert found is not None
        self.log.append(f"{found.name} {code}")
        self.is_closed = True
        return Item(code, len(self.items))

    @checkout.validator
    def check_checkout(self, code: str) -> None:
        if not self.items:
            raise ValueError(f"nothing to check out with {code}")

    @update(name="drop")
    def drop_item(self, item: str) -> bool:
        return self.items.pop(item, None) is not None


@workflow(name="classes.Dynamic")
class Dynamic:
    def __init__(self) -> None:
        self.log: list[Any] = []

    @run
    async def go(self) -> list[Any]:
        await wait_condition(lambda: len(self.log) == 3)
        return self.log

    @signal
    def named(self, value: int) -> None:
        self.log.append(value)

    @signal(dynamic=True)
    def any_signal(self, name: str, *args: int) -> None:
        self.log.append([name, *args])

    @query(dynamic=True)
    def any_query(self, name: str, *args: Any) -> list[Any]:
        return [name, *args]

    @update(dynamic=True)
    def any_update(self, name: str, value: int) -> int:
        self.log.append(name)
        return value + 1

    @any_update.validator
    def check_any(self, name: str, value: int) -> None:
        if name == "refused":
            raise ValueError(name)


# --- calls and instances --------------------------------------------------------------


def test_class_stays_what_it_is_and_its_run_method_is_the_workflow() -> None:
    assert isinstance(Cart, type)
    assert isinstance(Cart.run, Workflow)
    assert REGISTRY.get_workflow("classes.Cart") is Cart.run
    assert Cart.run.name == "classes.Cart"
    assert (Cart.run.own_version, Cart.run.run_timeout) == ("1.0.0", 3_600_000_000)
    assert Cart.run.__doc__ == "Wait for the checkout."
    assert pickle.loads(pickle.dumps(Cart.run)) is Cart.run  # noqa: S301 - our own bytes


def test_class_makes_calls_by_the_signatures_of_its_methods() -> None:
    call = Cart.run("alice", gift=True)
    assert call.definition is Cart.run
    assert [bytes(p.json) for p in call.input] == [b'"alice"', b"true"]
    signalled = Cart.add("apple", n=2)
    assert signalled.name == "add"
    assert [bytes(p.json) for p in signalled.input] == [b'"apple"', b"2"]
    assert Cart.put_item(Item("x")).name == "put"
    assert Cart.count().input == ()
    assert Cart.checkout(code="c").name == "checkout"
    assert Dynamic.any_signal("poke", 1, 2) == signal_call("poke", (1, 2))


def test_calls_with_wrong_arguments_are_refused() -> None:
    with pytest.raises(InvalidCallError, match=r"add\(item"):
        Cart.add()  # type: ignore[call-arg]  # the fault under test
    with pytest.raises(InvalidCallError, match="too many"):
        Cart.count(1, 2)  # type: ignore[call-arg]  # the fault under test
    with pytest.raises(PayloadError, match="'item' of 'add'"):
        Cart.add(5)  # type: ignore[arg-type]  # the fault under test
    with pytest.raises(InvalidCallError, match=r"classes\.Cart"):
        Cart.run()  # type: ignore[call-arg]  # the fault under test
    with pytest.raises(DefinitionError, match="name of a signal"):
        Dynamic.any_signal("")


def test_instance_has_the_plain_methods() -> None:
    cart = Cart()
    cart.add("apple", n=3)
    assert cart.count() == 3
    assert cart.drop_item("apple") is True
    assert Cart.add.__doc__ == cart.add.__doc__ == "Add an item."
    with pytest.raises(ValueError, match="nothing"):
        cart.check_checkout("code")
    assert "signal 'add'" in repr(Cart.add)


# --- runs -----------------------------------------------------------------------------


def test_handlers_of_early_signals_run_in_order_before_the_first_line() -> None:
    one = OneRun(Cart.run("alice"))
    one.start(one.signalled(Cart.add("a")), one.signalled(Cart.add("b", 2)))
    one.update(Cart.checkout("code"))
    assert one.result() == ["add a 1", "add b 2", "run alice False", "checkout code"]


def test_async_handlers_run_beside_the_run() -> None:
    one = OneRun(Cart.run("alice"))
    one.start(one.signalled(Cart.put_item(Item("slow"))), one.signalled(Cart.add("b")))
    assert one.query(Cart.count()) == 1
    one.now += 2_000_000
    one.turn()
    assert one.query(Cart.count()) == 2
    assert one.query(Cart.count(least=2)) == 0


def test_update_is_answered_by_type_and_its_validator_may_refuse() -> None:
    one = OneRun(Cart.run("alice"))
    one.start()
    with pytest.raises(ValueError, match="nothing to check out with code"):
        one.update(Cart.checkout("code"), "first")
    assert not one.events(WorkflowExecutionUpdateAccepted)
    one.signal(Cart.add("a"))
    assert one.update(Cart.drop_item("b"), "second") is False
    answer = one.update(Cart.checkout("code"), "third")
    assert answer == Item("code", 1)
    assert isinstance(answer, Item)
    assert len(one.events(WorkflowExecutionUpdateAccepted)) == 2


@pytest.mark.parametrize("args", [(), ("a", "b", "c"), (5,), (None,)])
def test_arguments_that_do_not_fit_never_reach_a_handler(args: tuple[Any, ...]) -> None:
    one = OneRun(Cart.run("alice"))
    one.start()
    with pytest.raises(UndecodableError):
        one.update(update_call("drop", args))
    with pytest.raises(UndecodableError):
        one.query(query_call("count", ("x", *args)))
    one.signal(signal_call("add", args))
    (context,) = one.logged
    assert isinstance(context["exception"], UndecodableError)
    one.signal(Cart.add("a"))
    one.update(Cart.checkout("code"), "last")
    assert one.result() == ["run alice False", "add a 1", "checkout code"]


def test_query_may_change_nothing() -> None:
    one = OneRun(Cart.run("alice"))
    one.start()
    with pytest.raises(ReadOnlyError):
        one.query(Cart.mutating())
    with pytest.raises(QueryFailedError, match="no_such"):
        one.query(query_call("no_such", ()))
    one.signal(Cart.add("a"))
    assert one.query(Cart.count()) == 1


def test_dynamic_handlers_take_what_no_other_takes() -> None:
    one = OneRun(Dynamic.go())
    one.start()
    one.signal(Dynamic.named(7), signal_call("poke", (1, 2)))
    one.signal(signal_call("poke", ("no number",)))
    assert len(one.logged) == 1
    assert one.query(query_call("how", ("much", 2))) == ["how", "much", 2]
    assert one.query(Dynamic.any_query("what", 1)) == ["what", 1]
    with pytest.raises(ValueError, match="refused"):
        one.update(Dynamic.any_update("refused", 1), "first")
    assert one.update(Dynamic.any_update("taken", 1), "second") == 2
    assert one.result() == [7, ["poke", 1, 2], "taken"]


def test_constructor_with_the_parameters_of_run_gets_the_input() -> None:
    @workflow(name="classes.WithInit")
    class WithInit:
        def __init__(self, item: Item, *, n: int = 5) -> None:
            self.before = [item.name, n, isinstance(item, Item)]

        @run
        async def go(self, item: Item, *, n: int = 5) -> list[Any]:
            return [*self.before, item.name, n]

        @query
        def seen(self) -> list[Any]:
            return self.before

    # Annotations of local classes are found in the module.
    one = OneRun(WithInit.go(Item("x")))
    one.start()
    assert one.result() == ["x", 5, True, "x", 5]


def test_dataclass_of_defaults_is_made_without_input() -> None:
    @workflow(name="classes.Fields")
    @dataclasses.dataclass
    class Fields:
        seen: list[str] = dataclasses.field(default_factory=list)

        @run
        async def go(self, name: str) -> list[str]:
            self.seen.append(name)
            return self.seen

    for _ in range(2):
        one = OneRun(Fields.go("x"))
        one.start()
        assert one.result() == ["x"]


def test_dataclass_whose_fields_are_the_input() -> None:
    @workflow(name="classes.FieldsOfInput")
    @dataclasses.dataclass
    class FieldsOfInput:
        name: str

        @run
        async def go(self, name: str) -> list[str]:
            return [self.name, name]

    one = OneRun(FieldsOfInput.go("x"))
    one.start()
    assert one.result() == ["x", "x"]


def test_plain_handler_that_returns_a_coroutine_is_a_bug() -> None:
    async def later() -> None: ...

    @workflow(name="classes.Forgetful")
    class Forgetful:
        @run
        async def go(self) -> None:
            await sleep(1)

        @signal
        def poke(self) -> None:
            return later()  # type: ignore[return-value]  # the fault under test

    one = OneRun(Forgetful.go())
    one.start()
    with pytest.raises(DefinitionError, match="'poke' is a plain function"):
        one.signal(Forgetful.poke())


# --- inheritance ----------------------------------------------------------------------


class Counting:
    def __init__(self) -> None:
        self.n = 0

    @run
    async def run(self, goal: int) -> str:
        await wait_condition(lambda: self.n >= goal)
        return type(self).__name__

    @signal
    def bump(self, by: int) -> None:
        self.n += by

    @update
    def reset(self, to: int) -> int:
        self.n = to
        return to

    @reset.validator
    def check_reset(self, to: int) -> None:
        if to < 0:
            raise ValueError("negative")


@workflow(name="classes.Once")
class Once(Counting):
    pass


@workflow(name="classes.Twice")
class Twice(Counting):
    @signal
    def bump(self, by: int) -> None:
        super().bump(2 * by)

    def check_reset(self, to: int) -> None:
        if to > 100:
            raise ValueError("large")


def test_handlers_and_run_are_inherited_and_each_class_is_its_own_workflow() -> None:
    assert (Once.run.name, Twice.run.name) == ("classes.Once", "classes.Twice")
    for cls, bumps in ((Once, 4), (Twice, 2)):
        one = OneRun(cls.run(4))
        one.start()
        for _ in range(bumps):
            assert not one.replayer.is_closed
            one.signal(cls.bump(1))
        assert one.result() == cls.__name__


def test_overridden_validator_counts() -> None:
    one, two = OneRun(Once.run(1000)), OneRun(Twice.run(1000))
    for each in (one, two):
        each.start()
    assert one.update(Once.reset(500)) == 500
    with pytest.raises(ValueError, match="large"):
        two.update(Twice.reset(500))
    assert two.update(Twice.reset(-1), "again") == -1
    with pytest.raises(ValueError, match="negative"):
        one.update(Once.reset(-1), "again")


def test_class_that_is_not_decorated_makes_messages_but_no_runs() -> None:
    class Plain(Once):
        pass

    assert isinstance(Counting.bump(1), SignalCall)
    for cls in (Counting, Plain):
        with pytest.raises(DefinitionError, match="no workflow") as caught:
            cls.run(1)
        assert "@workflow" in str(caught.value)


# --- registries -----------------------------------------------------------------------


def test_limited_registry_takes_classes_and_finds_them_in_modules() -> None:
    assert list(REGISTRY.limited_to([Cart]).workflows) == ["classes.Cart"]
    assert list(REGISTRY.limited_to([Once.run]).workflows) == ["classes.Once"]
    module = types.ModuleType("module")
    vars(module).update(Cart=Cart, Counting=Counting)
    assert list(REGISTRY.limited_to([module]).workflows) == ["classes.Cart"]
    with pytest.raises(DefinitionError, match="neither a workflow"):
        REGISTRY.limited_to([Counting])


def test_two_classes_of_one_name_clash() -> None:
    with pytest.raises(DefinitionError, match=r"Cart.*Counting"):
        workflow(name="classes.Cart")(Counting)
    assert REGISTRY.get_workflow("classes.Cart") is Cart.run
    with pytest.raises(DefinitionError, match="decorated already"):
        workflow(Cart)


def test_one_class_imported_twice_leaves_its_first_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(module: str, file: str) -> type[Any]:
        loaded = types.ModuleType(module)
        loaded.__file__ = file
        monkeypatch.setitem(sys.modules, module, loaded)
        body = {
            "__module__": module,
            "__qualname__": "Again",
            "run": vars(Counting)["run"],
        }
        return type("Again", (), body)

    first = workflow(name="classes.Again")(make("orders", "/orders.py"))
    second = workflow(name="classes.Again")(make("__main__", "/orders.py"))
    assert REGISTRY.get_workflow("classes.Again") is first.run is not second.run
    again = workflow(name="classes.Again")(make("orders", "/orders.py"))
    assert REGISTRY.get_workflow("classes.Again") is again.run
    with pytest.raises(DefinitionError, match="Two definitions"):
        workflow(name="classes.Again")(make("other", "/other.py"))
