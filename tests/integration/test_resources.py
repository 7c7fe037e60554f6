"""Activities get resources by class or name, and methods their object."""

from __future__ import annotations

import asyncio

import pytest

from durable import Engine, Saga, activity, resource, workflow
from durable.core.history.events import ActivityTaskScheduled
from durable.errors import (
    DurableError,
    ResourceError,
    WorkflowFailedError,
    WorkflowStuckError,
)
from durable.testing import TestEnvironment
from tests.integration.pools import App, Pool, make_shop

pytestmark = pytest.mark.usefixtures("forgotten")


@pytest.fixture
def app() -> App:
    return App()


# --- given ----------------------------------------------------------------------------


async def test_values_come_by_class_and_by_name_and_are_not_recorded(
    app: App, database: str
) -> None:
    given: dict[type | str, object] = {Pool: Pool("a"), "packing": Pool("b")}
    definitions = [app.order, app.reserve, app.pack]
    async with Engine(database, definitions=definitions, resources=given) as engine:
        run = await engine.start(app.order("tea"))
        assert await run.result() == ["tea by a", "tea*2 by b"]
        inputs = [
            [payload.json for payload in event.attributes.input]
            for event in await run.history()
            if isinstance(event.attributes, ActivityTaskScheduled)
        ]
    assert [[bytes(json) for json in input] for input in inputs] == [
        [b'"tea"'],
        [b'"tea"', b"2"],
    ]


async def test_a_replayed_run_is_given_the_resources_of_the_new_engine(
    app: App, database: str
) -> None:
    gate = asyncio.Event()

    @activity(name="resources.wait", start_to_close_timeout=1)
    async def wait(*, pool: Pool = resource(Pool)) -> str:
        await gate.wait()
        return pool.use("waited")

    @workflow(name="resources.waiting")
    async def waiting() -> list[str]:
        return [await app.reserve("tea"), await wait()]

    definitions = [waiting, wait, app.reserve]
    first, second = Pool("first"), Pool("second")
    async with TestEnvironment(
        database, definitions=definitions, resources={Pool: first}, drain_timeout=0
    ) as env:
        await env.start(waiting(), id="w")
        await env.sleep(0.5)
    gate.set()
    async with TestEnvironment(
        database,
        definitions=definitions,
        resources={Pool: second},
        clock=env.clock,
    ) as env:
        assert await (await env.get("w")).result() == [
            "tea by first",
            "waited by second",
        ]
    assert (first.log, second.log) == (["tea"], ["waited"])


async def test_an_activity_that_calls_another_one_hands_its_resources_on(
    app: App,
) -> None:
    shop = make_shop()

    @activity(name="resources.outer")
    async def outer() -> list[str]:
        return [await app.reserve("tea"), str(await shop.count(["x"]))]

    @workflow(name="resources.nested")
    async def nested() -> list[str]:
        return await outer()

    given = {Pool: Pool("a"), shop: shop(Pool("b"))}
    async with Engine(
        "memory://", definitions=[nested, outer], resources=given
    ) as engine:
        assert await engine.execute(nested()) == ["tea by a", "1"]


async def test_methods_of_an_object_are_activities_on_the_class_and_on_objects(
    database: str,
) -> None:
    shop = make_shop()
    elsewhere = shop(Pool("elsewhere"))

    @workflow(name="resources.shopping")
    async def shopping() -> list[object]:
        return [
            await shop.charge(5),
            await elsewhere.charge(6),
            await shop.count.options(summary="counted")(["a", "b"]),
        ]

    pool = Pool("shop's")
    async with TestEnvironment(
        database,
        definitions=[shopping, shop],
        resources={Pool: Pool("other"), shop: shop(pool)},
    ) as env:
        run = await env.start(shopping())
        assert await run.result() == ["charge 5 by shop's", "charge 6 by shop's", 2]
        scheduled = [
            event.attributes
            for event in await run.history()
            if isinstance(event.attributes, ActivityTaskScheduled)
        ]
        assert [len(event.input) for event in scheduled] == [1, 1, 1]
        names = [event.activity_type for event in scheduled]
        assert names == ["Shop.charge", "Shop.charge", "Shop.count"]
    assert pool.log == ["failed attempt", "charge 5", "charge 6", "other"]


async def test_a_method_is_undone_by_a_method_of_the_same_object() -> None:
    shop = make_shop()

    @workflow(name="resources.undone")
    async def undone() -> None:
        async with Saga():
            await shop.charge(5)
            raise ValueError("no")

    pool = Pool()
    async with TestEnvironment(
        definitions=[undone, shop], resources={shop: shop(pool)}
    ) as env:
        with pytest.raises(WorkflowFailedError, match="ValueError: no"):
            await env.execute(undone())
    assert pool.log[1:] == ["charge 5", "refund of charge 5 by pool, 5"]


async def test_a_pool_that_is_passed_as_an_argument_leads_to_resources() -> None:
    @activity(name="resources.handed")
    async def handed(pool: Pool) -> None: ...

    @workflow(name="resources.handing")
    async def handing() -> None:
        await handed(Pool())

    async with TestEnvironment(definitions=[handing, handed]) as env:
        with pytest.raises(WorkflowStuckError, match=r"a client by resource\(\)"):
            await env.execute(handing())


async def test_workflow_code_cannot_ask_for_a_resource(app: App) -> None:
    @workflow(name="resources.asking")
    async def asking() -> str:
        return str(resource(Pool))

    @workflow(name="resources.passing")
    async def passing() -> str:
        return await app.reserve("tea", pool=Pool())

    for flow, complaint in ((asking, "workflow code"), (passing, "the engine gives")):
        async with TestEnvironment(
            definitions=[flow, app.reserve], resources={Pool: Pool()}
        ) as env:
            with pytest.raises(WorkflowStuckError, match=complaint):
                await env.execute(flow())


# --- tests of users -------------------------------------------------------------------


async def test_a_test_gives_fakes_and_what_it_lacks_is_named_when_it_is_called(
    app: App,
) -> None:
    definitions = [app.order, app.reserve, app.pack]
    async with TestEnvironment(
        definitions=definitions, resources={Pool: Pool("fake")}
    ) as env:
        with pytest.raises(WorkflowStuckError, match="takes 'packing' as 'pool'"):
            await env.execute(app.order("tea"))
    async with TestEnvironment(
        definitions=definitions,
        resources={Pool: Pool("fake")},
        mocks={app.pack: lambda sku, size: f"mocked {sku} {size}"},
    ) as env:
        assert await env.execute(app.order("tea")) == ["tea by fake", "mocked tea 2"]


async def test_a_run_that_lacked_a_resource_goes_on_once_an_engine_has_it(
    app: App, database: str
) -> None:
    definitions = [app.order, app.reserve, app.pack]
    pool = Pool("a")
    async with TestEnvironment(
        database, definitions=definitions, resources={Pool: pool}
    ) as env:
        run = await env.start(app.order("tea"), id="o")
        with pytest.raises(WorkflowStuckError):
            await run.result()
    async with TestEnvironment(
        database,
        definitions=definitions,
        resources={Pool: pool, "packing": Pool("b")},
        clock=env.clock,
    ) as env:
        assert await (await env.get("o")).result() == ["tea by a", "tea*2 by b"]
    assert pool.log == ["tea"]


async def test_a_fake_object_runs_its_own_methods() -> None:
    shop = make_shop()

    class Fake:
        async def charge(self, cents: int) -> str:
            return f"fake {cents}"

    class Broken: ...

    @workflow(name="resources.faked")
    async def faked() -> str:
        return str(await shop.charge(5))

    class Derived(shop):  # type: ignore[valid-type, misc]  # a class made by a function
        async def charge(self, cents: int) -> str:
            return f"derived {cents}"

    for fake, answer in ((Fake(), "fake 5"), (Derived(Pool()), "derived 5")):
        async with TestEnvironment(
            definitions=[faked, shop], resources={shop: fake}
        ) as env:
            assert await env.execute(faked()) == answer
    async with TestEnvironment(
        definitions=[faked, shop], resources={shop: Broken()}
    ) as env:
        with pytest.raises(WorkflowStuckError, match="has no method 'charge'"):
            await env.execute(faked())


async def test_definitions_take_the_method_of_a_class_and_not_of_an_object() -> None:
    shop = make_shop()
    with pytest.raises(DurableError, match="of an object"):
        Engine("memory://", definitions=[shop(Pool()).charge])
    engine = Engine("memory://", definitions=[shop.charge], resources={})
    with pytest.raises(ResourceError, match=r"Shop\.charge.*Shop\.refund"):
        await engine.open()
