"""The programs of README.md and docs/, outside of the repository, killed at random.

Each page's Python is pasted into a file and started as a process, killed and started
again until it ends by itself. Then all is as if nobody had killed it. A few pages are
tried; `DURABLE_PAGES=3` tries all of them three times.
"""

import json
import os
import random
import re
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.sizes import size

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_MAX = 90
KILLS_MAX = 5
TRIALS = size("DURABLE_PAGES", 0, 0)
SHARE = ("README.md", "docs/how-to/keep-entities.md", "docs/tutorial/orders.md")

NOT_EXECUTED = re.compile(r"<!-- not executed:[^>]*-->\s*\Z")
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
# Their later programs work on what a command between them makes.
FIRST_ONLY = ("docs/how-to/back-up.md", "docs/how-to/mend-a-failed-run.md")
# The page's program is a file that its first block writes; the others kill that.
WRITTEN = {"docs/tutorial/orders.md": "shop.py"}
# A run's id is another one for each database.
RUN_ID = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
# They send anew to a run that has ended, and are told so.
SENDERS = ("docs/how-to/run-for-years.md", "docs/how-to/talk-to-runs.md")


def read_program(page: str) -> str:
    text = (ROOT / page).read_text()
    blocks = [
        textwrap.dedent(found[2])
        for found in BLOCK.finditer(text)
        if not NOT_EXECUTED.search(text, 0, found.start())
    ]
    if page in WRITTEN:
        written = re.search(r'"""\n(.*?)"""', blocks[0], re.DOTALL)
        assert written is not None
        return written[1]
    return "\n\n".join(blocks[:1] if page in FIRST_ONLY else blocks)


PAGES = [
    page
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "__main__" in read_program(page := path.relative_to(ROOT).as_posix())
]


def _is_ours(database: Path) -> bool:
    """Whether a program keeps runs there, and not its own stock, say."""
    with closing(sqlite3.connect(database)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master").fetchall()
    return ("durable_history",) in names


class Pasted:
    """A page's program in a folder of its own."""

    def __init__(self, folder: Path, page: str) -> None:
        self.folder = folder
        self._page = page
        folder.mkdir()
        (folder / "pasted.py").write_text(read_program(page))

    def start(self) -> "subprocess.Popen[str]":
        scripts = str(Path(sys.executable).parent)
        path = os.pathsep.join([scripts, os.environ["PATH"]])
        return subprocess.Popen(
            [sys.executable, "pasted.py"],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": "", "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> list[str]:
        """Start it until nobody kills it, itself included; give its last line."""
        while True:
            process = self.start()
            output, errors = process.communicate(timeout=SECONDS_MAX)
            if process.returncode >= 0:
                break
        if process.returncode and self._page in SENDERS:
            assert "\ndurable.errors.WorkflowClosedError: " in errors
            return []
        assert (process.returncode, "Traceback" in errors) == (0, False), errors
        return [RUN_ID.sub("ID", line) for line in output.splitlines()[-1:]]

    def kill(self, moments: random.Random) -> None:
        """Start it, and kill it some time after its start or its database's."""
        is_at_work = moments.random() < 0.7
        seconds = moments.random() * (0.5 if is_at_work else 1.5)
        process = self.start()
        deadline = time.monotonic() + SECONDS_MAX
        while is_at_work and process.poll() is None and not self.is_written():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        _, errors = process.communicate(timeout=SECONDS_MAX)
        is_told = self._page in SENDERS and "WorkflowClosedError" in errors
        assert "Traceback" not in errors or is_told, errors

    def is_written(self) -> bool:
        return any(self.folder.glob("*.db-wal"))

    def examine(self) -> Iterator[tuple[str, str, str]]:
        """What the doctor finds, but for whose runs and when."""
        for database in sorted(filter(_is_ours, self.folder.glob("*.db"))):
            done = subprocess.run(
                [sys.executable, "-m", "durable", "doctor", "--json"],
                cwd=self.folder,
                env={**os.environ, "DURABLE_DATABASE_URL": f"sqlite:///{database}"},
                capture_output=True,
                text=True,
                timeout=SECONDS_MAX,
            )
            assert done.returncode in (0, 1), done.stderr
            for line in done.stdout.splitlines():
                found: dict[str, Any] = json.loads(line)
                yield database.name, found["check"], found["workflow_id"]


def share() -> list[Any]:
    if TRIALS:
        return [(page, trial) for trial in range(TRIALS) for page in PAGES]
    return [(page, 0) for page in SHARE]


def test_every_page_with_a_program_is_known() -> None:
    assert set(PAGES) >= {*SHARE, *FIRST_ONLY, *WRITTEN, *SENDERS}
    assert len(PAGES) > 12


@pytest.mark.slow
@pytest.mark.sweep(TRIALS * len(PAGES) or 1)
@pytest.mark.timeout(SECONDS_MAX * 4)
@pytest.mark.parametrize(("page", "trial"), share())
def test_page_that_is_killed_at_random_ends_as_if_it_had_not_been(
    page: str, trial: int, tmp_path: Path
) -> None:
    undisturbed, killed = (
        Pasted(tmp_path / name, page) for name in ("undisturbed", "killed")
    )
    said = undisturbed.finish()
    moments = random.Random(f"{page} {trial}")

    for _ in range(moments.randint(2, KILLS_MAX)):
        killed.kill(moments)
    last = killed.finish()

    assert last in (said, [] if page in SENDERS else said)
    assert set(killed.examine()) <= set(undisturbed.examine())
