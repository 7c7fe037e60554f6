"""Every example runs as its reader would run it, and has something to show."""

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = sorted(
    [*(ROOT / "examples").glob("*.py"), *(ROOT / "examples").glob("*/run.py")]
)
SECONDS_MAX = 60


@pytest.mark.slow
@pytest.mark.sweep(3)
@pytest.mark.timeout(SECONDS_MAX + 10)
@pytest.mark.parametrize(
    "example", EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_example_runs_and_prints(example: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.strip()
    for file, query in re.findall(r"^ +sqlite3 (\S+) '(.+)'$", done.stdout, re.M):
        with closing(sqlite3.connect(tmp_path / file)) as connection:
            assert connection.execute(query).fetchall()
