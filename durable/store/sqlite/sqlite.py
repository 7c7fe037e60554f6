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
from durable.store.sql.schema import (
    is_current,
    no_schema,
    prepare_schema,
    read_revision,
    refuse_foreign,
)
from durable.store.sqlite import errors as sqlite_errors
from durable.store.sqlite import session as sqlite_session
from durable.store.sqlite.file import (
    connect_existing,
    create_private,
    describe_exposure,
    identity_of,
    log_of,
    size_of,
)
from durable.store.sqlite.locks import describe_holder, find_holders, is_gone
from durable.store.sqlite.session import SqliteSession
from durable.store.sqlite.sharing import LockWatch, say_if_faulty
from durable.store.threads.forking import FileIdentity, is_inherited

if TYPE_CHECKING:
    from collections.abc import Generator

    from durable.store.database import Prepare, Session

_log: Final = logging.getLogger("durable.store")

# UPDATE ... FROM.
_OLDEST_SQLITE: Final = (3, 33, 0)
_SWITCH_RETRY_SECONDS: Final = 0.005
_SHRINKS: Final = "PRAGMA auto_vacuum = INCREMENTAL"


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

    def open_writer(self, prepare: Prepare | None = None) -> Session:
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
            if prepare is None:
                prepare_schema(session, self.name, migrate=self._migrate)
            else:
                prepare(session, self.name)
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

    def vacuum(self) -> tuple[int, int]:
        """Write the file anew without what nothing uses; return its sizes in bytes.

        From then on it shrinks by itself when runs are deleted. Others wait meanwhile.

        Raises:
            StoreError: it cannot be opened, or others have it for too long.
        """
        path = self._path
        before = 0 if path is None else size_of(path)
        self.open_writer().close()  # it is ours, and whole
        try:
            with contextlib.closing(
                connect_existing(path, timeout=sqlite_session.BUSY_SECONDS)
            ) as connection:
                connection.execute(_SHRINKS)
                connection.execute("VACUUM")
        except sqlite3.Error as error:
            raise self._as_store_error(error) from error
        return before, 0 if path is None else size_of(path)

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
                self._path, timeout=sqlite_session.BUSY_SECONDS, mode=mode
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
            # Only while nothing is in the file: later it takes a `vacuum`.
            session.connection.exec_driver_sql(_SHRINKS)
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
        deadline = time.monotonic() + sqlite_session.BUSY_SECONDS
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
        return sqlite_errors.is_taken(error)

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

    def is_lost(self, error: BaseException) -> bool:
        """See `Database`. A file is there or not."""
        del error
        return False

    def find_fate(self, fate: object) -> bool | None:
        """See `Database`. Only rows tell."""
        del fate
        return None

    def explain(self, error: BaseException) -> StoreError | None:
        """See `Database`."""
        if isinstance(error, StoreError):
            return None
        if sqlite_errors.code_of(error) in (sqlite_errors.BUSY, 6):  # or LOCKED
            blockers = self._locks.find_holders()
            return sqlite_errors.locked(
                self.name, sqlite_session.BUSY_SECONDS, blockers
            )
        return sqlite_errors.explain(error, self.name)

    def _as_store_error(self, error: Exception) -> StoreError:
        return self.explain(error) or DatabaseUnavailableError(
            f"{self.name} cannot be opened: {sqlite_errors.origin_of(error)}"
        )
