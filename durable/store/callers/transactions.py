"""Transactions of activities: what they write, and how they ended, in one commit."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.pool import NullPool

from durable.errors import (
    AttemptOverError,
    InvalidOptionError,
    ResourceError,
    TransactionEndedError,
    WrongDatabaseError,
)
from durable.store.activity_tasks import TaskState
from durable.store.callers.connections import SqlalchemyCaller
from durable.store.callers.joining import Gate, Joined
from durable.store.sql.tables import ACTIVITY_TASKS, OUTBOX

if TYPE_CHECKING:
    from sqlalchemy.ext import asyncio as sa_asyncio

    from durable.store.store import Store

_DRIVERS: Final = {
    # SQLAlchemy's name, for those that need no await and for those that do.
    "sqlite": ("sqlite", "sqlite+aiosqlite"),
    "postgresql": ("postgresql+psycopg", "postgresql+psycopg"),
    "mysql": ("mysql+pymysql", "mysql+aiomysql"),
}
_LOCK_SECONDS: Final = 30
_GIVEN: Final = "The connection that this engine's resource makes for a transaction"
_ENDINGS: Final = frozenset({"COMMIT", "ROLLBACK", "END", "ABORT", "BEGIN", "START"})
_COMMITTING: Final = frozenset({"CREATE", "ALTER", "DROP", "RENAME", "TRUNCATE"})


class Transaction:
    """One that an activity writes in, on a connection of its own.

    Attributes:
        given: the connection or session that its function gets.
        is_committing: the commit was sent, or may have been.
    """

    def __init__(self, connection: sa.Connection, table: str) -> None:
        """Begin it."""
        self.given: Any = connection
        self.is_committing = False
        self._connection = connection
        self._table = table
        self._transaction = connection.begin()
        event.listen(connection, "commit", self._check_commit)
        event.listen(connection, "before_cursor_execute", self._check_statement)

    def _check_commit(self, _: object) -> None:
        if not self.is_committing:
            raise TransactionEndedError(
                "The transaction of an activity was to be committed by its own code.",
                hint="Leave that out: it is committed with the activity's result when"
                " the function returns, and rolled back if it raises. begin_nested()"
                " makes savepoints.",
            )

    def _check_statement(
        self, connection: sa.Connection, _: object, sql: str, *__: object
    ) -> None:
        words = [*sql[:40].upper().replace(";", " ").split(), "", ""]
        word = words[0]
        if word in _ENDINGS and "TO" not in words:  # a savepoint
            raise TransactionEndedError(
                f"The transaction of an activity was to be ended by its own {word}.",
                hint="Leave that out: it is committed with the activity's result when"
                " the function returns, and rolled back if it raises. begin_nested()"
                " makes savepoints.",
            )
        is_mysql = connection.dialect.name in ("mysql", "mariadb")
        if is_mysql and word in _COMMITTING and words[1] != "TEMPORARY":
            raise TransactionEndedError(
                f"An activity that is a transaction was to run {word}, with which"
                " MariaDB and MySQL commit what it has written.",
                hint="Change tables elsewhere, or by an activity of another effect.",
            )

    def check(self) -> None:
        """Return if it is still the one that was begun.

        Raises:
            TransactionEndedError: the activity's own code has ended it.
        """
        if not self._transaction.is_active:
            raise TransactionEndedError(
                "The transaction of an activity was ended by its own code; what it has"
                " written is rolled back.",
                hint="Raise instead, or roll back to a savepoint of begin_nested().",
            )

    def finish(self, attempt: tuple[str, int, int, str], progress: str) -> None:
        """Commit it with how the attempt has ended.

        Args:
            attempt: its run, event and number, and the worker that has claimed it.
            progress: what its row says from then on.

        Raises:
            AttemptOverError: the attempt is another worker's, or over; nothing of it
                may be kept.
            TransactionEndedError: as `check`.
            Exception: the driver's; if `is_committing`, nobody knows about what.
        """
        session = self.given
        session = getattr(session, "sync_session", session)
        if isinstance(session, orm.Session):
            session.flush()
        self.check()
        run_id, event_id, number, worker_id = attempt
        row = {"run_id": run_id, "event_id": event_id, "number": number}
        found = self._connection.execute(
            sa.text(
                f"UPDATE {self._table} SET progress = :progress"  # noqa: S608 - a constant name
                " WHERE run_id = :run_id AND scheduled_event_id = :event_id"
                " AND attempt = :number AND worker_id = :worker_id"
                " AND state = :claimed"
            ),
            {
                **row,
                "progress": progress,
                "worker_id": worker_id,
                "claimed": TaskState.CLAIMED.value,
            },
        )
        if found.rowcount != 1:
            raise AttemptOverError(
                f"Attempt {number} of activity {event_id} of run {run_id!r} is over:"
                " what it has written is rolled back."
            )
        self.is_committing = True
        self._transaction.commit()


class Transactions:
    """Begins them in an engine's own database.

    Connections are made for one transaction each, unless the engine was given what
    makes them.
    """

    def __init__(self, store: Store) -> None:
        """Connect to nothing yet."""
        self._store = store
        self._gate = Gate(store)
        self._engine: sa.Engine | None = None
        self._async_engine: sa_asyncio.AsyncEngine | None = None

    @contextlib.contextmanager
    def begin(self, kind: type[Any], source: object) -> Generator[Transaction]:
        """Begin one in this thread; what is not committed is rolled back.

        Args:
            kind: the class of connection or session that is wanted.
            source: an `Engine` or `sessionmaker` that the user has given; or None.

        Raises:
            WrongDatabaseError: there is no such database, or not for anybody else; or
                the source leads to another one.
            ResourceError: that is no source.
            InvalidOptionError: what it needs is not installed.
            Exception: the driver's.
        """
        engine, make = self._find_source(source, kind)
        with engine.connect() as connection:
            self._check(connection, source)
            transaction = Transaction(connection, self._table())
            if make is None:
                yield transaction
                return
            with make(bind=connection, join_transaction_mode=_MODE) as session:
                transaction.given = session
                yield transaction

    def _find_source(self, source: object, kind: type[Any]) -> tuple[sa.Engine, Any]:
        make = None if issubclass(kind, sa.Connection) else kind
        if source is None:
            if self._engine is None:
                self._engine = _make_engine(self._store)
            return self._engine, make
        if isinstance(source, sa.Engine):
            return source, make
        maker: Any = source
        if make is not None and issubclass(type(maker), orm.sessionmaker):
            bind = maker.kw.get("bind")
            if isinstance(bind, sa.Engine):
                return bind, maker
        raise _no_source(source, kind)

    @contextlib.asynccontextmanager
    async def begin_async(
        self, kind: type[Any], source: object
    ) -> AsyncGenerator[Transaction]:
        """Begin one for code that awaits; as `begin`."""
        from sqlalchemy.ext import asyncio as sa_asyncio

        _need_greenlet()
        make: Any = None if issubclass(kind, sa_asyncio.AsyncConnection) else kind
        engine: Any = source
        if source is None:
            if self._async_engine is None:
                self._async_engine = _make_async_engine(self._store)
            engine = self._async_engine
        elif make is not None and issubclass(
            type(source), sa_asyncio.async_sessionmaker
        ):
            engine, make = engine.kw.get("bind"), engine
        if not isinstance(engine, sa_asyncio.AsyncEngine):
            raise _no_source(source, kind)
        await self._gate.find_async()
        async with engine.connect() as connection:
            if source is not None:
                await connection.run_sync(self._check, source)
            transaction = await connection.run_sync(Transaction, self._table())
            if make is None:
                transaction.given = connection
                yield transaction
                return
            async with make(bind=connection, join_transaction_mode=_MODE) as session:
                transaction.given = session
                yield transaction

    def _check(self, connection: sa.Connection, source: object) -> None:
        if source is not None:
            Joined(self._gate, SqlalchemyCaller(connection), _GIVEN).check()
            connection.rollback()  # what it read is no part of the transaction

    def _table(self) -> str:
        """The table of tasks, as statements name it."""
        return self._gate.find().table.replace(OUTBOX.name, ACTIVITY_TASKS.name)


# Then whatever a session does to its transaction is done to this one, and is seen.
_MODE: Final = "control_fully"


def _no_source(source: object, kind: type[Any]) -> ResourceError:
    return ResourceError(
        f"The resource {kind.__name__} of an activity of effect 'transaction' is a"
        f" {type(source).__name__}, which makes none.",
        hint="Give an Engine of SQLAlchemy (AsyncEngine for what is awaited), or a"
        " sessionmaker that is bound to one; or leave it out.",
    )


def _place_of(store: Store) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The kind of a store's database, the parts of its URL, and what drivers take.

    Raises:
        WrongDatabaseError: nobody else can be connected to it.
    """
    database: Any = getattr(store, "database", None)
    url = getattr(database, "url", None)
    name = str(getattr(database, "name", ""))
    if url is not None:
        where = {
            "host": url.host,
            "port": url.port,
            "database": url.database,
            "username": url.user,
            "password": url.password,
        }
        kind = "postgresql" if name.lower().startswith("postgres") else "mysql"
        options: dict[str, Any] = dict(url.options)
        if url.schema is not None:
            options["options"] = f"-csearch_path={url.schema}"
        if kind == "mysql":
            from durable.store.mysql.url import driver_options

            named = driver_options(url)
            options = {key: named[key] for key in url.options}
            options["charset"] = "utf8mb4"
        return kind, where, options
    path = name.removeprefix("sqlite:///")
    if not name.startswith("sqlite:///"):
        raise WrongDatabaseError(
            "The runs of this engine are in memory, where no transaction of an activity"
            " can reach.",
            hint="Open the engine on a database, such as sqlite:///orders.db.",
        )
    return "sqlite", {"database": str(Path(path))}, {"timeout": _LOCK_SECONDS}


def _make_engine(store: Store) -> sa.Engine:
    kind, where, options = _place_of(store)
    url = sa.URL.create(_DRIVERS[kind][0], **where)
    engine = sa.create_engine(url, poolclass=NullPool, connect_args=options)
    if kind == "sqlite":
        _lock_at_begin(engine)
    return engine


def _make_async_engine(store: Store) -> sa_asyncio.AsyncEngine:
    from sqlalchemy.ext import asyncio as sa_asyncio

    kind, where, options = _place_of(store)
    driver = _DRIVERS[kind][1]
    url = sa.URL.create(driver, **where)
    try:
        engine = sa_asyncio.create_async_engine(
            url, poolclass=NullPool, connect_args=options
        )
    except ModuleNotFoundError as error:
        raise InvalidOptionError(
            f"An async activity of effect 'transaction' needs the driver"
            f" {driver.partition('+')[2]!r}, which is not installed.",
            hint="Install it, make the activity a plain function, or give an"
            " AsyncEngine of another driver as the resource.",
        ) from error
    if kind == "sqlite":
        _lock_at_begin(engine.sync_engine)
    return engine


def _need_greenlet() -> None:
    """See that SQLAlchemy can await: it is told only by a call that has begun."""
    if importlib.util.find_spec("greenlet") is None:
        raise InvalidOptionError(
            "An async activity of effect 'transaction' needs 'greenlet', which is not"
            " installed.",
            hint="Install it (pip install greenlet), or make the activity a plain"
            " function.",
        )


def _lock_at_begin(engine: sa.Engine) -> None:
    """Begin transactions as writing ones.

    SQLite refuses whoever has read first if somebody else has written since.
    """

    def connected(raw: Any, _: object) -> None:
        raw.isolation_level = None
        cursor = raw.cursor()
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
