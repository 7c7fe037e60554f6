"""A worker that drains leaves what it can to others at once, and takes nothing more."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from durable import Engine, activity, sleep, workflow
from durable.store.connect import connect
from durable.store.queries import FindUnowned
from durable.store.records import ClaimRuns
from durable.store.store import Operation, Store
from tests.integration.test_cli_processes import Shop, shop, wait_for

__all__ = ["shop"]


def events_of(shop: Shop, workflow_id: str) -> list[dict[str, Any]]:
    lines = shop.ask("history", workflow_id, "--json").stdout.splitlines()
    return [json.loads(line) for line in lines]


def statuses(shop: Shop) -> list[str]:
    lines = shop.ask("workers", "--json").stdout.splitlines()
    return sorted(json.loads(line)["status"] for line in lines)


@pytest.mark.slow
def test_run_is_taken_over_within_a_second_though_the_drain_goes_on(
    shop: Shop,
) -> None:
    first = shop.worker("app.py", "--drain-timeout", "1h")
    for name in ("tea", "milk"):
        shop.ask("start", "passing", "--input", f'["{name}"]', "--id", name)
        wait_for(partial(shop.began, name), "the activity's begin")
    shop.worker()

    first.signal(signal.SIGTERM)
    first.wait_for_log("SIGTERM: draining")
    wait_for(lambda: statuses(shop) == ["draining", "running"], "that it says so")
    shop.open_gate("tea")

    assert json.loads(shop.ask("result", "tea", "--timeout", "10s").stdout) == "teaTEA"
    assert first.process.poll() is None
    by_type = {event["type"]: event for event in reversed(events_of(shop, "tea"))}
    done, taken = (
        datetime.fromisoformat(by_type[kind]["time"])
        for kind in ("ActivityTaskCompleted", "WorkflowExecutionCompleted")
    )
    assert (taken - done).total_seconds() < 1
    shop.open_gate("milk")
    assert first.end() == 0
    assert json.loads(shop.ask("result", "milk", "--timeout", "10s").stdout) == (
        "milkMILK"
    )
    assert [len(shop.began(name)) for name in ("tea", "milk")] == [1, 1]


@pytest.mark.slow
def test_worker_that_drains_takes_no_more_runs(shop: Shop) -> None:
    first = shop.worker("app.py", "--drain-timeout", "1h")
    shop.ask("start", "passing", "--input", '["milk"]', "--id", "milk")
    wait_for(lambda: shop.began("milk"), "the activity's begin")
    first.signal(signal.SIGTERM)
    first.wait_for_log("SIGTERM: draining")

    shop.ask("start", "passing", "--input", '["tea"]', "--id", "tea")
    shop.open_gate("tea")
    second = shop.worker()

    assert json.loads(shop.ask("result", "tea", "--timeout", "10s").stdout) == "teaTEA"
    (began,) = shop.began("tea")
    assert int(began.suffix[1:]) == second.process.pid
    assert first.process.poll() is None


# --- what it looks for ----------------------------------------------------------------


class WatchedStore:
    """A store whose claims are noted, and may be held up on their way."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.claims: list[dict[str, int]] = []
        self.way_is_free = asyncio.Event()
        self.way_is_free.set()
        self.is_held_up = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def perform(self, operation: Operation) -> Any:
        if not isinstance(operation, ClaimRuns):
            return await self._inner.perform(operation)
        if not self.way_is_free.is_set():
            self.is_held_up.set()
            await self.way_is_free.wait()
        claimed = await self._inner.perform(operation)
        self.claims.append(claimed)
        return claimed


gates: dict[str, asyncio.Event]


@activity(name="handover.gated")
async def gated() -> None:
    gates["begun"].set()
    await gates["open"].wait()


@workflow(name="handover.busy")
async def busy() -> None:
    await gated()


@workflow(name="handover.sleeping")
async def sleeping(seconds: float) -> str:
    await sleep(seconds)
    return "slept"


@pytest.fixture
def stores(tmp_path: Path) -> tuple[WatchedStore, Store]:
    global gates
    gates = {"begun": asyncio.Event(), "open": asyncio.Event()}
    url = f"sqlite:///{tmp_path}/runs.db"
    return WatchedStore(connect(url)), connect(url)


def engine_of(store: WatchedStore | Store) -> Engine:
    definitions = [busy, sleeping, gated]
    return Engine(cast("Store", store), definitions=definitions)


async def test_worker_that_drains_does_not_look_for_what_is_due(
    stores: tuple[WatchedStore, Store],
) -> None:
    watched, other = stores
    async with engine_of(watched) as engine, asyncio.timeout(20):
        await engine.start(busy())
        await engine.start(sleeping(0.1), id="sleeping")
        await gates["begun"].wait()
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        watched.claims.clear()
        while not await engine._store.read(  # noqa: ASYNC110 - there is no event
            FindUnowned("default", engine._store.now(), 1)
        ):
            await asyncio.sleep(0.01)
        assert engine._worker is not None
        await engine._worker._lookout._find_due()
        assert watched.claims == []

        async with engine_of(other) as successor:
            assert await (await successor.get("sleeping")).result() == "slept"

            assert watched.claims == []
            assert not closing.done()
            gates["open"].set()
            await closing


async def test_claim_that_was_on_its_way_is_given_back(
    stores: tuple[WatchedStore, Store],
) -> None:
    watched, other = stores
    async with engine_of(watched) as engine, asyncio.timeout(20):
        await engine.start(busy())
        await engine.start(sleeping(0.05), id="sleeping")
        await gates["begun"].wait()
        watched.way_is_free.clear()
        await watched.is_held_up.wait()
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        watched.way_is_free.set()
        while not (watched.claims and watched.claims[-1]):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.001)

        async with engine_of(other) as successor:
            assert await (await successor.get("sleeping")).result() == "slept"

            assert not closing.done()
            gates["open"].set()
            await closing
