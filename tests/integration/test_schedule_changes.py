"""What a schedule means stays, whatever zones change and whatever write fails."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg
import pytest

from durable import Engine, Run, schedule_spec, workflow
from durable.clock import SystemClock
from durable.errors import NoAnswerError, ScheduleNotFoundError
from durable.schedules.schedule_workflow import PREFIX
from durable.testing.environment import TestEnvironment
from tests.servers import MariaDatabases

ZONES = [
    ("UTC", "Europe/Berlin"),
    ("Pacific/Apia", "America/New_York"),
    ("America/St_Johns", "Asia/Kolkata"),
    ("Asia/Kolkata", "UTC"),
]
"""Of the machine, and of the schedule, for twelve hours each."""


@workflow(name="changes.nap")
async def nap() -> None: ...


@pytest.fixture
def move_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def move(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


def meant(zone: str, begin: datetime, end: datetime, hours: set[int]) -> set[datetime]:
    """The instants at which clocks in a zone show one of these hours, sharp."""
    minutes = round((end - begin) / timedelta(minutes=1))
    instants = {begin + timedelta(minutes=n + 1) for n in range(minutes)}
    local = {instant: instant.astimezone(ZoneInfo(zone)) for instant in instants}
    return {i for i, at in local.items() if at.minute == 0 and at.hour in hours}


async def move_schedule(env: TestEnvironment, id: str, text: str, zone: str) -> None:
    spec = schedule_spec(text, timezone=zone)
    await env.schedules.get(id).update(lambda old: old.replace(spec=spec))


async def test_zones_change_and_no_time_is_acted_for_twice_or_never(
    database: str, move_machine: Callable[[str], None]
) -> None:
    """Users met thousands of "missed" times at once, or none for an hour."""
    clock = None
    at = datetime(2025, 1, 1, 0, 10, tzinfo=UTC)
    expected: dict[str, set[datetime]] = {"hourly": set(), "office": set()}
    texts = {"hourly": "0 * * * *", "office": "0 9,21 * * *"}
    for machine, zone in ZONES:
        move_machine(machine)
        async with TestEnvironment(database, clock=clock) as env:
            for id, text in texts.items():
                if clock is None:
                    await env.schedules.create(id, nap(), text, timezone=zone)
                await move_schedule(env, id, text, zone)
            if clock is None:
                await env.sleep("10m")
            clock = env.clock
            end = at + timedelta(hours=12)
            await env.sleep("12h")
            expected["hourly"] |= meant(zone, at, end, set(range(24)))
            expected["office"] |= meant(zone, at, end, {9, 21})
            at = end
            for id, instants in expected.items():
                runs = await env.list(where=Run.schedule == id, limit=1_000)
                names = {f"{id}-{i:%Y-%m-%dT%H:%M:%SZ}" for i in instants}
                assert sorted(run.workflow_id for run in runs) == sorted(names)
                counts = (await env.schedules.get(id).describe()).counts
                assert (counts.missed, counts.skipped) == (0, 0)


@pytest.fixture(params=["postgres_url", "mariadb_url"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database whose server says that it is far from here."""
    url: str = request.getfixturevalue(request.param)
    if request.param == "postgres_url":
        with psycopg.connect(url, autocommit=True) as connection:
            name = url.rpartition("/")[2]
            connection.execute(f"ALTER DATABASE {name} SET timezone = 'Pacific/Apia'")
        yield url
        return
    # Ahead of here: a steady clock does not follow one that is behind.
    server: MariaDatabases = request.getfixturevalue("mariadb_server")
    server.execute("SET GLOBAL time_zone = '+13:00'")
    yield url
    server.execute("SET GLOBAL time_zone = 'SYSTEM'")


@pytest.mark.slow
async def test_zone_of_a_server_changes_no_instant(elsewhere: str) -> None:
    async with Engine(elsewhere, definitions=[nap]) as engine:
        handle = await engine.schedules.create("s", nap(), "0 0 1 1 *")
        run = await engine.get(await handle.trigger())
        await run.result(timeout=20)
        here = datetime.fromtimestamp(SystemClock().now() / 1_000_000, UTC)
        began = (await run.describe()).started_at
        created = (await handle.describe()).created_at
        for found in (began, created):
            assert abs(found - here) < timedelta(minutes=5)


async def test_deletion_whose_write_fails_can_be_asked_for_again(
    tmp_path: Path,
) -> None:
    """Users met a schedule that stayed listed, and whose deletion "has completed"."""
    path = tmp_path / "runs.db"

    def ask(statement: str) -> None:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(statement)

    async with TestEnvironment(f"sqlite:///{path}") as env:
        handle = await env.schedules.create("s", nap(), "@hourly")
        await env.sleep("90m")
        await asyncio.to_thread(
            ask,
            "CREATE TRIGGER no BEFORE UPDATE ON durable_runs"
            f" WHEN old.workflow_id = '{PREFIX}s' AND new.closed_at IS NOT NULL"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END",
        )
        with pytest.raises(NoAnswerError):
            await handle.delete()
        assert [one.schedule_id for one in await env.schedules.list()] == ["s"]
        await asyncio.to_thread(ask, "DROP TRIGGER no")

        await handle.delete()
        await handle.delete()
        assert await env.schedules.list() == []
        with pytest.raises(ScheduleNotFoundError):
            await handle.describe()
        await env.schedules.create("s", nap(), "@daily")
        await env.sleep("1d")
        assert len(await env.list(where=Run.schedule == "s")) == 2
