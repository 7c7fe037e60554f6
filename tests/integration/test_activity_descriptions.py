"""A client is told of each activity that a run waits for how it stands."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from durable import (
    ActivityDescription,
    ActivityState,
    Engine,
    Handle,
    RetryPolicy,
    activity,
    workflow,
)
from durable.errors import WorkflowNotFoundError
from durable.sync import SyncEngine

GATE = asyncio.Event()


@pytest.fixture(autouse=True)
def gate() -> None:
    global GATE
    GATE = asyncio.Event()


@activity(name="described.gated")
async def gated() -> None:
    await GATE.wait()


@activity(
    name="described.failing",
    retry=RetryPolicy(initial_interval="1h", max_interval="1h", max_attempts=3),
)
async def failing() -> None:
    raise ValueError("no luck")


@workflow(name="described.wait")
async def wait() -> None:
    await gated()


@workflow(name="described.fail")
async def fail() -> None:
    await failing()


@workflow(name="described.both")
async def both() -> None:
    await asyncio.gather(gated(), failing())


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shop.db'}"


@pytest.fixture
async def client(database: str) -> AsyncIterator[Engine]:
    async with Engine(database, worker=False) as engine:
        yield engine


async def until(run: Handle[None], *states: str) -> list[ActivityDescription]:
    """Look until the run's activities stand so."""
    while True:
        found = await run.activities()
        if [one.state for one in found] == list(states):
            return found
        await asyncio.sleep(0)


async def test_running_and_queued_ones_are_told_apart(database: str) -> None:
    async with Engine(database, max_activities=1) as engine:
        first = await engine.start(wait())
        (running,) = await until(first, "running")
        second = await engine.start(wait())
        async with Engine(database, worker=False) as other:
            (queued,) = await until(await other.get(second.workflow_id), "queued")
            (same,) = await (await other.get(first.workflow_id)).activities()

        assert same == running
        owner = (await first.describe()).owner
        assert (running.activity_type, running.attempt) == ("described.gated", 1)
        assert (running.worker, queued.worker) == (owner, None)
        assert running.since <= queued.since
        assert abs(datetime.now(UTC) - running.since) < timedelta(minutes=1)
        GATE.set()
        await asyncio.gather(first.result(), second.result())
        assert await first.activities() == []


async def test_next_attempt_is_told_with_its_time_and_what_failed(
    database: str,
) -> None:
    async with Engine(database) as engine:
        run = await engine.start(both())
        running, backing_off = await until(run, "running", "backing_off")

        assert running.activity_type == "described.gated"
        assert (backing_off.attempt, backing_off.worker) == (2, None)
        assert backing_off.last_failure is not None
        assert backing_off.last_failure.message == "no luck"
        assert backing_off.due_at is not None
        assert timedelta(minutes=50) < backing_off.due_at - backing_off.since
        await run.terminate()


async def test_one_that_no_worker_knows_is_queued(database: str) -> None:
    async with Engine(database, definitions=[wait]) as engine:
        run = await engine.start(wait())
        (found,) = await until(run, "queued")
        assert found.worker is None
        await run.terminate()


async def test_one_whose_process_was_killed_is_interrupted(
    database: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import asyncio
            from durable import Engine, activity, workflow

            @activity(name="described.gated")
            async def gated() -> None:
                print("began", flush=True)
                await asyncio.sleep(3600)

            @workflow(name="described.wait")
            async def wait() -> None:
                await gated()

            async def main() -> None:
                async with Engine({database!r}) as engine:
                    await engine.execute(wait(), id="killed")

            if __name__ == "__main__":
                asyncio.run(main())
            """
        )
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"began\n"
    async with Engine(database, worker=False) as client:
        run = await client.get("killed")
        (running,) = await until(run, "running")
        process.kill()
        await process.wait()
        # An engine that opens finds the process dead, and does not know the workflow.
        async with Engine(database, definitions=[fail]):
            (interrupted,) = await until(run, "interrupted")

    assert running.worker is not None
    assert str(process.pid) in running.worker
    assert (interrupted.attempt, interrupted.worker) == (1, None)
    assert interrupted.state is ActivityState.INTERRUPTED


async def test_run_that_does_not_exist_is_said(client: Engine) -> None:
    with pytest.raises(WorkflowNotFoundError):
        await (await client.get("nobody")).activities()


def test_threads_may_ask(database: str) -> None:
    with SyncEngine(database) as engine:
        run = engine.start(fail(), id="sync")
        while not (found := run.activities()) or found[0].state != "backing_off":
            pass  # each look is a trip to another thread
        assert found[0].attempt == 2


async def test_failure_that_cannot_be_read_harms_nothing_else(
    database: str, tmp_path: Path
) -> None:
    async with Engine(database) as engine:
        run = await engine.start(fail())
        await until(run, "backing_off")
        with closing(sqlite3.connect(tmp_path / "shop.db")) as other, other:
            other.execute("UPDATE durable_attempts SET failure = '{' WHERE attempt = 1")
        (found,) = await run.activities()
        assert (found.state, found.attempt) == ("backing_off", 2)
        await run.terminate()
