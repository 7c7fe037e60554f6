"""Who makes the tables of a MariaDB database: one of many, and one after a dead one."""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from durable.errors import SchemaRevisionError
from durable.store.connect import connect
from durable.store.mysql.mysql import MysqlDatabase
from durable.store.mysql.url import parse
from durable.store.servers.server_clock import ServerClock
from durable.store.sql.schema import HEAD
from durable.store.sql.tables import METADATA
from durable.testing.contract.rows import make_start
from tests.servers import MariaDatabases

ROOT = Path(__file__).resolve().parent.parent.parent
PROCESSES = 8
WAIT_SECONDS_MAX = 20
CHANGES = len(METADATA.tables) + 9
"""So many statements make the tables, and fill that of the version."""

OPEN = """
import asyncio
import itertools
import sys

from durable.store.connect import connect
from durable.testing.contract.rows import make_start


async def main(url, run_id):
    store = connect(url)
    await store.open()
    await store.perform(make_start(run_id))
    await store.close()


asyncio.run(main(*sys.argv[1:3]))
"""
KILLED = """
import os
import signal
import sys

import sqlalchemy as sa

left = int(sys.argv[3])


@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def count(connection, cursor, statement, *others):
    global left
    if statement.lstrip().startswith(("CREATE", "ALTER", "INSERT")):
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

"""


def begin(program: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def revisions(server: MariaDatabases, url: str) -> list[tuple[object, ...]]:
    return server.execute("SELECT version_num FROM durable_schema", url.split("/")[-1])


@pytest.mark.slow
def test_tables_are_made_once_by_processes_that_come_at_once(
    mariadb_server: MariaDatabases, mariadb_url: str
) -> None:
    begun = [begin(OPEN, mariadb_url, f"r{number}") for number in range(PROCESSES)]

    said = [process.communicate(timeout=50)[1] for process in begun]

    assert [process.returncode for process in begun] == [0] * PROCESSES, said
    assert revisions(mariadb_server, mariadb_url) == [(HEAD,)]
    runs = mariadb_server.execute(
        "SELECT COUNT(*) FROM durable_runs", mariadb_url.split("/")[-1]
    )
    assert runs == [(PROCESSES,)]


@pytest.mark.slow
@pytest.mark.sweep(4)
@pytest.mark.parametrize("done", range(CHANGES + 1))
async def test_tables_are_finished_that_a_killed_process_has_begun(
    mariadb_server: MariaDatabases, mariadb_url: str, done: int
) -> None:
    process = begin(KILLED + OPEN, mariadb_url, "r1", str(done))
    _, said = process.communicate(timeout=50)
    is_killed = process.returncode == -signal.SIGKILL
    assert is_killed == (done < CHANGES), said

    store = connect(mariadb_url)
    await store.open()

    assert (await store.perform(make_start("r2"))).created
    await store.close()
    assert revisions(mariadb_server, mariadb_url) == [(HEAD,)]
    database = mariadb_url.split("/")[-1]
    ((text,),) = mariadb_server.execute(
        "SELECT GROUP_CONCAT(DISTINCT index_name ORDER BY index_name)"  # noqa: S608 - the name is ours
        " FROM information_schema.statistics"
        f" WHERE table_schema = '{database}' AND index_name LIKE 'durable%'",
    )
    assert text.split(",") == [
        "durable_activity_tasks_due",
        "durable_activity_tasks_expiry",
        "durable_activity_tasks_held",
        "durable_activity_tasks_turns",
        "durable_activity_tasks_worker",
        "durable_attributes_keyword",
        "durable_attributes_number",
        "durable_inbox_request_id",
        "durable_outbox_due",
        "durable_outbox_outbox_id",
        "durable_replies_created_at",
        *(
            f"durable_runs_{name}"
            for name in (
                "closed_at",
                "due",
                "open_key",
                "owner",
                "parent",
                "request_id",
                "started_at",
                "status",
                "stuck",
                "type",
                "wake_at",
                "workflow_id",
            )
        ),
        "durable_run_turns_expiry",
        "durable_run_turns_run",
        "durable_run_turns_turns",
    ]


async def test_tables_of_somebody_else_are_refused(
    mariadb_server: MariaDatabases, mariadb_url: str
) -> None:
    database = mariadb_url.split("/")[-1]
    mariadb_server.execute("CREATE TABLE durable_runs (page INT)", database)

    with pytest.raises(SchemaRevisionError, match="durable_runs"):
        await connect(mariadb_url).open()

    assert mariadb_server.execute("SHOW TABLES", database) == [("durable_runs",)]


async def test_nothing_is_made_where_nothing_may_be(
    mariadb_server: MariaDatabases, mariadb_url: str
) -> None:
    with pytest.raises(SchemaRevisionError, match="durable db upgrade"):
        await connect(mariadb_url, migrate=False).open()

    assert mariadb_server.execute("SHOW TABLES", mariadb_url.split("/")[-1]) == []


async def test_schema_of_a_later_release_is_refused(
    mariadb_server: MariaDatabases, mariadb_url: str
) -> None:
    store = connect(mariadb_url)
    await store.open()
    await store.close()
    database = mariadb_url.split("/")[-1]
    mariadb_server.execute("UPDATE durable_schema SET version_num = '9999'", database)

    with pytest.raises(SchemaRevisionError, match="9999"):
        await connect(mariadb_url).open()


async def test_tables_are_made_while_those_of_another_database_are(
    mariadb_server: MariaDatabases, mariadb_url: str
) -> None:
    other = mariadb_server.create_database()
    database = MysqlDatabase(parse(other, other), ServerClock(), migrate=True)
    holder = database.open_writer()
    holder.begin_migrating()
    store = connect(mariadb_url)

    await asyncio.wait_for(store.open(), WAIT_SECONDS_MAX)

    await store.close()
    holder.close()
    mariadb_server.drop_database(other)


# Blanks at the end, what most collations take for one, and characters of all lengths.
LETTERS = ["a", "A", "á", "ss", "ß", " ", "\t", "\0", "\x7f", "\ue000", "\uffff", "😀"]


async def test_ids_are_told_apart_and_in_the_order_of_python(
    mariadb_server: MariaDatabases, mariadb_url: str
) -> None:
    store = connect(mariadb_url)
    await store.open()
    ids = ["".join(pair) for pair in itertools.product(LETTERS, repeat=2)] + LETTERS
    ids = sorted(set(ids))

    await asyncio.gather(*(store.perform(make_start(one)) for one in ids))

    for column in ("run_id", "workflow_id", "request_id"):
        found = mariadb_server.execute(
            f"SELECT run_id FROM durable_runs ORDER BY {column}",  # noqa: S608 - a constant
            mariadb_url.split("/")[-1],
        )
        assert [one for (one,) in found] == ids
    await store.close()


async def test_other_programs_read_texts(
    mariadb_server: MariaDatabases, mariadb_url: str
) -> None:
    store = connect(mariadb_url)
    await store.open()
    await store.perform(make_start("r1"))

    found = mariadb_server.execute(
        "SELECT run_id, workflow_id, workflow_type, status, open_key, h.type"
        " FROM durable_runs AS r JOIN durable_history AS h USING (run_id)"
        " WHERE status = 'running' AND h.event_id = 1",
        mariadb_url.split("/")[-1],
    )

    expected = ("r1", "wf-r1", "order", "running", "wf-r1", "TimerFired")
    assert found == [expected]
    await store.close()
