"""PgBouncer in transaction mode: the contract holds, and changes are polled for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable.clock import Clock
from durable.errors import DatabaseUnavailableError
from durable.store.connect import connect
from durable.store.store import Store
from durable.testing.contract.rows import Harness, make_start
from durable.testing.contract.store_contract import StoreContract
from tests.pooler import Pooler
from tests.server_fixtures import require
from tests.servers import PostgresDatabases
from tests.store.stage import make_executor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pooler(
    postgres_server: PostgresDatabases, servers_folder: Path
) -> Iterator[Pooler]:
    require(Pooler)
    pooler = Pooler(servers_folder, server_port=postgres_server.port)
    yield pooler
    pooler.close()


@pytest.fixture
def pooled_url(pooler: Pooler, postgres_url: str) -> str:
    return pooler.url(postgres_url.rpartition("/")[2])


@pytest.mark.sweep(6, of_class=True)
class TestPgBouncer(StoreContract):
    @pytest.fixture(autouse=True)
    def _database(self, pooled_url: str) -> None:
        self._url = pooled_url

    def make_store(self, clock: Clock, tmp_path: Path) -> Store:
        return connect(self._url, clock=clock)

    async def test_watcher_hears_of_other_stores_only(self, harness: Harness) -> None:
        """And, behind a pooler, of whatever else the server does for anybody."""
        store, other = await harness.open(), await harness.open()
        heard = asyncio.Event()
        store.watch(heard.set)

        await other.perform(make_start("r1"))
        await heard.wait()


def test_listening_is_found_not_to_work(pooled_url: str, postgres_url: str) -> None:
    pooled, direct = make_executor(pooled_url), make_executor(postgres_url)
    sessions = pooled.open(), direct.open()
    assert sessions[0].news_descriptor is None
    assert sessions[1].news_descriptor is not None
    pooled.close()
    direct.close()


async def test_schema_of_the_url_is_refused(pooled_url: str) -> None:
    """It would be set for whoever gets the pooler's session next."""
    store = connect(f"{pooled_url}?schema=shop")

    with pytest.raises(DatabaseUnavailableError, match="pooler"):
        await store.open()


async def test_commits_of_others_are_noticed_by_polling(pooled_url: str) -> None:
    listening, writing = connect(pooled_url), connect(pooled_url)
    await listening.open()
    await writing.open()
    changed = asyncio.Event()
    listening.watch(changed.set)

    await writing.perform(make_start("r"))

    await asyncio.wait_for(changed.wait(), 10)
    await listening.close()
    await writing.close()
