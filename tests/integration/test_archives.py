"""Closed runs go into files, and come back as they were."""

import gzip
import json
import os
import random
import stat
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ArchiveError,
    Attribute,
    Engine,
    RunExistsError,
    Signal,
    SyncEngine,
    activity,
    checkpoint,
    workflow,
)
from durable.client.keeping import archive
from durable.doctor.doctor import examine
from durable.store.connect import connect
from durable.store.queries import LoadRuns, ReadAttempts, ReadHistory

customer = Attribute("customer", str)
go_on = Signal("go_on", bool)


@activity(name="archives.ship", retry=None)
async def ship(name: str) -> str:
    return f"{name} is shipped\n\u2028"


@workflow(name="archives.order", checkpoint_every=3)
async def order(name: str, count: int = 1) -> str:
    if name == "fails":
        raise OSError("it does")
    shipped = await ship(name)
    if count:
        checkpoint(name, count - 1)
    return shipped


@workflow(name="archives.waits")
async def waits() -> bool:
    return await go_on.receive()


DEFINITIONS = [ship, order, waits]


async def fill(engine: Engine) -> None:
    for number in range(5):
        await engine.execute(
            order(f"o{number}"), id=f"o{number}", attributes={customer: "ann"}
        )
    failing = await engine.start(order("fails"), id="fails", memo={"why": "it must"})
    with pytest.raises(Exception, match="it does"):
        await failing.result()
    await engine.start(waits(), id="open")


def lines_of(path: Path) -> list[str]:
    """Not by splitlines(), for which more than \\n ends a line."""
    return [f"{line}\n" for line in path.read_text().split("\n")[:-1]]


async def everything(engine: Engine) -> list[Any]:
    """All that is recorded of closed runs."""
    store = engine._store
    runs = [run.run_id for run in await engine.list() if run.closed_at is not None]
    loaded = await store.read(LoadRuns(sorted(runs)))
    return [
        (
            run.record,
            await store.read(ReadHistory(run.record.run_id)),
            await store.read(ReadAttempts(run.record.run_id)),
        )
        for run in loaded
    ]


@pytest.mark.parametrize("name", ["runs.jsonl", "runs.jsonl.gz"])
async def test_runs_come_back_as_they_were(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "PAGE", 2)
    path = tmp_path / name
    url, other = f"sqlite:///{tmp_path / 'a.db'}", f"sqlite:///{tmp_path / 'b.db'}"
    async with Engine(url, definitions=DEFINITIONS) as engine:
        await fill(engine)
        before = await everything(engine)
        done = await engine.export_runs(path, delete=True)
        assert (done.runs, done.deleted, done.kept) == (6, 6, {})
        assert [run.workflow_id for run in await engine.list()] == ["open"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"\x1f\x8b") is name.endswith(".gz")

    async with Engine(other, definitions=DEFINITIONS) as engine:
        assert await engine.import_runs(path) == archive.Imported(6)
        assert await everything(engine) == before
        # They are found and answer as they did.
        assert len(await engine.list(where=customer == "ann")) == 5
        handle = await engine.get("fails")
        assert await handle.memo() == {"why": "it must"}
        assert await (await engine.get("o3")).result() == "o3 is shipped\n\u2028"
        assert await engine.execute(order("o3"), id="o3") == "o3 is shipped\n\u2028"
    store = connect(other)
    await store.open()
    assert [one async for one in examine(store, settle=0)] == []
    await store.close()


async def test_only_what_is_asked_for_is_exported(tmp_path: Path) -> None:
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        await fill(engine)
        by_text = await engine.export_runs(
            tmp_path / "a.jsonl", where="ExecutionStatus = 'Failed'"
        )
        by_id = await engine.export_runs(tmp_path / "b.jsonl", workflow_id="o1")
        an_open_one = await engine.export_runs(tmp_path / "c.jsonl", workflow_id="open")
        assert (by_text.runs, by_id.runs, an_open_one.runs) == (1, 1, 0)
        head, run, end = lines_of(tmp_path / "b.jsonl")
        assert json.loads(head)["durable_export"] == 1
        assert json.loads(run)["run"]["workflow_id"] == "o1"
        assert json.loads(end) == {"end": 1}
        with pytest.raises(ArchiveError, match="replaces nothing"):
            await engine.export_runs(tmp_path / "a.jsonl")
        with pytest.raises(ArchiveError, match="cannot be written"):
            await engine.export_runs(tmp_path / "nowhere" / "a.jsonl")
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "b.jsonl", "c.jsonl"]


async def test_what_is_there_is_refused_or_skipped(
    database: str, tmp_path: Path
) -> None:
    path = tmp_path / "runs.jsonl.gz"
    async with Engine(database, definitions=DEFINITIONS) as engine:
        await fill(engine)
        await engine.export_runs(path)
        await (await engine.get("o1")).delete()
        await (await engine.get("o2")).delete()

        with pytest.raises(RunExistsError, match="nothing was imported") as refused:
            await engine.import_runs(path)
        assert refused.value.workflow_id in {"o0", "o3", "o4", "fails"}
        assert len(await engine.list()) == 5

        assert await engine.import_runs(path, skip_existing=True) == archive.Imported(
            2, 4
        )
        assert len(await engine.list()) == 7


async def test_file_that_is_no_export_is_refused_with_its_line(tmp_path: Path) -> None:
    path, broken = tmp_path / "runs.jsonl", tmp_path / "broken.jsonl"
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        await fill(engine)
        await engine.export_runs(path)
    head, first, *rest = lines_of(path)
    damaged = [
        ([], 0, "cut off"),
        ([head, first, *rest[:-1]], 7, "cut off"),
        ([head, first, *rest[1:]], 7, "it says 6 runs, not 5"),
        ([first, *rest], 1, "durable_export"),
        ([head, first[:-9] + "\n", *rest], 2, "malformed|truncated"),
        ([head, first.replace('"completed"', '"running"'), *rest], 2, "no closed run"),
        ([head, first.replace('"event_id":2', '"event_id":7'), *rest], 2, "not whole"),
        ([head, first.replace("TaskScheduled", "TaskX"), *rest], 2, "does not know"),
        ([head, "{}\n", *rest], 2, "neither a run nor the end"),
        ([head, first, *rest, "{}"], 9, "after the end"),
        ([head.replace('export":1', 'export":9')], None, "of version 9"),
        ([head.replace('"default"', '"other"')], None, "namespace 'other'"),
    ]
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        for lines, line, why in damaged:
            broken.write_bytes("".join(lines).encode())
            with pytest.raises(ArchiveError, match=why) as refused:
                await engine.import_runs(broken)
            assert refused.value.line == line, why
        with pytest.raises(ArchiveError, match="cannot be read"):
            await engine.import_runs(tmp_path / "missing")
        assert await engine.list() == []


async def test_bytes_that_were_changed_never_come_in_by_halves(tmp_path: Path) -> None:
    path, broken = tmp_path / "runs.jsonl.gz", tmp_path / "broken.gz"
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        await fill(engine)
        await engine.export_runs(path)
    whole = path.read_bytes()
    draw = random.Random(1)
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        for _ in range(60):
            at = draw.randrange(12, len(whole))
            changed = bytes([whole[at] ^ (1 << draw.randrange(8))])
            cut = draw.random() < 0.5
            broken.write_bytes(
                whole[:at] if cut else whole[:at] + changed + whole[at + 1 :]
            )
            if at >= len(whole) - 9 and not cut:
                continue  # the last bits before the checksum may mean nothing
            with pytest.raises(ArchiveError):
                await engine.import_runs(broken)
        assert await engine.list() == []
        with gzip.open(path) as file:
            assert len(file.readlines()) == 8


def test_archives_work_without_an_event_loop(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl.gz"
    with SyncEngine(tmp_path / "runs.db", definitions=DEFINITIONS) as engine:
        engine.execute(order("a"), id="o")
        assert engine.export_runs(path, delete=True).deleted == 1
        assert engine.import_runs(str(path)).runs == 1
        assert engine.get("o").result() == "a is shipped\n\u2028"
