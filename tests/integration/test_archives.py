"""Closed runs go into files, and come back as they were."""

import asyncio
import gzip
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from durable import (
    ArchiveError,
    Attribute,
    AttributeTypeError,
    Engine,
    RunExistsError,
    Signal,
    SyncEngine,
    activity,
    checkpoint,
    limits,
    workflow,
)
from durable.client.keeping import archive, importing
from durable.doctor.doctor import examine
from durable.store.connect import connect
from durable.store.queries import LoadRuns, ReadAttempts, ReadHistory, SearchRuns
from durable.store.records import DeleteRuns

ROOT = Path(__file__).resolve().parent.parent.parent
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
    monkeypatch.setattr(importing, "PAGE", 2)
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

        with pytest.raises(RunExistsError, match="Nothing was imported") as refused:
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


def unpacked(path: Path) -> bytes | None:
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error):
        return None


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
            if unpacked(broken) == unpacked(path):
                continue  # some bits mean nothing
            with pytest.raises(ArchiveError):
                await engine.import_runs(broken)
        assert await engine.list() == []
        with gzip.open(path) as file:
            assert len(file.readlines()) == 8


@pytest.fixture
async def exported(tmp_path: Path) -> Path:
    """An export of six runs."""
    path = tmp_path / "runs.jsonl"
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        await fill(engine)
        await engine.export_runs(path)
    return path


def runs_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["run"] for line in lines_of(path)[1:-1]]


INT_CUSTOMER = {"customer": {"json": 3, "metadata": {"type": "Int"}}}


async def test_what_is_in_the_way_of_a_later_page_leaves_nothing_written(
    database: str, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "PAGE", 1)
    last = runs_of(exported)[-1]
    async with Engine(database, definitions=DEFINITIONS) as engine:
        # Another run was started under the request id of the last.
        start = order("other")
        await engine.execute(start, id="other", request_id=last["request_id"])
        with pytest.raises(RunExistsError, match="request id") as refused:
            await engine.import_runs(exported)
        assert refused.value.run_id == last["run_id"]
        assert [run.workflow_id for run in await engine.list()] == ["other"]
        done = await engine.import_runs(exported, skip_existing=True)
        assert done == archive.Imported(5, 1)


async def test_attribute_of_another_type_leaves_nothing_written(
    database: str, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "PAGE", 1)
    async with Engine(database, definitions=DEFINITIONS) as engine:
        clash = Attribute("customer", int)
        await engine.execute(order("other"), id="other", attributes={clash: 3})
        text = "Nothing was imported"
        for skips in (False, True):
            with pytest.raises(AttributeTypeError, match=text):
                await engine.import_runs(exported, skip_existing=skips)
        assert [run.workflow_id for run in await engine.list()] == ["other"]


async def test_what_comes_between_is_told_of_and_the_rest_follows(
    database: str, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "PAGE", 2)
    fourth = runs_of(exported)[3]["request_id"]
    check = importing._check

    async def check_and_be_late(*given: Any, **how: Any) -> tuple[int, set[str]]:
        known = await check(*given, **how)
        await engine.execute(order("other"), id="other", request_id=fourth)
        return known

    monkeypatch.setattr(importing, "_check", check_and_be_late)
    async with Engine(database, definitions=DEFINITIONS) as engine:
        with pytest.raises(RunExistsError, match="3 runs were imported") as refused:
            await engine.import_runs(exported)
        assert "skip_existing=True" in str(refused.value)
        assert len(await engine.list()) == 1 + 3
        done = await engine.import_runs(exported, skip_existing=True)
        assert done == archive.Imported(2, 4)


async def test_run_that_comes_between_is_skipped_if_that_is_wanted(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = importing._check

    async def check_and_be_late(*given: Any, **how: Any) -> tuple[int, set[str]]:
        known = await check(*given, **how)
        monkeypatch.setattr(importing, "_check", check)
        await engine.import_runs(exported)
        return known

    monkeypatch.setattr(importing, "_check", check_and_be_late)
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        done = await engine.import_runs(exported, skip_existing=True)
        assert done == archive.Imported(0, 6)


def write(path: Path, lines: list[str], *, packs: bool) -> None:
    written = "".join(lines).encode()
    path.write_bytes(gzip.compress(written) if packs else written)


@pytest.mark.parametrize("packs", [False, True])
async def test_what_is_twice_in_a_file_is_refused(exported: Path, packs: bool) -> None:
    head, first, second, *rest = lines_of(exported)
    of_first, of_second = runs_of(exported)[:2]
    old, new = (f'"request_id":"{r["request_id"]}"' for r in (of_second, of_first))
    same_request = second.replace(old, new)
    attributes = json.dumps(of_second["attributes"])
    another_type = second.replace(attributes, json.dumps(json.dumps(INT_CUSTOMER)))
    repeated = [
        ([head, first, second, *rest] * 2, 9, "after the end"),
        ([head, first, first, *rest], 3, "run id .* comes twice"),
        ([head, first, same_request, *rest], 3, "request id .* comes twice"),
        ([head, first, another_type, *rest], 3, "'customer' has another type"),
    ]
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        for lines, line, why in repeated:
            write(exported, lines, packs=packs)
            with pytest.raises(ArchiveError, match=why) as refused:
                await engine.import_runs(exported)
            assert refused.value.line == line, why
        assert await engine.list() == []


async def test_line_without_end_is_refused_before_it_is_read(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = tmp_path / "endless.gz"
    with gzip.open(endless, "wb") as file:
        file.write(lines_of(exported)[0].encode())
        file.write(b"0" * 1_000_000)
    monkeypatch.setattr(limits, "EXPORTED_RUN_BYTES_MAX", 100_000)
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        with pytest.raises(ArchiveError, match="longer than 100,000 bytes") as refused:
            await engine.import_runs(endless)
        assert refused.value.line == 2
        # Nor does an export write what no import would read.
        await engine.execute(order("o"), id="o")
        monkeypatch.setattr(limits, "EXPORTED_RUN_BYTES_MAX", 500)
        with pytest.raises(ArchiveError, match="at most 500 of a run"):
            await engine.export_runs(tmp_path / "again.jsonl")
    assert sorted(os.listdir(tmp_path)) == ["endless.gz", "runs.jsonl"]


async def test_much_is_read_a_little_at_a_time(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large runs are, few of them are in memory at once."""
    monkeypatch.setattr(importing, "PAGE_BYTES", 1)
    sizes: list[int] = []
    perform_all = importing._perform_all

    async def perform_and_count(store: Any, operations: Any) -> Any:
        sizes.append(len(operations))
        return await perform_all(store, operations)

    monkeypatch.setattr(importing, "_perform_all", perform_and_count)
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        assert await engine.import_runs(exported) == archive.Imported(6)
    assert sizes == [1, 1, 1, 1, 1, 1, 0] * 2


async def test_dry_run_says_what_would_be_imported_and_imports_nothing(
    exported: Path, tmp_path: Path
) -> None:
    """Users wanted to know what an import meets before it writes into production."""
    head, first, *rest = lines_of(exported)
    half = tmp_path / "half.jsonl"
    half.write_text("".join([head, first, '{"end":1}\n']))
    opened = first.replace('"status":"completed"', '"status":"running"')
    async with Engine("memory://", definitions=DEFINITIONS) as engine:
        found = await engine.import_runs(exported, dry_run=True)
        assert found == archive.Imported(6)
        assert await engine.list() == []

        await engine.import_runs(half)
        with pytest.raises(RunExistsError, match="Nothing was imported"):
            await engine.import_runs(exported, dry_run=True)
        found = await engine.import_runs(exported, dry_run=True, skip_existing=True)
        assert found == archive.Imported(5, 1)
        half.write_text("".join([head, opened, *rest]))
        with pytest.raises(ArchiveError, match="no closed run") as refused:
            await engine.import_runs(half, dry_run=True, skip_existing=True)
        assert refused.value.line == 2
        assert len(await engine.list()) == 1


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from durable import Engine
from durable.client.keeping import archive

async def die(*_):
    print(*os.listdir(Path(sys.argv[2]).parent), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

archive.line_of = die

async def main():
    async with Engine(sys.argv[1], worker=False) as engine:
        await engine.export_runs(sys.argv[2])

asyncio.run(main())
"""


@pytest.mark.slow
async def test_next_export_removes_what_killed_ones_have_left_and_no_other(
    tmp_path: Path,
) -> None:
    """Users met one more leftover each night, until the disk was full."""
    url, folder = f"sqlite:///{tmp_path / 'a.db'}", tmp_path / "archive"
    folder.mkdir()
    async with Engine(url, definitions=DEFINITIONS) as engine:
        await engine.execute(order("o"), id="o")
        killed = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", KILLED, url, str(folder / "night-1.jsonl")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        (left,) = killed.stdout.decode().split()
        assert left.startswith(".night-1.")
        assert os.listdir(folder) == [left]

        with archive.writing(folder / "beside.jsonl") as beside:
            await engine.export_runs(folder / "night-2.jsonl")
            beside.write(b"")
        assert sorted(os.listdir(folder)) == ["beside.jsonl", "night-2.jsonl"]


NUMBERS = [b"-1", b"9999999999", b"1e400", b"9223372036854775808", b"1.5", b"null"]
TEXTS = [b'""', b'"%s"' % (b"x" * 300), rb'"a\u0000b"', rb'"\ud800"', b'"{}"']


def change(path: Path, whole: bytes, draw: random.Random) -> None:
    """Write a file with another byte; or rather with another value, still JSON."""
    at = draw.randrange(len(whole))
    start, end, changed = at, at + 1, bytes([draw.randrange(256)])
    if draw.random() < 0.6:
        values = re.finditer(rb'(?<=:)(\d+|"(?:[^"\\]|\\.)*")', whole)
        start, end = draw.choice([found.span() for found in values])
        changed = draw.choice(NUMBERS if whole[start] != ord('"') else TEXTS)
    path.write_bytes(whole[:start] + changed + whole[end:])


@pytest.fixture(params=["sqlite", "postgres_url", "mariadb_url"])
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.mark.slow
async def test_lines_that_were_changed_never_come_in_by_halves(
    any_database: str, exported: Path
) -> None:
    """What a hand has changed is refused, with its line; or all of it comes in."""
    whole = "".join(lines_of(exported)).encode()
    draw = random.Random(2)
    refused = 0
    async with Engine(any_database, definitions=DEFINITIONS) as engine:
        for _ in range(200):
            change(exported, whole, draw)
            try:
                done = await engine.import_runs(exported)
            except ArchiveError:
                refused += 1
                assert await engine.list() == []
                continue
            assert done == archive.Imported(6)
            found = await engine._store.read(SearchRuns("default", None))
            assert [run.damage for run in found] == [None] * 6
            ids = tuple(run.run_id for run in found)
            gone = await engine._store.perform(
                DeleteRuns(run_ids=ids, heeds_replies=False)
            )
            assert len(gone.run_ids) == 6, gone
    assert 60 < refused < 200


def test_archives_work_without_an_event_loop(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl.gz"
    with SyncEngine(tmp_path / "runs.db", definitions=DEFINITIONS) as engine:
        engine.execute(order("a"), id="o")
        assert engine.export_runs(path, delete=True).deleted == 1
        assert engine.import_runs(str(path)).runs == 1
        assert engine.get("o").result() == "a is shipped\n\u2028"
