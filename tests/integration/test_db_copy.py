"""`durable db copy`: all of a database in another one, whatever happens meanwhile."""
# size: one source and one target, filled and read alike, serve all of these tests.

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psycopg
import pymysql
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable import Engine, activity, workflow
from durable.cli.commands import db
from durable.cli.main import cli
from durable.errors import (
    CorruptHistoryError,
    DatabaseUnavailableError,
    SchemaRevisionError,
)
from durable.store.connect import connect
from durable.store.copying import side
from durable.store.copying.copying import Copied, Progress, copy
from durable.store.copying.rows import TABLES
from durable.store.copying.side import Side
from durable.store.memory.memory import MemoryStore
from durable.store.queries import ReadMessages
from durable.store.records import ReapWorkers, TaskState, due_since
from durable.store.sql.fetching import fetch
from durable.store.sql.salvage import OUTBOX_FIELDS
from durable.store.sql.schema import HEAD
from durable.store.sql.tables import ACTIVITY_TASKS, ATTEMPTS, HISTORY, OUTBOX, RUNS
from durable.store.sqlite.session import SqliteSession
from durable.store.steady_clock import SteadyClock
from durable.store.threads.groups import GroupExecutor
from durable.store.threads.sql_store import SqlStore
from durable.testing.contract.mail.outbox import make_row
from durable.testing.contract.rows import (
    SettableClock,
    make_message,
    make_start,
    make_task,
    make_worker,
)
from durable.worker.process import host_identity
from tests.integration.shop import as_sqlalchemy
from tests.servers import MariaDatabases
from tests.sizes import examples
from tests.store.test_grouping_property import (
    OPENING,
    aim,
    perform_group,
    perform_in_memory,
    steps,
)

pytestmark = [pytest.mark.slow, pytest.mark.sweep(6, of_class=True)]
ROOT = Path(__file__).resolve().parent.parent.parent
NOW = 1_800_000_000_000_000


def store_of(url: str, **options: Any) -> SqlStore:
    store = connect(url, **options)
    assert isinstance(store, SqlStore)
    return store


def copy_all(source: str, target: str, clock: Any = None, **options: Any) -> Copied:
    return copy(
        store_of(source, migrate=False, clock=clock),
        store_of(target),
        **({"is_dead": lambda _: True} | options),
    )


def rows_of(url: str) -> dict[str, list[Any]]:
    with contextlib.closing(store_of(url).database.open_writer()) as session:
        return {
            table.name: fetch(session, sa.select(table).order_by(*table.primary_key))
            for table in TABLES
        }


def execute(url: str, text: str) -> None:
    """Change rows behind the library's back, and whatever it says of the database."""
    path = url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as connection, connection:
        connection.execute(text)


def durable(*args: str, exit_code: int = 0) -> Result:
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == exit_code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def source(tmp_path: Path) -> str:
    """A database with three runs, five attempts, a message and a reply."""
    url = f"sqlite:///{tmp_path / 'source.db'}"
    fill(url)
    return url


def fill(url: str) -> None:
    database = store_of(url).database
    executor = GroupExecutor(database, SteadyClock(SettableClock()))
    starts = [make_start(name, events=7) for name in "abc"]
    executor.execute([*starts, make_message("a"), make_message("b", "r2")])
    session = executor.open()
    session.begin()
    attempts = [
        ("a", 2, n, "charge", "started", NOW, None, None, None, "w", "{}", NOW)
        for n in range(1, 6)
    ]
    session.insert(ATTEMPTS, attempts)
    session.commit()
    session.close()


@pytest.fixture
def target(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'target.db'}"


# --- everything is there --------------------------------------------------------------

texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9
)
numbers = st.integers(-(2**63), 2**63 - 1)
small = st.integers(-(2**31), 2**31 - 1)
strange_rows = st.lists(
    st.tuples(texts, small, small, texts, numbers, texts, numbers),
    max_size=20,
    unique_by=lambda row: row[:2],
)


@settings(
    max_examples=examples(25),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(groups=steps, strange=strange_rows, page=st.sampled_from([2, 5, 4_000]))
def test_what_goes_from_server_to_server_and_back_is_as_if_workers_had_been_reaped(
    tmp_path: Path,
    postgres_url: str,
    mariadb_url: str,
    groups: list[Any],
    strange: list[Any],
    page: int,
) -> None:
    first, last = (f"sqlite:///{tmp_path / uuid.uuid4().hex}.db" for _ in range(2))
    clock = SteadyClock(SettableClock())
    executor = GroupExecutor(store_of(first).database, clock)
    memory = MemoryStore(clock=SettableClock())
    for group in [[(operation, None) for operation in OPENING], *groups]:
        for operation, at in group:
            aimed = aim(operation, at, memory)
            perform_in_memory(memory, [aimed])
            perform_group(executor, [aimed])
    session = executor.open()
    session.begin()
    session.insert(HISTORY, [(f"~{run_id}", *row) for run_id, *row in strange])
    tasks = [
        make_task("~", n, state=state, worker_id="w", judge_id="v", expires_at=9)
        for n, state in enumerate(TaskState)
    ]
    session.insert(ACTIVITY_TASKS, [msgspec.structs.astuple(one) for one in tasks])
    session.commit()
    for url in (mariadb_url, postgres_url):
        empty(url)
    replies = rows_of(first)["durable_replies"]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(side, "_PAGE_ROWS_MAX", page)
        there = copy_all(first, mariadb_url, clock=SettableClock())
        across = copy_all(mariadb_url, postgres_url)
        back = copy_all(postgres_url, last)

    session.close()
    other = GroupExecutor(store_of(first).database, clock)  # who never reaps itself
    other.execute([ReapWorkers(presumed_dead=("w",))])
    other.open().close()
    expected = rows_of(first) | {"durable_replies": replies}
    assert rows_of(mariadb_url) == rows_of(postgres_url) == rows_of(last)
    assert with_due(rows_of(last)) == with_due(expected)
    assert there.tables == across.tables == back.tables
    assert {name: found.rows for name, found in there.tables.items()} == {
        name: len(rows) for name, rows in expected.items()
    }
    assert back.disowned == 0


def with_due(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Say of runs only that they are due, and not since which moment of this test."""
    place = RUNS.c.keys().index("wake_at")
    runs = [list(row) for row in rows["durable_runs"]]
    for run in runs:
        if (run[place] or 0) < 0 and abs(due_since(run[place]) - NOW) < 1_000_000:
            run[place] = "due"
    return rows | {"durable_runs": runs}


def empty(url: str) -> None:
    with contextlib.closing(store_of(url).database.open_writer()) as session:
        session.begin()
        for table in TABLES:
            session.connection.execute(sa.delete(table))
        session.commit()


async def test_numbers_of_messages_go_on_behind_those_that_were_copied(
    source: str, target: str, postgres_url: str, mariadb_url: str
) -> None:
    execute(source, "UPDATE sqlite_sequence SET seq = 3000000000000")
    last = 3_000_000_000_000

    for begin, end in itertools.pairwise((source, mariadb_url, postgres_url, target)):
        copy_all(begin, end)
        store = store_of(end)
        await store.open()
        await store.perform(make_message("c", f"to {end}"))
        message = (await store.read(ReadMessages("c")))[-1]
        await store.close()
        assert message.sequence > last
        last = message.sequence


async def test_outbox_is_copied_and_its_numbers_go_on(
    source: str, target: str, postgres_url: str, mariadb_url: str
) -> None:
    rows = [make_row("wf-c", f"m{n}", failure="{}", due_at=None) for n in range(3)]
    with contextlib.closing(store_of(source).database.open_writer()) as session:
        session.begin()
        for row in rows:
            values = {name: getattr(row, name) for name in OUTBOX_FIELDS}
            del values["sequence"]
            session.connection.execute(OUTBOX.insert(), values)
        session.commit()
    expected = rows_of(source)["durable_outbox"]
    assert len(expected) == 3

    for begin, end in itertools.pairwise((source, mariadb_url, postgres_url, target)):
        copy_all(begin, end)
        assert rows_of(end)["durable_outbox"] == expected
    for end in (mariadb_url, postgres_url, target):
        async with Engine(end, worker=False) as engine:
            shop = sa.create_engine(as_sqlalchemy(end))
            with shop.begin() as connection:
                engine.within(connection).cancel("a")
            shop.dispose()
            assert [row.sequence for row in await engine.outbox.list()][-1] > 3


def test_pages_are_small_where_rows_are_large(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(source, "UPDATE durable_history SET data = printf('%.400c', 'x')")
    execute(source, "UPDATE durable_history SET data = '' WHERE run_id = 'c'")
    monkeypatch.setattr(side, "_PAGE_CHARS_MAX", 1_000)
    monkeypatch.setattr(side, "_PAGE_ROWS_MAX", 8)

    with contextlib.closing(Side(store_of(source))) as opened:
        pages = list(opened.read(HISTORY))

    sizes = [sum(len(row[5]) for row in page) for page in pages]
    assert max(sizes) <= 1_000
    assert max(map(len, pages)) > 2
    assert [row for page in pages for row in page] == rows_of(source)["durable_history"]


def test_one_row_may_be_larger_than_a_page(
    source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side, "_PAGE_CHARS_MAX", 1)

    copy_all(source, target)

    assert rows_of(target) == rows_of(source)


# --- interrupted ----------------------------------------------------------------------

KILLED = """
import os, signal, sys
from durable.store.connect import connect
from durable.store.copying import side
from durable.store.copying.copying import copy
from durable.store.{module} import {session}

left = {left}
def step(*args):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

side._PAGE_ROWS_MAX = 4
commit = {session}.commit
def commit_or_die(self):
    step()
    commit(self)
    step()
{session}.commit = commit_or_die
source, target = (connect(url) for url in {urls!r})
copy(source, target, is_dead=lambda _: True)
"""


SESSIONS = {
    "target": ("sqlite.session", "SqliteSession"),
    "postgres_url": ("postgresql.session", "PostgresSession"),
    "mariadb_url": ("mysql.session", "MysqlSession"),
}


@pytest.mark.parametrize("kind", SESSIONS)
def test_copy_that_was_killed_anywhere_goes_on(
    kind: str, source: str, request: pytest.FixtureRequest
) -> None:
    target = request.getfixturevalue(kind)
    place = dict(zip(("module", "session"), SESSIONS[kind], strict=True))
    store_of(target).database.open_writer().close()
    deaths = 0
    # Each is killed a step later than the one before has come to: before a commit,
    # and after it.
    moments = (2, 5, 6) if kind == "target" else (3, 4)
    for left in moments:
        program = KILLED.format(left=left, urls=(source, target), **place)
        done = subprocess.run([sys.executable, "-c", program], timeout=30, cwd=ROOT)
        deaths += done.returncode == -signal.SIGKILL
        with pytest.raises(SchemaRevisionError, match="half a copy"):
            store_of(target).database.open_writer()
        listed = durable("--database", target, "list", exit_code=7)
        assert "Run the same command again" in listed.stderr

    copied = copy_all(source, target)

    assert deaths == len(moments)
    assert 0 < copied.resumed < sum(found.rows for found in copied.tables.values())
    assert rows_of(target) == rows_of(source)


@pytest.mark.parametrize("kind", SESSIONS)
def test_copy_that_had_ended_is_compared_again(
    kind: str, source: str, request: pytest.FixtureRequest
) -> None:
    target = request.getfixturevalue(kind)
    add_worker(source, pid=end_a_process(), host=host_identity())
    execute(source, "UPDATE durable_runs SET owner = 'w' WHERE run_id = 'b'")
    first = json.loads(durable("db", "copy", source, target, "--json").stdout)
    before = rows_of(target)

    again = json.loads(durable("db", "copy", source, target, "--json").stdout)

    assert again["tables"] == first["tables"]
    assert (first["resumed"], again["resumed"] > 0) == (0, True)
    assert rows_of(target) == before
    execute(source, "UPDATE durable_history SET type = 'other' WHERE run_id = 'a'")
    done = durable("db", "copy", source, target, exit_code=2)
    assert "has runs of its own" in done.stderr
    assert rows_of(target) == before


class Broken(Exception):
    """Ends a copy in the middle."""


def break_at(table: str) -> Callable[[Progress], None]:
    def told(progress: Progress) -> None:
        if progress[:2] == ("copying", table):
            raise Broken

    return told


def break_off(source: str, target: str, table: str = "durable_history") -> None:
    with pytest.raises(Broken):
        copy_all(source, target, told=break_at(table))


def test_half_copy_of_something_else_is_refused_until_it_is_deleted(
    source: str, target: str
) -> None:
    break_off(source, target)
    execute(source, "UPDATE durable_history SET data = '[]' WHERE event_id = 3")

    done = durable("db", "copy", source, target, exit_code=7)
    assert "is half a copy of something else: durable_history has 21" in done.stderr
    assert "--restart" in done.stderr
    durable("db", "copy", source, target, "--restart")

    assert rows_of(target) == rows_of(source)


def test_rows_that_a_half_copy_has_lost_are_noticed(source: str, target: str) -> None:
    break_off(source, target)
    execute(target, "DELETE FROM durable_history WHERE event_id = 3")

    with pytest.raises(DatabaseUnavailableError, match="half a copy of something else"):
        copy_all(source, target)


def test_half_copy_is_no_source(source: str, target: str, tmp_path: Path) -> None:
    break_off(source, target)

    done = durable("db", "copy", target, str(tmp_path / "third.db"), exit_code=7)

    assert "is half a copy" in done.stderr


# --- others ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["source", "postgres_url", "mariadb_url"])
def test_nobody_writes_to_the_source_meanwhile(
    kind: str, source: str, target: str, request: pytest.FixtureRequest
) -> None:
    if kind != "source":
        server = request.getfixturevalue(kind)
        copy_all(source, server)
        source = server
    refused: list[str] = []

    def told(progress: Progress) -> None:
        if progress.step == "copying":
            refuse_others(source)
            refused.append(progress.table)

    copy_all(source, target, told=told)

    assert "durable_history" in refused


def refuse_others(url: str) -> None:
    text = "DELETE FROM durable_inbox"
    if url.startswith("sqlite"):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            execute(url, text)
    elif url.startswith("mysql"):
        with pytest.raises(pymysql.OperationalError, match="Lock wait timeout"):
            MariaDatabases(urlsplit(url).port or 0).execute(
                f"SET STATEMENT lock_wait_timeout = 0 FOR {text}",
                url.rpartition("/")[2],
            )
    else:
        with (
            psycopg.connect(url, options="-c lock_timeout=50") as other,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            other.execute(text)


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO durable_inbox VALUES (77, 'a', 'cancel', 'late', '{}', 1)",
        "DELETE FROM durable_history WHERE event_id = 5",
        "UPDATE durable_attempts SET failure = '{}' WHERE attempt = 2",
    ],
)
def test_what_comes_into_the_source_all_the_same_is_noticed(
    text: str, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = SqliteSession.begin_alone

    def lock_only_the_target(session: SqliteSession) -> None:
        if session.identify() != place:
            lock(session)

    with contextlib.closing(Side(store_of(source))) as opened:
        place = opened.session.identify()
    monkeypatch.setattr(SqliteSession, "begin_alone", lock_only_the_target)

    def told(progress: Progress) -> None:
        if progress[:2] == ("checking", "durable_runs"):  # that is the last
            execute(source, text)

    with pytest.raises(DatabaseUnavailableError, match="changed during the copy"):
        copy_all(source, target, told=told)

    with pytest.raises(SchemaRevisionError):
        store_of(target).database.open_writer()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "INSERT INTO durable_replies VALUES ('z', 'r', '{}', 1)",
            "does not hold what was copied",
        ),
        (
            "UPDATE durable_attempts SET failure = '{}' WHERE attempt = 2",
            "does not hold what was copied",
        ),
        (
            "INSERT INTO durable_workers VALUES"
            " ('w', 'default', 'h', 1, '', 'q', 1, 1, 'running', NULL)",
            "a worker has begun there",
        ),
    ],
)
def test_what_comes_into_the_target_is_noticed(
    text: str, complaint: str, source: str, target: str
) -> None:
    def told(progress: Progress) -> None:
        if progress[:2] == ("copying", "durable_runs"):
            execute(target, text)

    with pytest.raises(DatabaseUnavailableError, match=complaint):
        copy_all(source, target, told=told)

    with pytest.raises(SchemaRevisionError, match="half a copy"):
        store_of(target).database.open_writer()


def test_source_that_is_moved_away_meanwhile_is_no_copy(
    source: str, target: str
) -> None:
    path = Path(source.removeprefix("sqlite:///"))

    def told(progress: Progress) -> None:
        if progress[:2] == ("copying", "durable_runs"):
            path.rename(path.with_name("moved.db"))

    with pytest.raises(DatabaseUnavailableError, match="moved"):
        copy_all(source, target, told=told)


def add_worker(url: str, **changes: Any) -> None:
    worker = make_worker("w", lease_expires_at=2 * NOW, **changes)
    with contextlib.closing(store_of(url).database.open_writer()) as session:
        session.begin()
        session.tables.insert_worker(worker)
        session.commit()


def end_a_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("which", ["source", "target"])
def test_living_worker_is_named(which: str, source: str, target: str) -> None:
    used = {"source": source, "target": target}[which]
    add_worker(used, pid=os.getppid(), host=host_identity(), process_started_at="")

    done = durable("db", "copy", source, target, exit_code=7)

    assert f"worker 'w' (process {os.getppid()} on" in done.stderr
    assert rows_of(target)["durable_runs"] == []


def test_killed_worker_of_this_host_is_in_nobodys_way(source: str, target: str) -> None:
    for used in (source, target):
        add_worker(used, pid=end_a_process(), host=host_identity())
    execute(source, "UPDATE durable_runs SET owner = 'w' WHERE run_id = 'b'")

    done = durable("db", "copy", source, target, "--json")

    assert json.loads(done.stdout)["disowned"] == 1
    (run,) = (row for row in rows_of(target)["durable_runs"] if row[0] == "b")
    columns = dict(zip(RUNS.c.keys(), run, strict=True))
    assert (columns["owner"], columns["epoch"]) == (None, 1)
    assert columns["wake_at"] < 0


# --- refused --------------------------------------------------------------------------


def test_target_with_runs_is_left_alone(source: str, target: str) -> None:
    fill(target)
    execute(target, "UPDATE durable_runs SET namespace = 'theirs'")
    before = rows_of(target)

    for options in ((), ("--restart",)):
        done = durable("db", "copy", source, target, *options, exit_code=2)
        assert "has runs of its own" in done.stderr

    assert rows_of(target) == before


def test_same_database_is_refused_by_whatever_name(
    source: str, tmp_path: Path, postgres_url: str, mariadb_url: str
) -> None:
    (tmp_path / "link.db").symlink_to(source.removeprefix("sqlite:///"))
    pairs = [(source, str(tmp_path / "link.db"))]
    for url in (postgres_url, mariadb_url):
        store_of(url).database.open_writer().close()
        pairs.append((url, url.replace("127.0.0.1", "localhost")))

    for pair in pairs:
        done = durable("db", "copy", *pair, exit_code=2)
        assert "are the same database" in done.stderr


def test_older_database_is_to_be_upgraded_first(source: str, target: str) -> None:
    execute(source, "UPDATE durable_schema SET version_num = '0005'")

    done = durable("db", "copy", source, target, exit_code=7)

    assert "durable db upgrade" in done.stderr
    assert not Path(target.removeprefix("sqlite:///")).exists()
    execute(source, f"UPDATE durable_schema SET version_num = '{HEAD}'")  # noqa: S608 - a constant
    copy_all(source, target)
    execute(target, "UPDATE durable_schema SET version_num = '0005'")
    with pytest.raises(SchemaRevisionError, match="told not to migrate"):
        copy_all(source, target)


def test_memory_and_files_that_are_not_there_are_refused(
    source: str, tmp_path: Path
) -> None:
    none = str(tmp_path / "none.db")
    for pair, code in (
        ((none, source), 7),
        (("memory://", source), 2),
        ((source, "sqlite://"), 2),
    ):
        done = durable("db", "copy", *pair, exit_code=code)
        assert "Usage" in done.stderr or "error: " in done.stderr
    assert not Path(none).exists()


def test_passwords_of_both_are_masked(source: str) -> None:
    wrong = "postgresql://me:s3cret@127.0.0.1:1/app"

    for pair in ((wrong, source), (source, wrong)):
        done = durable("db", "copy", *pair, exit_code=7)
        assert "s3cret" not in done.stdout + done.stderr


DAMAGES = {
    "data": ("history, event_id 3", "x'ff7b'", "bytes that are no UTF-8"),
    "type": ("history, event_id 3", "'a' || char(0)", "text with a NUL"),
    "task_number": ("history, event_id 3", "2147483648", "more than 32 bits"),
    "time": ("history, event_id 3", "'soon'", "str instead of a number"),
    "flags": ("history, event_id 3", "1.5", "float instead of a number"),
    "task_queue": ("runs", "printf('%.256c', 'q')", "more than 255 characters"),
    "closed_at": ("runs", "x'00'", "bytes"),
}


@pytest.mark.parametrize("column", DAMAGES)
def test_row_that_not_every_database_can_hold_is_named(
    column: str, source: str, postgres_url: str
) -> None:
    place, value, fault = DAMAGES[column]
    table, _, key = place.partition(", ")
    where = "run_id = 'b'" + (" AND event_id = 3" if key else "")
    execute(source, f"UPDATE durable_{table} SET {column} = {value} WHERE {where}")  # noqa: S608 - written above

    with pytest.raises(CorruptHistoryError) as caught:
        copy_all(source, postgres_url)

    assert "Run 'b'" in caught.value.message
    assert f"column {column!r} of its row in durable_{place} " in caught.value.message
    assert fault in caught.value.message
    assert not any(rows_of(postgres_url).values())


# --- what is said ---------------------------------------------------------------------


def test_sums_are_printed_and_progress_on_a_terminal(
    source: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = durable("db", "copy", source, target)
    monkeypatch.setattr(db, "width_of", lambda _: 60)
    data = durable("db", "copy", source, str(tmp_path / "third.db"), "--json")

    told = json.loads(data.stdout)
    assert told["tables"]["durable_history"]["rows"] == 21
    for name, found in told["tables"].items():
        line = next(line for line in text.stdout.splitlines() if name in line)
        assert line.split() == [name, str(found["rows"]), "rows", found["digest"]]
    assert text.stderr == ""
    shown = [" ".join(part.split()) for part in data.stderr.split("\r")]
    assert "copying durable_history: 21 of 21" in shown
    assert shown[-2:] == ["", ""]


# --- programs -------------------------------------------------------------------------

charged: list[int] = []


@activity(name="copied.charge")
async def charge(cents: int) -> str:
    charged.append(cents)
    return f"receipt {cents}"


@activity(name="copied.ship")
async def ship(receipt: str) -> str:
    if os.environ.get("DIES"):
        os.kill(os.getpid(), signal.SIGKILL)
    return f"{receipt} shipped"


@workflow(name="copied.order")
async def order(cents: int) -> str:
    return await ship(await charge(cents))


CRASHING = """
import asyncio
from durable import Engine
from tests.integration.test_db_copy import order

async def main():
    async with Engine({url!r}) as engine:
        await engine.execute(order(7), id="order-7")

asyncio.run(main())
"""


def crash(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DIES": "1", "PYTHONPATH": str(ROOT)},
        timeout=30,
    )
    assert done.returncode == -signal.SIGKILL


async def test_program_that_crashed_goes_on_on_the_other_databases(
    tmp_path: Path, postgres_url: str, mariadb_url: str
) -> None:
    url = f"sqlite:///{tmp_path / 'crashed.db'}"
    crash(CRASHING.format(url=url))
    durable("db", "copy", url, mariadb_url)
    durable("db", "copy", mariadb_url, postgres_url)

    async with Engine(postgres_url) as engine:
        handle = await engine.get("order-7")
        assert await handle.result(timeout=30) == "receipt 7 shipped"

    assert charged == []  # it was in the process that died
