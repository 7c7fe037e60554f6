"""Runs of every kind, and a database of them to plant faults in."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, RetryPolicy, activity, sleep, workflow
from durable.doctor.doctor import examine
from durable.doctor.findings import Finding
from durable.store.connect import connect

HOUR = 3_600 * 1_000_000
QUICK = RetryPolicy(max_attempts=3, initial_interval=0.01)
tries: dict[str, int] = {}


@activity(name="doctor_add")
async def add(left: int, right: int) -> int:
    return left + right


@activity(name="doctor_flaky", retry=QUICK)
def flaky(key: str) -> int:
    tries[key] = tries.get(key, 0) + 1
    if tries[key] < 3:
        raise ValueError("not yet")
    return tries[key]


@activity(name="doctor_hang", retry=None)
async def hang() -> None:
    await asyncio.Event().wait()


@workflow(name="doctor_adding")
async def adding(count: int) -> int:
    total = 0
    for index in range(count):
        total = await add(total, index)
    return total


@workflow(name="doctor_retrying")
async def retrying(key: str) -> int:
    return await flaky(key)


@workflow(name="doctor_failing")
async def failing() -> None:
    await add(1, 2)
    raise RuntimeError("as planned")


@workflow(name="doctor_sleeping")
async def sleeping() -> int:
    total = await add(1, 2)
    await sleep("1h")
    return total


@workflow(name="doctor_hanging")
async def hanging() -> None:
    await hang()


@workflow(name="doctor_timing_out", run_timeout=0.05)
async def timing_out() -> None:
    await sleep("1h")


@workflow(name="doctor_forever")
async def forever() -> None:
    await asyncio.Event().wait()


@workflow(name="doctor_buggy")
async def buggy() -> None:
    [][0]


class StillClock:
    """A clock that stands still: how slow a machine is makes no findings."""

    def __init__(self, instant: int) -> None:
        self._instant = instant

    def now(self) -> int:
        return self._instant


async def run_all_kinds(url: str) -> None:
    async with Engine(url, drain_timeout=0.05) as engine:
        await engine.execute(adding(3), id="added")
        await engine.execute(retrying("once"), id="retried")
        for ending, call in (("failed", failing()), ("timed-out", timing_out())):
            with pytest.raises(Exception, match=ending):
                await engine.execute(call, id=ending)
        cancelled = await engine.start(sleeping(), id="cancelled")
        await cancelled.cancel("enough")
        terminated = await engine.start(sleeping(), id="terminated")
        await terminated.terminate("enough")
        for handle in (cancelled, terminated):
            with pytest.raises(Exception, match=handle.workflow_id):
                await handle.result()
        await engine.start(sleeping(), id="sleeping")
        await engine.start(hanging(), id="hanging")
        await wait_until(engine, "sleeping", "TimerStarted")


async def wait_until(engine: Engine, workflow_id: str, event: str) -> None:
    handle = await engine.get(workflow_id)
    async with asyncio.timeout(10):
        while True:
            last = (await handle.history())[-1]
            if type(last.attributes).__name__ == event:
                return
            await asyncio.sleep(0.01)


class Patient:
    """A database file to plant faults in and have examined."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._now = self._latest() if path.exists() else None

    def now(self) -> int:
        """A second after the last that was done before anything was planted."""
        if self._now is None:
            self._now = self._latest()
        return self._now

    def _latest(self) -> int:
        with closing(sqlite3.connect(self.path)) as connection:
            row = connection.execute("SELECT max(time) FROM durable_history").fetchone()
        return int(row[0]) + 1_000_000

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def execute(self, statement: str, *values: Any) -> int:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement, values).rowcount

    def run_id(self, workflow_id: str) -> str:
        with closing(sqlite3.connect(self.path)) as connection:
            row = connection.execute(
                "SELECT run_id FROM durable_runs WHERE workflow_id = ?"
                " ORDER BY started_at DESC",
                (workflow_id,),
            ).fetchone()
        return str(row[0])

    def plant(self, statement: str, workflow_id: str, *values: Any) -> None:
        """Change one row of a run: `:run` is its id, `:last` its newest event's."""
        self.plant_in(self.run_id(workflow_id), statement, *values)

    def plant_in(self, run_id: str, statement: str, *values: Any) -> None:
        given = dict(zip("abc", values, strict=False))
        with closing(sqlite3.connect(self.path)) as connection, connection:
            (last,) = connection.execute(
                "SELECT max(event_id) FROM durable_history WHERE run_id = ?", (run_id,)
            ).fetchone()
            done = connection.execute(statement, {"run": run_id, "last": last} | given)
            assert done.rowcount == 1, "the fault was not planted"

    def append(self, workflow_id: str, kind: str, data: str, *, task: int = 90) -> None:
        self.plant(
            "INSERT INTO durable_history SELECT run_id, max(event_id) + 1, :a, :b,"
            " max(time),"
            " :c, max(flags) FROM durable_history WHERE run_id = :run"
            " GROUP BY run_id",
            workflow_id,
            task,
            kind,
            data,
        )

    def add_worker(self, worker_id: str, *, lease_hours: float) -> None:
        self.execute(
            "INSERT INTO durable_workers VALUES (?, 'default', 'elsewhere', 1, '',"
            " 'default',"
            " ?, ?, 'running', NULL)",
            worker_id,
            self.now(),
            self.now() + round(lease_hours * HOUR),
        )

    def own(self, workflow_id: str, worker_id: str, *, lease_hours: float = 9) -> None:
        self.add_worker(worker_id, lease_hours=lease_hours)
        self.plant(
            "UPDATE durable_runs SET owner = :a WHERE run_id = :run",
            workflow_id,
            worker_id,
        )

    def mail(self, workflow_id: str, request_id: str, *, created_at: int) -> None:
        self.plant(
            "INSERT INTO durable_inbox (run_id, kind, request_id, data, created_at)"
            " VALUES (:run, 'cancel', :a, '{\"reason\": \"\"}', :b)",
            workflow_id,
            request_id,
            created_at,
        )

    async def examine(self, *, hours_ahead: float = 0) -> list[Finding]:
        clock = StillClock(self.now() + round(hours_ahead * HOUR))
        store = connect(self.url, migrate=False, clock=clock)
        await store.open()
        try:
            return [finding async for finding in examine(store, settle=0)]
        finally:
            await store.close()
