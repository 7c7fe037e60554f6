"""Which process holds SQLite's write lock, as far as the kernel tells.

With a write-ahead log the locks are byte ranges of the index file beside the database.
They are looked up by inode: opening that file and closing it again would drop whatever
locks this process holds on it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_LOCKS: Final = Path("/proc/locks")
_PROCESSES: Final = Path("/proc")
# Bytes of the index: one writer, and whoever reads the log anew after a crash.
_WRITE_LOCKS: Final = frozenset({120, 122})
_COMMAND_CHARS_MAX: Final = 80


def find_holders(database: Path, *, with_myself: bool = False) -> list[int]:
    """Return the ids of processes that keep everybody from writing, sorted.

    This process is left out unless it is to be told, since one of its connections
    waits, that another one has the lock.

    Empty if there is none, or if this system does not tell. 0 stands for a process of
    another namespace of process ids, such as one outside of this container.
    """
    try:
        inode = os.stat(f"{database}-shm").st_ino
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return []
    holders = {
        max(process_id, 0)
        for line in lines
        for process_id, locked, first, last in _parse(line)
        if locked == inode and not _WRITE_LOCKS.isdisjoint(range(first, last + 1))
    }
    return sorted(holders if with_myself else holders - {os.getpid()})


def _parse(line: str) -> list[tuple[int, int, int, int]]:
    """Read process id, inode and byte range of a lock that excludes all others."""
    fields = line.split()
    # Who only waits has an arrow before the kind of lock.
    if len(fields) != 8 or fields[1] not in ("POSIX", "OFDLCK") or fields[3] != "WRITE":
        return []
    _, _, _, _, process_id, file, first, last = fields
    if last == "EOF":
        return []  # never by SQLite
    try:
        return [
            (int(process_id), int(file.rsplit(":", 1)[1]), int(first), int(last)),
        ]
    except (ValueError, IndexError):
        return []


def describe_holder(process_id: int) -> str:
    """Name a process: its id, its program, and whether it is paused."""
    if process_id == os.getpid():
        return "another connection of this process"
    if process_id == 0:
        return "a process that cannot be seen from here"
    program = _describe_program(_read(process_id, "cmdline").split("\0"))
    name = f"process {process_id}"
    if program:
        name += f" ({program[:_COMMAND_CHARS_MAX]})"
    # The state follows the name, which may hold blanks and parentheses.
    state = _read(process_id, "stat").rpartition(")")[2].split()
    if state and state[0] in ("T", "t"):
        name += ", which is stopped (SIGCONT lets it go on)"
    return name


def is_gone(process_id: int) -> bool:
    """Whether a process has ended, as far as this system tells."""
    if not _LOCKS.exists():
        return False
    state = _read(process_id, "stat").rpartition(")")[2].split()
    return not state or state[0] in ("Z", "X")


def _describe_program(words: list[str]) -> str:
    """Show what runs, not its options: those may hold a password."""
    name = words[0].rpartition("/")[2]
    if len(words) > 2 and words[1] == "-m":
        return f"{name} -m {words[2]}"
    if len(words) > 1 and words[1] and not words[1].startswith("-"):
        return f"{name} {words[1]}"
    return name


def _read(process_id: int, name: str) -> str:
    try:
        return (_PROCESSES / str(process_id) / name).read_text(errors="replace")
    except OSError:
        return ""
