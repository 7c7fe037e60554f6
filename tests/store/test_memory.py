"""MemoryStore keeps the contract, and shares databases by name."""

from pathlib import Path

from durable.clock import Clock
from durable.store.connect import connect
from durable.store.store import Store
from durable.testing.contract.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    def make_store(self, clock: Clock, tmp_path: Path) -> Store:
        return connect(f"memory://{tmp_path}", clock=clock)
