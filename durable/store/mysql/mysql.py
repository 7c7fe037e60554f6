"""How a database of MariaDB or MySQL is reached, and what its errors mean."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from durable import limits
from durable.errors import DatabaseUnavailableError, StoreError
from durable.store.mysql import driver, errors
from durable.store.mysql.session import MysqlSession
from durable.store.mysql.url import driver_options
from durable.store.servers.server import ServerDatabase
from durable.store.sql.schema import prepare_schema, read_revision

if TYPE_CHECKING:
    import pymysql

    from durable.store.database import Blame, Session
    from durable.store.servers.server_clock import ServerClock
    from durable.store.servers.server_url import ServerUrl

# What passes others' locks by, and the collation of ids.
_OLDEST: Final = {"MariaDB": (10, 6), "MySQL": (8, 0, 17)}
# Longer than what the server ends by itself, and shorter than a lease.
_PATIENCE_SECONDS: Final = limits.LEASE_SECONDS * 0.8
_READ_SECONDS: Final = limits.LEASE_SECONDS * 3


class MysqlDatabase(ServerDatabase):
    """One database of a server.

    Args:
        url: where it is, and who comes.
        clock: is told the server's time.
        migrate: whether its tables may be made or upgraded.
    """

    def __init__(self, url: ServerUrl, clock: ServerClock, *, migrate: bool) -> None:
        """Connect to nothing yet."""
        super().__init__(url)
        self._clock = clock
        self._migrate = migrate
        self._engines: dict[bool, sa.Engine] = {}

    # --- connections ------------------------------------------------------------------

    def _connect_raw(self, is_writer: bool) -> pymysql.Connection[Any]:
        raw = driver.connect(
            driver_options(self.url),
            patience=_PATIENCE_SECONDS if is_writer else _READ_SECONDS,
            is_writer=is_writer,
        )
        product = "MariaDB" if driver.is_mariadb(raw) else "MySQL"
        oldest = _OLDEST[product]
        version = driver.version_of(raw)
        if version < oldest:
            raw.close()
            raise DatabaseUnavailableError(
                f"{self.name} is {product} {'.'.join(map(str, version))}, and this"
                f" release needs {'.'.join(map(str, oldest))} or later."
            )
        return raw

    def _make_engine(self, is_writer: bool) -> sa.Engine:
        raw = self._connect_raw(is_writer)
        # SQLAlchemy must know before it connects; so the connection is kept for it.
        first = [raw]
        connect = functools.partial(self._connect_raw, is_writer)
        return sa.create_engine(
            "mariadb+pymysql://" if driver.is_mariadb(raw) else "mysql+pymysql://",
            creator=lambda: first.pop() if first else connect(),
            poolclass=NullPool,
            pool_reset_on_return=None,
            hide_parameters=True,
        )

    def _connect(self, *, is_writer: bool) -> MysqlSession:
        try:
            if is_writer not in self._engines:
                self._engines[is_writer] = self._make_engine(is_writer)
            connection = self._engines[is_writer].connect()
            return MysqlSession(connection, self._clock, self.name)
        except Exception as error:
            raise self.as_store_error(error) from error

    def open_writer(self) -> Session:
        """See `Database`."""
        session = self._connect(is_writer=True)
        try:
            prepare_schema(session, self.name, migrate=self._migrate)
            session.forget_old_sessions()
            session.has_changed()
        except Exception as error:
            session.close()
            raise self.as_store_error(error) from error
        return session

    def open_reader(self) -> Session:
        """See `Database`."""
        return self._connect(is_writer=False)

    def read_revision(self) -> str | None:
        """See `ServerDatabase`."""
        with contextlib.closing(self._connect(is_writer=False)) as session:
            return read_revision(session)

    # --- errors -----------------------------------------------------------------------

    def find_fate(self, fate: object) -> bool | None:
        """See `Database`. The server keeps nothing of it, but for the rows."""
        del fate
        return None

    def is_conflict(self, error: BaseException) -> bool:
        """See `Database`."""
        return errors.is_conflict(error)

    def judge(self, error: BaseException) -> Blame:
        """See `Database`."""
        return errors.judge(error)

    def is_in_doubt(self, error: BaseException) -> bool:
        """See `Database`."""
        return errors.is_in_doubt(error)

    def is_lost(self, error: BaseException) -> bool:
        """See `Database`."""
        return errors.may_pass(error)

    def explain(self, error: BaseException) -> StoreError | None:
        """See `Database`."""
        if isinstance(error, StoreError):
            return None
        return errors.explain(error, self.name)
