"""The benchmarks run to their end and every figure comes out; none is judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_MAX = 120


@pytest.mark.slow
@pytest.mark.timeout(SECONDS_MAX + 10)
def test_every_figure_of_durable_comes_out(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks"),
            *("--scale", "tiny", "--no-dbos"),
            *("--dir", str(tmp_path), "--json", str(file)),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(file.read_text(encoding="utf-8"))
    figures = {row["key"]: row for row in found["figures"]}
    assert set(figures) == {
        "commit",
        "used",
        "import",
        "create",
        "core",
        "replay_core",
        "memory",
        "latency",
        "latency_in_commits",
        "concurrent",
        "concurrent_rate",
        "sequential",
        "sequential_growth",
        "long_run",
        "fanned",
        "signals",
        "signal_effect",
        "signals_across",
        "signal_effect_across",
        "queries",
        "children",
        "checkpoint_steps",
        "checkpoint_loads",
        "running_again",
        "recovered",
        "replay",
        "sleeping",
        "sleeping_per_run",
        "sleeping_reopened",
    }
    for row in figures.values():
        if not row["key"].startswith("sleeping"):  # too few to be seen in the memory
            assert row["durable"]["best"] > 0, row
        if row["must"] is not None:
            assert row["label"] in done.stdout
            assert "over_must" in row
