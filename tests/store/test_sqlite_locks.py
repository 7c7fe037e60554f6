"""Who keeps everybody else from writing has a name."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from durable.cli.main import cli
from durable.errors import DatabaseUnavailableError
from durable.store import sqlite
from durable.store.connect import connect
from durable.store.queries import LoadRuns
from durable.store.sqlite_locks import describe_holder, find_holders
from durable.testing.store_rows import make_start

pytestmark = pytest.mark.skipif(
    not Path("/proc/locks").exists(), reason="only Linux tells who holds a lock"
)

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE counters SET value = value")
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
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)
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


async def test_a_process_that_only_reads_is_not_named(database: Path) -> None:
    await make(database)
    reader = connect(f"sqlite:///{database}")
    await reader.open()
    await reader.read(LoadRuns(["r1"]))

    assert find_holders(database) == []
    await reader.close()
