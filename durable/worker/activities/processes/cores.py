"""How many processes make sense here: the cores that this one may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/")
_V1_CONTROLLER: Final = "cpu"


def usable_cores(root: Path = _ROOT) -> int:
    """Count them: those that affinity and the limits of control groups leave.

    Args:
        root: where `proc` and `sys` are.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        count = os.cpu_count() or 1
    # Half a core still has something to do for a process.
    return max(1, min([count, *map(math.ceil, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The limits, in cores, of every group that this process is in."""
    mount = root / "sys" / "fs" / "cgroup"
    for line in _read(root / "proc" / "self" / "cgroup").splitlines():
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers:
            for folder in _upward(mount, path):
                quota, _, period = _read(folder / "cpu.max").partition(" ")
                yield from _ratio(quota, period)
        elif _V1_CONTROLLER in controllers.split(","):
            for folder in _upward(mount / _V1_CONTROLLER, path):
                quota = _read(folder / "cpu.cfs_quota_us")
                yield from _ratio(quota, _read(folder / "cpu.cfs_period_us"))


def _upward(mount: Path, path: str) -> Iterator[Path]:
    """A group's folder, and those of the groups around it.

    In a container the path may be the host's, of which only the root is there.
    """
    group = mount / path.lstrip("/")
    while group != mount and mount in group.parents:
        yield group
        group = group.parent
    yield mount


def _ratio(quota: str, period: str) -> Iterator[float]:
    # No limit is `max`, and -1 in the first version.
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
