"""A server's database of an older release is upgraded once and whole, whoever dies."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from durable.store.connect import connect
from durable.store.sql.schema import HEAD, find_migrations
from durable.store.sqlite.sqlite import SqliteDatabase
from tests.migrations.old_runs import (
    DATABASES,
    check_that_they_go_on,
    load_second_revision,
)

ROOT = Path(__file__).resolve().parent.parent.parent
FIRST = "0007"
"""The oldest revision that there are databases of on servers."""
PROCESSES = 8
CHANGES = 45
"""More statements than any upgrade from the first revision has."""
TABLES = ("attempts", "history", "inbox", "replies", "runs", "workers")

OPEN = """
import asyncio, os, signal, sys
import sqlalchemy as sa
from durable.store.connect import connect
from durable.testing.contract.rows import make_start

left = int(sys.argv[3])

@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def count(connection, cursor, statement, *others):
    global left
    if statement.lstrip().startswith(("CREATE", "ALTER", "DROP", "UPDATE")):
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

async def main(url, run_id):
    store = connect(url)
    await store.open()
    await store.perform(make_start(run_id))
    await store.close()

asyncio.run(main(*sys.argv[1:3]))
"""

_DESCRIBED: Final = {
    "postgresql": (
        "SELECT table_name, column_name, data_type, character_maximum_length,"
        " is_nullable, column_default, collation_name"
        " FROM information_schema.columns WHERE table_schema = 'public'",
        "SELECT tablename, indexname, indexdef FROM pg_indexes"
        " WHERE schemaname = 'public'",
        "SELECT conname, contype::text FROM pg_constraint"
        " WHERE conrelid::regclass::text LIKE 'durable%%'",
    ),
    "mariadb": (
        "SELECT table_name, column_name, column_type, is_nullable, column_default,"
        " collation_name FROM information_schema.columns"
        " WHERE table_schema = database()",
        "SELECT table_name, index_name, seq_in_index, column_name, sub_part,"
        " non_unique FROM information_schema.statistics"
        " WHERE table_schema = database()",
        "SELECT table_name, engine, row_format, table_collation"
        " FROM information_schema.tables WHERE table_schema = database()",
    ),
}


class Old(msgspec.Struct):
    """A database as a release left it, and an empty one beside it."""

    kind: str
    url: str
    empty: str
    engine: sa.Engine

    def load(self, path: Path) -> None:
        """Write the old runs, as a program of that release would."""
        with closing(sqlite_of(path)) as session, self.engine.begin() as server:
            for name in TABLES:
                text = f"SELECT * FROM durable_{name}"  # noqa: S608 - the name is ours
                rows = session.connection.exec_driver_sql(text).mappings().all()
                keys = [*rows[0]] if rows else []
                columns: list[sa.ColumnClause[object]] = [sa.column(k) for k in keys]
                table = sa.table(f"durable_{name}", *columns)
                if rows:
                    server.execute(sa.insert(table), [dict(row) for row in rows])

    def describe(self) -> list[list[Any]]:
        return describe(self.engine, self.kind)

    def read_revisions(self) -> list[str]:
        with self.engine.begin() as connection:
            found = connection.exec_driver_sql("SELECT * FROM durable_schema")
            return list(found.scalars())


def sqlite_of(path: Path) -> Any:
    """A session of a file with the old runs, at the first revision of servers."""
    load_second_revision(path)
    session = SqliteDatabase(path)._connect()
    config = Config()
    config.set_main_option("script_location", str(find_migrations()))
    config.attributes["connection"] = session.connection
    session.begin()
    command.upgrade(config, FIRST)
    session.commit()
    return session


def engine_of(url: str) -> sa.Engine:
    driver = {"postgresql": "postgresql+psycopg", "mysql": "mariadb+pymysql"}
    kind, _, rest = url.partition("://")
    return sa.create_engine(f"{driver[kind]}://{rest}", poolclass=sa.NullPool)


def describe(engine: sa.Engine, kind: str) -> list[list[Any]]:
    """Everything that a server knows of its tables, but for the order of columns."""
    with engine.begin() as connection:
        return [
            sorted(map(tuple, connection.exec_driver_sql(text)), key=repr)
            for text in _DESCRIBED[kind]
        ]


@pytest.fixture(params=["postgresql", "mariadb"])
def old(request: pytest.FixtureRequest) -> Iterator[Old]:
    name = {"postgresql": "postgres"}.get(request.param, request.param)
    server = request.getfixturevalue(f"{name}_server")
    url = request.getfixturevalue(f"{name}_url")
    empty = server.create_database()
    engine = engine_of(url)
    tables = (DATABASES / f"{FIRST}.{request.param}.sql").read_text()
    with engine.begin() as connection:
        for text in tables.split(";\n")[:-1]:
            connection.exec_driver_sql(text)
    yield Old(request.param, url, empty, engine)
    server.drop_database(empty)


def begin(old: Old, run_id: str, killed_after: int = -1) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", OPEN, old.url, run_id, str(killed_after)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


async def open_once(url: str) -> None:
    store = connect(url)
    await store.open()
    await store.close()


async def test_old_tables_become_those_of_this_release(old: Old) -> None:
    await open_once(old.url)
    await open_once(old.empty)

    assert old.describe() == describe(engine_of(old.empty), old.kind)
    assert old.read_revisions() == [HEAD]


@pytest.mark.parametrize("comes", ["before", "beside"])
async def test_runs_of_the_older_release_go_on(
    old: Old, comes: str, tmp_path: Path
) -> None:
    if comes == "beside":  # its programs go on while others have upgraded
        await open_once(old.url)
    old.load(tmp_path / "old.db")

    await check_that_they_go_on(old.url)


@pytest.mark.slow
@pytest.mark.sweep(1)
def test_processes_that_come_at_once_upgrade_once(old: Old) -> None:
    begun = [begin(old, f"r{number}") for number in range(PROCESSES)]

    said = [process.communicate(timeout=50)[1] for process in begun]

    assert [process.returncode for process in begun] == [0] * PROCESSES, said
    assert old.read_revisions() == [HEAD]
    with old.engine.begin() as connection:
        count = connection.exec_driver_sql("SELECT COUNT(*) FROM durable_runs")
        assert count.scalar() == PROCESSES


@pytest.mark.slow
@pytest.mark.sweep(4)
@pytest.mark.parametrize("done", range(CHANGES))
async def test_upgrade_that_was_killed_is_finished_by_the_next(
    old: Old, done: int
) -> None:
    process = begin(old, "r1", done)
    _, said = process.communicate(timeout=50)
    assert process.returncode in (0, -signal.SIGKILL), said

    await open_once(old.url)
    await open_once(old.empty)

    assert old.describe() == describe(engine_of(old.empty), old.kind)
    assert old.read_revisions() == [HEAD]
