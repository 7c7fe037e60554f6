"""The database servers that other tests use: they start, fail, and leave nothing."""

from __future__ import annotations

import psycopg
import pytest

from tests.servers import PostgresDatabases, PostgresServer

pytestmark = pytest.mark.slow


def test_each_test_has_a_database_of_its_own(
    postgres_server: PostgresDatabases, postgres_url: str
) -> None:
    other = postgres_server.create_database()
    with psycopg.connect(other) as connection:
        connection.execute("CREATE TABLE here (n int)")
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT to_regclass('here')").fetchone()
    copy = postgres_server.create_database(template=other.rpartition("/")[2])

    assert found == (None,)
    assert postgres_server.execute("SELECT * FROM here", copy.rpartition("/")[2]) == []
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

    assert own_postgres.execute("SELECT n FROM kept", url.rpartition("/")[2]) == [(1,)]
    assert "was interrupted" in own_postgres.read_log()
