"""The file of a database: moved away, copied without its log, open to others."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from durable.errors import DatabaseUnavailableError, InvalidOptionError, StoreError
from durable.store.connect import connect
from durable.store.queries import ListRuns, LoadRuns, ReadHistory
from durable.store.records import RunFilter
from durable.store.sqlite import file as sqlite_file
from durable.store.sqlite import session as sqlite_session
from durable.store.sqlite.backup import back_up
from durable.store.sqlite.session import SqliteSession
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.store import Store
from durable.testing.contract.rows import (
    NAMESPACE,
    make_start,
    make_worker,
    wait_until,
)


async def open_store(path: Path) -> Store:
    store = connect(f"sqlite:///{path}")
    await store.open()
    return store


def copy(source: Path, destination: Path) -> None:
    """Copy a file in another process: closing it here would drop SQLite's locks."""
    code = "import shutil, sys; shutil.copyfile(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", code, source, destination], check=True)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def wait_until_marked(path: Path) -> None:
    """Wait until the main file says that it is not alone, and its log does not."""
    while True:
        found = []
        for option in ("immutable=1", "mode=rw"):
            other = sqlite3.connect(f"file:{path}?{option}", uri=True)
            # The main file by itself is in pieces while the log is copied into it.
            with contextlib.closing(other), contextlib.suppress(sqlite3.DatabaseError):
                found += other.execute("PRAGMA user_version").fetchone()
        if found == [sqlite_file.copied_mark(path), 0]:
            return
        await asyncio.sleep(0.002)


# --- moved or deleted -----------------------------------------------------------------


def delete(path: Path) -> None:
    for name in ("", "-wal", "-shm"):
        path.with_name(path.name + name).unlink()


def replace(path: Path) -> None:
    sqlite3.connect(path.with_name("other.db")).close()
    path.with_name("other.db").touch()
    path.with_name("other.db").replace(path)


HARM: dict[str, Callable[[Path], object]] = {
    "deleted": delete,
    "deleted alone": lambda path: path.unlink(),
    "moved": lambda path: path.rename(path.with_name("moved.db")),
    "replaced": replace,
    "log deleted": lambda path: path.with_name("x.db-wal").unlink(),
    "index deleted": lambda path: path.with_name("x.db-shm").unlink(),
    "folder moved": lambda path: path.parent.rename(path.parent.with_name("moved")),
}


@pytest.mark.parametrize("is_linked", [False, True])
@pytest.mark.parametrize("is_settled", [False, True])
@pytest.mark.parametrize("harm", HARM)
async def test_nothing_is_acknowledged_or_read_once_the_file_is_elsewhere(
    tmp_path: Path,
    harm: str,
    is_settled: bool,
    is_linked: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / "x.db"
    if is_linked:
        (tmp_path / "links").mkdir()
        path = tmp_path / "links" / "linked.db"
        await (await open_store(folder / "x.db")).close()
        path.symlink_to(folder / "x.db")
    store = await open_store(path)
    await store.register_worker(make_worker("w"), lambda: None)
    if is_settled:  # nothing has changed in the folder for long
        os.utime(folder, (1, 1))
        os.utime(path.parent, (1, 1))
        await store.perform(make_start("r0", owner="w"))
    await store.perform(make_start("r1", owner="w"))
    await store.read(LoadRuns(["r1"]))

    HARM[harm](folder / "x.db")

    for number in range(3):
        with pytest.raises(DatabaseUnavailableError, match="moved, deleted or"):
            await store.perform(make_start(f"lost-{number}"))
        with pytest.raises(DatabaseUnavailableError, match="moved, deleted or"):
            await store.read(LoadRuns(["r1"]))
    await store.close()
    found = [r for r in caplog.records if "moved, deleted" in r.getMessage()]
    assert [record.levelname for record in found] == ["ERROR"]


async def test_file_that_is_put_back_is_used_again(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    store = await open_store(path)
    await store.perform(make_start("r1"))
    path.rename(tmp_path / "moved.db")
    with pytest.raises(DatabaseUnavailableError):
        await store.perform(make_start("r2"))

    (tmp_path / "moved.db").rename(path)

    assert (await store.perform(make_start("r3"))).created
    await store.close()
    store = await open_store(path)
    runs = await store.read(ListRuns(NAMESPACE, RunFilter()))
    assert {"r1", "r3"} <= {run.run_id for run in runs}
    await store.close()


async def test_log_without_its_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    store = await open_store(path)
    await store.perform(make_start("r1"))
    path.rename(tmp_path / "moved.db")

    with pytest.raises(DatabaseUnavailableError, match="its log is still there"):
        await open_store(path)

    assert (tmp_path / "x.db-wal").stat().st_size > 0
    await store.close()


# --- copied ---------------------------------------------------------------------------


async def test_copy_of_the_main_file_alone_is_refused_until_the_loss_is_accepted(
    tmp_path: Path,
) -> None:
    store = await open_store(tmp_path / "x.db")
    await store.perform(make_start("r1"))
    await wait_until_marked(tmp_path / "x.db")
    await store.perform(make_start("r2"))
    copy(tmp_path / "x.db", tmp_path / "copy.db")

    for _ in range(2):
        with pytest.raises(DatabaseUnavailableError, match="lacks its log"):
            await open_store(tmp_path / "copy.db")
    SqliteDatabase(tmp_path / "copy.db").accept_loss()
    copied = await open_store(tmp_path / "copy.db")

    assert [r.run_id for r in await copied.read(ListRuns(NAMESPACE, RunFilter()))] == [
        "r1"
    ]
    await copied.close()
    await store.close()


async def test_file_that_a_killed_process_left_alone_is_refused(tmp_path: Path) -> None:
    code = """
import asyncio, os, signal, sys
from durable.store.connect import connect
from durable.testing.contract.rows import *
async def main():
    store = connect(f"sqlite:///{sys.argv[1]}")
    await store.open()
    await store.perform(make_start("r1"))
    print(flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    path = tmp_path / "x.db"
    process = subprocess.Popen(  # noqa: ASYNC220 - it ends at once
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    with process, process.stdout:
        process.stdout.readline()
        await wait_until_marked(path)
        os.kill(process.pid, signal.SIGKILL)
    shutil.copyfile(path, tmp_path / "alone.db")

    with pytest.raises(DatabaseUnavailableError, match="lacks its log"):
        await open_store(tmp_path / "alone.db")
    store = await open_store(path)

    assert len(await store.read(ListRuns(NAMESPACE, RunFilter()))) == 1
    await store.close()


async def test_file_whose_program_died_as_it_marked_it_opens_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.db"
    store = await open_store(path)
    await store.perform(make_start("r1"))
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as other:  # merges the log, too
        other.execute(f"PRAGMA user_version = {sqlite_file.copied_mark(path)}")

    store = await open_store(path)

    assert len(await store.read(ListRuns(NAMESPACE, RunFilter()))) == 1
    assert "its log is not there" in caplog.text
    await store.close()


@pytest.mark.parametrize("way", ["backup", "vacuum", "closed", "after a kill"])
async def test_complete_copies_are_never_taken_for_one_without_its_log(
    tmp_path: Path, way: str
) -> None:
    path, copied = tmp_path / "x.db", tmp_path / "copy.db"
    store = await open_store(path)
    await store.perform(make_start("r1"))
    await wait_until_marked(path)
    await store.perform(make_start("r2"))
    with contextlib.closing(sqlite3.connect(path)) as other:
        if way == "backup":
            with contextlib.closing(sqlite3.connect(copied)) as target:
                other.backup(target)
        elif way == "vacuum":
            other.execute("VACUUM INTO ?", (str(copied),))
    if way == "after a kill":
        # As a kill leaves them; then another tool looks, and merges the log.
        for name in ("", "-wal"):
            copy(tmp_path / f"x.db{name}", tmp_path / f"copy.db{name}")
        with contextlib.closing(sqlite3.connect(copied)) as other:
            other.execute("SELECT count(*) FROM durable_runs").fetchall()
        assert not (tmp_path / "copy.db-wal").exists()
    await store.close()
    if way == "closed":
        shutil.copyfile(path, copied)

    store = await open_store(copied)

    assert len(await store.read(ListRuns(NAMESPACE, RunFilter()))) == 2
    await store.close()


async def test_file_is_marked_once_who_reads_it_lets_it_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark is the last page to be copied, and a reader may hold it back."""
    path = tmp_path / "x.db"
    tried: list[bool] = []
    maintain = SqliteSession.maintain

    def note(self: SqliteSession, *, is_idle: bool) -> bool:
        tried.append(maintain(self, is_idle=is_idle))
        return tried[-1]

    store = await open_store(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM durable_runs").fetchall()
        monkeypatch.setattr(SqliteSession, "maintain", note)
        await store.perform(make_start("r1"))
        await wait_until(lambda: len(tried) > 1)
        reader.execute("ROLLBACK")

        await wait_until_marked(path)

    await wait_until(lambda: tried[-1])  # it is still tidying up
    await store.close()


async def test_log_that_is_long_is_copied_though_the_mark_has_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where somebody always reads, the log would grow for as long as the mark waits."""
    path = tmp_path / "x.db"
    session = SqliteDatabase(path).open_writer()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM durable_runs").fetchall()
        session.begin()
        session.connection.exec_driver_sql("DELETE FROM durable_replies")
        session.commit()
        assert not session.maintain(is_idle=True)
    assert isinstance(session, SqliteSession)
    session._mark_at = float("inf")
    assert not session.maintain(is_idle=True)
    monkeypatch.setattr(sqlite_session, "_CHECKPOINT_BYTES", 0)
    monkeypatch.setattr(sqlite_session, "_CHECKPOINT_CHANGES_IDLE", 0)

    assert session.maintain(is_idle=True)

    session.close()


async def test_user_version_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    await (await open_store(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 7")
    store = await open_store(path)
    await store.perform(make_start("r1"))
    await store.close()

    with contextlib.closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (7,)


async def test_backup_of_a_database_in_use_is_complete_and_private(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.db"
    store = await open_store(path)
    for number in range(30):
        await store.perform(make_start(f"r{number}"))
    writing = [
        asyncio.ensure_future(store.perform(make_start(f"later-{number}")))
        for number in range(200)
    ]

    made = await asyncio.to_thread(back_up, path, tmp_path / "backup.db")

    await asyncio.gather(*writing)
    await store.close()
    assert 30 <= made.runs <= 230
    assert names_in(tmp_path) == ["backup.db", "x.db"]
    assert (tmp_path / "backup.db").stat().st_mode & 0o777 == 0o600
    copied = await open_store(tmp_path / "backup.db")
    runs = await copied.read(ListRuns(NAMESPACE, RunFilter(limit=1_000)))
    assert len(runs) == made.runs
    assert len(await copied.read(ReadHistory("r0"))) == 2
    await copied.close()


async def test_backup_replaces_nothing_and_leaves_nothing_half_made(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.db"
    await (await open_store(path)).close()
    (tmp_path / "kept.db").write_text("kept")
    (tmp_path / "rubbish.db").write_text("no database at all, but rather long" * 99)
    sqlite3.connect(tmp_path / "other.db").execute(
        "CREATE TABLE t (a)"
    ).connection.close()

    with pytest.raises(InvalidOptionError, match="replaces nothing"):
        back_up(path, tmp_path / "kept.db")
    with pytest.raises(InvalidOptionError, match="does not exist"):
        back_up(path, tmp_path / "none" / "new.db")
    for source in ("rubbish.db", "other.db"):
        with pytest.raises(StoreError):
            back_up(tmp_path / source, tmp_path / "new.db")

    assert (tmp_path / "kept.db").read_text() == "kept"
    assert names_in(tmp_path) == ["kept.db", "other.db", "rubbish.db", "x.db"]


# --- open to others -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "folder_mode", "said"),
    [
        (0o600, 0o700, None),
        (0o660, 0o755, None),
        (0o644, 0o700, "every user of this machine may read it"),
        (0o666, 0o700, "every user of this machine may read and change it"),
        (0o600, 0o777, "may replace it in its folder"),
        (0o600, 0o1777, None),
    ],
)
async def test_file_that_others_may_use_is_warned_about(
    tmp_path: Path,
    mode: int,
    folder_mode: int,
    said: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    await (await open_store(folder / "x.db")).close()
    (folder / "x.db").chmod(mode)
    folder.chmod(folder_mode)

    with caplog.at_level(logging.WARNING, "durable"):
        store = await open_store(folder / "x.db")
        await store.perform(make_start("r1"))
        await store.read(LoadRuns(["r1"]))
        await store.close()

    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == (said is not None)
    if said is not None:
        assert said in warnings[0]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no owner here")
async def test_file_of_another_user_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.db"
    await (await open_store(path)).close()
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)

    await (await open_store(path)).close()

    assert "belongs to another user" in caplog.text


async def test_log_of_a_linked_file_is_merged_like_any_other(tmp_path: Path) -> None:
    """It lies beside the file, not beside the link, and would grow for ever."""
    await (await open_store(tmp_path / "x.db")).close()
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "linked.db"
    link.symlink_to(tmp_path / "x.db")
    database = SqliteDatabase(link)
    session = database.open_writer()
    session.begin()
    session.connection.exec_driver_sql("CREATE TABLE filler (data BLOB)")
    session.connection.exec_driver_sql("INSERT INTO filler VALUES (zeroblob(9000000))")
    session.commit()
    before = (tmp_path / "x.db").stat().st_size
    session.maintain(is_idle=True)
    assert (tmp_path / "x.db").stat().st_size > before
    session.close()
