"""SqliteStore."""

from pathlib import Path

from durable.clock import Clock
from durable.store.connect import connect
from durable.store.store import Store
from durable.testing.store_contract import StoreContract


class TestSqliteFile(StoreContract):
    def make_store(self, clock: Clock, tmp_path: Path) -> Store:
        return connect(f"sqlite:///{tmp_path}/test.db", clock=clock)


class TestSqliteInMemory(StoreContract):
    shares_database = False

    def make_store(self, clock: Clock, tmp_path: Path) -> Store:
        return connect("sqlite://", clock=clock)
