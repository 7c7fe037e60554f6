"""PostgreSQL keeps the contract, with a database of its own for each test."""

from pathlib import Path

import pytest

from durable.clock import Clock
from durable.store.connect import connect
from durable.store.store import Store
from durable.testing.contract.store_contract import StoreContract


@pytest.mark.sweep(24, of_class=True)
class TestPostgres(StoreContract):
    @pytest.fixture(autouse=True)
    def _database(self, postgres_url: str) -> None:
        self._url = postgres_url

    def make_store(self, clock: Clock, tmp_path: Path) -> Store:
        return connect(self._url, clock=clock)
