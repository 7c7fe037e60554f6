"""The benchmarks run to their end and every figure comes out; none is judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.figures import FIGURES
from tests.benchmarks.plan import DBOS, WORKLOADS

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_MAX = 50
MEASURED = [w.name for w in WORKLOADS if w.subjects != (DBOS,)]


def test_every_workload_has_a_figure() -> None:
    assert {figure.workload for figure in FIGURES} == set(MEASURED)


@pytest.mark.slow
@pytest.mark.sweep(2)
@pytest.mark.parametrize("workload", MEASURED)
def test_every_figure_of_durable_comes_out(workload: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks"),
            *("--scale", "tiny", "--no-dbos", "--only", workload),
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
    assert set(figures) == {f.key for f in FIGURES if f.workload == workload}
    for row in figures.values():
        # Too few to be seen in the memory, in what opening takes, or to be shared.
        if not row["key"].startswith(("sleeping", "opened", "shared")):
            assert row["durable"]["best"] > 0, row
        if row["must"] is not None:
            assert row["label"] in done.stdout
            assert "over_must" in row
