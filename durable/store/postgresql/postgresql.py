"""How a PostgreSQL database is reached, and what its errors mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from psycopg import sql
from sqlalchemy.pool import NullPool

from durable.errors import DatabaseUnavailableError
from durable.store.postgresql.driver import PatientConnection
from durable.store.postgresql.errors import PostgresErrors
from durable.store.postgresql.session import PostgresSession
from durable.store.servers.server import (
    PATIENCE_SECONDS,
    READ_SECONDS,
    ServerDatabase,
)

if TYPE_CHECKING:
    from durable.store.servers.server_clock import ServerClock
    from durable.store.servers.server_url import ServerUrl

_OLDEST: Final = 130000
_CONNECT_SECONDS: Final = 5
_CONNECTION_OPTIONS: Final[dict[str, Any]] = {
    "connect_timeout": _CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": round(PATIENCE_SECONDS * 1_000),
    "application_name": "durable",
    "client_encoding": "utf8",
}


class PostgresDatabase(ServerDatabase):
    """One database, or one schema of it; see `ServerDatabase`."""

    def __init__(self, url: ServerUrl, clock: ServerClock, *, migrate: bool) -> None:
        """Connect to nothing yet."""
        super().__init__(url, clock, migrate=migrate, errors=PostgresErrors())
        self._engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=self._connect_raw,
            poolclass=NullPool,
            hide_parameters=True,
            use_native_hstore=False,
        )

    # --- connections ------------------------------------------------------------------

    def _connect_raw(self) -> PatientConnection:
        url = self.url
        place = {"host": url.host, "port": url.port, "dbname": url.database}
        options: dict[str, Any] = _CONNECTION_OPTIONS | url.options | place
        raw = PatientConnection.connect(
            autocommit=True,
            **options,
            user=url.user,
            password=url.password,
        )
        raw.patience = PATIENCE_SECONDS
        version = raw.info.server_version
        if version < _OLDEST:
            raw.close()
            raise self.too_old("PostgreSQL", version // 10_000, _OLDEST // 10_000)
        raw.find_pooler()
        if url.schema is not None:
            if raw.is_pooled:
                raw.close()
                raise DatabaseUnavailableError(
                    f"{self.name} is behind a connection pooler, where 'schema' would"
                    " be kept for whoever comes next.",
                    hint="Leave it out, and let the server know it:"
                    f" ALTER ROLE ... SET search_path = {url.schema}",
                )
            raw.execute(
                sql.SQL("SET search_path = {}").format(sql.Identifier(url.schema))
            )
            if raw.execute("SELECT current_schema()").fetchone() == (None,):
                raw.close()
                raise DatabaseUnavailableError(
                    f"{self.name} has no schema {url.schema!r}, or this user may not"
                    " use it.",
                    hint="Create it with CREATE SCHEMA, or grant USAGE on it.",
                )
        return raw

    def connect(self, *, is_writer: bool) -> PostgresSession:
        """See `ServerDatabase`."""
        try:
            connection = self._engine.connect()
        except Exception as error:
            raise self.as_store_error(error) from error
        session = PostgresSession(connection, self.clock)
        if not is_writer:
            session.raw.patience = READ_SECONDS
        return session
