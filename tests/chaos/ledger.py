"""What happened, outside of the database: a file to which every process only appends.

Each line is one write, so a process that is killed leaves no half of one, and nothing
that it wrote is lost with it. `at` is the monotonic clock of the machine in seconds,
which all processes share.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final, TypeAlias

Line: TypeAlias = dict[str, Any]
ALL: Final = "all"
WIRE: Final = "wire"
"""Whom a fault strikes, if it is no process: the server and so all, or connections."""
FILE: Final = "ledger.jsonl"
QUIET: Final = "quiet"
"""The file that says: begin nothing more."""
NAME_VARIABLE: Final = "CHAOS_NAME"
FOLDER_VARIABLE: Final = "CHAOS_FOLDER"
SABOTAGE_VARIABLE: Final = "CHAOS_SABOTAGE"


class Ledger:
    """Appends lines in the name of one process."""

    def __init__(self, folder: Path, by: str) -> None:
        self.by = by
        mode = os.O_CREAT | os.O_WRONLY | os.O_APPEND
        self._file = os.open(folder / FILE, mode, 0o644)

    def write(self, what: str, **fields: object) -> None:
        line = {"at": time.monotonic(), "what": what, "by": self.by, **fields}
        os.write(self._file, f"{json.dumps(line)}\n".encode())

    def fault(self, name: str, since: float, of: str = ALL) -> None:
        """Something went wrong from an instant until now, for a process or others."""
        self.write("fault", fault=name, since=since, of=of)


def of_this_process() -> Ledger | None:
    """The ledger that the environment names; without one nobody keeps a ledger."""
    folder, name = os.environ.get(FOLDER_VARIABLE), os.environ.get(NAME_VARIABLE)
    return Ledger(Path(folder), name) if folder and name else None


def read(folder: Path) -> list[Line]:
    text = (folder / FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
