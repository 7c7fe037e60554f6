"""Queues whose runs are limited: who begins, who waits, and what becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ApplicationError,
    Engine,
    Handle,
    IdConflictPolicy,
    QueueNotFoundError,
    Run,
    Signal,
    SyncEngine,
    WorkflowAlreadyStartedError,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowTimedOutError,
    continue_as_new,
    query,
    run,
    workflow,
)
from durable.errors import InvalidOptionError, QueryFailedError
from durable.store.queries import FindRunTurn
from durable.store.queues import RunTurn
from durable.worker.lookout import Lookout

BEGAN: list[object] = []
BROKEN: set[str] = set()
go_on = Signal("turns.go", int)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    BEGAN.clear()
    BROKEN.clear()


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/turns.db"


@workflow(name="turns.held")
async def held(n: object) -> int:
    BEGAN.append(n)
    return await go_on.receive()


@workflow(name="turns.flaky")
async def flaky(n: int) -> int:
    if "turns.flaky" in BROKEN:
        raise ApplicationError("it is")
    BEGAN.append(n)
    return await go_on.receive()


@workflow(name="turns.twice")
async def twice(n: int) -> int:
    if n:
        await continue_as_new(twice(0))
    return await go_on.receive()


@workflow(name="turns.parent")
async def parent() -> int:
    return await held.options(id="child")("child")


@workflow(name="turns.box")
class Box:
    @run
    async def whole(self, n: int) -> int:
        self.n = n
        return await go_on.receive()

    @query
    def waits_for(self) -> int:
        return self.n


async def until(condition: Callable[[], Awaitable[Any] | Any]) -> None:
    async with asyncio.timeout(20):
        while True:
            found = condition()
            if await found if isinstance(found, Awaitable) else found:
                return
            await asyncio.sleep(0.01)


async def turn_of(engine: Engine, handle: Handle[Any]) -> RunTurn | None:
    return await engine._open_client().store.read(FindRunTurn(handle.run_id))


async def waits(handle: Handle[Any]) -> bool:
    return (await handle.describe()).waits_for_turn


async def test_so_many_runs_are_under_way_and_the_next_begins_when_one_closes(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is found by looking every now and then is found late.
    monkeypatch.setattr(Lookout, "_schedule_patrol", lambda _: None)
    async with Engine(database) as engine:
        await engine.queues.runs.configure("default", concurrency=2)
        runs = [await engine.start(held(n), priority=1 + n % 2) for n in range(5)]
        await until(lambda: len(BEGAN) == 2)
        await until(lambda: waits(runs[4]))
        found = await engine.queues.runs.get("default")
        assert (found.running, found.waiting, found.of_runs) == (2, 3, True)
        assert await engine.queues.list() == []
        await runs[4].signal(go_on(9))  # kept until its turn
        first = [one for one in runs if not await waits(one)]
        await first[0].signal(go_on(1))
        assert await first[0].result(timeout=20) == 1
        await until(lambda: len(BEGAN) >= 3)
        assert await waits(runs[3]) or 3 in BEGAN
        await engine.queues.runs.configure("default", concurrency=9)
        assert await runs[4].result(timeout=20) == 9
        await until(lambda: len(BEGAN) == 5)
        for one in runs:
            if (await one.describe()).closed_at is None:
                await one.terminate()
        await until(lambda: is_free(engine))


async def is_free(engine: Engine) -> bool:
    found = await engine.queues.runs.get("default")
    return (found.running, found.waiting) == (0, 0)


async def test_priority_goes_before_turns_of_keys(database: str) -> None:
    async with Engine(database) as engine:
        limits = engine.queues.runs
        await limits.pause("default", note="maintenance")
        runs = [await engine.start(held(f"a{n}"), fairness_key="a") for n in range(3)]
        runs += [await engine.start(held("b"), fairness_key="b")]
        runs += [await engine.start(held("soon"), priority=1, fairness_key="a")]
        for one in runs:
            await one.signal(go_on(1))
            await until(partial(turn_of, engine, one))
        await limits.configure("default", concurrency=1, paused=False)
        for one in runs:
            assert await one.result(timeout=20) == 1
        assert BEGAN == ["soon", "b", "a0", "a1", "a2"] or BEGAN[:2] == ["soon", "a0"]
        assert BEGAN[0] == "soon"
        assert "b" in BEGAN[1:3]


async def test_run_that_waits_is_asked_cancelled_and_timed_out(database: str) -> None:
    async with Engine(database) as engine:
        await engine.queues.runs.pause("default")
        box = await engine.start(Box.whole(7), id="box")
        cancelled = await engine.start(held("cancelled"))
        late = await engine.start(held("late"), run_timeout="200ms")
        gone = await engine.start(held("gone"))
        await until(lambda: waits(box))
        assert await box.query(Box.waits_for()) == 7
        await cancelled.cancel()
        with pytest.raises(WorkflowCancelledError):
            await cancelled.result(timeout=20)
        with pytest.raises(WorkflowTimedOutError):
            await late.result(timeout=20)
        await gone.terminate()
        assert "late" not in BEGAN
        async with Engine(database, worker=False, definitions=[]) as stranger:
            found = await stranger.get("box")
            if (
                stranger._open_client().registry.find_workflow("turns.box", None)
                is None
            ):
                with pytest.raises(QueryFailedError, match="waits for its turn"):
                    await found.query("waits_for")
        await engine.queues.runs.delete("default")
        await box.signal(go_on(3))
        assert await box.result(timeout=20) == 3
        with pytest.raises(QueueNotFoundError):
            await engine.queues.runs.get("default")


async def test_slot_is_taken_over_by_the_next_run_and_lent_to_children(
    database: str,
) -> None:
    async with Engine(database) as engine:
        await engine.queues.runs.configure("default", concurrency=1)
        chain = await engine.start(twice(1))
        family = await engine.start(parent())
        await until(lambda: waits(family))
        await chain.signal(go_on(4))
        assert await chain.result(timeout=20) == 4
        await until(lambda: BEGAN == ["child"])
        await until(partial(engine.list, workflow_id="child"))
        await (await engine.get("child")).signal(go_on(5))
        assert await family.result(timeout=20) == 5


async def test_runs_that_are_retried_or_forked_wait_for_their_turn(
    database: str,
) -> None:
    async with Engine(database) as engine:
        BROKEN.add("turns.flaky")
        for n in range(4):
            with pytest.raises(WorkflowFailedError):
                await engine.execute(flaky(n), id=f"w{n}")
        BROKEN.clear()
        BEGAN.clear()
        await engine.queues.runs.configure("default", concurrency=2)

        failed = engine.batch(where=Run.status == "failed")
        done = await (await failed.retry(rate=None)).result(timeout=20)
        assert done.done == 4
        await until(lambda: len(BEGAN) == 2)
        fork = await (await engine.get("w0")).fork(id="fork", to="first_task")
        await fork.signal(go_on(7))  # nor does mail let it begin
        await until(lambda: is_held(engine, running=2, waiting=3))
        assert len(BEGAN) == 2

        # An open run that is reset has the slot of the one that it takes the place of.
        first = await engine.get(f"w{BEGAN[0]}")
        await first.reset(to="first_task")
        await until(lambda: len(BEGAN) == 3)
        assert await is_held(engine, running=2, waiting=3)

        runs = [await engine.get(f"w{n}") for n in range(4)]
        for n, one in enumerate(runs):
            await one.signal(go_on(n))
        assert [await one.result(timeout=20) for one in runs] == [0, 1, 2, 3]
        assert await fork.result(timeout=20) == 7


@pytest.mark.usefixtures("forgotten")
async def test_run_that_nobody_serves_is_found_and_its_end_frees_its_slot(
    database: str,
) -> None:
    """Users met a slot that a run of code that was gone held for ever, unseen."""

    @workflow(name="turns.old", version="1.0.0")
    async def old() -> None:
        BEGAN.append("old")
        await go_on.receive()

    async with Engine(database, definitions=[old]) as engine:
        await engine.queues.runs.configure("default", concurrency=1)
        await engine.start(old(), id="old")
        await until(lambda: BEGAN == ["old"])
    async with Engine(database, definitions=[held]) as engine:
        await engine.start(held(1), id="new")
        await until(lambda: is_held(engine, running=1, waiting=1))
        stranded = await engine.list(where=Run.version == "1.0.0", status="running")
        assert [one.workflow_id for one in stranded] == ["old"]
        await (await engine.get("old")).terminate("its code is gone")
        await until(lambda: BEGAN == ["old", 1])


async def is_held(engine: Engine, *, running: int, waiting: int) -> bool:
    found = await engine.queues.runs.get("default")
    return (found.running, found.waiting) == (running, waiting)


async def test_another_process_hears_of_a_slot(database: str) -> None:
    async with Engine(database, worker=False) as client:
        await client.queues.runs.configure("default", concurrency=1)
        runs = [await client.start(held(n)) for n in range(3)]
        async with Engine(database):
            for one in runs:
                await one.signal(go_on(1))
            for one in runs:
                assert await one.result(timeout=20) == 1
            await client.queues.runs.configure("default", rate="1/h")
            first, second = [await client.start(held(n)) for n in range(2)]
            await until(lambda: waits(second))
            await until(lambda: len(BEGAN) == 4)
            await first.terminate()
            await second.terminate()


async def test_debounced_start_begins_once_with_the_last_input(database: str) -> None:
    async with Engine(database) as engine:
        await engine.queues.runs.configure("default", concurrency=5)
        handles = [
            await engine.start(held(n), id="index", debounce="1h", debounce_max="2h")
            for n in range(4)
        ]
        assert len({one.run_id for one in handles}) == 1
        assert BEGAN == []
        last = await engine.start(held("last"), id="index", debounce="10ms")
        await last.signal(go_on(1))
        assert await handles[0].result(timeout=20) == 1
        assert BEGAN == ["last"]
        again = await engine.start(held("next"), id="index", debounce="10ms")
        assert again.run_id != last.run_id
        await until(lambda: BEGAN == ["last", "next"])
        with pytest.raises(WorkflowAlreadyStartedError):
            await engine.start(held("late"), id="index", debounce="10ms")
        newest = await engine.start(
            held("newest"),
            id="index",
            debounce="10ms",
            on_conflict=IdConflictPolicy.TERMINATE_EXISTING,
        )
        await newest.signal(go_on(2))
        assert await newest.result(timeout=20) == 2


async def test_run_is_put_off_for_debounce_max_at_most(database: str) -> None:
    async with Engine(database) as engine:
        began = time.monotonic()
        while not BEGAN:
            assert time.monotonic() - began < 20
            try:
                await engine.start(
                    held("x"), id="one", debounce="1h", debounce_max="200ms"
                )
            except WorkflowAlreadyStartedError:
                break
            await asyncio.sleep(0.02)
        await until(lambda: set(BEGAN) == {"x"})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"debounce": "1s"}, "without an id"),
        ({"debounce_max": "1s", "id": "a"}, "without debounce"),
        ({"debounce": "1s", "id": "a", "delay": "1s"}, "delay"),
        ({"debounce": "1s", "id": "a", "with_signal": go_on(1)}, "with_signal"),
        ({"debounce": "1s", "id": "a", "memo": {"a": 1}}, "memo"),
        ({"priority": 6}, "priority"),
        ({"fairness_weight": 0}, "fairness_weight"),
        ({"fairness_key": "k" * 65}, "fairness_key"),
    ],
)
async def test_wrong_option_is_refused(
    database: str, options: dict[str, Any], match: str
) -> None:
    async with Engine(database) as engine:
        with pytest.raises(InvalidOptionError, match=match):
            await engine.start(held(1), **options)
        assert await engine.list() == []


async def test_limit_of_one_worker_is_refused_for_runs(database: str) -> None:
    async with Engine(database) as engine:
        with pytest.raises(InvalidOptionError, match="worker_concurrency"):
            await engine.queues.runs.configure("default", worker_concurrency=1)


def test_code_that_is_not_async_limits_runs(database: str) -> None:
    with SyncEngine(database) as engine:
        engine.queues.runs.configure("default", concurrency=1)
        runs = [engine.start(held(n)) for n in range(2)]
        for one in runs:
            one.signal(go_on(1))
            assert one.result(timeout=20) == 1
        engine.queues.runs.delete("default")
        assert engine.queues.runs.list() == []
