"""A run of tests takes its servers with it, whichever way it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guard import parent_if_alive, processes_in, sweep

pytestmark = [
    pytest.mark.sweep(2, of_class=True),
    pytest.mark.slow,
    pytest.mark.usefixtures("needs_postgres"),
]

ROOT = Path(__file__).resolve().parent.parent.parent
WAIT_SECONDS_MAX = 30

SAMPLE = """
import os
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize("case", [0, 1])
def test_server(case, postgres_server, own_postgres):
    assert postgres_server.execute("SELECT 1") == [(1,)]
    pids = own_postgres.execute("SELECT pid FROM pg_stat_activity ORDER BY pid")
    place = Path(f"came/{case}-{postgres_server.port}-{own_postgres.port}")
    place.with_suffix(".pids").write_text(" ".join(str(pid) for (pid,) in pids))
    place.touch()
    END
"""

Begin = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where runs of this test keep their servers: another user must reach it."""
    folder = Path(tempfile.mkdtemp(prefix="durable-ends-"))
    folder.chmod(0o711)
    yield folder
    sweep(folder)


@pytest.fixture
def begin(tmp_path: Path, temporary: Path) -> Iterator[Begin]:
    """Yield what starts a run of the suite of two tests, which end as the word says."""
    begun: list[subprocess.Popen[str]] = []
    (tmp_path / "came").mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "conftest.py").write_text(
        'pytest_plugins = ["tests.server_fixtures"]\n'
    )

    def start(end: str, *words: str, **environ: str) -> subprocess.Popen[str]:
        (tmp_path / "test_sample.py").write_text(SAMPLE.replace("END", end))
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "TMPDIR": str(temporary),
                **environ,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        begun.append(run)
        return run

    yield start
    for run in begun:
        run.kill()
        run.communicate()


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def ports(folder: Path) -> list[list[str]]:
    """The case, the shared and the own port of each test that has come to its end."""
    names = (path.name for path in (folder / "came").iterdir())
    return sorted(name.split("-") for name in names if "." not in name)


def sessions_of_postgres(folder: Path) -> list[int]:
    """Processes that a server has started, as itself tells; all have other titles."""
    files = (folder / "came").glob("*.pids")
    return [int(pid) for path in files for pid in path.read_text().split()]


def makers_of_shared_memory() -> set[int]:
    _, *lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    return {int(line.split()[4]) for line in lines}


def left_in(temporary: Path) -> list[str]:
    return [path.name for path in temporary.glob("durable-servers-*")]


@pytest.mark.parametrize("words", [[], ["-n", "2"]], ids=["one", "two"])
def test_processes_of_a_run_share_a_server_that_ends_with_it(
    begin: Begin, tmp_path: Path, temporary: Path, words: list[str]
) -> None:
    run = begin("", *words)
    said, _ = run.communicate(timeout=WAIT_SECONDS_MAX)

    assert run.returncode == 0, said
    (_, one, own), (_, other, another) = ports(tmp_path)
    assert one == other
    assert len({one, own, another}) == 3
    assert left_in(temporary) == []
    wait_until(lambda: not processes_in(temporary), "processes are left")


@pytest.mark.parametrize("words", [[], ["-n", "2"]], ids=["one", "two"])
@pytest.mark.parametrize(
    "end",
    ["time.sleep(60)", "own_postgres.freeze(); time.sleep(60)"],
    ids=["runs", "frozen"],
)
def test_servers_of_a_killed_run_are_ended_by_its_guard(
    begin: Begin, tmp_path: Path, temporary: Path, words: list[str], end: str
) -> None:
    run = begin(end, *words)
    tests = len(words) or 1
    wait_until(lambda: len(ports(tmp_path)) == tests, "tests do not begin")
    servers = set(processes_in(temporary))
    assert servers & makers_of_shared_memory()
    sessions = sessions_of_postgres(tmp_path)
    assert any(parent_if_alive(pid) for pid in sessions)

    run.send_signal(signal.SIGKILL)

    wait_until(lambda: not processes_in(temporary), "servers outlive their run")
    wait_until(lambda: not any(map(parent_if_alive, sessions)), "children are left")
    wait_until(lambda: not left_in(temporary), "a folder is left")
    assert not servers & makers_of_shared_memory()


def test_servers_outlive_the_process_that_started_them_until_the_run_ends(
    begin: Begin, tmp_path: Path, temporary: Path
) -> None:
    run = begin("os._exit(1)", "-n", "1", "--max-worker-restart", "1")
    said, _ = run.communicate(timeout=WAIT_SECONDS_MAX)

    assert "2 failed" in said, said
    (_, one, _), (_, other, _) = ports(tmp_path)
    assert one == other, "the server went with the worker that had started it"
    assert left_in(temporary) == []
    wait_until(lambda: not processes_in(temporary), "servers outlive their run")


@pytest.mark.parametrize(
    ("environ", "outcome"),
    [({"CI": ""}, "2 skipped"), ({"CI": "true"}, "2 errors")],
    ids=["here", "in CI"],
)
def test_missing_server_skips_here_and_fails_in_ci(
    begin: Begin, tmp_path: Path, environ: dict[str, str], outcome: str
) -> None:
    (tmp_path / "conftest.py").write_text(
        'pytest_plugins = ["tests.server_fixtures"]\n'
        "from tests import servers\n"
        "servers.find_postgres = lambda: None\n"
    )

    said, _ = begin("", "-rs", **environ).communicate(timeout=WAIT_SECONDS_MAX)

    assert outcome in said, said
    assert "PostgreSQL is not installed" in said
