"""What is long, or much at once, is stored and heard of.

Users met inserts that failed since what tells others of them had to carry a row or a
list of ids, of which a server takes 8,000 bytes; and names that went through until one
was put together with another to more than its 63.
"""

from __future__ import annotations

from typing import Any

import pytest

from durable.store.connect import connect
from durable.store.postgresql.session import PostgresSession
from durable.store.queries import CountRuns, LoadRuns
from durable.store.queues import PutQueue, QueueRecord
from durable.store.records import ClaimRuns, Committed
from durable.testing.contract.rows import (
    NAMESPACE,
    START,
    make_closing,
    make_owned,
    make_start,
    make_worker,
    wait_until,
)
from tests.servers import PostgresDatabases
from tests.store.stage import ignore

pytestmark = pytest.mark.slow

SCHEMA = "s" * 63
NAME = "é" * 127 + "n"  # of 255 bytes, as all of these may have
MEGABYTE = '"' + "x" * 1_048_574 + '"'
MANY = 5_000


@pytest.fixture(params=["postgresql", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    """A database; on PostgreSQL its tables are in a schema of the longest name."""
    if request.param == "mariadb":
        return str(request.getfixturevalue("mariadb_url"))
    server: PostgresDatabases = request.getfixturevalue("postgres_server")
    found = request.getfixturevalue("postgres_url")
    server.execute(f"CREATE SCHEMA {SCHEMA}", found.rpartition("/")[2])
    return f"{found}?schema={SCHEMA}"


@pytest.mark.sweep(1)
async def test_longest_names_and_much_at_once_reach_others(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[object] = []
    hear = PostgresSession._hear

    def note(session: PostgresSession, *told: Any) -> None:
        heard.append(told)
        hear(session, *told)

    # What is told, that is: who listens asks now and then, too.
    monkeypatch.setattr(PostgresSession, "_hear", note)
    writing, listening = connect(url), connect(url)
    await writing.open()
    await listening.open()
    if url.startswith("mysql"):
        listening.watch(lambda: heard.append("news"))
    await writing.register_worker(make_worker("w"), ignore)
    place = {"namespace": NAME, "task_queue": NAME}
    await listening.register_worker(make_worker(NAME, **place), ignore)
    queue = QueueRecord(namespace=NAME, name=NAME, concurrency=1)
    await writing.perform(PutQueue(record=queue, version=None))
    heard.clear()

    start = make_start(
        NAME, events=0, workflow_id=NAME, workflow_type=NAME, wake_at=1, **place
    )
    start.rows.append((NAME, 1, 1, "Large", START, MEGABYTE, 0))
    assert (await writing.perform(start)).created
    await wait_until(lambda: heard)
    claim = ClaimRuns(workflow_types=(NAME,), limit=1)
    assert list(await listening.perform(claim)) == [NAME]
    (loaded,) = await listening.read(LoadRuns([NAME]))
    assert loaded.rows == start.rows

    await writing.perform(make_owned("parent"))
    heard.clear()
    children = tuple(make_start(f"child{number}") for number in range(MANY))
    ended = await writing.perform(make_closing("parent", starts=children))
    assert isinstance(ended, Committed)
    assert len(ended.started) == MANY
    await wait_until(lambda: heard)
    assert (await listening.read(CountRuns(NAMESPACE))).total == MANY + 1
    await writing.close()
    await listening.close()
