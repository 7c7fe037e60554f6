"""What PostgreSQL refuses is told by its reason, and without a password."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from durable.errors import (
    DatabaseFullError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    SchemaRevisionError,
    StoreError,
)
from durable.store.connect import connect
from durable.store.queries import ListRuns
from durable.store.records import RunFilter, Started
from durable.testing.contract.rows import NAMESPACE, make_message, make_start
from tests.servers import PostgresServer, find_postgres

pytestmark = [pytest.mark.slow, pytest.mark.sweep(5, of_class=True)]

PASSWORD = "open-sesame-7"


@pytest.fixture(scope="module")
def server(needs_postgres: None, servers_folder: Path) -> Iterator[PostgresServer]:
    """A server with a role `guest`, who must know a password."""
    server = PostgresServer(servers_folder, max_connections=15)
    server.execute(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    (server.folder / "data" / "pg_hba.conf").write_text(
        "host all postgres 127.0.0.1/32 trust\n"
        "host all guest 127.0.0.1/32 scram-sha-256\n"
    )
    server.restart()
    yield server
    server.close()


@pytest.fixture
def url(server: PostgresServer) -> Iterator[str]:
    url = server.create_database()
    yield url
    server.drop_database(url)


def as_guest(url: str, password: str = PASSWORD) -> str:
    return url.replace("postgres@", f"guest:{password}@")


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


async def refusal_of(url: str, **options: Any) -> StoreError:
    """Open a store, and return why it was refused."""
    store = connect(url, **options)
    with pytest.raises(StoreError) as caught:
        await store.open()
    await store.close()
    whole = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in whole
    return caught.value


async def make_tables(url: str) -> None:
    store = connect(url)
    await store.open()
    await store.perform(make_start("r"))
    await store.close()


async def test_wrong_password_is_told_without_it(url: str) -> None:
    refusal = await refusal_of(as_guest(url, password="hunter2"))

    assert type(refusal) is DatabaseUnavailableError
    assert 'password authentication failed for user "guest"' in str(refusal)
    assert "hunter2" not in "".join(traceback.format_exception(refusal))


async def test_unknown_user_is_told(url: str) -> None:
    refusal = await refusal_of(url.replace("postgres@", "stranger:x@"))

    assert type(refusal) is DatabaseUnavailableError
    assert "does not let this user in" in str(refusal)


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
async def test_server_that_is_not_there_is_told_with_where_to_look(scheme: str) -> None:
    refusal = await refusal_of(f"{scheme}://app@127.0.0.1:1/app")

    assert type(refusal) is DatabaseUnavailableError
    assert "cannot be reached" in str(refusal)
    assert "host and port of the URL" in str(refusal.hint)


async def test_unknown_database_is_told_with_what_makes_one(url: str) -> None:
    refusal = await refusal_of(url.rpartition("/")[0] + "/nowhere")

    assert type(refusal) is DatabaseUnavailableError
    assert 'database "nowhere" does not exist' in str(refusal)
    assert "createdb" in str(refusal.hint)


async def test_empty_database_that_may_not_be_changed_names_the_command(
    url: str,
) -> None:
    refusal = await refusal_of(url, migrate=False)

    assert type(refusal) is SchemaRevisionError
    assert "durable db upgrade" in str(refusal.hint)


async def test_role_that_may_not_make_tables_is_told(url: str) -> None:
    refusal = await refusal_of(as_guest(url))

    assert type(refusal) is DatabaseUnavailableError
    assert "permission denied for schema public" in str(refusal)


async def test_role_that_may_only_read_reads_and_is_told_what_else_takes(
    server: PostgresServer, url: str
) -> None:
    await make_tables(url)
    blind = await refusal_of(as_guest(url), migrate=False)
    grant = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest"
    server.execute(grant, name_of(url))

    store = connect(as_guest(url), migrate=False)
    await store.open()
    found = await store.read(ListRuns(NAMESPACE, RunFilter()))
    with pytest.raises(DatabaseUnavailableError, match="permission denied") as refusal:
        await store.perform(make_start("s"))
    await store.close()

    assert [record.run_id for record in found] == ["r"]
    assert "takes INSERT, UPDATE and DELETE" in str(refusal.value.hint)
    assert type(blind) is DatabaseUnavailableError
    assert "To read takes SELECT" in str(blind.hint)


async def test_role_with_the_rights_of_the_hint_works_on_tables_of_another(
    server: PostgresServer, url: str
) -> None:
    await make_tables(url)
    for rights in (
        "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public",
        "USAGE ON ALL SEQUENCES IN SCHEMA public",
    ):
        server.execute(f"GRANT {rights} TO guest", name_of(url))

    store = connect(as_guest(url))
    await store.open()
    assert await store.perform(make_message("r")) == "r"
    assert (await store.perform(make_start("s"))).created
    assert len(await store.read(ListRuns(NAMESPACE, RunFilter()))) == 2
    await store.close()


async def test_rights_that_are_taken_away_are_told_and_come_back(
    server: PostgresServer, url: str
) -> None:
    await make_tables(url)
    rights = "ALL ON ALL TABLES IN SCHEMA public"
    server.execute(f"GRANT {rights} TO guest", name_of(url))
    usage = "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO guest"
    server.execute(usage, name_of(url))
    store = connect(as_guest(url))
    await store.open()
    server.execute(f"REVOKE {rights} FROM guest", name_of(url))
    with pytest.raises(DatabaseUnavailableError, match="permission denied"):
        await store.perform(make_start("s"))
    with pytest.raises(DatabaseUnavailableError, match="permission denied"):
        await store.read(ListRuns(NAMESPACE, RunFilter()))
    server.execute(f"GRANT {rights} TO guest", name_of(url))

    assert (await store.perform(make_start("s"))).created
    assert len(await store.read(ListRuns(NAMESPACE, RunFilter()))) == 2
    await store.close()


# --- databases that take no writes ----------------------------------------------------


async def test_read_only_database_is_told(server: PostgresServer, url: str) -> None:
    text = f"ALTER DATABASE {name_of(url)} SET default_transaction_read_only"
    server.execute(f"{text} = on")
    empty = await refusal_of(url)
    server.execute(f"{text} = off")
    await make_tables(url)
    server.execute(f"{text} = on")
    full = await refusal_of(url)

    assert type(empty) is type(full) is DatabaseReadOnlyError


@pytest.fixture
def standby(server: PostgresServer, servers_folder: Path) -> Iterator[PostgresServer]:
    standby = Standby(servers_folder, primary=server)
    yield standby
    standby.close()


class Standby(PostgresServer):
    """A copy of another server that follows it, and takes no writes until promoted."""

    def __init__(self, parent: Path, *, primary: PostgresServer) -> None:
        self._primary = primary
        super().__init__(parent)

    def prepare(self) -> None:
        folder = find_postgres()
        assert folder is not None
        hba = self._primary.folder / "data" / "pg_hba.conf"
        line = "host replication postgres 127.0.0.1/32 trust\n"
        if line not in hba.read_text():
            hba.write_text(hba.read_text() + line)
            self._primary.execute("SELECT pg_reload_conf()")
        words = ["-h", "127.0.0.1", "-p", str(self._primary.port), "-U", "postgres"]
        data = str(self.folder / "data")
        words += ["-D", data, "-R", "-c", "fast", "-X", "stream", "--no-sync"]
        self._run([str(folder / "pg_basebackup"), *words])


async def test_standby_is_told_and_taken_once_it_is_promoted(
    server: PostgresServer, url: str, standby: Standby
) -> None:
    await make_tables(url)
    await until(lambda: has_tables(standby, name_of(url)))
    copy = standby.url(name_of(url))

    refusal = await refusal_of(copy)
    standby.execute("SELECT pg_promote()")
    store = connect(copy)
    await store.open()
    created = (await store.perform(make_start("s"))).created
    await store.close()

    assert type(refusal) is DatabaseReadOnlyError
    assert "standby" in str(refusal.hint)
    assert created


def has_tables(server: PostgresServer, database: str) -> bool:
    try:
        text = "SELECT count(*) FROM durable_runs"
        return server.execute(text, database) == [(1,)]
    except psycopg.Error:
        return False


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if is_so():
            return
        await asyncio.sleep(0.02)
    pytest.fail("it did not come to pass")


async def test_primary_that_becomes_a_standby_is_told_and_found_again(
    server: PostgresServer, url: str
) -> None:
    """As a failover: what was open is closed, and what answers takes no writes."""
    store = connect(url)
    await store.open()
    text = "ALTER SYSTEM SET default_transaction_read_only"
    server.execute(f"{text} = on")
    await asyncio.to_thread(server.restart)
    try:
        with pytest.raises(DatabaseReadOnlyError):
            await store.perform(make_start("r"))
    finally:
        (server.folder / "data" / "postgresql.auto.conf").write_text("")
        await asyncio.to_thread(server.restart)

    assert (await store.perform(make_start("r"))).created
    await store.close()


# --- no room --------------------------------------------------------------------------


async def test_server_without_a_free_connection_is_told_and_waited_for(
    server: PostgresServer, url: str
) -> None:
    guests: list[psycopg.Connection[Any]] = []
    try:
        while True:
            guests.append(psycopg.connect(url))
    except psycopg.OperationalError:
        pass
    refusal = await refusal_of(url)
    for guest in guests:
        guest.close()

    assert type(refusal) is DatabaseUnavailableError
    assert "has no connection left" in str(refusal)
    assert "max_connections" in str(refusal.hint)
    await make_tables(url)


@pytest.fixture
def disk(server: PostgresServer) -> Iterator[Path]:
    """A small disk of the server's."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = server.folder / "disk"
    disk.mkdir()
    options = f"size=24m,mode=700,uid={server.folder.stat().st_uid}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


async def test_full_disk_is_told_and_survived(
    server: PostgresServer, disk: Path
) -> None:
    server.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
    server.execute("CREATE DATABASE small TABLESPACE small TEMPLATE template0")
    url = server.url("small")
    store = connect(url)
    await store.open()
    filler = disk / "filler"
    filler.write_bytes(bytes(10 * 1024 * 1024))
    outcomes: list[Any] = []
    while not outcomes or isinstance(outcomes[-1], Started):
        # What repeats itself would be compressed.
        start = make_start(f"r{len(outcomes)}", state=secrets.token_hex(2**19))
        outcomes += await asyncio.gather(store.perform(start), return_exceptions=True)
    filler.unlink()

    assert isinstance(outcomes[-1], DatabaseFullError)
    assert (await store.perform(make_start("later"))).created
    found = await store.read(ListRuns(NAMESPACE, RunFilter()))
    assert len(found) == len(outcomes)
    await store.close()
    server.drop_database(url)
    server.execute("DROP TABLESPACE small")


# --- a schema of the URL's ------------------------------------------------------------


async def test_schemas_of_one_database_have_tables_of_their_own(
    server: PostgresServer, url: str
) -> None:
    for schema in ("shop", 'Odd "name"'):
        server.execute(f"CREATE SCHEMA {quoted(schema)}", name_of(url))
    counts = {"": 1, "?schema=shop": 2, "?schema=Odd%20%22name%22": 3}
    for option, count in counts.items():
        store = connect(url + option)
        await store.open()
        for number in range(count):
            await store.perform(make_start(f"r{number}"))
        await store.close()

    for option, count in counts.items():
        store = connect(url + option, migrate=False)
        await store.open()
        assert len(await store.read(ListRuns(NAMESPACE, RunFilter()))) == count
        await store.close()


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


async def test_schema_that_is_missing_is_told(url: str) -> None:
    refusal = await refusal_of(f"{url}?schema=nowhere")

    assert "has no schema 'nowhere'" in str(refusal)
