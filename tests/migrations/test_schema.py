"""The schema: made directly or by migrations it is one, and it is made once."""

import importlib.resources
import io
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from durable.errors import SchemaRevisionError, StoreError
from durable.store.connect import connect
from durable.store.database import Session
from durable.store.queries import ListWorkers, LoadRuns
from durable.store.records import ClaimRuns, Committed, WorkerStatus
from durable.store.sql import schema
from durable.store.sql.schema import HEAD, find_migrations, read_revision
from durable.store.sqlite.backup import back_up
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.testing.contract.rows import (
    START,
    make_child,
    make_closing,
    make_rows,
    make_run,
    make_start,
    make_worker,
)
from tests.migrations.old_runs import check_that_they_go_on, load_second_revision

ROOT = Path(__file__).resolve().parent.parent.parent


def describe(session: Session) -> dict[str, Any]:
    """Return everything SQLite knows of the schema, apart from white space."""
    connection = session.connection
    found = connection.exec_driver_sql(
        "SELECT name, sql FROM sqlite_master ORDER BY name"
    )
    # SQLite puts a name in quotes when it renames, and keeps those of constraints.
    texts = {
        name: sql
        and re.findall(
            r"\w+|[^\s\"]", sql.replace("CONSTRAINT durable_", "CONSTRAINT ")
        )
        for name, sql in found
    }
    columns = {
        name: connection.exec_driver_sql(f"PRAGMA table_xinfo({name})").all()
        for name in texts
    }
    indexes = {
        name: connection.exec_driver_sql(f"PRAGMA index_xinfo({name})").all()
        for name in texts
    }
    return {"texts": texts, "columns": columns, "indexes": indexes}


def session_of(path: Path) -> Session:
    """A connection to a file, which is made if there is none."""
    path.touch()
    return SqliteDatabase(path)._connect()


def make_empty_schema(path: Path) -> None:
    """Leave a database as a release before the first migration would have."""
    session = session_of(path)
    session.connection.exec_driver_sql(
        "CREATE TABLE durable_schema (version_num VARCHAR(32) NOT NULL,"
        " CONSTRAINT durable_schema_pkc PRIMARY KEY (version_num))"
    )
    session.close()


OLD_NAMES = ("runs", "history", "inbox", "replies", "attempts", "workers", "counters")
KEPT_NAMES = OLD_NAMES[:-1]


def set_revision(path: Path, revision: str) -> None:
    session = session_of(path)
    session.connection.exec_driver_sql(
        "UPDATE durable_schema SET version_num = ?", (revision,)
    )
    session.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@pytest.fixture
def session(path: Path) -> Iterator[Session]:
    session = SqliteDatabase(path).open_writer()
    yield session
    session.close()


def test_head_is_the_newest_script() -> None:
    config = Config()
    config.set_main_option("script_location", str(find_migrations()))

    scripts = ScriptDirectory.from_config(config)

    assert scripts.get_heads() == [HEAD]


def test_every_script_says_whether_it_expands_or_contracts() -> None:
    scripts = [path.name for path in (find_migrations() / "versions").glob("*.py")]

    assert scripts
    for name in scripts:
        number, kind, *_ = name.removesuffix(".py").split("_")
        assert len(number) == 4
        assert number.isdecimal()
        assert kind in ("expand", "contract")


def test_tables_made_directly_equal_the_migrated_ones(
    session: Session, tmp_path: Path
) -> None:
    make_empty_schema(tmp_path / "old.db")

    migrated = SqliteDatabase(tmp_path / "old.db").open_writer()

    assert describe(migrated) == describe(session)
    assert read_revision(migrated) == read_revision(session) == HEAD
    text = "SELECT * FROM durable_schema"
    rows = [s.connection.exec_driver_sql(text).all() for s in (migrated, session)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 1
    migrated.close()


def make_first_release(path: Path) -> None:
    """Leave a database as the first release would have, with a run of its."""
    session = session_of(path)
    config = Config()
    config.set_main_option("script_location", str(find_migrations()))
    config.attributes["connection"] = session.connection
    session.begin()
    command.upgrade(config, "0001")
    execute = session.connection.exec_driver_sql
    execute(
        "INSERT INTO runs (run_id, namespace, workflow_id, workflow_type, task_queue,"
        " status, started_at, first_run_id, request_id, is_active, root_run_id,"
        " open_key)"
        " VALUES ('r1', 'default', 'wf-r1', 'order', 'queue',"
        " 'running', ?, 'r1', 'start-r1', 0, 'r1', 'wf-r1')",
        (START,),
    )
    for row in make_rows("r1", 1, 2):
        execute("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, 1)", row)
    execute(
        "INSERT INTO inbox (run_id, kind, request_id, data, created_at)"
        " VALUES ('r1', 'cancel', 'cancel-1', '{}', 1)"
    )
    session.commit()
    session.close()


async def test_runs_of_an_old_file_go_on(path: Path) -> None:
    load_second_revision(path)

    await check_that_they_go_on(path)


# What was taken away, or says who has a run, which is only while it is live.
_CHANGED = {"fence", "is_active", "owner", "wake_at", "epoch"}
_ADDED = {
    "durable_workers": {"status", "places"},
    "durable_runs": {"attributes", "memo"},
    "durable_attempts": {"details", "heartbeat_at"},
}


def read_what_is_kept(connection: sqlite3.Connection, table: str) -> list[Any]:
    """All rows of a table, but for what later revisions have changed."""
    columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
    changed = _CHANGED | _ADDED.get(table, set())
    names = ", ".join(name for _, name, *_ in columns if name not in changed)
    return connection.execute(f"SELECT {names} FROM {table}").fetchall()  # noqa: S608 - names are written here


def test_every_row_of_an_old_file_is_kept(path: Path) -> None:
    load_second_revision(path)
    with closing(sqlite3.connect(path)) as connection:
        before = [read_what_is_kept(connection, name) for name in KEPT_NAMES]

    SqliteDatabase(path).open_writer().close()

    with closing(sqlite3.connect(path)) as connection:
        after = [
            read_what_is_kept(connection, f"durable_{name}") for name in KEPT_NAMES
        ]
        (sequence,) = connection.execute("SELECT * FROM sqlite_sequence").fetchall()
    assert all(before)
    assert after == before
    assert sequence == ("durable_inbox", 1)


def test_old_file_with_a_foreign_table_of_a_new_name_is_left_alone(path: Path) -> None:
    load_second_revision(path)
    session = session_of(path)
    session.connection.exec_driver_sql("CREATE TABLE durable_inbox (page TEXT)")
    before = describe(session)

    with pytest.raises(SchemaRevisionError, match="durable_inbox"):
        SqliteDatabase(path).open_writer()

    assert describe(session) == before
    session.close()


async def test_database_of_the_first_release_keeps_its_runs(path: Path) -> None:
    make_first_release(path)
    store = connect(f"sqlite:///{path}")
    await store.open()

    (loaded,) = await store.read(LoadRuns(["r1"]))
    assert loaded.record == make_run("r1", wake_at=0)  # it has mail
    assert loaded.rows == make_rows("r1", 1, 2)
    assert [message.request_id for message in loaded.messages] == ["cancel-1"]
    await store.register_worker(make_worker("w"), lambda: None)
    await store.perform(ClaimRuns(workflow_types=("order",), limit=1))
    child = make_child("c", "r1", "terminate", owner="w")
    await store.perform(child)
    closing = make_closing(
        *("r1", 3, 3),
        epoch=1,
        consumed_requests=("cancel-1",),
        state="1",
        has_children=True,
    )
    assert await store.perform(closing) == Committed(ended=("c",))
    await store.close()


@pytest.mark.parametrize("make", [make_first_release, load_second_revision])
def test_old_files_migrate_to_the_same_tables(
    session: Session, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "old.db")

    migrated = SqliteDatabase(tmp_path / "old.db").open_writer()

    assert describe(migrated) == describe(session)
    migrated.close()


def test_upgrade_is_told_in_one_line(path: Path) -> None:
    load_second_revision(path)
    path.chmod(0o600)
    program = (
        "import logging, sys; from pathlib import Path;"
        " from durable.store.sqlite.sqlite import SqliteDatabase;"
        " logging.basicConfig(level=logging.INFO, format='%(message)s');"
        " SqliteDatabase(Path(sys.argv[1])).open_writer().close();"
        " logging.getLogger('alembic.runtime.migration').info('of an application')"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )

    told, other = done.stderr.splitlines()
    assert f"{path.name} was upgraded from 0002 to {HEAD} in" in told
    assert other == "of an application"


async def test_workers_of_the_release_before_are_said_to_run(path: Path) -> None:
    """The newest migration expands: programs that do not know of it work beside it."""
    load_second_revision(path)
    SqliteDatabase(path).open_writer().close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO durable_workers (worker_id, namespace, host, pid,"
            " process_started_at, task_queue, started_at, lease_expires_at)"
            " VALUES ('older', 'default', 'here', 1, '', 'default', 1, 2)"
        )
    store = connect(f"sqlite:///{path}", migrate=False)
    await store.open()

    workers = await store.read(ListWorkers())

    assert {worker.worker_id: worker.status for worker in workers} == {
        "gone": WorkerStatus.RUNNING,
        "older": WorkerStatus.RUNNING,
    }
    assert all(worker.damage is None for worker in workers)
    await store.close()


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "mariadb"])
def test_migrations_compile_for_servers(dialect: str) -> None:
    text = io.StringIO()
    options = {"as_sql": True, "output_buffer": text}
    context = MigrationContext.configure(dialect_name=dialect, opts=options)
    config = Config()
    config.set_main_option("script_location", str(find_migrations()))
    scripts = ScriptDirectory.from_config(config)

    with Operations.context(context):
        for script in reversed(list(scripts.walk_revisions())):
            script.module.upgrade()

    migrated = text.getvalue()
    (added,) = re.findall("ADD COLUMN checkpoint_event_id INTEGER (.*);", migrated)
    assert added in ("DEFAULT '0' NOT NULL", "NOT NULL DEFAULT '0'")
    (status,) = re.findall(r"ADD COLUMN status VARCHAR\(32\) (.*);", migrated)
    assert "DEFAULT 'running'" in status
    assert ("COLLATE utf8mb4_bin" in status) is (dialect != "postgresql")
    assert "CREATE TABLE replies" in migrated
    is_partial = "WHERE parent_run_id IS NOT NULL" in migrated
    assert is_partial is (dialect == "postgresql")
    assert "durable_inbox_request_id UNIQUE" in migrated.replace("UNIQUE INDEX ", "")
    is_long = "state TEXT(4294967295)" in migrated  # a LONGTEXT
    assert is_long is (dialect != "postgresql")


async def test_migrated_database_can_be_used(path: Path) -> None:
    make_empty_schema(path)
    store = connect(f"sqlite:///{path}")
    await store.open()

    assert (await store.perform(make_start("r1"))).created
    await store.close()


def test_opening_again_changes_nothing(session: Session, path: Path) -> None:
    before = describe(session)

    again = SqliteDatabase(path, migrate=False).open_writer()

    assert describe(again) == before
    again.close()


@pytest.mark.parametrize("revision", [f"{int(HEAD) + 1:04}", "9999", "abc123", "0001b"])
def test_schema_of_another_release_is_refused_unchanged(
    path: Path, revision: str
) -> None:
    SqliteDatabase(path).open_writer().close()
    set_revision(path, revision)

    with pytest.raises(SchemaRevisionError, match=revision):
        SqliteDatabase(path).open_writer()

    session = session_of(path)
    assert read_revision(session) == revision
    session.close()


@pytest.mark.parametrize("is_old", [False, True])
def test_schema_is_not_made_without_leave(path: Path, is_old: bool) -> None:
    path.touch()
    if is_old:
        make_empty_schema(path)

    with pytest.raises(SchemaRevisionError, match="told not to migrate"):
        SqliteDatabase(path, migrate=False).open_writer()

    session = session_of(path)
    assert read_revision(session) == ("" if is_old else None)
    session.close()


def test_foreign_table_of_the_same_name_is_left_alone(path: Path) -> None:
    session = session_of(path)
    session.connection.exec_driver_sql("CREATE TABLE durable_history (page TEXT)")
    before = describe(session)

    with pytest.raises(SchemaRevisionError, match="durable_history"):
        SqliteDatabase(path).open_writer()

    assert describe(session) == before
    session.close()


def test_tables_of_an_application_may_live_beside_ours(path: Path) -> None:
    session = session_of(path)
    for name in OLD_NAMES:
        session.connection.exec_driver_sql(f"CREATE TABLE {name} (id INTEGER)")
    before = describe(session)["columns"]
    session.close()

    opened = SqliteDatabase(path).open_writer()

    columns = describe(opened)["columns"]
    assert {name: columns[name] for name in OLD_NAMES} == before
    ours = set(columns) - set(before) - {"sqlite_sequence"}
    assert ours
    assert all("durable_" in name for name in ours)
    opened.close()


def test_failed_creation_leaves_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ArithmeticError

    monkeypatch.setattr(sa, "insert", fail)
    with pytest.raises(StoreError):
        SqliteDatabase(path).open_writer()
    monkeypatch.undo()

    session = session_of(path)
    assert describe(session)["texts"] == {}
    session.close()


def open_at_once(paths: list[Path]) -> list[Exception]:
    """Open databases in one thread each, and return what they raised."""
    gate = threading.Barrier(len(paths))
    problems: list[Exception] = []

    def open_database(path: Path) -> None:
        gate.wait()
        try:
            SqliteDatabase(path).open_writer().close()
        except Exception as error:  # noqa: BLE001 - it is what the test asks for
            problems.append(error)

    threads = [threading.Thread(target=open_database, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return problems


@pytest.mark.parametrize("is_old", [False, True])
def test_threads_that_upgrade_at_once_upgrade_once(path: Path, is_old: bool) -> None:
    if is_old:
        make_empty_schema(path)

    assert open_at_once([path] * 6) == []

    session = SqliteDatabase(path, migrate=False).open_writer()
    rows = session.connection.exec_driver_sql("SELECT * FROM durable_schema").all()
    assert [tuple(row) for row in rows] == [(HEAD,)]
    session.close()


def test_different_databases_may_be_upgraded_at_once(tmp_path: Path) -> None:
    """Alembic keeps what it works on in a module's global."""
    paths = [tmp_path / f"{number}.db" for number in range(6)]
    for path in paths:
        make_empty_schema(path)

    assert open_at_once(paths) == []

    for path in paths:
        SqliteDatabase(path, migrate=False).open_writer().close()


def test_packed_migrations_win_over_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_migrations() == ROOT / "migrations"

    (tmp_path / "durable" / "_migrations").mkdir(parents=True)
    monkeypatch.setattr(
        importlib.resources, "files", lambda package: tmp_path / package
    )

    assert find_migrations() == tmp_path / "durable" / "_migrations"


def test_percent_sign_in_the_path_of_the_migrations_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    folder = tmp_path / "100%s"
    folder.symlink_to(find_migrations())
    monkeypatch.setattr(schema, "find_migrations", lambda: folder)
    make_empty_schema(path)

    session = SqliteDatabase(path).open_writer()

    assert read_revision(session) == HEAD
    session.close()


def test_old_file_can_be_copied_before_it_is_migrated(path: Path) -> None:
    load_second_revision(path)

    made = back_up(path, path.with_name("copy.db"))

    assert made.runs == 3
    assert made.revision == "0002"
