"""The file of an SQLite database: making it, knowing it again, who else may use it."""

from __future__ import annotations

import os
import sqlite3
import stat
import zlib
from pathlib import Path
from typing import Final

from durable.clock import SystemClock
from durable.store.threads.forking import FileIdentity

_MARK: Final = 0x64
_MARK_SHIFT: Final = 24

# Every size of every hot statement, and what SQLAlchemy adds.
_CACHED_STATEMENTS: Final = 512
# FAT counts in steps of 2 s, everything else in smaller ones.
_CLOCK_STEP: Final = 3_000_000_000
# That of the file system, whatever a store takes for the time.
_CLOCK: Final = SystemClock()
_OTHERS: Final = stat.S_IROTH | stat.S_IWOTH


def identity_of(path: str | Path) -> FileIdentity | None:
    """Device and inode of what is there now, if anything is."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def log_of(path: Path) -> Path:
    """The write-ahead log: beside the file itself, not beside a link to it."""
    return Path(f"{os.path.realpath(path)}-wal")


class Place:
    """Where the files of an open database were when it was opened.

    What SQLite has open goes on to exist without a name, for nobody to find. This is
    asked after every commit, so it takes one look at the folder, whose time changes
    with every name in it, and at the files only if it did.
    """

    __slots__ = ("_files", "_folder", "_is_linked", "_known")

    def __init__(self, path: Path) -> None:
        self._folder = str(path.parent)
        log = str(log_of(path))
        index = f"{log.removesuffix('-wal')}-shm"
        self._files = [(name, identity_of(name)) for name in (str(path), log, index)]
        # A link's folder says nothing of what becomes of the file.
        self._is_linked = path.is_symlink()
        self._known = (0, 0, 0)

    def is_held(self) -> bool:
        """Whether all of them are still there."""
        try:
            folder = os.stat(self._folder)
        except OSError:
            return False
        changed_at = folder.st_mtime_ns
        seen = (folder.st_dev, folder.st_ino, changed_at)
        if seen == self._known:
            return True
        if any(identity_of(name) != identity for name, identity in self._files):
            return False
        # Within the steps of a file system's clock it may change again unnoticed.
        if _CLOCK.now() * 1_000 - changed_at > _CLOCK_STEP and not self._is_linked:
            self._known = seen
        return True


def copied_mark(path: Path) -> int:
    """The `user_version` that the main file alone holds, and no reader of the log sees.

    While a program works, the main file lags behind its log. A copy of it alone would
    open without a word. So the log always holds a zero there: whoever finds a mark and
    no log has such a copy. A copy by SQLite's own means never shows it.

    The mark tells of which file it is, by place and inode. A program that dies as it
    marks leaves the mark in the log, and any tool that opens the file then copies it
    into the main file, which lacks nothing: it is still the same file.
    """
    identity = identity_of(path)
    inode = 0 if identity is None else identity[1]
    place = os.fsencode(os.path.realpath(path))
    kept = zlib.crc32(place, inode & 0xFFFFFFFF) & ((1 << _MARK_SHIFT) - 1)
    return _MARK << _MARK_SHIFT | kept


def is_copied_mark(version: int) -> bool:
    """Whether a `user_version` is such a mark, of whichever file."""
    return version >> _MARK_SHIFT == _MARK


def create_private(path: Path) -> None:
    """Make an empty file that only its owner may read.

    SQLite would let everybody read it. The log and its index take their mode from it.

    Raises:
        OSError: `FileExistsError` if there is one.
    """
    # Closing any descriptor of a database file drops all locks that this process holds
    # on it, those of another connection included. So an existing file must never be
    # opened here, and a new one better not.
    try:
        os.mknod(path, stat.S_IFREG | 0o600)
    except FileExistsError:
        raise
    except (AttributeError, OSError):
        # Not every system lets ordinary users do it.
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        os.close(os.open(path, flags, 0o600))


def describe_exposure(path: Path) -> str:
    """Who else could read or change the file; empty if nobody, or if it is unknown."""
    if not hasattr(os, "geteuid"):
        return ""
    try:
        status, folder = path.stat(), path.parent.stat()
    except OSError:
        return ""
    found: list[str] = []
    # Root looks after the files of others, and SQLite then gives them what it makes.
    if os.geteuid() not in (0, status.st_uid):
        found.append(f"it belongs to another user ({status.st_uid})")
    if status.st_mode & _OTHERS:
        verbs = [
            verb
            for bit, verb in ((stat.S_IROTH, "read"), (stat.S_IWOTH, "change"))
            if status.st_mode & bit
        ]
        found.append(f"every user of this machine may {' and '.join(verbs)} it")
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        found.append("every user of this machine may replace it in its folder")
    return ", and ".join(found)


def size_of(path: Path) -> int:
    """How many bytes a file has; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def connect_existing(
    path: Path | None, *, timeout: float, mode: str = "rw"
) -> sqlite3.Connection:
    """Connect to a file, or to a private database in memory; make no file."""
    return sqlite3.connect(
        # An empty new file would cost the log that lies beside it.
        ":memory:" if path is None else f"{path.as_uri()}?mode={mode}",
        uri=path is not None,
        timeout=timeout,
        isolation_level=None,
        cached_statements=_CACHED_STATEMENTS,
        check_same_thread=False,
    )
