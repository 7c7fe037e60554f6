"""S5: whatever was changed in a database, its run says so, and no other is harmed."""

# ruff: noqa: S608 - the statements are made of this file's own texts

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from durable import Engine, RunStatus, WorkflowStuckError
from durable.cli.main import cli
from durable.doctor.doctor import examine
from durable.doctor.findings import Finding
from durable.errors import DurableError
from durable.store.connect import connect
from durable.testing.clock import VirtualClock
from durable.testing.environment import TestEnvironment
from tests.integration.tamperings import (
    CHANGES,
    FAILURES,
    GO,
    RESULT,
    flow,
    plant,
    send,
)

HEALTHY = [f"healthy {number}" for number in range(10)]
# A run that asks for a code or a queue which no worker serves waits for one, a row
# without its key is found by nobody, and nobody sends a lost message again.
ONLY_THE_DOCTOR_CAN_TELL = {
    *(name for name in CHANGES if name.startswith("runs.workflow_type")),
    *(name for name in CHANGES if name.startswith("runs.task_queue")),
    *(name for name in CHANGES if name.startswith("runs.version")),
    "runs.open_key: null",
    "runs.wake_at: null",  # as if it waited for a message and nothing else
    "inbox.run_id: stray",
}


async def make_database(path: Path, names: list[str]) -> VirtualClock:
    """Leave runs at rest, each with a message that nobody has read yet."""
    FAILURES.clear()
    url = f"sqlite:///{path}"
    async with TestEnvironment(url) as env:
        for key, name in enumerate([*names, *HEALTHY]):
            await env.start(flow(key), id=name)
        await env.sleep(60)
    store = connect(url, clock=env.clock)
    await store.open()
    for name in [*names, *HEALTHY]:
        await send(store, name)
    await store.close()
    return env.clock


async def consult(path: Path, clock: VirtualClock) -> list[Finding]:
    store = connect(f"sqlite:///{path}", clock=clock, migrate=False)
    await store.open()
    found = [finding async for finding in examine(store, settle=0)]
    await store.close()
    return found


async def what_became_of(env: TestEnvironment, workflow_id: str) -> str:
    try:
        run = await env.get(workflow_id)
        description = await run.describe()
    except DurableError as error:
        return "refused" if len(str(error)) > 40 else "refused without a reason"
    if description.stuck is not None:
        return "parked" if len(description.stuck.message) > 20 else "parked, but why?"
    if description.status is RunStatus.RUNNING:
        return "silent"
    return "went on" if await run.result() == RESULT else "wrong"


async def test_s5_every_change_harms_its_own_run_only_and_none_is_silent(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    clock = await make_database(path, list(CHANGES))
    run_ids = plant(path, CHANGES)

    named: dict[str, list[str]] = defaultdict(list)
    by_run = {run_id: name for name, run_id in run_ids.items()}
    strays: list[str] = []
    for finding in await consult(path, clock):
        if finding.run is not None:
            named[by_run[finding.run.run_id]].append(finding.message)
        strays.append(finding.message)
    for run_id, name in by_run.items():
        named[name] += [message for message in strays if run_id in message]

    async with TestEnvironment(f"sqlite:///{path}", clock=clock) as env:
        await env.sleep("2h")
        became = {name: await what_became_of(env, name) for name in run_ids}
        later = await env.start(flow(10_000), id="later")
        await later.signal(GO(100))
        assert await later.result() == RESULT

    assert {became[name] for name in HEALTHY} == {"went on"}
    assert [name for name in HEALTHY if named[name]] == []
    victims = {name: became[name] for name in CHANGES}
    silent = {n for n, how in victims.items() if how not in ("parked", "refused")}
    assert {n for n in silent if victims[n] == "silent"} <= ONLY_THE_DOCTOR_CAN_TELL
    assert {victims[n] for n in silent} <= {"silent", "went on"}
    unnamed = {name for name in CHANGES if not named[name]}
    # A negative one says at once, and so it went on.
    assert unnamed == {"inbox.run_id: stray", "runs.wake_at: negative"}
    assert any("inbox are of run 'nobody'" in message for message in strays)
    # What this is about: most of it must be found out, not be lucky.
    assert sum(how in ("parked", "refused") for how in victims.values()) > 150


# --- what is listed -------------------------------------------------------------------


async def test_a_listing_shows_runs_that_cannot_be_read_as_stuck(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    changed = [
        "runs.status: unknown",
        "runs.version: no utf-8",
        "runs.wake_at: text",
        "runs.started_at: huge",
    ]
    await make_database(path, changed)
    plant(path, {name: CHANGES[name] for name in changed})

    async with Engine(f"sqlite:///{path}", worker=False) as engine:
        listed = {run.workflow_id: run for run in await engine.list(limit=50)}

    assert {*changed, *HEALTHY} <= set(listed)
    for name in changed:
        stuck = listed[name].stuck
        assert stuck is not None
        assert name.partition(".")[2].partition(":")[0] in stuck.message
    assert all(listed[name].stuck is None for name in HEALTHY)


def test_the_command_line_lists_and_examines_what_cannot_be_read(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    changed = {
        name: statement
        for name, statement in CHANGES.items()
        if name.startswith("runs.") and "gone" not in name
    }
    asyncio.run(make_database(path, list(changed)))
    plant(path, changed)
    runner = CliRunner()

    for arguments in (["list"], ["list", "--json"], ["doctor"], ["doctor", "--json"]):
        done = runner.invoke(cli, ["--database", f"sqlite:///{path}", *arguments])

        assert "Traceback" not in done.output
        assert "\x1b[31m" not in done.output
        if "doctor" in arguments:
            assert done.exit_code == 1
        else:
            assert done.exit_code == 0, done.output
        assert "runs.wake_at: text" in done.output


# --- rows that belong to no run -------------------------------------------------------

ODD_WORKERS = {
    "pid": "'many'",
    "host": "CAST(x'fffe' AS TEXT)",
    "lease_expires_at": "'never'",
    "started_at": "x'00'",
    "process_started_at": "x'ff'",
    "namespace": "CAST(x'fffe' AS TEXT)",
    "worker_id": "CAST(x'fffe' AS TEXT)",
    "status": "'asleep'",
    "places": "CAST(x'fffe' AS TEXT)",
}


@pytest.mark.parametrize("column", ODD_WORKERS)
async def test_one_odd_row_of_a_worker_keeps_no_engine_from_opening(
    tmp_path: Path, column: str
) -> None:
    path = tmp_path / "runs.db"
    clock = await make_database(path, [])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO durable_workers VALUES ('odd', 'default', 'here', 1, '',"
            " 'default',"
            " 5, ?, 'running', NULL)",
            (clock.now() + 3_600_000_000,),
        )
        connection.execute(
            "UPDATE durable_runs SET owner = 'odd' WHERE workflow_id = 'healthy 0'"
        )
        connection.execute(
            f"UPDATE durable_workers SET {column} = {ODD_WORKERS[column]}"
        )

    named = [finding.message for finding in await consult(path, clock)]
    async with TestEnvironment(f"sqlite:///{path}", clock=clock) as env:
        # Longer than the odd worker's lease.
        await env.sleep("3h")
        became = [await what_became_of(env, name) for name in HEALTHY]

    assert became == ["went on"] * len(HEALTHY)
    assert any(column in message and "Worker" in message for message in named)


async def test_runs_whose_owner_has_no_row_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    clock = await make_database(path, [])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE durable_runs SET owner = 'nobody ' || rowid")

    async with TestEnvironment(f"sqlite:///{path}", clock=clock) as env:
        await env.sleep("2h")

        assert [await what_became_of(env, name) for name in HEALTHY] == (
            ["went on"] * len(HEALTHY)
        )


# --- classes that a row may not choose ------------------------------------------------


@pytest.mark.parametrize(
    "name", ["KeyboardInterrupt", "SystemExit", "GeneratorExit", "BaseException"]
)
async def test_a_failure_row_cannot_end_the_program(tmp_path: Path, name: str) -> None:
    """Only classes that are Exceptions are made from what a row names."""
    path = tmp_path / "runs.db"
    clock = await make_database(path, ["victim"])
    failure = {"message": "the end", "type": name, "module": "builtins"}
    event = {
        "scheduled_event_id": 4,
        "failure": failure | {"kind": "activity", "cause": failure},
        "attempt": 2,
        "started_at": 1,
        "retry_state": "maximum_attempts_reached",
    }
    with closing(sqlite3.connect(path)) as connection, connection:
        done = connection.execute(
            "UPDATE durable_history SET type = 'ActivityTaskFailed', data = ?"
            " WHERE event_id = 5 AND run_id ="
            " (SELECT run_id FROM durable_runs WHERE workflow_id = 'victim')",
            (json.dumps(event),),
        )
        assert done.rowcount == 1

    async with TestEnvironment(f"sqlite:///{path}", clock=clock) as env:
        await env.sleep("2h")
        became = {name: await what_became_of(env, name) for name in HEALTHY}
        with pytest.raises(WorkflowStuckError):  # its timer has no place any more
            await (await env.get("victim")).result()

    assert set(became.values()) == {"went on"}


# --- while a worker is at work --------------------------------------------------------


async def test_a_message_that_cannot_be_read_parks_a_live_run(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    async with TestEnvironment(f"sqlite:///{path}") as env:
        victim = await env.start(flow(1), id="victim")
        healthy = await env.start(flow(2), id="healthy")
        await env.sleep(60)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "INSERT INTO durable_inbox (run_id, kind, request_id, data, created_at)"
                " SELECT run_id, 'signal', 'r', '{}', 'yesterday' FROM durable_runs"
                " WHERE workflow_id = 'victim'"
            )
        await healthy.signal(GO(100))
        await env.sleep("2h")

        with pytest.raises(WorkflowStuckError, match="created_at"):
            await victim.result()
        assert await healthy.result() == RESULT


async def test_a_message_reaches_its_run_beside_one_of_an_unknown_status(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    names = ["runs.status: unknown"]
    clock = await make_database(path, names)
    plant(path, {name: CHANGES[name] for name in names})
    store = connect(f"sqlite:///{path}", clock=clock)
    await store.open()

    sent = await asyncio.gather(
        send(store, names[0]),
        *(send(store, name) for name in HEALTHY),
        return_exceptions=True,
    )

    assert isinstance(sent[0], DurableError)
    assert "does not know" in str(sent[0])
    assert sent[1:] == [None] * len(HEALTHY)
    await store.close()


async def test_a_run_that_cannot_be_read_can_be_terminated(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    changed = [
        name
        for name in CHANGES
        if name.split(":")[0]
        in ("runs.wake_at", "runs.version", "runs.epoch", "history.event_id")
    ]
    clock = await make_database(path, changed)
    plant(path, {name: CHANGES[name] for name in changed})

    async with TestEnvironment(f"sqlite:///{path}", clock=clock, worker=False) as env:
        for name in changed:
            await (await env.get(name)).terminate("beyond repair")

    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT workflow_id FROM durable_runs WHERE status = 'terminated'"
        ).fetchall()
    assert {name for (name,) in found} == set(changed)
