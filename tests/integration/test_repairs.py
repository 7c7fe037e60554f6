"""`durable doctor --fix`: mends what is safe, says what it did, leaves the rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from durable import Signal, activity, sleep, workflow
from durable.cli.main import cli
from durable.core.history.codec import encode_attributes
from durable.core.history.events import (
    ActivityTaskCompleted,
    TimerStarted,
    WorkflowExecutionSignaled,
    WorkflowExecutionTimedOut,
)
from durable.core.history.payload import Payload
from durable.doctor.findings import Check
from durable.store.connect import connect
from durable.store.copying.rows import TABLES
from durable.store.sql.fetching import fetch
from durable.store.sql.tables import ATTEMPTS, HISTORY, RUNS
from durable.store.threads.sql_store import SqlStore
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


class Rows:
    """The rows of a database of any kind, behind the library's back.

    They are those of one run, and each change is a transaction.
    """

    def __init__(self, url: str) -> None:
        store = connect(url)
        assert isinstance(store, SqlStore)
        self._database = store.database

    def read(self, table: sa.Table = HISTORY) -> list[Any]:
        with closing(self._database.open_writer()) as session:
            return fetch(session, sa.select(table).order_by(*table.primary_key))

    def read_all(self) -> dict[str, list[Any]]:
        return {table.name: self.read(table) for table in TABLES}

    def execute(self, statement: Any) -> None:
        with closing(self._database.open_writer()) as session:
            session.begin()
            session.connection.execute(statement)
            session.commit()

    def insert(self, table: sa.Table, *row: Any) -> None:
        with closing(self._database.open_writer()) as session:
            session.begin()
            session.insert(table, [row])
            session.commit()

    def append(self, event_id: int, attributes: Any, *, task: int = 0) -> None:
        """Add an event at the instant of the last one."""
        run_id, _, _, _, time, _, flags = self.read()[-1]
        kind, data = type(attributes).__name__, encode_attributes(attributes)
        self.insert(HISTORY, run_id, event_id, task, kind, time, data, flags)


Planting = Callable[[Rows, int], None]


def signal(number: int) -> WorkflowExecutionSignaled:
    return WorkflowExecutionSignaled(
        signal_name=GO.name, input=GO(number).input, request_id=f"go-{number}"
    )


async def break_run(url: str, planting: Planting) -> VirtualClock:
    """Leave one run asleep, and plant a fault behind its last event."""
    RAN.clear()
    async with TestEnvironment(url) as env:
        await env.start(flow(1), id="broken")
        await env.sleep(60)
    rows = Rows(url)
    planting(rows, len(rows.read()))
    return env.clock


def examine(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["--database", url, "doctor", *arguments])


def an_input_of_a_void_turn(rows: Rows, last: int) -> None:
    rows.append(last + 4, signal(5))


def a_turn_that_decided_nothing_but_a_timer(rows: Rows, last: int) -> None:
    rows.append(last + 3, signal(5), task=9)
    timer = TimerStarted(timer_id="2", start_to_fire_timeout=1)
    rows.append(last + 4, timer, task=9)


def a_first_turn_that_was_void(rows: Rows, _: int) -> None:
    rows.execute(sa.delete(HISTORY).where(HISTORY.c.event_id > 1))
    rows.execute(sa.update(HISTORY).values(event_id=3, task_number=0))
    rows.append(4, signal(5))


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    "planting",
    [
        an_input_of_a_void_turn,
        a_turn_that_decided_nothing_but_a_timer,
        a_first_turn_that_was_void,
    ],
)
def test_a_history_with_a_hole_is_mended_and_the_run_goes_on(
    shared_url: str, planting: Planting
) -> None:
    url = shared_url
    clock = asyncio.run(break_run(url, planting))
    rows = Rows(url)
    run_id = rows.read()[0][0]

    async def park() -> None:
        async with TestEnvironment(url, clock=clock) as env:
            await env.sleep("2h")
            described = await (await env.get("broken")).describe()
            assert described.stuck is not None
            assert described.stuck.type == "CorruptHistoryError"

    asyncio.run(park())
    before = examine(url)
    mended = examine(url, "--fix")
    after = examine(url)

    assert before.exit_code == 1
    assert mended.exit_code == 0, mended.output
    assert "mended" in mended.output
    assert "never written" in mended.output
    assert "WorkflowExecutionSignaled" in mended.output
    assert run_id in mended.output
    assert "V1 " not in after.output

    async def go_on() -> int:
        async with TestEnvironment(url, clock=clock) as env:
            result: int = await (await env.get("broken")).result()
            return result

    assert asyncio.run(go_on()) == 6
    assert ["step 1"] * (2 if "first" in planting.__name__ else 1) == RAN
    positions = [row[1] for row in rows.read()]
    assert positions == list(range(1, len(positions) + 1))


def an_activity_after_the_hole(rows: Rows, last: int) -> None:
    (old,) = (row for row in rows.read() if row[3] == "ActivityTaskScheduled")
    run_id, _, _, *others = old
    rows.insert(HISTORY, run_id, last + 3, 9, *others)


def an_outcome_of_what_is_missing(rows: Rows, last: int) -> None:
    outcome = ActivityTaskCompleted(
        scheduled_event_id=last + 1,
        result=Payload(),
        attempt=1,
        started_at=1,
        identity="",
    )
    rows.append(last + 3, outcome)


def attempts_of_what_is_missing(rows: Rows, last: int) -> None:
    rows.append(last + 3, signal(5))
    run_id, step = rows.read()[0][0], "repairs.step"
    attempt = (1, step, "failed", 1, 1, 1, None, None, None, None)
    rows.insert(ATTEMPTS, run_id, last + 1, *attempt)


def an_ending_after_the_hole(rows: Rows, last: int) -> None:
    rows.append(last + 3, WorkflowExecutionTimedOut("run"), task=9)


@pytest.mark.sweep(4)
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
    shared_url: str, planting: Planting, why: str
) -> None:
    url = shared_url
    asyncio.run(break_run(url, planting))
    rows = Rows(url)
    before = rows.read_all()

    tried = examine(url, "--fix", "--json")

    assert tried.exit_code == 1
    said = [json.loads(line) for line in tried.output.splitlines()]
    (answer,) = [line for line in said if line["check"] == "fix"]
    assert answer["is_mended"] is False
    assert why in answer["message"]
    assert rows.read_all() == before


def checks_of(examined: Result) -> set[Check]:
    return {Check(json.loads(line)["check"]) for line in examined.output.splitlines()}


def update_run(rows: Rows, **values: Any) -> None:
    rows.execute(sa.update(RUNS).values(values))


def an_owner_that_is_nobody(rows: Rows, _: int) -> None:
    update_run(rows, owner="nobody", wake_at=None)


def a_timer_without_a_wake_up(rows: Rows, _: int) -> None:
    update_run(rows, wake_at=None)


def a_wake_up_after_the_timer(rows: Rows, _: int) -> None:
    update_run(rows, wake_at=RUNS.c.wake_at + 1)


def an_activity_that_nobody_looks_after(rows: Rows, _: int) -> None:
    rows.execute(sa.delete(HISTORY).where(HISTORY.c.event_id > 2))
    update_run(rows, wake_at=None)


@pytest.mark.sweep(4)
@pytest.mark.parametrize(
    ("planting", "check"),
    [
        (an_owner_that_is_nobody, Check.LEASES),
        (a_timer_without_a_wake_up, Check.LOST_WAKE_UP),
        (a_wake_up_after_the_timer, Check.LOST_WAKE_UP),
        (an_activity_that_nobody_looks_after, Check.WAITING),
    ],
)
def test_a_run_that_nothing_would_wake_is_set_free(
    shared_url: str, planting: Planting, check: Check
) -> None:
    url = shared_url
    clock = asyncio.run(break_run(url, planting))

    assert check in checks_of(examine(url, "--json"))
    mended = examine(url, "--fix")
    assert "set free" in mended.output
    assert check not in checks_of(examine(url, "--json"))

    async def go_on() -> int:
        async with TestEnvironment(url, clock=clock) as env:
            run = await env.get("broken")
            await run.signal(GO(5))
            result: int = await run.result()
            return result

    assert asyncio.run(go_on()) == 6
    again = planting is an_activity_that_nobody_looks_after
    assert ["step 1"] * (2 if again else 1) == RAN


@pytest.mark.sweep(1)
def test_without_fix_nothing_is_written(shared_url: str) -> None:
    asyncio.run(break_run(shared_url, an_input_of_a_void_turn))
    rows = Rows(shared_url)
    before = rows.read_all()

    assert examine(shared_url).exit_code == 1

    assert rows.read_all() == before
