"""The suite itself: what a short run leaves out, and how a failure is repeated."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = (
    "pyproject.toml",
    "tests/conftest.py",
    "tests/guard.py",
    "tests/machine_tables.py",
    "tests/server_fixtures.py",
    "tests/servers.py",
    "tests/sizes.py",
)
SAMPLE = """
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers())
def test_numbers_are_small(number):
    with Path("drawn.txt").open("a") as drawn:
        print(number, file=drawn)
    assert number < 1_000_000


@pytest.mark.sweep(2)
@pytest.mark.parametrize("case", range(5))
def test_cases(case):
    with Path(f"case-{case}").open("w"):
        pass


@pytest.mark.sweep(1, of_class=True)
class TestMany:
    def test_one(self):
        Path("case-one").touch()

    def test_other(self):
        Path("case-other").touch()


def test_told_of_twice(request):
    request.addfinalizer(lambda: 1 / 0)
"""


def run(folder: Path, command: str, **environ: str) -> str:
    # As CI does, so that no database of earlier failures takes part.
    others = {k: v for k, v in os.environ.items() if not k.startswith("DURABLE_")}
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env={**others, "CI": "true", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "tests").mkdir()
    for name in OURS:
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "tests" / "test_sample.py").write_text(SAMPLE)
    return tmp_path


def cases(folder: Path) -> list[str]:
    found = sorted(path.name for path in folder.glob("case-*"))
    for name in found:
        (folder / name).unlink()
    return found


@pytest.mark.slow
def test_a_failing_test_tells_its_seed_and_the_command_that_repeats_it(
    suite: Path,
) -> None:
    drawn = suite / "drawn.txt"
    said = run(suite, f"{sys.executable} -m pytest -n 2", DURABLE_EXAMPLES="7")
    assert "1 failed, 4 passed, 1 error" in said, said
    (seed,) = re.findall(r"seed of all properties: (\d+)", said)
    first = drawn.read_text()
    drawn.unlink()
    commands = re.findall(r"^DURABLE_EXAMPLES=7 .* -m pytest .*$", said, re.MULTILINE)
    assert len(commands) == 2
    assert all(command.endswith(f"--hypothesis-seed={seed}") for command in commands)
    (command,) = (c for c in commands if "::test_numbers_are_small" in c)

    again = run(suite, command)

    assert "1 failed" in again, again
    assert "1 passed" not in again
    assert drawn.read_text() == first
    assert command in again


@pytest.mark.slow
def test_a_short_run_takes_some_cases_of_a_sweep_and_a_full_run_all(
    suite: Path,
) -> None:
    pytest_k = f"{sys.executable} -m pytest -k cases"
    assert "2 passed" in run(suite, pytest_k)
    assert cases(suite) == ["case-0", "case-2"]
    assert "5 passed" in run(suite, pytest_k, DURABLE_ALL="1")
    assert len(cases(suite)) == 5
    assert "2 passed" in run(suite, pytest_k, DURABLE_ALL="1", DURABLE_KILLS="1/5")
    assert cases(suite) == ["case-1", "case-3"]
    named = f"{sys.executable} -m pytest tests/test_sample.py::test_cases[4]"
    assert "1 passed" in run(suite, named)
    assert cases(suite) == ["case-4"]
    of_class = f"{sys.executable} -m pytest -k TestMany"
    assert "1 passed" in run(suite, of_class)
    assert cases(suite) == ["case-one"]
    assert "2 passed" in run(suite, of_class, DURABLE_ALL="1")
