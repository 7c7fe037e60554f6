"""Kills a schedule at every SQL statement around its firings, and resumes it.

A program of its own, run by `test_crash_sweep.py`; see `crash_sweep.py`, whose tools it
uses. A schedule acts for three past times and for three of its own. Whatever the moment
of the kill: each time has exactly one run, and what it counts is right.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from durable import Engine, workflow
from durable.clock import SystemClock
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

PAST = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = 6


@workflow(name="schedule_kill.tick")
async def tick() -> str:
    """Do nothing: that there is one run is all."""
    return "ticked"


class Swift(SystemClock):
    """Time that runs 20 times as fast, so that a second is soon over."""

    def now(self) -> int:
        """Microseconds since 1970."""
        return START + (super().now() - START) * 20


START = SystemClock().now()


def run_engine(database: Path, answer: Path, at: int) -> None:
    """Run or resume everything; write what came of it and the number of moments."""
    point = Point(at)
    watch_statements(point)

    async def main() -> list[str]:
        store = connect(f"sqlite:///{database}", clock=Swift())
        async with Engine(store, blocked_after=None) as engine:
            handle = await engine.schedules.create(
                "s",
                tick(),
                "* * * * * * *",
                remaining_actions=3,
                overlap="buffer_all",
                catchup_window="1d",
            )
            found = await handle.describe()
            if not any(run.scheduled_at < found.created_at for run in found.recent):
                # With the update's own id lost, it may be asked for twice: the ids of
                # the runs tell whether a time had more than one open at once.
                await handle.backfill(
                    PAST, PAST + timedelta(seconds=2), overlap="buffer_all"
                )
            deadline = asyncio.get_running_loop().time() + 40
            while asyncio.get_running_loop().time() < deadline:
                found = await handle.describe()
                left = found.definition.remaining_actions
                if left == 0 and not found.running and not found.waiting:
                    break
                await asyncio.sleep(0.02)
            runs = await engine.list(workflow_type="schedule_kill.tick", limit=100)
            return [f"{run.workflow_id} {run.status.value}" for run in runs]

    found = asyncio.run(main())
    answer.write_text(json.dumps({"found": found, "moments": point.count}))


def try_point(folder: Path, at: int) -> tuple[bool, int]:
    """Crash at one moment, resume, check. Returns whether it crashed, and moments."""
    database, answer = folder / f"{at}.db", folder / f"{at}.json"
    crash_sweep.LEDGER = folder / f"{at}.ledger"
    crash_sweep.LEDGER.touch()
    was_killed = crash_and_resume(at, partial(run_engine, database, answer))
    outcome = json.loads(answer.read_text())
    judge(at, outcome["found"])
    if in_child(lambda: check_database(database)) != 0:
        raise SystemExit(f"point {at}: the checker found something")
    for leftover in folder.glob(f"{at}.*"):
        leftover.unlink()
    return was_killed, outcome["moments"]


def judge(at: int, found: list[str]) -> None:
    """Each of the schedule's own times has one run, one after the other."""
    own = [one for one in found if "2026-01-01" not in one]
    past = {one for one in found if "2026-01-01" in one}
    times = sorted(datetime.fromisoformat(one.split()[0][2:]) for one in own)
    steps = {(b - a).total_seconds() for a, b in itertools.pairwise(times)}
    is_right = (
        all(one.endswith(" completed") for one in found)
        and len(times) == TIMES // 2
        and len(past) == TIMES // 2
        and steps == {1.0}
    )
    if not is_right:
        raise SystemExit(f"point {at}: found {found}")


def main(first: int, step_size: int) -> None:
    """Visit every `step_size`-th point, beginning with `first`."""
    warm_up()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        visit(partial(try_point, folder), first, step_size)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
