"""Which process this is, and whether another on the same host still lives.

A process id means something only within one boot and one process namespace, and may be
used again; so workers record all three, and the process's start time.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def host_identity() -> str:
    """Machine, boot and process namespace, as one text."""
    boot = _read(_PROC / "sys" / "kernel" / "random" / "boot_id")
    try:
        namespace = os.readlink(_PROC / "self" / "ns" / "pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}/{boot}/{namespace}"[:255]


def process_start(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty if that cannot be told."""
    stat = _read(_PROC / str(pid) / "stat")
    fields = stat.rpartition(")")[2].split()
    # Field 22 of proc(5)'s stat, counted after the name, which may hold blanks.
    return fields[19] if len(fields) > 19 else ""


def is_dead(pid: int, started: str) -> bool:
    """Whether a process of this host is certainly gone. In doubt: False."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    now = process_start(pid)
    return bool(started) and bool(now) and now != started
