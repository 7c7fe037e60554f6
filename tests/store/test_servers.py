"""The database servers that other tests use: they start, fail, and leave nothing."""

from __future__ import annotations

import psycopg
import pymysql
import pytest
from pymysql.cursors import Cursor

from tests.servers import MariaDatabases, MariaServer, PostgresDatabases, PostgresServer

pytestmark = pytest.mark.slow


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def connect_to_mariadb(
    server: MariaDatabases, database: str
) -> pymysql.Connection[Cursor]:
    return pymysql.connect(
        host="127.0.0.1", port=server.port, user="root", database=database
    )


def test_each_test_has_a_database_of_its_own(
    postgres_server: PostgresDatabases, postgres_url: str
) -> None:
    other = postgres_server.create_database()
    with psycopg.connect(other) as connection:
        connection.execute("CREATE TABLE here (n int)")
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT to_regclass('here')").fetchone()
    copy = postgres_server.create_database(template=name_of(other))

    assert found == (None,)
    assert postgres_server.execute("SELECT * FROM here", name_of(copy)) == []
    with psycopg.connect(other) as connection:
        postgres_server.drop_database(other)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(other)


def test_what_was_committed_is_there_after_a_kill(own_postgres: PostgresServer) -> None:
    url = own_postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        connection.commit()
        connection.execute("INSERT INTO kept VALUES (2)")
        own_postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(url)

    own_postgres.start()

    assert own_postgres.execute("SELECT n FROM kept", name_of(url)) == [(1,)]
    assert "was interrupted" in own_postgres.read_log()


def test_each_test_has_a_mariadb_database_of_its_own(
    mariadb_server: MariaDatabases, mariadb_url: str
) -> None:
    other = name_of(mariadb_server.create_database())
    mariadb_server.execute("CREATE TABLE here (n varchar(9) PRIMARY KEY)", other)
    mariadb_server.execute(
        "INSERT INTO here VALUES ('a'), ('A'), ('a '), ('ä'), ('🌻')", other
    )
    assert len(mariadb_server.execute("SELECT * FROM here", other)) == 5
    assert mariadb_server.execute("SHOW TABLES", name_of(mariadb_url)) == []
    with connect_to_mariadb(mariadb_server, other) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT * FROM here FOR UPDATE")  # in a transaction
        mariadb_server.drop_database(other)
        with pytest.raises(pymysql.OperationalError):
            cursor.execute("SELECT 1")


def test_what_was_committed_in_mariadb_is_there_after_a_kill(
    own_mariadb: MariaServer,
) -> None:
    database = name_of(own_mariadb.create_database())
    with connect_to_mariadb(own_mariadb, database) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE kept AS SELECT 1 AS n")
        connection.commit()
        cursor.execute("INSERT INTO kept VALUES (2)")
        own_mariadb.kill()
        with pytest.raises(pymysql.OperationalError):
            cursor.execute("SELECT 1")

    own_mariadb.start()

    assert own_mariadb.execute("SELECT n FROM kept", database) == [(1,)]
    assert "crash recovery" in own_mariadb.read_log()


def test_pooler_shares_a_session_between_transactions(pooled_url: str) -> None:
    with (
        psycopg.connect(pooled_url, autocommit=True) as one,
        psycopg.connect(pooled_url, autocommit=True) as other,
    ):
        ask = "SELECT pg_backend_pid()"
        assert one.execute(ask).fetchone() == other.execute(ask).fetchone()
        with one.transaction():
            one.execute(ask)
            assert one.execute(ask).fetchone() != other.execute(ask).fetchone()
