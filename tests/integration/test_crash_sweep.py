"""The crash sweep of `crash_sweep.py`, run as a test."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

POINTS_MIN = 300
"""So many moments the reference workflow must offer, or the sweep has gone blind."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends SIGKILL")
def test_a4_a_kill_at_any_statement_loses_and_repeats_nothing() -> None:
    program = Path(__file__).with_name("crash_sweep.py")
    done = subprocess.run(
        [sys.executable, str(program), "1", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) moments, (\d+) tried, (\d+) crashed", done.stdout)
    assert counts is not None, done.stdout
    moments, tried, crashed = map(int, counts.groups())
    assert moments >= POINTS_MIN
    assert tried == moments
    # Grouping differs from run to run by a statement or two at the very end.
    assert crashed >= moments * 0.95
