"""What this machine is and what its disk can do: the yardsticks of the figures."""

import platform
import resource
import sqlite3
import sys
import time
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any


def describe_machine(directory: Path) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": _count_processors(),
        "sqlite": sqlite3.sqlite_version,
        "filesystem": find_filesystem(directory),
        "packages": {
            name: find_version(name)
            for name in ("durable-asyncio", "dbos", "sqlalchemy", "msgspec")
        },
    }


def _count_processors() -> int:
    import os

    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def find_filesystem(directory: Path) -> str:
    """The type of the filesystem that holds a directory, where that can be told."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    best, kind = Path("/"), "unknown"
    for line in mounts.read_text().splitlines():
        fields = line.split()
        point = Path(fields[1].replace("\\040", " "))
        if directory.resolve().is_relative_to(point) and len(point.parts) >= len(
            best.parts
        ):
            best, kind = point, fields[2]
    return kind


def resident_bytes() -> int:
    """Memory of this process that is in RAM now."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1_024


class Yardstick:
    """One-row commits of this disk: raw sqlite3, WAL, synchronous=FULL.

    A disk may be ten times slower a second later, so whoever counts in commits makes
    one between any two things measured.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "yardstick.db"
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, data TEXT)")
        self._taken: list[float] = []

    def commit(self) -> None:
        execute = self._connection.execute
        began = time.perf_counter()
        execute("BEGIN IMMEDIATE")
        execute("INSERT INTO row (data) VALUES (?)", ("x" * 200,))
        execute("COMMIT")
        self._taken.append(time.perf_counter() - began)

    def close(self) -> float:
        """The middle one of all commits, in seconds."""
        self._connection.close()
        return median(self._taken)
