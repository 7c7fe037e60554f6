"""The database servers that other tests use: they start, fail, and leave nothing."""

from __future__ import annotations

import re
import socket
import tempfile
import threading
from pathlib import Path

import psycopg
import pymysql
import pytest
from pymysql.cursors import Cursor

from tests import servers
from tests.servers import (
    MariaDatabases,
    MariaServer,
    PostgresDatabases,
    PostgresServer,
    Server,
)

pytestmark = [pytest.mark.slow, pytest.mark.sweep(4, of_class=True)]


@pytest.fixture(params=["own_postgres", "own_mariadb"])
def own_server(request: pytest.FixtureRequest) -> Server:
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Server)
    return server


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


def test_frozen_server_answers_once_it_is_thawed(own_server: Server) -> None:
    asking = threading.Thread(target=own_server.execute, args=["SELECT 1"], daemon=True)
    own_server.freeze()
    asking.start()
    asking.join(0.3)
    assert asking.is_alive(), "a frozen server answers"

    own_server.thaw()

    asking.join(10)
    assert not asking.is_alive()


def test_sessions_of_a_frozen_postgresql_are_frozen_too(
    own_postgres: PostgresServer,
) -> None:
    with psycopg.connect(own_postgres.url("postgres")) as connection:
        asking = threading.Thread(target=connection.execute, args=["SELECT 1"])
        own_postgres.freeze()
        asking.start()
        asking.join(0.3)
        assert asking.is_alive(), "a frozen session answers"

        own_postgres.thaw()

        asking.join(10)
        assert not asking.is_alive()


def test_restarted_server_has_ended_in_order_and_keeps_its_port(
    own_server: Server,
) -> None:
    url = own_server.create_database()

    own_server.restart()

    assert own_server.url(name_of(url)) == url
    assert own_server.execute("SELECT 1", name_of(url)) == [(1,)]
    assert re.search("database system is shut|Shutdown comp", own_server.read_log())


def test_postgresql_that_is_stopped_smartly_waits_for_its_clients(
    own_postgres: PostgresServer,
) -> None:
    with psycopg.connect(own_postgres.url("postgres")) as connection:
        stopping = threading.Thread(target=own_postgres.stop, args=["smart"])
        stopping.start()
        stopping.join(0.3)
        assert stopping.is_alive()
        assert connection.execute("SELECT 1").fetchone() == (1,)
    stopping.join(10)
    assert not stopping.is_alive()


@pytest.mark.usefixtures("needs_postgres", "needs_mariadb")
@pytest.mark.parametrize("kind", [PostgresServer, MariaServer])
def test_server_that_does_not_start_says_why_and_leaves_nothing(
    kind: type[PostgresServer | MariaServer], servers_folder: Path
) -> None:
    own_folder = Path(tempfile.mkdtemp(dir=servers_folder))
    own_folder.chmod(0o711)  # as others have it: the server is another user

    with pytest.raises(RuntimeError, match=r"did not start(.|\n)*no.such.option"):
        kind(own_folder, options=("no-such-option=1",))

    assert list(own_folder.iterdir()) == []


@pytest.mark.usefixtures("needs_postgres", "needs_mariadb")
@pytest.mark.parametrize("kind", [PostgresServer, MariaServer])
def test_server_takes_another_port_when_somebody_was_faster(
    kind: type[PostgresServer | MariaServer],
    servers_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ports = iter([taken, servers.free_port()])
        monkeypatch.setattr(servers, "free_port", lambda: next(ports))

        server = kind(servers_folder)

        try:
            assert server.port != taken
            assert server.execute("SELECT 1") == [(1,)]
        finally:
            server.close()
