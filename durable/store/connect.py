"""`connect`: from a URL to a store; the one place that picks a database."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

from durable.clock import Clock, SystemClock
from durable.errors import InvalidOptionError, NotADatabaseError
from durable.store.memory.memory import MemoryStore

if TYPE_CHECKING:
    from durable.observer import Observer
    from durable.store.database import Database
    from durable.store.servers.server_clock import ServerClock
    from durable.store.store import Store

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_SERVERS: Final = ("postgres", "postgresql", "mysql", "mariadb")
_SYNCHRONOUS: Final = {"full": "FULL", "normal": "NORMAL"}
_FORMS: Final = (
    "Write 'sqlite:///orders.db' for a file beside the program,"
    " 'sqlite:////var/lib/orders.db' for an absolute path,"
    " 'sqlite://' for a database in memory, or"
    " 'postgresql://user:password@host/database' (or mysql) for one on a server."
)


# What may follow the password: a host, a port and a database, or less.
_PLACE: Final = re.compile(r"[\w.-]*(?:\[[\da-fA-F:]+\])?(?::\d{1,5})?(?:/[\w.-]*)?")
_PATH: Final = re.compile(r"(?:sqlite:|memory:|file:|[A-Za-z]:)?[\w./\\~ -]*")
_KNOWN_OPTION: Final = re.compile(r"synchronous=\w{0,20}")


def mask_password(url: str) -> str:
    """Return a URL in which three stars stand for what could be a password.

    People write passwords unescaped, and in options. So only what has the form of a
    user, a host, a database or a path of a file is shown.
    """
    match = _SCHEME.fullmatch(url)
    if match is None:
        return url if _PATH.fullmatch(url) else "***"
    scheme, rest = match.groups()
    rest, options = _mask_options(rest)
    user, at, place = rest.rpartition("@")
    if scheme.lower() in ("sqlite", "memory") and ":" not in user:
        is_path = rest.startswith("/") or ":" not in rest.partition("/")[0]
        return f"{scheme}://{rest if is_path else '***'}{options}"
    if not _PLACE.fullmatch(place) or scheme.lower().partition("+")[0] not in (
        *_SERVERS,
        "sqlite",
    ):
        place = "***"
    name, colon, _ = user.partition(":")
    if not (colon and re.fullmatch(r"[\w.-]*", name)):
        return f"{scheme}://{'***@' if at else ''}{place}{options}"
    return f"{scheme}://{name}:***@{place}{options}"


def _mask_options(rest: str) -> tuple[str, str]:
    """Split the options off, and show those that cannot hold a secret."""
    before, _, query = rest.partition("?")
    if "?" not in rest:
        return rest, ""
    if "@" in query:  # then the ? may stand in a password
        return f"{before}?{query}", ""
    if _KNOWN_OPTION.fullmatch(query):
        return before, f"?{query}"
    name, is_set, _ = query.partition("=")
    return before, f"?{name}=***" if is_set else "?***"


def _if_plain(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z_]{0,20}", text) else "***"


def connect(
    url: str,
    *,
    clock: Clock | None = None,
    migrate: bool = True,
    observer: Observer | None = None,
) -> Store:
    """Make the store of a database; nothing is opened yet.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite://` for a
            private database in memory, `memory://` (`memory://name`) for a store
            without a database; or `postgresql://user:password@host:5432/database`,
            and the same with `mysql` or `mariadb`, for one on a server. SQLite takes
            the option `?synchronous=full` (the default: an acknowledged commit
            survives power loss) or `normal`.
        clock: where the store reads the time; the machine's clock by default.
        migrate: whether opening may create or upgrade the schema.
        observer: is told of each commit.

    Raises:
        NotADatabaseError: the URL names no database that this release can use.
        InvalidOptionError: it has an option that does not exist, or a wrong value.
    """
    given: object = url
    if not isinstance(given, str):
        raise NotADatabaseError(
            f"A database URL is text, and this is {type(given).__name__}.", hint=_FORMS
        )
    shown = mask_password(given)
    match = _SCHEME.fullmatch(given)
    if match is None:
        hint = _FORMS
        if given and ":" not in given:
            hint = f"Is it a file? Then give Path({shown!r}) to an engine. {_FORMS}"
        raise NotADatabaseError(f"{shown!r} is not a database URL.", hint=hint)
    scheme, rest = match.group(1).lower(), match.group(2)
    kind = scheme.partition("+")[0]
    if kind in _SERVERS:
        return _connect_server(given, shown, clock, migrate, observer)
    clock = clock or SystemClock()
    if scheme == "memory":
        return MemoryStore(_memory_name(rest, shown), clock=clock, observer=observer)
    if scheme != "sqlite":
        raise NotADatabaseError(
            f"{shown!r} names no database that is known here.", hint=_FORMS
        )
    path, synchronous = _parse_sqlite(rest, shown)
    return _connect_sqlite(path, synchronous, clock, migrate, observer)


def connect_file(
    path: os.PathLike[str],
    *,
    clock: Clock | None = None,
    observer: Observer | None = None,
) -> Store:
    """Make the store of an SQLite file, whatever its name; see `connect`."""
    return _connect_sqlite(Path(path), "FULL", clock or SystemClock(), True, observer)


def _connect_sqlite(
    path: Path | None,
    synchronous: str,
    clock: Clock,
    migrate: bool,
    observer: Observer | None,
) -> Store:
    # SQLAlchemy takes 0.3 s to import, which a store in memory can do without.
    from durable.store.sqlite.sqlite import SqliteDatabase
    from durable.store.threads.sql_store import SqlStore

    database = SqliteDatabase(path, synchronous=synchronous, migrate=migrate)
    return SqlStore(database, clock=clock, observer=observer)


def _connect_server(
    url: str,
    shown: str,
    clock: Clock | None,
    migrate: bool,
    observer: Observer | None,
) -> Store:
    from durable.store.servers.server_clock import ServerClock
    from durable.store.threads.sql_store import SqlStore

    server = ServerClock()
    make = _postgresql if url[:1] in "Pp" else _mysql
    database = make(url, shown, server, migrate)
    return SqlStore(database, clock=clock or server, observer=observer)


def _postgresql(url: str, shown: str, clock: ServerClock, migrate: bool) -> Database:
    try:
        from durable.store.postgresql.postgresql import PostgresDatabase
        from durable.store.postgresql.url import parse
    except ModuleNotFoundError as error:
        raise _no_driver(shown, "psycopg", "postgresql") from error
    return PostgresDatabase(parse(url, shown), clock, migrate=migrate)


def _mysql(url: str, shown: str, clock: ServerClock, migrate: bool) -> Database:
    try:
        from durable.store.mysql.mysql import MysqlDatabase
        from durable.store.mysql.url import parse
    except ModuleNotFoundError as error:
        raise _no_driver(shown, "pymysql", "mysql") from error
    return MysqlDatabase(parse(url, shown), clock, migrate=migrate)


def _no_driver(shown: str, driver: str, extra: str) -> NotADatabaseError:
    return NotADatabaseError(
        f"{shown!r} needs the driver {driver}, which is not installed.",
        hint=f"Run: pip install 'durable-asyncio[{extra}]'",
    )


def _memory_name(rest: str, shown: str) -> str:
    name, _, query = rest.partition("?")
    if query:
        raise InvalidOptionError(f"{shown!r}: memory:// takes no options.")
    return name.strip("/")


def _parse_sqlite(rest: str, shown: str) -> tuple[Path | None, str]:
    location, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    value = options.pop("synchronous", "full")
    if options or (query and not parse_qsl(query, keep_blank_values=True)):
        name = _if_plain(next(iter(options), query))
        raise InvalidOptionError(
            f"{shown!r} has the option {name!r}, which SQLite does not have here.",
            hint="The only one is 'synchronous', which is 'full' or 'normal'.",
        )
    if value not in _SYNCHRONOUS:
        raise InvalidOptionError(
            f"{shown!r}: synchronous is {_if_plain(value)!r}.",
            hint="It is 'full' (survives power loss, the default) or 'normal' (may"
            " lose the last commits).",
        )
    synchronous = _SYNCHRONOUS[value]
    if location in ("", "/:memory:"):
        return None, synchronous
    if not location.startswith("/"):
        raise NotADatabaseError(
            f"{shown!r} lacks a slash: three stand before a relative path.", hint=_FORMS
        )
    path = location[1:]
    if not path or "\0" in path:
        raise NotADatabaseError(f"{shown!r} names no file.", hint=_FORMS)
    return Path(path), synchronous
