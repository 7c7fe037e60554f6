"""The kills of `entity_kill.py`, run as a test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
POINTS_MIN = 150
"""So many moments the transfers must offer, or the sweep has gone blind."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends SIGKILL")
def test_a_kill_at_any_statement_loses_no_call_and_repeats_none() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.entity_kill", "1", "2"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) moments, (\d+) tried, (\d+) crashed", done.stdout)
    assert counts is not None, done.stdout
    moments, tried, crashed = map(int, counts.groups())
    assert moments >= POINTS_MIN
    # What comes together shares a commit, so runs differ by some statements.
    assert crashed >= tried * 0.8
