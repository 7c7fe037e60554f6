"""A worker of a queue with limits, which dies by SIGKILL at one of its commits.

`python queue_kill.py DATABASE LEDGER COMMIT [runs]`: before that commit if it is
negative, after it otherwise, never if it is 0. With `runs` it serves whole runs. Each
line of LEDGER tells an instant (monotonic, microseconds), a process, and what it has
done.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from durable import Engine, activity, limits, sleep, workflow
from durable.store.activity_tasks import ActivityTaskRecord
from durable.store.mysql.session import MysqlSession
from durable.store.postgresql.session import PostgresSession
from durable.store.sqlite.session import SqliteSession
from durable.worker.tasks.executor import TaskExecutor

QUEUE = "limited"
LEDGER: list[int] = []


def note(*words: object) -> None:
    """Append a line, all at once."""
    at = time.monotonic_ns() // 1_000
    os.write(LEDGER[0], (" ".join(map(str, (at, os.getpid(), *words))) + "\n").encode())


@activity(name="queue_kill.work", task_queue=QUEUE, start_to_close_timeout=30)
async def work(key: str, n: int) -> int:
    note("begins", key, n)
    await asyncio.sleep((n % 5) * 0.004)
    note("ends", key, n)
    return n


@workflow(name="queue_kill.fan")
async def fan(keys: str) -> int:
    calls = [work.options(fairness_key=key)(key, n) for n, key in enumerate(keys)]
    return sum(await asyncio.gather(*calls))


@activity(name="queue_kill.tell", start_to_close_timeout=30)
async def tell(what: str, key: str, n: int) -> None:
    note(what, key, n)


@workflow(name="queue_kill.turn")
async def turn(key: str, n: int) -> int:
    await tell("opens", key, n)
    await sleep((n % 5) * 0.004)
    await tell("closes", key, n)
    return n


def die_at(commit: int) -> None:
    """Let the commit of that number be the last, or the first that is not."""
    commits = 0

    def do(whole: Any, session: Any, *, is_news: bool = True) -> None:
        nonlocal commits
        commits += 1
        if commits == -commit:
            die()
        whole(session, is_news=is_news)
        if commits == commit:
            die()

    for kind in (SqliteSession, PostgresSession, MysqlSession):
        whole = kind.commit
        kind.commit = lambda self, is_news=True, whole=whole: do(  # type: ignore[method-assign]  # for the kill
            whole, self, is_news=is_news
        )


def die() -> None:
    """End this process, which writes down when it has."""
    note("dies")
    os.kill(os.getpid(), signal.SIGKILL)


def noting_claims() -> None:
    """Write down of each claim when it was, by the database."""
    whole = TaskExecutor.begin

    def begin(
        self: TaskExecutor, records: Iterable[ActivityTaskRecord], terms: Any
    ) -> None:
        found = list(records)
        for record in found:
            note("claims", record.started_at, record.scheduled_event_id)
        whole(self, found, terms)

    TaskExecutor.begin = begin  # type: ignore[method-assign]  # as told


async def serve(database: str, *, runs: bool) -> None:
    """Serve the queue until the end."""
    limits.LOST_ATTEMPTS_MAX = 1_000  # type: ignore[misc]  # each kill may lose the same
    found: dict[str, Any] = {
        "definitions": [work],
        "task_queue": "none",
        "activity_queues": {QUEUE: 9},
    }
    if runs:
        found = {"definitions": [turn, tell], "task_queue": QUEUE}
    async with Engine(database, **found):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    LEDGER.append(os.open(Path(sys.argv[2]), os.O_WRONLY | os.O_APPEND | os.O_CREAT))
    noting_claims()
    die_at(int(sys.argv[3]))
    asyncio.run(serve(sys.argv[1], runs="runs" in sys.argv))
