"""What is said of others that use the same SQLite file."""

from __future__ import annotations

import logging
import sqlite3
from typing import TYPE_CHECKING, Final

from durable import limits
from durable.store.sqlite.locks import describe_holder, find_holders

if TYPE_CHECKING:
    from pathlib import Path

_log: Final = logging.getLogger("durable.store")

_said_versions: Final[set[tuple[int, ...]]] = set()


def say_if_faulty(name: str, workers: int) -> None:
    """Warn, once in a process, of an SQLite that several workers had better not use."""
    version = sqlite3.sqlite_version_info
    first, mended = limits.SQLITE_WAL_FAULT
    if workers < 2 or not first <= version < mended or version in _said_versions:
        return
    _said_versions.add(version)
    _log.warning(
        "%d workers share %s under SQLite %s, which may corrupt it if another program"
        " checkpoints it meanwhile. SQLite %s and later do not: see"
        " docs/how-to/share-a-database.md.",
        workers,
        name,
        sqlite3.sqlite_version,
        ".".join(map(str, mended)),
    )


class LockWatch:
    """Says once that others keep everybody from writing, who, and when that is over."""

    def __init__(self, name: str, path: Path | None) -> None:
        self._name = name
        self._path = path
        self.is_locked = False

    def find_holders(self) -> list[str]:
        """Name who holds the lock that a connection of this process waits for."""
        if self._path is None:
            return []
        return [
            describe_holder(process_id)
            for process_id in find_holders(self._path, with_myself=True)
        ]

    def locked(self, since: float, until: float) -> None:
        """Somebody has had the lock for `since` seconds; the wait ends at `until`."""
        if self.is_locked:
            return
        self.is_locked = True
        _log.warning(
            "%s cannot be written: %s has held its write lock for over %g s. Nothing"
            " is recorded until it is given up, and what waits for that fails after"
            " %g s. A transaction that writes must be short.",
            self._name,
            "; ".join(self.find_holders()) or "another connection",
            since,
            until,
        )

    def unlocked(self) -> None:
        """A transaction has begun after all."""
        self.is_locked = False
        _log.info("%s can be written again.", self._name)
