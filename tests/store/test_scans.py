"""However much has ended, what workers look for costs the same.

Users met polls that slowed down with all that was ever done: one due row was found in
seconds beside millions of finished ones, whose index the statement did not match, and
jobs that were given up stayed where each claim looked.

Counted are the rows, entries of indexes or steps that a database has walked.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from durable import limits
from durable.clock import SystemClock
from durable.search.run_fields import Run
from durable.store.activity_tasks import (
    ActivityTaskRecord,
    ClaimActivityTasks,
    TakeExpiredTasks,
)
from durable.store.database import Session
from durable.store.lease import RegisterWorker
from durable.store.looks import Looks, pause_after
from durable.store.queries import (
    CountRuns,
    FindDueRuns,
    FindDueVersions,
    FindMailedRuns,
    FindNextWakeUp,
    FindOutbox,
    FindUnowned,
    NextActivityTaskAt,
)
from durable.store.queues import PutQueue, QueueRecord
from durable.store.records import (
    AttemptState,
    ClaimRuns,
    RunStatus,
    WorkerRecord,
    at_once,
)
from durable.store.sql import searching, statements
from durable.store.sql.reads import Question, answer
from durable.store.sql.tables import ACTIVITY_TASKS, ATTEMPTS, RUNS
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.steady_clock import SteadyClock
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import (
    NAMESPACE,
    QUEUE,
    START,
    make_attempt,
    make_run,
    make_settling,
    make_start,
    make_task,
    make_worker,
)
from tests.servers import PostgresDatabases
from tests.store.stage import ignore, make_executor
from tests.store.test_task_plans import fill as fill_tasks

pytestmark = pytest.mark.slow

FEW, MANY = 20, 2_000
TYPES = ("order",)
TASKS = ((QUEUE, ("charge",)),)
QUERIES = [
    FindDueRuns(until=START, limit=10),
    FindMailedRuns(limit=10),
    FindNextWakeUp(TYPES),
    FindDueVersions(TYPES, until=START),
    FindUnowned(NAMESPACE, until=START, limit=10),
    NextActivityTaskAt(TASKS),
    FindOutbox(NAMESPACE, until=START, limit=10),
]


def fill(session: Session, prefix: str, count: int) -> None:
    """Insert runs that have ended, or are parked for good, and attempts that failed."""
    names = [column.name for column in (*statements.RUN_COLUMNS, RUNS.c.open_key)]
    ends: list[dict[str, Any]] = [
        {"status": RunStatus.FAILED, "closed_at": START},
        {"status": RunStatus.COMPLETED, "closed_at": START},
        {"stuck": '{"type": "ValueError"}'},
    ]
    runs: list[tuple[Any, ...]] = []
    attempts: list[tuple[Any, ...]] = []
    for number in range(count):
        record = make_run(f"{prefix}{number}", **ends[number % 3])
        values = dict(zip(names, statements.run_values(record), strict=True))
        runs.append(tuple(values[column.name] for column in RUNS.c))
        failed = make_attempt(record.run_id, 1, state=AttemptState.FAILED)
        attempts.append(msgspec.structs.astuple(failed))
    session.begin()
    session.insert(RUNS, runs)
    session.insert(ATTEMPTS, attempts)
    session.commit()


def look(executor: GroupExecutor, worker: WorkerRecord, name: str) -> None:
    """Let one of each come due, and look for it as workers do."""
    executor.execute([RegisterWorker(worker, ignore)])
    tasks = (make_task(name, 1, due_at=1), make_task(name, 2, expires_at=1))
    executor.execute([make_start(name, wake_at=1, tasks=tasks)])
    session = executor.open()
    for query in QUERIES:
        session.begin_reading()
        answer(session, [Question(query, worker)])
        session.rollback()
    found = [
        executor.execute([operation])[0][0]
        for operation in (
            ClaimRuns(workflow_types=TYPES, limit=10),
            ClaimActivityTasks(queues=TASKS, limit=10),
            TakeExpiredTasks(limit=10),
        )
    ]
    (runs, _), (claimed, _), (expired, _) = found
    assert list(runs) == [name]
    assert [task.key for task in claimed] == [(name, 1)]
    assert [task.key for task in expired] == [(name, 2)]


Measure = Callable[[Callable[[GroupExecutor], None]], int]


@pytest.fixture
def on_sqlite(tmp_path: Path) -> tuple[GroupExecutor, Measure]:
    database = SqliteDatabase(tmp_path / "x.db")
    executor = GroupExecutor(database, SteadyClock(SystemClock()))

    def measure(act: Callable[[GroupExecutor], None]) -> int:
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1

        session: Any = executor.open()
        session._raw.set_progress_handler(step, 1)
        act(executor)
        session._raw.set_progress_handler(None, 1)
        return steps

    return executor, measure


@pytest.fixture
def on_mariadb(mariadb_url: str) -> tuple[GroupExecutor, Measure]:
    executor = make_executor(mariadb_url)

    def count() -> int:
        status = "SHOW SESSION STATUS LIKE 'Handler_read%%'"
        rows = executor.open().connection.exec_driver_sql(status)
        return sum(int(value) for _, value in rows)

    def measure(act: Callable[[GroupExecutor], None]) -> int:
        before = count()
        act(executor)
        return count() - before

    return executor, measure


WALKED = "(SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)"
WALKED += " + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables)"
IS_THERE = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'durable'"
IS_THERE += " AND datname = current_database()"


@pytest.fixture
def on_postgresql(
    postgres_server: PostgresDatabases, postgres_url: str
) -> tuple[GroupExecutor, Measure]:
    executor, name = make_executor(postgres_url), postgres_url.rpartition("/")[2]

    def count() -> int:
        executor.close()  # at which its session tells what it has counted
        while postgres_server.execute(IS_THERE, name):
            time.sleep(0.01)
        ((walked,),) = postgres_server.execute(f"SELECT {WALKED}", name)
        return int(walked)

    def measure(act: Callable[[GroupExecutor], None]) -> int:
        before = count()
        act(executor)
        return count() - before

    return executor, measure


@pytest.mark.parametrize("kind", ["on_sqlite", "on_postgresql", "on_mariadb"])
def test_what_has_ended_is_not_walked(
    kind: str, request: pytest.FixtureRequest
) -> None:
    executor, measure = request.getfixturevalue(kind)
    walked: list[int] = []
    for number, count in enumerate((FEW, MANY), start=1):
        fill(executor.open(), f"{number}-", count)
        worker = make_worker(f"w{number}")
        walked.append(measure(lambda ex, w=worker, n=number: look(ex, w, f"due{n}")))
    executor.close()

    few, many = walked
    assert 0 < many < few * 1.2 + 50, walked


COUNTS = [
    CountRuns(NAMESPACE),
    CountRuns(NAMESPACE, Run.status == "failed"),
    CountRuns(NAMESPACE, Run.type.starts_with("ord")),
    CountRuns(NAMESPACE, Run.version < "9"),
    CountRuns(NAMESPACE, None, ("ExecutionStatus", True)),
    CountRuns(NAMESPACE, None, ("WorkflowType", True)),
]


@pytest.mark.parametrize("kind", ["on_sqlite", "on_postgresql", "on_mariadb"])
def test_count_walks_no_more_runs_than_its_bound_however_many_there_are(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users met counts of millions that took minutes, and all of the database."""
    bound = 30
    monkeypatch.setattr(limits, "COUNT_MAX", bound)
    monkeypatch.setattr(searching, "_BUDGETS", (5, bound))
    executor, measure = request.getfixturevalue(kind)
    walked: list[int] = []

    def count(executor: GroupExecutor) -> None:
        session = executor.open()
        worker = make_worker("w")
        questions = [Question(query, worker) for query in COUNTS]
        for found in answer(session, questions):
            assert not isinstance(found, BaseException), found
            assert not found.is_complete
            assert found.total <= bound * len(found.groups or "1")
        session.rollback()

    for number, size in enumerate((10 * bound, MANY), start=1):
        fill(executor.open(), f"{number}-", size)
        walked.append(measure(count))
    executor.close()

    few, many = walked
    assert 0 < many < few * 1.2 + 50, walked


def spare(executor: GroupExecutor) -> Looks:
    """Let a look that steps over more than a few be the last full one for now."""
    looks = executor.open().looks
    assert looks is not None
    looks.pause_after = lambda walked, _: math.inf if walked > FEW else 0.0
    return looks


@contextmanager
def looking_back(url: str) -> Iterator[None]:
    """Keep a server from removing anything that is there now."""
    with psycopg.connect(url) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM durable_runs")
        yield


@pytest.mark.parametrize("is_configured", [False, True])
def test_old_snapshot_does_not_make_claims_step_over_ever_more(
    on_postgresql: tuple[GroupExecutor, Measure],
    postgres_url: str,
    *,
    is_configured: bool,
) -> None:
    """Users met claims that fell by a third beside a backup, and did not recover.

    A server keeps what an old snapshot may see, and a look for what waits steps over
    it. So looks begin where the last full one has found something.
    """
    executor, measure = on_postgresql
    size = 10

    def claim(executor: GroupExecutor) -> None:
        worker = make_worker(f"w{next(numbers)}")
        executor.execute([RegisterWorker(worker, ignore)])
        for _ in range(10):
            answer(executor.open(), [Question(NextActivityTaskAt(TASKS), worker)])
            operation = ClaimActivityTasks(queues=TASKS, limit=size)
            (((taken, error),), _) = executor.execute([operation])
            assert error is None
            assert len(taken) == size
            executor.execute([make_settling(*task.key) for task in taken])

    numbers = itertools.count()
    fill_tasks(executor, "a", due_at=1)
    if is_configured:  # without slots, since those that have one are counted
        record = QueueRecord(namespace=NAMESPACE, name=QUEUE)
        executor.execute([PutQueue(record=record, version=None)])
    usual = measure(claim)
    spare(executor)
    with looking_back(postgres_url):
        kept = [measure(claim) for _ in range(4)]
    spare(executor).pause_after = pause_after

    # The first ones have found out.
    assert max(kept[1:]) < usual * 1.5, (usual, kept)
    assert measure(claim) < 2 * usual + 4 * 10 * size  # and the first one cleans up
    assert measure(claim) < 2 * usual


def test_what_comes_to_lie_before_others_is_taken_at_the_next_full_look(
    postgres_url: str,
) -> None:
    executor = make_executor(postgres_url)
    executor.execute([RegisterWorker(make_worker("w"), ignore)])
    looks, now = spare(executor), 0.0
    looks.monotonic = lambda: now
    looks.pause_after = lambda _, __: 10.0

    def insert(*tasks: ActivityTaskRecord) -> None:
        session = executor.open()
        session.begin()
        session.insert(ACTIVITY_TASKS, [msgspec.structs.astuple(one) for one in tasks])
        session.commit()

    def claim() -> list[str]:
        operation = ClaimActivityTasks(queues=((QUEUE, None),), limit=1)
        ((taken, error),) = executor.execute([operation])[0]
        assert error is None
        return [task.run_id for task in taken]

    insert(*(make_task(f"a{n}", due_at=1_000) for n in range(4)))
    assert claim() == ["a0"]
    insert(
        make_task("earlier", due_at=999),
        make_task("urgent", due_at=2_000, priority=1),
        make_task("refund", due_at=500, activity_type="refund"),
        make_task("behind", due_at=1_500),
    )
    assert claim() == ["a1"]
    now = 9.9
    assert claim() == ["a2"]
    now = 10.0
    assert [*claim(), *claim()] == ["urgent", "refund"]
    now = 20.0
    assert [*claim(), *claim(), *claim()] == ["earlier", "a3", "behind"]
    assert claim() == []
    # Nothing waits, and where something did, what comes now is seen.
    now = 30.0
    assert claim() == []
    insert(make_task("new", due_at=looks.begin().recent.instant + 1_000_000))
    assert claim() == ["new"]
    executor.close()


def test_configured_queue_gives_turns_from_where_a_full_look_was(
    postgres_url: str,
) -> None:
    executor = make_executor(postgres_url)
    executor.execute([RegisterWorker(make_worker("w"), ignore)])
    record = QueueRecord(namespace=NAMESPACE, name=QUEUE, key_concurrency=2)
    executor.execute([PutQueue(record=record, version=None)])
    spare(executor).pause_after = lambda _, __: math.inf
    session = executor.open()
    tasks = [
        make_task(f"{key}{n}", due_at=due_at + n, fairness_key=key)
        for key, due_at in (("z", 1), ("b", 100))
        for n in range(3)
    ]
    session.begin()
    session.insert(ACTIVITY_TASKS, [msgspec.structs.astuple(one) for one in tasks])
    session.commit()

    def claim() -> list[str]:
        operation = ClaimActivityTasks(queues=TASKS, limit=1)
        ((taken, _),) = executor.execute([operation])[0]
        return [task.run_id for task in taken]

    assert [claim() for _ in range(5)] == [["b0"], ["z0"], ["b1"], ["z1"], []]
    session.begin()
    gone = "DELETE FROM durable_activity_tasks WHERE run_id = 'b0'"
    session.connection.exec_driver_sql(gone)
    session.commit()
    assert claim() == ["b2"]
    executor.close()


def test_old_snapshot_does_not_make_claims_of_runs_step_over_ever_more(
    on_postgresql: tuple[GroupExecutor, Measure], postgres_url: str
) -> None:
    executor, measure = on_postgresql
    size = 8

    def claim(executor: GroupExecutor) -> None:
        worker = make_worker(f"w{next(numbers)}")
        executor.execute([RegisterWorker(worker, ignore)])
        for _ in range(6):
            answer(executor.open(), [Question(FindNextWakeUp(TYPES), worker)])
            operation = ClaimRuns(workflow_types=TYPES, limit=size)
            ((runs, error),) = executor.execute([operation])[0]
            assert error is None
            assert len(runs) == size

    numbers = itertools.count()
    names = [f"r{number:03}" for number in range(240)]
    executor.execute([make_start(name, wake_at=at_once(1)) for name in names])
    usual = measure(claim)
    spare(executor)
    with looking_back(postgres_url):
        kept = [measure(claim) for _ in range(4)]

    assert max(kept[1:]) < usual * 1.5, (usual, kept)


def test_run_that_comes_to_lie_before_others_is_taken_after_the_next_full_look(
    postgres_url: str,
) -> None:
    executor = make_executor(postgres_url)
    worker = make_worker("w")
    executor.execute([RegisterWorker(worker, ignore)])
    looks, now = spare(executor), 0.0
    looks.monotonic = lambda: now
    looks.pause_after = lambda _, __: 10.0

    def look_and_claim(limit: int = 1) -> list[str]:
        answer(executor.open(), [Question(FindNextWakeUp(TYPES), worker)])
        operation = ClaimRuns(workflow_types=TYPES, limit=limit)
        ((runs, error),) = executor.execute([operation])[0]
        assert error is None
        return list(runs)

    starts = [make_start(f"a{n}", wake_at=at_once(1_000)) for n in range(4)]
    executor.execute(starts)
    assert look_and_claim() == ["a0"]
    executor.execute(
        [
            make_start("earlier", wake_at=at_once(999)),
            make_start("overdue", wake_at=500),
            make_start("due", wake_at=looks.begin().recent.instant + 1_000_000),
        ]
    )
    assert look_and_claim() == ["a1"]
    now = 9.9
    assert look_and_claim(9) == ["a2", "a3", "due"]
    assert look_and_claim() == []
    now = 10.0
    assert look_and_claim(9) == ["earlier", "overdue"]
    executor.close()
