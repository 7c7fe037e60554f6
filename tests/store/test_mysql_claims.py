"""MariaDB: who claims does not stand in the way of others, nor they in theirs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import sqlalchemy as sa

from durable.store.activity_tasks import ClaimActivityTasks, TakeExpiredTasks
from durable.store.lease import RegisterWorker
from durable.store.records import ClaimRuns, StartRun
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import (
    CLAIM,
    CLAIM_TASKS,
    make_commit,
    make_settling,
    make_start,
    make_task,
    make_worker,
)
from tests.store.stage import ignore, make_executor

pytestmark = pytest.mark.slow

STARTERS = CLAIMERS = 4
GROUPS, RUNS = 12, 5
WAITING = 300


def make_worker_of(url: str, name: str) -> GroupExecutor:
    executor = make_executor(url)
    executor.execute([RegisterWorker(make_worker(name), ignore)])
    return executor


def execute(executor: GroupExecutor, *operations: Any) -> list[Any]:
    outcomes, _ = executor.execute(list(operations))
    for _, error in outcomes:
        if error is not None:
            raise error
    return [result for result, _ in outcomes]


def test_starters_and_claimers_at_once_meet_no_deadlock(mariadb_url: str) -> None:
    """Users met deadlocks of claims, which delete, with inserts of what is new."""
    runs: Counter[str] = Counter()
    tasks: Counter[str] = Counter()
    all_runs = STARTERS * GROUPS * RUNS
    begin = threading.Barrier(STARTERS + CLAIMERS)
    has_failed = threading.Event()

    def start(executor: GroupExecutor, number: int) -> None:
        for group in range(GROUPS):
            names = [f"{group}-{n}-{number}" for n in range(RUNS)]
            tasks = [(make_task(name, due_at=1),) for name in names]
            starts = zip(names, tasks, strict=True)
            execute(executor, *(make_start(r, wake_at=1, tasks=t) for r, t in starts))

    def claim(executor: GroupExecutor, _: int) -> None:
        while not has_failed.is_set() and (
            runs.total() < all_runs or tasks.total() < all_runs
        ):
            taken, owned = execute(executor, CLAIM_TASKS, CLAIM)
            tasks.update(task.run_id for task in taken)
            runs.update(owned)
            ended = [make_settling(*task.key) for task in taken]
            gone_on = [make_commit(run, epoch=owned[run]) for run in owned]
            execute(executor, *ended, *gone_on)

    def work(act: Callable[[GroupExecutor, int], None], number: int) -> None:
        with closing(make_worker_of(mariadb_url, f"{number}")) as one:
            begin.wait()
            try:
                act(one, number)
            except Exception:
                has_failed.set()
                raise

    with ThreadPoolExecutor(STARTERS + CLAIMERS) as pool:
        done = [pool.submit(work, start, n) for n in range(STARTERS)]
        done += [pool.submit(work, claim, -1 - n) for n in range(CLAIMERS)]
    for one in done:
        one.result()

    assert set(runs.values()) == set(tasks.values()) == {1}
    assert len(runs) == len(tasks) == all_runs


@pytest.fixture
def pair(mariadb_url: str) -> Iterator[tuple[GroupExecutor, GroupExecutor]]:
    """Two workers; three kinds of work wait, of each much."""
    one, other = (make_worker_of(mariadb_url, name) for name in "12")
    starts: list[StartRun] = []
    for number in range(WAITING):
        name = f"{number}"
        tasks = (make_task(name, 1, due_at=1), make_task(name, 2, expires_at=1))
        starts.append(make_start(name, wake_at=1, tasks=tasks))
    execute(one, *starts)
    yield one, other
    one.close()
    other.close()


CLAIMS: list[Any] = [
    ClaimRuns(workflow_types=("order",), limit=1),
    ClaimActivityTasks(queues=CLAIM_TASKS.queues, limit=1),
    TakeExpiredTasks(limit=1),
]


def test_claim_that_is_held_open_leaves_all_else_to_others(
    pair: tuple[GroupExecutor, GroupExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users met a second worker that got nothing: the first one's sort locked all."""
    one, other = pair
    session = one.open()
    commit = session.commit
    meanwhile: list[Any] = []
    for claim in CLAIMS:

        def hold(claim: Any = claim, **how: Any) -> None:
            # One who waits for a lock is told so after a second.
            meanwhile.append(other.execute([claim], lock_seconds=1.0)[0][0])
            commit(**how)

        with monkeypatch.context() as patched:
            patched.setattr(session, "commit", hold)
            (mine,) = execute(one, claim)

        theirs, error = meanwhile.pop()
        assert error is None, claim
        assert len(mine) == len(theirs) == 1, claim
        assert list(mine) != list(theirs)


def test_claims_sort_nothing(pair: tuple[GroupExecutor, GroupExecutor]) -> None:
    """The same: an order that is not that of the index walks, and locks, all rows."""
    one, _ = pair
    connection = one.open().connection
    executed: list[tuple[str, Any]] = []

    def note(*event: Any) -> None:
        _, _, text, values, _, _ = event
        if text.startswith("SELECT"):
            executed.append((text, values))

    sa.event.listen(connection, "before_cursor_execute", note)
    for claim in CLAIMS:
        execute(one, claim)
    sa.event.remove(connection, "before_cursor_execute", note)

    locking = 0
    for text, values in executed:
        locking += "FOR UPDATE" in text
        for row in connection.exec_driver_sql(f"EXPLAIN {text}", values).mappings():
            assert "filesort" not in (row["Extra"] or ""), text
            assert row["type"] != "ALL", text
    assert locking >= len(CLAIMS)
