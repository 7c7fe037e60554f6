"""Kills a program that starts runs in its own transactions, and goes on.

A program of its own, run by `test_crash_sweep.py`; see `crash_sweep.py`, whose tools it
uses. It is killed at every SQL statement, of its own transactions and of the delivery,
or right after each commit while a hundred messages of one transaction are delivered one
by one. Whatever the moment: orders and their runs are both there or neither, each
message has come once, in order, and nothing is left over.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sqlite3
import sys
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from durable import Engine, Signal, limits, workflow
from tests.integration.crash_sweep import (
    Point,
    check_database,
    in_child,
    warm_up,
    watch_statements,
)
from tests.store.invariants import find_violations

ORDERS = 3
MESSAGES = 100
noted = Signal("outbox_kill.noted", int)


@workflow(name="outbox_kill.fulfil")
async def fulfil(number: int, count: int) -> list[int]:
    """Take so many messages."""
    return [number, *[await noted.receive() for _ in range(count)]]


def order(engine: Engine, connection: sqlite3.Connection, number: int) -> None:
    """Take an order, which is a row and a run, in a transaction."""
    with connection:
        if connection.execute(
            "SELECT 1 FROM orders WHERE id = ?", (number,)
        ).fetchone():
            return
        within = engine.within(connection)
        connection.execute("INSERT INTO orders (id) VALUES (?)", (number,))
        name = f"order {number}"
        within.start(fulfil(number, 3), id=name)
        connection.execute("SAVEPOINT undone")
        within.signal(name, noted(99))
        connection.execute("ROLLBACK TO undone")
        for value in range(3):
            within.signal(name, noted(value))


def send(engine: Engine, connection: sqlite3.Connection) -> None:
    """Send a hundred messages in a transaction."""
    with connection:
        if connection.execute("SELECT 1 FROM orders").fetchone():
            return
        within = engine.within(connection)
        connection.execute("INSERT INTO orders (id) VALUES (0)")
        within.start(fulfil(0, MESSAGES), id="order 0")
        for value in range(MESSAGES):
            within.signal("order 0", noted(value))


def run_engine(mode: str, database: Path, answer: Path, at: int) -> None:
    """Do the business, or go on with it, and write what came of it."""
    point = Point(at)
    if mode == "messages":
        vars(limits)["OUTBOX_PAGE_MAX"] = 1
        watch_statements(point, only="COMMIT")
    else:
        watch_statements(point)

    async def main() -> dict[str, Any]:
        async with Engine(f"sqlite:///{database}", blocked_after=None) as engine:
            connection = sqlite3.connect(database, timeout=30)
            with closing(connection):
                if mode == "messages":
                    send(engine, connection)
                else:
                    for number in range(ORDERS):
                        order(engine, connection, number)
                rows = connection.execute(
                    "SELECT id FROM orders ORDER BY id"
                ).fetchall()
            results: dict[str, Any] = {}
            async with asyncio.timeout(30):
                for (number,) in rows:
                    name = f"order {number}"
                    while True:
                        if any(r.workflow_id == name for r in await engine.list()):
                            break
                        await asyncio.sleep(0.002)
                    results[name] = await (await engine.get(name)).result()
                while await engine.outbox.list():  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.002)
            return results

    results = asyncio.run(main())
    answer.write_text(json.dumps({"results": results, "moments": point.count}))


def expected(mode: str) -> dict[str, list[int]]:
    """What the runs of all orders give."""
    if mode == "messages":
        return {"order 0": [0, *range(MESSAGES)]}
    return {f"order {n}": [n, 0, 1, 2] for n in range(ORDERS)}


def check_both_or_none(at: int, database: Path) -> None:
    """Of each order there is a run, or the row that will start it; and none besides."""
    with closing(sqlite3.connect(database)) as connection:

        def execute(text: str) -> list[tuple[Any, ...]]:
            return connection.execute(text).fetchall()

        orders = {f"order {number}" for (number,) in execute("SELECT id FROM orders")}
        started = [name for (name,) in execute("SELECT workflow_id FROM durable_runs")]
        waiting = [
            name
            for (name,) in execute(
                "SELECT target FROM durable_outbox WHERE kind = 'start'"
            )
        ]
        if sorted(orders) != sorted([*started, *waiting]):
            raise SystemExit(f"point {at}: {orders} but {started} and {waiting}")
        wrong = find_violations(execute)
        if wrong:
            raise SystemExit(f"point {at}: {wrong}")


def try_point(mode: str, folder: Path, template: Path, at: int) -> tuple[bool, int]:
    """Crash at one moment, resume, check. Returns whether it crashed, and moments."""
    database, answer = folder / f"{at}.db", folder / f"{at}.json"
    shutil.copyfile(template, database)
    code = in_child(partial(run_engine, mode, database, answer, at))
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"point {at}: the first child ended with {code}")
    check_both_or_none(at, database)
    if in_child(partial(run_engine, mode, database, answer, 0)) != 0:
        raise SystemExit(f"point {at}: resuming failed")
    outcome = json.loads(answer.read_text())
    if outcome["results"] != expected(mode):
        raise SystemExit(f"point {at}: {outcome['results']}")
    check_both_or_none(at, database)
    if in_child(lambda: check_database(database)) != 0:
        raise SystemExit(f"point {at}: the checker found something")
    for leftover in folder.glob(f"{at}.*"):
        leftover.unlink()
    return code != 0, outcome["moments"]


def make_template(template: Path) -> None:
    """Make a database with the tables of both."""

    async def open_once() -> None:
        async with Engine(f"sqlite:///{template}"):
            pass

    asyncio.run(open_once())
    with closing(sqlite3.connect(template)) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY)")


def main(mode: str, first: int, step_size: int) -> None:
    """Visit every `step_size`-th point, beginning with `first`."""
    warm_up()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = folder / "template"
        if in_child(lambda: make_template(template)) != 0:
            raise SystemExit("the template was not made")
        counted = folder / "counted.json"
        shutil.copyfile(template, folder / "counted.db")
        in_child(partial(run_engine, mode, folder / "counted.db", counted, 0))
        moments = json.loads(counted.read_text())["moments"]
        crashed = tried = 0
        for at in range(first, moments + 1, step_size):
            has_crashed, _ = try_point(mode, folder, template, at)
            tried += 1
            crashed += has_crashed
        print(f"{moments} moments, {tried} tried, {crashed} crashed, 0 wrong")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
