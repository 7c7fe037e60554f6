"""However many tasks wait, a claim looks at few: those of other types, too, or not due.

On each database what its indexes have answered is counted, also while it knows nothing
of the table yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from durable.clock import SystemClock
from durable.store.activity_tasks import ClaimActivityTasks, TakeExpiredTasks
from durable.store.database import Session
from durable.store.lease import RegisterWorker
from durable.store.queues import PutQueue, QueueRecord
from durable.store.records import NEVER
from durable.store.sql.tables import ACTIVITY_TASKS
from durable.store.sql.tasks import statements
from durable.store.sql.tasks.heads import find_heads
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.steady_clock import SteadyClock
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import NAMESPACE, QUEUE, make_task, make_worker
from tests.servers import PostgresDatabases
from tests.store.stage import ignore, make_executor
from tests.store.test_sqlite_plans import explain

TASKS = 4_000
CLAIMS = 20
# Each claim takes ten tasks; all together walk a tenth of what waits besides.
ROWS_MAX = TASKS
# What is claimed of a configured queue is counted by each claim. As many entries of an
# index does each look of a claim step over whose rows the claims before it have
# replaced, as long as nobody may mark them, which other sessions decide.
HELD = sum(range(0, 2 * CLAIMS * 10, 10))
LOOKS = 3


def fill(executor: GroupExecutor, prefix: str, **changes: Any) -> None:
    session = executor.open()
    tasks = (make_task(f"{prefix}{n:05}", **changes) for n in range(TASKS))
    rows = [msgspec.structs.astuple(one) for one in tasks]
    for start in range(0, TASKS, 1_000):
        session.begin()
        session.insert(ACTIVITY_TASKS, rows[start : start + 1_000])
        session.commit()


def crowd(executor: GroupExecutor) -> None:
    """Put before the tasks of one worker what is not for it."""
    executor.execute([RegisterWorker(make_worker("w"), ignore)])
    fill(executor, "a", due_at=1, activity_type="unknown")
    fill(executor, "b", due_at=NEVER, priority=1)
    fill(executor, "c", due_at=1, priority=5)


def claim(executor: GroupExecutor, types: tuple[str, ...] | None = ("charge",)) -> None:
    queues = ((QUEUE, types),)
    for _ in range(CLAIMS):
        operation = ClaimActivityTasks(queues=queues, limit=10)
        ((taken, error),) = executor.execute([operation])[0]
        assert error is None
        assert len(taken) == 10


def configure(executor: GroupExecutor) -> None:
    """Give the queue limits, and let the tasks of many keys wait in it."""
    record = QueueRecord(
        namespace=NAMESPACE,
        name=QUEUE,
        concurrency=1_000,
        key_concurrency=50,
        rate_count=100_000,
        rate_per=1_000_000,
    )
    executor.execute([PutQueue(record=record, version=None)])
    session = executor.open()
    tasks = [
        make_task(f"k{n:05}", due_at=1, fairness_key=f"key{n % 400}")
        for n in range(TASKS)
    ]
    session.begin()
    session.insert(ACTIVITY_TASKS, [msgspec.structs.astuple(one) for one in tasks])
    session.commit()


@pytest.mark.parametrize("is_configured", [False, True])
def test_claims_on_mariadb_walk_what_they_take(
    mariadb_url: str, *, is_configured: bool
) -> None:
    executor = make_executor(mariadb_url)
    crowd(executor)
    if is_configured:
        configure(executor)

    def count() -> int:
        status = "SHOW SESSION STATUS LIKE 'Handler_read%%'"
        rows = executor.open().connection.exec_driver_sql(status)
        return sum(int(value) for _, value in rows)

    before = count()
    claim(executor)
    claim(executor, None)
    assert count() - before < ROWS_MAX + (HELD if is_configured else 0)
    executor.close()


@pytest.mark.parametrize("is_configured", [False, True])
@pytest.mark.parametrize("is_analyzed", [False, True])
def test_claims_on_postgresql_walk_what_they_take(
    postgres_server: PostgresDatabases,
    postgres_url: str,
    *,
    is_analyzed: bool,
    is_configured: bool,
) -> None:
    database = postgres_url.rpartition("/")[2]
    executor = make_executor(postgres_url)
    executor.open()
    crowd(executor)
    if is_configured:
        configure(executor)
    if is_analyzed:
        postgres_server.execute("VACUUM ANALYZE", database)
    # As long as somebody looks back at that, nobody may mark what claims have replaced.
    with psycopg.connect(postgres_url) as older:
        older.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        older.execute("SELECT FROM durable_workers")
        claim(executor)
        claim(executor, None)
    executor.close()  # at which its session tells what it has counted

    walked: dict[str, int] = dict(
        postgres_server.execute(
            "SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes"
            " WHERE relname = 'durable_activity_tasks'"
            " UNION ALL SELECT relname, seq_tup_read FROM pg_stat_user_tables"
            " WHERE relname = 'durable_activity_tasks'",
            database,
        )
    )
    assert walked.pop("durable_activity_tasks_held") == (HELD if is_configured else 0)
    # One that walked what waits besides would do so in each of its claims.
    assert 0 < sum(walked.values()) < ROWS_MAX + LOOKS * HELD, str(walked)


# --- SQLite ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    session = SqliteDatabase(None).open_writer()
    yield session
    session.close()


VALUES = {
    "after": "",
    "kind": "charge",
    "myself": "w",
    "namespace": NAMESPACE,
    "of_priority": 3,
    "page": 10,
    "run_id": "r1",
    "event_id": 2,
    "run_ids": ["r1", "r2"],
    "task_queue": QUEUE,
    "until": 1,
    "repaired": "r1",
    "kept": 2,
    "key": "k",
    "from_key": "",
    "since": 1,
    "since_run": "",
    "since_event": 0,
    "of_namespace": NAMESPACE,
    "named": QUEUE,
}
_HELD = "durable_activity_tasks_held (namespace=? AND task_queue=?)"
_QUEUES = "durable_queues USING PRIMARY KEY (namespace=?"
_TURNS = "durable_activity_tasks_turns (namespace=? AND task_queue=? AND activity_type"
_OF_KEY = f"{_TURNS}=? AND priority=? AND fairness_key"
_QUEUE = "durable_activity_tasks_due (namespace=? AND task_queue=? AND activity_type"
PLANS = {
    "TAKE_DUE": [f"{_QUEUE}=? AND priority=? AND due_at>? AND due_at<?)"],
    "PEEK_DUE": [f"{_QUEUE}=? AND priority=? AND due_at>? AND due_at<?)"],
    "FIRST_FROM": [f"{_QUEUE}=? AND priority=? AND due_at>?)"],
    "FIND_HEADS": [
        # For types and priorities both indexes are the same.
        f"{_TURNS}>?)",
        f"{_TURNS}>?)",
        f"{_TURNS}=?)",
        f"{_TURNS}=? AND priority>?)",
        f"{_QUEUE}=? AND priority=?)",
    ],
    "TAKE_OF_KEY": [f"{_OF_KEY}=? AND due_at>? AND due_at<?)"],
    "NEXT_DUE": [f"{_QUEUE}=? AND priority=? AND due_at>?)"],
    "NEXT_KEY": [f"{_OF_KEY}>?)"],
    "FIND_KEYS_OF_KIND": [
        f"{_OF_KEY}>?)",
        f"{_OF_KEY}>?)",
        f"{_OF_KEY}=?)",
        f"{_OF_KEY}=?)",
    ],
    "COUNT_HELD": [_HELD],
    "READ_QUEUES": [f"{_QUEUES})"],
    "READ_QUEUE": [f"{_QUEUES} AND name=?)"],
    "TAKE_EXPIRED": [
        "durable_activity_tasks_expiry (namespace=? AND expires_at>? AND expires_at<?)"
    ],
    "NEXT_EXPIRY": ["durable_activity_tasks_expiry (namespace=? AND expires_at>?)"],
    "FIND_STRAYS": ["durable_activity_tasks_worker (worker_id>?)"],
    "FIND_CANCELLED": ["durable_activity_tasks_worker (worker_id=? AND cancel>?)"],
    "FIND_KEYS": ["_tasks_1 (run_id=?)"],
    "LOAD_STATES": ["_tasks_1 (run_id=?)"],
    "LOAD_RUNS": ["_runs_1 (run_id=?)", "_tasks_1 (run_id=?)"],
    "FIND_TASK": ["_tasks_1 (run_id=? AND scheduled_event_id=?)"],
    "DELETE_AFTER": ["_tasks_1 (run_id=? AND scheduled_event_id>?)"],
}


@pytest.mark.parametrize("name", PLANS)
def test_statement_of_tasks_searches_by_its_index(session: Session, name: str) -> None:
    plan = explain(session, getattr(statements, name), VALUES)

    searches = [step for step in plan if step.startswith("SEARCH")]
    assert len(searches) == len(PLANS[name])
    for step, end in zip(searches, PLANS[name], strict=True):
        assert step.endswith(end)
    assert not [step for step in plan if step.startswith("SCAN durable")]
    sorts = [step for step in plan if "ORDER BY" in step]
    assert not sorts or name == "FIND_CANCELLED"  # those are few


def test_claim_of_a_configured_queue_costs_the_same_however_much_waits(
    tmp_path: Path,
) -> None:
    def count(waiting: int) -> int:
        executor = GroupExecutor(
            SqliteDatabase(tmp_path / f"{waiting}.db"), SteadyClock(SystemClock())
        )
        executor.execute([RegisterWorker(make_worker("w"), ignore)])
        configure(executor)
        session: Any = executor.open()
        tasks = (
            make_task(f"r{n:06}", due_at=2, fairness_key=f"key{n % 400}")
            for n in range(waiting)
        )
        session.begin()
        session.insert(ACTIVITY_TASKS, [msgspec.structs.astuple(one) for one in tasks])
        session.commit()
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1

        session._raw.set_progress_handler(step, 100)
        claim(executor)
        executor.close()
        return steps

    few, many = count(1_000), count(30_000)
    assert 0 < many < few * 1.2


def test_many_types_in_one_queue_are_all_found(tmp_path: Path) -> None:
    executor = GroupExecutor(
        SqliteDatabase(tmp_path / "x.db"), SteadyClock(SystemClock())
    )
    session = executor.open()
    session.begin()
    names = [f"type{n:04}" for n in range(2_300)]
    tasks = [make_task(name, 2, activity_type=name) for name in names]
    rows = [msgspec.structs.astuple(one) for one in tasks]
    session.insert(ACTIVITY_TASKS, rows)
    session.commit()

    found = [one.kind for one in find_heads(session, NAMESPACE, QUEUE, None)]
    assert found == names
    known = ["type0001", "type2299", "none"]
    found = [one.kind for one in find_heads(session, NAMESPACE, QUEUE, known)]
    assert found == ["type0001", "type2299"]
    executor.close()


def test_take_of_expired_tasks_is_bounded(tmp_path: Path) -> None:
    executor = GroupExecutor(
        SqliteDatabase(tmp_path / "x.db"), SteadyClock(SystemClock())
    )
    executor.execute([RegisterWorker(make_worker("w"), ignore)])
    fill(executor, "a", expires_at=1)

    ((taken, _),) = executor.execute([TakeExpiredTasks(limit=7)])[0]

    assert [task.run_id for task in taken] == [f"a{n:05}" for n in range(7)]
    executor.close()
