"""A worker that loses its lease joins again, however often and whatever comes late."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, Signal, activity, workflow
from durable.errors import DatabaseUnavailableError, LeaseLostError
from durable.store.connect import connect
from durable.store.queries import ListWorkers, ReadHistory
from durable.store.records import ReapWorkers, WorkerRecord
from durable.store.store import Store
from durable.worker.lookout import Lookout

GO = Signal("lost_lease.go", int)


@activity(name="lost_lease.hold")
async def hold() -> None:
    await asyncio.Event().wait()


@workflow(name="lost_lease.adding")
async def adding(count: int) -> int:
    """Add; it is owned for as long as it waits, since an activity is under way."""
    holding = asyncio.create_task(hold())
    total = 0
    for _ in range(count):
        total += await GO.receive()
    holding.cancel()
    return total


class Thief:
    """Takes an engine's lease away, as another process does that presumes it dead."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self.worker: Any = engine._worker
        self.store: Any = engine._store
        self._other = store

    async def steal(self) -> None:
        victim = self.worker.worker_id  # it has another one as soon as it hears of it
        stolen = ReapWorkers(presumed_dead=(victim,))
        assert await self._other.perform(stolen) == [victim]

    async def holds_lease(self) -> bool:
        workers = await self._other.read(ListWorkers())
        return self.worker.worker_id in [worker.worker_id for worker in workers]

    async def until_lease(self) -> None:
        async with asyncio.timeout(20):
            while not await self.holds_lease():  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.001)


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return f"sqlite:///{tmp_path / 'runs.db'}"


async def positions(store: Store, run_id: str) -> list[int]:
    return [row[1] for row in await store.read(ReadHistory(run_id))]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.001)


async def test_an_outcome_of_an_earlier_lease_says_nothing_about_this_one(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = connect(url)
    async with Engine(url, drain_timeout=0) as engine:
        await other.open()
        thief = Thief(engine, other)
        run = await engine.start(adding(2), id="victim")
        late: list[Callable[[], None]] = []
        submit = thief.store.submit

        def hold_back(operation: Any, done: Any) -> None:
            def receive(result: Any, error: BaseException | None) -> None:
                if isinstance(error, LeaseLostError):
                    late.append(lambda: done(result, error))
                else:
                    done(result, error)

            submit(operation, receive)

        monkeypatch.setattr(thief.store, "submit", hold_back)
        old = thief.worker.worker_id
        await thief.steal()
        sending = asyncio.ensure_future(run.signal(GO(1)))
        await until(lambda: bool(late) and thief.worker.worker_id != old)
        await thief.until_lease()
        joined = thief.worker.worker_id
        for deliver in late:
            deliver()
        await asyncio.gather(sending, return_exceptions=True)

        again = await engine.start(adding(0), id="later")

        assert await again.result() == 0
        assert thief.worker.worker_id == joined
        assert await thief.holds_lease()
        await other.close()


async def test_a_lease_lost_while_joining_again_leaves_no_hole(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = connect(url)
    async with Engine(url) as engine:
        await other.open()
        thief = Thief(engine, other)
        started: list[Any] = []
        register = thief.store.register_worker

        async def register_and_lose(worker: WorkerRecord, *heard: Any) -> WorkerRecord:
            registered: WorkerRecord = await register(worker, *heard)
            if not started:
                # Under the new lease, before the worker has gone on with joining.
                started.append(await engine.start(adding(2), id="victim"))
                await thief.steal()
                sending.append(asyncio.ensure_future(started[0].signal(GO(1))))
                for _ in range(20):
                    await asyncio.sleep(0.001)  # its turn is refused meanwhile
            return registered

        sending: list[asyncio.Future[None]] = []
        monkeypatch.setattr(thief.store, "register_worker", register_and_lose)
        await thief.steal()
        with pytest.raises(LeaseLostError):
            await engine.start(adding(1))
        await until(lambda: bool(sending))
        (run,) = started
        await thief.until_lease()

        async with asyncio.timeout(20):
            await sending[0]
            await run.signal(GO(2))
            assert await run.result() == 3

        found = await positions(other, run.run_id)
        assert found == list(range(1, len(found) + 1))
        await other.close()


async def test_a_worker_that_cannot_join_again_tries_until_it_can(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable.worker.rejoining._RETRY_SECONDS", 0.001)
    other = connect(url)
    async with Engine(url) as engine:
        await other.open()
        thief = Thief(engine, other)
        run = await engine.start(adding(1), id="victim")
        register = thief.store.register_worker
        tries: list[str] = []

        async def fail_twice(worker: WorkerRecord, *heard: Any) -> Any:
            tries.append(worker.worker_id)
            if len(tries) < 3:
                raise DatabaseUnavailableError("The disk is on holiday.")
            return await register(worker, *heard)

        monkeypatch.setattr(thief.store, "register_worker", fail_twice)
        await thief.steal()
        with pytest.raises(LeaseLostError):
            await engine.start(adding(1))
        await thief.until_lease()

        await run.signal(GO(7))

        assert await run.result() == 7
        assert len(set(tries)) == 3
        await other.close()


async def test_a_lease_that_is_lost_while_an_engine_opens_is_got_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a process that was paused in the middle of that."""
    other = connect(url)
    await other.open()
    engine = Engine(url)
    thief = Thief(engine, other)
    reap = Lookout._reap

    async def pause(lookout: Lookout) -> None:
        monkeypatch.undo()
        thief.worker = engine._worker
        await thief.steal()
        await reap(lookout)

    monkeypatch.setattr(Lookout, "_reap", pause)
    async with engine:
        await thief.until_lease()
        run = await engine.start(adding(1), id="w")
        await run.signal(GO(1))
        assert await run.result() == 1
    await other.close()
