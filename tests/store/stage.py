"""Two stores of one database, one of which lets the other in after any statement."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import psycopg
import pymysql
import sqlalchemy as sa

from durable.store.activity_tasks import (
    ActivityTaskRecord,
    ClaimActivityTasks,
    TakeExpiredTasks,
)
from durable.store.database import Database
from durable.store.lease import RegisterWorker, ReleaseWorker
from durable.store.mysql import url as mysql_url
from durable.store.mysql.mysql import MysqlDatabase
from durable.store.postgresql import url as postgresql_url
from durable.store.postgresql.postgresql import PostgresDatabase
from durable.store.records import (
    ClaimRuns,
    CommitTask,
    Committed,
    MailArrived,
    OutboxRecord,
    PutMessage,
    Started,
    StartRun,
)
from durable.store.servers.server_clock import ServerClock
from durable.store.sql import salvage
from durable.store.sql.tables import OUTBOX
from durable.store.steady_clock import SteadyClock
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import make_start, make_worker
from tests.store.invariants import Message, find_violations

Operations = list[Any]
Outcomes = list[tuple[Any, BaseException | None]]

# A lock that nobody lets go.
WAIT_SECONDS_MAX = 20


class Questions(NamedTuple):
    """What a server is asked of its sessions."""

    is_waiting: str
    """Whether one waits for a lock; of MariaDB, in any database."""
    is_in_transaction: str
    others: str
    deadlocks: str


_POSTGRESQL = Questions(
    "SELECT 1 FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'",
    "SELECT 1 FROM pg_stat_activity"
    " WHERE datname = current_database() AND state LIKE 'idle in transaction%%'",
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid()",
    "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
)
_MARIADB = Questions(
    "SELECT 1 FROM information_schema.global_status"
    " WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS' AND variable_value > 0",
    "SHOW ENGINE INNODB STATUS",
    "SELECT id FROM information_schema.processlist"
    " WHERE db = database() AND id <> connection_id()",
    # Two inserts that wait for a third may be one, whatever the order of locks.
    "SELECT 0",
)
# The table that MariaDB has for them is made anew only if nobody, in any database, has
# looked at it for a tenth of a second; this text is.
_ACTIVE = re.compile(
    r"^---TRANSACTION [^,]+, ACTIVE.*(?:\n(?!---TRANSACTION).*)*?thread id (\d+)",
    re.MULTILINE,
)
_LOOK_SECONDS = 0.01


class Scene(NamedTuple):
    """Groups of two workers, `1` and `2`, whose ids begin as all others of the scene.

    Attributes:
        before: what there is, by the worker that has done it.
        one: the group of the first worker.
        other: that of the second.
        passes_by: whether one may leave alone what the other is at; no order does.
        outbox: rows of the outbox that are there, too.
    """

    before: tuple[Operations, Operations]
    one: Operations
    other: Operations
    passes_by: bool = False
    outbox: tuple[OutboxRecord, ...] = ()


def owned(p: str, name: str = "r", worker: str = "1", **changes: Any) -> StartRun:
    """Build the start of a run that a worker of a scene owns."""
    return make_start(p + name, owner=p + worker, **changes)


def make_executor(url: str) -> GroupExecutor:
    clock = ServerClock()
    database: Database
    if url.startswith("mysql"):
        database = MysqlDatabase(mysql_url.parse(url, url), clock, migrate=True)
    else:
        parsed = postgresql_url.parse(url, url)
        database = PostgresDatabase(parsed, clock, migrate=True)
    return GroupExecutor(database, SteadyClock(clock))


def ignore() -> None:
    pass


@contextmanager
def locking(url: str, *texts: str) -> Generator[Callable[[], None]]:
    """Carry statements out in a transaction of a stranger; yield what ends it."""
    connection: Any
    if url.startswith("mysql"):
        options = mysql_url.driver_options(mysql_url.parse(url, url))
        connection = pymysql.connect(**options)
    else:
        connection = psycopg.connect(url)
    with closing(connection):
        cursor = connection.cursor()
        for text in texts:
            cursor.execute(text)
        yield connection.rollback


@contextmanager
def stepping(session: Any, step: Callable[[], None]) -> Iterator[None]:
    """Call `step` after each statement of a session: its trips are of one each."""
    send = session.send

    def send_each(asked: dict[str, Any]) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for name, statement in asked.items():
            answers |= send({name: statement})
            step()
        return answers

    def executed(*_: object) -> None:
        step()

    connection = session.connection
    sa.event.listen(connection, "after_cursor_execute", executed)
    with patch.object(session, "send", send_each):
        yield
    sa.event.remove(connection, "after_cursor_execute", executed)


class Stage:
    """Two workers on one database, and one who looks at what they do."""

    def __init__(self, url: str) -> None:
        self._questions = _MARIADB if url.startswith("mysql") else _POSTGRESQL
        self._workers = make_executor(url), make_executor(url)
        self._looker = make_executor(url)
        self._thread = ThreadPoolExecutor(1)
        self._prefixes = (f"{n}-" for n in itertools.count(1_000))

    def close(self) -> None:
        self._thread.shutdown()
        for one in (*self._workers, self._looker):
            one.close()

    def execute(self, text: str) -> list[tuple[Any, ...]]:
        connection = self._looker.open().connection
        return [tuple(row) for row in connection.exec_driver_sql(text)]

    def play(
        self, make_scene: Callable[[str], Scene], first: int, after: int | None
    ) -> tuple[Any, bool]:
        """Let the second group in after so many statements of the first; None: at last.

        Answers what has become of both and of the rows, and whether there were so many.
        """
        p, scene, done = self.set(make_scene)
        groups = (scene.one, scene.other)
        other: Future[Outcomes] | None = None
        count = 0

        def step() -> None:
            nonlocal count, other
            count += 1
            if count == after:
                other = self._thread.submit(self._carry_out, second, groups[second])
                self._await(other)

        second = 1 - first
        with stepping(self._workers[first].open(), step):
            mine = self._carry_out(first, groups[first])
        has_met = other is not None
        if other is None:
            other = self._thread.submit(self._carry_out, second, groups[second])
        theirs = other.result(WAIT_SECONDS_MAX)
        outcomes = [mine, theirs] if first == 0 else [theirs, mine]
        return self.look(p, scene, done, outcomes), has_met

    def set(
        self, make_scene: Callable[[str], Scene]
    ) -> tuple[str, Scene, list[Outcomes]]:
        """Do what is before a scene; answers its prefix, and what has become of it."""
        p = next(self._prefixes)
        scene = make_scene(p)
        self._register(p)
        # Who takes what has expired takes that of all scenes.
        self._looker.open().connection.exec_driver_sql(
            "DELETE FROM durable_activity_tasks"
        )
        done = [self._carry_out(n, scene.before[n]) for n in (0, 1)]
        self._fill_outbox(scene.outbox)
        return p, scene, done

    def look(
        self, p: str, scene: Scene, done: list[Outcomes], outcomes: list[Outcomes]
    ) -> Any:
        """Check what is left, and answer what has become of both groups and rows."""
        groups = (*scene.before, scene.one, scene.other)
        self._check(p, zip(groups, (*done, *outcomes), strict=True))
        return [_show(one, p) for one in outcomes], self._rows(p)

    def _register(self, p: str) -> None:
        for worker in self._workers:
            worker.execute([ReleaseWorker()])
        for worker, number in zip(self._workers, "12", strict=True):
            worker.execute([RegisterWorker(make_worker(p + number), ignore)])

    def _fill_outbox(self, rows: tuple[OutboxRecord, ...]) -> None:
        session = self._looker.open()
        for row in rows:
            session.begin()
            values = {name: getattr(row, name) for name in salvage.OUTBOX_FIELDS}
            session.connection.execute(OUTBOX.insert(), values)
            session.commit()

    def _carry_out(self, number: int, operations: Operations) -> Outcomes:
        return self._workers[number].execute(operations)[0]

    def _await(self, other: Future[Outcomes]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while not other.done() and not self.execute(self._questions.is_waiting):
            assert time.monotonic() < deadline, "it neither ends nor waits for a lock"

    def _check(self, p: str, groups: Any) -> None:
        acknowledged: list[Message] = []
        seen: list[Message] = []
        for number, (operations, outcomes) in enumerate(groups):
            for operation, (result, error) in zip(operations, outcomes, strict=True):
                if error is None:
                    acknowledged += find_acknowledged(operation, result)
                    seen += find_seen(operation, result)
                    if isinstance(operation, ClaimActivityTasks | TakeExpiredTasks):
                        self._check_taken(f"{p}{number % 2 + 1}", result)
                    if isinstance(operation, ClaimRuns):
                        self._check_claim(f"{p}{number % 2 + 1}", result)
        assert find_violations(self.execute, acknowledged, seen, p) == {}
        self.check_tasks()
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while self._is_in_transaction():
            assert time.monotonic() < deadline, "a transaction is open"
            time.sleep(_LOOK_SECONDS)

    def _is_in_transaction(self) -> bool:
        found = self.execute(self._questions.is_in_transaction)
        if self._questions is not _MARIADB:
            return bool(found)
        active = {int(number) for number in _ACTIVE.findall(found[0][2])}
        return any(number in active for (number,) in self.execute(_MARIADB.others))

    def _check_taken(
        self, worker_id: str, taken: tuple[ActivityTaskRecord, ...]
    ) -> None:
        """Whoever was given a task has it, unless it has gone or was lost since."""
        text = "SELECT run_id, scheduled_event_id, state, worker_id, judge_id"
        for *key, state, owner, judge in self.execute(
            f"{text} FROM durable_activity_tasks"
        ):
            for told in taken:
                if told.key == tuple(key) and told.state == state:
                    assert worker_id == (owner if state == "claimed" else judge)

    def _check_claim(self, worker_id: str, claimed: dict[str, int]) -> None:
        """Whoever was given a run has it in that epoch, or somebody else in a later.

        Unless it has been ended since.
        """
        text = "SELECT run_id, owner, epoch, closed_at IS NULL FROM durable_runs"
        for run_id, owner, epoch, is_open in self.execute(text):
            if run_id in claimed and is_open:
                told = claimed[run_id]
                is_so = epoch == told if owner == worker_id else epoch > told
                assert is_so, f"{worker_id} has {run_id} in {told}, {owner} in {epoch}"

    def check_tasks(self) -> None:
        """Nobody waits in vain for a run, nor works for one that has ended unasked."""
        found = self.execute(
            "SELECT t.run_id, t.state, t.cancel FROM durable_activity_tasks AS t"
            " LEFT JOIN durable_runs AS r ON r.run_id = t.run_id"
            " WHERE r.open_key IS NULL"
            " AND (t.state NOT IN ('claimed', 'lost') OR t.cancel IS NULL)"
        )
        assert found == [], "tasks of runs that have closed"
        found = self.execute(
            "SELECT run_id, worker_id FROM durable_activity_tasks"
            " WHERE state = 'claimed'"
            " AND worker_id NOT IN (SELECT worker_id FROM durable_workers)"
        )
        assert found == [], "tasks of workers that have gone"

    def _rows(self, p: str) -> list[Any]:
        runs = (
            "SELECT run_id, workflow_id, status, owner, epoch, stuck, CASE"
            " WHEN wake_at < 0 THEN 'at once' WHEN wake_at >= 0 THEN 'later' END"
        )
        found = [
            *self.execute(_of(p, runs, "runs", "run_id")),
            *self.execute(_of(p, "SELECT run_id, request_id", "inbox", "request_id")),
            *self.execute(_of(p, "SELECT run_id, type", "history", "event_id")),
            *self.execute(_of(p, _TASKS, "activity_tasks", "scheduled_event_id")),
            *self.execute(
                "SELECT outbox_id, tries, due_at FROM durable_outbox"  # noqa: S608 - a prefix
                f" WHERE outbox_id LIKE '{p}%%' ORDER BY sequence"
            ),
        ]
        return [[_strip(value, p) for value in row] for row in found]

    def await_end_of_others(self) -> None:
        """Wait until no other session is left."""
        deadline = time.monotonic() + WAIT_SECONDS_MAX
        while self.execute(self._questions.others):
            assert time.monotonic() < deadline, "sessions are left"
            time.sleep(0.02)

    def count_deadlocks(self) -> int:
        """How many there were in this database, once its sessions have ended."""
        ((count,),) = self.execute(self._questions.deadlocks)
        return int(count)


_TASKS = (
    "SELECT run_id, scheduled_event_id, state, attempt, worker_id, judge_id, cancel,"
    " due_at, expires_at, progress"
)


def _of(p: str, what: str, table: str, order: str) -> str:
    return (
        f"{what} FROM durable_{table} WHERE run_id LIKE '{p}%%'"
        f" ORDER BY run_id, {order}"
    )


def _strip(value: Any, p: str) -> Any:
    return value.replace(p, "") if isinstance(value, str) else value


def _show(outcomes: Outcomes, p: str) -> list[str]:
    shown = []
    for result, error in outcomes:
        if error is not None:
            shown.append(type(error).__name__)
        elif isinstance(result, MailArrived):
            shown.append(f"mail {[m.request_id for m in result.messages]}")
        else:
            # How long ago something was is no matter.
            text = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "", repr(result))
            shown.append(re.sub(r"started_at=\d+", "", text))
    return [one.replace(p, "") for one in shown]


def find_acknowledged(operation: Any, result: Any) -> list[Message]:
    """Return the messages that were put, as the sender was told."""
    if isinstance(operation, PutMessage):
        return [(result, operation.request_id)]
    messages: tuple[PutMessage, ...] = ()
    if isinstance(operation, CommitTask):
        messages = operation.messages
    elif isinstance(operation, StartRun):
        messages = operation.messages
        if isinstance(result, Started) and not result.created:
            letter = operation.message_if_open
            messages = () if letter is None else (letter,)
        result = result.committed
    if not messages or not isinstance(result, Committed):
        return []
    return [
        (run_id, message.request_id)
        for message, run_id in zip(messages, result.deliveries, strict=True)
        if isinstance(run_id, str)
    ]


def find_seen(operation: Any, result: Any) -> list[Message]:
    """Return the messages that a commit has consumed."""
    if not isinstance(operation, CommitTask) or isinstance(result, MailArrived):
        return []
    return [(operation.run_id, request) for request in operation.consumed_requests]
