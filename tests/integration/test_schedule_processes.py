"""One schedule in many processes: declared once, and no time lost when some die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, workflow

pytestmark = [pytest.mark.slow, pytest.mark.sweep(1)]

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = """
import asyncio
import sys
from durable import Engine, schedule, workflow

@schedule("@every 1s")
@workflow(name="processes.tick")
async def tick():
    pass

@schedule("30 9 * * *", timezone="Europe/Berlin")
@workflow(name="processes.daily")
async def daily():
    pass

async def main():
    async with Engine(sys.argv[1]) as engine:
        found = await engine.schedules.get("processes.daily").describe()
        print(found.next[0].isoformat(), flush=True)
        if "stay" in sys.argv:
            await asyncio.sleep(3600)

asyncio.run(main())
"""
WAIT_SECONDS_MAX = 40


@workflow(name="processes.tick")
async def tick() -> None: ...


Process = subprocess.Popen[str]


@pytest.fixture(params=["sqlite", "postgres_url", "mariadb_url"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that processes share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/runs.db"
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    found: list[Process] = []
    yield found
    for process in found:
        process.kill()
        process.communicate()


def launch(
    processes: list[Process], url: str, *words: str, zone: str = "UTC"
) -> Process:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM, url, *words],
        cwd=ROOT,
        env={**os.environ, "TZ": zone},
        stdout=subprocess.PIPE,
        text=True,
    )
    processes.append(process)
    return process


def hear(process: Process) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_schedule_that_many_processes_declare_is_one(
    database: str, processes: list[Process]
) -> None:
    # Each deploy declares it anew, in several processes and whatever zone they are in.
    zones = ["UTC", "America/New_York", "Pacific/Apia"]
    said = set()
    for _ in range(2):
        deploy = [launch(processes, database, zone=zone) for zone in zones]
        said |= {hear(process) for process in deploy}
        assert [process.wait(WAIT_SECONDS_MAX) for process in deploy] == [0] * 3

    assert len(said) == 1, "the zone of a process changed what a schedule means"


async def scheduled(engine: Engine) -> list[str]:
    runs: list[Any] = []
    while True:
        after = runs[-1].cursor if runs else None
        page = await engine.list(workflow_type="processes.tick", after=after)
        if not page:
            return sorted(run.workflow_id for run in runs)
        runs += page


async def test_no_second_is_lost_while_workers_die(
    database: str, processes: list[Process]
) -> None:
    one = launch(processes, database, "stay")
    hear(one)
    began = datetime.now(UTC)
    other = launch(processes, database, "stay")
    hear(other)
    until = time.monotonic() + 3
    async with Engine(database, worker=False) as client:
        while time.monotonic() < until:
            await scheduled(client)  # the database is busy with others, too
        one.send_signal(signal.SIGKILL)
        ended = datetime.now(UTC) + timedelta(seconds=2)
        wanted = {
            f"processes.tick-{second:%Y-%m-%dT%H:%M:%SZ}"
            for number in range(1, int((ended - began).total_seconds()))
            if (second := began.replace(microsecond=0) + timedelta(seconds=number))
        }
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not wanted <= set(found := await scheduled(client)):
            assert time.monotonic() < deadline, sorted(wanted - set(found))[:5]
    assert len(found) == len(set(found))
