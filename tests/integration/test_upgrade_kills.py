"""Random programs in two versions, killed and moved, end as their rules say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sizes import examples, share

ROOT = Path(__file__).parents[2]
WHICH, PARTS = share()
STEP = min(PARTS, 5)  # three a day at least
SEEDS = range(WHICH % STEP, examples(15), STEP)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(150),  # a dozen workers begin, one after the other
    pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends SIGKILL"),
]


@pytest.mark.parametrize("seed", SEEDS)
def test_runs_that_change_hands_end_as_their_rules_say_whatever_is_killed(
    shared_url: str, tmp_path: Path, seed: int
) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    words = ["tests.integration.upgrade_kill", shared_url, str(folder), str(seed)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    killed, _, _ = done.stdout.partition(" killed")
    assert int(killed) >= 2, "the search has gone blind"
