"""Connections of callers: each driver is spoken to in its way, and none is harmed."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg.rows
import pymysql
import pymysql.cursors
import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from durable.errors import InvalidCallError, WrongDatabaseError
from durable.store.callers.connections import DriverCaller, fill, find_async
from durable.store.callers.joining import Gate, Joined, join
from durable.store.callers.steps import Ask, only_value
from durable.store.connect import connect
from durable.store.mysql import url as mysql_url
from durable.store.records import OutboxRecord
from durable.store.store import Store
from durable.testing.contract.mail.outbox import make_row
from tests.servers import PostgresDatabases, PostgresServer

ROW = make_row("target", "row", data='{"a": "é"}')


def nothing() -> None:
    pass


def write(gate: Gate, connection: object, row: OutboxRecord = ROW) -> None:
    joined = join(gate, connection)
    assert isinstance(joined, Joined)
    joined.write(row, nothing)


def reach_mysql(url: str, **options: Any) -> Any:
    return pymysql.connect(
        **mysql_url.driver_options(mysql_url.parse(url, url)), **options
    )


async def make_tables(url: str) -> Store:
    store = connect(url)
    await store.open()
    await store.close()
    return store


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    await make_tables(f"sqlite:///{tmp_path}/x.db")
    return tmp_path / "x.db"


@pytest.fixture
def gate(file: Path) -> Gate:
    return Gate(connect(f"sqlite:///{file}"))


def read_rows(file: Path) -> list[Any]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return connection.execute("SELECT outbox_id FROM durable_outbox").fetchall()


# --- how statements are written -------------------------------------------------------


@pytest.mark.parametrize(
    ("style", "text", "values"),
    [
        ("qmark", "INSERT ? ?", [1, "b"]),
        ("format", "INSERT %s %s", [1, "b"]),
        ("numeric", "INSERT :1 :2", [1, "b"]),
        ("named", "INSERT :a :b", {"a": 1, "b": "b"}),
        ("pyformat", "INSERT %(a)s %(b)s", {"a": 1, "b": "b"}),
    ],
)
def test_a_statement_in_each_style_of_pep_249(
    style: str, text: str, values: object
) -> None:
    asked = Ask("INSERT :a :b", {"a": 1, "b": "b"})

    assert fill(asked, style) == (text, values)
    assert fill(Ask("SELECT 1"), style) == ("SELECT 1",)


class Wrapped:
    """A connection as some driver has it, that is SQLite underneath."""

    def __init__(self, file: Path) -> None:
        self.connection = sqlite3.connect(file)

    def cursor(self) -> Any:
        return self.connection.cursor()

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()


@pytest.fixture
def driver() -> Iterator[types.ModuleType]:
    package = types.ModuleType("some_driver")
    sys.modules["some_driver"] = package
    yield package
    del sys.modules["some_driver"]


@pytest.mark.parametrize("style", ["qmark", "named"])
def test_the_style_is_that_of_the_module_that_made_it(
    style: str, file: Path, gate: Gate, driver: types.ModuleType
) -> None:
    driver.__dict__["paramstyle"] = style
    kind = type("Connection", (Wrapped,), {"__module__": "some_driver.inner.parts"})
    connection = kind(file)

    write(gate, connection)
    connection.commit()

    assert DriverCaller(connection).style == style

    assert len(read_rows(file)) == 1
    connection.connection.close()


def test_a_driver_that_does_not_say_its_style_is_refused(file: Path) -> None:
    connection = Wrapped(file)
    with pytest.raises(InvalidCallError, match="has no paramstyle"):
        DriverCaller(connection)
    connection.connection.close()


@pytest.mark.parametrize(
    "row", [("x",), ["x"], {"any": "x"}, "x", b"x"], ids=lambda row: type(row).__name__
)
def test_rows_of_any_make_have_a_value(row: object) -> None:
    assert only_value(row) in ("x", b"x")


def test_rows_without_places_are_refused() -> None:
    with pytest.raises(InvalidCallError, match="makes its rows into object"):
        only_value(object())


# --- drivers --------------------------------------------------------------------------


def test_connections_of_sqlite3_whatever_their_rows_are(file: Path, gate: Gate) -> None:
    def as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
        names = [column[0] for column in cursor.description]
        return dict(zip(names, row, strict=True))

    class Own(sqlite3.Connection):
        pass

    for factory in (None, sqlite3.Row, as_dict):
        with contextlib.closing(sqlite3.connect(file, factory=Own)) as connection:
            connection.row_factory = factory
            write(gate, connection)
            assert connection.in_transaction
            connection.rollback()
            write(gate, connection)
            connection.commit()
    assert len(read_rows(file)) == 3


async def test_connections_of_psycopg_whatever_their_rows_are(
    postgres_url: str,
) -> None:
    gate = Gate(await make_tables(postgres_url))
    factories: list[Any] = [
        psycopg.rows.tuple_row,
        psycopg.rows.dict_row,
        psycopg.rows.namedtuple_row,
        psycopg.rows.scalar_row,
    ]
    for factory in factories:
        with psycopg.connect(postgres_url, row_factory=factory) as connection:
            write(gate, connection)
    with psycopg.connect(postgres_url) as plain:
        assert plain.execute("SELECT count(*) FROM durable_outbox").fetchone() == (4,)
        # Whatever the caller's session says of texts and times.
        plain.execute("SET client_encoding = 'LATIN1'")
        plain.execute("SET TIME ZONE 'Asia/Tokyo'")
        plain.execute("SET DateStyle = 'German'")
        plain.execute("SET search_path = ''")
        write(gate, plain)


async def test_connections_of_pymysql_whatever_their_rows_are(mariadb_url: str) -> None:
    gate = Gate(await make_tables(mariadb_url))
    for kind in (pymysql.cursors.Cursor, pymysql.cursors.DictCursor):
        with contextlib.closing(
            reach_mysql(mariadb_url, cursorclass=kind)
        ) as connection:
            write(gate, connection)
            connection.commit()
    with contextlib.closing(reach_mysql(mariadb_url)) as plain, plain.cursor() as of:
        of.execute("SELECT COUNT(*) FROM durable_outbox")
        assert of.fetchone() == (2,)


def test_connections_of_a_pool_are_those_of_the_driver(file: Path, gate: Gate) -> None:
    shop = sa.create_engine(f"sqlite:///{file}")
    pooled = shop.raw_connection()
    write(gate, pooled)
    pooled.commit()
    pooled.close()
    shop.dispose()
    assert len(read_rows(file)) == 1


def test_connections_of_django(file: Path, gate: Gate) -> None:
    import django  # type: ignore[import-untyped]  # it has no types
    from django.conf import settings  # type: ignore[import-untyped]  # likewise
    from django.db import connections, transaction  # type: ignore[import-untyped]  # likewise

    if not settings.configured:
        settings.configure(
            DATABASES={
                "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(file)}
            },
            LOGGING_CONFIG=None,
        )
        django.setup()
    from django.db import connection

    connections["default"].settings_dict["NAME"] = str(file)
    told: list[str] = []
    joined = join(gate, connection)
    assert isinstance(joined, Joined)
    with transaction.atomic():
        joined.write(ROW, lambda: told.append("outer"))
        with contextlib.suppress(ZeroDivisionError), transaction.atomic():
            joined.write(ROW, lambda: told.append("undone"))
            _ = 1 // 0
        assert told == []
    assert told == ["outer"]
    joined.write(ROW, lambda: told.append("at once"))
    assert told == ["outer", "at once"]
    connection.close()
    assert len(read_rows(file)) == 2


# --- SQLAlchemy -----------------------------------------------------------------------


def test_listeners_do_not_grow_with_the_transactions(file: Path, gate: Gate) -> None:
    shop = sa.create_engine(f"sqlite:///{file}")
    told: list[int] = []

    def tell() -> None:
        told.append(len(told))

    with orm.Session(shop) as session:
        for _ in range(10):
            joined = join(gate, session)
            assert isinstance(joined, Joined)
            joined.write(ROW, tell)
            session.rollback()
        joined.write(ROW, tell)
        session.commit()
        assert told == [0]
        session.execute(sa.text("SELECT 1"))
        session.commit()
        assert told == [0]
    shop.dispose()
    assert len(read_rows(file)) == 1


def test_what_is_no_connection_is_refused_with_what_to_do(file: Path) -> None:
    gate = Gate(connect(f"sqlite:///{file}"))
    shop = sa.create_engine(f"sqlite:///{file}")
    for given, words in (
        (shop, "An engine has no transaction"),
        (orm.sessionmaker(shop), "Call it"),
        ("sqlite:///x.db", "was given a str"),
        (None, "was given a NoneType"),
        (sqlite3.Connection, "was given a type"),
        (sqlite3, "was given a module"),
    ):
        with pytest.raises(InvalidCallError, match=words):
            join(gate, given)
    shop.dispose()
    assert find_async(object()) is None


# --- whether it leads here ------------------------------------------------------------


def test_other_files_are_refused_by_type(
    tmp_path: Path, file: Path, gate: Gate
) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(file)
    (tmp_path / "gone.db").touch()
    for name, words in (
        (":memory:", "leads into memory"),
        ("", "leads into memory"),
        (tmp_path / "other.db", "leads to the file .*other.db"),
        (tmp_path / "gone.db", "leads to the file"),
    ):
        with contextlib.closing(sqlite3.connect(name)) as connection:
            if name != tmp_path / "gone.db":
                connection.execute("CREATE TABLE mine (id)")
                connection.execute("INSERT INTO mine VALUES (1)")
            with pytest.raises(WrongDatabaseError, match=words):
                write(gate, connection)
            if name == tmp_path / "other.db":
                assert connection.in_transaction
    for name in (file, link):
        with contextlib.closing(sqlite3.connect(name)) as connection, connection:
            write(gate, connection)
    assert len(read_rows(file)) == 2


def test_an_attached_file_is_another_transaction(tmp_path: Path, file: Path) -> None:
    gate = Gate(connect(f"sqlite:///{file}"))
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("ATTACH DATABASE ? AS ours", (str(file),))
        with pytest.raises(WrongDatabaseError):
            write(gate, connection)


async def test_connections_to_other_databases_go_on(
    postgres_server: PostgresDatabases,
    postgres_url: str,
    mariadb_url: str,
    file: Path,
) -> None:
    """A statement that failed would have ended the transaction, on PostgreSQL."""
    other = postgres_server.create_database()
    gates = {
        "postgresql": Gate(await make_tables(postgres_url)),
        "mysql": Gate(await make_tables(mariadb_url)),
        "sqlite": Gate(connect(f"sqlite:///{file}")),
    }
    reach: dict[str, Any] = {
        "postgresql": lambda: psycopg.connect(postgres_url),
        "another": lambda: psycopg.connect(other),
        "mysql": lambda: reach_mysql(mariadb_url),
        "sqlite": lambda: sqlite3.connect(file),
    }
    for name, gate in gates.items():
        for there, make in reach.items():
            with contextlib.closing(make()) as connection:
                with contextlib.closing(connection.cursor()) as cursor:
                    cursor.execute("CREATE TEMPORARY TABLE mine (id integer)")
                    cursor.execute("INSERT INTO mine VALUES (1)")
                    if name == there:
                        write(gate, connection)
                    else:
                        with pytest.raises(WrongDatabaseError):
                            write(gate, connection)
                    cursor.execute("SELECT count(*) FROM mine")
                    assert cursor.fetchone() == (1,), f"{there} for {name}"
                connection.rollback()
    postgres_server.drop_database(other)


async def test_postgresql_says_what_is_elsewhere_and_what_is_forbidden(
    postgres_server: PostgresDatabases, postgres_url: str
) -> None:
    postgres_server.execute("CREATE SCHEMA flows", postgres_url.rpartition("/")[2])
    gate = Gate(await make_tables(f"{postgres_url}?schema=flows"))
    user = f"clerk_{postgres_url[-8:]}"
    with psycopg.connect(postgres_url) as owner:
        owner.execute(f"CREATE ROLE {user} LOGIN")
    place = postgres_url.replace("postgres@", f"{user}@")
    for grant in (None, "USAGE ON SCHEMA flows", "INSERT ON flows.durable_outbox"):
        with psycopg.connect(postgres_url) as owner:
            if grant is not None:
                owner.execute(f"GRANT {grant} TO {user}")
        with psycopg.connect(place) as connection:
            connection.execute("SELECT 1")
            if grant is None or "USAGE" in grant:
                with pytest.raises(WrongDatabaseError, match="may not write"):
                    write(gate, connection)
            else:
                write(gate, connection)
            assert connection.execute("SELECT 1").fetchone() == (1,)
    with psycopg.connect(postgres_url) as owner:
        rows = owner.execute("SELECT count(*) FROM flows.durable_outbox").fetchone()
        assert rows == (1,)
        owner.execute(f"DROP OWNED BY {user}")
        owner.execute(f"DROP ROLE {user}")
    other = postgres_server.create_database()
    with psycopg.connect(other) as connection:
        with pytest.raises(WrongDatabaseError, match=r"no table flows\.durable_outbox"):
            write(gate, connection)
        assert connection.execute("SELECT 1").fetchone() == (1,)
    postgres_server.drop_database(other)


@pytest.mark.slow
async def test_a_server_that_was_started_anew_is_the_same(
    own_postgres: PostgresServer,
) -> None:
    url = own_postgres.create_database()
    gate = Gate(await make_tables(url))
    with psycopg.connect(url) as connection:
        write(gate, connection)
    own_postgres.restart()
    with psycopg.connect(url) as connection:
        write(gate, connection)
        rows = connection.execute("SELECT count(*) FROM durable_outbox").fetchone()
        assert rows == (2,)
