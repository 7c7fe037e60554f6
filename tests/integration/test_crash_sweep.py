"""The crash sweep of `crash_sweep.py`, run as a test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

POINTS_MIN = {"reference": 300, "family": 600}
"""So many moments a scenario must offer, or the sweep has gone blind."""
STRIDES = {"reference": 1, "family": int(os.environ.get("DURABLE_STRIDE", "8"))}
"""Every so many moments are visited; DURABLE_STRIDE=1 visits them all."""


@pytest.mark.slow
@pytest.mark.timeout(300 if STRIDES["family"] > 1 else 3_600)
@pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends SIGKILL")
@pytest.mark.parametrize("scenario", STRIDES)
def test_a4_a_kill_at_any_statement_loses_and_repeats_nothing(scenario: str) -> None:
    program = Path(__file__).with_name("crash_sweep.py")
    stride = STRIDES[scenario]
    done = subprocess.run(
        [sys.executable, str(program), scenario, "1", str(stride)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.search(r"(\d+) moments, (\d+) tried, (\d+) crashed", done.stdout)
    assert counts is not None, done.stdout
    moments, tried, crashed = map(int, counts.groups())
    assert moments >= POINTS_MIN[scenario]
    assert tried == (moments + stride - 1) // stride
    # Grouping differs from run to run, so the very last moments may not come.
    assert crashed >= tried * 0.9
