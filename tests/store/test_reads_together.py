"""Queries that are asked while others are on their way go together in the next trip."""

import asyncio
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from durable.errors import CorruptHistoryError
from durable.store.connect import connect
from durable.store.queries import (
    FindRun,
    LoadRuns,
    Query,
    ReadAttempts,
    ReadHistory,
    ReadNews,
)
from durable.store.sql import fetching, reads
from durable.store.store import Store
from durable.testing.contract.rows import (
    NAMESPACE,
    make_attempt,
    make_closing,
    make_commit,
    make_start,
    make_worker,
)


class Trips:
    """Holds the reader at its first question, and counts what it does after that."""

    def __init__(self) -> None:
        self.asked: list[Counter[type[Query[Any]]]] = []
        self.statements = 0
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def note(self, answer: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def noted(session: Any, asked: list[reads.Question]) -> list[Any]:
            if type(asked[0].query) is LoadRuns:
                self.entered.set()
                assert self.let_go.wait(30)
                self.statements = 0
            else:
                self.asked.append(Counter(type(one.query) for one in asked))
            return answer(session, asked)

        return noted

    def count(self, fetch: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def counted(*args: Any, **values: Any) -> list[Any]:
            self.statements += 1
            return fetch(*args, **values)

        return counted

    async def ask(self, store: Store, queries: list[Any]) -> list[Any]:
        """Ask while another read is on its way."""
        first = asyncio.create_task(store.read(LoadRuns([])))
        while not self.entered.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0)
        rest = [asyncio.create_task(store.read(query)) for query in queries]
        await asyncio.sleep(0)
        self.let_go.set()
        await first
        return await asyncio.gather(*rest, return_exceptions=True)


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Trips:
    trips = Trips()
    monkeypatch.setattr(reads, "answer", trips.note(reads.answer))
    monkeypatch.setattr(reads, "fetch", trips.count(fetching.fetch))
    return trips


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = connect(f"sqlite:///{tmp_path}/x.db")
    await store.open()
    await store.register_worker(make_worker("w"), lambda: None)
    yield store
    await store.close()


async def test_many_callers_take_the_statements_of_one(
    store: Store, trips: Trips
) -> None:
    names = [f"r{number}" for number in range(300)]
    for name in names:
        store.submit(make_start(name, owner="w"), lambda *_: None)
    for name in names[::2]:
        store.submit(make_closing(name, 3, 3), lambda *_: None)
    await store.perform(make_commit("r1", 3, 3))  # the last of them

    found = await trips.ask(
        store,
        [
            *(FindRun(NAMESPACE, f"wf-{name}") for name in names),
            *(FindRun(NAMESPACE, f"wf-{name}", name) for name in names),
            *(ReadNews([name]) for name in names),
        ],
    )

    assert [run.run_id for run in found[:600]] == names * 2
    assert [news.run_id for (news,) in found[600:]] == names
    assert trips.asked == [Counter({FindRun: 600}), Counter({ReadNews: 300})]
    assert trips.statements <= 6


async def test_error_of_one_is_not_the_error_of_others(
    store: Store, trips: Trips, tmp_path: Path
) -> None:
    for name in ("r1", "r2", "r3"):
        await store.perform(make_start(name, owner="w"))
        attempts = (make_attempt(name, 1),)
        await store.perform(make_commit(name, 3, 3, attempts=attempts))
    other = sqlite3.connect(tmp_path / "x.db")
    other.execute("UPDATE durable_attempts SET state = 'paused' WHERE run_id = 'r2'")
    other.commit()
    other.close()

    one, two, three, rows = await trips.ask(
        store,
        [*(ReadAttempts(name) for name in ("r1", "r2", "r3")), ReadHistory("r2")],
    )

    assert [attempt.run_id for attempt in (*one, *three)] == ["r1", "r3"]
    assert isinstance(two, CorruptHistoryError)
    assert len(rows) == 3
    assert trips.asked[0] == Counter({ReadAttempts: 3})


async def test_caller_that_gave_up_harms_no_other(store: Store, trips: Trips) -> None:
    await store.perform(make_start("r1", owner="w"))

    first = asyncio.create_task(store.read(LoadRuns([])))
    while not trips.entered.is_set():  # noqa: ASYNC110 - another thread sets it
        await asyncio.sleep(0)
    gone = asyncio.create_task(store.read(FindRun(NAMESPACE, "wf-r1")))
    await asyncio.sleep(0)
    gone.cancel()
    rest = asyncio.create_task(store.read(FindRun(NAMESPACE, "wf-r1")))
    await asyncio.sleep(0)
    trips.let_go.set()

    found = await rest
    assert found is not None
    assert found.run_id == "r1"
    assert await first == []


async def test_what_was_asked_before_the_end_is_answered(
    store: Store, trips: Trips
) -> None:
    await store.perform(make_start("r1", owner="w"))
    first = asyncio.create_task(store.read(LoadRuns([])))
    while not trips.entered.is_set():  # noqa: ASYNC110 - another thread sets it
        await asyncio.sleep(0)
    rest = [asyncio.create_task(store.read(ReadNews(["r1"]))) for _ in range(3)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    trips.let_go.set()
    await closing

    assert await first == []
    for (news,) in await asyncio.gather(*rest):
        assert news.run_id == "r1"


# --- histories ------------------------------------------------------------------------


async def test_whole_histories_come_as_one_row_each(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = [make_start(f"r{number}", events=9) for number in range(20)]
    for start in starts:
        await store.perform(start)
    fetched = 0

    def fetch(*args: Any, **values: Any) -> list[Any]:
        nonlocal fetched
        rows = reads_fetch(*args, **values)
        fetched += len(rows)
        return rows

    reads_fetch = fetching.fetch
    monkeypatch.setattr(reads, "fetch", fetch)
    loaded = await store.read(LoadRuns([start.record.run_id for start in starts]))

    assert [run.rows for run in loaded] == [start.rows for start in starts]
    assert fetched == 40  # one of each run, and one of its history


@pytest.mark.parametrize(
    "damage",
    [
        "flags = 7 WHERE event_id = 3",
        "flags = 'many' WHERE event_id = 3",
        "time = time - 10 WHERE event_id = 4",
        "time = 'noon' WHERE event_id = 4",
        "task_number = 1.5 WHERE event_id = 4",
        "task_number = '1,2' WHERE event_id = 4",
        "event_id = 40 WHERE event_id = 4",
        "event_id = 2.5 WHERE event_id = 2",
        "event_id = 'four' WHERE event_id = 4",
        "type = 'A,B' WHERE event_id = 4",
        "data = '{}' || replace(hex(zeroblob(4)), '00', char(30, 30)) || '{}'"
        " WHERE event_id = 4",
        "data = x'ff00ff' WHERE event_id = 4",
        "data = CAST(x'ff00ff' AS TEXT) WHERE event_id = 4",
    ],
)
async def test_a_history_that_is_out_of_order_is_read_row_by_row(
    store: Store, tmp_path: Path, damage: str
) -> None:
    sound = make_start("r2", events=5)
    await store.perform(make_start("r1", events=5))
    await store.perform(sound)
    with sqlite3.connect(tmp_path / "x.db") as database:
        database.execute(f"UPDATE durable_history SET {damage} AND run_id = 'r1'")  # noqa: S608 - of this file
        database.text_factory = bytes
        kept = database.execute(
            "SELECT event_id, data FROM durable_history WHERE run_id = 'r1'"
            " ORDER BY event_id"
        ).fetchall()
    database.close()

    damaged, other = await store.read(LoadRuns(["r1", "r2"]))

    as_bytes = [
        tuple(v.encode() if type(v) is str else v for v in (row[1], row[5]))
        for row in damaged.rows
    ]
    assert as_bytes == kept
    assert other.rows == sound.rows
