"""Whoever locks a run holds up that run, and none of the others of its worker."""

from __future__ import annotations

import asyncio

import pytest

from durable.errors import DatabaseUnavailableError
from durable.store.connect import connect
from durable.store.queries import ListWorkers, LoadRuns
from durable.store.records import ReapWorkers, RunStatus
from durable.store.store import Store
from durable.store.threads import held_up
from durable.testing.contract.rows import (
    CLAIM,
    make_closing,
    make_commit,
    make_message,
    make_start,
    make_worker,
)
from tests.store.stage import ignore, locking

pytestmark = [pytest.mark.slow]

RUNS = [f"r{number}" for number in range(20)]
LOCKED = "r7"
# Less than what a group waited for when it was not divided.
SOON_SECONDS = 8
LOCK = "UPDATE durable_runs SET version = version WHERE run_id = '{}'"


@pytest.fixture(params=["postgres_url", "mariadb_url"])
def url(request: pytest.FixtureRequest) -> str:
    """A database of its own on each server."""
    found: str = request.getfixturevalue(request.param)
    return found


async def open_worker(url: str, *, runs: list[str] = RUNS) -> Store:
    store = connect(url)
    await store.open()
    await store.register_worker(make_worker("w"), ignore)
    await asyncio.gather(
        *(store.perform(make_start(run_id, owner="w")) for run_id in runs)
    )
    return store


async def go_on(store: Store, run_id: str, last: int = 8) -> None:
    for event_id in range(3, last + 1):
        await store.perform(make_commit(run_id, event_id, event_id))


async def test_others_go_on_while_a_stranger_locks_a_run(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = await open_worker(url)
    with locking(url, LOCK.format(LOCKED)) as unlock:
        going = {run_id: asyncio.create_task(go_on(store, run_id)) for run_id in RUNS}
        held = going.pop(LOCKED)
        async with asyncio.timeout(SOON_SECONDS):
            await asyncio.gather(*going.values())
            # Of what only workers do, nothing waits either.
            assert await store.perform(CLAIM) == {}
            assert await store.perform(ReapWorkers()) == []
        assert not held.done()
        unlock()
        await held

    assert store.holds_lease()
    assert caplog.records == []
    await store.close()


async def test_what_touches_a_locked_run_keeps_its_order(url: str) -> None:
    store = await open_worker(url)
    ended: list[int] = []

    async def commit(number: int) -> None:
        await store.perform(make_commit(LOCKED, number, number))
        ended.append(number)

    with locking(url, LOCK.format(LOCKED)) as unlock:
        tasks = [asyncio.create_task(commit(3))]
        await go_on(store, "r1")
        tasks += [asyncio.create_task(commit(number)) for number in range(4, 40)]
        # It meets the same row by another name.
        message = asyncio.create_task(store.perform(make_message(LOCKED)))
        await go_on(store, "r2")
        assert ended == []
        unlock()
        await asyncio.gather(*tasks, message)

    assert ended == list(range(3, 40))
    await store.close()


async def test_all_go_on_after_a_stranger_has_locked_everything(url: str) -> None:
    runs = [f"s{number}" for number in range(200)]
    store = await open_worker(url, runs=runs)
    every = "UPDATE durable_runs SET version = version"

    with locking(url, every) as unlock:
        going = [asyncio.create_task(go_on(store, run_id, 4)) for run_id in runs]
        done, _ = await asyncio.wait(going, timeout=3)
        assert done == set()
        unlock()
        async with asyncio.timeout(SOON_SECONDS):
            await asyncio.gather(*going)

    assert store.holds_lease()
    await store.close()


async def test_who_waits_too_long_is_told_and_may_try_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_up, "_BUSY_SECONDS", 2.0)
    store = await open_worker(url)

    with locking(url, LOCK.format(LOCKED)):
        answers = await asyncio.gather(
            *(go_on(store, run_id) for run_id in RUNS), return_exceptions=True
        )
    told = answers.pop(RUNS.index(LOCKED))

    assert isinstance(told, DatabaseUnavailableError)
    assert "was kept busy by others for too long" in str(told)
    assert set(answers) == {None}
    await go_on(store, LOCKED)
    await store.close()


async def test_worker_ends_after_what_was_held_up(url: str) -> None:
    store = await open_worker(url)

    with locking(url, LOCK.format(LOCKED)) as unlock:
        last = asyncio.create_task(store.perform(make_closing(LOCKED)))
        await go_on(store, "r1")
        release = asyncio.create_task(store.release_worker())
        closing = asyncio.create_task(store.close())
        done, _ = await asyncio.wait([last, release, closing], timeout=0.5)
        assert done == set()
        unlock()
        await asyncio.gather(last, release, closing)

    watcher = connect(url)
    await watcher.open()
    (loaded,) = await watcher.read(LoadRuns([LOCKED]))
    assert loaded.record.status is RunStatus.COMPLETED
    assert await watcher.read(ListWorkers()) == []
    await watcher.close()
