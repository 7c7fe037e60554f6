"""`@schedule`, the sync facade, and several engines that declare the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import SyncEngine, schedule, schedule_spec, workflow
from durable.api.definitions import WORKFLOWS
from durable.errors import DefinitionError, InvalidScheduleError
from durable.schedules.declared import DECLARED
from durable.testing.environment import TestEnvironment


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    before = dict(DECLARED)
    yield
    DECLARED.clear()
    DECLARED.update(before)


@workflow(name="declared.report")
async def report(team: str = "all") -> str:
    return team


def declare(*when: Any, **options: Any) -> None:
    schedule(*when, id="report", **options)(report)


async def test_engine_that_opens_creates_and_later_changes_what_is_declared(
    database: str,
) -> None:
    declare("@hourly", arguments=("ours",))
    async with TestEnvironment(database) as env:
        clock = env.clock
        await env.sleep("1h")
        run = await env.get("report-2025-01-01T01:00:00Z")
        assert await run.result() == "ours"
        await env.schedules.get("report").pause("by an operator")
    declare("@daily")
    async with TestEnvironment(database, clock=clock) as env:
        found = await env.schedules.get("report").describe()
        assert found.definition.spec == schedule_spec("@daily")
        assert (found.paused, found.note) == (True, "by an operator")
        assert found.counts.actions == 1
        version = found.version
    async with TestEnvironment(database, clock=clock) as env:
        found = await env.schedules.get("report").describe()
        assert found.version == version


async def test_operators_change_stays_until_the_declaration_changes() -> None:
    declare("@hourly")
    async with TestEnvironment("memory://operator") as env:
        handle = env.schedules.get("report")
        await handle.update(lambda old: old.replace(spec=schedule_spec("@weekly")))
        async with TestEnvironment("memory://operator", clock=env.clock):
            found = await handle.describe()
            assert found.definition.spec == schedule_spec("@weekly")


async def test_many_engines_at_once_make_one_schedule() -> None:
    declare("@hourly")
    async with TestEnvironment("memory://many") as env:
        others = [TestEnvironment("memory://many", clock=env.clock) for _ in range(5)]
        await asyncio.gather(*[other.open() for other in others])
        await env.sleep("2h")
        assert len(await env.schedules.list()) == 1
        assert len(await env.list(workflow_type="declared.report")) == 2
        for other in others:
            await other.close()


async def test_deploys_declare_the_same_anew_and_it_stays_one_schedule(
    forgotten: None,
) -> None:
    """Users met one more copy with each deploy: its identity was that of the code."""
    clock = None
    seen = set()
    for number in range(10):
        DECLARED.clear()
        WORKFLOWS.pop("declared.deployed", None)

        @workflow(name="declared.deployed", version=f"1.0.{number}")
        async def deployed() -> None: ...

        schedule("@hourly", id="deployed", timezone="Europe/Berlin")(deployed)
        deploy = [
            TestEnvironment("memory://deploys", clock=clock, definitions=[deployed])
        ]
        await deploy[0].open()
        clock = deploy[0].clock
        for _ in range(2):
            deploy.append(TestEnvironment("memory://deploys", clock=clock))
            await deploy[-1].open()
        await deploy[0].sleep("30m")
        (found,) = await deploy[0].schedules.list()
        seen.add((found.schedule_id, found.version, found.created_at))
        runs = await deploy[0].list(workflow_type="declared.deployed")
        assert len(runs) == (number + 1) // 2
        for one in deploy:
            await one.close()
    assert len(seen) == 1


async def test_engine_without_the_workflow_leaves_it_alone() -> None:
    @workflow(name="declared.other")
    async def other() -> None: ...

    declare("@hourly")
    async with TestEnvironment(definitions=[other]) as env:
        assert await env.schedules.list() == []
        await env.schedules.create("o", other(), "@hourly")
        await env.sleep("1h")
        assert (await env.schedules.get("o").describe()).counts.actions == 1


async def test_decorator_taken_away_leaves_the_schedule() -> None:
    declare("@hourly")
    async with TestEnvironment("memory://away") as env:
        DECLARED.clear()
        async with TestEnvironment("memory://away", clock=env.clock):
            assert len(await env.schedules.list()) == 1


async def test_declaration_that_is_over_is_logged_and_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    declare("0 0 1 1 * 2020")
    with caplog.at_level(logging.WARNING, "durable.schedules"):
        async with TestEnvironment() as env:
            assert await env.schedules.list() == []
    assert "'report' is not as declared" in caplog.text


def test_wrong_declaration_is_refused_where_it_stands() -> None:
    with pytest.raises(InvalidScheduleError, match="column 3"):
        declare("0 25 * * *")
    with pytest.raises(DefinitionError, match="Put it above @workflow"):
        schedule("@daily")(print)
    with pytest.raises(DefinitionError, match=r"cannot call 'declared.needy'"):

        @schedule("@daily")
        @workflow(name="declared.needy")
        async def needy(team: str) -> None: ...

    declare("@daily")
    with pytest.raises(DefinitionError, match="another id"):

        @schedule("@daily", id="report")
        @workflow(name="declared.second")
        async def second() -> None: ...


def test_sync_facade_does_all_the_same(tmp_path: Path) -> None:
    with SyncEngine(f"sqlite:///{tmp_path / 's.db'}") as engine:
        handle = engine.schedules.create("s", report("x"), "0 0 1 1 *", jitter="5m")
        assert engine.schedules.get("s").describe().counts.actions == 0
        first = engine.get(handle.trigger())
        assert first.result(timeout=20) == "x"
        handle.pause("p")
        handle.unpause("u")
        found = handle.update(lambda old: old.replace(note="n"))
        assert (found.note, found.paused) == ("n", False)
        start = found.created_at - timedelta(days=800)
        assert handle.backfill(start, found.created_at, overlap="buffer_all") == 2
        assert [one.schedule_id for one in engine.schedules.list()] == ["s"]
        handle.delete()
        assert engine.schedules.list() == []
        assert repr(handle) == "<schedule 's'>"
