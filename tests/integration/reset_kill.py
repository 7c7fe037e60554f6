"""Kills a program at every SQL statement around a reset, and resumes it.

A program of its own, run by `test_crash_sweep.py`; see `crash_sweep.py`, whose tools it
uses. A parent with a child and messages is reset, paused and resumed. Whatever the
moment of the kill: either nothing of the reset is there or all of it, under its request
id there is one run, and that hears of the child and of each message once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from durable import (
    Engine,
    Handle,
    Signal,
    WorkflowClosedError,
    activity,
    before,
    start_child,
    workflow,
)
from durable.store.connect import connect
from tests.integration import crash_sweep
from tests.integration.crash_sweep import (
    Point,
    check_database,
    crash_and_resume,
    in_child,
    visit,
    warm_up,
    watch_statements,
)

word = Signal("word", str)
EXPECTED = "ann two three step child"


@activity(name="reset_kill.step")
async def step() -> str:
    """Do nothing."""
    return "step"


@workflow(name="reset_kill.child")
async def child() -> str:
    """Wait for one signal."""
    return await word.receive()


@workflow(name="reset_kill.parent")
async def parent(name: str) -> str:
    """Wait for signals, for an activity, and for a child."""
    begun = await start_child(child(), id="child")
    heard = [await word.receive(), await word.receive()]
    done = await step()
    return " ".join([name, *heard, done, await begun.result()])


async def until_scheduled(run: Handle[Any]) -> None:
    """Wait until the run has asked for its activity."""
    for _ in range(5_000):
        names = [type(event.attributes).__name__ for event in await run.history()]
        if "ActivityTaskScheduled" in names:
            return
        await asyncio.sleep(0.005)


def run_engine(database: Path, answer: Path, at: int) -> None:
    """Run or resume everything; write what came of it and the number of moments."""
    point = Point(at)
    watch_statements(point)

    async def main() -> dict[str, Any]:
        store = connect(f"sqlite:///{database}")
        async with Engine(store, blocked_after=None) as engine:
            run = await engine.start(parent("ann"), id="parent")
            found = await engine.list(workflow_id="parent")
            if len(found) < 2:
                await run.signal(word("two"), request_id="two")
                await run.signal(word("three"), request_id="three")
                await until_scheduled(run)
                await run.pause(request_id="pause")
            # What has closed by then takes no more, and needs none.
            again = await run.reset(to=before("reset_kill.step"), request_id="reset")
            with contextlib.suppress(WorkflowClosedError):
                await again.pause(request_id="pause again")
                await again.resume(request_id="resume")
            kid = await engine.get("child")
            with contextlib.suppress(WorkflowClosedError):
                await kid.signal(word("child"), request_id="child")
            result = await again.result(timeout=30)
            runs = await engine.list(limit=100)
            return {
                "result": result,
                "runs": sorted(f"{r.workflow_id} {r.status.value}" for r in runs),
            }

    found = asyncio.run(main())
    answer.write_text(json.dumps({"found": found, "moments": point.count}))


def try_point(folder: Path, at: int) -> tuple[bool, int]:
    """Crash at one moment, resume, check. Returns whether it crashed, and moments."""
    database, answer = folder / f"{at}.db", folder / f"{at}.json"
    crash_sweep.LEDGER = folder / f"{at}.ledger"
    crash_sweep.LEDGER.touch()
    was_killed = crash_and_resume(at, partial(run_engine, database, answer))
    outcome = json.loads(answer.read_text())
    found = outcome["found"]
    runs = ["child completed", "parent completed", found["runs"][-1]]
    is_right = found["result"] == EXPECTED and found["runs"] == sorted(runs)
    if not is_right or found["runs"][-1] not in (
        "parent terminated",
        "parent completed",
    ):
        raise SystemExit(f"point {at}: {found}")
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
        visit(partial(try_point, folder), first, step_size)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
