"""`durable doctor --fix`: mends what is safe, says what it did, leaves the rest."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from durable import Signal, activity, sleep, workflow
from durable.cli.main import cli
from durable.core.codec import encode_attributes
from durable.core.events import (
    ActivityTaskCompleted,
    TimerStarted,
    WorkflowExecutionSignaled,
)
from durable.core.payload import Payload
from durable.testing.clock import VirtualClock
from durable.testing.environment import TestEnvironment

GO = Signal("repairs.go", int)
RAN: list[str] = []


@activity(name="repairs.step")
async def step(number: int) -> int:
    RAN.append(f"step {number}")
    return number


@workflow(name="repairs.flow")
async def flow(number: int) -> int:
    first = await step(number)
    await sleep("1h")
    return first + await GO.receive()


Planting = Callable[[sqlite3.Connection, str, int], None]


def append(
    connection: sqlite3.Connection,
    run_id: str,
    event_id: int,
    attributes: object,
    *,
    task: int = 0,
) -> None:
    connection.execute(
        "INSERT INTO durable_history SELECT run_id, ?, ?, ?, max(time), ?, max(flags)"
        " FROM durable_history WHERE run_id = ? GROUP BY run_id",
        (
            event_id,
            task,
            type(attributes).__name__,
            encode_attributes(attributes),  # type: ignore[arg-type]  # an event's
            run_id,
        ),
    )


def signal(number: int) -> WorkflowExecutionSignaled:
    return WorkflowExecutionSignaled(
        signal_name=GO.name, input=GO(number).input, request_id=f"go-{number}"
    )


async def break_run(path: Path, planting: Planting) -> tuple[VirtualClock, str]:
    """Leave one run asleep, and plant a hole into its history."""
    RAN.clear()
    async with TestEnvironment(f"sqlite:///{path}") as env:
        run = await env.start(flow(1), id="broken")
        await env.sleep(60)
    with closing(sqlite3.connect(path)) as connection, connection:
        (last,) = connection.execute(
            "SELECT max(event_id) FROM durable_history"
        ).fetchone()
        planting(connection, run.run_id, last)
    return env.clock, run.run_id


def examine(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        cli, ["--database", f"sqlite:///{path}", "doctor", *arguments]
    )


def an_input_of_a_void_turn(
    connection: sqlite3.Connection, run_id: str, last: int
) -> None:
    append(connection, run_id, last + 4, signal(5))


def a_turn_that_decided_nothing_but_a_timer(
    connection: sqlite3.Connection, run_id: str, last: int
) -> None:
    append(connection, run_id, last + 3, signal(5), task=9)
    timer = TimerStarted(timer_id="2", start_to_fire_timeout=1)
    append(connection, run_id, last + 4, timer, task=9)


def a_first_turn_that_was_void(
    connection: sqlite3.Connection, run_id: str, _: int
) -> None:
    connection.execute(
        "DELETE FROM durable_history WHERE run_id = ? AND event_id > 1", (run_id,)
    )
    connection.execute("UPDATE durable_history SET event_id = 3, task_number = 0")
    append(connection, run_id, 4, signal(5))


@pytest.mark.parametrize(
    "planting",
    [
        an_input_of_a_void_turn,
        a_turn_that_decided_nothing_but_a_timer,
        a_first_turn_that_was_void,
    ],
)
def test_a_history_with_a_hole_is_mended_and_the_run_goes_on(
    tmp_path: Path, planting: Planting
) -> None:
    path = tmp_path / "runs.db"
    clock, run_id = asyncio.run(break_run(path, planting))

    async def park() -> None:
        async with TestEnvironment(f"sqlite:///{path}", clock=clock) as env:
            await env.sleep("2h")
            described = await (await env.get("broken")).describe()
            assert described.stuck is not None
            assert described.stuck.type == "CorruptHistoryError"

    asyncio.run(park())
    before = examine(path)
    mended = examine(path, "--fix")
    after = examine(path)

    assert before.exit_code == 1
    assert mended.exit_code == 0, mended.output
    assert "mended" in mended.output
    assert "never written" in mended.output
    assert "WorkflowExecutionSignaled" in mended.output
    assert run_id in mended.output
    assert "V1 " not in after.output

    async def go_on() -> int:
        async with TestEnvironment(f"sqlite:///{path}", clock=clock) as env:
            result: int = await (await env.get("broken")).result()
            return result

    assert asyncio.run(go_on()) == 6
    assert ["step 1"] * (2 if "first" in planting.__name__ else 1) == RAN
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(
            "SELECT event_id FROM durable_history ORDER BY event_id"
        ).fetchall()
    assert [position for (position,) in found] == list(range(1, len(found) + 1))


def an_activity_after_the_hole(
    connection: sqlite3.Connection, run_id: str, last: int
) -> None:
    connection.execute(
        "INSERT INTO durable_history SELECT run_id, ?, 9, type, time, data, flags"
        " FROM durable_history WHERE run_id = ? AND type = 'ActivityTaskScheduled'",
        (last + 3, run_id),
    )


def an_outcome_of_what_is_missing(
    connection: sqlite3.Connection, run_id: str, last: int
) -> None:
    outcome = ActivityTaskCompleted(
        scheduled_event_id=last + 1,
        result=Payload(),
        attempt=1,
        started_at=1,
        identity="",
    )
    append(connection, run_id, last + 3, outcome)


def attempts_of_what_is_missing(
    connection: sqlite3.Connection, run_id: str, last: int
) -> None:
    append(connection, run_id, last + 3, signal(5))
    connection.execute(
        "INSERT INTO durable_attempts VALUES (?, ?, 1, 'repairs.step', 'failed', 1, 1,"
        " 1,"
        " NULL, NULL)",
        (run_id, last + 1),
    )


def an_ending_after_the_hole(
    connection: sqlite3.Connection, run_id: str, last: int
) -> None:
    connection.execute(
        "INSERT INTO durable_history SELECT run_id, ?, 9, 'WorkflowExecutionTimedOut',"
        " time,"
        ' \'{"timeout_type": "run"}\', flags FROM durable_history'
        " WHERE run_id = ? AND event_id = 1",
        (last + 3, run_id),
    )


@pytest.mark.parametrize(
    ("planting", "why"),
    [
        (an_activity_after_the_hole, "may have reached the world"),
        (an_outcome_of_what_is_missing, "speaks of event"),
        (attempts_of_what_is_missing, "attempts of activity"),
        (an_ending_after_the_hole, "may have reached the world"),
    ],
)
def test_what_could_happen_twice_is_left_as_it_is(
    tmp_path: Path, planting: Planting, why: str
) -> None:
    path = tmp_path / "runs.db"
    asyncio.run(break_run(path, planting))
    with closing(sqlite3.connect(path)) as connection:
        before = connection.execute("SELECT * FROM durable_history").fetchall()

    tried = examine(path, "--fix", "--json")

    assert tried.exit_code == 1
    said = [json.loads(line) for line in tried.output.splitlines()]
    (answer,) = [line for line in said if line["check"] == "fix"]
    assert answer["is_mended"] is False
    assert why in answer["message"]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM durable_history").fetchall() == before


def test_a_run_that_nothing_would_wake_is_set_free(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"

    def lose_wake_up(connection: sqlite3.Connection, run_id: str, _: int) -> None:
        connection.execute(
            "UPDATE durable_runs SET wake_at = NULL, owner = 'nobody' WHERE run_id = ?",
            (run_id,),
        )

    clock, _ = asyncio.run(break_run(path, lose_wake_up))

    mended = examine(path, "--fix")

    assert mended.exit_code == 0, mended.output
    assert "set free" in mended.output

    async def go_on() -> int:
        async with TestEnvironment(f"sqlite:///{path}", clock=clock) as env:
            run = await env.get("broken")
            await run.signal(GO(5))
            result: int = await run.result()
            return result

    assert asyncio.run(go_on()) == 6


def test_without_fix_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    asyncio.run(break_run(path, an_input_of_a_void_turn))
    with closing(sqlite3.connect(path)) as connection:
        before = list(connection.iterdump())

    assert examine(path).exit_code == 1

    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.iterdump()) == before
