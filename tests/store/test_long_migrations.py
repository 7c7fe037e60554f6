"""Whoever changes a schema takes its time, and nobody else does."""

from __future__ import annotations

import contextlib
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from durable import limits
from durable.errors import StoreError
from durable.store.mysql import driver, mysql
from durable.store.mysql.url import parse as parse_mysql
from durable.store.postgresql import postgresql
from durable.store.postgresql.url import parse as parse_postgresql
from durable.store.servers.server import ServerDatabase
from durable.store.servers.server_clock import ServerClock
from durable.store.sql import schema
from tests.proxy import Proxy
from tests.store.stage import locking

pytestmark = [pytest.mark.slow]

LIMIT_SECONDS = 0.5


def make_database(url: str) -> ServerDatabase:
    if url.startswith("mysql"):
        return mysql.MysqlDatabase(parse_mysql(url, url), ServerClock(), migrate=True)
    parsed = parse_postgresql(url, url)
    return postgresql.PostgresDatabase(parsed, ServerClock(), migrate=True)


def sleep(url: str, seconds: float) -> str:
    """The statement that takes so long, if nothing ends it."""
    if url.startswith("mysql"):
        return f"SELECT SLEEP({seconds})"
    # This limit is one of seconds; nobody need wait for it.
    unlimited = "current_setting('statement_timeout') = '0'"
    return f"SELECT pg_sleep({seconds}) WHERE {unlimited}"


@pytest.fixture(params=["postgres_url", "mariadb_url"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database on each server, of which nobody waits long for an answer."""
    monkeypatch.setattr(postgresql, "PATIENCE_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(mysql, "PATIENCE_SECONDS", LIMIT_SECONDS)
    settings = {"max_statement_time": f"{LIMIT_SECONDS / 2}"}
    monkeypatch.setattr(driver, "_WRITER_SETTINGS", settings)
    found: str = request.getfixturevalue(request.param)
    return found


def slow_down(monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """Have tables made as slowly as those are changed that have many rows."""
    create = schema.create_tables

    def create_slowly(connection: sa.Connection) -> None:
        create(connection)
        answer = connection.exec_driver_sql(statement).scalar()
        assert answer in (0, ""), "the server has ended it"

    monkeypatch.setattr(schema, "create_tables", create_slowly)


def test_change_of_the_schema_takes_longer_than_a_statement_may(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(monkeypatch, sleep(url, LIMIT_SECONDS * 3))

    with contextlib.closing(make_database(url).open_writer()) as session:
        assert schema.read_revision(session) == schema.HEAD
        # What it does from now on is limited.
        session.connection.exec_driver_sql("SELECT 1")
        text = sleep(url, LIMIT_SECONDS * 3).partition(" WHERE")[0]
        with pytest.raises(DBAPIError, match=r"no answer|max_statement_time"):
            session.connection.exec_driver_sql(text).scalar()


def test_server_that_is_lost_meanwhile_is_noticed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(monkeypatch, sleep(url, 60))
    caught: list[BaseException] = []

    with Proxy(url) as proxy:

        def open_writer() -> None:
            try:
                make_database(proxy.url).open_writer()
            except StoreError as error:
                caught.append(error)

        thread = threading.Thread(target=open_writer, daemon=True)
        thread.start()
        thread.join(LIMIT_SECONDS * 2)
        assert thread.is_alive(), caught
        proxy.cut()
        thread.join(limits.LEASE_SECONDS)
        assert not thread.is_alive()

    assert "cannot be reached" in str(caught[0])


def test_table_that_somebody_else_uses_is_not_waited_for(url: str) -> None:
    make_database(url).open_writer().close()
    with (
        contextlib.closing(make_database(url).open_writer()) as session,
        locking(url, "SELECT * FROM durable_runs"),
    ):
        session.begin_migrating()

        with pytest.raises(DBAPIError, match=r"lock timeout|Lock wait timeout"):
            session.connection.exec_driver_sql("ALTER TABLE durable_runs ADD more INT")
