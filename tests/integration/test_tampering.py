"""S5: whatever was changed in a database, its run says so, and no other is harmed."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from durable import Engine, RunStatus, WorkflowStuckError
from durable.cli.main import cli
from durable.client.doctor import examine
from durable.client.findings import Finding
from durable.errors import DurableError
from durable.store.connect import connect
from durable.store.records import WorkerRecord
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
    "runs.open_key: null",
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
    assert unnamed == {"inbox.run_id: stray"}
    assert any("inbox are of run 'nobody'" in message for message in strays)
    # What this is about: most of it must be found out, not be lucky.
    assert sum(how in ("parked", "refused") for how in victims.values()) > 150
