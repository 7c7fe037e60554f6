"""Runs cases in another process: another hash seed, perhaps another Python.

Run as a script it reads one JSON request a line and answers each with one line. It
needs nothing but durable, msgspec and typing_extensions.
"""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from durable.core.history.events import HistoryEvent
from durable.testing.histories import dump_history, load_history
from durable.testing.programs.schedules import Case, drive_case
from durable.testing.replaying import replay_at_every_prefix

ROOT: Final = Path(__file__).resolve().parents[2]
_PROBE: Final = "import sys, msgspec, typing_extensions; print(*sys.version_info[:2])"


class Request(msgspec.Struct):
    """Drive this case, and replay this history of it."""

    case: Case
    run_id: str
    history: str


class Answer(msgspec.Struct):
    """The history of the case here, or what went wrong."""

    history: str = ""
    error: str = ""


class OtherProcess:
    """One other process, kept for many cases."""

    def __init__(self, python: str, *, hash_seed: int) -> None:
        self._process = subprocess.Popen(
            [python, "-W", "error", str(Path(__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONHASHSEED": str(hash_seed),
                "PYTHONPATH": str(ROOT),
            },
        )

    def drive(
        self, case: Case, run_id: str, history: list[HistoryEvent]
    ) -> list[HistoryEvent]:
        """Drive the case and replay the history there; give what it recorded."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        request = Request(case, run_id, dump_history(history))
        stdin.write(msgspec.json.encode(request) + b"\n")
        stdin.flush()
        answer = msgspec.json.decode(stdout.readline(), type=Answer)
        assert not answer.error, answer.error
        return load_history(answer.history)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        assert self._process.returncode == 0


@functools.cache
def find_other_python() -> str | None:
    """An interpreter of another version that has what the core needs."""
    candidates = [
        os.environ.get("DURABLE_OTHER_PYTHON", ""),
        *(str(ROOT / venv / "bin" / "python") for venv in (".venv-newest", ".venv")),
        *(shutil.which(f"python3.{minor}") or "" for minor in range(20, 10, -1)),
    ]
    for candidate in candidates:
        if not candidate or not Path(candidate).exists():
            continue
        found = subprocess.run(
            [candidate, "-c", _PROBE], capture_output=True, text=True, check=False
        )
        if found.returncode == 0:
            version = tuple(map(int, found.stdout.split()))
            if version >= (3, 11) and version != sys.version_info[:2]:
                return candidate
    return None


def serve() -> None:
    """Answer requests until there are no more."""
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line, type=Request)
        try:
            driver = drive_case(request.case, run_id=request.run_id)
            replay_at_every_prefix(request.history)
            answer = Answer(history=dump_history(driver.history))
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            answer = Answer(error=f"{type(error).__name__}: {error}")
        sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
