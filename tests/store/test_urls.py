"""Which URLs `connect` takes, and what it says of the others."""

import os
from pathlib import Path
from typing import Any

import pytest

from durable.errors import DurableError, InvalidOptionError, NotADatabaseError
from durable.store.connect import connect
from durable.store.memory import MemoryStore
from durable.store.sql_store import SqlStore
from durable.testing.store_rows import make_start


@pytest.mark.parametrize(
    "url",
    [
        None,
        5,
        b"sqlite://",
        Path("orders.db"),
        "",
        "orders.db",
        "/var/lib/orders.db",
        "sqlite",
        "sqlite:orders.db",
        "sqlite:/orders.db",
        "sqlite://orders.db",
        "sqlite:///",
        "sqlite:///orders\0.db",
        "sqlite+aiosqlite:///orders.db",
        "file:orders.db",
        "oracle://host/db",
        "http://host/orders.db",
    ],
)
def test_url_that_names_no_database_is_refused_with_the_right_form(url: Any) -> None:
    with pytest.raises(NotADatabaseError, match=r"sqlite:///orders\.db"):
        connect(url)


@pytest.mark.parametrize(
    "scheme",
    [
        "postgres",
        "postgresql",
        "postgresql+psycopg",
        "mysql",
        "mysql+pymysql",
        "mariadb",
        "MySQL",
    ],
)
def test_url_of_a_server_is_refused_without_its_password(scheme: str) -> None:
    with pytest.raises(NotADatabaseError, match="SQLite only") as caught:
        connect(f"{scheme}://user:s3cr@t:x@host/db")

    assert "s3cr" not in str(caught.value)
    assert "user:***@host/db" in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "x://u:s3cret@h/d",
        "sqlite://u:s3cret@h/d",
        "postgres://h/d?user=u&password=s3cret&x=1",
        "sqlite:///x.db?Passwd=s3cret",
    ],
)
def test_password_is_masked_in_every_refusal(url: str) -> None:
    with pytest.raises(DurableError) as caught:
        connect(url)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sqlite:///x.db?journal=wal", "'journal'"),
        ("sqlite:///x.db?synchronous=off", "'off'"),
        ("sqlite:///x.db?synchronous=", "''"),
        ("sqlite:///x.db?synchronous=normal&mode=ro", "'mode'"),
        ("sqlite:///x.db?oops", "'oops'"),
        ("memory://x?synchronous=full", "options"),
    ],
)
def test_option_that_does_not_exist_is_refused(url: str, named: str) -> None:
    with pytest.raises(InvalidOptionError, match="synchronous") as caught:
        connect(url)

    assert named in str(caught.value)


def test_memory_names_a_store_without_a_database() -> None:
    assert isinstance(connect("memory://"), MemoryStore)
    assert isinstance(connect("memory://name"), MemoryStore)


async def test_memory_without_a_name_is_private() -> None:
    one, other = connect("memory://"), connect("memory://")
    await one.open()
    await other.open()
    await one.perform(make_start("r1"))

    assert await other.load_runs(["r1"]) == []
    await one.close()
    await other.close()


async def test_memory_of_a_name_outlives_its_stores() -> None:
    first = connect("memory://outlives")
    await first.open()
    await first.perform(make_start("r1"))
    await first.close()

    second = connect("memory://outlives")
    await second.open()

    assert len(await second.load_runs(["r1"])) == 1
    await second.close()


async def test_relative_path_is_taken_from_where_the_program_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = connect("sqlite:///some file%20?synchronous=full")
    os.chdir("/")

    await store.open()
    await store.close()

    assert os.listdir(tmp_path) == ["some file%20"]


@pytest.mark.parametrize(
    ("option", "level"),
    [("", 2), ("?synchronous=full", 2), ("?synchronous=normal", 1)],
)
@pytest.mark.parametrize("url", ["sqlite:///{path}/x.db", "sqlite://"])
async def test_synchronous_is_full_unless_told(
    tmp_path: Path, url: str, option: str, level: int
) -> None:
    store = connect(url.format(path=tmp_path) + option)
    assert isinstance(store, SqlStore)
    await store.open()
    assert store._writer is not None
    session = store._writer._executor.open()

    found = session.connection.exec_driver_sql("PRAGMA synchronous").scalar()

    await store.close()
    assert found == level
