"""README's program, killed at random and started again, orders once."""

import os
import random
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sizes import IS_ALL

ROOT = Path(__file__).resolve().parent.parent.parent
KILLS = 10 if IS_ALL else 4
SECONDS_MAX = 60
RESULT = "receipt-42, parcel-42\n"
# What a start may say: it found an attempt that was killed.
TOLD = re.compile(r"(Activity '\w+' .* attempt \d+ failed: OutcomeUnknown: .*\n)?")

# What the reader puts where the comment stands: a provider that is slow, and keeps a
# book of its own.
PROVIDER = """\
with open("book.txt", "a") as book:
        print(os.getpid(), "charge", file=book)
    await asyncio.sleep(0.1)
    return f"receipt-{order_id}"
"""


def read_program() -> str:
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    place = re.compile(r'return f"receipt-\{order_id\}".*call your payment.*\n')
    program, count = place.subn(PROVIDER, found[1])
    assert count == 1
    return f"import os\n{program}"


def start(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "orders.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_book(folder: Path) -> list[str]:
    book = folder / "book.txt"
    return book.read_text().splitlines() if book.exists() else []


def kill_at_random(
    process: "subprocess.Popen[str]", folder: Path, moment: float
) -> bool:
    """Kill it a moment after its start, or a moment into its charge.

    False if it was done before.
    """
    begun = len(read_book(folder))
    is_within = moment < 0.5
    while is_within and process.poll() is None and len(read_book(folder)) == begun:
        time.sleep(0.002)
    try:
        process.wait(timeout=moment * 0.3 if is_within else moment)
    except subprocess.TimeoutExpired:
        process.kill()
        return True
    return False


def count(folder: Path, query: str) -> int:
    connection = sqlite3.connect(folder / "orders.db")
    try:
        found: int = connection.execute(query).fetchone()[0]
        return found
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS_MAX * 2)
def test_readme_program_killed_and_started_again_orders_once(tmp_path: Path) -> None:
    (tmp_path / "orders.py").write_text(read_program())
    moments = random.Random(2)
    printed: list[str] = []
    killed: set[int] = set()
    for _ in range(KILLS):
        process = start(tmp_path)
        is_killed = kill_at_random(process, tmp_path, moments.random())
        output, errors = process.communicate(timeout=SECONDS_MAX)
        assert TOLD.fullmatch(errors), errors
        if is_killed:
            killed.add(process.pid)
        else:
            assert process.returncode == 0
            printed.append(output)
    for _ in range(2):
        process = start(tmp_path)
        output, errors = process.communicate(timeout=SECONDS_MAX)
        assert process.returncode == 0
        assert TOLD.fullmatch(errors), errors
        printed.append(output)

    assert set(printed) == {RESULT}
    charged = [int(line.split()[0]) for line in read_book(tmp_path)]
    # Begun once, and once more at most for each process that was killed within it.
    assert len(charged) == len(set(charged))
    assert set(charged[:-1]) <= killed
    assert count(tmp_path, "SELECT count(*) FROM durable_runs") == 1
    receipts = (
        "SELECT count(*) FROM durable_history WHERE type = 'ActivityTaskCompleted'"
        " AND data LIKE '%\"receipt-42\"%'"
    )
    assert count(tmp_path, receipts) == 1
