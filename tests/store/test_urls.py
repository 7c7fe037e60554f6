"""Which URLs `connect` takes, and what it says of the others."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from durable.errors import DurableError, InvalidOptionError, NotADatabaseError
from durable.store.connect import connect
from durable.store.memory.memory import MemoryStore
from durable.store.queries import LoadRuns
from durable.store.threads.sql_store import SqlStore
from durable.testing.contract.rows import make_start


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
    with pytest.raises(NotADatabaseError, match=r"sqlite:///orders\.db") as refused:
        connect(url)

    assert "postgresql://user:password@host/database" in str(refused.value)


@pytest.mark.parametrize(
    ("scheme", "database"),
    [
        ("postgres", "PostgresDatabase"),
        ("postgresql", "PostgresDatabase"),
        ("postgresql+psycopg", "PostgresDatabase"),
        ("mysql", "MysqlDatabase"),
        ("mysql+pymysql", "MysqlDatabase"),
        ("mariadb", "MysqlDatabase"),
        ("MariaDB+PyMySQL", "MysqlDatabase"),
    ],
)
def test_url_of_a_server_is_taken_and_named_without_its_password(
    scheme: str, database: str
) -> None:
    store = connect(f"{scheme}://user:s3cr%40t@host:5000/db")

    assert isinstance(store, SqlStore)
    assert type(store._database).__name__ == database
    assert store._database.name == f"{scheme}://user:***@host:5000/db"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://user:s3cr@host", "names no database"),
        ("mysql+asyncmy://user:s3cr@host/db", "'pymysql' is"),
        ("postgresql+asyncpg://user:s3cr@host/db", "'psycopg' is"),
        ("mysql://user:s3cr@host:port/db", "not a URL"),
    ],
)
def test_url_that_names_no_database_of_a_server_is_refused(url: str, said: str) -> None:
    with pytest.raises(NotADatabaseError, match=said) as caught:
        connect(url)

    assert "s3cr" not in str(caught.value)
    assert "//user:password@host" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "driver", "extra"),
    [
        ("postgresql://host/db", "psycopg", "postgresql"),
        ("mysql://host/db", "pymysql", "mysql"),
    ],
)
def test_driver_that_is_not_installed_is_named(
    url: str, driver: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("durable.store.")]:
        if name.split(".")[2] in ("mysql", "postgresql"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, driver, None)

    with pytest.raises(NotADatabaseError) as caught:
        connect(url)

    assert f"needs the driver {driver}" in str(caught.value)
    assert f"pip install 'durable-asyncio[{extra}]'" in str(caught.value)


SECRET = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        f"x://u:{SECRET}@h/d",
        f"sqlite://u:{SECRET}@h/d",
        f"sqlite://u:{SECRET}/d",
        f"sqlite+pysqlcipher://:{SECRET}@/x.db",
        f"sqlite+pysqlcipher://u:{SECRET}",
        f"postgres://h/d?user=u&password={SECRET}&x=1",
        f"postgres://h/d?sslpassword={SECRET}",
        f"postgres://h/d?pwd={SECRET}",
        f"postgres://h/d?passfile=x&key={SECRET}",
        f"postgres://u:a@{SECRET}@h/d",
        f"postgres://u:a/{SECRET}@h/d",
        f"postgres://u:a/{SECRET}/b@h/d",
        f"postgres://u:{SECRET}/a@h",
        f"postgres://u:a?{SECRET}@h/d",
        f"postgres://u:a#{SECRET}@h/d",
        f"postgres://u:a b{SECRET}@h/d",
        f"postgres://u:a\n{SECRET}@h/d",
        f"postgres://{SECRET}@h/d",
        f"postgres://u:{SECRET}",
        f"postgres://u:p%40{SECRET}@h/d",
        f"postgresql+asyncpg://u:{SECRET}@[::1]:5432/d",
        f"postgres:u:{SECRET}@h",
        f"postgres:/u:{SECRET}@h",
        f"//u:{SECRET}@h/d",
        f"u:{SECRET}@h/d",
        f"redis://:{SECRET}@h",
        f"libsql://h?authToken={SECRET}",
        f"host=h user=u password={SECRET}",
        f"host=h;Uid=u;Pwd={SECRET};",
        f"jdbc:postgresql://h/d?user=u&password={SECRET}",
        f"odbc://?odbc_connect=DRIVER%3Dx%3BPWD%3D{SECRET}",
        f"mysql://u:a'{SECRET}'@h/d",
        f"sqlite:///x.db?password={SECRET}",
        f"sqlite:///x.db?key=a&{SECRET}=1",
        f"sqlite:///x.db?synchronous=full;password={SECRET}",
        f"sqlite:///x.db?{SECRET}",
    ],
)
def test_password_is_masked_in_refusals_and_names(url: str) -> None:
    try:
        store = connect(url)
    except DurableError as error:
        said = str(error)
    else:
        assert isinstance(store, SqlStore)
        said = store._database.name

    assert SECRET not in said


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("orders.db", "'orders.db'"),
        ("postgres://u:x@h.example:5432", "'postgres://u:***@h.example:5432'"),
        ("postgres://h/d?oops=1", "'postgres://h/d?oops=***'"),
        ("sqlite://orders.db", "'sqlite://orders.db'"),
        ("sqlite:///a@b.db?oops=1", "'sqlite:///a@b.db?oops=***'"),
    ],
)
def test_what_is_no_password_is_shown(url: str, shown: str) -> None:
    with pytest.raises(DurableError) as caught:
        connect(url)

    assert shown in str(caught.value)


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

    assert await other.read(LoadRuns(["r1"])) == []
    await one.close()
    await other.close()


async def test_memory_of_a_name_outlives_its_stores() -> None:
    first = connect("memory://outlives")
    await first.open()
    await first.perform(make_start("r1"))
    await first.close()

    second = connect("memory://outlives")
    await second.open()

    assert len(await second.read(LoadRuns(["r1"]))) == 1
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
