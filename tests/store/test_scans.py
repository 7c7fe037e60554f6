"""However much has ended, what workers look for costs the same.

Users met polls that slowed down with all that was ever done: one due row was found in
seconds beside millions of finished ones, whose index the statement did not match, and
jobs that were given up stayed where each claim looked.

Counted are the rows, entries of indexes or steps that a database has walked.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from durable import limits
from durable.clock import SystemClock
from durable.search.run_fields import Run
from durable.store.activity_tasks import ClaimActivityTasks, TakeExpiredTasks
from durable.store.database import Session
from durable.store.lease import RegisterWorker
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
from durable.store.records import (
    AttemptState,
    ClaimRuns,
    RunStatus,
    WorkerRecord,
)
from durable.store.sql import searching, statements
from durable.store.sql.reads import Question, answer
from durable.store.sql.tables import ATTEMPTS, RUNS
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
    CountRuns(NAMESPACE, Run.version == "9"),
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


def test_old_snapshot_makes_claims_step_over_what_was_claimed_since_and_no_more(
    on_postgresql: tuple[GroupExecutor, Measure], postgres_url: str
) -> None:
    """Users met claims that fell by a third beside a backup, and did not recover.

    A server keeps what an old snapshot may see. Each claim finds types and instants by
    the same index, and then takes: so often it steps over what is kept, which ends with
    the snapshot, before anybody has cleaned up.
    """
    executor, measure = on_postgresql
    steps, size = 4, 10

    def claim(executor: GroupExecutor) -> None:
        worker = make_worker(f"w{next(numbers)}")
        executor.execute([RegisterWorker(worker, ignore)])
        for _ in range(10):
            operation = ClaimActivityTasks(queues=TASKS, limit=size)
            (((taken, error),), _) = executor.execute([operation])
            assert error is None
            assert len(taken) == size
            executor.execute([make_settling(*task.key) for task in taken])

    numbers = itertools.count()
    fill_tasks(executor, "a", due_at=1)
    usual = measure(claim)
    with psycopg.connect(postgres_url) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM durable_runs")
        kept = [measure(claim) for _ in range(3)]
    measure(claim)  # and the first one cleans up

    for number, walked in enumerate(kept):
        before = sum(number * 100 + n * size for n in range(10))
        assert walked < 2 * usual + steps * before, (usual, kept)
    assert measure(claim) < 2 * usual
