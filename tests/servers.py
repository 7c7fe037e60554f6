"""Throwaway database servers on free ports of 127.0.0.1, each in a folder of its own.

The fixtures are in tests/server_fixtures.py. A server ends by `close`; whoever starts
one elsewhere gives its folder to a guard (tests/guard.py), which survives kill -9.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from tests.guard import freeze_all_in, kill_all_in, processes_in, send, sweep

START_SECONDS_MAX = 30.0
# Below those that systems hand out: a client that asks for the port of a stopped server
# could else be given that very port, and be connected with itself.
PORTS = range(20_000, 32_000)
_DRAWN = random.SystemRandom()  # tests seed the other one

Rows = list[tuple[Any, ...]]
StopMode = Literal["smart", "fast", "immediate"]


def free_port() -> int:
    while True:
        port = _DRAWN.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


class Databases(ABC):
    """What is asked of a running server, whoever has started it."""

    def __init__(self, port: int) -> None:
        self.port = port

    @abstractmethod
    def url(self, database: str) -> str: ...

    @abstractmethod
    def execute(
        self, sql: str, database: str | None = None, *, wait_seconds: int = 30
    ) -> Rows:
        """Execute one statement, committed, as the superuser; answer its rows."""

    @abstractmethod
    def create_database(self) -> str:
        """Create an empty database and return its URL."""

    @abstractmethod
    def drop_database(self, url: str) -> None:
        """Drop the database of the URL, whoever is still connected to it."""


class Server(Databases):
    """The process of a server, which runs as another user where we are root.

    Raises:
        RuntimeError: it does not start; the message holds the end of its log.
    """

    kind: ClassVar[str]
    accounts: ClassVar[tuple[str, ...]]

    def __init__(self, parent: Path, *, options: tuple[str, ...] = ()) -> None:
        super().__init__(free_port())
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.kind}-", dir=parent))
        self.options = options
        self._user = _find_account(self.accounts) if os.geteuid() == 0 else None
        if self._user:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.prepare()
            self._start_somewhere()
        except BaseException:
            self.close()
            raise

    @classmethod
    @abstractmethod
    def find_lack(cls) -> str | None:
        """Say what is missing on this machine, if the server cannot run here."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what the server starts from, in its folder."""

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def ask(self) -> bool:
        """Tell whether it, and no other server at this port, answers by now."""

    def start(self) -> None:
        """Start it again on the same port, and wait until it answers."""
        assert self._process is None, f"{self.kind} runs"
        self._process = self._launch(self.command())
        deadline = time.monotonic() + START_SECONDS_MAX
        while self._process.poll() is None and time.monotonic() < deadline:
            if self.ask():
                return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"{self.kind} did not start: {self.read_log()[-2000:]}")

    def _start_somewhere(self) -> None:
        for _ in range(2):
            with contextlib.suppress(RuntimeError):
                return self.start()
            self.port = free_port()  # somebody else was faster
        self.start()

    def kill(self) -> None:
        """Kill the server and all it has started, as kill -9 does. Files stay."""
        kill_all_in(self.folder)
        self._reap()

    def freeze(self) -> None:
        """Stop it as SIGSTOP does: connections stay open, and nothing answers."""
        freeze_all_in(self.folder)

    def thaw(self) -> None:
        send(signal.SIGCONT, processes_in(self.folder))

    def stop(self) -> None:
        """Stop it in order, with all sessions cut."""
        self._end_by(signal.SIGTERM)

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the server and remove its folder."""
        sweep(self.folder)
        self._reap()

    def read_log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def _launch(self, words: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                words,
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "TZ": "UTC"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self._user and self._user.pw_uid,
                group=self._user and self._user.pw_gid,
                extra_groups=self._user and [],
            )

    def _run(self, words: list[str]) -> None:
        if self._launch(words).wait(60):
            raise RuntimeError(f"{words[0]} failed: {self.read_log()[-2000:]}")

    def _end_by(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.kind} does not run"
        self._process.send_signal(number)
        self._process.wait(30)
        self.kill()  # what it has left behind

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait(10)
            self._process = None


def _find_account(names: tuple[str, ...]) -> pwd.struct_passwd:
    known = {account.pw_name: account for account in pwd.getpwall()}
    return next(known[name] for name in names if name in known)


class PostgresDatabases(Databases):
    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def execute(
        self, sql: str, database: str | None = None, *, wait_seconds: int = 30
    ) -> Rows:
        import psycopg

        with psycopg.connect(
            self.url(database or "postgres"),
            autocommit=True,
            connect_timeout=wait_seconds,
        ) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    def create_database(self, template: str | None = None) -> str:
        """Create an empty database, or a copy of the template; return its URL."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template or 'template0'}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        name = url.rpartition("/")[2]
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


class PostgresServer(PostgresDatabases, Server):
    """A PostgreSQL server, UTF8, in which anybody on this machine is `postgres`.

    What is committed survives `kill` even without `fsync`, as the system lives on. With
    it a commit takes as long as it does in earnest.
    """

    kind = "postgresql"
    accounts = ("postgres", "nobody")

    def __init__(
        self,
        parent: Path,
        *,
        fsync: bool = False,
        max_connections: int = 100,
        options: tuple[str, ...] = (),
    ) -> None:
        durability = "on" if fsync else "off"
        settings = (
            f"fsync={durability}",
            f"full_page_writes={durability}",
            f"max_connections={max_connections}",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "shared_buffers=16MB",
            # In its folder, so that a kill leaves nothing elsewhere.
            "dynamic_shared_memory_type=mmap",
            *options,
        )
        super().__init__(parent, options=tuple(f"--{option}" for option in settings))

    @classmethod
    def find_lack(cls) -> str | None:
        if find_postgres() is None:
            return "PostgreSQL is not installed"
        return find_lack_of_driver("psycopg")

    def prepare(self) -> None:
        words = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        self._run([self._program("initdb"), "-D", str(self.folder / "data"), *words])

    def command(self) -> list[str]:
        data = str(self.folder / "data")
        words = ["-D", data, "-p", str(self.port)]
        return [self._program("postgres"), *words, *self.options]

    def ask(self) -> bool:
        import psycopg

        try:
            place = self.execute("SHOW data_directory", wait_seconds=2)
        except psycopg.OperationalError:
            return False
        return place == [(f"{self.folder}/data",)]

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it as `pg_ctl stop` does; "smart" waits for all to disconnect."""
        signals = {"smart": signal.SIGTERM, "fast": signal.SIGINT}
        self._end_by(signals.get(mode, signal.SIGQUIT))

    def _program(self, name: str) -> str:
        folder = find_postgres()
        assert folder is not None
        return str(folder / name)


class MariaDatabases(Databases):
    def url(self, database: str) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/{database}"

    def execute(
        self, sql: str, database: str | None = None, *, wait_seconds: int = 30
    ) -> Rows:
        import pymysql

        with (
            contextlib.closing(
                pymysql.connect(
                    host="127.0.0.1",
                    port=self.port,
                    user="root",
                    database=database,
                    autocommit=True,
                    connect_timeout=wait_seconds,
                    read_timeout=wait_seconds,
                )
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql)
            return list(cursor.fetchall())

    def create_database(self) -> str:
        name = f"test_{secrets.token_hex(6)}"
        collation = "CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin"
        self.execute(f"CREATE DATABASE {name} {collation}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        import pymysql

        name = url.rpartition("/")[2]
        connected = self.execute(
            f"SELECT id FROM information_schema.processlist WHERE db = '{name}'"  # noqa: S608 - the name is ours
        )
        for (number,) in connected:  # DROP would wait for their transactions
            with contextlib.suppress(pymysql.OperationalError):  # it has gone
                self.execute(f"KILL CONNECTION {number}")
        self.execute(f"DROP DATABASE IF EXISTS {name}")


class MariaServer(MariaDatabases, Server):
    """A MariaDB server in which anybody on this machine is `root`.

    Its databases compare texts byte by byte. What is committed survives `kill` even
    without `fsync`, as the system lives on.
    """

    kind = "mariadb"
    accounts = ("mysql", "nobody")

    def __init__(
        self,
        parent: Path,
        *,
        fsync: bool = False,
        max_connections: int = 100,
        options: tuple[str, ...] = (),
    ) -> None:
        settings = (
            "bind-address=127.0.0.1",
            f"innodb-flush-log-at-trx-commit={1 if fsync else 2}",
            f"max-connections={max_connections}",
            "innodb-buffer-pool-size=32M",
            "innodb-log-file-size=16M",
            "character-set-server=utf8mb4",
            "skip-log-bin",
            "skip-name-resolve",
            *options,
        )
        super().__init__(parent, options=tuple(f"--{option}" for option in settings))

    @classmethod
    def find_lack(cls) -> str | None:
        if not (find_program("mariadbd") and find_program("mariadb-install-db")):
            return "MariaDB is not installed"
        return find_lack_of_driver("pymysql")

    def prepare(self) -> None:
        words = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        log = "--innodb-log-file-size=16M"  # as later, or it is made twice
        self._run([self._program("mariadb-install-db"), *self._place(), *words, log])
        (self.folder / "init.sql").write_text(
            "CREATE USER IF NOT EXISTS root@'127.0.0.1';\n"
            "GRANT ALL ON *.* TO root@'127.0.0.1' WITH GRANT OPTION;\n"
        )

    def command(self) -> list[str]:
        return [
            self._program("mariadbd"),
            *self._place(),
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--init-file={self.folder / 'init.sql'}",
            f"--port={self.port}",
            *self.options,
        ]

    def ask(self) -> bool:
        import pymysql

        try:
            place = self.execute("SELECT @@datadir", wait_seconds=2)
        except pymysql.OperationalError:
            return False
        return place == [(f"{self.folder}/data/",)]

    def _place(self) -> list[str]:
        return [
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            # A server that starts removes the temporary tables of all in the same.
            f"--tmpdir={self.folder}",
        ]

    def _program(self, name: str) -> str:
        program = find_program(name)
        assert program is not None
        return program


def find_program(name: str) -> str | None:
    """Find a program of a server, which may be where only root looks."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def find_lack_of_driver(driver: str) -> str | None:
    if not Path("/proc/self/cwd").exists():
        return "this system has no /proc to find the processes of a server in"
    if importlib.util.find_spec(driver) is None:
        return f"{driver} is not installed"
    return None


@functools.cache
def find_postgres() -> Path | None:
    """The folder of PostgreSQL's programs, the newest of this machine's."""
    found = [folder for folder in _postgres_folders() if (folder / "initdb").exists()]
    return max(found, key=_major_version, default=None)


def _postgres_folders() -> Iterator[Path]:
    yield from Path("/usr/lib/postgresql").glob("*/bin")
    if pg_config := shutil.which("pg_config"):
        said = subprocess.run(
            [pg_config, "--bindir"], capture_output=True, text=True, timeout=10
        )
        yield Path(said.stdout.strip())
    if initdb := shutil.which("initdb"):
        yield Path(initdb).resolve().parent


def _major_version(folder: Path) -> int:
    said = subprocess.run(
        [folder / "initdb", "--version"], capture_output=True, text=True, timeout=10
    )
    # As in "initdb (PostgreSQL) 17.2 (Debian 17.2-1)" and "... 18beta1".
    version = said.stdout.split()[2]
    return int(version.partition(".")[0].partition("beta")[0].partition("rc")[0])
