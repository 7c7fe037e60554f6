"""Both type checkers accept good code and reject bad code, line by line.

`accept_*.py` beside this file must be free of errors. In `reject_*.py` each line that
ends with `# E` must have an error, and no other line may.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Message by file and line; of several on one line the last stands for all.
Errors = dict[tuple[Path, int], str]
Checker = Callable[[list[Path], Path], Errors]

# A first run reads the stubs of every dependency.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run_checker(module: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    # Checkers exit with 1 for errors in the code and with more when they break. A
    # module that is not installed also gives 1, but prints nothing to standard output.
    if done.returncode > 1 or (done.returncode == 1 and not done.stdout):
        pytest.fail(f"{module} broke:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def find_mypy_errors(files: list[Path], scratch: Path) -> Errors:
    """Run mypy, strict by pyproject.toml.

    A shared cache would repeat the errors of a file that was moved under its old path,
    and be rebuilt by every other interpreter.
    """
    cache = f"--cache-dir={scratch / 'mypy'}"
    output = run_checker("mypy", cache, "--output=json", *map(str, files))
    found = (json.loads(line) for line in output.splitlines())
    return {
        (ROOT / error["file"], error["line"]): error["message"]
        for error in found
        if error["severity"] == "error"
    }


def find_pyright_errors(files: list[Path], scratch: Path) -> Errors:
    """Run basedpyright, strict by a project file of its own.

    The settings of pyproject.toml include nothing but the library.
    """
    project = scratch / "pyrightconfig.json"
    settings = {
        "include": [str(file) for file in files],
        "extraPaths": [str(ROOT)],
        "pythonVersion": "3.11",
        "typeCheckingMode": "strict",
    }
    project.write_text(json.dumps(settings), encoding="utf-8")
    output = run_checker(
        "basedpyright",
        "--outputjson",
        f"--project={project}",
        f"--pythonpath={sys.executable}",
    )
    return {
        (Path(error["file"]), error["range"]["start"]["line"] + 1): error["message"]
        for error in json.loads(output)["generalDiagnostics"]
        if error["severity"] == "error"
    }


def find_expected(files: Iterable[Path]) -> set[tuple[Path, int]]:
    return {
        (file, number)
        for file in files
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if line.rstrip().endswith("# E")
    }


def find_surprises(folder: Path, checker: Checker, scratch: Path) -> list[str]:
    """Compare what the checker says about the files of a folder with their marks."""
    accepted, rejected = (
        sorted(folder.glob(pattern)) for pattern in ("accept_*.py", "reject_*.py")
    )
    if not accepted + rejected:
        return []
    files = {*accepted, *rejected}
    errors = {
        place: message
        for place, message in checker([*accepted, *rejected], scratch).items()
        if place[0] in files
    }
    expected = find_expected(rejected)
    return [
        *(
            f"{file.name}:{line}: expected an error"
            for file, line in sorted(expected - errors.keys())
        ),
        *(
            f"{file.name}:{line}: unexpected error: {errors[file, line]}"
            for file, line in sorted(errors.keys() - expected)
        ),
    ]


@pytest.fixture(params=[find_mypy_errors, find_pyright_errors], ids=["mypy", "pyright"])
def checker(request: pytest.FixtureRequest) -> Checker:
    checker: Checker = request.param
    return checker


def test_checker_agrees_with_the_marks(checker: Checker, tmp_path: Path) -> None:
    surprises = find_surprises(HERE, checker, tmp_path)
    assert not surprises, "\n".join(["", *surprises])


def test_wrong_marks_are_reported(checker: Checker, tmp_path: Path) -> None:
    (tmp_path / "accept_one.py").write_text(
        "good: int = 1\n"
        "bad: int = 'one'  # E\n"  # A mark is of no use where all must be accepted.
    )
    (tmp_path / "reject_one.py").write_text(
        "marked: int = 'one'  # E\n"
        "good: int = 1  # E\n"
        "bad: int = 'one'\n"
        "def untyped(argument): ...\n"
    )

    surprises = find_surprises(tmp_path, checker, tmp_path)

    assert [surprise.split(": ")[:2] for surprise in surprises] == [
        ["reject_one.py:2", "expected an error"],
        ["accept_one.py:2", "unexpected error"],
        ["reject_one.py:3", "unexpected error"],
        ["reject_one.py:4", "unexpected error"],
    ]


def test_missing_checker_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="no_such_checker broke"):
        run_checker("no_such_checker")
