"""Packages of the same import name: named by the doctor, and where an import fails."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import durable
from durable.doctor.doctor import find_package_clash
from durable.doctor.findings import Check
from durable.namesakes import OURS

PACKAGE = Path(durable.__file__).parent
ROOT = PACKAGE.parent
NAMES = ("python-durable", "durable_python", "durable_rules", "something-else")
OUTCOMES = {
    "__init__.py": "from durable.lang import ruleset\n",
    "lang.py": "ruleset = None\n",
    "engine.py": "class Host: ...\n",
}


def install(folder: Path, name: str, files: dict[str, str]) -> None:
    """Put a distribution there, as pip does."""
    info = folder / f"{name.replace('-', '_')}-2.0.28.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0.28\n"
    (info / "METADATA").write_text(metadata)
    record = [f"{info.name}/METADATA,,", f"{info.name}/RECORD,,"]
    for file, text in files.items():
        path = folder / "durable" / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        record.append(f"durable/{file},,")
    (info / "RECORD").write_text("\n".join(record) + "\n")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_first", [True, False], ids=["before us", "behind us"])
def test_package_of_the_same_import_name_is_found(
    name: str, is_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(find_package_clash()) == []
    install(tmp_path, name, OUTCOMES)
    (tmp_path / "unrelated-1.dist-info").mkdir()
    theirs = str(tmp_path)
    path = [theirs, *sys.path] if is_first else [*sys.path, theirs]
    monkeypatch.setattr(sys, "path", path)

    (finding,) = find_package_clash()

    assert finding.check is Check.PACKAGE_CLASH
    assert finding.message.startswith(
        f"{name} 2.0.28 has a package 'durable', too, at {tmp_path / 'durable'}:"
    )
    assert f"pip uninstall {name};" in finding.message


def test_our_own_name_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["name"] == OURS


# --- in one folder --------------------------------------------------------------------


class Mixture:
    """A folder with this library and another, which was installed over it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PACKAGE, folder / "durable", ignore=ignored)
        shutil.copytree(ROOT / "migrations", folder / "durable" / "_migrations")

    def install(self, *files: str) -> None:
        chosen = {file: OUTCOMES.get(file, "") for file in files}
        install(self._folder, "python-durable", chosen)

    def python(self, *args: str) -> subprocess.CompletedProcess[str]:
        path = {"PYTHONPATH": str(self._folder)}
        return subprocess.run(
            [sys.executable, *args],
            env={**os.environ, **path},
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=60,
        )


@pytest.fixture
def mixture(tmp_path: Path) -> Mixture:
    return Mixture(tmp_path)


@pytest.mark.slow
def test_import_that_fails_in_a_mixture_names_the_other_package(
    mixture: Mixture,
) -> None:
    mixture.install("engine.py", "lang.py")

    done = mixture.python("-c", "from durable import Engine")

    assert done.returncode == 1
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"ImportError: {OURS} could not be imported (module")
    assert (
        "python-durable 2.0.28 has put modules of its own among this library's"
        " (durable/engine.py, durable/lang.py); uninstall it" in error
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "args"),
    [
        (("errors.py",), ["list"]),  # the command line cannot be imported at all
        (("engine.py",), ["list"]),  # a command cannot
        (("__init__.py", "lang.py"), ["--version"]),  # our first module is gone
    ],
    ids=["errors", "engine", "package"],
)
def test_command_that_fails_in_a_mixture_names_the_other_package(
    files: tuple[str, ...], args: list[str], mixture: Mixture
) -> None:
    mixture.install(*files)

    done = mixture.python("-m", "durable", *args)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"error: {OURS} could not be imported (" in done.stderr
    assert "python-durable 2.0.28 has put modules of its own" in done.stderr


@pytest.mark.slow
def test_doctor_names_a_package_that_has_replaced_our_first_module(
    mixture: Mixture,
) -> None:
    mixture.install("__init__.py", "lang.py")
    assert mixture.python("-m", "durable", "db", "upgrade").returncode == 0

    done = mixture.python("-m", "durable", "doctor")

    assert done.returncode == 1
    assert done.stdout.startswith("package_clash   python-durable 2.0.28 has put")


@pytest.mark.slow
def test_import_that_fails_for_another_reason_says_that_reason(
    mixture: Mixture, tmp_path: Path
) -> None:
    (tmp_path / "durable" / "sync.py").write_text("import nowhere\n")

    done = mixture.python("-c", "from durable import SyncEngine")

    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: No module")
