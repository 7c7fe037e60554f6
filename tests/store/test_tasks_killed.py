"""A worker that is killed at each statement of a settling has settled all or nothing.

Whoever comes after it finds each activity either waiting for its judgement or settled,
and never both: its run hears of it once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from durable.clock import SystemClock
from durable.store.activity_tasks import ClaimActivityTasks, TakeExpiredTasks
from durable.store.lease import RegisterWorker, ReleaseWorker
from durable.store.records import ReapWorkers
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.steady_clock import SteadyClock
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import (
    QUEUE,
    make_attempt,
    make_settling,
    make_start,
    make_task,
    make_termination,
    make_worker,
)
from tests.store.stage import ignore, make_executor, stepping

SETTLED = 3
MOMENTS_MAX = 40


def open_executor(url: str) -> GroupExecutor:
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        return GroupExecutor(SqliteDatabase(path), SteadyClock(SystemClock()))
    return make_executor(url)


@contextmanager
def watching(executor: GroupExecutor, step: Any) -> Iterator[None]:
    session: Any = executor.open()
    if isinstance(executor._database, SqliteDatabase):
        session._raw.set_trace_callback(lambda _: step())
        yield
        return
    with stepping(session, step):
        yield


def settle_and_die(url: str, p: str, moment: int) -> None:
    """Be the process that is killed before, or on a server after, a statement."""
    executor = open_executor(url)
    executor.execute([RegisterWorker(make_worker(p + "w"), ignore)])
    kinds = {"activity_type": p, "due_at": 1}
    executor.execute(
        [
            make_start(
                p + "r", tasks=tuple(make_task(p + "r", n, **kinds) for n in (2, 3))
            ),
            make_start(p + "c", tasks=(make_task(p + "c", **kinds),)),
        ]
    )
    executor.execute([ClaimActivityTasks(queues=((QUEUE, (p,)),), limit=9)])
    executor.execute([make_termination(p + "c")])
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    then = make_task(p + "r", 3, attempt=2, **kinds)
    with watching(executor, step):
        outcomes, _ = executor.execute(
            [
                make_settling(p + "r", 2, attempts=(make_attempt(p + "r", 1),)),
                make_settling(p + "r", 3, message=None, next=then),
                make_settling(p + "c"),
            ]
        )
    assert [result for result, _ in outcomes] == [True, True, False]
    print("settled", flush=True)


def rows_of(executor: GroupExecutor, p: str) -> list[list[Any]]:
    connection = executor.open().connection
    texts = (
        "SELECT run_id, scheduled_event_id, state, attempt FROM durable_activity_tasks",
        "SELECT run_id, request_id FROM durable_inbox",
        "SELECT run_id, attempt FROM durable_attempts",
    )
    return [
        [
            (run_id.removeprefix(p), *others)
            for run_id, *others in connection.exec_driver_sql(text)
            if run_id.startswith(p)
        ]
        for text in texts
    ]


BEFORE = [
    {("r", 2, "claimed", 1), ("r", 3, "claimed", 1), ("c", 2, "claimed", 1)},
    set(),
    set(),
]
AFTER = [{("r", 3, "waiting", 2)}, {("r", "done-2")}, {("r", 1)}]


@pytest.mark.slow
@pytest.mark.timeout(180)  # a process for each moment
@pytest.mark.parametrize("kind", ["sqlite", "postgres_url", "mariadb_url"])
def test_settling_that_is_killed_has_happened_or_not(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/x.db"
    if kind != "sqlite":
        url = request.getfixturevalue(kind)
    executor = open_executor(url)
    executor.execute([RegisterWorker(make_worker("judge"), ignore)])
    seen: set[str] = set()
    for moment in range(1, MOMENTS_MAX):
        p = f"{moment:03}-"
        program = f"from {__name__} import *; settle_and_die({url!r}, {p!r}, {moment})"
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode == 0:
            assert done.stdout == "settled\n"
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        seen.add(check_what_is_left(executor, p))
    else:
        raise AssertionError("it was always killed")
    assert moment > SETTLED, "it was killed nowhere between"
    assert "before" in seen
    executor.execute([ReleaseWorker()])
    executor.close()


def check_what_is_left(executor: GroupExecutor, p: str) -> str:
    deadline = time.monotonic() + 20
    # A server keeps what the process has locked until it hears of its end.
    while executor.execute([ReapWorkers(presumed_dead=(p + "w",))])[0] == [([], None)]:
        assert time.monotonic() < deadline, "its worker's row stays locked"
        time.sleep(0.02)
    lost = [{(r, n, "lost", a) for r, n, _, a in BEFORE[0]}, *BEFORE[1:]]
    found = [set(rows) for rows in rows_of(executor, p)]
    assert found in (lost, AFTER)
    if found == AFTER:
        return "after"
    ((taken, _),) = executor.execute([TakeExpiredTasks(limit=9)])[0]
    assert {task.run_id.removeprefix(p) for task in taken} == {"r", "c"}
    judged = [make_settling(task.run_id, task.scheduled_event_id) for task in taken]
    executor.execute(judged)
    tasks, mail, _ = rows_of(executor, p)
    assert (tasks, sorted(mail)) == ([], [("r", "done-2"), ("r", "done-3")])
    return "before"
