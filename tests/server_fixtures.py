"""Fixtures: database servers of a run of tests, and databases of a test.

One server of each kind serves all processes of a run. The first test that needs it
starts it; a guard ends all of them when the run has ended, however it did.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.guard import start_guard, sweep
from tests.servers import (
    MariaDatabases,
    MariaServer,
    PostgresDatabases,
    PostgresServer,
    Server,
)

CONTROLLER = "controller"
"""The process that is the whole run, to which all others belong."""
SERVERS_FOLDER = "servers_folder"
FOLDER_OF = pytest.StashKey[Path]()

# To the end of this process: a shared server is nobody's to stop.
_kept: list[object] = []


def pytest_configure(config: pytest.Config) -> None:
    known = getattr(config, "workerinput", {}).get(SERVERS_FOLDER)
    name = f"durable-servers-{os.getpid()}-{secrets.token_hex(4)}"
    config.stash[FOLDER_OF] = Path(known or Path(tempfile.gettempdir(), name))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_configure_node(node: Any) -> None:
    node.workerinput[CONTROLLER] = os.getpid()
    node.workerinput[SERVERS_FOLDER] = str(node.config.stash[FOLDER_OF])


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        sweep(config.stash[FOLDER_OF])


@pytest.fixture(scope="session")
def servers_folder(pytestconfig: pytest.Config) -> Path:
    """Where servers of this run may be started: they end with the run, or before."""
    folder = pytestconfig.stash[FOLDER_OF]
    try:
        folder.mkdir()
    except FileExistsError:
        return folder
    folder.chmod(0o711)  # servers are other users
    pid = getattr(pytestconfig, "workerinput", {}).get(CONTROLLER, os.getpid())
    _kept.append(start_guard(pid, folder))
    return folder


def require(server: type[Server]) -> None:
    """Skip the test where the server is not installed; fail it in CI."""
    if lack := server.find_lack():
        if os.environ.get("CI"):
            pytest.fail(f"{lack}, and CI skips nothing", pytrace=False)
        pytest.skip(lack)


# A look of autovacuum at any table keeps what claims have replaced, so that others walk
# it again: tests count that.
_OPTIONS: Final[dict[type[PostgresServer | MariaServer], tuple[str, ...]]] = {
    PostgresServer: ("autovacuum=off",),
    MariaServer: (),
}


def _shared_port(folder: Path, kind: type[PostgresServer | MariaServer]) -> int:
    port = folder / f"port-of-{kind.kind}"
    with (folder / f"lock-of-{kind.kind}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not port.exists():
            server = kind(folder, max_connections=300, options=_OPTIONS[kind])
            _kept.append(server)
            port.write_text(str(server.port))
        return int(port.read_text())


@pytest.fixture(scope="session")
def needs_postgres() -> None:
    """Skip where PostgreSQL is not installed."""
    require(PostgresServer)


@pytest.fixture(scope="session")
def postgres_server(needs_postgres: None, servers_folder: Path) -> PostgresDatabases:
    """The PostgreSQL server of this run. Do not harm it: others use it."""
    return PostgresDatabases(_shared_port(servers_folder, PostgresServer))


@pytest.fixture
def postgres_url(postgres_server: PostgresDatabases) -> Iterator[str]:
    """An empty database of the test's own on the PostgreSQL server of this run."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def own_postgres(
    needs_postgres: None, servers_folder: Path
) -> Iterator[PostgresServer]:
    """A PostgreSQL server of the test's own, to stop, freeze and kill."""
    server = PostgresServer(servers_folder)
    yield server
    server.close()


@pytest.fixture(scope="session")
def needs_mariadb() -> None:
    """Skip where MariaDB is not installed."""
    require(MariaServer)


@pytest.fixture(scope="session")
def mariadb_server(needs_mariadb: None, servers_folder: Path) -> MariaDatabases:
    """The MariaDB server of this run. Do not harm it: others use it."""
    return MariaDatabases(_shared_port(servers_folder, MariaServer))


@pytest.fixture
def mariadb_url(mariadb_server: MariaDatabases) -> Iterator[str]:
    """An empty database of the test's own on the MariaDB server of this run."""
    url = mariadb_server.create_database()
    yield url
    mariadb_server.drop_database(url)


@pytest.fixture
def own_mariadb(needs_mariadb: None, servers_folder: Path) -> Iterator[MariaServer]:
    """A MariaDB server of the test's own, to stop, freeze and kill."""
    server = MariaServer(servers_folder)
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of the test's own, of each kind that several processes may share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'runs.db'}"
    fixture = {"postgresql": "postgres_url", "mariadb": "mariadb_url"}[request.param]
    return str(request.getfixturevalue(fixture))


@pytest.fixture
def pooled_url(
    postgres_server: PostgresDatabases, postgres_url: str, servers_folder: Path
) -> Iterator[str]:
    """The database of `postgres_url`, through a PgBouncer in transaction mode."""
    from tests.pooler import Pooler

    require(Pooler)
    pooler = Pooler(servers_folder, server_port=postgres_server.port)
    yield pooler.url(postgres_url.rpartition("/")[2])
    pooler.close()
