"""What one store commits another hears of: by LISTEN, coalesced, or by asking."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import psycopg
import pytest

from durable.store.connect import connect
from durable.store.postgresql.session import PostgresSession
from durable.store.store import Store
from durable.store.threads.sql_store import SqlStore
from durable.testing.contract.rows import make_message, make_start, perform_all
from tests.servers import PostgresDatabases

pytestmark = [pytest.mark.slow, pytest.mark.sweep(1, of_class=True)]

# Which a listener takes some milliseconds for, and one that asks every second half of
# one on the average.
SOON_SECONDS = 0.1


class Listener:
    """A store that writes nothing, and counts what it hears."""

    def __init__(self, url: str) -> None:
        self.store = connect(url)
        self.calls = 0
        self.changed = asyncio.Event()

    def hear(self) -> None:
        self.calls += 1
        self.changed.set()

    async def settle(self) -> None:
        """Hear nothing for a while."""
        while True:
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), 1.5)
            except TimeoutError:
                return


@pytest.fixture
async def listener(postgres_url: str) -> AsyncIterator[Listener]:
    listener = Listener(postgres_url)
    await listener.store.open()
    listener.store.watch(listener.hear)
    yield listener
    await listener.store.close()


@pytest.fixture
async def writer(postgres_url: str, listener: Listener) -> AsyncIterator[Store]:
    store = connect(postgres_url)
    await store.open()
    await listener.settle()
    yield store
    await store.close()


async def test_idle_store_hears_of_a_commit_at_once(
    listener: Listener, writer: Store
) -> None:
    seconds: list[float] = []
    for number in range(5):
        listener.changed.clear()
        await writer.perform(make_start(f"r{number}"))
        began = time.monotonic()
        await asyncio.wait_for(listener.changed.wait(), 10)
        seconds.append(time.monotonic() - began)

    # The machine may be busy with something else now and then.
    assert sorted(seconds)[1] < SOON_SECONDS, seconds


async def test_many_commits_are_heard_of_together(
    listener: Listener, writer: Store
) -> None:
    before = listener.calls
    await writer.perform(make_start("r"))
    for number in range(200):
        await writer.perform(make_message("r", f"m{number}"))
    await listener.settle()

    assert 0 < listener.calls - before < 100


async def test_own_commits_are_no_news(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is told, that is: each transaction on the server, also one of another
    # database, is seen when a store asks, once in a second.
    told: list[bool] = []
    has_changed = PostgresSession.has_changed

    def ask(session: PostgresSession) -> bool:
        told.append(session.has_heard)
        return has_changed(session)

    monkeypatch.setattr(PostgresSession, "has_changed", ask)
    await perform_all(listener.store, *(make_start(f"r{n}") for n in range(20)))
    await listener.settle()

    assert told
    assert not any(told)


async def test_listener_that_is_cut_off_hears_again_and_looks_once(
    listener: Listener,
    writer: Store,
    postgres_server: PostgresDatabases,
    postgres_url: str,
) -> None:
    name = postgres_url.rpartition("/")[2]
    listener.changed.clear()
    postgres_server.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        name,
    )

    await asyncio.wait_for(listener.changed.wait(), 10)
    await listener.settle()
    await writer.perform(make_start("r"))
    await asyncio.wait_for(listener.changed.wait(), 10)


async def test_store_that_cannot_listen_asks(
    listener: Listener,
    writer: Store,
    monkeypatch: pytest.MonkeyPatch,
    postgres_url: str,
) -> None:
    # Its own word, that it does, never comes.
    monkeypatch.setattr(PostgresSession, "_hear", lambda session, *said: None)
    asking = Listener(postgres_url)
    await asking.store.open()
    asking.store.watch(asking.hear)
    await asking.settle()

    await writer.perform(make_start("r"))

    await asyncio.wait_for(asking.changed.wait(), 10)
    await asking.store.close()


async def test_an_older_transaction_that_others_have_overtaken_is_noticed(
    postgres_url: str,
) -> None:
    """The newest number of the server does not change when it ends."""
    store = connect(postgres_url)
    await store.open()
    await store.close()
    assert isinstance(store, SqlStore)
    reader = store.database.open_reader()
    assert reader is not None
    with (
        contextlib.closing(reader) as session,
        psycopg.connect(postgres_url) as older,
        psycopg.connect(postgres_url) as younger,
    ):
        for connection in (older, younger):
            connection.execute("SELECT pg_current_xact_id()")
        session.has_changed()
        assert not session.has_changed()
        for connection in (younger, older):
            connection.commit()
            assert session.has_changed()
            assert not session.has_changed()
