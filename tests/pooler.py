"""PgBouncer before a PostgreSQL server, as many installations have it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.servers import (
    PostgresDatabases,
    Server,
    find_lack_of_driver,
    find_program,
)

PREPARES = (1, 21)
"""The first version that knows of prepared statements in transaction mode."""


class Pooler(PostgresDatabases, Server):
    """PgBouncer in transaction mode before the server on a port of this machine.

    `options` are lines of its configuration, as in "server_lifetime = 5".
    """

    kind = "pgbouncer"
    accounts = ("postgres", "nobody")

    def __init__(
        self, parent: Path, *, server_port: int, options: tuple[str, ...] = ()
    ) -> None:
        self._server_port = server_port
        super().__init__(parent, options=options)

    @classmethod
    def find_lack(cls) -> str | None:
        if find_program("pgbouncer") is None:
            return "PgBouncer is not installed"
        return find_lack_of_driver("psycopg")

    def prepare(self) -> None:
        program = find_program("pgbouncer")
        assert program is not None
        self._program = program

    def command(self) -> list[str]:
        place = f"host=127.0.0.1 port={self._server_port} user=postgres"
        lines = [
            "[databases]",
            f"* = {place}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = any",
            "pool_mode = transaction",
            "max_client_conn = 500",
            *(["max_prepared_statements = 200"] if self._prepares() else []),
            *self.options,
        ]
        configuration = self.folder / "pgbouncer.ini"
        configuration.write_text("\n".join(lines) + "\n")
        return [self._program, str(configuration)]

    def ask(self) -> bool:
        import psycopg

        try:
            return self.execute("SELECT 1", wait_seconds=2) == [(1,)]
        except psycopg.OperationalError:
            return False

    def _prepares(self) -> bool:
        said = subprocess.run(
            [self._program, "--version"], capture_output=True, text=True, timeout=10
        )
        version = re.search(r"(\d+)\.(\d+)", said.stdout)
        assert version is not None, said
        return (int(version[1]), int(version[2])) >= PREPARES
