"""`resource` and `@activity_method`: what is refused, and calls without an engine."""

from __future__ import annotations

import abc
import copy
import pickle
from collections.abc import Iterator
from typing import Any, Generic, TypeVar
from unittest.mock import create_autospec

import pytest

from durable import (
    Engine,
    activity,
    activity_method,
    entity,
    resource,
    run,
    shared,
    workflow,
)
from durable.api.activities.activity import Activity
from durable.api.definitions import ACTIVITIES, WORKFLOWS
from durable.errors import DefinitionError, InvalidCallError, InvalidOptionError

T = TypeVar("T")


class Pool:
    name = "pool"


class Maker(Generic[T]): ...


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    before = dict(ACTIVITIES), dict(WORKFLOWS)
    yield
    for known, old in zip((ACTIVITIES, WORKFLOWS), before, strict=True):
        known.clear()
        known.update(old)


class Shop:
    def __init__(self, pool: Any) -> None:
        self.pool = pool

    async def charge(self, cents: int, *, gift: bool = False) -> str:
        """Take money."""
        return f"{cents} {gift} {self.pool.name}"

    def pack(self, n: int, pool: Pool = resource(Pool)) -> str:
        return f"{n} {pool.name} {self.pool.name}"


@pytest.fixture
def shop() -> type[Any]:
    class Made(Shop):
        charge: Any = activity_method(Shop.charge)
        pack: Any = activity_method(name="shop.pack")(Shop.pack)

    return Made


# --- markers --------------------------------------------------------------------------


@pytest.mark.parametrize("key", [Pool, "pool", Maker[int], list[int], dict])
def test_classes_and_names_are_keys(key: Any) -> None:
    assert resource(key).key == key


@pytest.mark.parametrize("key", ["", 5, None, Pool(), [Pool]])
def test_anything_else_is_no_key(key: Any) -> None:
    with pytest.raises(InvalidOptionError, match="key of a resource"):
        resource(key)


def test_a_marker_that_is_used_as_the_value_says_what_it_is() -> None:
    marker: Any = resource(Pool)
    assert repr(marker) == "resource(Pool)"
    with pytest.raises(AttributeError, match="default of a parameter of an activity"):
        marker.acquire()
    assert not hasattr(marker, "acquire")


# --- signatures -----------------------------------------------------------------------


def first(pool: Pool = resource(Pool), n: int = 1) -> None: ...


def starred(pool: Pool = resource(Pool), *parts: str) -> None: ...


def positional(n: int, pool: Pool = resource(Pool), /) -> None: ...


@pytest.mark.parametrize("function", [first, starred, positional])
def test_a_resource_that_stands_before_arguments_is_refused(function: Any) -> None:
    with pytest.raises(DefinitionError, match="Put"):
        activity(function)


def test_resources_may_stand_beside_defaults_keywords_and_stars() -> None:
    @activity
    def one(n: int = 1, pool: Pool = resource(Pool), *, flag: bool = False) -> None: ...

    @activity
    def two(*parts: str, pool: Pool = resource(Pool)) -> None: ...

    assert str(one.call_signature.signature) == (
        "(n: 'int' = 1, *, flag: 'bool' = False) -> 'None'"
    )
    assert one.resources == two.resources == {"pool": Pool}


def test_a_resource_is_no_argument_that_can_be_recorded() -> None:
    @activity
    def pay(cents: int, *, pool: Pool = resource(Pool)) -> None: ...

    with pytest.raises(InvalidCallError, match="'pool' is a resource: the engine"):
        pay.call_signature.bind((5,), {"pool": Pool()})


async def takes_pool(pool: Pool = resource(Pool)) -> None: ...


def test_only_activities_take_resources() -> None:
    with pytest.raises(DefinitionError, match="only activities can"):
        workflow(takes_pool)
    with pytest.raises(DefinitionError, match="only activities can"):

        @workflow
        class Cart:
            @run
            async def run(self, pool: Pool = resource(Pool)) -> None: ...


# --- methods --------------------------------------------------------------------------


def test_only_methods_are_activity_methods(shop: type[Any]) -> None:
    with pytest.raises(DefinitionError, match=r"no method.*Use @activity"):
        activity_method(takes_pool)
    with pytest.raises(DefinitionError, match="@activity_method"):
        activity(Shop.charge)
    with pytest.raises(DefinitionError, match="static or class method"):

        class _Static:
            @activity_method  # type: ignore[arg-type]  # refused by checkers as well
            @staticmethod
            def charge() -> None: ...


def test_an_object_of_a_run_has_no_activities() -> None:
    complaint = r"'charge' is an @activity_method, and no worker has"
    with pytest.raises(DefinitionError, match=complaint):

        @workflow
        class Cart:
            @run
            async def run(self) -> None: ...

            @activity_method
            async def charge(self) -> None: ...

    with pytest.raises(DefinitionError, match=complaint):

        @entity
        class Basket:
            n: int = 0

            @shared
            def count(self) -> int:
                return self.n

            @activity_method
            async def charge(self) -> None: ...


def test_a_method_is_known_by_its_class_and_its_name(shop: type[Any]) -> None:
    assert shop.charge.name == "Shop.charge"
    assert shop.charge is ACTIVITIES["Shop.charge"]
    assert shop.pack.name == "shop.pack"
    assert shop.charge.resources == {"self": shop}
    assert shop.charge.__doc__ == "Take money."
    one: Any = shop(Pool())
    assert isinstance(shop(Pool()).charge, Activity)
    assert one.charge.options(summary="x").instance is one
    pickled = pickle.loads(pickle.dumps(one.charge))  # noqa: S301 - it was made here
    for same in (copy.deepcopy(one.charge), pickled):
        assert same.name == "Shop.charge"
        assert same.resources == {"self": shop}


def test_an_abstract_method_keeps_its_class_abstract() -> None:
    class Gateway(abc.ABC):
        @activity_method
        @abc.abstractmethod
        async def pay(self, cents: int) -> str: ...

    with pytest.raises(TypeError, match="abstract"):
        Gateway()  # type: ignore[abstract]  # that is the point


# --- without an engine ----------------------------------------------------------------


async def test_a_plain_call_is_given_its_resources_by_the_caller(
    shop: type[Any],
) -> None:
    @activity
    async def pay(cents: int, *, pool: Pool = resource(Pool)) -> str:
        return f"{cents} {pool.name}"

    one = shop(Pool())
    assert await pay(5, pool=Pool()) == "5 pool"
    assert await one.charge(5, gift=True) == "5 True pool"
    assert await one.pack(1, Pool()) == await one.pack(1, pool=Pool()) == "1 pool pool"
    with pytest.raises(InvalidCallError, match=r"Pass it: pay\(\.\.\., pool=\.\.\.\)"):
        await pay(5)
    with pytest.raises(InvalidCallError, match="Call it on an object"):
        await shop.charge(5)
    with pytest.raises(InvalidCallError, match="called wrongly: missing"):
        await one.charge()


async def test_an_autospecced_object_stands_for_the_real_one(shop: type[Any]) -> None:
    @workflow
    async def flow() -> str:
        return str(await shop.charge(5))

    mock = create_autospec(shop, instance=True)
    mock.charge.return_value = "mocked"

    async def answer(*args: Any) -> str:
        return f"mocked {args}"

    mock.charge.side_effect = answer
    async with Engine(
        "memory://", definitions=[flow, shop.charge], resources={shop: mock}
    ) as engine:
        assert await engine.execute(flow()) == "mocked (5,)"
