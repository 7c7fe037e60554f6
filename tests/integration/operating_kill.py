"""Kills one of two workers of a server at each trip of its writes; the other goes on.

A program of its own, run by `test_crash_sweep.py`; see `crash_sweep.py`, whose tools it
uses. There are two scenarios: `schedules`, which act by the server's clock, and the
`batches` of `batch_kill.py`. One worker, which is also the client, dies before a group
of writes or after one of its trips, so with its locks held. Another one has been there
all the time, and a client comes that asks for the same. Whatever the moment: each time
has one run, and each run has had what it was to have, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from durable import Engine, Run, limits, workflow
from durable.batches import state
from durable.store.mysql import driver as mysql_driver
from durable.store.postgresql import driver as postgresql_driver
from durable.store.threads.groups import GroupExecutor
from tests.integration import batch_kill
from tests.integration.crash_sweep import Point, in_child, visit, warm_up

TIMES = 2
POLICIES = ("buffer_all", "allow_all", "cancel_other")
SECONDS_MAX = 50
Found = dict[str, list[object]]


@workflow(name="operating_kill.tick")
async def tick() -> None:
    """Do nothing: that there is one run is all."""


async def schedule(engine: Engine) -> Found:
    """Create schedules, or find them; give the runs of each once they have acted."""
    for policy in POLICIES:
        await engine.schedules.create(
            policy, tick(), "@every 1s", overlap=policy, remaining_actions=TIMES
        )
    found: Found = {}
    async with asyncio.timeout(SECONDS_MAX):
        for policy in POLICIES:
            # Who cancels others may have cancelled one.
            where = (Run.schedule == policy) & ~Run.closed.is_null()
            handle = engine.schedules.get(policy)
            while True:
                told = await handle.describe()
                runs = await engine.list(where=where)
                is_through = told.definition.remaining_actions == 0
                if is_through and not told.waiting and len(runs) >= TIMES:
                    break
                await asyncio.sleep(0.02)
            all_runs = await engine.list(where=Run.schedule == policy)
            left_out = told.counts.skipped, told.counts.missed
            found[policy] = [*left_out, *(run.workflow_id for run in all_runs)]
    return found


def judge_schedules(found: Found) -> bool:
    """Each has acted as often as it was to, one second after the other.

    But who cancels others does so for the newest: if two times come before the open
    run has ended, as when its worker dies, the first of them is skipped.
    """
    for policy in POLICIES:
        skipped, missed, *ids = found[policy]
        times = sorted(
            datetime.fromisoformat(str(one).removeprefix(f"{policy}-")) for one in ids
        )
        seconds = (times[-1] - times[0]).total_seconds() + 1 if times else 0
        # Those that came after its last run are counted as skipped, too.
        left_out = int(str(skipped)) if policy == "cancel_other" else 0
        if (
            len(ids) != TIMES
            or len(set(times)) != TIMES
            or missed
            or not TIMES <= seconds <= TIMES + left_out
        ):
            return False
    return True


Scenario = tuple[Callable[[Engine], Awaitable[Found]], Callable[[Found], bool]]
SCENARIOS: dict[str, Scenario] = {
    "schedules": (schedule, judge_schedules),
    "batches": (batch_kill.act, lambda found: found == batch_kill.EXPECTED),
}


def watch_writes(point: Point) -> None:
    """Make the beginning of each group a moment, and the end of each of its trips."""
    here = threading.local()
    execute = GroupExecutor.execute

    def watched(self: GroupExecutor, *arguments: Any) -> Any:
        point.passed()
        here.is_writing = True
        try:
            return execute(self, *arguments)
        finally:
            here.is_writing = False

    def watch_trips(trips: Any) -> None:
        send = trips.send

        def sending(self: Any, statements: Any) -> Any:
            answers = send(self, statements)
            if getattr(here, "is_writing", False):
                point.passed()
            return answers

        trips.send = sending

    GroupExecutor.execute = watched  # type: ignore[assignment, method-assign]  # in a child of its own
    watch_trips(postgresql_driver.Trips)
    watch_trips(mysql_driver.Trips)


def run_engine(
    scenario: Scenario, url: str, namespace: str, answer: Path, at: int
) -> None:
    """Begin a scenario or go on with it; write what came of it, and the moments."""
    point = Point(at)
    watch_writes(point)

    async def main() -> Found:
        async with Engine(url, namespace=namespace, blocked_after=None) as engine:
            return await scenario[0](engine)

    found = asyncio.run(main())
    answer.write_text(json.dumps({"found": found, "moments": point.count}))


@contextlib.contextmanager
def another_worker(url: str, namespace: str) -> Any:
    """Keep a worker, in a child, that nobody kills before the end."""
    reading, writing = os.pipe()

    parent = os.getpid()

    async def work() -> None:
        async with Engine(url, namespace=namespace, blocked_after=None):
            os.write(writing, b"!")
            while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of its end
                await asyncio.sleep(0.5)

    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            asyncio.run(work())
        os._exit(1)
    os.close(writing)
    try:
        if os.read(reading, 1) != b"!":
            raise SystemExit("the other worker has not begun")
        yield
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != -signal.SIGKILL:
            raise SystemExit(f"the other worker ended with {code}")
    finally:
        os.close(reading)


def try_point(name: str, url: str, folder: Path, at: int) -> tuple[bool, int]:
    """Crash at one moment, go on, check. Returns whether it crashed, and moments."""
    namespace, answer = f"{name} {at}", folder / f"{at}.json"
    if name == "batches" and in_child(
        lambda: asyncio.run(batch_kill.fill(url, namespace))
    ):
        raise SystemExit("there is nothing to act on")
    run = partial(run_engine, SCENARIOS[name], url, namespace, answer)
    with another_worker(url, namespace):
        code = in_child(partial(run, at))
        if code not in (0, -signal.SIGKILL):
            raise SystemExit(f"point {at}: the first child ended with {code}")
        if code and (ended := in_child(partial(run, 0))):
            raise SystemExit(f"point {at}: resuming ended with {ended}")
    outcome = json.loads(answer.read_text())
    if not SCENARIOS[name][1](outcome["found"]):
        raise SystemExit(f"point {at}: found {outcome['found']}")
    return code != 0, outcome["moments"]


def main(name: str, url: str, first: int, step_size: int) -> None:
    """Visit every `step_size`-th point of a scenario, beginning with `first`."""
    vars(state)["PAGE"] = 2
    # What a dead worker has is soon looked for.
    vars(limits)["LEASE_SECONDS"] = 4.0
    warm_up()
    with tempfile.TemporaryDirectory() as temporary:
        visit(partial(try_point, name, url, Path(temporary)), first, step_size)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
