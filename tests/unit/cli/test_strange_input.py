"""What a stranger types: each is refused, or done, in words that help."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.invoking import APP, error_of, invoke, lines_of

ROOT = Path(__file__).resolve().parents[3]
SHAPE = "is not of the form MODULE:WORKFLOW"
SPANS = 'Give seconds, or text such as "30s", "1h30m" or "PT5M".'
STRANGE = [
    (("run", ":cli_failing"), "usage", f"':cli_failing' {SHAPE}."),
    (("run", APP), "usage", f"{APP!r} {SHAPE}."),
    (("start", ":cli_failing"), "usage", f"':cli_failing' {SHAPE}."),
    (
        ("run", f"{APP}:failing", "--queue", ""),
        "invalid_id",
        "the task queue is empty: give it at least one character.",
    ),
    (
        ("list", "--status", "stuck", "--not-stuck"),
        "usage",
        "--status stuck and --not-stuck exclude each other.",
    ),
    (
        ("show", "done", "--run-id", "\udcff"),
        "invalid_id",
        "the run id '\\udcff' holds a lone surrogate, which no database keeps.",
    ),
    (
        ("result", "sleeping", "--timeout", "1e3"),
        "invalid_duration",
        "--timeout is '1e3', which is no duration.",
    ),
]


@pytest.mark.parametrize(("args", "code", "message"), STRANGE)
def test_strange_input_is_refused_in_words_that_help(
    args: tuple[str, ...], code: str, message: str, folder: Path
) -> None:
    done = invoke(*args, "--json")

    assert done.exit_code == 2
    error = error_of(done)
    assert (error["code"], error["message"]) == (code, message)
    if code == "invalid_duration":
        assert error["hint"] == SPANS
    assert len(lines_of(invoke("list", "--json"))) == 4, "something was started"


def test_plain_number_is_a_number_of_seconds(folder: Path) -> None:
    done = invoke("result", "sleeping", "--timeout", "0.01")

    assert done.exit_code == 6
    assert "has not ended within 0.01 s" in done.stderr


@pytest.mark.parametrize("command", ["cancel", "terminate"])
def test_reason_that_no_database_keeps_is_spelt_out(command: str, folder: Path) -> None:
    done = invoke(command, "sleeping", "--reason", "caf\udce9")

    assert done.exit_code == 0
    if command == "terminate":
        assert "terminated: caf\\udce9" in invoke("show", "sleeping").stdout


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "args",
    [
        ("start", "cli_failing", "@deep.json"),
        ("run", f"{APP}:failing", "--input", "@deep.json"),
        ("signal", "sleeping", "x", "@deep.json"),
        ("resolve", "sleeping", "1", "--result", "@deep.json"),
    ],
    ids=" ".join,
)
def test_json_that_is_nested_too_deep_is_wrong_usage(
    args: tuple[str, ...], folder: Path
) -> None:
    Path("deep.json").write_text(DEEP)

    done = invoke(*args, "--json")

    assert done.exit_code == 2
    assert "recursion depth exceeded" in error_of(done)["message"]


# --- who listens ----------------------------------------------------------------------


def list_into(where: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        f"exec {sys.executable} -m durable list {where}",
        shell=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_full_disk_is_named(folder: Path) -> None:
    (folder / "orders.db").chmod(0o600)
    done = list_into(">/dev/full", folder)

    assert done.returncode == 1
    assert done.stderr == (
        "error: [Errno 28] No space left on device.\ncode: system_error\n"
    )


@pytest.mark.slow
def test_command_may_be_started_without_an_output(folder: Path) -> None:
    (folder / "orders.db").chmod(0o600)
    done = list_into(">&-", folder)

    assert (done.returncode, done.stderr) == (0, "")
