"""What users of other libraries on PostgreSQL have met, met here.

Each test names the public report that it plays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable.errors import DatabaseUnavailableError, HistoryTakenError
from durable.store.connect import connect
from durable.store.lease import RegisterWorker
from durable.store.postgresql import postgresql
from durable.store.postgresql.session import PostgresSession
from durable.store.queries import LoadRuns
from durable.store.records import ReapWorkers
from durable.testing.contract.rows import (
    make_commit,
    make_message,
    make_start,
    make_worker,
)
from tests.proxy import Proxy
from tests.servers import PostgresDatabases, PostgresServer
from tests.store.stage import ignore, make_executor

pytestmark = [pytest.mark.slow, pytest.mark.sweep(2, of_class=True)]

WAIT_SECONDS_MAX = 20


@pytest.fixture(scope="module")
def server(needs_postgres: None, servers_folder: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(servers_folder)
    yield server
    server.close()


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    url = server.create_database()
    yield url
    server.drop_database(url)


async def test_listener_behind_a_half_open_connection_hears_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """timgit/pg-boss#850, sandbox-quantum/switch#415: nobody closes the socket."""
    monkeypatch.setattr(postgresql, "PATIENCE_SECONDS", 0.5)
    changed = asyncio.Event()
    with Proxy(postgres_url) as proxy:
        listening, writing = connect(proxy.url), connect(postgres_url)
        await listening.open()
        await writing.open()
        listening.watch(changed.set)
        await writing.perform(make_start("r"))
        await asyncio.wait_for(changed.wait(), WAIT_SECONDS_MAX)

        # Even the end of the connection does not come through any more.
        proxy.swallow_after(0, "to_client")
        assert await asyncio.to_thread(proxy.struck.wait, WAIT_SECONDS_MAX)
        changed.clear()
        await writing.perform(make_message("r"))
        proxy.heal()
        await asyncio.wait_for(changed.wait(), WAIT_SECONDS_MAX)
        changed.clear()
        await writing.perform(make_message("r", "later"))
        await asyncio.wait_for(changed.wait(), WAIT_SECONDS_MAX)
        await listening.close()
        await writing.close()


async def test_store_that_could_not_be_opened_is_opened_later(
    server: PostgresServer, url: str
) -> None:
    """dbos-inc/dbos-transact-py#150, #160: launched before its database."""
    store = connect(url)
    await asyncio.to_thread(server.stop)
    try:
        for _ in range(2):
            with pytest.raises(DatabaseUnavailableError, match="refused"):
                await store.open()
    finally:
        await asyncio.to_thread(server.start)

    await store.open()
    assert (await store.perform(make_start("r"))).created
    await store.close()


async def test_runs_of_the_dead_are_taken_though_the_server_restarts(
    server: PostgresServer, url: str
) -> None:
    """dbos-inc/dbos-transact-py#716: a failover kills a worker and the connection."""
    dead = make_executor(url)
    dead.execute([RegisterWorker(make_worker("dead"), ignore)])
    dead.execute([make_start(f"r{n}", owner="dead") for n in range(100)])
    dead.close()
    store = connect(url)
    await store.open()
    restarted = asyncio.create_task(asyncio.to_thread(server.restart))
    reaped: list[str] = []
    while not reaped:
        reaped = await store.perform(ReapWorkers(presumed_dead=("dead",)))
    await restarted

    assert reaped == ["dead"]
    runs = await store.read(LoadRuns([f"r{n}" for n in range(100)]))
    assert {(run.record.owner, run.record.epoch) for run in runs} == {(None, 1)}
    await store.close()


def test_connections_are_not_gathered_by_reconnecting(
    postgres_server: PostgresDatabases, postgres_url: str
) -> None:
    """oban-bg/oban#90: each listener that was replaced stayed."""
    executor = make_executor(postgres_url)
    name = postgres_url.rpartition("/")[2]
    where = "WHERE datname = current_database() AND application_name = 'durable'"
    executor.execute([make_start("r")])
    sessions = set()
    for number in range(5):
        taken = make_start("r", workflow_id=f"{number}", request_id=f"{number}")
        ((_, refusal),), _ = executor.execute([taken])
        assert isinstance(refusal, HistoryTakenError)
        sessions.add(executor.open())

    assert len(sessions) == 5, "an error leaves a connection that is of no use"
    ((count,),) = postgres_server.execute(
        f"SELECT count(*) FROM pg_stat_activity {where}",  # noqa: S608 - written here
        name,
    )
    assert count <= 2
    executor.close()


def test_primary_that_was_demoted_under_an_open_connection_is_left(
    postgres_url: str,
) -> None:
    """zoolutions/pgbus#239: the name means another server by now."""
    executor = make_executor(postgres_url)
    executor.execute([RegisterWorker(make_worker("w"), ignore)])
    executor.execute([make_start("r", owner="w")])
    session = executor.open()
    assert isinstance(session, PostgresSession)
    session.connection.exec_driver_sql(
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
    )

    outcomes, _ = executor.execute([make_commit("r"), make_message("r")])

    assert outcomes == [(None, None), ("r", None)]
    assert executor.open() is not session
    executor.close()


async def test_caller_that_is_cancelled_leaves_nothing_open(
    postgres_url: str,
) -> None:
    """Whoever stops waiting leaves no transaction and no connection behind."""
    store = connect(postgres_url)
    await store.open()
    tasks = [asyncio.create_task(store.perform(make_start(f"r{n}"))) for n in range(20)]
    readings = [asyncio.create_task(store.read(LoadRuns(["r0"]))) for _ in range(20)]
    await asyncio.sleep(0)
    for task in (*tasks, *readings):
        task.cancel()
    await asyncio.gather(*tasks, *readings, return_exceptions=True)

    await store.perform(make_start("later"))
    # Of those cancelled the ones that had begun are there.
    assert len(await store.read(LoadRuns(["later"]))) == 1
    for number in range(20):
        await store.perform(make_start(f"r{number}"))
    await store.close()
