"""Closed runs go after their days, and nothing that an open run needs."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Attribute,
    Engine,
    QuerySyntaxError,
    RetentionRule,
    Run,
    Signal,
    StoreError,
    SyncEngine,
    workflow,
)
from durable.client.keeping import retention, sweeper
from durable.client.keeping.retention import Swept
from durable.errors import InvalidDurationError, InvalidOptionError
from durable.store.connect import connect
from durable.store.records import Deleted, DeleteRuns, RunStatus
from durable.store.store import Store
from durable.testing.contract.rows import START, SettableClock, make_start, wait_until

DAY = 86_400.0
amount = Attribute("amount", int)
go_on = Signal("go_on", bool)


@workflow(name="retention.ping")
async def ping(number: int) -> int:
    return number


@workflow(name="retention.fails")
async def fails() -> None:
    raise OSError("it does")


@workflow(name="retention.waits")
async def waits() -> bool:
    return await go_on.receive()


DEFINITIONS = [ping, fails, waits]


async def ids(engine: Engine) -> list[str]:
    return sorted(run.workflow_id for run in await engine.list())


async def test_runs_go_after_the_days_of_their_namespace(database: str) -> None:
    clock = SettableClock()
    store = connect(database, clock=clock)
    async with Engine(store, definitions=DEFINITIONS) as engine:
        await engine.execute(ping(1), id="old")
        clock.advance(2 * DAY)
        await engine.execute(ping(2), id="new")
        await engine.start(waits(), id="open")
        clock.advance(2 * DAY)

        assert await engine.delete_expired() == Swept()  # nobody has said so
        await engine.namespaces.create("default", retention_days=3)
        await engine.namespaces.create("other", retention_days=1)
        assert await engine.delete_expired(dry_run=True) == Swept(1)
        assert await ids(engine) == ["new", "old", "open"]

        assert await engine.delete_expired() == Swept(1)
        assert await ids(engine) == ["new", "open"]

        clock.advance(400 * DAY)
        assert await engine.delete_expired() == Swept(1)
        assert await ids(engine) == ["open"]


async def test_first_rule_that_fits_a_run_counts(database: str) -> None:
    clock = SettableClock()
    rules = [
        RetentionRule(keep=None, where=amount >= 100),
        RetentionRule(keep="1h", where="ExecutionStatus = 'Completed'"),
        RetentionRule(keep=timedelta(days=2), where=Run.type == "retention.fails"),
    ]
    store = connect(database, clock=clock)
    async with Engine(store, definitions=DEFINITIONS, retention=rules) as engine:
        await engine.namespaces.create("default", retention_days=10)
        for number in (1, 100):
            await engine.execute(
                ping(number), id=f"ping {number}", attributes={amount: number}
            )
        failing = await engine.start(fails(), id="fails")
        waiting = await engine.start(waits(), id="terminated")
        await waiting.terminate()
        with pytest.raises(Exception, match="it does"):
            await failing.result()
        left = []
        for days in (0.01, 0.1, 2, 10, 1_000):
            clock.at = START
            clock.advance(days * DAY)
            await engine.delete_expired()
            left.append(await ids(engine))

    assert left == [
        ["fails", "ping 1", "ping 100", "terminated"],
        ["fails", "ping 100", "terminated"],
        ["ping 100", "terminated"],
        ["ping 100"],
        ["ping 100"],
    ]


async def test_a_sweep_goes_page_by_page(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 3)
    monkeypatch.setattr(retention, "BESIDE_OTHERS", retention.Pace(1.0, 6, 0.0))
    rules = [
        RetentionRule(keep=None, where=amount == 2),
        RetentionRule(keep=0),
    ]
    async with Engine(database, definitions=DEFINITIONS, retention=rules) as engine:
        for number in range(10):
            await engine.execute(
                ping(number), id=f"{number}", attributes={amount: number % 3}
            )
        found = await retention.sweep(
            connect_of(engine), "default", rules, is_busy=lambda: True
        )
        assert found == Swept(7)
        assert await ids(engine) == ["2", "5", "8"]


SIZES = {f"r{n:03}" if n != 50 else "large": 3 if n != 50 else 300 for n in range(201)}
"""Of closed runs, oldest first: how many events each has."""


class Watched:
    """A store whose deletions take as long as they are told to; all are kept."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._store = store
        self.now, self.read = store.now, store.read
        self.seconds_per_event = 0.0
        self.steps: list[tuple[int, int]] = []
        """Runs and events of each step."""
        self.rests: list[float] = []
        self._passed = 0.0
        monkeypatch.setattr(retention, "_now", lambda: self._passed)
        took = retention.Steps.took

        def rest_at_once(*given: Any) -> float:
            self.rests.append(took(*given))
            return 0.0

        monkeypatch.setattr(retention.Steps, "took", rest_at_once)

    async def perform(self, operation: DeleteRuns) -> Deleted:
        deleted: Deleted = await self._store.perform(operation)
        events = sum(SIZES[run_id] for run_id in deleted.run_ids)
        self.steps.append((len(deleted.run_ids), events))
        self._passed += events * self.seconds_per_event
        return deleted


@pytest.fixture(params=["memory", "sqlite", "postgres_url", "mariadb_url"])
async def watched(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Watched]:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path / 'runs.db'}"}
    url = urls.get(request.param) or request.getfixturevalue(request.param)
    store = connect(url, clock=SettableClock())
    await store.open()
    starts = [
        make_start(run_id, events=events, status=RunStatus.COMPLETED, closed_at=at)
        for at, (run_id, events) in enumerate(SIZES.items(), 1)
    ]
    await asyncio.gather(*map(store.perform, starts))
    with monkeypatch.context() as patched:
        yield Watched(store, patched)
    await store.close()


async def sweep_all(watched: Watched, *, is_busy: bool) -> None:
    rules = [RetentionRule(keep=0)]
    swept = await retention.sweep(watched, "default", rules, is_busy=lambda: is_busy)  # type: ignore[arg-type]  # what a sweep needs of a store
    assert swept == Swept(201)


async def test_steps_are_bounded_by_events_however_large_runs_are(
    watched: Watched,
) -> None:
    """On a database that does it at once."""
    await sweep_all(watched, is_busy=True)

    most = retention.BESIDE_OTHERS.events_max
    assert (1, 300) in watched.steps, "the large one goes by itself"
    assert max(events for runs, events in watched.steps if runs > 1) <= most
    assert sum(events for _, events in watched.steps) == 900


async def test_steps_become_as_small_as_the_database_is_slow(watched: Watched) -> None:
    pace = retention.BESIDE_OTHERS
    watched.seconds_per_event = pace.seconds / 6

    await sweep_all(watched, is_busy=True)

    settled = [events for runs, events in watched.steps if runs > 1][3:]
    assert max(settled) <= 6
    taken = [events * watched.seconds_per_event for _, events in watched.steps]
    assert watched.rests == pytest.approx([pace.rest * seconds for seconds in taken])


async def test_alone_it_does_much_at_once_and_hardly_rests(watched: Watched) -> None:
    watched.seconds_per_event = 1e-6

    await sweep_all(watched, is_busy=False)

    assert len(watched.steps) < 6
    assert sum(watched.rests) == pytest.approx(retention.ALONE.rest * 900e-6)


async def test_others_that_write_make_it_slow(tmp_path: Path) -> None:
    """Whoever they are: another process, or another engine."""
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    async with (
        Engine(url, definitions=DEFINITIONS) as engine,
        Engine(url, worker=False) as other,
    ):
        assert not engine._is_busy()
        await other.start("retention.ping", 1, task_queue="nobody's")
        await wait_until(engine._is_busy)
        await wait_until(lambda: not engine._is_busy())


def connect_of(engine: Engine) -> Store:
    return engine._store


async def test_worker_deletes_by_itself_while_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sweeper, "FIRST_SECONDS", 0.02)
    monkeypatch.setattr(sweeper, "_SECONDS", 0.02)
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    rules = [RetentionRule(keep="100ms", where=Run.type == "retention.ping")]
    with caplog.at_level(logging.INFO, "durable.client"):
        async with (
            asyncio.timeout(20),
            Engine(url, definitions=DEFINITIONS, retention=rules) as engine,
        ):
            await engine.start(waits(), id="open")
            for number in range(30):
                await engine.execute(ping(number), id=f"{number}")
            while True:
                if await ids(engine) == ["open"]:
                    break
                await asyncio.sleep(0.02)
    assert "closed runs of namespace 'default' were deleted" in caplog.text


async def test_rule_that_means_nothing_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidDurationError, match="keep of a retention rule"):
        RetentionRule(keep="soon")
    with pytest.raises(InvalidOptionError, match="no condition"):
        RetentionRule(keep="1d", where=3)  # type: ignore[arg-type]  # the test
    with pytest.raises(InvalidOptionError, match="retention holds 3"):
        Engine("memory://", retention=3)  # type: ignore[arg-type]  # the test
    monkeypatch.setattr(sweeper, "FIRST_SECONDS", 0.0)
    rules = [RetentionRule(keep="1d", where="WorkflowType ~ 'x'")]
    async with Engine("memory://", retention=rules) as engine:
        with pytest.raises(QuerySyntaxError):
            await engine.delete_expired()
        async with asyncio.timeout(10):
            while True:
                if "are not deleted now" in caplog.text:
                    break
                await asyncio.sleep(0.01)


async def test_sweeps_that_fail_leave_nothing_and_the_next_one_does_it_all(
    tmp_path: Path,
) -> None:
    """Users met one more table for each failure, until the disk was full."""
    path = tmp_path / "runs.db"
    rules = [RetentionRule(keep=0)]
    refuse = (
        "CREATE TRIGGER no BEFORE DELETE ON durable_runs WHEN old.workflow_id = '4'"
        " BEGIN SELECT RAISE(ABORT, 'refused'); END"
    )

    def ask(statement: str) -> list[Any]:
        with closing(sqlite3.connect(path)) as database, database:
            return database.execute(statement).fetchall()

    def everything() -> dict[str, list[Any]]:
        return {
            "schema": ask("SELECT name FROM sqlite_schema"),
            "runs": ask("SELECT * FROM durable_runs"),
            "history": ask("SELECT * FROM durable_history"),
        }

    url = f"sqlite:///{path}"
    async with Engine(url, definitions=DEFINITIONS, retention=rules) as engine:
        for number in range(6):
            await engine.execute(ping(number), id=f"{number}")
        await asyncio.to_thread(ask, refuse)
        before = await asyncio.to_thread(everything)
        assert len(before["history"]) == 12
        for _ in range(20):
            with pytest.raises(StoreError, match="DeleteRuns cannot be stored"):
                await engine.delete_expired()
        assert await asyncio.to_thread(everything) == before

        await asyncio.to_thread(ask, "DROP TRIGGER no")
        assert await engine.delete_expired() == Swept(6)


async def test_lag_is_told_while_runs_go_or_cannot_and_is_none_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Users met a backlog of millions that nothing had told of."""
    monkeypatch.setattr(retention, "STEP", 2)
    clock = SettableClock()
    store = connect("memory://", clock=clock)
    rules = [
        RetentionRule(keep=None, where=amount == 0),
        RetentionRule(keep="2d"),
    ]
    async with Engine(store, definitions=DEFINITIONS, retention=rules) as engine:
        for number in range(6):
            await engine.execute(
                ping(number), id=f"{number}", attributes={amount: number}
            )
            clock.advance(DAY)
        clock.advance(DAY)  # the first stays; the second should be gone for four days

        lags: list[float] = []
        perform, worker = store.perform, engine._worker
        assert worker is not None
        assert engine._sweeper is not None

        async def look(operation: Any) -> Any:
            if not isinstance(operation, DeleteRuns):
                return await perform(operation)
            lags.append(worker._state().retention_lag / 1_000_000 / DAY)
            if len(lags) == 3:
                raise StoreError("no")
            return await perform(operation)

        monkeypatch.setattr(store, "perform", look)
        sweep_once = engine._sweeper._run
        await sweep_once()
        assert lags == [4, 3, 1]
        clock.advance(DAY)
        assert worker._state().retention_lag == 2 * DAY * 1_000_000
        await sweep_once()
        assert worker._state().retention_lag == 0
        assert await ids(engine) == ["0"]


def test_retention_works_without_an_event_loop(tmp_path: Path) -> None:
    rules = [RetentionRule(keep=0)]
    path = tmp_path / "runs.db"
    with SyncEngine(path, definitions=DEFINITIONS, retention=rules) as engine:
        engine.execute(ping(1), id="1")
        assert engine.delete_expired(dry_run=True).deleted == 1
        assert engine.delete_expired().deleted == 1
        assert engine.list() == []
