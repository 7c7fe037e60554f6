"""SQLite keeps the contract, in a file and in memory, and its files are well kept."""

import asyncio
import os
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError

from durable.clock import Clock, SystemClock
from durable.errors import (
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    NotADatabaseError,
)
from durable.store.connect import connect
from durable.store.queries import LoadRuns
from durable.store.sqlite import session as sqlite_session
from durable.store.sqlite.session import SqliteSession
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.steady_clock import SteadyClock
from durable.store.store import Store
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import make_start
from durable.testing.contract.store_contract import StoreContract


class TestSqliteFile(StoreContract):
    def make_store(self, clock: Clock, tmp_path: Path) -> Store:
        return connect(f"sqlite:///{tmp_path}/test.db", clock=clock)


class TestSqliteInMemory(StoreContract):
    shares_database = False

    def make_store(self, clock: Clock, tmp_path: Path) -> Store:
        return connect("sqlite://", clock=clock)


def read_modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


async def open_and_close(path: Path) -> None:
    store = connect(f"sqlite:///{path}")
    await store.open()
    await store.close()


async def test_files_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = connect(f"sqlite:///{tmp_path}/x.db")
        await store.open()
        await store.perform(make_start("r1"))
        modes = read_modes(tmp_path)
        await store.close()
    finally:
        os.umask(before)

    assert modes == {"x.db": 0o600, "x.db-wal": 0o600, "x.db-shm": 0o600}


async def test_files_are_private_where_only_root_may_make_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "mknod", refuse)
    await open_and_close(tmp_path / "x.db")

    assert read_modes(tmp_path) == {"x.db": 0o600}


async def test_opening_never_opens_an_existing_file_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing such a descriptor would drop the locks of other connections."""
    await open_and_close(tmp_path / "x.db")
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda *args: opened.append(args))

    await open_and_close(tmp_path / "x.db")

    assert opened == []


@pytest.mark.parametrize("content", ["Dear diary,\n" * 100, "SQLite format 3\0 not"])
async def test_file_that_is_no_database_is_refused_and_left_alone(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "diary.txt"
    path.write_text(content)

    with pytest.raises(NotADatabaseError, match=r"diary\.txt"):
        await open_and_close(path)

    assert path.read_text() == content


async def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotADatabaseError, match="is a folder"):
        await open_and_close(tmp_path)


async def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotADatabaseError, match="no/such"):
        await open_and_close(tmp_path / "no" / "such" / "x.db")

    assert read_modes(tmp_path) == {}


@pytest.fixture
def frozen_folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a function's folder that cannot be written; root needs a mount for that."""
    folder = tmp_path / "frozen"
    folder.mkdir()
    is_root = os.geteuid() == 0
    if is_root:
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("root needs to mount a file system here")
    asyncio.run(open_and_close(folder / "x.db"))
    if is_root:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    else:
        folder.chmod(0o500)
    yield folder
    if is_root:
        subprocess.run(["umount", str(folder)], check=True)
    else:
        folder.chmod(0o700)


@pytest.mark.parametrize("name", ["x.db", "new.db"])
def test_folder_that_cannot_be_written_is_refused(
    frozen_folder: Path, name: str
) -> None:
    with pytest.raises(DatabaseReadOnlyError, match=name):
        asyncio.run(open_and_close(frozen_folder / name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write every file")
async def test_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    await open_and_close(tmp_path / "x.db")
    (tmp_path / "x.db").chmod(0o400)

    with pytest.raises(DatabaseReadOnlyError, match=r"x\.db"):
        await open_and_close(tmp_path / "x.db")


async def test_sqlite_that_is_too_old_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 31, 1))

    with pytest.raises(DatabaseUnavailableError, match=r"needs 3\.33\.0"):
        await open_and_close(tmp_path / "x.db")


def test_reading_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailableError, match="does not exist"):
        SqliteDatabase(tmp_path / "x.db").open_reader()

    assert read_modes(tmp_path) == {}


def test_switch_to_the_log_waits_for_another_process_that_switches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SQLite itself does not wait there."""
    session = SqliteDatabase(None).open_writer()
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    answers: list[Exception | None] = [DBAPIError(None, None, busy)] * 2 + [None]
    execute = session.connection.exec_driver_sql

    def answer(text: str) -> object:
        error = answers.pop(0)
        if error is not None:
            raise error
        return execute(text)

    monkeypatch.setattr(session.connection, "exec_driver_sql", answer)

    assert SqliteDatabase(None)._switch_to_log(session.connection) == "memory"
    assert answers == []
    session.close()


async def test_close_leaves_one_file(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/x.db")
    await store.open()
    await store.perform(make_start("r1"))
    await store.read(LoadRuns(["r1"]))

    await store.close()

    assert list(read_modes(tmp_path)) == ["x.db"]


# --- the write-ahead log --------------------------------------------------------------


class Opened:
    """An executor on a file, its session, and the sizes of the files."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "x.db"
        self.log = folder / "x.db-wal"
        self.database = SqliteDatabase(self.path)
        self.executor = GroupExecutor(self.database, SteadyClock(SystemClock()))
        session = self.executor.open()
        assert isinstance(session, SqliteSession)
        self.session = session
        self._started = 0
        # The first time marks the file, however short the log is.
        session.maintain(is_idle=True)

    def start(self, runs: int) -> None:
        first, self._started = self._started, self._started + runs
        numbers = range(first, self._started)
        outcomes, _ = self.executor.execute([make_start(f"r{n}") for n in numbers])
        assert all(error is None for _, error in outcomes)

    def size(self) -> int:
        return self.path.stat().st_size


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    monkeypatch.setattr(sqlite_session, "_CHECKPOINT_BYTES", 256 * 1024)
    monkeypatch.setattr(sqlite_session, "_CHECKPOINT_CHANGES_IDLE", 1_000)
    monkeypatch.setattr(sqlite_session, "_CHECKPOINT_CHANGES_BUSY", 4_000)
    opened = Opened(tmp_path)
    yield opened
    opened.executor.close()


def test_log_is_not_copied_by_commits(opened: Opened) -> None:
    before = opened.size()

    for _ in range(12):
        opened.start(1_000)

    assert opened.log.stat().st_size > 4 * 1024 * 1024
    assert opened.size() == before


def test_log_is_copied_when_it_is_long_and_begun_anew(opened: Opened) -> None:
    opened.start(300)
    opened.session.maintain(is_idle=True)
    small = opened.size()
    opened.start(300)

    opened.session.maintain(is_idle=True)

    assert opened.size() > small
    length = opened.log.stat().st_size
    opened.start(100)
    assert opened.log.stat().st_size == length


def test_log_is_copied_later_while_the_store_is_busy(opened: Opened) -> None:
    before = opened.size()
    opened.start(1_000)
    opened.session.maintain(is_idle=False)
    assert opened.size() == before

    opened.start(1_000)
    opened.session.maintain(is_idle=False)

    assert opened.size() > before


def test_log_is_not_copied_while_another_process_may_commit(opened: Opened) -> None:
    before = opened.size()
    opened.start(1_000)
    other = sqlite3.connect(opened.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    opened.session.maintain(is_idle=True)
    assert opened.size() == before

    other.execute("ROLLBACK")
    other.close()
    opened.session.maintain(is_idle=True)
    assert opened.size() > before


def test_log_that_a_reader_holds_back_is_copied_later(opened: Opened) -> None:
    reader = sqlite3.connect(opened.path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM durable_runs").fetchall()
    opened.start(1_000)
    opened.session.maintain(is_idle=True)
    before = opened.size()
    reader.execute("ROLLBACK")
    reader.close()
    opened.start(300)

    opened.session.maintain(is_idle=True)

    assert opened.size() > before


async def test_writer_copies_the_log_when_it_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_session, "_CHECKPOINT_BYTES", 256 * 1024)
    store = connect(f"sqlite:///{tmp_path}/x.db")
    await store.open()
    before = (tmp_path / "x.db").stat().st_size

    for number in range(1_000):
        store.submit(make_start(f"r{number}"), lambda *_: None)
    while (tmp_path / "x.db").stat().st_size == before:  # noqa: ASYNC110 - a file
        await asyncio.sleep(0.005)

    await store.close()


def test_file_that_disappeared_is_not_replaced(opened: Opened) -> None:
    opened.executor.close()
    opened.path.unlink()

    (outcome,), _ = opened.executor.execute([make_start("r1")])

    assert isinstance(outcome[1], DatabaseUnavailableError)
    assert not opened.path.exists()
