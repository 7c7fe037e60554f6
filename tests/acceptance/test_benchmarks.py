"""The benchmarks run to their end and every figure comes out; none is judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.databases import SQLITE, Servers
from tests.benchmarks.figures import FIGURES
from tests.benchmarks.plan import DBOS, WORKLOADS
from tests.benchmarks.server_figures import SERVER_FIGURES

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_MAX = 50
ALL_FIGURES = [*FIGURES, *SERVER_FIGURES]
MEASURED = [
    (w.name, database)
    for w in WORKLOADS
    if w.subjects != (DBOS,)
    for database in w.databases
]


def test_every_workload_has_a_figure() -> None:
    assert {(f.workload, f.database) for f in ALL_FIGURES} == set(MEASURED)


@pytest.mark.slow
@pytest.mark.sweep(3)
@pytest.mark.parametrize(("workload", "database"), MEASURED)
def test_every_figure_of_durable_comes_out(
    workload: str, database: str, tmp_path: Path
) -> None:
    if database != SQLITE and (lack := Servers.find_lack(database)):
        pytest.skip(lack)
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks"),
            *("--scale", "tiny", "--no-dbos", "--only", workload, "--on", database),
            *("--json", str(file)),
            # Servers run as users who may not look into the folder of a test.
            *(("--dir", str(tmp_path)) if database == SQLITE else ()),
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
        f.key for f in ALL_FIGURES if (f.workload, f.database) == (workload, database)
    }
    for row in figures.values():
        # Too few to be seen in memory, beside what opening takes, or to be shared.
        if not row["key"].startswith(("sleeping", "opened", "gate", "shared")):
            assert row["durable"]["best"] > 0, row
        if row["must"] is not None:
            assert row["label"] in done.stdout
            assert "over_must" in row
