"""Signals, queries and updates from code without an event loop."""

from pathlib import Path

import pytest

from durable import (
    Signal,
    SyncEngine,
    UpdateRejectedError,
    query,
    run,
    set_state,
    signal,
    update,
    wait_condition,
    workflow,
)

go = Signal("sync_messages.go", bool)


@workflow(name="sync_messages.Counter")
class Counter:
    def __init__(self) -> None:
        self.number = 0

    @run
    async def count(self, until: int) -> int:
        await wait_condition(lambda: self.number >= until)
        return self.number

    @signal
    def add(self, number: int) -> None:
        self.number += number
        set_state({"number": self.number})

    @query
    def value(self) -> int:
        return self.number

    @update
    def double(self) -> int:
        self.number *= 2
        return self.number

    @double.validator
    def check_double(self) -> None:
        if self.number == 0:
            raise ValueError("nothing to double")


@workflow(name="sync_messages.gated")
async def gated() -> bool:
    return await go.receive()


def test_everything_a_handle_offers_works_without_a_loop(tmp_path: Path) -> None:
    with SyncEngine(f"sqlite:///{tmp_path / 'sync.db'}") as engine:
        counter = engine.start(Counter.count(10), id="counter")
        with pytest.raises(UpdateRejectedError, match="nothing to double"):
            counter.update(Counter.double())
        counter.signal(Counter.add(2))
        counter.signal("add", 1)
        assert counter.query(Counter.value()) == 3
        assert counter.state() == {"number": 3}
        assert counter.stack()[0].waits_for == "a condition"
        sent = counter.start_update(Counter.double(), update_id="twice")
        assert sent.result() == 6
        assert counter.get_update("twice").result(timeout=5) == 6
        assert counter.dead_letters() == []
        counter.signal(Counter.add(4))
        assert counter.result(timeout=5) == 10


def test_starts_with_messages(tmp_path: Path) -> None:
    with SyncEngine(f"sqlite:///{tmp_path / 'sync.db'}") as engine:
        assert engine.start(gated(), with_signal=go(True)).result(timeout=5) is True
        handle, sent = engine.update_with_start(
            Counter.double(), Counter.count(0), id="born"
        )
        with pytest.raises(UpdateRejectedError):
            sent.result(timeout=5)
        assert handle.result(timeout=5) == 0
