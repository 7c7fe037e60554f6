"""Kills a sweep of closed runs at every SQL statement, and sweeps again.

With "archived" the runs go into an archive before, and the kills come when its files
are opened, synced and named, too: each run is in the database or in a whole file.

A program of its own, run by `test_crash_sweep.py`; see `crash_sweep.py`, whose tools it
uses. Whatever the moment of the kill: each run is there whole or gone, the checker
finds nothing, and the next sweep leaves what one that nobody kills leaves.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from durable import (
    Engine,
    RetentionRule,
    Signal,
    activity,
    continue_as_new,
    start_child,
    workflow,
)
from durable.client.keeping import retention
from durable.core.history.events import ChildWorkflowExecutionCompleted
from tests.integration.crash_sweep import (
    Point,
    check_database,
    in_child,
    warm_up,
    watch_statements,
)
from tests.store.invariants import find_violations

go_on = Signal("go_on", bool)
TABLES = ("history", "attempts", "inbox", "replies", "attributes")


@activity(name="retention_kill.flaky")
async def flaky(number: int) -> int:
    """Do nothing: it is recorded, and that is all."""
    return number


@workflow(name="retention_kill.work")
async def work(number: int) -> int:
    """Be closed soon."""
    return await flaky(number)


@workflow(name="retention_kill.chain")
async def chain(left: int) -> None:
    """Be a chain of closed runs, and an open one."""
    if left:
        continue_as_new(left - 1)
    await go_on.receive()


@workflow(name="retention_kill.parent")
async def parent() -> None:
    """Have a child that has closed."""
    child = await start_child(work(7), id="child")
    await child.result()
    await go_on.receive()


async def fill(url: str) -> None:
    """Make what is to be swept."""
    async with Engine(url) as engine:
        for number in range(8):
            await engine.execute(work(number), id=f"work {number}")
        await engine.start(chain(4), id="chain")
        waiting = await engine.start(parent(), id="parent")
        async with asyncio.timeout(20):
            while True:
                ends = [run.status.value for run in await engine.list()]
                told = {type(one.attributes) for one in await waiting.history()}
                # Its parent needs a child until it has its outcome.
                is_told = ChildWorkflowExecutionCompleted in told
                if is_told and ends.count("running") == 2 and len(ends) == 15:
                    break
                await asyncio.sleep(0.01)


def watch_files(point: Point) -> None:
    """Make it two moments, too, when a file is opened, synced or named."""

    def watched(call: Callable[..., Any]) -> Callable[..., Any]:
        def at_moments(*args: Any, **options: Any) -> Any:
            point.passed()
            result = call(*args, **options)
            point.passed()
            return result

        return at_moments

    for name in ("open", "fsync", "rename"):
        setattr(os, name, watched(getattr(os, name)))


def archive_of(database: Path) -> Path:
    """The folder that its runs are archived in."""
    return database.with_suffix(".archive")


def run_engine(database: Path, answer: Path, at: int, *, archives: bool) -> None:
    """Sweep, and write what is left and the number of moments."""
    vars(retention)["STEP"] = 3  # many steps, of few runs
    point = Point(at)
    watch_statements(point)
    folder = None
    if archives:
        watch_files(point)
        folder = archive_of(database)

    async def main() -> list[str]:
        rules = [RetentionRule(keep=0, archive_to=folder)]
        url = f"sqlite:///{database}"
        async with Engine(url, worker=False, retention=rules) as engine:
            await engine.delete_expired()
            return sorted(run.workflow_id for run in await engine.list())

    found = asyncio.run(main())
    answer.write_text(json.dumps({"found": found, "moments": point.count}))


def check_whole(at: int, database: Path) -> None:
    """No row of a run is left without it, and no open run lacks anything."""
    with closing(sqlite3.connect(database)) as connection:

        def execute(text: str) -> list[tuple[Any, ...]]:
            return connection.execute(text).fetchall()

        wrong = find_violations(execute)
        for table in TABLES:
            stray = execute(
                f"SELECT run_id FROM durable_{table}"  # noqa: S608 - a name of ours
                " WHERE run_id NOT IN (SELECT run_id FROM durable_runs)"
            )
            wrong |= {table: stray} if stray else {}
    if wrong:
        raise SystemExit(f"point {at}: {wrong}")
    if in_child(lambda: check_database(database)) != 0:
        raise SystemExit(f"point {at}: the checker found something")


History = list[tuple[Any, ...]]


def read_closed(database: Path) -> dict[str, History]:
    """The histories of the closed runs of a database."""
    found: dict[str, History] = {}
    with closing(sqlite3.connect(database)) as connection:
        for run_id, *event in connection.execute(
            "SELECT run_id, event_id, type, data FROM durable_history WHERE run_id IN"
            " (SELECT run_id FROM durable_runs WHERE status != 'running')"
            " ORDER BY run_id, event_id"
        ):
            found.setdefault(run_id, []).append(tuple(event))
    return found


def read_archive(folder: Path) -> list[tuple[str, History]]:
    """The runs of all files that are there; each file is whole."""
    found: list[tuple[str, History]] = []
    for path in folder.glob("*.jsonl.gz"):
        _, *runs, end = gzip.decompress(path.read_bytes()).split(b"\n")[:-1]
        if json.loads(end) != {"end": len(runs)}:
            raise SystemExit(f"{path} is not whole")
        for run in map(json.loads, runs):
            events = [
                (one["event_id"], one["type"], dump(one["data"]))
                for one in run["history"]
            ]
            found.append((run["run"]["run_id"], events))
    return found


def dump(data: Any) -> str:
    """JSON as the database has it."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def check_archive(at: int, template: Path, database: Path) -> None:
    """No run is in neither, and none in the archive that is not as it was."""
    before, left = read_closed(template), read_closed(database)
    archived = read_archive(archive_of(database))
    lost = before.keys() - left.keys() - {run_id for run_id, _ in archived}
    wrong = [run_id for run_id, events in archived if before[run_id] != events]
    if lost or wrong:
        raise SystemExit(f"point {at}: lost are {lost}, wrong {wrong}")
    names = [run_id for run_id, _ in archived]
    if max(map(names.count, names), default=0) > 2:
        raise SystemExit(f"point {at}: a run was archived more than twice")


def try_point(
    folder: Path, template: Path, at: int, *, archives: bool
) -> tuple[bool, int]:
    """Crash at one moment, resume, check. Returns whether it crashed, and moments."""
    database, answer = folder / f"{at}.db", folder / f"{at}.json"
    shutil.copyfile(template, database)
    code = in_child(lambda: run_engine(database, answer, at, archives=archives))
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"point {at}: the first child ended with {code}")
    check_whole(at, database)
    if archives:
        check_archive(at, template, database)
    if in_child(lambda: run_engine(database, answer, 0, archives=archives)) != 0:
        raise SystemExit(f"point {at}: resuming failed")
    outcome = json.loads(answer.read_text())
    if archives:
        check_archive(at, template, database)
        shutil.rmtree(archive_of(database))
    # The chain's open run, and its first.
    if outcome["found"] != ["chain", "chain", "parent"]:
        raise SystemExit(f"point {at}: found {outcome['found']}")
    check_whole(at, database)
    for leftover in folder.glob(f"{at}.*"):
        leftover.unlink()
    return code != 0, outcome["moments"]


def main(first: int, step_size: int, *, archives: bool) -> None:
    """Visit every `step_size`-th point, beginning with `first`."""
    warm_up()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = folder / "template"
        if in_child(lambda: asyncio.run(fill(f"sqlite:///{template}"))) != 0:
            raise SystemExit("the template was not made")
        counted = folder / "counted.json"
        shutil.copyfile(template, folder / "counted.db")
        database = folder / "counted.db"
        in_child(lambda: run_engine(database, counted, 0, archives=archives))
        moments = json.loads(counted.read_text())["moments"]
        crashed = tried = 0
        for at in range(first, moments + 1, step_size):
            has_crashed, _ = try_point(folder, template, at, archives=archives)
            tried += 1
            crashed += has_crashed
        print(f"{moments} moments, {tried} tried, {crashed} crashed, 0 wrong")


if __name__ == "__main__":
    main(int(sys.argv[-2]), int(sys.argv[-1]), archives=sys.argv[1] == "archived")
