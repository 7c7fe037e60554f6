"""Kills batches at every SQL statement, and lets them go on.

A program of its own, run by `test_crash_sweep.py`; see `crash_sweep.py`, whose tools it
uses. Three batches follow each other: one sends a signal, one terminates, one deletes.
Whatever the moment of the kill: each run has had what it was to have, once.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from durable import Attribute, Engine, Signal, workflow
from durable.batches import state
from tests.integration.crash_sweep import (
    Point,
    check_database,
    crash_and_resume,
    in_child,
    visit,
    warm_up,
    watch_statements,
)

group = Attribute("batch_kill_group", str)
note = Signal("note", int)
GROUPS = ("told", "ended", "deleted")
EXPECTED = {
    **{f"told {n}": ["completed", 1] for n in range(4)},
    **{f"ended {n}": ["terminated", 0] for n in range(4)},
}


@workflow(name="batch_kill.waits")
async def waits() -> int:
    """Wait to be told."""
    return await note.receive()


async def fill(url: str, namespace: str = "default") -> None:
    """Make what is to be acted on."""
    async with Engine(url, namespace=namespace, blocked_after=None) as engine:
        for name in GROUPS:
            for number in range(4):
                await engine.start(
                    waits(), id=f"{name} {number}", attributes={group: name}
                )


async def act(engine: Engine) -> dict[str, list[object]]:
    """Begin the batches, or go on with them; give what each run has had."""
    told, ended, deleted = (engine.batch(where=group == g) for g in GROUPS)
    batch = await told.signal(note(1), id="told", rate=None)
    await batch.result(timeout=40)
    batch = await ended.terminate("enough", id="ended", rate=None)
    counted = await batch.result(timeout=40)
    if (counted.done, counted.skipped) != (4, {}):
        raise SystemExit(f"{counted}")
    batch = await deleted.delete(terminate=True, id="deleted", rate=None)
    counted = await batch.result(timeout=40)
    if (counted.done, counted.skipped) != (4, {}):
        raise SystemExit(f"{counted}")
    found: dict[str, list[object]] = {}
    for run in await engine.list():
        handle = await engine.get(run.workflow_id)
        if run.workflow_id.startswith("told"):
            await handle.result(timeout=40)
        kinds = [type(e.attributes).__name__ for e in await handle.history()]
        ends = (await handle.describe()).status.value
        found[run.workflow_id] = [ends, kinds.count("WorkflowExecutionSignaled")]
    return found


def run_engine(database: Path, answer: Path, at: int) -> None:
    """Run or resume the batches; write what came of it and the number of moments."""
    vars(state)["PAGE"] = 2
    point = Point(at)
    watch_statements(point)

    async def main() -> dict[str, list[object]]:
        async with Engine(f"sqlite:///{database}", blocked_after=None) as engine:
            return await act(engine)

    found = asyncio.run(main())
    answer.write_text(json.dumps({"found": found, "moments": point.count}))


def try_point(folder: Path, template: Path, at: int) -> tuple[bool, int]:
    """Crash at one moment, resume, check. Returns whether it crashed, and moments."""
    database, answer = folder / f"{at}.db", folder / f"{at}.json"
    shutil.copyfile(template, database)
    was_killed = crash_and_resume(at, partial(run_engine, database, answer))
    outcome = json.loads(answer.read_text())
    if outcome["found"] != EXPECTED:
        raise SystemExit(f"point {at}: found {outcome['found']}")
    if in_child(lambda: check_database(database)) != 0:
        raise SystemExit(f"point {at}: the checker found something")
    for leftover in folder.glob(f"{at}.*"):
        leftover.unlink()
    return was_killed, outcome["moments"]


def main(first: int, step_size: int) -> None:
    """Visit every `step_size`-th point, beginning with `first`."""
    warm_up()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template = folder / "template"
        if in_child(lambda: asyncio.run(fill(f"sqlite:///{template}"))) != 0:
            raise SystemExit("the template was not made")
        visit(partial(try_point, folder, template), first, step_size)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
