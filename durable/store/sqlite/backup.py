"""A copy of an SQLite database that programs may be using."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import NamedTuple

from durable.errors import (
    DatabaseUnavailableError,
    DurableError,
    InvalidOptionError,
)
from durable.store.sqlite.file import create_private, is_copied_mark
from durable.store.sqlite.session import BUSY_SECONDS
from durable.store.sqlite.sqlite import SqliteDatabase


class Backup(NamedTuple):
    """What a backup holds."""

    runs: int
    bytes: int
    revision: str | None


def back_up(source: Path, destination: Path) -> Backup:
    """Copy a database as it is at one instant, log included, and check the copy.

    Programs that use it go on meanwhile. The copy is one file that only its owner may
    read; it appears under its name once it is complete and was found sound.

    Raises:
        InvalidOptionError: there is something at `destination`, or no folder for it.
        StoreError: the database cannot be read, or the copy not be written.
    """
    if destination.exists():
        raise InvalidOptionError(
            f"{str(destination)!r} exists already; a backup replaces nothing.",
            hint="Give another name, such as one with today's date.",
        )
    if not destination.parent.is_dir():
        raise InvalidOptionError(
            f"Folder {str(destination.parent)!r} of the backup does not exist."
        )
    database = SqliteDatabase(source)
    if database.read_revision() is None:
        raise DatabaseUnavailableError(
            f"{str(source)!r} is no database of this library: it has no schema of it."
        )
    partial = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    try:
        create_private(partial)
        backup = _copy(source, partial)
        # On POSIX this replaces what came meanwhile; nobody else uses such names.
        os.rename(partial, destination)
        _keep(destination.parent)
        return backup
    except DurableError:
        raise
    except (sqlite3.Error, OSError) as error:
        raise (
            database.explain(error)
            or DatabaseUnavailableError(
                f"{database.name} cannot be copied to {str(destination)!r}: {error}."
            )
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def _copy(source: Path, partial: Path) -> Backup:
    with (
        contextlib.closing(sqlite3.connect(source, timeout=BUSY_SECONDS)) as original,
        contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as copy,
    ):
        # In one step: each further one would begin anew after somebody's commit.
        original.backup(copy)
        copy.execute("PRAGMA synchronous = FULL")
        # The file is complete in itself: without a log, and never with the mark.
        copy.execute("PRAGMA journal_mode = DELETE")
        (version,) = copy.execute("PRAGMA user_version").fetchone()
        if is_copied_mark(version):
            copy.execute("PRAGMA user_version = 0")
        found = [row[0] for row in copy.execute("PRAGMA integrity_check(5)")]
        if found != ["ok"]:
            raise DatabaseUnavailableError(
                f"The database {str(source)!r} is damaged, so no backup was made:"
                f" {'; '.join(map(str, found))}.",
                hint="Go back to an earlier backup, and copy this file away as it is.",
            )
        row = copy.execute("SELECT version_num FROM durable_schema").fetchone()
        # Before revision 0003 the table had another name.
        is_old = row is not None and row[0] < "0003"
        table = "runs" if is_old else "durable_runs"
        (runs,) = copy.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - constant names
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    return Backup(runs, partial.stat().st_size, None if row is None else row[0])


def _keep(folder: Path) -> None:
    """Let the new name survive a power loss, where folders can be written so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
