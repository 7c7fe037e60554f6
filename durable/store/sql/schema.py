"""Brings a database's schema to the one this release works with, or refuses.

The version table is compared first: it costs a millisecond, where importing alembic
costs a third of a second. A brand-new database gets its tables directly. Only an older
one goes through the migrations.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from durable.errors import SchemaRevisionError
from durable.store.sql.tables import (
    COLLATIONS,
    INNODB_INDEXES,
    METADATA,
    PARTIAL,
    SERVER_TABLES,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from durable.store.database import Session

HEAD: Final = "0015"
"""The newest revision in `migrations/versions`."""

COPYING: Final = "copying "
"""Begins the revision of half a copy, which every release refuses; then an instant."""

_OWN_NAMES: Final = "0003"  # since when every table begins with `durable_`

# Alembic keeps the migration that is going on in a global of its own.
_alembic_lock: Final = threading.Lock()
_CHATTY: Final = ("migration", "plugins")
_log: Final = logging.getLogger("durable.store")

VERSION_TABLE: Final = sa.Table(
    "durable_schema",
    # Not part of METADATA: alembic makes and keeps it.
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="durable_schema_pkc"),
    mariadb_engine="InnoDB",
    mysql_engine="InnoDB",
)


def prepare_schema(session: Session, name: str, *, migrate: bool) -> None:
    """Make the schema current.

    Args:
        session: a connection without a transaction.
        name: what messages call the database.
        migrate: whether anything may be changed.

    Raises:
        SchemaRevisionError: the schema is newer than this release, or it is older and
            `migrate` is false, or the database holds tables of the same names.
    """
    if is_current(session, name, migrate=migrate):
        return
    session.begin_migrating()
    began = time.monotonic()
    revision: str | None = None
    try:
        # Another process may have done it while this one waited for the lock.
        if not is_current(session, name, migrate=migrate):
            refuse_foreign(session, name)
            revision = read_revision(session)
            if revision is None or (not revision and keeps_tables(session.connection)):
                create_tables(session.connection)
            else:
                _run_migrations(session.connection)
        session.commit()
    except BaseException:
        session.rollback()
        raise
    if revision:
        seconds = time.monotonic() - began
        _log.info(
            "%s was upgraded from %s to %s in %.1f s.", name, revision, HEAD, seconds
        )


def prepare_for_copy(session: Session, name: str) -> None:
    """Make the tables if there are none; leave half a copy as it is.

    Raises:
        SchemaRevisionError: there are tables of another revision, or of somebody else.
    """
    revision = read_revision(session)
    if revision is None or not revision.startswith(COPYING):
        prepare_schema(session, name, migrate=revision is None)


def read_revision(session: Session) -> str | None:
    """Return the revision of the schema; "" before the first, None if there is none."""
    if not _has_table(session, VERSION_TABLE.name):
        return None
    return session.connection.execute(sa.select(VERSION_TABLE)).scalar() or ""


def keeps_tables(connection: sa.Connection) -> bool:
    """Whether a table stays that was made in a transaction which is rolled back.

    Whoever was killed while it made them has left the version table, which comes first
    and empty, and some of the others.
    """
    return connection.dialect.name in COLLATIONS


def _has_table(session: Session, table: str) -> bool:
    connection = session.connection
    return connection.dialect.has_table(connection, table)


def is_current(session: Session, name: str, *, migrate: bool) -> bool:
    """Tell whether the schema is current; change nothing.

    Raises:
        SchemaRevisionError: it is newer than this release, or it is older and
            `migrate` is false.
    """
    revision = read_revision(session)
    if revision == HEAD:
        return True
    if revision and revision.startswith(COPYING):
        raise SchemaRevisionError(
            f"{name} is half a copy: a 'durable db copy' into it was interrupted.",
            hint="Run the same command again, and it goes on.",
        )
    # Revisions are numbered; whatever is not an earlier number was made by a release
    # that this one knows nothing of.
    if revision and not (revision.isdecimal() and revision < HEAD):
        raise SchemaRevisionError(
            f"{name} is at schema revision {revision!r} and this release knows only"
            f" {HEAD!r} and older.",
            hint="Use the release of 'durable' that made it, or a newer one.",
        )
    if not migrate:
        raise no_schema(name)
    return False


def refuse_foreign(session: Session, name: str) -> None:
    """Return if the tables to be made are not there; within a transaction.

    Raises:
        SchemaRevisionError: the database holds tables of the same names.
    """
    revision = read_revision(session)
    if revision is not None and (
        revision >= _OWN_NAMES or keeps_tables(session.connection)
    ):
        return
    foreign = [t for t in METADATA.tables if _has_table(session, t)]
    if foreign:
        raise SchemaRevisionError(
            f"{name} has tables that this library did not make under names it needs:"
            f" {', '.join(foreign)}.",
            hint="Rename them, or give the library a database of its own.",
        )


def no_schema(name: str) -> SchemaRevisionError:
    """Build the error of a database that may not be given its tables."""
    return SchemaRevisionError(
        f"{name} has no current schema; this release needs revision {HEAD}, and"
        " the store was told not to migrate.",
        hint="Run 'durable db upgrade'.",
    )


def create_tables(connection: sa.Connection) -> None:
    """Make the tables, or those of them that are not there."""
    dialect = connection.dialect.name
    connection.execute(CreateTable(VERSION_TABLE, if_not_exists=True))
    for table in (*METADATA.sorted_tables, *SERVER_TABLES.get(dialect, ())):
        connection.execute(CreateTable(table, if_not_exists=True))
        if keeps_tables(connection):
            _add_indexes(connection, table)
            continue
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            connection.execute(CreateIndex(index))
    connection.execute(sa.insert(VERSION_TABLE), {"version_num": HEAD})


def _add_indexes(connection: sa.Connection, table: sa.Table) -> None:
    """Add those indexes that are not there, in one step."""
    wanted = {
        str(index.name): ", ".join(index.columns.keys())
        for index in table.indexes
        if index.name not in PARTIAL
    }
    own = INNODB_INDEXES.items()
    wanted |= {name: on for name, on in own if name.startswith(table.name)}
    for found in sa.inspect(connection).get_indexes(table.name):
        wanted.pop(str(found["name"]), None)
    added = ", ".join(f"ADD INDEX {name} ({on})" for name, on in sorted(wanted.items()))
    if added:
        connection.exec_driver_sql(f"ALTER TABLE {table.name} {added}")


def find_migrations() -> Path:
    """Return the folder of the migration scripts: the wheel's, else the checkout's."""
    package = Path(str(importlib.resources.files("durable")))
    # In this order: the other way a foreign `site-packages/migrations` could win.
    packed = package / "_migrations"
    return packed if packed.is_dir() else package.parent / "migrations"


def _run_migrations(connection: sa.Connection) -> None:
    with _alembic_lock, _silencing_alembic():
        # Only an older schema pays for this import: it takes a third of a second.
        from alembic import command
        from alembic.config import Config

        config = Config()
        # The config parser would take a percent sign for the start of a name.
        scripts = str(find_migrations()).replace("%", "%%")
        config.set_main_option("script_location", scripts)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


@contextlib.contextmanager
def _silencing_alembic() -> Generator[None]:
    """Keep to us what alembic tells of its steps, on this thread.

    Whoever runs a worker has not asked for them; an application may use alembic, too.
    """
    thread = threading.get_ident()

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or record.thread != thread

    loggers = [logging.getLogger(f"alembic.runtime.{name}") for name in _CHATTY]
    for logger in loggers:
        logger.addFilter(passes)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(passes)
