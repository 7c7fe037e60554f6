"""Versions of one workflow side by side: each run goes to its own code."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, Signal, activity, info, patched, workflow
from durable.api.definitions import WORKFLOWS
from durable.api.registry import REGISTRY
from durable.errors import (
    DefinitionError,
    InvalidOptionError,
    NotRegisteredError,
    VersionDeprecatedError,
    WorkflowStuckError,
)
from durable.testing.driver import Driver

go = Signal("go", int)


@activity(name="versions.price", retry=None)
async def price(number: int) -> int:
    return number * 10


@workflow(name="versions.order", version="2.0.0")
async def order(number: int) -> str:
    await go.receive()
    return f"two {await price(number)}"


@order.version("1.4.0")
async def order_1_4(number: int) -> str:
    paid = await price(number)
    await go.receive()
    return f"one {paid}"


@workflow(name="versions.compatible", version="2.1.0", compatible_with=">=2,<3")
async def compatible(number: int) -> str:
    await go.receive()
    kind = "new" if patched("kind") else "old"
    return f"{kind} {info().version} {number}"


@compatible.version("2.0.0")
async def compatible_2_0(number: int) -> str:
    await go.receive()
    return f"plain {number}"


@compatible.version("1.0.0")
async def compatible_1_0(number: int) -> str:
    await go.receive()
    return f"first {number}"


OLD = [order_1_4, compatible_2_0, compatible_1_0, price]
NEW = [order, compatible, price]


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while True:
            if await what():
                return
            await asyncio.sleep(0.01)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/versions.db"


async def begin(url: str) -> None:
    """Start a run of each old version, and leave them at rest."""
    async with Engine(url, definitions=OLD) as engine:
        for name, call in {
            "order": order_1_4(1),
            "2.0": compatible_2_0(2),
            "1.0": compatible_1_0(3),
        }.items():
            run = await engine.start(call, id=name)

            async def is_there(run: Any = run, name: str = name) -> bool:
                return len(await run.history()) >= (3 if name == "order" else 1)

            await until(is_there)


async def test_each_run_goes_to_the_code_that_began_it(url: str) -> None:
    await begin(url)
    async with Engine(url, definitions=[*OLD, *NEW]) as engine:
        await engine.start(order(5), id="newest")
        await engine.start(order.name, 6, id="by name")
        for name in ("order", "newest", "by name"):
            run = await engine.get(name)
            await run.signal(go(1))
        results = [
            await (await engine.get(name)).result()
            for name in ("order", "newest", "by name")
        ]
        versions = [run.version for run in await engine.list()]

    assert results == ["one 10", "two 50", "two 60"]
    assert sorted(str(version) for version in versions) == [
        "1.0.0",
        "1.4.0",
        "2.0.0",
        "2.0.0",
        "2.0.0",
    ]


async def test_run_of_a_version_that_nobody_has_waits_until_somebody_comes(
    url: str,
) -> None:
    await begin(url)
    async with Engine(url, definitions=NEW) as engine:
        waiting = await engine.get("order")
        await waiting.signal(go(1))
        other = await engine.start(order(7), id="other")
        await other.signal(go(1))
        assert await other.result() == "two 70"
        description = await waiting.describe()
        assert (str(description.status), description.stuck) == ("running", None)
        async with Engine(url, definitions=OLD):
            assert await waiting.result() == "one 10"


async def test_newer_code_goes_on_with_runs_that_it_is_compatible_with(
    url: str,
) -> None:
    await begin(url)
    async with Engine(url, definitions=NEW) as engine:
        for name in ("2.0", "1.0"):
            await (await engine.get(name)).signal(go(1))
        assert await (await engine.get("2.0")).result() == "new 2.0.0 2"
        first = await engine.get("1.0")
        assert str((await first.describe()).status) == "running"
        async with Engine(url, definitions=OLD):
            assert await first.result() == "first 3"


async def test_own_code_is_asked_before_compatible_code(url: str) -> None:
    await begin(url)
    async with Engine(url, definitions=[*NEW, *OLD]) as engine:
        run = await engine.get("2.0")
        await run.signal(go(1))
        assert await run.result() == "plain 2"


SHOP = """
@workflow(name="versions.kept")
async def kept(number: int) -> str:
    found = [await price(number), await price(number + 1)]
    await go.receive()
    return f"{found}"


@workflow(name="versions.beside")
async def beside() -> str:
    return "BESIDE"
"""
REFORMATTED = SHOP.replace("    found", "\n    # Both.\n    found").replace(
    "await price(number), await price(number + 1)",
    "(\n        await price(number)\n    ), await price(1 + number),",
)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("edited", "says"),
    [(REFORMATTED, "BESIDE"), (SHOP.replace("BESIDE", "changed"), "changed")],
    ids=["reformatted", "another workflow edited"],
)
async def test_what_does_not_change_a_run_strands_none(
    url: str, edited: str, says: str
) -> None:
    """Users met runs that any edit of any workflow had stranded."""

    def deploy(source: str) -> list[Any]:
        for name in ("versions.kept", "versions.beside"):
            WORKFLOWS.pop(name, None)
        space: dict[str, Any] = dict(globals())
        exec(source, space)  # noqa: S102 - as two deploys of one module
        return [space["kept"], space["beside"], price]

    async with Engine(url, definitions=deploy(SHOP)) as engine:
        run = await engine.start("versions.kept", 1, id="k")

        async def waits() -> bool:
            kinds = [type(e.attributes).__name__ for e in await run.history()]
            return kinds.count("ActivityTaskCompleted") == 2

        await until(waits)
    async with Engine(url, definitions=deploy(edited)) as engine:
        run = await engine.get("k")
        await run.signal(go(1))
        assert await run.result(timeout=20) == "[10, 20]"
        assert await engine.execute("versions.beside") == says


@pytest.mark.slow
@pytest.mark.usefixtures("forgotten")
async def test_hundreds_of_versions_are_in_nobodys_way() -> None:
    """Users met a bound of versions, from which on each deploy was refused."""

    @workflow(name="versions.many", version="1.0.300", compatible_with=">=1,<2")
    async def many() -> str:
        return f"{info().version}"

    old: list[Any] = []
    for number in range(300):

        @many.version(f"1.0.{number}")
        async def one() -> str:
            return "old"

        old.append(one)
    url = "memory://versions-many"
    async with Engine(url, definitions=old, worker=False) as client:
        for code in old:
            await client.start(code(), id=str(code.own_version))
    async with Engine(url, definitions=[many]) as engine:
        assert await engine.execute(many(), id="new") == "1.0.300"
        for number in (0, 150, 299):
            run = await engine.get(f"1.0.{number}")
            assert await run.result(timeout=20) == f"1.0.{number}"


# --- definitions ----------------------------------------------------------------------


def test_highest_version_stands_for_the_name() -> None:
    assert REGISTRY.workflows["versions.order"] is order
    assert REGISTRY.find_workflow("versions.order", "1.4.0") is order_1_4
    assert REGISTRY.find_workflow("versions.order", "1.5.0") is None
    assert REGISTRY.find_workflow("versions.order", None) is order
    assert REGISTRY.find_workflow("versions.compatible", "2.0.7") is compatible
    driver = Driver(order_1_4(1))
    driver.start()
    started: Any = driver.history[0].attributes
    assert REGISTRY.code_of(started) is order_1_4


def test_unknown_version_is_refused_in_words() -> None:
    started = Driver(order(1)).started()
    known = REGISTRY.limited_to([order_1_4])
    with pytest.raises(NotRegisteredError) as caught:
        known.code_of(started)
    assert "version '2.0.0'" in caught.value.message
    assert "here is: 1.4.0" in caught.value.message


def test_version_of_a_workflow_without_one_is_refused() -> None:
    @workflow(name="versions.plain")
    async def plain() -> None: ...

    with pytest.raises(DefinitionError, match="has no version itself"):
        plain.version("1.0.0")
    with pytest.raises(InvalidOptionError, match="which it is itself"):
        order.version("2.0.0")
    with pytest.raises(InvalidOptionError, match="at position 0 "):
        order.version("one")(order_1_4.function)
    with pytest.raises(InvalidOptionError, match="which has no version"):
        workflow(name="versions.bare", compatible_with=">=1")(order.function)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": "2"}, "version of workflow 'versions.bad' is '2': at position 1"),
        ({"version": "2.0.0", "compatible_with": ">1,,"}, "at position 3"),
        ({"version": "2.0.0", "deprecated": "soon"}, "give a day like"),
    ],
)
def test_malformed_option_is_refused_with_its_place(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        workflow(name="versions.bad", **options)(order.function)
    assert words in caught.value.message


async def test_deprecated_version_warns_and_is_refused_after_its_day(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @workflow(name="versions.aging", version="2.0.0")
    async def aging() -> str:
        return "new"

    @aging.version("1.0.0", deprecated="2999-12-31")
    async def aging_1() -> str:
        return "aging"

    @aging.version("0.9.0", deprecated="2020-01-31")
    async def aging_0() -> str:
        return "old"

    async with Engine("memory://", definitions=[aging, aging_1, aging_0]) as engine:
        with caplog.at_level(logging.WARNING, "durable.definitions"):
            assert await engine.execute(aging_1()) == "aging"
        assert "deprecated: it can be started until 2999-12-31" in caplog.text
        with pytest.raises(VersionDeprecatedError, match="until 2020-01-31"):
            await engine.start(aging_0())
        assert await engine.execute(aging()) == "new"


@pytest.mark.parametrize("wrong", [5, None, ""])
async def test_patch_whose_id_is_no_text_parks_the_run(wrong: Any) -> None:
    @workflow
    async def misnamed() -> bool:
        return patched(wrong)

    async with Engine("memory://", workflow_task_attempts=1) as engine:
        run = await engine.start(misnamed())
        with pytest.raises(WorkflowStuckError, match="the id of a patch is text"):
            await run.result()


@workflow(name="versions.mended", version="1.0.1", compatible_with=">=1,<2")
async def mended() -> str:
    return "mended"


@mended.version("1.0.0")
async def broken() -> str:
    raise NameError("a bug")


async def test_compatible_code_goes_on_with_runs_that_older_code_has_set_aside(
    url: str,
) -> None:
    async with Engine(url, definitions=[broken], workflow_task_attempts=1) as engine:
        run = await engine.start(broken(), id="w")
        with pytest.raises(WorkflowStuckError, match="a bug"):
            await run.result()
    async with Engine(url, definitions=[mended]) as engine:
        assert await (await engine.get("w")).result() == "mended"
