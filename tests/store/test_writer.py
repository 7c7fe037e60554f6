"""What the writer thread does by itself: leases, foreign commits, its own end."""

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from durable import limits
from durable.store.connect import connect
from durable.store.memory import memory
from durable.store.queries import ListWorkers, LoadRuns, ReadMessages
from durable.store.records import ReapWorkers, WorkerReport
from durable.store.store import Store
from durable.store.threads import groups
from durable.testing.contract.rows import (
    START,
    Gathering,
    SettableClock,
    make_message,
    make_start,
    make_worker,
    perform_all,
)


@pytest.fixture
def quick_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "RENEWAL_SECONDS", 0.01)
    monkeypatch.setattr(memory, "RENEWAL_SECONDS", 0.01)


def writer_threads(folder: Path) -> list[threading.Thread]:
    """Return the threads that write in a folder; the name tells which."""
    return [thread for thread in threading.enumerate() if str(folder) in thread.name]


def read_lease(path: Path) -> int:
    connection = sqlite3.connect(path)
    ((expires_at,),) = connection.execute(
        "SELECT lease_expires_at FROM durable_workers"
    )
    connection.close()
    assert isinstance(expires_at, int)
    return expires_at


@pytest.mark.usefixtures("quick_renewal")
async def test_lease_is_renewed_while_the_event_loop_is_blocked(tmp_path: Path) -> None:
    clock = SettableClock()
    store = connect(f"sqlite:///{tmp_path}/x.db", clock=clock)
    await store.open()
    registered = await store.register_worker(make_worker("w"), lambda: None)

    clock.advance(100)
    # Nothing here gives the event loop a chance.
    while read_lease(tmp_path / "x.db") == registered.lease_expires_at:
        pass

    assert read_lease(tmp_path / "x.db") == registered.lease_expires_at + 100_000_000
    await store.close()


@pytest.mark.usefixtures("quick_renewal")
async def test_lease_in_memory_is_renewed_by_the_loop() -> None:
    clock = SettableClock()
    store = connect("memory://", clock=clock)
    await store.open()
    registered = await store.register_worker(make_worker("w"), lambda: None)

    clock.advance(100)
    while (await store.read(ListWorkers()))[0] == registered:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.005)

    (worker,) = await store.read(ListWorkers())
    assert worker.lease_expires_at == registered.lease_expires_at + 100_000_000
    await store.close()


@pytest.mark.usefixtures("quick_renewal")
async def test_renewal_writes_what_the_worker_tells_of_itself(
    shared_url: str,
) -> None:
    store = connect(shared_url)
    await store.open()
    told: list[str] = []
    worker = make_worker("w", places="at first")
    registered = await store.register_worker(
        worker, lambda: None, lambda: told[-1] if told else "later"
    )

    async def read() -> str | None:
        return (await store.read(ListWorkers()))[0].places

    async with asyncio.timeout(20):
        while await read() != "later":  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)
        told.append("later still")
        while await read() != "later still":  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)
    assert registered.places == "at first"
    await store.close()


@pytest.mark.usefixtures("quick_renewal")
async def test_what_the_worker_told_stays_if_it_tells_nothing(tmp_path: Path) -> None:
    clock = SettableClock()
    store = connect(f"sqlite:///{tmp_path}/x.db", clock=clock)
    await store.open()
    told = make_worker("w", places='{"queue": 3}')
    registered = await store.register_worker(told, lambda: None)

    clock.advance(1)
    async with asyncio.timeout(20):
        while (found := await store.read(ListWorkers())) == [registered]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)

    assert found[0].places == '{"queue": 3}'
    await store.close()


@pytest.mark.parametrize(
    ("places", "report"),
    [
        ('{"default": 7}', WorkerReport(queues={"default": 7})),
        ('{"queues": 7}', WorkerReport(queues={"queues": 7})),
        ('{"queues": {"q": 7}, "runs": 2}', WorkerReport(queues={"q": 7}, runs=2)),
        ('{"queues": {"q": 7}, "news": 2}', WorkerReport(queues={"q": 7})),
        ("[7]", None),
        ("no JSON", None),
        (None, None),
    ],
)
def test_report_of_each_release_is_read(
    places: str | None, report: WorkerReport | None
) -> None:
    assert make_worker("w", places=places).report == report


@pytest.mark.usefixtures("quick_renewal")
@pytest.mark.parametrize("url", ["memory://{path}", "sqlite:///{path}/x.db"])
async def test_idle_worker_learns_that_its_lease_is_lost(
    tmp_path: Path, url: str
) -> None:
    lost = asyncio.Event()
    one, other = (connect(url.format(path=tmp_path)) for _ in range(2))
    await one.open()
    await other.open()
    await one.register_worker(make_worker("w"), lost.set)

    await other.perform(ReapWorkers(presumed_dead=("w",)))

    await lost.wait()
    await one.close()
    await other.close()


async def test_watcher_hears_of_another_process(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/x.db")
    await store.open()
    changed = asyncio.Event()
    store.watch(changed.set)
    await perform_all(store, make_start("r1"))

    other = sqlite3.connect(tmp_path / "x.db")
    other.execute("UPDATE durable_runs SET version = '2'")
    other.commit()
    other.close()

    await changed.wait()
    await store.close()


async def test_thread_ends_with_the_store(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/x.db")
    await store.open()
    (thread,) = writer_threads(tmp_path)

    await store.close()

    thread.join(5)
    assert not thread.is_alive()


async def test_thread_ends_if_opening_is_cancelled(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/x.db")
    task = asyncio.ensure_future(store.open())
    await asyncio.sleep(0)
    (thread,) = writer_threads(tmp_path)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    thread.join(5)
    assert not thread.is_alive()


async def test_thread_ends_if_opening_fails(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}")
    with pytest.raises(Exception, match="is a folder"):
        await store.open()

    for thread in writer_threads(tmp_path):
        thread.join(5)
    assert writer_threads(tmp_path) == []
    await store.close()


@pytest.mark.usefixtures("quick_renewal")
def test_thread_ends_with_its_event_loop(tmp_path: Path) -> None:
    async def forget_to_close() -> None:
        store = connect(f"sqlite:///{tmp_path}/x.db")
        await store.open()
        await store.register_worker(make_worker("w"), lambda: None)

    asyncio.run(forget_to_close())

    for thread in writer_threads(tmp_path):
        thread.join(5)
    assert writer_threads(tmp_path) == []


async def test_observer_hears_of_each_commit(tmp_path: Path) -> None:
    heard: list[Any] = []

    class Hearing:
        def committed(self, **facts: int) -> None:
            heard.append(facts)
            raise ArithmeticError

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    stores: list[Store] = [
        connect(url, observer=Hearing(), clock=SettableClock(START))  # type: ignore[arg-type]  # only what a store calls
        for url in ("memory://", f"sqlite:///{tmp_path}/x.db")
    ]
    for store in stores:
        heard.clear()
        await store.open()
        gathering = Gathering()
        for number in range(9):
            store.submit(make_start(f"r{number}"), gathering.receive)
        await store.close()
        assert sum(facts["operations"] for facts in heard) == 9
        assert sum(facts["rows"] for facts in heard) == 18
        assert all(facts["duration"] >= 0 for facts in heard)


async def test_no_commit_takes_more_operations_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    class Counting:
        def committed(self, *, operations: int, **_: int) -> None:
            sizes.append(operations)

    monkeypatch.setattr(limits, "COMMIT_OPERATIONS_MAX", 7)
    store = connect(f"sqlite:///{tmp_path}/x.db", observer=Counting())  # type: ignore[arg-type]  # only what a store calls
    await store.open()

    results = await perform_all(store, *(make_start(f"r{n}") for n in range(50)))
    await store.close()

    assert [result.created for result in results] == [True] * 50
    assert (max(sizes), sum(sizes)) == (7, 50)


async def test_start_whose_caller_has_gone_is_not_done_later(tmp_path: Path) -> None:
    """It was waiting for somebody who writes for long."""
    store = connect(f"sqlite:///{tmp_path}/x.db")
    await store.open()
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    tried = asyncio.ensure_future(store.perform(make_start("stays")))
    gone = asyncio.ensure_future(store.perform(make_start("goes")))
    left = asyncio.ensure_future(store.perform(make_message("stays")))
    await asyncio.sleep(0)

    gone.cancel()
    left.cancel()
    await asyncio.wait([gone, left])
    other.execute("ROLLBACK")

    assert (await tried).created
    assert (await store.perform(make_start("later"))).created
    found = await store.read(LoadRuns(["stays", "goes", "later"]))
    assert [one.record.run_id for one in found] == ["stays", "later"]
    assert await store.read(ReadMessages("stays")) == []
    await store.close()
    other.close()
