"""Where a workload's databases are: files in its directory, or on a server.

The parent writes into the directory which server a workload runs on; each name that the
workload asks for then becomes a database of its own there, the same in every process.
"""

import json
import os
import secrets
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Self

from tests.benchmarks.machine import Yardstick
from tests.guard import start_guard, sweep
from tests.servers import (
    Databases,
    MariaDatabases,
    MariaServer,
    PostgresDatabases,
    PostgresServer,
)

SQLITE, POSTGRESQL, MARIADB = "sqlite", "postgresql", "mariadb"
DATABASES = (SQLITE, POSTGRESQL, MARIADB)
_PLACE = "server.json"
# What the tests make smaller than a server has it by itself.
_POSTGRESQL_OPTIONS = ("shared_buffers=128MB",)
_MARIADB_OPTIONS = ("innodb-buffer-pool-size=128M", "innodb-log-file-size=96M")


# --- in the process of a workload -----------------------------------------------------


def url_of(directory: Path, name: str = "durable") -> str:
    """The URL of the workload's database of this name, which may be yet to be made."""
    found = _find_place(directory)
    if found is None:
        return f"sqlite:///{directory / name}.db"
    known = directory / f"{name}.url"
    if not known.exists():
        template = found["template"] if name == "durable" else None
        known.write_text(_create(found, template))
    return known.read_text()


def server_of(directory: Path) -> Databases | None:
    """The server that the workload runs on, if not in files."""
    found = _find_place(directory)
    return _databases(found) if found is not None else None


def _find_place(directory: Path) -> dict[str, Any] | None:
    for folder in (directory, directory.parent):
        if (folder / _PLACE).exists():
            place: dict[str, Any] = json.loads((folder / _PLACE).read_text())
            return place
    return None


def _databases(place: dict[str, Any]) -> PostgresDatabases | MariaDatabases:
    if place["kind"] == POSTGRESQL:
        return PostgresDatabases(place["port"])
    return MariaDatabases(place["port"])


def _create(place: dict[str, Any], template: str | None) -> str:
    databases = _databases(place)
    if template is not None and isinstance(databases, PostgresDatabases):
        url = databases.create_database(template)
        databases.execute("CHECKPOINT")  # the copy is not what is measured
        return url
    return databases.create_database()


class ServerYardstick:
    """One-row commits by one connection to the server, through its bare driver."""

    def __init__(self, directory: Path) -> None:
        url = url_of(directory, "yardstick")
        self._connection: Any
        if url.startswith("postgresql:"):
            import psycopg

            self._connection = psycopg.connect(url, autocommit=True)
            key = "bigserial PRIMARY KEY"
        else:
            import pymysql

            address, _, database = url.rpartition("/")
            self._connection = pymysql.connect(
                host="127.0.0.1",
                port=int(address.rpartition(":")[2]),
                user="root",
                database=database,
                autocommit=True,
            )
            key = "bigint AUTO_INCREMENT PRIMARY KEY"
        self._cursor = self._connection.cursor()
        self._cursor.execute(f"CREATE TABLE commits (id {key}, data varchar(200))")
        self._taken: list[float] = []

    def commit(self) -> None:
        began = perf_counter()
        self._cursor.execute("INSERT INTO commits (data) VALUES (%s)", ("x" * 200,))
        self._taken.append(perf_counter() - began)

    def close(self) -> float:
        """The middle one of all commits, in seconds."""
        self._connection.close()
        return median(self._taken)


def yardstick_of(directory: Path) -> Yardstick | ServerYardstick:
    if server_of(directory) is None:
        return Yardstick(directory)
    return ServerYardstick(directory)


# --- in the parent --------------------------------------------------------------------


@dataclass
class Servers:
    """The servers of one run of benchmarks, as durable as they are by default.

    Attributes:
        parent: where their files go; None for where the system has such things.
    """

    parent: Path | None
    _running: dict[str, PostgresServer | MariaServer] = field(default_factory=dict)
    _ends: ExitStack = field(default_factory=ExitStack)

    @staticmethod
    def find_lack(database: str) -> str | None:
        """Say what is missing on this machine, if the database cannot run here."""
        kinds = {POSTGRESQL: PostgresServer, MARIADB: MariaServer}
        return kinds[database].find_lack() if database in kinds else None

    def __enter__(self) -> Self:
        name = f"durable-servers-{os.getpid()}-{secrets.token_hex(4)}"
        self._folder = (self.parent or Path(tempfile.gettempdir())) / name
        self._ends.callback(sweep, self._folder)
        return self

    def __exit__(self, *raised: object) -> None:
        self._ends.close()

    def place(self, database: str, directory: Path, template: str | None) -> None:
        """Let the workload of this directory run on the server of this kind.

        Args:
            template: the URL of the database that its own begins as a copy of.
        """
        if database == SQLITE:
            return
        name = template and template.rpartition("/")[2]
        place = {
            "kind": database,
            "port": self._running_server(database).port,
            "template": name,
        }
        (directory / _PLACE).write_text(json.dumps(place))

    def drop(self, directory: Path) -> None:
        """Drop all databases that a workload has had made."""
        if (databases := server_of(directory)) is not None:
            for known in directory.glob("**/*.url"):
                databases.drop_database(known.read_text())

    def _running_server(self, database: str) -> PostgresServer | MariaServer:
        if database not in self._running:
            if not self._folder.exists():
                self._folder.mkdir()
                self._folder.chmod(0o711)  # servers are other users
                start_guard(os.getpid(), self._folder)
            self._running[database] = (
                PostgresServer(self._folder, fsync=True, options=_POSTGRESQL_OPTIONS)
                if database == POSTGRESQL
                else MariaServer(self._folder, fsync=True, options=_MARIADB_OPTIONS)
            )
        return self._running[database]
