"""The kills of `saga_kill.py`, run as a test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
STEP_SIZE = 3
POINTS_MIN = 60
UNDOING_MIN = 10
"""So many kills must fall into the undoing, or the test has gone blind."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends SIGKILL")
def test_a_saga_that_is_killed_in_the_middle_of_undoing_undoes_the_rest() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.saga_kill", "1", str(STEP_SIZE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) crashed, (\d+) while undoing, 0 wrong", done.stdout)
    assert counts is not None, done.stdout
    crashed, undoing = map(int, counts.groups())
    assert crashed >= POINTS_MIN
    assert undoing >= UNDOING_MIN
