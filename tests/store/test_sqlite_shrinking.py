"""A file gives back what was deleted: by itself, or after a vacuum."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from durable.store.connect import connect
from durable.store.records import Deleted, DeleteRuns, RunStatus
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.store import Store
from durable.testing.contract.rows import START, make_rows, make_start

RUNS = 400
LONG = f'"{"x" * 8_000}"'


async def fill(store: Store) -> tuple[str, ...]:
    run_ids = tuple(f"r{number}" for number in range(RUNS))
    await asyncio.gather(
        *[
            store.perform(
                make_start(
                    run_id,
                    rows=make_rows(run_id, 1, 4, LONG),
                    status=RunStatus.COMPLETED,
                    closed_at=START,
                )
            )
            for run_id in run_ids
        ]
    )
    return run_ids


async def delete(store: Store, run_ids: tuple[str, ...]) -> None:
    deleted: Deleted = await store.perform(DeleteRuns(run_ids=run_ids))
    assert len(deleted.run_ids) == RUNS


def free_pages(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (count,) = connection.execute("PRAGMA freelist_count").fetchone()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return int(count)


async def test_new_file_shrinks_by_itself_while_it_is_used(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    store = connect(f"sqlite:///{path}")
    await store.open()
    run_ids = await fill(store)
    await delete(store, run_ids)
    async with asyncio.timeout(30):
        while True:
            if free_pages(path) <= 256:
                break
            await asyncio.sleep(0.02)
    await store.close()
    assert path.stat().st_size < 2_000_000 < RUNS * 4 * len(LONG)


async def test_old_file_keeps_its_size_until_it_is_vacuumed(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")  # as earlier releases did
    store = connect(f"sqlite:///{path}")
    await store.open()
    await delete(store, await fill(store))
    await store.close()
    assert free_pages(path) > 1_000

    before, after = SqliteDatabase(path).vacuum()

    assert before > 10_000_000 > 1_000_000 > after == path.stat().st_size
    store = connect(f"sqlite:///{path}")
    await store.open()
    await delete(store, await fill(store))
    async with asyncio.timeout(30):
        while True:
            if free_pages(path) <= 256:
                break
            await asyncio.sleep(0.02)
    await store.close()
