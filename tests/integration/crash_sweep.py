"""Kills a program at every SQL statement, before and after it, and resumes it.

There are two scenarios: `reference`, one workflow, and `family`, many runs that have to
do with one another (`crash_family.py`).

A program of its own, run by `test_crash_sweep.py`: it forks one child for each crash
point, so everything is imported once and nothing but the child's own engine dies. A
child counts the statements that its connections execute and kills itself, with a real
SIGKILL, when it comes to its point. The next child resumes. Afterwards the result must
be right, nothing that was recorded may have run again, and the checker must be silent.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from durable import (
    Engine,
    IdConflictPolicy,
    RetryPolicy,
    activity,
    activity_info,
    sleep,
    workflow,
)
from durable.doctor.doctor import examine
from durable.store.connect import connect
from tests.integration import crash_family

LEDGER: Path
POLICY = RetryPolicy(max_attempts=20, initial_interval="1ms", max_interval="1ms")
EXPECTED = [f"step-{number}" for number in range(12)] + ["left", "right", "second try"]


def note(what: str) -> None:
    """Tell the outside world that an activity has begun."""
    with LEDGER.open("a") as ledger:
        ledger.write(what + "\n")


@activity(retry=POLICY)
async def step(what: str) -> str:
    """Do one recorded thing."""
    note(f"step {what}")
    return what


@activity(retry=POLICY)
async def flaky(what: str) -> str:
    """Fail at the first attempt."""
    note(f"flaky {what}")
    if activity_info().attempt == 1:
        raise ValueError("not at the first attempt")
    return what


@workflow
async def reference() -> list[str]:
    """Steps in a row, two at once, a retry, a timer."""
    found = [await step(f"step-{number}") for number in range(12)]
    found += await asyncio.gather(step("left"), step("right"))
    await sleep("1ms")
    found.append(await flaky("second try"))
    return found


async def run_reference(engine: Engine) -> object:
    """Run or resume the reference workflow."""
    run = await engine.start(
        reference(),
        id="reference",
        request_id="reference",
        on_conflict=IdConflictPolicy.USE_EXISTING,
    )
    return await run.result(timeout="50s")


Scenario = tuple[Callable[[Engine], Awaitable[object]], object]
SCENARIOS: dict[str, Scenario] = {
    "reference": (run_reference, EXPECTED),
    "family": (crash_family.live, crash_family.EXPECTED),
}
crash_family.note = note


# --- crash points ---------------------------------------------------------------------


class Point:
    """Counts moments and kills this process at one of them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def passed(self) -> None:
        """One more moment has come."""
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def watch_statements(point: Point, only: str = "") -> None:
    """Make every statement of every connection two moments: before and after.

    Or every one with certain words.
    """

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, sql: str, *args: Any) -> Any:
            # An idle poll is no fixed moment.
            if "data_version" in sql or only not in sql:
                return call(self, sql, *args)
            point.passed()
            result = call(self, sql, *args)
            point.passed()
            return result

        return method

    class Cursor(sqlite3.Cursor):
        execute = watched(sqlite3.Cursor.execute)
        executemany = watched(sqlite3.Cursor.executemany)

    class Connection(sqlite3.Connection):
        execute = watched(sqlite3.Connection.execute)

        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

    original: Any = sqlite3.connect

    def connect_watched(*args: Any, **options: Any) -> Any:
        options.setdefault("factory", Connection)
        return original(*args, **options)

    sqlite3.connect = connect_watched


# --- children -------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; return its exit code, negative for a signal."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child must never return
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def run_engine(scenario: Scenario, database: Path, answer: Path, at: int) -> None:
    """Run or resume a scenario; write its result and the number of moments."""
    point = Point(at)
    watch_statements(point)

    async def main() -> object:
        async with Engine(f"sqlite:///{database}", blocked_after=None) as engine:
            return await scenario[0](engine)

    result = asyncio.run(main())
    answer.write_text(json.dumps({"result": result, "moments": point.count}))


def recorded(database: Path) -> tuple[set[str], set[str]]:
    """What was scheduled and what has an outcome, straight from the rows."""
    if not database.exists():
        return set(), set()
    connection = sqlite3.connect(database)
    try:
        rows = connection.execute(
            "SELECT run_id, event_id, type, data FROM durable_history ORDER BY run_id,"
            " event_id"
        ).fetchall()
    except sqlite3.OperationalError:  # killed before the tables were there
        return set(), set()
    finally:
        connection.close()
    scheduled, done = {}, set()
    for run_id, event_id, kind, data in rows:
        event = json.loads(data)
        if kind == "ActivityTaskScheduled":
            name = f"{event['activity_type']} {event['input'][0]['json']}"
            scheduled[run_id, event_id] = name
        elif kind == "ActivityTaskCompleted":
            done.add(scheduled[run_id, event["scheduled_event_id"]])
    return set(scheduled.values()), done


def check_database(database: Path) -> None:
    """Let the checker look; it must find nothing."""

    async def main() -> None:
        store = connect(f"sqlite:///{database}")
        await store.open()
        try:
            findings = [finding async for finding in examine(store, settle=0)]
        finally:
            await store.close()
        serious = [f for f in findings if not f.check.is_notice]
        if serious:
            raise AssertionError(serious)

    asyncio.run(main())


def try_point(scenario: Scenario, folder: Path, at: int) -> tuple[bool, int]:
    """Crash at one moment, resume, check. Returns whether it crashed, and moments."""
    global LEDGER
    database, answer = folder / f"{at}.db", folder / f"{at}.json"
    LEDGER = folder / f"{at}.ledger"
    LEDGER.touch()
    code = in_child(lambda: run_engine(scenario, database, answer, at))
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"point {at}: the first child ended with {code}")
    scheduled, done = recorded(database)
    ran = LEDGER.read_text().splitlines()
    if not set(ran) <= scheduled:
        raise SystemExit(f"point {at}: ran unrecorded: {set(ran) - scheduled}")
    if code != 0:
        resumed = in_child(lambda: run_engine(scenario, database, answer, 0))
        if resumed != 0:
            raise SystemExit(f"point {at}: resuming ended with {resumed}")
    outcome = json.loads(answer.read_text())
    if outcome["result"] != scenario[1]:
        raise SystemExit(f"point {at}: the result is {outcome['result']}")
    again = done & set(LEDGER.read_text().splitlines()[len(ran) :])
    if again:
        raise SystemExit(f"point {at}: recorded, and run again: {again}")
    if in_child(lambda: check_database(database)) != 0:
        raise SystemExit(f"point {at}: the checker found something")
    for leftover in folder.glob(f"{at}.*"):
        leftover.unlink()
    return code != 0, outcome["moments"]


def crash_and_resume(at: int, run: Callable[[int], None]) -> bool:
    """Run to one moment in a child that is killed there, and to the end in another.

    Returns whether it was killed: at 0, and behind the last moment, it is not.
    """
    code = in_child(lambda: run(at))
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"point {at}: the first child ended with {code}")
    if code != 0:
        resumed = in_child(lambda: run(0))
        if resumed != 0:
            raise SystemExit(f"point {at}: resuming ended with {resumed}")
    return code != 0


def visit(
    try_point: Callable[[int], tuple[bool, int]], first: int, step_size: int
) -> None:
    """Visit every `step_size`-th point, beginning with `first`; say how it went.

    `try_point` crashes at one, and returns whether it did, and how many there are.
    """
    _, moments = try_point(0)
    points = range(first, moments + 1, step_size)
    crashed = sum(try_point(at)[0] for at in points)
    print(f"{moments} moments, {len(points)} tried, {crashed} crashed, 0 wrong")


def warm_up() -> None:
    """Live once here: what that imports and compiles, no child must again."""
    global LEDGER

    async def live(database: Path) -> None:
        async with Engine(f"sqlite:///{database}", blocked_after=None) as engine:
            await run_reference(engine)

    with tempfile.TemporaryDirectory() as folder:
        database, LEDGER = Path(folder, "first.db"), Path(folder, "first.ledger")
        asyncio.run(live(database))
        check_database(database)


def main(name: str, first: int, step_size: int) -> None:
    """Visit every `step_size`-th point of a scenario, beginning with `first`."""
    scenario = SCENARIOS[name]
    warm_up()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        visit(partial(try_point, scenario, folder), first, step_size)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
