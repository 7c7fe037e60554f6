"""MariaDB keeps the contract, with a database of its own for each test.

And what goes wrong only on servers of this kind.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pymysql
import pytest

from durable import limits
from durable.clock import Clock
from durable.errors import (
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    InvalidOptionError,
    PayloadTooLargeError,
)
from durable.store.connect import connect
from durable.store.database import Blame
from durable.store.mysql import driver
from durable.store.mysql.errors import MysqlErrors
from durable.store.mysql.mysql import MysqlDatabase
from durable.store.mysql.session import MysqlSession
from durable.store.mysql.url import parse
from durable.store.queries import LoadRuns, ReadHistory
from durable.store.records import StartRun
from durable.store.servers.server_clock import ServerClock
from durable.store.sql import backlog, statements
from durable.store.sql.fetching import fetch
from durable.store.store import Store
from durable.testing.contract.rows import (
    NAMESPACE,
    START,
    make_start,
    wait_until,
)
from durable.testing.contract.store_contract import StoreContract
from tests.proxy import Proxy
from tests.servers import MariaDatabases, MariaServer

ERRORS = MysqlErrors()


@pytest.mark.sweep(12, of_class=True)
class TestMariaDB(StoreContract):
    @pytest.fixture(autouse=True)
    def _database(self, mariadb_url: str) -> None:
        self._url = mariadb_url

    def make_store(self, clock: Clock, tmp_path: Path) -> Store:
        return connect(self._url, clock=clock)


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def make_large(run_id: str, size: int) -> StartRun:
    start = make_start(run_id, events=0)
    start.rows.append((run_id, 1, 1, "Large", START, "\\'" * (size // 2), 0))
    return start


def open_session(url: str) -> MysqlSession:
    session = MysqlDatabase(parse(url, url), ServerClock(), migrate=True).open_writer()
    assert isinstance(session, MysqlSession)
    return session


# --- how a server may be set up -------------------------------------------------------


@pytest.mark.slow
async def test_settings_of_the_server_do_not_matter(
    needs_mariadb: None, servers_folder: Path
) -> None:
    server = MariaServer(
        servers_folder,
        options=(
            "sql-mode=ANSI,ANSI_QUOTES,PIPES_AS_CONCAT,PAD_CHAR_TO_FULL_LENGTH",
            "transaction-isolation=SERIALIZABLE",
            "character-set-server=latin1",
            "default-time-zone=+05:45",
            "innodb-default-row-format=compact",
            "default-storage-engine=Aria",
            "autocommit=0",
            "max-statement-time=0.9",
        ),
    )
    server.execute("CREATE DATABASE odd")
    store = connect(server.url("odd"))
    await store.open()
    text = '{"é": "\\u0000 😀 \\\\ \'\'"}'
    start = make_start("😀 ", events=0)
    start.rows.append(("😀 ", 1, 1, "Ereignis", 2**62, text, 0))

    await store.perform(start)

    engines = server.execute(
        "SELECT DISTINCT engine FROM information_schema.tables"
        " WHERE table_schema = 'odd'"
    )
    assert engines == [("InnoDB",)]
    assert await store.read(ReadHistory("😀 ")) == start.rows
    assert await store.read(ReadHistory("😀")) == []
    clock = ServerClock()
    session = MysqlDatabase(
        parse(server.url("odd"), "odd"), clock, migrate=False
    ).open_writer()
    session.begin()
    assert session.connection is not None
    assert abs(clock.now() - time.time() * 1_000_000) < 60_000_000
    assert abs(store.now() - time.time() * 1_000_000) < 60_000_000
    session.close()
    await store.close()
    server.close()


@pytest.mark.slow
async def test_what_the_server_takes_in_no_packet_is_refused_alone(
    needs_mariadb: None,
    servers_folder: Path,
) -> None:
    server = MariaServer(servers_folder, options=("max-allowed-packet=1M",))
    store = connect(server.create_database())
    await store.open()

    answers = await asyncio.gather(
        *(store.perform(make_large(f"r{n}", 300_000)) for n in range(20)),
        store.perform(make_large("large", 1_100_000)),
        return_exceptions=True,
    )

    assert isinstance(answers[-1], PayloadTooLargeError)
    assert "max_allowed_packet" in str(answers[-1])
    assert all(answer.created for answer in answers[:-1])  # type: ignore[union-attr]  # they are answers
    assert (
        len(await store.read(LoadRuns(["large", *(f"r{n}" for n in range(20))]))) == 20
    )
    await store.close()
    server.close()


@pytest.mark.slow
async def test_server_whose_log_takes_statements_only_is_told(
    needs_mariadb: None, servers_folder: Path
) -> None:
    options = ("log-bin=binary", "binlog-format=STATEMENT", "server-id=1")
    server = MariaServer(servers_folder, options=options)
    store = connect(server.create_database())
    await store.open()

    with pytest.raises(DatabaseReadOnlyError, match="binlog_format"):
        await store.perform(make_start("r1"))

    await store.close()
    server.close()


def test_older_servers_are_refused(
    mariadb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(driver.OLDEST, "MariaDB", (99, 1))

    with pytest.raises(DatabaseUnavailableError, match=r"MariaDB \d+\.\d+.* 99\.1 or"):
        open_session(mariadb_url)


# --- what goes wrong ------------------------------------------------------------------


@pytest.mark.slow
async def test_restart_of_the_server_is_not_noticed(own_mariadb: MariaServer) -> None:
    store = connect(own_mariadb.create_database())
    await store.open()
    await store.perform(make_start("r1"))
    await store.read(LoadRuns(["r1"]))

    await asyncio.to_thread(own_mariadb.restart)

    assert (await store.perform(make_start("r2"))).created
    assert len(await store.read(LoadRuns(["r1", "r2"]))) == 2
    await store.close()


@pytest.mark.slow
async def test_commit_whose_answer_is_lost_is_found(mariadb_url: str) -> None:
    with Proxy(mariadb_url) as proxy:
        store = connect(proxy.url)
        await store.open()
        proxy.drop_answer_to(b"COMMIT")

        started = await store.perform(make_start("r1"))

        assert started.created
        assert len(await store.read(LoadRuns(["r1"]))) == 1
        await store.close()


@pytest.mark.slow
async def test_silent_server_is_given_up_before_a_lease_ends(mariadb_url: str) -> None:
    with Proxy(mariadb_url) as proxy:
        store = connect(proxy.url)
        await store.open()
        proxy.swallow_after(0, "to_client")

        with pytest.raises(DatabaseUnavailableError, match="does not answer"):
            await asyncio.wait_for(
                store.perform(make_start("r1")), limits.LEASE_SECONDS
            )

        proxy.reset()
        assert (await store.perform(make_start("r2"))).created
        await store.close()


@pytest.mark.slow
async def test_transaction_of_a_frozen_process_is_ended(mariadb_url: str) -> None:
    store = connect(mariadb_url)
    await store.open()
    await store.perform(make_start("r1"))
    frozen = open_session(mariadb_url)
    frozen.begin()
    frozen.begin_with(
        {"lock": "SELECT * FROM durable_runs WHERE run_id = 'r1' FOR UPDATE"}
    )

    done = await asyncio.wait_for(
        store.perform(make_start("r2", request_id="start-r1")), limits.LEASE_SECONDS
    )

    assert done.run_id == "r1"
    with pytest.raises(pymysql.OperationalError) as caught:
        frozen.commit()
    assert ERRORS.may_pass(caught.value)
    frozen.close()
    await store.close()


async def test_user_that_may_not_write_is_told_what_it_lacks(
    mariadb_server: MariaDatabases, mariadb_url: str
) -> None:
    open_session(mariadb_url).close()
    user = f"{name_of(mariadb_url)}@'127.0.0.1'"
    mariadb_server.execute(f"CREATE USER {user} IDENTIFIED BY 'ä😀'")
    mariadb_server.execute(f"GRANT SELECT ON {name_of(mariadb_url)}.* TO {user}")
    url = mariadb_url.replace("root@", f"{name_of(mariadb_url)}:ä😀@")
    store = connect(url)
    await store.open()

    with pytest.raises(DatabaseUnavailableError, match="INSERT command denied") as told:
        await store.perform(make_start("r1"))

    assert "takes INSERT, UPDATE and DELETE on them, too" in str(told.value)
    await store.close()
    mariadb_server.execute(f"DROP USER {user}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("root@", "root:wrong@"), "does not let this user in"),
        (("/test_", "/other_test_"), "does not exist"),
    ],
)
async def test_what_will_not_pass_is_told_at_once(
    mariadb_url: str, change: tuple[str, str], said: str
) -> None:
    with pytest.raises(DatabaseUnavailableError, match=said) as caught:
        await connect(mariadb_url.replace(*change)).open()

    assert "wrong" not in str(caught.value)


def test_errors_are_told_apart() -> None:
    def judge(code: int, text: str = "") -> tuple[Blame, bool, str]:
        error = pymysql.OperationalError(code, text)
        explained = ERRORS.explain(error, "db")
        kind = "" if explained is None else type(explained).__name__
        return ERRORS.judge(error), ERRORS.may_pass(error), kind

    busy = (Blame.AGAIN, False, "DatabaseUnavailableError")
    assert judge(1213) == judge(1020) == busy
    assert judge(1205) == (Blame.LOCKED, *busy[1:])
    assert judge(2013) == judge(1053) == judge(4031) == judge(1927)
    assert judge(2013) == (Blame.WHOLE, True, "DatabaseUnavailableError")
    assert judge(1040) == (Blame.WHOLE, True, "DatabaseUnavailableError")
    assert judge(1045) == (Blame.WHOLE, False, "DatabaseUnavailableError")
    assert judge(1290) == (Blame.WHOLE, True, "DatabaseReadOnlyError")
    assert judge(1114) == (Blame.WHOLE, True, "DatabaseFullError")
    assert judge(1665) == (Blame.WHOLE, False, "DatabaseReadOnlyError")
    full = judge(1030, 'Got error 28 "No space left on device" from storage engine')
    assert full == judge(1114)
    assert judge(1030, "Got error 168") == (Blame.OPERATION, False, "")
    assert judge(1146) == (Blame.WHOLE, False, "SchemaRevisionError")
    assert judge(1406) == (Blame.OPERATION, False, "")
    assert not ERRORS.is_in_doubt(pymysql.OperationalError(1213, ""))
    assert ERRORS.is_in_doubt(pymysql.OperationalError(2013, ""))


@pytest.mark.parametrize("option", ["ssl_verify_cert=maybe", "connect_timeout=soon"])
def test_option_with_a_wrong_value_is_refused(option: str) -> None:
    with pytest.raises(InvalidOptionError, match=option.partition("=")[0]):
        connect(f"mysql://u:secret@h/d?{option}")


# --- what others hear, and how much is walked -----------------------------------------


async def test_other_stores_hear_of_each_commit(mariadb_url: str) -> None:
    one, other = connect(mariadb_url), connect(mariadb_url)
    await one.open()
    await other.open()
    heard: list[int] = []
    own: list[int] = []
    other.watch(lambda: heard.append(1))
    one.watch(lambda: own.append(1))

    for number in range(3):
        await one.perform(make_start(f"r{number}"))
        await wait_until(lambda: heard)
        heard.clear()

    assert own == []
    await one.close()
    await other.close()


def test_sessions_that_ended_long_ago_are_forgotten(
    mariadb_server: MariaDatabases, mariadb_url: str
) -> None:
    open_session(mariadb_url).close()
    database = name_of(mariadb_url)
    mariadb_server.execute(
        "INSERT INTO durable_changes SELECT 'old', 1, UNIX_TIMESTAMP() * 1000000"
        " - 3601000000 UNION SELECT 'new', 1, UNIX_TIMESTAMP() * 1000000",
        database,
    )

    open_session(mariadb_url).close()

    found = mariadb_server.execute("SELECT session_id FROM durable_changes", database)
    assert found == [("new",)]


def rows_walked(session: MysqlSession, statement: Any, **values: Any) -> int:
    def count() -> int:
        found = session.connection.exec_driver_sql(
            "SHOW SESSION STATUS LIKE 'Handler_read%%'"
        )
        return sum(int(value) for _, value in found)

    before = count()
    fetch(session, statement, **values)
    return count() - before


def test_closed_runs_are_not_walked(
    mariadb_server: MariaDatabases, mariadb_url: str
) -> None:
    session = open_session(mariadb_url)
    mariadb_server.execute(
        "INSERT INTO durable_runs (run_id, namespace, workflow_id, workflow_type,"
        " task_queue, status, started_at, first_run_id, request_id)"
        " SELECT seq, 'default', seq, 'order', 'queue', 'completed', seq, seq, seq"
        " FROM seq_1_to_2000",
        name_of(mariadb_url),
    )
    queue = {"namespace": NAMESPACE, "task_queue": "queue", "workflow_types": ["order"]}
    served = {"versions": ["1.0.0@order"]}

    walked = [
        rows_walked(
            session, statements.FIND_CLAIMABLE, **queue, **served, until=START, page=9
        ),
        rows_walked(
            session, statements.FIND_STUCK, **queue, **served, after="", page=9
        ),
        rows_walked(session, statements.NEXT_WAKE_AT, **queue, **served),
        rows_walked(session, statements.DUE_VERSIONS, **queue, until=START),
        rows_walked(session, statements.STUCK_VERSIONS, **queue),
        rows_walked(session, statements.FIND_STRAYS),
        rows_walked(session, statements.MAILED_RUNS, myself="w", page=9),
        rows_walked(
            session,
            statements.UNOWNED_RUNS,
            namespace=NAMESPACE,
            until=START,
            page=9,
        ),
        rows_walked(session, backlog._NEXT_DUE_QUEUE, namespace=NAMESPACE, after=""),
        rows_walked(
            session,
            backlog._DUE,
            namespace=NAMESPACE,
            task_queue="queue",
            until=START,
        ),
        rows_walked(session, backlog._STUCK, namespace=NAMESPACE),
    ]

    assert max(walked) < 20, walked
    session.close()
