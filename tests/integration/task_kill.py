"""A worker of a queue for activities, which dies by SIGKILL at a chosen moment, once.

`python task_kill.py DATABASE MOMENT LOG`; each effect is a line of LOG.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from durable import Engine, activity, activity_info, heartbeat, limits, workflow
from durable.worker.tasks.executor import TaskExecutor

LOST_MAX = 4
MOMENTS = ("claimed", "running", "ending", "ended", "poison")
PLACE: list[str] = []


def die(moment: str) -> None:
    """End this process at that moment, if it is the chosen one."""
    if PLACE and PLACE[0] == moment:
        os.kill(os.getpid(), signal.SIGKILL)


@activity(name="kill.effect", task_queue="gpu", start_to_close_timeout=30)
async def effect(n: int) -> list[Any]:
    info = activity_info()
    with Path(PLACE[1]).open("a") as log:  # noqa: ASYNC230 - a line, and all at once
        log.write(f"{n} {info.attempt}\n")
    heartbeat({"done": n})
    if PLACE[0] in ("running", "poison"):
        await asyncio.sleep(0.5)  # until the heartbeat is written
        die(PLACE[0])
    return [info.attempt, list(info.heartbeat_details)]


@workflow(name="kill.run")
async def run(n: int, *, once: bool = False, local: bool = False) -> list[Any]:
    queue = "default" if local else "gpu"
    return await effect.options(
        effect="once" if once else "idempotent", task_queue=queue
    )(n)


def dying(name: str, moment: str, *, is_before: bool) -> None:
    """Let a step of the executor be the end."""
    step = getattr(TaskExecutor, name)

    def do(self: TaskExecutor, *given: Any) -> Any:
        if is_before and given and (name != "begin" or list(given[0])):
            die(moment)
        done = step(self, *given)
        if not is_before:
            die(moment)
        return done

    setattr(TaskExecutor, name, do)


async def work(database: str, *, serves_runs: bool) -> None:
    """Serve the queue until the end."""
    limits.LOST_ATTEMPTS_MAX = LOST_MAX  # type: ignore[misc]  # so that it is soon
    dying("begin", "claimed", is_before=True)
    dying("_submit", "ending", is_before=True)
    dying("_written", "ended", is_before=False)
    async with Engine(
        database,
        definitions=[run, effect] if serves_runs else [effect],
        task_queue="default" if serves_runs else "none",
        activity_queues={"gpu": 4},
    ):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    PLACE.extend(sys.argv[2:4])
    asyncio.run(work(sys.argv[1], serves_runs="local" in sys.argv[4:]))
