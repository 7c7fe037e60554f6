"""Closed runs go into an archive before they are deleted, and come back from it."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ArchiveError,
    Engine,
    RetentionRule,
    Run,
    Signal,
    continue_as_new,
    start_child,
    workflow,
)
from durable.client.keeping import archiving, retention, sweeper
from durable.client.keeping.archive import line_of
from durable.client.keeping.retention import Swept
from durable.errors import InvalidOptionError
from durable.store.queries import LoadRuns, ReadAttempts, ReadHistory
from durable.store.records import DeleteRuns, RunRecord
from durable.store.store import Store
from durable.testing.contract.rows import wait_until

go_on = Signal("go_on", bool)


@workflow(name="retention_archives.ping")
async def ping(number: int) -> int:
    return number


@workflow(name="retention_archives.parent")
async def parent() -> None:
    await (await start_child(ping(7), id="child")).result()
    await go_on.receive()


@workflow(name="retention_archives.chain")
async def chain(left: int) -> bool:
    if left:
        continue_as_new(left - 1)
    return await go_on.receive()


DEFINITIONS = [ping, parent, chain]


async def everything(engine: Engine) -> dict[str, Any]:
    """All that is recorded of closed runs."""
    store, found = engine._store, {}
    runs = [run.run_id for run in await engine.list() if run.closed_at is not None]
    for run in await store.read(LoadRuns(runs)):
        run_id = run.record.run_id
        history = await store.read(ReadHistory(run_id))
        found[run_id] = (run.record, history, await store.read(ReadAttempts(run_id)))
    return found


async def ids(engine: Engine) -> list[str]:
    return sorted(run.workflow_id for run in await engine.list())


def open_engine(url: str, *rules: RetentionRule) -> Engine:
    return Engine(url, definitions=DEFINITIONS, retention=rules)


async def test_runs_that_went_come_back_from_the_archive(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "STEP", 4)
    monkeypatch.setattr(archiving, "PAGE", 3)
    folder = tmp_path / "old" / "runs"
    rules = [
        RetentionRule(keep=0, where=Run.id == "p0"),
        RetentionRule(keep=0, archive_to=folder),
    ]
    async with open_engine(database, *rules) as engine:
        for number in range(9):
            await engine.execute(ping(number), id=f"p{number}")
        before = await everything(engine)
        dry = await engine.delete_expired(dry_run=True)
        assert (dry, folder.exists()) == (Swept(9), False)
        assert await engine.delete_expired() == Swept(9)
        assert await ids(engine) == []
        assert await engine.delete_expired() == Swept()

    files = sorted(folder.iterdir())
    assert len(files) == 3  # a page each, and none for nothing
    assert all(path.name.startswith("default-2") for path in files)
    async with open_engine("memory://") as engine:
        imported = [(await engine.import_runs(path)).runs for path in files]
        back = await everything(engine)
        assert await (await engine.get("p3")).result() == 3
    assert sum(imported) == 8
    assert back == {
        run_id: run for run_id, run in before.items() if run[0].workflow_id != "p0"
    }


async def test_what_has_to_stay_is_in_no_file(database: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    async with open_engine(
        database, RetentionRule(keep=0, archive_to=folder)
    ) as engine:
        waiting = await engine.start(parent(), id="parent")
        await engine.start(chain(2), id="chain")
        await until_closed(engine, 3)
        first = await engine.delete_expired()
        written = sorted(folder.iterdir())
        again = await engine.delete_expired()
        assert sorted(folder.iterdir()) == written
        await waiting.signal(go_on(True))
        await waiting.result()
        await engine.delete_expired()

    assert (first.kept["chain"], again.deleted) == (1, 0)
    async with open_engine("memory://") as engine:
        for path in folder.iterdir():
            assert (await engine.import_runs(path)).skipped == 0
        assert await ids(engine) == ["chain", "child", "parent"]


async def until_closed(engine: Engine, runs: int) -> None:
    """Return once so many runs have closed."""
    while True:
        if len(await engine.list(where=~Run.closed.is_null())) == runs:
            return
        await asyncio.sleep(0.01)


async def test_a_run_that_cannot_be_read_stays_and_keeps_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, path = tmp_path / "runs", tmp_path / "x.db"
    rule = RetentionRule(keep=0, archive_to=folder)
    async with open_engine(f"sqlite:///{path}", rule) as engine:
        for number in range(3):
            await engine.execute(ping(number), id=f"p{number}")
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "UPDATE durable_history SET data = '{' WHERE event_id = 1 AND run_id ="
                " (SELECT run_id FROM durable_runs WHERE workflow_id = 'p1')"
            )
        assert await engine.delete_expired() == Swept(2, {"unreadable": 1})
        assert await ids(engine) == ["p1"]
        (file,) = folder.iterdir()
        assert await engine.delete_expired() == Swept(0, {"unreadable": 1})
        assert [*folder.iterdir()] == [file]

    assert "A closed run is kept though its time is over." in caplog.text


async def test_a_run_that_somebody_else_deletes_meanwhile_is_no_fault(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = RetentionRule(keep=0, archive_to=tmp_path / "runs")
    async with open_engine(database, rule) as engine:
        for number in range(3):
            await engine.execute(ping(number), id=f"p{number}")

        async def delete_before(store: Store, run: RunRecord) -> bytes:
            if run.workflow_id == "p1":
                await store.perform(DeleteRuns(run_ids=(run.run_id,)))
            return await line_of(store, run)

        monkeypatch.setattr("durable.client.keeping.archiving.line_of", delete_before)
        assert await engine.delete_expired() == Swept(2)

    (file,) = (tmp_path / "runs").iterdir()
    async with open_engine("memory://") as engine:
        assert (await engine.import_runs(file)).runs == 2


async def test_without_an_archive_nothing_is_deleted(
    database: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "runs"
    folder.write_text("no folder")
    monkeypatch.setattr(sweeper, "FIRST_SECONDS", 0.01)
    rule = RetentionRule(keep=0, archive_to=folder)
    async with open_engine(database, rule) as engine:
        await engine.execute(ping(1), id="p")
        with pytest.raises(ArchiveError, match="runs' cannot be made"):
            await engine.delete_expired()
        await wait_until(lambda: is_told(caplog))
        assert await ids(engine) == ["p"]


def is_told(caplog: pytest.LogCaptureFixture) -> bool:
    return any(
        one.levelno == logging.WARNING and "are not deleted now" in one.getMessage()
        for one in caplog.records
    )


async def test_a_name_of_a_namespace_is_no_path(tmp_path: Path) -> None:
    rule = RetentionRule(keep=0, archive_to=str(tmp_path / "runs"))
    options: dict[str, Any] = {"definitions": DEFINITIONS, "retention": [rule]}
    name = "../" + "ö" * 100
    async with Engine("memory://", namespace=name, **options) as engine:
        await engine.execute(ping(1), id="p")
        assert await engine.delete_expired() == Swept(1)

    (file,) = (tmp_path / "runs").iterdir()
    assert file.name.startswith("..%2F%C3%B6")


@pytest.mark.parametrize(
    ("keep", "folder", "told"),
    [
        (0, 3, "archive_to of a retention rule is 3: give a folder"),
        (0, "", "is '': give a folder"),
        (None, "old", "kept for ever is not archived"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(
    keep: Any, folder: Any, told: str
) -> None:
    with pytest.raises(InvalidOptionError, match=told):
        RetentionRule(keep=keep, archive_to=folder)
