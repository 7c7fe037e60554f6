"""What only SQLite needs: its file, its pragmas, its locks and its errors."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from durable.errors import DatabaseUnavailableError, NotADatabaseError, StoreError
from durable.store.database import Blame
from durable.store.sql.forking import FileIdentity, is_inherited
from durable.store.sql.schema import (
    is_current,
    no_schema,
    prepare_schema,
    read_revision,
    refuse_foreign,
)
from durable.store.sqlite import errors as sqlite_errors
from durable.store.sqlite.checks import check_file
from durable.store.sqlite.file import (
    Place,
    connect_existing,
    copied_mark,
    create_private,
    describe_exposure,
    identity_of,
    is_copied_mark,
    log_of,
    size_of,
)
from durable.store.sqlite.locks import describe_holder, find_holders, is_gone
from durable.store.sqlite.sharing import LockWatch, say_if_faulty
from durable.store.sqlite.tables import SqliteTables

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager

    from durable.store.database import Session

_log: Final = logging.getLogger("durable.store")

# UPDATE ... FROM.
_OLDEST_SQLITE: Final = (3, 33, 0)
BUSY_SECONDS: Final = 30.0
_WORD_AFTER_SECONDS: Final = 1.0
_SWITCH_RETRY_SECONDS: Final = 0.005
_MARK_SECONDS_MAX: Final = 60.0
# The log is copied into the database when nothing else is to do, or, if that never
# happens, when it has grown so long that reading it slows everything down.
_CHECKPOINT_BYTES: Final = 4 * 1024 * 1024
_CHECKPOINT_CHANGES_IDLE: Final = 500
_CHECKPOINT_CHANGES_BUSY: Final = 10_000


class SqliteSession:
    """Implements `Session` on one connection."""

    def __init__(
        self, connection: sa.Connection, path: Path | None, locks: LockWatch
    ) -> None:
        """Take over a connection to a file, if there is one."""
        self._connection = connection
        raw = connection.connection.driver_connection
        assert isinstance(raw, sqlite3.Connection)  # noqa: S101 - the pool made it
        self._raw = raw
        self._tables = SqliteTables(self, raw)
        self._cursor = raw.cursor()
        self._log = None if path is None else log_of(path)
        self._path = path
        self._data_version: int | None = None
        self._copied_changes = 0
        self._is_marked = False
        self._mark_at = self._mark_pause = 0.0
        self._locks = locks
        self._place: Place | None = None

    @property
    def connection(self) -> sa.Connection:
        """See `Session`."""
        return self._connection

    @property
    def tables(self) -> SqliteTables:
        """See `Session`."""
        return self._tables

    @property
    def is_harmed_by_fork(self) -> bool:
        """See `Session`."""
        return self._log is not None

    def begin(self) -> None:
        """See `Session`."""
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

    def commit(self) -> None:
        """See `Session`."""
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
            self._connection.close()
        with contextlib.suppress(Exception):
            self._raw.close()


class SqliteDatabase:
    """A database file, or a private database in memory.

    Args:
        path: the file; None for memory.
        synchronous: "FULL" survives power loss, "NORMAL" may lose the last commits.
        migrate: whether an older schema may be upgraded.
    """

    def __init__(
        self, path: Path | None, *, synchronous: str = "FULL", migrate: bool = True
    ) -> None:
        """See the class."""
        # Not resolve(): that would follow links, whose targets may move.
        self._path = None if path is None else Path(os.path.abspath(path))
        self._synchronous = synchronous
        self._migrate = migrate
        self._file: FileIdentity | None = None
        self._is_reported = False
        self._locks = LockWatch(self.name, self._path)

    @property
    def name(self) -> str:
        """See `Database`."""
        return "sqlite://" if self._path is None else f"sqlite:///{self._path}"

    def forget_file(self) -> None:
        """See `Database`."""
        self._file = None

    def open_writer(self) -> Session:
        """See `Database`."""
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise DatabaseUnavailableError(
                f"Python is linked with SQLite {sqlite3.sqlite_version}, and this"
                f" release needs {'.'.join(map(str, _OLDEST_SQLITE))} or newer.",
                hint="Use a Python build with a newer SQLite.",
            )
        session = self._connect_writer()
        try:
            if session.has_lost_its_log():
                raise sqlite_errors.log_missing(self.name, str(self._path))
            prepare_schema(session, self.name, migrate=self._migrate)
        except Exception as error:
            session.close()
            if isinstance(error, StoreError):
                raise
            raise self._as_store_error(error) from error
        session.has_changed()
        session.note_places()
        session.speak_up_early()
        if self._path is not None and self._file is None:
            self._file = identity_of(self._path)
            exposure = describe_exposure(self._path)
            if exposure:
                _log.warning(
                    "%s is not private: %s. Its runs can be seen or changed there;"
                    " give it to the user who runs this, with mode 0600.",
                    self.name,
                    exposure,
                )
        return session

    def _connect_writer(self) -> SqliteSession:
        if self._path is not None:
            self._check_same(self._path)
            self._prepare_file(self._path)
        session = self._connect()
        try:
            self._check_file(session)
        except Exception as error:
            session.close()
            if isinstance(error, StoreError):
                raise
            raise self._as_store_error(error) from error
        return session

    def accept_loss(self) -> None:
        """Take a file whose log is missing as it is.

        Raises:
            StoreError: it cannot be opened.
        """
        with self._unchanged() as session:
            if session is not None:
                session.accept_loss()

    def open_reader(self) -> Session | None:
        """See `Database`."""
        if self._path is None:
            return None
        self._check_same(self._path)
        self._check_exists(self._path)
        session = self._connect()
        session.connection.exec_driver_sql("PRAGMA query_only = ON")
        session.note_places()
        return session

    def _check_exists(self, path: Path) -> None:
        # SQLite would make an empty file, and one that everybody may read.
        if not path.exists():
            raise DatabaseUnavailableError(f"{self.name} does not exist.")

    def read_revision(self) -> str | None:
        """The revision of the file's schema, as `schema.read_revision` says it.

        Nothing is changed, whoever made the file.

        Raises:
            StoreError: it cannot be read.
        """
        with self._unchanged() as session:
            return None if session is None else read_revision(session)

    @contextlib.contextmanager
    def _unchanged(self) -> Generator[SqliteSession | None]:
        """Connect, if it leaves the file as it is; None if it must be another's.

        What connects to write merges what a killed program left into the file.
        """
        path = self._path
        if path is None:
            yield None
            return
        self._check_exists(path)
        if size_of(path.with_name(f"{path.name}-journal")) > 0:  # ours have none
            yield None
            return
        # Who only reads leaves the log's index behind where there was no log.
        session = self._connect(mode="ro" if size_of(log_of(path)) > 0 else "rw")
        try:
            yield session
        except DBAPIError as error:
            raise self._as_store_error(error) from error
        finally:
            session.disconnect()

    def _check_same(self, path: Path) -> None:
        """Refuse another file in place of the one that was opened, or a copied belief.

        An empty new one in its place would hide the loss.
        """
        found = identity_of(path)
        if self._file is not None and found != self._file:
            raise self.not_in_place()
        if found is not None and is_inherited(found):
            raise sqlite_errors.inherited(self.name)

    def not_in_place(self) -> StoreError:
        """See `Database`."""
        error = sqlite_errors.moved(self.name)
        if not self._is_reported:
            self._is_reported = True
            _log.error("%s", error)
        return error

    def _prepare_file(self, path: Path) -> None:
        if path.is_dir():
            raise NotADatabaseError(
                f"{self.name} is a folder.", hint="Give the path of a file."
            )
        if not path.parent.is_dir():
            raise NotADatabaseError(
                f"Folder {str(path.parent)!r} of the database {self.name} does not"
                " exist.",
                hint="Create it, or correct the path."
                " A relative path has three slashes, an absolute one four.",
            )
        # SQLite takes such a log away without a word, and all that it holds.
        log = log_of(path)
        if size_of(log) > 0 and size_of(path) == 0:
            raise DatabaseUnavailableError(
                f"{self.name} is gone or empty, and its log is still there: the file"
                " was moved or deleted alone.",
                hint=f"Put it back beside its log, or move '{log}' away, too.",
            )
        if not self._migrate:
            with self._unchanged() as session:
                if session is None:
                    raise no_schema(self.name)
                is_current(session, self.name, migrate=False)
        try:
            create_private(path)
        except FileExistsError:
            pass
        except OSError as error:
            raise sqlite_errors.explain_os(error, self.name) from error
        # SQLite would open a file that it cannot write without a word.
        if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            raise sqlite_errors.read_only(self.name)

    def _connect(self, *, mode: str = "rw") -> SqliteSession:
        engine = sa.create_engine(
            "sqlite://",
            creator=lambda: connect_existing(
                self._path, timeout=BUSY_SECONDS, mode=mode
            ),
            poolclass=NullPool,
            hide_parameters=True,
        )
        connection: sa.Connection | None = None
        try:
            connection = engine.connect()
            for pragma in (
                f"synchronous = {self._synchronous}",
                "wal_autocheckpoint = 0",
                "cache_size = -16000",
            ):
                connection.exec_driver_sql(f"PRAGMA {pragma}")
        except Exception as error:
            if connection is not None:
                connection.close()
            raise self._as_store_error(error) from error
        return SqliteSession(connection, self._path, self._locks)

    def _check_file(self, session: SqliteSession) -> None:
        """Read the file's header, and switch to the write-ahead log."""
        if self._path is None:
            return
        (mode,) = session.connection.exec_driver_sql("PRAGMA journal_mode").one()
        if mode != "wal":
            # Somebody else's, perhaps: what is refused is to stay as it is.
            self._refuse(session)
            mode = self._switch_to_log(session.connection)
        if mode != "wal":
            raise DatabaseUnavailableError(
                f"{self.name} cannot use SQLite's write-ahead log (its journal mode"
                f" stays {mode!r}).",
                hint="Keep the file on a local disk, not on a network share.",
            )

    def _refuse(self, session: SqliteSession) -> None:
        session.begin_reading()
        try:
            if not is_current(session, self.name, migrate=self._migrate):
                refuse_foreign(session, self.name)
        finally:
            session.rollback()

    def _switch_to_log(self, connection: sa.Connection) -> object:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return connection.exec_driver_sql("PRAGMA journal_mode = WAL").scalar()
            except DBAPIError as error:
                # SQLite does not wait if another process switches at the same time.
                if (
                    sqlite_errors.code_of(error) != sqlite_errors.BUSY
                    or time.monotonic() > deadline
                ):
                    raise
            time.sleep(_SWITCH_RETRY_SECONDS)

    def note_workers(self, process_ids: list[int]) -> None:
        """See `Database`."""
        if self._path is not None and len(process_ids) > 1:
            # A killed one leaves its lease behind.
            living = [pid for pid in process_ids if not is_gone(pid)]
            say_if_faulty(self.name, len(living))

    # --- errors -----------------------------------------------------------------------

    def find_blockers(self) -> list[str]:
        """See `Database`."""
        if self._path is None:
            return []
        return [describe_holder(pid) for pid in find_holders(self._path)]

    def is_conflict(self, error: BaseException) -> bool:
        """See `Database`."""
        return sqlite_errors.code_of(error) == sqlite_errors.CONSTRAINT

    def judge(self, error: BaseException) -> Blame:
        """See `Database`. Who holds the write lock is in nobody's way."""
        is_known = self.explain(error) is not None
        return Blame.WHOLE if is_known else Blame.OPERATION

    def is_in_doubt(self, error: BaseException) -> bool:
        """See `Database`."""
        # An error of ours says that the file is elsewhere now, and what it holds.
        return not isinstance(error, StoreError) and (
            sqlite_errors.code_of(error)
            not in (sqlite_errors.BUSY, sqlite_errors.FULL, sqlite_errors.READONLY)
        )

    def explain(self, error: BaseException) -> StoreError | None:
        """See `Database`."""
        if isinstance(error, StoreError):
            return None
        if sqlite_errors.code_of(error) in (sqlite_errors.BUSY, 6):  # or LOCKED
            blockers = self._locks.find_holders()
            return sqlite_errors.locked(self.name, BUSY_SECONDS, blockers)
        return sqlite_errors.explain(error, self.name)

    def _as_store_error(self, error: Exception) -> StoreError:
        return self.explain(error) or DatabaseUnavailableError(
            f"{self.name} cannot be opened: {sqlite_errors.origin_of(error)}"
        )


def _decode(text: bytes) -> str | bytes:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text
