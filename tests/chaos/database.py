"""The database of a run of chaos: what is done to it, and what is read from it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from tests.guard import start_guard
from tests.proxy import Proxy
from tests.servers import MariaServer, PostgresServer, Server

Row: TypeAlias = dict[str, Any]
SERVERS: Final[dict[str, type[PostgresServer | MariaServer]]] = {
    "postgresql": PostgresServer,
    "mariadb": MariaServer,
}
KINDS: Final = ("sqlite", *SERVERS)
_DRIVERS: Final = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}


@dataclass
class Database:
    """A file, or a server behind a proxy.

    Attributes:
        url: as workers and clients reach it.
        direct_url: past the proxy.
    """

    kind: str
    url: str
    direct_url: str
    file: Path | None = None
    server: Server | None = None
    proxy: Proxy | None = None
    _pulse: str = field(default="", init=False)

    def touch(self) -> None:
        """Write something of no importance, as soon as anybody can.

        Raises:
            Exception: the driver's; it cannot be written now.
        """
        if self.server is None:
            assert self.file is not None
            with contextlib.closing(
                sqlite3.connect(self.file, timeout=60, isolation_level=None)
            ) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
            return
        if not self._pulse:
            pulse = self.server.create_database().rpartition("/")[2]
            self.server.execute("CREATE TABLE pulse (beats INTEGER)", pulse)
            self.server.execute("INSERT INTO pulse VALUES (0)", pulse)
            self._pulse = pulse
        self.server.execute("UPDATE pulse SET beats = beats + 1", self._pulse)

    def terminate_sessions(self) -> None:
        """End all sessions of workers and clients, as an administrator does."""
        assert self.server is not None
        name = self.direct_url.rpartition("/")[2]
        if self.kind == "postgresql":
            self.server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"  # noqa: S608 - the name is ours
                f" WHERE datname = '{name}'"
            )
            return
        sessions = self.server.execute(
            f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"  # noqa: S608 - likewise
        )
        for (number,) in sessions:
            with contextlib.suppress(Exception):  # it has gone
                self.server.execute(f"KILL CONNECTION {number}")

    def read(self, *tables: str) -> dict[str, list[Row]]:
        """All rows of some tables of the library, in one transaction."""
        scheme, _, rest = self.direct_url.partition(":")
        engine = sa.create_engine(f"{_DRIVERS.get(scheme, scheme)}:{rest}")
        with engine.connect() as connection:
            found = {
                table: [
                    {name: _plain(value) for name, value in row._mapping.items()}
                    for row in connection.execute(sa.text(_SELECT[table]))
                ]
                for table in tables
            }
        engine.dispose()
        return found

    def close(self) -> None:
        if self.proxy is not None:
            self.proxy.close()
        if self.server is not None:
            self.server.close()


_SELECT: Final = {
    "open": "SELECT workflow_id, run_id, stuck FROM durable_runs"
    " WHERE open_key IS NOT NULL",
    "events": "SELECT COUNT(*) AS count FROM durable_history",
    "runs": "SELECT * FROM durable_runs ORDER BY started_at",
    "history": "SELECT run_id, event_id, type, time, data FROM durable_history"
    " ORDER BY run_id, event_id",
    "attempts": "SELECT * FROM durable_attempts",
}


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def event_of(row: Row) -> Row:
    """A row of the history with its data as an object."""
    return {**row, "data": json.loads(row["data"])}


def make(kind: str, folder: Path, guarded_by: int) -> Database:
    """Make an empty database; its server ends with a process, however that ends."""
    if kind == "sqlite":
        url = f"sqlite:///{folder}/chaos.db"
        return Database(kind, url, url, file=folder / "chaos.db")
    parent = folder / "servers"
    parent.mkdir()
    folder.chmod(0o711)  # servers are other users
    parent.chmod(0o711)
    start_guard(guarded_by, parent)
    server = SERVERS[kind](parent, max_connections=200)
    url = server.create_database()
    proxy = Proxy(url)
    return Database(kind, proxy.url, url, server=server, proxy=proxy)
