"""One connection to an SQLite file: its locks, its log, and what others did to it."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from durable.store.database import LOCK_SECONDS, SqlSession
from durable.store.sql.tables import INBOX
from durable.store.sqlite import errors as sqlite_errors
from durable.store.sqlite.checks import check_file
from durable.store.sqlite.file import (
    Place,
    connect_existing,
    copied_mark,
    identity_of,
    is_copied_mark,
    log_of,
    size_of,
)
from durable.store.sqlite.tables import SqliteTables

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from contextlib import AbstractContextManager

    import sqlalchemy as sa

    from durable.store.sqlite.sharing import LockWatch

_log: Final = logging.getLogger("durable.store")

BUSY_SECONDS: Final = 30.0
_INCREMENTAL: Final = 2
# What was deleted is soon needed for others; and others wait while the file shrinks.
_SPARE_PAGES: Final = 256
_PAGES_AT_ONCE: Final = 1_000
_WORD_AFTER_SECONDS: Final = 1.0
_MARK_SECONDS_MAX: Final = 60.0
# The log is copied into the database when nothing else is to do, or, if that never
# happens, when it has grown so long that reading it slows everything down.
_CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
_CHECKPOINT_CHANGES_IDLE: Final = 500
_CHECKPOINT_CHANGES_BUSY: Final = 10_000
_LAST_SEQUENCE: Final = "SELECT seq FROM sqlite_sequence WHERE name = ?"
_SET_SEQUENCE: Final = (  # the table has no key
    "DELETE FROM sqlite_sequence WHERE name = :name",
    "INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)",
)


class SqliteSession(SqlSession):
    """Implements `Session` on one connection."""

    # One that has changed is likely to change again.
    poll_seconds = (0.005, 0.030)
    idle_seconds = 0.020
    packs_rows = True
    is_broken = False

    def __init__(
        self, connection: sa.Connection, path: Path | None, locks: LockWatch
    ) -> None:
        """Take over a connection to a file, if there is one."""
        self.connection = connection
        """See `Session`."""
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)  # noqa: S101 - the pool made it
        self._raw = raw
        self.tables = SqliteTables(self, raw)
        """See `Session`."""
        self._cursor = raw.cursor()
        self._log = None if path is None else log_of(path)
        self.is_harmed_by_fork = path is not None
        """See `Session`."""
        self._path = path
        self._data_version: int | None = None
        self._copied_changes = 0
        self._is_marked = False
        self._mark_at = self._mark_pause = 0.0
        self._locks = locks
        self._place: Place | None = None

    def begin(self, lock_seconds: float = LOCK_SECONDS) -> None:
        """See `Session`. What is locked is the file."""
        del lock_seconds
        # A deferred transaction that reads first fails at once when it must write and
        # another process has written in between, whatever the busy timeout.
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if sqlite_errors.code_of(error) != sqlite_errors.BUSY:
                raise
            self._begin_late()
        if self._locks.is_locked:
            self._locks.unlocked()

    def begin_migrating(self) -> None:
        """See `Session`."""
        self.begin()

    def speak_up_early(self) -> None:
        """Let who waits for others to give up the write lock say so before long."""
        self._set_timeout(_WORD_AFTER_SECONDS)

    def _set_timeout(self, seconds: float) -> None:
        self._cursor.execute(f"PRAGMA busy_timeout = {round(seconds * 1_000)}")

    def _begin_late(self) -> None:
        self._locks.locked(_WORD_AFTER_SECONDS, BUSY_SECONDS)
        # All else that may find the database locked is over soon, or asks again.
        self._set_timeout(max(0.0, BUSY_SECONDS - _WORD_AFTER_SECONDS))
        try:
            self._cursor.execute("BEGIN IMMEDIATE")
        finally:
            self.speak_up_early()

    def begin_reading(self) -> None:
        """See `Session`."""
        self._cursor.execute("BEGIN")

    def commit(self, *, is_news: bool = True) -> None:
        """See `Session`. The file tells of every commit."""
        del is_news
        self._cursor.execute("COMMIT")

    def rollback(self) -> None:
        """See `Session`."""
        # SQLite has ended the transaction itself after some errors.
        if self._raw.in_transaction:
            self._cursor.execute("ROLLBACK")

    def tolerate(self, error: BaseException) -> AbstractContextManager[None] | None:
        """See `Session`."""
        # The driver's own error, without a code of SQLite.
        if sqlite_errors.code_of(error) or "Could not decode to UTF-8" not in str(
            sqlite_errors.origin_of(error)
        ):
            return None
        return self._tolerating()

    @contextlib.contextmanager
    def _tolerating(self) -> Generator[None]:
        self._raw.text_factory = _decode
        try:
            yield
        finally:
            self._raw.text_factory = str

    def check(self) -> list[str]:
        """See `Session`."""
        return check_file(self._raw)

    def has_changed(self) -> bool:
        """See `Session`."""
        # The number moves only through other connections, and all writes of this
        # process go through this one.
        (version,) = self._cursor.execute("PRAGMA data_version").fetchone()
        before, self._data_version = self._data_version, version
        return before is not None and before != version

    def note_places(self) -> None:
        """Remember which files these are; the log and its index exist by now."""
        if self._path is not None:
            self._place = Place(self._path)

    def _main_file(self) -> Path:
        return Path(str(self._log).removesuffix("-wal"))

    def is_in_place(self) -> bool:
        """See `Session`."""
        return self._place is None or self._place.is_held()

    def has_lost_its_log(self) -> bool:
        """Whether this is the main file of a running program, without its log."""
        if self._log is None:
            return False
        (version,) = self._cursor.execute("PRAGMA user_version").fetchone()
        if not is_copied_mark(version):
            return False
        # Reading has made an empty one if there was none.
        if size_of(self._log) == 0:
            path = self._main_file()
            if version != copied_mark(path):
                return True
            _log.warning(
                "%s was in use when its program died, and its log is not there any"
                " more. Nothing is missing if another tool has opened the file since;"
                " if somebody removed the log, what was written last is lost.",
                path,
            )
        self.accept_loss()
        return False

    def accept_loss(self) -> None:
        """Take the file for complete."""
        (version,) = self._cursor.execute("PRAGMA user_version").fetchone()
        if is_copied_mark(version):  # of another program's it means something else
            with contextlib.suppress(sqlite3.OperationalError):
                self._cursor.execute("PRAGMA user_version = 0")

    def maintain(self, *, is_idle: bool) -> bool:
        """Copy the log into the database once it is long.

        SQLite up to 3.51.2 may corrupt a database if one connection checkpoints while
        another commits and begins the log anew. So nobody commits while this process
        checkpoints: a second connection holds the write lock meanwhile. If another
        process has the lock, this round is left out.
        """
        if self._log is None:
            return True
        if is_idle and self.tables.has_freed and not self._give_back():
            return False
        # The log's file never shrinks, so its size says too little: count, too.
        limit = _CHECKPOINT_CHANGES_IDLE if is_idle else _CHECKPOINT_CHANGES_BUSY
        changes = self._raw.total_changes
        is_long = (
            changes - self._copied_changes >= limit
            and size_of(self._log) >= _CHECKPOINT_BYTES
        )
        if not is_long and (self._is_marked or time.monotonic() < self._mark_at):
            return self._is_marked
        if not self.is_in_place():
            return True
        path = self._main_file()
        try:
            lock = connect_existing(path, timeout=0)
        except sqlite3.OperationalError:
            return False
        with contextlib.closing(lock), contextlib.suppress(sqlite3.OperationalError):
            lock.execute("PRAGMA wal_autocheckpoint = 0")
            lock.execute("BEGIN IMMEDIATE")
            lock.execute("ROLLBACK")
            with self._copied_alone_is_noticed():
                lock.execute("BEGIN IMMEDIATE")
                try:
                    # PASSIVE waits for nobody and needs no write lock of its own. The
                    # next commit finds everything copied and begins the log anew.
                    self._cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    _, in_log, copied = self._cursor.fetchone()
                finally:
                    lock.execute("ROLLBACK")
            # A reader may have held some pages back: then try again before long.
            is_whole = copied == in_log
            self._copied_changes = changes if is_whole else changes - limit // 2
            # The mark is the last of them, and each try makes the log longer.
            if not self._is_marked and not is_whole:
                self._mark_pause = min(2 * self._mark_pause + 0.1, _MARK_SECONDS_MAX)
                self._mark_at = time.monotonic() + self._mark_pause
                return False
            self._is_marked = True
            return True
        return False

    def _give_back(self) -> bool:
        """Make the file smaller by some of what nothing uses; False if there is more.

        A file that an earlier release has made keeps it, and uses it again.
        """
        (mode,) = self._cursor.execute("PRAGMA auto_vacuum").fetchone()
        (free,) = self._cursor.execute("PRAGMA freelist_count").fetchone()
        if mode != _INCREMENTAL or free <= _SPARE_PAGES:
            self.tables.has_freed = False
            return True
        pages = min(free - _SPARE_PAGES, _PAGES_AT_ONCE)
        with contextlib.suppress(sqlite3.OperationalError):  # others are writing
            # By itself the driver takes one step of it, which is one page.
            self._cursor.executescript(f"PRAGMA incremental_vacuum({pages})")
        return False

    @contextlib.contextmanager
    def _copied_alone_is_noticed(self) -> Generator[None]:
        """Let what is copied into the main file hold the mark, and the log not."""
        (version,) = self._cursor.execute("PRAGMA user_version").fetchone()
        if version and not is_copied_mark(version):  # somebody has another use for it
            yield
            return
        mark = copied_mark(self._main_file())
        self._cursor.execute(f"PRAGMA user_version = {mark}")
        try:
            yield
        finally:
            self._cursor.execute("PRAGMA user_version = 0")

    def identify(self) -> str:
        """See `Session`."""
        place = id(self) if self._path is None else identity_of(self._path)
        return f"sqlite {place}"

    def begin_alone(self) -> None:
        """See `Session`."""
        self.begin()

    def insert(self, table: sa.Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """See `Session`."""
        names = ", ".join(column.name for column in table.c)
        places = ", ".join("?" * len(table.c))
        text = f"INSERT INTO {table.name} ({names}) VALUES ({places})"  # noqa: S608 - constant names
        self._cursor.executemany(text, rows)

    def find_last_sequence(self) -> int:
        """See `Session`."""
        row = self._cursor.execute(_LAST_SEQUENCE, (INBOX.name,)).fetchone()
        return row[0] if row and isinstance(row[0], int) else 0

    def raise_sequence(self, last: int) -> None:
        """See `Session`."""
        if last > self.find_last_sequence():
            for text in _SET_SEQUENCE:
                self._cursor.execute(text, {"name": INBOX.name, "last": last})

    def close(self) -> None:
        """See `Session`."""
        with contextlib.suppress(Exception):
            self.rollback()
            self.has_lost_its_log()
        self.disconnect()

    def disconnect(self) -> None:
        """Close the connection, and look at nothing before."""
        with contextlib.suppress(Exception):
            self._cursor.close()
            self.connection.close()
        with contextlib.suppress(Exception):
            self._raw.close()


def _decode(text: bytes) -> str | bytes:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text
