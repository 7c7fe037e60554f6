"""A worker that dies by SIGKILL at a chosen moment of each attempt.

`python effect_kill.py DATABASE MOMENT LOG`; each run of a body is a line of LOG.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from durable import (
    ActivityCancellationType,
    Done,
    Engine,
    NotDone,
    OutcomeUnknown,
    activity,
    activity_info,
    limits,
    resource,
    workflow,
)
from durable.options import ActivityOptions
from durable.store.callers.transactions import Transaction
from durable.worker.activities.invoking import Invoker
from durable.worker.tasks.executor import TaskExecutor

LOST_MAX = 4
WAIT = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
PLACE: list[str] = []
WAYS: dict[str, ActivityOptions] = {
    "read": {"effect": "read", "retry": None},
    "idempotent": {"effect": "idempotent"},
    "once": {"effect": "once"},
    "wait": {"effect": "once", "in_doubt": "wait"},
}


def die(moment: str) -> None:
    """End this process at that moment, if it is the chosen one."""
    if PLACE and PLACE[0] == moment:
        os.kill(os.getpid(), signal.SIGKILL)


def log(line: str) -> None:
    """Leave a line that outlives this process."""
    with Path(PLACE[1]).open("a") as file:
        file.write(line + "\n")


async def act(what: str) -> str:
    """Have an effect, once each time this runs."""
    log(f"{what} {activity_info().attempt}")
    die("running")
    if what == "poison":
        die("poison")
    return f"{what} {activity_info().attempt}"


async def look(what: str) -> Done[str] | NotDone:
    """Find out whether it has had its effect."""
    assert activity_info().idempotency_key.endswith("/1")
    if f"{what} 1\n" in await asyncio.to_thread(Path(PLACE[1]).read_text):
        return Done(f"{what} found")
    return NotDone()


plain = activity(name="effect_kill.plain", start_to_close_timeout=30)(act)
verified = activity(
    name="effect_kill.verified", effect="once", verify=look, start_to_close_timeout=30
)(act)


@workflow(name="effect_kill.run")
async def run(way: str, queue: str, what: str = "charge") -> str:
    """Call it in one of the ways."""
    known = verified if way == "verify" else plain.options(**WAYS[way])
    try:
        return await known.options(task_queue=queue)(what)
    except OutcomeUnknown as error:
        return f"unknown since {error.attempt}"


@activity(name="effect_kill.book", effect="transaction", retry=None)
def book(n: int, *, session: Session = resource(Session)) -> int:
    """Write a row, which must be there exactly if this has returned."""
    session.execute(text("INSERT INTO booked (n) VALUES (:n)"), {"n": n})
    die("written")
    return n * 2


@workflow(name="effect_kill.order")
async def order(n: int, patient: bool = False) -> int:
    """Book; `patient` waits for what a booking that is cancelled has done."""
    return await (book.options(cancellation_type=WAIT) if patient else book)(n)


def dying(home: type[Any], name: str, before: str, after: str) -> None:
    """Let the moments before and after a step be chosen."""
    step = getattr(home, name)

    def do(self: Any, *given: Any) -> Any:
        die(before)
        done = step(self, *given)
        die(after)
        return done

    setattr(home, name, do)


def dying_call(step: Any) -> Any:
    """The same of what an attempt runs."""

    def call(self: Invoker, *given: Any) -> Any:
        async def do() -> Any:
            die("begun")
            done = await step(self, *given)
            die("returned")
            return done

        return do()

    return call


async def work(database: str) -> None:
    """Serve until the end."""
    limits.LOST_ATTEMPTS_MAX = LOST_MAX  # type: ignore[misc]  # so that it is soon
    Invoker.call = dying_call(Invoker.call)  # type: ignore[method-assign]  # as above
    dying(Transaction, "finish", "fencing", "committed")
    dying(Transaction, "_check_commit", "fenced", "fenced, and sure")
    dying(TaskExecutor, "_written", "told", "told and heard")
    async with Engine(
        database,
        definitions=[run, plain, verified, order, book],
        activity_queues={"gpu": 4},
    ):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    PLACE.extend(sys.argv[2:4])
    asyncio.run(work(sys.argv[1]))
