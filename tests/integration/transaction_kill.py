"""Kills a program whose activities are transactions, and goes on.

A program of its own, run by `test_crash_sweep.py`; see `crash_sweep.py`, whose tools it
uses. It is killed at every SQL statement, of the activities' own transactions and of
the engine's. Whatever the moment: a booking is in the table exactly if its outcome is
recorded, in the task's row, in the run's inbox or in its history; and once at the end.
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
from sqlite3 import dbapi2
from typing import Any

from sqlalchemy import Connection, text

from durable import (
    Engine,
    IdConflictPolicy,
    activity,
    activity_info,
    resource,
    workflow,
)
from durable.store.callers.transactions import Transaction
from tests.integration.crash_sweep import (
    POLICY,
    Point,
    check_database,
    in_child,
    visit,
    warm_up,
    watch_statements,
)
from tests.integration.outbox_kill import make_template

BOOKINGS = 3


@activity(name="transaction_kill.book", effect="transaction", retry=POLICY)
def book(number: int, *, connection: Connection = resource(Connection)) -> int:
    """Write a row; the first attempt of the second one fails after that."""
    insert = text("INSERT INTO orders (id) VALUES (:number)")
    connection.execute(insert, {"number": number})
    if number == 1 and activity_info().attempt == 1:
        raise ValueError("not at the first attempt")
    return number * 10


@workflow(name="transaction_kill.order")
async def order() -> list[int]:
    """Book one, and two at once."""
    first = await book(0)
    return [first, *await asyncio.gather(*(book(n) for n in range(1, BOOKINGS)))]


def watch_commits(point: Point) -> None:
    """Make the commit of a transaction two moments."""
    check, finish = Transaction._check_commit, Transaction.finish

    def before(self: Transaction, connection: object) -> None:
        point.passed()
        check(self, connection)

    def after(self: Transaction, *given: Any) -> None:
        finish(self, *given)
        point.passed()

    vars_of: Any = Transaction
    vars_of._check_commit, vars_of.finish = before, after


def run_engine(database: Path, answer: Path, at: int) -> None:
    """Run the workflow, or go on with it, and write what came of it."""
    point = Point(at)
    watch_statements(point)
    # SQLAlchemy's own way to a connection; and its commits, which are no statements.
    dbapi2.connect = sqlite3.connect
    watch_commits(point)

    async def main() -> list[int]:
        url, known = f"sqlite:///{database}", [order, book]
        async with Engine(url, definitions=known, blocked_after=None) as engine:
            run = await engine.start(
                order(),
                id="order",
                request_id="order",
                on_conflict=IdConflictPolicy.USE_EXISTING,
            )
            return await run.result(timeout="50s")

    result = asyncio.run(main())
    answer.write_text(json.dumps({"result": result, "moments": point.count}))


def check_both_or_none(at: int, database: Path) -> None:
    """Each row has its outcome, and each outcome its row."""
    with closing(sqlite3.connect(database)) as connection:

        def count(query: str) -> int:
            (found,) = connection.execute(query).fetchone()
            return int(found)

        rows = count("SELECT count(*) FROM orders")
        outcomes = count(
            "SELECT count(*) FROM durable_activity_tasks"
            " WHERE progress LIKE '%\"outcome\":%'"
        )
        outcomes += count("SELECT count(*) FROM durable_inbox WHERE kind = 'activity'")
        outcomes += count(
            "SELECT count(*) FROM durable_history WHERE type = 'ActivityTaskCompleted'"
        )
        if rows != outcomes:
            raise SystemExit(f"point {at}: {rows} rows and {outcomes} outcomes")


def try_point(folder: Path, template: Path, at: int) -> tuple[bool, int]:
    """Crash at one moment, resume, check. Returns whether it crashed, and moments."""
    database, answer = folder / f"{at}.db", folder / f"{at}.json"
    shutil.copyfile(template, database)
    code = in_child(partial(run_engine, database, answer, at))
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"point {at}: the first child ended with {code}")
    check_both_or_none(at, database)
    if code != 0 and in_child(partial(run_engine, database, answer, 0)) != 0:
        raise SystemExit(f"point {at}: resuming failed")
    outcome = json.loads(answer.read_text())
    if outcome["result"] != [10 * n for n in range(BOOKINGS)]:
        raise SystemExit(f"point {at}: {outcome['result']}")
    check_both_or_none(at, database)
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT id FROM orders ORDER BY id").fetchall()
    if rows != [(n,) for n in range(BOOKINGS)]:
        raise SystemExit(f"point {at}: {rows}")
    if in_child(lambda: check_database(database)) != 0:
        raise SystemExit(f"point {at}: the checker found something")
    for leftover in folder.glob(f"{at}.*"):
        leftover.unlink()
    return code != 0, outcome["moments"]


def main(first: int, step_size: int) -> None:
    """Visit every `step_size`-th point, beginning with `first`."""
    warm_up()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = folder / "template"
        if in_child(lambda: make_template(template)) != 0:
            raise SystemExit("the template was not made")
        visit(partial(try_point, folder, template), first, step_size)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
