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


def time_commits(directory: Path, count: int) -> list[float]:
    """Seconds of each one-row commit: raw sqlite3, WAL, synchronous=FULL."""
    path = directory / f"yardstick-{time.perf_counter_ns()}.db"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, data TEXT)")
        data = "x" * 200
        taken = []
        for number in range(count):
            began = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("INSERT INTO row VALUES (?, ?)", (number, data))
            connection.execute("COMMIT")
            taken.append(time.perf_counter() - began)
        return taken
    finally:
        connection.close()


def commit_seconds(directory: Path, count: int) -> float:
    """The middle one of many one-row commits."""
    return median(time_commits(directory, count))
