"""How a database of MariaDB or MySQL is reached, and what its errors mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from durable.store.mysql import driver
from durable.store.mysql.errors import MysqlErrors
from durable.store.mysql.session import MysqlSession
from durable.store.mysql.url import driver_options
from durable.store.servers.server import (
    PATIENCE_SECONDS,
    READ_SECONDS,
    ServerDatabase,
)

if TYPE_CHECKING:
    from durable.store.servers.server_clock import ServerClock
    from durable.store.servers.server_url import ServerUrl


class MysqlDatabase(ServerDatabase):
    """One database of a server; see `ServerDatabase`."""

    def __init__(self, url: ServerUrl, clock: ServerClock, *, migrate: bool) -> None:
        """Connect to nothing yet."""
        super().__init__(url, clock, migrate=migrate, errors=MysqlErrors())
        self._engines: dict[bool, sa.Engine] = {}

    # --- connections ------------------------------------------------------------------

    def _reach(self, is_writer: bool) -> driver.Server:
        server = driver.connect(
            driver_options(self.url),
            patience=PATIENCE_SECONDS if is_writer else READ_SECONDS,
            is_writer=is_writer,
        )
        oldest = driver.OLDEST[server.product]
        if server.version < oldest:
            server.raw.close()
            version, needed = (".".join(map(str, v)) for v in (server.version, oldest))
            raise self.too_old(server.product, version, needed)
        return server

    def _make_engine(self, is_writer: bool) -> sa.Engine:
        # SQLAlchemy must know what it is before it connects; so it gets this one first.
        first = [self._reach(is_writer)]
        return sa.create_engine(
            f"{first[0].product.lower()}+pymysql://",
            creator=lambda: (first.pop() if first else self._reach(is_writer)).raw,
            poolclass=NullPool,
            pool_reset_on_return=None,
            hide_parameters=True,
        )

    def connect(self, *, is_writer: bool) -> MysqlSession:
        """See `ServerDatabase`."""
        try:
            if is_writer not in self._engines:
                self._engines[is_writer] = self._make_engine(is_writer)
            connection = self._engines[is_writer].connect()
            return MysqlSession(connection, self.clock, self.name)
        except Exception as error:
            raise self.as_store_error(error) from error
