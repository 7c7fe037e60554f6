"""What schedules and batches promise, on servers: as in memory, and with other ids.

Where a server could differ: how it compares texts, whose time it goes by, what it locks
and reads. Workers die in `operating_kill.py`, the server at the end of this file.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from durable import (
    Attribute,
    Engine,
    Run,
    Signal,
    last_result,
    sleep,
    workflow,
)
from durable.batches import state
from durable.schedules.definition import ScheduleOverlap
from durable.testing.environment import TestEnvironment

pytestmark = pytest.mark.slow

IDS = ("Report", "report", "rêport", "100%_'\"\\")
"""Which a server may take for one another, or for something else."""
START = datetime(2025, 1, 1, tzinfo=UTC)
group = Attribute("operating_group", str)
note = Signal("operating.note", int)


@workflow(name="operating.nap")
async def nap(seconds: float) -> int:
    await sleep(seconds)
    return int(last_result(int) or 0) + 1


@workflow(name="operating.waits")
async def waits() -> int:
    return await note.receive()


@workflow(name="operating.collects")
async def collects(count: int) -> list[int]:
    return [await note.receive() for _ in range(count)]


DEFINITIONS = [nap, waits]


@pytest.fixture(params=["postgres_url", "mariadb_url"])
def server_url(request: pytest.FixtureRequest) -> str:
    """A database on each kind of server."""
    found: str = request.getfixturevalue(request.param)
    return found


def in_memory() -> str:
    """A database that nobody else has, for two engines one after the other."""
    return f"memory://{uuid.uuid4().hex}"


# --- schedules ------------------------------------------------------------------------


async def shown(env: TestEnvironment, ids: list[str]) -> dict[str, Any]:
    """What users see of schedules and of their runs, but for what is drawn."""
    found: dict[str, Any] = {}
    for id in ids:
        told = await env.schedules.get(id).describe()
        runs = await env.list(where=Run.schedule == id, limit=1_000)
        found[id] = (
            [(run.workflow_id, run.status, run.started_at) for run in told.recent],
            (told.waiting, told.counts, told.paused, told.note, told.next[:1]),
            sorted((r.workflow_id, r.status.value, r.started_at) for r in runs),
        )
    listed = await env.schedules.list(limit=100)
    found["listed"] = sorted(one.schedule_id for one in listed)
    return found


async def live(url: str) -> list[dict[str, Any]]:
    """Have schedules of each policy act, be asked for more, and miss an outage."""
    policies = [policy.value for policy in ScheduleOverlap]
    ids = [*policies, *IDS]
    told = []
    async with TestEnvironment(url, definitions=DEFINITIONS) as env:
        for id in ids:
            await env.schedules.create(
                id,
                nap(150),
                "@every 1m",
                overlap=id if id in policies else "buffer_all",
                catchup_window="5m",
                paused=id == IDS[3],
                remaining_actions=2 if id == IDS[0] else None,
            )
        await env.sleep("5m")
        told.append(await shown(env, ids))
        for id in ids:
            handle = env.schedules.get(id)
            await handle.pause("enough")
            if id in ("skip", *IDS):
                await handle.trigger(overlap="allow_all")
                await handle.backfill(
                    START - timedelta(minutes=1), START, overlap="allow_all"
                )
        await env.sleep("15m")
        told.append(await shown(env, ids))
        await env.schedules.get(IDS[1]).delete()
        ids.remove(IDS[1])
        for id in (IDS[2], "skip", "buffer_one"):
            await env.schedules.get(id).unpause()
        await env.settle()
        clock = env.clock
    clock.advance("20m")
    async with TestEnvironment(url, clock=clock, definitions=DEFINITIONS) as env:
        await env.sleep(1)
        told.append(await shown(env, ids))
    return told


async def test_schedules_do_the_same_on_a_server_whatever_they_are_called(
    server_url: str,
) -> None:
    assert await live(server_url) == await live(in_memory())


# --- batches --------------------------------------------------------------------------


async def act(url: str) -> list[Any]:
    """Have batches find runs by what a server may compare in its own way."""
    told: list[Any] = []
    async with TestEnvironment(url, definitions=DEFINITIONS) as env:
        for number, name in enumerate(("A", "a", "á", "a_", "a%", "ab", "A", "a")):
            await env.start(waits(), id=f"{name}{number}", attributes={group: name})
        conditions: list[Any] = [
            group == "a",
            group.starts_with("a"),
            group.starts_with("a_"),
            "operating_group IN ('A', 'a%') AND WorkflowId > 'A0'",
            ~(group == "a") & (Run.id != "A0"),
        ]
        told += [await env.batch(where=where).count() for where in conditions]
        dry = await env.batch(where=group == "a").count(only_open=True)
        told.append((dry, len(await env.list(status="completed"))))
        began = env.clock.now()
        for where, action in (
            (group == "a", "signal"),
            (group.starts_with("a_"), "terminate"),
            (group == "A", "pause"),
            (Run.paused == True, "resume"),  # noqa: E712 - a condition
            (group == "A", "cancel"),
            (group == "a", "reset"),
            (Run.status == "terminated", "delete"),
        ):
            chosen: Any = env.batch(where=where)
            words = (note(7),) if action == "signal" else ()
            handle = await getattr(chosen, action)(*words, rate=1)
            done = await handle.result()
            told.append((action, done.done, done.skipped, done.failed))
            await env.settle()
        told.append(env.clock.now() - began)
        runs = await env.list(limit=100)
        told.append(sorted((run.workflow_id, run.status.value) for run in runs))
    return told


async def test_batches_do_the_same_on_a_server_and_as_fast_as_they_may(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PAGE", 2)
    assert await act(server_url) == await act(in_memory())


async def test_two_batches_at_once_touch_each_run_as_often_as_each_is_to(
    server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They lock the same rows, while another worker has these runs."""
    monkeypatch.setattr(state, "PAGE", 4)
    definitions = [collects]
    async with (
        Engine(server_url, definitions=definitions) as engine,
        Engine(server_url, definitions=definitions) as other,
    ):
        for number in range(12):
            await engine.start(collects(2), id=f"r{number}", attributes={group: "both"})
        chosen = [e.batch(where=group == "both") for e in (engine, other)]
        for batch in await asyncio.gather(
            *(one.signal(note(n), rate=None) for n, one in enumerate(chosen))
        ):
            done = await batch.result(timeout=40)
            assert (done.done, done.skipped, done.failed) == (12, {}, {})
        for number in range(12):
            run = await engine.get(f"r{number}", workflow=collects)
            assert sorted(await run.result(timeout=20)) == [0, 1]
        ends = await asyncio.gather(*(one.delete(rate=None) for one in chosen))
        gone = [await batch.result(timeout=40) for batch in ends]
        # Who comes second finds nothing, or what has gone meanwhile.
        assert sum(done.done for done in gone) == 12
        assert all(set(done.skipped) <= {"gone"} for done in gone)
        assert await engine.list() == []


# --- the server dies ------------------------------------------------------------------


@workflow(name="operating.tick")
async def tick() -> None: ...


@pytest.fixture(params=["own_postgres", "own_mariadb"])
def server(request: pytest.FixtureRequest) -> Any:
    """A server that may be killed."""
    return request.getfixturevalue(request.param)


@pytest.mark.timeout(120)
async def test_times_that_a_server_was_away_at_are_made_up_for_once(
    server: Any,
) -> None:
    url = server.create_database()
    definitions = [tick]
    kept = ("buffer_all", "allow_all")
    async with (
        Engine(url, definitions=definitions) as engine,
        Engine(url, definitions=definitions),
    ):
        for policy in kept:
            await engine.schedules.create(policy, tick(), "@every 1s", overlap=policy)

        async def times_of(policy: str) -> list[datetime]:
            where = (Run.schedule == policy) & (Run.status == "completed")
            runs = await engine.list(where=where, limit=1_000)
            ids = [run.workflow_id.removeprefix(f"{policy}-") for run in runs]
            return sorted(map(datetime.fromisoformat, ids))

        async def until(policy: str, at: datetime) -> list[datetime]:
            async with asyncio.timeout(60):
                while not (found := await times_of(policy)) or found[-1] < at:  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.05)
            return found

        before = [await until(policy, START) for policy in kept]
        await asyncio.to_thread(server.kill)
        last = max(found[-1] for found in before)
        while datetime.now(UTC) < last + timedelta(seconds=3):  # noqa: ASYNC110 - it is to be away
            await asyncio.sleep(0.05)
        back = datetime.now(UTC)
        await asyncio.to_thread(server.start)

        for policy in kept:
            found = await until(policy, back)
            steps = {later - at for at, later in itertools.pairwise(found)}
            assert steps == {timedelta(seconds=1)}, policy
