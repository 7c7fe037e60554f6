"""F4: rows written by hand with rubbish park their run and harm no other."""

from __future__ import annotations

import base64
import pickle
import sqlite3
from pathlib import Path

import pytest

from durable import WorkflowStuckError, activity, sleep, workflow
from durable.testing.environment import TestEnvironment


@activity(name="rubbish.step")
async def step(number: int) -> int:
    return number


@workflow(name="rubbish.flow")
async def flow(number: int) -> int:
    first = await step(number)
    await sleep("1h")
    return first + await step(number)


RUBBISH: dict[str, str] = {
    "unknown event type": (
        "UPDATE durable_history SET type = 'Exploded' WHERE event_id = 2"
    ),
    "no json": "UPDATE durable_history SET data = 'rubbish{' WHERE event_id = 2",
    "wrong shape": "UPDATE durable_history SET data = '[1, 2]' WHERE event_id = 3",
    "missing field": "UPDATE durable_history SET data = '{}' WHERE event_id = 1",
    "wrong type of a field": (
        """UPDATE durable_history SET data = json_set(data, '$.attempt', 'one')"""
        " WHERE event_id = 3"
    ),
    "an encoding nobody allowed": (
        """UPDATE durable_history SET data = json_set(data, '$.result',"""
        """ json('{"encoding": "pickle", "data": "gASVCg=="}')) WHERE event_id = 3"""
    ),
    "wrong arity": (
        """UPDATE durable_history SET data = json_set(data, '$.input', json('[]'))"""
        " WHERE event_id = 1"
    ),
    "a result of another type": (
        """UPDATE durable_history SET data ="""
        """ json_set(data, '$.result', json('{"json": "text"}')) WHERE event_id = 3"""
    ),
    "a gap": "UPDATE durable_history SET event_id = 40 WHERE event_id = 4",
    "a first event that is none": "DELETE FROM durable_history WHERE event_id = 1",
    "an event twice": (
        "INSERT INTO durable_history SELECT run_id, 5, task_number, type, time, data,"
        " flags FROM durable_history WHERE event_id = 4"
    ),
    "behaviour of the future": (
        "UPDATE durable_history SET flags = 4096 WHERE event_id = 4"
    ),
    "an outcome nobody awaits twice": (
        "UPDATE durable_history SET type = 'ActivityTaskScheduled',"
        " data = (SELECT data FROM durable_history WHERE event_id = 2) WHERE event_id"
        " = 4"
    ),
    "a message of an unknown kind": (
        "INSERT INTO durable_inbox (run_id, kind, request_id, data, created_at)"
        " SELECT run_id, 'telepathy', 'r', '{}', 1 FROM durable_runs"
    ),
    "a message that is no json": (
        "INSERT INTO durable_inbox (run_id, kind, request_id, data, created_at)"
        " SELECT run_id, 'cancel', 'r', '][', 1 FROM durable_runs"
    ),
}


@pytest.mark.parametrize("what", RUBBISH)
async def test_f4_rubbish_parks_that_run_with_a_reason(
    what: str, tmp_path: Path
) -> None:
    path = tmp_path / "runs.db"
    url = f"sqlite:///{path}"
    async with TestEnvironment(url) as env:
        await env.start(flow(1), id="spoiled")
        await env.sleep(1)
    with sqlite3.connect(path) as connection:
        connection.execute(RUBBISH[what])
    connection.close()
    async with TestEnvironment(url, clock=env.clock) as env:
        healthy = await env.start(flow(2), id="healthy")
        await env.sleep("2h")
        spoiled = await env.get("spoiled")
        with pytest.raises(WorkflowStuckError) as stuck:
            await spoiled.result()
        assert len(str(stuck.value)) > 40
        assert await healthy.result() == 4
        assert (await env.execute(flow(3))) == 6


def plant(canary: Path) -> str:
    """A pickle that makes a file, should anybody load it."""

    class Canary:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (canary,))  # type: ignore[return-value]  # a pickle may call anything

    return base64.b64encode(pickle.dumps(Canary())).decode()


async def test_s3_a_pickled_row_is_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    canary = tmp_path / "canary"
    async with TestEnvironment(f"sqlite:///{path}") as env:
        await env.start(flow(1), id="spoiled")
        await env.sleep(1)
    planted = plant(canary)
    with sqlite3.connect(path) as connection:
        for encoding in ("pickle", "cloudpickle", "binary/pickle", "json/plain"):
            for column in ("result", "input[0]"):
                connection.execute(
                    "UPDATE durable_history SET data = json_replace(data, '$.' || ?,"
                    " json(?))",
                    (column, f'{{"encoding": "{encoding}", "data": "{planted}"}}'),
                )
    connection.close()
    async with TestEnvironment(f"sqlite:///{path}", clock=env.clock) as env:
        with pytest.raises(WorkflowStuckError):
            await (await env.get("spoiled")).result()
    assert not canary.exists()


@activity(name="rubbish.far", task_queue="far")
async def far(n: int) -> int:
    return n


@workflow(name="rubbish.calls_far")
async def calls_far() -> int:
    return await far(1)


async def test_g1_a_pickle_in_the_row_of_an_activity_is_never_unpickled(
    tmp_path: Path,
) -> None:
    path, canary = tmp_path / "runs.db", tmp_path / "canary"
    url, known = f"sqlite:///{path}", [calls_far, far]
    async with TestEnvironment(url, definitions=known) as env:
        await env.start(calls_far(), id="far")
        await env.settle()
    payload = f'{{"encoding": "pickle", "data": "{plant(canary)}"}}'
    with sqlite3.connect(path) as connection:
        changed = connection.execute(
            "UPDATE durable_activity_tasks SET data ="
            " json_replace(data, '$.scheduled.input[0]', json(?))",
            (payload,),
        )
        assert changed.rowcount == 1
    connection.close()
    worker = TestEnvironment(
        url, definitions=known, clock=env.clock, activity_queues={"far": 1}
    )
    async with worker as env:
        await env.sleep(1)
        (found,) = await env.activities.list()
        assert "'pickle'" in str(found.problem)
    assert not canary.exists()
