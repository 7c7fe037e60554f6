"""Who keeps everybody else from writing has a name."""

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from durable import Engine
from durable.cli.main import cli
from durable.errors import DatabaseUnavailableError
from durable.store.connect import connect
from durable.store.queries import LoadRuns
from durable.store.sqlite import session as sqlite_session
from durable.store.sqlite import sharing as sqlite_sharing
from durable.store.sqlite.locks import describe_holder, find_holders, is_gone
from durable.testing.contract.rows import make_start

pytestmark = pytest.mark.skipif(
    not Path("/proc/locks").exists(), reason="only Linux tells who holds a lock"
)

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE durable_workers SET host = host")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


@contextlib.contextmanager
def paused_in_a_commit(path: Path, script: Path) -> Iterator[int]:
    """Another process that is stopped while it holds the write lock."""
    script.write_text(HOLD)
    holder = subprocess.Popen(
        [sys.executable, script.name, str(path), "--password=hunter2"],
        cwd=script.parent,  # its name is cut where it is long
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        os.kill(holder.pid, signal.SIGSTOP)
        os.waitpid(holder.pid, os.WUNTRACED)
        yield holder.pid
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()


async def make(path: Path) -> None:
    store = connect(f"sqlite:///{path}")
    await store.open()
    await store.perform(make_start("r1"))
    await store.close()


async def test_a_process_paused_in_a_commit_is_named(
    database: Path, tmp_path: Path
) -> None:
    await make(database)
    assert find_holders(database) == []

    with paused_in_a_commit(database, tmp_path / "holder.py") as process_id:
        assert find_holders(database) == [process_id]
        name = describe_holder(process_id)

    assert f"process {process_id} (" in name
    assert "holder.py" in name
    assert "is stopped" in name
    assert "hunter2" not in name


async def test_a_write_that_waited_in_vain_says_for_whom(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_session, "BUSY_SECONDS", 0.05)
    await make(database)
    store = connect(f"sqlite:///{database}")
    await store.open()

    with paused_in_a_commit(database, tmp_path / "holder.py") as process_id:
        with pytest.raises(DatabaseUnavailableError) as refused:
            await store.perform(make_start("r2"))
        assert f"process {process_id} " in str(refused.value)

    assert (await store.perform(make_start("r2"))).created
    await store.close()


def test_the_doctor_names_who_holds_the_lock(database: Path, tmp_path: Path) -> None:
    asyncio.run(make(database))
    url = f"sqlite:///{database}"

    with paused_in_a_commit(database, tmp_path / "holder.py") as process_id:
        found = CliRunner().invoke(cli, ["--database", url, "doctor"])
    after = CliRunner().invoke(cli, ["--database", url, "doctor"])

    assert found.exit_code == 1
    assert "locked" in found.output
    assert f"process {process_id} " in found.output
    assert "locked" not in after.output


@pytest.mark.parametrize(
    ("version", "workers", "is_said"),
    [
        ((3, 40, 1), 2, True),
        ((3, 51, 2), 2, True),
        ((3, 40, 1), 1, False),
        ((3, 51, 3), 2, False),
    ],
)
async def test_workers_that_share_a_file_under_a_faulty_sqlite_are_warned_once(
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    version: tuple[int, ...],
    workers: int,
    is_said: bool,
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    monkeypatch.setattr(sqlite_sharing, "_said_versions", set())

    engines = [Engine(database, definitions=[]) for _ in range(workers)]
    for _ in range(2):
        for engine in engines:
            await engine.open()
        for engine in engines:
            await engine.close()

    said = [w for w in warnings_in(caplog) if "may corrupt it" in w]
    assert len(said) == is_said
    assert all("share-a-database.md" in warning for warning in said)


def test_a_process_that_was_killed_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert not is_gone(process.pid)

    process.kill()
    process.communicate()

    assert is_gone(process.pid)
    assert not is_gone(os.getpid())


async def test_a_process_that_only_reads_is_not_named(database: Path) -> None:
    await make(database)
    reader = connect(f"sqlite:///{database}")
    await reader.open()
    await reader.read(LoadRuns(["r1"]))

    assert find_holders(database) == []
    await reader.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_session, "_WORD_AFTER_SECONDS", 0.01)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.usefixtures("impatient")
async def test_a_lock_that_lasts_is_one_warning_that_names_its_holder(
    database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sqlite_session, "BUSY_SECONDS", 0.02)
    await make(database)
    store = connect(f"sqlite:///{database}")
    await store.open()

    with paused_in_a_commit(database, tmp_path / "holder.py") as process_id:
        for _ in range(3):
            with pytest.raises(DatabaseUnavailableError):
                await store.perform(make_start("r2"))
    (warning,) = warnings_in(caplog)
    assert f"process {process_id} (" in warning
    assert "holder.py" in warning
    assert "hunter2" not in warning

    assert (await store.perform(make_start("r2"))).created
    assert warnings_in(caplog) == [warning]
    with (
        paused_in_a_commit(database, tmp_path / "holder.py"),
        pytest.raises(DatabaseUnavailableError),
    ):
        await store.perform(make_start("r3"))
    assert len(warnings_in(caplog)) == 2
    await store.close()


@pytest.mark.usefixtures("impatient")
async def test_a_lock_of_this_process_is_named_and_waited_for(
    database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await make(database)
    store = connect(f"sqlite:///{database}")
    await store.open()
    application = sqlite3.connect(database, isolation_level=None)
    application.execute("BEGIN IMMEDIATE")

    waiting = asyncio.create_task(store.perform(make_start("r2")))
    while not warnings_in(caplog):  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.001)
    application.execute("COMMIT")

    assert (await waiting).created
    application.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(store.perform(make_start("r3")))
    while len(warnings_in(caplog)) < 2:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.001)
    application.close()
    await waiting
    await store.close()

    assert all("another connection of this process" in w for w in warnings_in(caplog))
    assert len(warnings_in(caplog)) == 2
