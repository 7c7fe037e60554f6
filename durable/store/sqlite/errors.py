"""What SQLite's errors mean, in the library's own."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from sqlalchemy.exc import DBAPIError

from durable.errors import (
    DatabaseFullError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    NotADatabaseError,
    StoreError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

# Primary result codes, https://sqlite.org/rescode.html
BUSY: Final = 5
READONLY: Final = 8
FULL: Final = 13
# Of a primary key, a unique index, and a row id.
_TAKEN: Final = frozenset({1555, 2067, 2579})


def code_of(error: BaseException) -> int:
    """Return the primary result code of a driver's error, or 0."""
    code: int = getattr(origin_of(error), "sqlite_errorcode", 0)
    return code & 0xFF


def is_taken(error: BaseException) -> bool:
    """Tell whether a row is there already; other constraints are somebody else's."""
    return getattr(origin_of(error), "sqlite_errorcode", 0) in _TAKEN


def origin_of(error: BaseException) -> BaseException:
    """Return the driver's error, whatever it is wrapped in."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    return error


def explain(error: BaseException, name: str) -> StoreError | None:
    """Return what an error of the database as a whole means; None for any other."""
    match code_of(error):
        case 8:  # READONLY
            return read_only(name)
        case 13:  # FULL
            return full(name)
        case 10:  # IOERR
            return DatabaseUnavailableError(
                f"{name} cannot be read or written:"
                f" {getattr(origin_of(error), 'sqlite_errorname', 'SQLITE_IOERR')}.",
                hint="Look at the disk and at the system's log.",
            )
        case 14:  # CANTOPEN
            return DatabaseUnavailableError(f"{name} cannot be opened.")
        case 26:  # NOTADB
            return NotADatabaseError(
                f"{name} is a file that SQLite cannot read as a database.",
                hint="Give another path; the file was left as it is.",
            )
        case 11:  # CORRUPT
            return DatabaseUnavailableError(
                f"{name} is damaged: SQLite found its structure broken.",
                hint="Stop all workers and run 'PRAGMA integrity_check'.",
            )
        case _:
            return None


def explain_os(error: OSError, name: str) -> StoreError:
    """Return what an error of the file system means."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return read_only(name)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return full(name)
    return DatabaseUnavailableError(f"{name} cannot be opened: {error.strerror}.")


def locked(name: str, seconds: float, blockers: Sequence[str]) -> StoreError:
    """Build the error of a lock that others did not give up."""
    return DatabaseUnavailableError(
        f"{name} stayed locked by another process for {seconds:g} s"
        + (f": {'; '.join(blockers)}." if blockers else "."),
        hint="Let it go on, or end it."
        if blockers
        else "Find the process that holds a transaction open.",
    )


def read_only(name: str) -> StoreError:
    """Build the error of a file that cannot be written."""
    return DatabaseReadOnlyError(
        f"{name} cannot be written: the file or its folder is read-only.",
        hint="Whoever only reads must be able to write both, too: SQLite keeps its log"
        " and its locks there.",
    )


def full(name: str) -> StoreError:
    """Build the error of a full disk."""
    return DatabaseFullError(
        f"The disk of {name} is full; nothing was written.",
        hint="Free some space; the next commit then succeeds.",
    )


def log_missing(name: str, path: str) -> StoreError:
    """Build the error of a file that was copied or moved without its log."""
    return DatabaseUnavailableError(
        f"{name} lacks its log: the file was copied or moved alone, while a"
        " program was using it or after one was killed. What was written last is"
        f" in the file '{path}-wal' beside the original.",
        hint="Bring that file along, or make the copy with 'durable db backup'."
        " 'durable db accept-loss' takes the file as it is, without the rest.",
    )


def moved(name: str) -> StoreError:
    """Build the error of a file that is not any more where it was opened."""
    return DatabaseUnavailableError(
        f"{name} was moved, deleted or replaced, or its log was, while it was"
        " open here. What was being written is not acknowledged, and nothing more"
        " is written.",
        hint="Put the file back under its name, with its '-wal' and '-shm' files;"
        " or open the engine again, to use what is there now. If nobody moved it:"
        " a program that opens and closes the file by itself, to copy it say,"
        " drops the locks that SQLite holds in that process.",
    )


def inherited(name: str) -> StoreError:
    """Build the error of a file with a connection from before a fork."""
    return DatabaseUnavailableError(
        f"{name} was open in the parent process when this one was forked,"
        " by a connection that this library could not close. SQLite would work"
        " on the file without holding its locks.",
        hint="Close such connections before the fork, fork before they are"
        " made, or start processes with the method 'spawn'.",
    )
